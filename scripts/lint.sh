#!/usr/bin/env bash
# Checks the sources without running them, one kind after the other; stops at the first that fails:
#
#   Format      format.sh --check, which is clang-format, of C++ and CUDA
#   Layers      check_layers.sh: which file may include which
#   Shell       bash -n and, where it is there, shellcheck
#   Python      the syntax
#   clang-tidy  the library's C++, as .clang-tidy says; configures build/ where it is not yet
#
#   lint.sh [--no-tidy]
#
#   --no-tidy  leave out clang-tidy, the slow part (one to two minutes)
#
# Runs setup.sh --lint first, which installs what building needs and, by apt where root or sudo is
# available, what is missing of clang-format, clang-tidy and shellcheck.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tidy=1
case ${1-} in
  -h | --help) help && exit ;;
  --no-tidy) tidy= ;;
  '') ;;
  *) die "unknown argument $1; see --help" ;;
esac

"$root/scripts/setup.sh" --lint
cd "$root"

say "Format"
scripts/format.sh --check

say "Layers"
scripts/check_layers.sh

say "Shell"
mapfile -t shell < <(find scripts test .ci -name '*.sh' -o -path '.ci/run')
for script in "${shell[@]}"; do
  bash -n "$script"
done
if command -v shellcheck >/dev/null; then
  shellcheck --external-sources --source-path=scripts "${shell[@]}"
else
  warn "shellcheck is missing; only the syntax was checked"
fi

say "Python"
python3 - <<'PYTHON'
import pathlib

for folder in ("scripts", "test", "examples", "python"):
    for path in pathlib.Path(folder).rglob("*.py"):
        compile(path.read_text(), str(path), "exec")
PYTHON

if [[ $tidy ]]; then
  command -v clang-tidy >/dev/null || die "clang-tidy is missing: scripts/setup.sh --lint"
  say "clang-tidy"
  [[ -f $build/compile_commands.json ]] || scripts/build.sh --configure-only
  # The library's own C++ files, several at a time; headers are seen through them. Not the vector
  # code, which is written in gcc's vector types; nor the CUDA glue where it is not built.
  mapfile -t files < <(find csrc -name '*.cpp' -not -path 'csrc/cpu/vec/*' | sort)
  compiled=()
  for file in "${files[@]}"; do
    if grep -qF "/$file\"" "$build/compile_commands.json"; then compiled+=("$file"); fi
  done
  printf '%s\0' "${compiled[@]}" |
    xargs -0 -n 1 -P "$(nproc)" clang-tidy --quiet --warnings-as-errors='*' \
      --extra-arg=-Wno-unknown-warning-option -p "$build" 2> >(grep -v 'warnings\? .*generated' >&2)
fi
say "Nothing to complain about"
