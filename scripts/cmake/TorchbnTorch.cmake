# Torch as an imported target, found by asking Python where it is (torch itself is not imported).
# torchbn's own build and the installed package both use this file, so that no absolute path is
# exported. Compared with find_package(Torch) it needs no CUDA toolkit and sets no global flags.
#
#   torchbn_locate_torch()          sets TORCHBN_TORCH_ROOT_FOUND, TORCHBN_TORCH_VERSION and
#                                   TORCHBN_TORCH_HAS_CUDA, or TORCHBN_TORCH_ERROR (one sentence)
#   torchbn_define_torch_targets()  torchbn::torch and, where torch has CUDA, torchbn::torch_cuda
#
# Who wants another torch than that of the Python in PATH sets one of
#   TORCHBN_TORCH_ROOT   the folder that holds torch's include/ and lib/
#   Torch_DIR            the folder of TorchConfig.cmake, as for find_package(Torch)
#   TORCHBN_PYTHON       the Python interpreter to ask

include_guard(DIRECTORY)

function(_torchbn_ask_python out_root out_error)
  set(${out_root} "" PARENT_SCOPE)
  set(${out_error} "" PARENT_SCOPE)
  set(python "${TORCHBN_PYTHON}")
  foreach(candidate IN ITEMS "${Python3_EXECUTABLE}" "${Python_EXECUTABLE}")
    if(NOT python AND candidate)
      set(python "${candidate}")
    endif()
  endforeach()
  if(NOT python)
    find_program(TORCHBN_PYTHON NAMES python3 python DOC "The Python interpreter that has torch")
    set(python "${TORCHBN_PYTHON}")
  endif()
  if(NOT python)
    set(${out_error} "torchbn needs torch, and there is no Python to ask for it: set TORCHBN_PYTHON \
or TORCHBN_TORCH_ROOT." PARENT_SCOPE)
    return()
  endif()
  # The working directory is kept out of the search: a folder named torch there is not the package.
  set(program "import importlib.util, os, sys
sys.path = [path for path in sys.path if path]
spec = importlib.util.find_spec('torch')
print(os.path.dirname(spec.origin) if spec and spec.origin else '')")
  execute_process(
    COMMAND "${python}" -c "${program}"
    OUTPUT_VARIABLE root
    OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_QUIET)
  if(NOT root)
    set(${out_error} "torchbn needs torch, and ${python} has none: install it there, or set \
TORCHBN_PYTHON or TORCHBN_TORCH_ROOT." PARENT_SCOPE)
    return()
  endif()
  set(${out_root} "${root}" PARENT_SCOPE)
endfunction()

function(torchbn_locate_torch)
  set(error "")
  if(TORCHBN_TORCH_ROOT)
    set(root "${TORCHBN_TORCH_ROOT}")
  elseif(TORCH_INSTALL_PREFIX) # find_package(Torch) came first
    set(root "${TORCH_INSTALL_PREFIX}")
  elseif(Torch_DIR)
    get_filename_component(root "${Torch_DIR}/../../.." ABSOLUTE)
  else()
    _torchbn_ask_python(root error)
  endif()

  set(version "")
  set(has_cuda FALSE)
  if(NOT error)
    foreach(header IN ITEMS torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
      if(NOT version AND EXISTS "${root}/include/${header}")
        file(STRINGS "${root}/include/${header}" lines
          REGEX "^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
        list(TRANSFORM lines REPLACE "^.* ([0-9]+).*$" "\\1")
        list(JOIN lines "." version)
      endif()
    endforeach()
    if(NOT version)
      set(error "torchbn found no torch headers in ${root}: set TORCHBN_PYTHON or TORCHBN_TORCH_ROOT.")
    elseif(NOT EXISTS "${root}/lib/libtorch_cpu.so")
      set(error "torchbn found no libtorch_cpu.so in ${root}/lib.")
    elseif(EXISTS "${root}/lib/libtorch_cuda.so")
      set(has_cuda TRUE)
    endif()
  endif()

  set(TORCHBN_TORCH_ROOT_FOUND "${root}" PARENT_SCOPE)
  set(TORCHBN_TORCH_VERSION "${version}" PARENT_SCOPE)
  set(TORCHBN_TORCH_HAS_CUDA "${has_cuda}" PARENT_SCOPE)
  set(TORCHBN_TORCH_ERROR "${error}" PARENT_SCOPE)
endfunction()

function(torchbn_define_torch_targets)
  set(root "${TORCHBN_TORCH_ROOT_FOUND}")
  if(NOT TARGET torchbn::torch)
    add_library(torchbn::torch INTERFACE IMPORTED GLOBAL)
    set_target_properties(torchbn::torch PROPERTIES
      INTERFACE_COMPILE_FEATURES cxx_std_20
      INTERFACE_INCLUDE_DIRECTORIES "${root}/include;${root}/include/torch/csrc/api/include"
      INTERFACE_LINK_LIBRARIES "${root}/lib/libtorch_cpu.so;${root}/lib/libc10.so")
  endif()
  if(TORCHBN_TORCH_HAS_CUDA AND NOT TARGET torchbn::torch_cuda)
    # CUDA works only when libtorch_cuda.so is loaded, although no symbol of it is referred to; and
    # a program must load both itself, because torchbn's own search path need not lead to them.
    add_library(torchbn::torch_cuda INTERFACE IMPORTED GLOBAL)
    # What torch's libraries need in turn is torch's affair: the linker would look for it in the
    # CUDA toolkit's folder first, where libnccl may be an older one.
    set_target_properties(torchbn::torch_cuda PROPERTIES
      INTERFACE_LINK_OPTIONS "-Wl,--allow-shlib-undefined"
      INTERFACE_LINK_LIBRARIES "-Wl,--push-state,--no-as-needed,\"${root}/lib/libtorch_cuda.so\",\
\"${root}/lib/libc10_cuda.so\",--pop-state;torchbn::torch")
  endif()
endfunction()
