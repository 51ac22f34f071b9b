#!/usr/bin/env bash
# Measures the operators against torch's own, eager and compiled, on a GPU against cuDNN as well, and
# against a plain copy, after setup and build. Says at the start how long it will take.
#
#   bench.sh [ARGUMENT...]
#
# The arguments go to scripts/bench/bench.py; bench.sh --help shows its options as well,
# once there is a .venv.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

measure bench.py "$@"
