// The functions of the CUDA driver that torch looks for. All that it wants to know is whether a
// device is in use.

extern "C" {

int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return 0;
}

#define TORCHBN_NOT_SUPPORTED(name) \
  int name() {                      \
    return 801;                     \
  }
TORCHBN_NOT_SUPPORTED(cuCtxGetCurrent)
TORCHBN_NOT_SUPPORTED(cuCtxSetCurrent)
TORCHBN_NOT_SUPPORTED(cuDeviceGet)
TORCHBN_NOT_SUPPORTED(cuDeviceGetAttribute)
TORCHBN_NOT_SUPPORTED(cuDevicePrimaryCtxRetain)
TORCHBN_NOT_SUPPORTED(cuFuncGetAttribute)
TORCHBN_NOT_SUPPORTED(cuFuncSetAttribute)
TORCHBN_NOT_SUPPORTED(cuFuncSetCacheConfig)
TORCHBN_NOT_SUPPORTED(cuGetErrorString)
TORCHBN_NOT_SUPPORTED(cuLaunchCooperativeKernel)
TORCHBN_NOT_SUPPORTED(cuLaunchKernel)
TORCHBN_NOT_SUPPORTED(cuLinkAddData_v2)
TORCHBN_NOT_SUPPORTED(cuLinkComplete)
TORCHBN_NOT_SUPPORTED(cuLinkCreate_v2)
TORCHBN_NOT_SUPPORTED(cuModuleGetFunction)
TORCHBN_NOT_SUPPORTED(cuModuleLoad)
TORCHBN_NOT_SUPPORTED(cuModuleLoadData)
TORCHBN_NOT_SUPPORTED(cuModuleLoadDataEx)
TORCHBN_NOT_SUPPORTED(cuModuleUnload)
TORCHBN_NOT_SUPPORTED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
TORCHBN_NOT_SUPPORTED(cuPointerGetAttribute)
TORCHBN_NOT_SUPPORTED(cuTensorMapEncodeTiled)

}  // extern "C"
