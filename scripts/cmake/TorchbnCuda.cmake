# Decides from TORCHBN_CUDA (ON, OFF, AUTO) whether CUDA code is built, enables the language if so,
# and sets TORCHBN_WITH_CUDA and TORCHBN_CUDA_ARCHITECTURES. To be included at file scope.

set(TORCHBN_WITH_CUDA OFF)
set(_reason "")
if(TORCHBN_CUDA STREQUAL "OFF")
  set(_reason "TORCHBN_CUDA is OFF")
elseif(NOT TORCHBN_TORCH_HAS_CUDA)
  set(_reason "the torch in ${TORCHBN_TORCH_ROOT_FOUND} is built for CPU only")
else()
  # Before the language is enabled, which would put its own default there. Written to the cache, as
  # that default would be. A100, H100/H200, B200 and RTX 50; the last with PTX for what comes after.
  if(NOT CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100-real 120 CACHE STRING "CUDA targets" FORCE)
  endif()
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    # The toolkit's usual folder is often missing from PATH.
    find_program(_nvcc nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin NO_CACHE)
    if(_nvcc)
      set(ENV{CUDACXX} "${_nvcc}")
    endif()
  endif()
  # Tries the compiler out, where enabling the language would end with an error.
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(_reason "there is no working CUDA compiler (nvcc)")
  endif()
endif()

if(NOT _reason)
  enable_language(CUDA)
  # find_package(Torch) changes CMAKE_CUDA_ARCHITECTURES.
  set(TORCHBN_CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
  # CMake before 3.26 does not know that nvcc has C++20.
  if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
  endif()
  set(_torch_cuda "")
  if(EXISTS "${TORCHBN_TORCH_ROOT_FOUND}/version.py")
    file(STRINGS "${TORCHBN_TORCH_ROOT_FOUND}/version.py" _torch_cuda REGEX "^cuda.*= *'[0-9.]+'")
    string(REGEX REPLACE "^.*'([0-9]+)[0-9.]*'.*$" "\\1" _torch_cuda "${_torch_cuda}")
  endif()
  string(REGEX MATCH "^[0-9]+" _toolkit_cuda "${CMAKE_CUDA_COMPILER_VERSION}")
  if(_torch_cuda AND NOT _torch_cuda STREQUAL _toolkit_cuda)
    # Two major versions of the CUDA runtime in one process do not work together.
    set(_reason "torch is built for CUDA ${_torch_cuda}, the toolkit is ${CMAKE_CUDA_COMPILER_VERSION}")
  else()
    set(TORCHBN_WITH_CUDA ON)
  endif()
endif()

if(TORCHBN_WITH_CUDA)
  list(JOIN TORCHBN_CUDA_ARCHITECTURES " " _architectures)
  message(STATUS "torchbn: CUDA ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${_architectures}")
elseif(TORCHBN_CUDA STREQUAL "ON")
  message(FATAL_ERROR "TORCHBN_CUDA is ON, but ${_reason}.")
else()
  message(STATUS "torchbn: CPU only, because ${_reason}")
endif()
unset(_reason)
