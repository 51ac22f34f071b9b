#!/usr/bin/env bash
# Checks what an installed package contains: inspect.sh PREFIX FORBIDDEN_PATH...
# where no file of the CMake package may mention one of the paths.
set -euo pipefail

prefix=$1
shift
library=$prefix/lib/libtorchbn.so
failures=0

fail() {
  echo "FAIL: $*" >&2
  failures=$((failures + 1))
}

dynamic=$(readelf --dynamic --wide "$library")
needed=$(sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' <<<"$dynamic")
echo "NEEDED: ${needed//$'\n'/ }"
if grep -E 'python' <<<"$needed"; then
  fail "the library needs Python"
fi
if (($(grep -c gomp <<<"$needed") > 1)) || grep -E 'libomp|libiomp' <<<"$needed"; then
  fail "another OpenMP runtime than torch's"
fi
grep -qx 'libtorch_cpu.so' <<<"$needed" || fail "libtorch_cpu.so is not needed"

runpath=$(sed -n 's/.*(R.*PATH).*\[\(.*\)\]/\1/p' <<<"$dynamic")
echo "RUNPATH: $runpath"
# shellcheck disable=SC2016  # $ORIGIN is the loader's word
case $runpath in
  '$ORIGIN:$ORIGIN/../../torch/lib' | '$ORIGIN:$ORIGIN/../../torch/lib:/'*) ;;
  *) fail "unexpected RUNPATH" ;;
esac

# T, D, B, R: what only this library defines. Weak and unique symbols (W, V, u) are the instances of
# std and c10 templates that every C++ library has.
exported=$(nm --dynamic --defined-only --demangle "$library" | awk '$2 ~ /^[TDBR]$/' | cut -d' ' -f3-)
echo "exported: $exported"
if grep -vE '^((typeinfo|typeinfo name|vtable) for )?torchbn::' <<<"$exported"; then
  fail "the library exports something outside of torchbn::"
fi
grep -q '^torchbn::batch_norm(' <<<"$exported" || fail "torchbn::batch_norm is not exported"

[[ -f $prefix/lib/libtorchbn.a ]] || fail "no lib/libtorchbn.a"

headers=$(cd "$prefix/include" && find . -name '*.h' | sort)
grep -qx './torchbn/batch_norm.h' <<<"$headers" || fail "no torchbn/batch_norm.h"
if grep -v '^\./torchbn/' <<<"$headers"; then
  fail "a header outside of include/torchbn"
fi

for path in "$@"; do
  if grep -rnF -- "$path" "$prefix/lib/cmake"; then
    fail "the CMake package mentions an absolute path"
  fi
done

if ((failures)); then
  exit 1
fi
echo "the package is as intended"
