# Sourced by the other scripts: where the repository is, and how they speak.
# shellcheck shell=bash disable=SC2034  # not every script uses every variable

unset CDPATH  # with which cd says where it has gone
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Another torch lives beside the first: under TORCHBN_TORCH=VERSION every script works in
# .venv-VERSION and build-VERSION instead of .venv and build.
venv=$root/.venv${TORCHBN_TORCH:+-$TORCHBN_TORCH}
build=$root/build${TORCHBN_TORCH:+-$TORCHBN_TORCH}
# Where the system's cmake or ninja is missing or too old, setup.sh puts one there.
PATH=$venv/bin:$PATH

say() {
  if [[ -t 1 ]]; then printf '\033[1m==> %s\033[0m\n' "$*"; else printf '==> %s\n' "$*"; fi
}

warn() {
  printf 'warning: %s\n' "$*" >&2
}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The comment at the head of the script is its help.
help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# Runs a program of scripts/bench/ with the arguments, after setup and build. If they ask for help,
# that is the script's, and then, if there is a Python that can say it, the program's.
measure() { # PROGRAM ARGUMENT...
  local program=$root/scripts/bench/$1 argument
  shift
  for argument in "$@"; do
    case $argument in -h | --help)
      help
      [[ -x $venv/bin/python ]] || exit 0
      exec "$venv/bin/python" "$program" --help
      ;;
    esac
  done
  "$root/scripts/build.sh"
  TORCHBN_LIBRARY=${TORCHBN_LIBRARY:-$build/libtorchbn.so} exec "$venv/bin/python" "$program" "$@"
}
