# Install rules: library, headers, and a package config that can be moved to another folder.

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

install(TARGETS torchbn_lib torchbn EXPORT torchbn-targets LIBRARY DESTINATION ${_libdir})
install(DIRECTORY include/torchbn DESTINATION include FILES_MATCHING PATTERN "*.h")
install(EXPORT torchbn-targets NAMESPACE torchbn:: DESTINATION ${_configdir})

string(REGEX MATCH "^[0-9]+\\.[0-9]+" TORCHBN_TORCH_MINOR "${TORCHBN_TORCH_VERSION}")
configure_package_config_file(
  scripts/cmake/torchbn-config.cmake.in "${PROJECT_BINARY_DIR}/torchbn-config.cmake"
  INSTALL_DESTINATION ${_configdir}
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/torchbn-config-version.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/torchbn-config.cmake"
  "${PROJECT_BINARY_DIR}/torchbn-config-version.cmake"
  scripts/cmake/TorchbnTorch.cmake
  DESTINATION ${_configdir})
if(EXISTS "${PROJECT_SOURCE_DIR}/LICENSE")
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
endif()
