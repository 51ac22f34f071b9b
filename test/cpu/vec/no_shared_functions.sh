#!/usr/bin/env bash
# Checks that object files for several instruction sets share no function: no_shared_functions.sh
# OBJECT... The linker would keep one for all of them, perhaps that for a machine which is not there.
set -euo pipefail

shared=$(nm --defined-only --demangle --print-file-name "$@" | grep -E ' [WVu] ') || exit 0
echo "weak symbols in vector code:" >&2
echo "$shared" >&2
exit 1
