#!/usr/bin/env bash
# Builds the library and the test programs into build/, after setup.sh; only what has changed. After
# that, `import torchbn` in .venv loads build/libtorchbn.so.
#
#   build.sh [--configure-only] [CMAKE_ARGUMENT...]
#
# For example: build.sh -DTORCHBN_CUDA=OFF. CMake keeps what it was told for the next time. The
# options are listed at the head of CMakeLists.txt; besides them there are
#
#   -DTORCHBN_PYTHON=FILE            the Python whose torch is used (default: that of .venv)
#   -DCMAKE_CUDA_ARCHITECTURES=LIST  the GPUs to build for (default: 80-real;90a-real;100-real;120)

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

configure_only=
case ${1-} in
  -h | --help) help && exit ;;
  --configure-only)
    configure_only=1
    shift
    ;;
esac

"$root/scripts/setup.sh"

say "Configuring"
python=()
[[ -f $build/CMakeCache.txt ]] || python=(-DTORCHBN_PYTHON="$venv/bin/python")
cmake -S "$root" -B "$build" -G Ninja "${python[@]}" "$@"
[[ $configure_only ]] && exit

say "Building"
cmake --build "$build"

# Links, laid out as an installed package is: what changes here changes there.
package=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchbn
mkdir -p "$package/lib"
ln -sf "$root"/python/torchbn/*.py "$package/"
ln -sf "$build/libtorchbn.so" "$package/lib/"
say "Built ${build##*/}/libtorchbn.so"
