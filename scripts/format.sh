#!/usr/bin/env bash
# Formats the C++ and CUDA sources in place with clang-format.
#
#   format.sh [--check]
#
#   --check  change nothing; fail and show where the format differs

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mode=(-i)
case ${1-} in
  -h | --help) help && exit ;;
  --check) mode=(--dry-run --Werror) ;;
  '') ;;
  *) die "unknown argument $1; see --help" ;;
esac
command -v clang-format >/dev/null || die "clang-format is missing: scripts/setup.sh --lint"

cd "$root"
find csrc include test examples \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 clang-format "${mode[@]}"
