#!/usr/bin/env bash
# Shows how far the results of a training step are from float64, torchbn's beside ATen's, after setup
# and build.
#
#   accuracy.sh [ARGUMENT...]
#
# The arguments go to scripts/bench/accuracy.py; accuracy.sh --help shows its options as well.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in -h | --help) help ;; *) "$root/scripts/build.sh" ;; esac

[[ -x $venv/bin/python ]] || die "there is no .venv: scripts/setup.sh"
TORCHBN_LIBRARY=${TORCHBN_LIBRARY:-$build/libtorchbn.so} exec "$venv/bin/python" "$root/scripts/bench/accuracy.py" "$@"
