# torchbn::torch and torchbn::torch_cuda by way of find_package(Torch), for TORCHBN_FIND_TORCH=ON.
# With a CUDA torch that package insists on a CUDA toolkit.

# In a function, because the package changes compiler flags of the whole scope.
function(_torchbn_find_torch)
  if(NOT DEFINED TORCH_CUDA_ARCH_LIST AND NOT DEFINED ENV{TORCH_CUDA_ARCH_LIST})
    set(TORCH_CUDA_ARCH_LIST "8.0") # unused, but without it a GPU is asked for
  endif()
  find_package(Torch REQUIRED PATHS "${TORCHBN_TORCH_ROOT_FOUND}/share/cmake/Torch")
  separate_arguments(flags UNIX_COMMAND "${TORCH_CXX_FLAGS}")

  add_library(torchbn::torch INTERFACE IMPORTED GLOBAL)
  set_target_properties(torchbn::torch PROPERTIES
    INTERFACE_COMPILE_FEATURES cxx_std_20
    INTERFACE_COMPILE_OPTIONS "${flags}"
    INTERFACE_INCLUDE_DIRECTORIES "${TORCH_INCLUDE_DIRS}"
    INTERFACE_LINK_LIBRARIES "$<TARGET_FILE:torch_cpu>;$<TARGET_FILE:c10>")
  if(TARGET torch_cuda)
    add_library(torchbn::torch_cuda INTERFACE IMPORTED GLOBAL)
    set_target_properties(torchbn::torch_cuda PROPERTIES
      INTERFACE_LINK_LIBRARIES "-Wl,--push-state,--no-as-needed,\"$<TARGET_FILE:torch_cuda>\",\
\"$<TARGET_FILE:c10_cuda>\",--pop-state;torchbn::torch")
  endif()
endfunction()
_torchbn_find_torch()
