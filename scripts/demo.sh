#!/usr/bin/env bash
# Shows the library at work from Python, TorchScript and C++, after setup and build.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in
  -h | --help) help && exit ;;
esac

"$root/scripts/build.sh"
