#!/usr/bin/env bash
# Prepares everything that building and testing need; does nothing where that is there already.
#
#   setup.sh [--torch VERSION] [--lint]
#
#   --torch VERSION  switch .venv to this torch and the torchvision that belongs to it, or the one
#                    before where there is none yet, and drop a build/ made with another one.
#                    Without it the torch that is there stays; where there is none, 2.11.0 is
#                    installed
#   --lint           also the tools that lint.sh and format.sh use, and ccache for .ci/run
#
# With the environment variable TORCHBN_TORCH=VERSION, this script and the others leave .venv and
# build/ alone and work with that torch in .venv-VERSION and build-VERSION.
#
# System packages (compiler, GoogleTest, Python's venv) come from apt where root or sudo is available;
# elsewhere the script says what to install. Python packages go to .venv. $PYTHON chooses the
# interpreter that .venv is made with, $CXX the compiler; pip's own variables (PIP_INDEX_URL,
# PIP_FIND_LINKS, PIP_NO_INDEX, ...) say where packages come from.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

default_torch=2.11.0
is_version() {
  [[ $1 =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]
}
torch=${TORCHBN_TORCH-}
[[ -z $torch ]] || is_version "$torch" || die "TORCHBN_TORCH is a version like $default_torch, not '$torch'"
lint=
while (($#)); do
  case $1 in
    --torch)
      [[ -z ${TORCHBN_TORCH-} ]] || die "--torch is for .venv, and TORCHBN_TORCH chooses another"
      torch=${2-}
      is_version "$torch" || die "--torch takes a version like $default_torch"
      shift
      ;;
    --lint) lint=1 ;;
    -h | --help) help && exit ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  shift
done

# --- System packages ---------------------------------------------------------------------------

have() {
  command -v "$1" >/dev/null
}

compiler_works() {
  "${CXX:-c++}" -std=c++20 -fsyntax-only -x c++ - >/dev/null 2>&1 <<<'#include <concepts>
#include <span>
int main() {}'
}

gtest_is_there() {
  [[ -n $(find /usr/include /usr/local/include "${CONDA_PREFIX:-/nonexistent}/include" -maxdepth 2 \
    -path '*/gtest/gtest.h' -print -quit 2>/dev/null) ]]
}

base_python=${PYTHON:-python3}
venv_works() {
  [[ -x $venv/bin/python ]] && "$venv/bin/python" -c 'import pip' 2>/dev/null
}
python_works() {
  venv_works || "$base_python" -c 'import ensurepip, sys, venv; assert sys.version_info >= (3, 10)' 2>/dev/null
}

# Names of Debian packages, filled by look().
missing=()
look() {
  missing=()
  compiler_works || missing+=(g++)
  python_works || missing+=(python3 python3-venv)
  gtest_is_there || missing+=(libgtest-dev)
  if [[ $lint ]]; then
    have clang-format || missing+=(clang-format)
    have clang-tidy || missing+=(clang-tidy)
    have shellcheck || missing+=(shellcheck)
    have ccache || missing+=(ccache)
  fi
}

apt_install() {
  local as_root=()
  have apt-get || return 1
  if ((EUID != 0)); then
    # Asks for a password only where someone can type one.
    if have sudo && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
      as_root=(sudo)
    else
      return 1
    fi
  fi
  say "Installing system packages: $*"
  "${as_root[@]}" apt-get update || warn "apt-get update failed; trying with the package lists that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

look
if ((${#missing[@]})); then
  apt_install "${missing[@]}" || true
  look
fi
if ((${#missing[@]})); then
  echo "Missing on this system (names of Debian and Ubuntu packages): ${missing[*]}" >&2
  echo "Install them, for example with: sudo apt-get install ${missing[*]}" >&2
  compiler_works || die "no C++20 compiler: ${CXX:-c++} is missing or too old (g++ 11 or newer is needed; \$CXX chooses another)"
  python_works || die "no Python 3.10 or newer with venv: tried $base_python (\$PYTHON chooses another)"
  gtest_is_there || warn "without GoogleTest the C++ tests are not built"
fi

# --- Python packages ---------------------------------------------------------------------------

if ! venv_works; then
  say "Creating ${venv##*/} with $("$base_python" --version)"
  "$base_python" -m venv --clear "$venv"
fi

requirements=$root/scripts/requirements.txt

# Prints the installed version without the part after "+", or nothing.
installed() {
  "$venv/bin/python" -c 'import importlib.metadata as m, sys
try: print(m.version(sys.argv[1]).split("+")[0])
except m.PackageNotFoundError: pass' "$1"
}

requirements_are_met() {
  "$venv/bin/python" - "$requirements" <<'PYTHON' 2>/dev/null
import importlib.metadata, sys
from packaging.requirements import Requirement  # comes with pytest

for line in open(sys.argv[1]):
    line = line.split("#")[0].strip()
    if line:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate():
            if not wanted.specifier.contains(importlib.metadata.version(wanted.name)):
                sys.exit(1)
PYTHON
}

# torchvision_for VERSION [BEFORE]: the minor version that goes with a torch, or one BEFORE it. torch
# 2.N goes with torchvision 0.(N + 15), which names the very patch version that it needs.
torchvision_for() {
  local minor=${1#2.}
  echo "0.$((${minor%%.*} + 15 - ${2-0}))"
}

pip_install() {
  say "Installing $*"
  local quiet=()
  [[ -t 1 ]] || quiet=(--progress-bar off)
  "$venv/bin/python" -m pip install --disable-pip-version-check "${quiet[@]}" "$@"
}

no_package() {
  die "pip could not install $1. It needs a network, or a package index or folder named by" \
    "PIP_INDEX_URL or PIP_FIND_LINKS; its own words are above."
}

if ! requirements_are_met; then
  pip_install -r "$requirements" || no_package "what scripts/requirements.txt lists"
fi

# Once another torch is there, and not before: it may not be to be had.
drop_build() {
  if [[ $wanted != "$present" && -e $build ]]; then
    say "Dropping ${build##*/}/, which was made with another torch"
    rm -rf "$build"
  fi
}

present=$(installed torch)
wanted=${torch:-${present:-$default_torch}}
vision=$(torchvision_for "$wanted")
if [[ $wanted != "$present" || $(installed torchvision) != "$vision".* ]]; then
  # Asked for again after a day.
  if [[ $wanted != "$present" || -z $(find "$venv/.no-torchvision" -mtime -1 2>/dev/null) ]]; then
    if pip_install "torch==$wanted" "torchvision==$vision.*"; then
      drop_build
      rm -f "$venv/.no-torchvision"
    else
      # A torchvision may appear some days after its torch. Until then the one before is good enough,
      # if it can be imported, although it asks for another torch.
      pip_install "torch==$wanted" || no_package "torch $wanted"
      drop_build
      before=$(torchvision_for "$wanted" 1)
      if pip_install --no-deps "torchvision==$before.*" && "$venv/bin/python" -c 'import torchvision'; then
        warn "no torchvision $vision for torch $wanted yet: torchvision $before takes its place"
      else
        "$venv/bin/python" -m pip uninstall --yes --quiet torchvision
        warn "no torchvision for torch $wanted: what needs torchvision will be skipped"
      fi
      touch "$venv/.no-torchvision"
    fi
  fi
fi

# CMake 3.25 and Ninja, where the system has none: they need no root.
cmake_is_new() {
  local version
  version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version \([0-9.]*\).*/\1/p')
  [[ -n $version && $(printf '3.25\n%s\n' "$version" | sort -V | head -n1) == 3.25 ]]
}
cmake_is_new || pip_install 'cmake==3.31.6' || no_package cmake
ninja --version >/dev/null 2>&1 || pip_install 'ninja==1.11.1.4' || no_package ninja

say "Ready: torch $wanted, $("${CXX:-c++}" --version | head -n1), $(cmake --version | head -n1)"
