# The CMake package: find_package(torchbn) in what is installed, which can be moved to another folder,
# and in the build folder (torchbn_DIR). Library, headers and config files.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# In a Python environment the package lies beside torch, and finds it through the second entry.
set(_rpath "$ORIGIN" "$ORIGIN/../../torch/lib")
if(TORCHBN_TORCH_RPATH)
  list(APPEND _rpath "${TORCHBN_TORCH_ROOT_FOUND}/lib")
endif()
# lib and not lib64 on every system: the entry above counts folders.
set(_libdir lib)
set(_configdir ${_libdir}/cmake/torchbn)
set_target_properties(torchbn_lib PROPERTIES
  INSTALL_RPATH "${_rpath}"
  INSTALL_REMOVE_ENVIRONMENT_RPATH ON)

# The static library is a set of its own, because it may need what the shared one does not.
install(TARGETS torchbn_lib torchbn EXPORT torchbn-targets LIBRARY DESTINATION ${_libdir})
install(TARGETS torchbn_archive torchbn_static EXPORT torchbn-static-targets ARCHIVE DESTINATION ${_libdir})
foreach(set IN ITEMS torchbn-targets torchbn-static-targets)
  install(EXPORT ${set} NAMESPACE torchbn:: DESTINATION ${_configdir})
  export(EXPORT ${set} NAMESPACE torchbn:: FILE "${PROJECT_BINARY_DIR}/${set}.cmake")
endforeach()
install(DIRECTORY include/torchbn DESTINATION include FILES_MATCHING PATTERN "*.h")

string(REGEX MATCH "^[0-9]+\\.[0-9]+" TORCHBN_TORCH_MINOR "${TORCHBN_TORCH_VERSION}")
configure_package_config_file(
  scripts/cmake/torchbn-config.cmake.in "${PROJECT_BINARY_DIR}/torchbn-config.cmake"
  INSTALL_DESTINATION ${_configdir}
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/torchbn-config-version.cmake"
  COMPATIBILITY SameMinorVersion)
configure_file(scripts/cmake/TorchbnTorch.cmake "${PROJECT_BINARY_DIR}/TorchbnTorch.cmake" COPYONLY)
install(FILES
  "${PROJECT_BINARY_DIR}/torchbn-config.cmake"
  "${PROJECT_BINARY_DIR}/torchbn-config-version.cmake"
  "${PROJECT_BINARY_DIR}/TorchbnTorch.cmake"
  DESTINATION ${_configdir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
