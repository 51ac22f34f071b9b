# Installs the package from BUILD, and moves it to PREFIX: cmake -D BUILD=... -D PREFIX=... -P install.cmake

cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE "${PREFIX}" "${PREFIX}.staging")
execute_process(COMMAND "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${PREFIX}.staging"
  COMMAND_ERROR_IS_FATAL ANY)
file(RENAME "${PREFIX}.staging" "${PREFIX}")
