#!/usr/bin/env bash
# Checks that the includes in csrc/ point one way only:
#
#   core <- kernels (cpu, cuda) <- checks, calls <- operators, library <- autograd
#
# The rules are the calls at the end of this script; each names what a set of files may not include.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in
  -h | --help) help && exit ;;
  '') ;;
  *) die "unknown argument $1; see --help" ;;
esac

cd "$root"
failures=0

# An include is written as "path" or <path>; rules match the path with its first delimiter.
torch='[<"](torch|ATen|c10|caffe2|torchbn)/'
anything_of_ours_but() { # PREFIX_OR_NAME...: a pattern for every quoted include that is none of them
  local IFS='|'
  echo "\"(?!$*)"
}

# forbid REASON PATTERN FILE...: no file, and there must be some, may have an include that matches
# PATTERN.
forbid() {
  local reason=$1 pattern=$2 files=() file
  shift 2
  for file in "$@"; do
    [[ -f $file ]] && files+=("$file")
  done
  ((${#files[@]})) || die "there are no files for the rule: $reason"
  if grep --with-filename --line-number --perl-regexp "^\s*#\s*include\s*(?:$pattern)" "${files[@]}"; then
    echo "^ $reason" >&2
    failures=$((failures + 1))
  fi
}

# The sources below a folder with one of the given endings.
sources() { # FOLDER ENDING...
  local folder=$1 ending
  shift
  [[ -d $folder ]] || return 0
  for ending in "$@"; do
    find "$folder" -name "*.$ending"
  done | sort
}

mapfile -t all < <(sources csrc h cpp cu cuh)
mapfile -t core < <(sources csrc/core h cpp cuh)
mapfile -t cpu < <(sources csrc/cpu h cpp)
mapfile -t cpu_vector < <(sources csrc/cpu/vec h cpp)
mapfile -t cuda < <(sources csrc/cuda h cpp cu cuh)
mapfile -t cuda_kernels < <(sources csrc/cuda h cu cuh)
mapfile -t autograd < <(sources csrc/autograd h cpp)
mapfile -t meta < <(sources csrc/meta h cpp)
mapfile -t shared < <(find csrc -maxdepth 1 -name '*.h' -o -maxdepth 1 -name '*.cpp' | sort)
mapfile -t public < <(sources include h)

glue='checks\.h"|calls\.h"|operators\.h"|optional_tensor\.h"|outputs\.h"'

forbid "core knows no framework" "$torch" "${core[@]}"
forbid "core includes core only" "$(anything_of_ours_but core/)" "${core[@]}"
forbid "CUDA kernels know no framework" "$torch" "${cuda_kernels[@]}"
forbid "CUDA kernels include core and cuda only" "$(anything_of_ours_but core/ cuda/)" "${cuda_kernels[@]}"
forbid "vector code knows no framework" "$torch" "${cpu_vector[@]}"
forbid "vector code includes core and cpu/vec only" "$(anything_of_ours_but core/ cpu/vec/)" "${cpu_vector[@]}"
forbid "the CPU backend sees no other backend" "$(anything_of_ours_but core/ cpu/ "$glue")" "${cpu[@]}"
forbid "the CUDA backend sees no other backend" "$(anything_of_ours_but core/ cuda/ "$glue")" "${cuda[@]}"
forbid "the Meta backend sees no other backend" "$(anything_of_ours_but meta/ "$glue")" "${meta[@]}"
forbid "autograd sees the operators and their checks only" \
  "$(anything_of_ours_but autograd/ 'operators\.h"' 'checks\.h"' 'optional_tensor\.h"')" "${autograd[@]}"
forbid "shared files see no backend" '"(cpu|cuda|meta|autograd)/' "${shared[@]}"
forbid "public headers see torch and each other only" '"|<(?!(torchbn|torch|ATen|c10)/)\w+/' "${public[@]}"
forbid "sources are compiled, not included" '[<"][^>"]*\.(cpp|cu)[>"]' "${all[@]}"
forbid "headers are named from the root of csrc" '"\.\.?/' "${all[@]}"

((failures == 0)) || die "$failures of the layers' rules are broken"
