# One step of the consumer tests: cmake -D STEP=... -P run.cmake, called by ctest.

cmake_minimum_required(VERSION 3.25)

set(prefix "${WORK}/prefix")
set(programs "${WORK}/build")
set(here "${CMAKE_CURRENT_LIST_DIR}")
# Torch is given by its folder, as someone would whose Python is elsewhere.
set(configure "${CMAKE_COMMAND}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${CXX}"
  "-DTORCHBN_TORCH_ROOT=${TORCH_ROOT}")

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

if(STEP STREQUAL "install")
  # Installed into one folder, used from another: nothing in the package may know the first.
  file(REMOVE_RECURSE "${WORK}")
  run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/staging")
  file(RENAME "${WORK}/staging" "${prefix}")

elseif(STEP STREQUAL "inspect")
  run(bash "${here}/inspect.sh" "${prefix}" "${SOURCE}" "${BUILD}" "${TORCH_ROOT}")

elseif(STEP STREQUAL "build")
  run(${configure} -S "${here}/project" -B "${programs}" "-DCMAKE_PREFIX_PATH=${prefix}"
    "-DREADME=${SOURCE}/README.md")
  run("${CMAKE_COMMAND}" --build "${programs}")

elseif(STEP STREQUAL "call")
  run("${programs}/call")
  run("${programs}/readme")

elseif(STEP STREQUAL "load")
  run("${PYTHON}" "${here}/write_model.py" "${prefix}/lib/libtorchbn.so" "${WORK}/model.pt")
  run("${programs}/load" "${WORK}/model.pt")

elseif(STEP STREQUAL "refuse_other_torch")
  file(REMOVE_RECURSE "${WORK}/other")
  file(COPY "${prefix}/" DESTINATION "${WORK}/other")
  set(config "${WORK}/other/lib/cmake/torchbn/torchbn-config.cmake")
  file(READ "${config}" text)
  string(REGEX REPLACE "(set\\(torchbn_TORCH_VERSION \")[0-9.]+" "\\11.99" text "${text}")
  file(WRITE "${config}" "${text}")
  execute_process(
    COMMAND ${configure} -S "${here}/project" -B "${WORK}/build-other" "-DCMAKE_PREFIX_PATH=${WORK}/other"
    RESULT_VARIABLE result
    OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(result EQUAL 0)
    message(FATAL_ERROR "the package accepted a torch that it was not built with")
  elseif(NOT output MATCHES "was built with torch 1\\.99 and works with no other minor version, but the torch in .* is [0-9]")
    message(FATAL_ERROR "the refusal does not say why: ${output}")
  endif()

elseif(STEP STREQUAL "add_subdirectory")
  # Configured only: the sources themselves were built already.
  run(${configure} -S "${here}/subdirectory" -B "${WORK}/build-subdirectory" "-DTORCHBN_SOURCE=${SOURCE}" -DTORCHBN_CUDA=OFF)

else()
  message(FATAL_ERROR "no such step: ${STEP}")
endif()
