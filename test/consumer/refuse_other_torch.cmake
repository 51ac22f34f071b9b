# The installed package in a project whose torch is of another minor version: must be refused with a
# reason. Of that torch there is only what find_package looks at.

cmake_minimum_required(VERSION 3.25)

set(torch "${WORK}/torch")
file(REMOVE_RECURSE "${WORK}")
file(WRITE "${torch}/include/torch/headeronly/version.h"
  "#define TORCH_VERSION_MAJOR 1\n#define TORCH_VERSION_MINOR 99\n#define TORCH_VERSION_PATCH 3\n")
foreach(library IN ITEMS torch_cpu torch_cuda)
  file(WRITE "${torch}/lib/lib${library}.so" "")
endforeach()
file(WRITE "${WORK}/project/CMakeLists.txt" "cmake_minimum_required(VERSION 3.25)
project(refused LANGUAGES CXX)
find_package(torchbn CONFIG REQUIRED)\n")

execute_process(
  COMMAND "${CMAKE_COMMAND}" -S "${WORK}/project" -B "${WORK}/build" -G "${GENERATOR}"
    "-DCMAKE_CXX_COMPILER=${CXX}" "-DCMAKE_PREFIX_PATH=${PREFIX}" "-DTORCHBN_TORCH_ROOT=${torch}"
  RESULT_VARIABLE result
  OUTPUT_VARIABLE output
  ERROR_VARIABLE output)
string(REGEX REPLACE "[ \n]+" " " output "${output}")
if(result EQUAL 0)
  message(FATAL_ERROR "the package accepted a torch that it was not built with")
elseif(NOT output MATCHES
    "this torchbn was built with torch [0-9]+\\.[0-9]+ and works with no other minor version, but the torch in [^ ]+ is 1\\.99\\.3\\.")
  message(FATAL_ERROR "the refusal does not say why: ${output}")
endif()
