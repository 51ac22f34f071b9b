#!/usr/bin/env bash
# Measures the operators against torch's own, eager and compiled, on a GPU against cuDNN as well, and
# against a plain copy, after setup and build. Says at the start how long it will take.
#
#   bench.sh [ARGUMENT...]
#
# The arguments go to scripts/bench/bench.py; bench.sh --help shows its options as well.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in -h | --help) help ;; *) "$root/scripts/build.sh" ;; esac

[[ -x $venv/bin/python ]] || die "there is no .venv: scripts/setup.sh"
TORCHBN_LIBRARY=${TORCHBN_LIBRARY:-$build/libtorchbn.so} exec "$venv/bin/python" "$root/scripts/bench/bench.py" "$@"
