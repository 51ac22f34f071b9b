#!/usr/bin/env bash
# Shows how far the results of a training step are from float64, torchbn's beside ATen's, after setup
# and build.
#
#   accuracy.sh [ARGUMENT...]
#
# The arguments go to scripts/bench/accuracy.py; accuracy.sh --help shows its options as well,
# once there is a .venv.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

measure accuracy.py "$@"
