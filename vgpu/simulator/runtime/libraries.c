/* Libraries that a program loads itself. */
#include "runtime.h"

cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *image, enum cudaJitOption *jit, void **jit_values, unsigned int jit_count, enum cudaLibraryOption *options, void **values, unsigned int count)
{
    return answer(ready() ?: cuLibraryLoadData(library, image, (CUjit_option *)jit, jit_values, jit_count, (CUlibraryOption *)options, values, count));
}

cudaError_t cudaLibraryLoadFromFile(cudaLibrary_t *library, const char *path, enum cudaJitOption *jit, void **jit_values, unsigned int jit_count, enum cudaLibraryOption *options, void **values, unsigned int count)
{
    return answer(ready() ?: cuLibraryLoadFromFile(library, path, (CUjit_option *)jit, jit_values, jit_count, (CUlibraryOption *)options, values, count));
}

cudaError_t cudaLibraryUnload(cudaLibrary_t library)
{
    return answer(ready() ?: cuLibraryUnload(library));
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name)
{
    return answer(ready() ?: cuLibraryGetKernel(kernel, library, name));
}

cudaError_t cudaLibraryGetKernelCount(unsigned int *count, cudaLibrary_t library)
{
    return answer(ready() ?: cuLibraryGetKernelCount(count, library));
}

cudaError_t cudaLibraryEnumerateKernels(cudaKernel_t *kernels, unsigned int room, cudaLibrary_t library)
{
    return answer(ready() ?: cuLibraryEnumerateKernels(kernels, room, library));
}

cudaError_t cudaLibraryGetGlobal(void **pointer, size_t *bytes, cudaLibrary_t library, const char *name)
{
    return answer(ready() ?: cuLibraryGetGlobal((CUdeviceptr *)pointer, bytes, library, name));
}

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, enum cudaFuncAttribute attribute, int value, int device)
{
    return answer(ready() ?: cuKernelSetAttribute((CUfunction_attribute)attribute, value, kernel, device));
}
