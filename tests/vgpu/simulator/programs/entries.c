/* cuGetProcAddress: what the documentation says of versions, flags and status. */
#include "check.h"

typedef CUresult (*allocate_function)(CUdeviceptr *, size_t);
typedef CUresult (*launch_function)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **);
typedef CUresult (*create_function)(CUcontext *, unsigned, CUdevice);
typedef CUresult (*old_look_up)(const char *, void **, int, cuuint64_t);

int main(void)
{
    void *function, *other;
    CUdriverProcAddressQueryResult status;
    CUdeviceptr address;
    int version;
    unsigned long long ns = 1000;
    void *parameters[] = {&ns};
    CUcontext made;
    OK(cuDriverGetVersion(&version));
    OK(cuGetProcAddress("cuMemAlloc", &function, 12000, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    REQUIRE(status == CU_GET_PROC_ADDRESS_SUCCESS);
    start();
    OK(((allocate_function)function)(&address, 4096));
    OK(cuMemFree(address));
    OK(cuGetProcAddress("cuLaunchKernel", &function, 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM, &status));
    OK(cuGetProcAddress("cuLaunchKernel", &other, 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &status));
    REQUIRE(function != other);
    OK(((launch_function)other)(spin, 1, 1, 1, 64, 1, 1, 0, NULL, parameters, NULL));
    OK(((launch_function)function)(spin, 1, 1, 1, 64, 1, 1, 0, NULL, parameters, NULL));
    OK(cuGetProcAddress("cuMemAlloc", &other, 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &status));
    REQUIRE(other != NULL); /* without a variant for threads it is the one there is */
    OK(cuGetProcAddress("cuCtxCreate", &function, 3020, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    OK(((create_function)function)(&made, 0, 0));
    OK(cuCtxDestroy(made));
    OK(cuGetProcAddress("cuCtxCreate", &other, version, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    REQUIRE(other != function);
    OK(cuGetProcAddress("cuLaunchKernelEx", &function, 11000, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    REQUIRE(function == NULL && status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    OK(cuGetProcAddress("cuNoSuchFunction", &function, 12000, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    REQUIRE(function == NULL && status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    FAILS(CUDA_ERROR_INVALID_VALUE, cuGetProcAddress("cuMemAlloc", &function, version + 1000, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    FAILS(CUDA_ERROR_INVALID_VALUE, cuGetProcAddress(NULL, &function, 12000, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    OK(cuGetProcAddress("cuGetProcAddress", &function, 11030, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    FAILS(CUDA_ERROR_NOT_FOUND, ((old_look_up)function)("cuNoSuchFunction", &other, 11030, 0));
    OK(((old_look_up)function)("cuInit", &other, 11030, 0));
    OK(cuCtxSynchronize());
    return 0;
}
