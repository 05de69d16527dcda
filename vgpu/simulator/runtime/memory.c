/* Memory of devices and of the host, pools, and memory and events of other processes. */
#include "runtime.h"
#include <stdint.h>
#include <string.h>

static cudaError_t allocated(CUresult result, const CUdeviceptr *address, void **pointer)
{
    if (!result)
        *pointer = (void *)(uintptr_t)*address;
    return answer(result);
}

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    CUdeviceptr address = 0;
    if (!pointer)
        return answer(CUDA_ERROR_INVALID_VALUE);
    *pointer = NULL;
    CUresult result = ready();
    return bytes || result ? allocated(result ?: cuMemAlloc(&address, bytes), &address, pointer) : cudaSuccess;
}

cudaError_t cudaMallocPitch(void **pointer, size_t *pitch, size_t width, size_t height)
{
    CUdeviceptr address = 0;
    if (!pointer || !pitch)
        return answer(CUDA_ERROR_INVALID_VALUE);
    return allocated(ready() ?: cuMemAllocPitch(&address, pitch, width, height, 16), &address, pointer);
}

cudaError_t cudaMallocManaged(void **pointer, size_t bytes, unsigned int flags)
{
    CUdeviceptr address = 0;
    if (!pointer)
        return answer(CUDA_ERROR_INVALID_VALUE);
    return allocated(ready() ?: cuMemAllocManaged(&address, bytes, flags), &address, pointer);
}

cudaError_t cudaFree(void *pointer)
{
    return answer(ready() ?: cuMemFree(address_of(pointer)));
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    return answer(ready() ?: cuMemHostAlloc(pointer, bytes, CU_MEMHOSTALLOC_PORTABLE));
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned int flags)
{
    return answer(ready() ?: cuMemHostAlloc(pointer, bytes, flags | CU_MEMHOSTALLOC_PORTABLE));
}

cudaError_t cudaFreeHost(void *pointer)
{
    CUresult result = ready();
    return answer(result || !pointer ? result : cuMemFreeHost(pointer));
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned int flags)
{
    return answer(ready() ?: cuMemHostRegister(pointer, bytes, flags));
}

cudaError_t cudaHostUnregister(void *pointer)
{
    return answer(ready() ?: cuMemHostUnregister(pointer));
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned int flags)
{
    CUdeviceptr address = 0;
    if (!device)
        return answer(CUDA_ERROR_INVALID_VALUE);
    return allocated(ready() ?: cuMemHostGetDevicePointer(&address, host, flags), &address, device);
}

cudaError_t cudaHostGetFlags(unsigned int *flags, void *host)
{
    return answer(ready() ?: cuMemHostGetFlags(flags, host));
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total)
{
    return answer(ready() ?: cuMemGetInfo(unused, total));
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *about, const void *pointer)
{
    unsigned type = 0, managed = 0;
    if (!about)
        return answer(CUDA_ERROR_INVALID_VALUE);
    memset(about, 0, sizeof *about);
    about->device = -1;
    about->hostPointer = (void *)(uintptr_t)pointer;
    CUresult result = ready();
    CUdeviceptr address = address_of(pointer);
    /* A pointer that the driver does not know is unregistered memory of the host, and no error. */
    if (result || cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address))
        return answer(result);
    if (cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, address))
        managed = 0;
    about->type = managed ? cudaMemoryTypeManaged : type == CU_MEMORYTYPE_HOST ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    if (cuPointerGetAttribute(&about->device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address))
        about->device = 0;
    if (cuPointerGetAttribute(&about->devicePointer, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, address))
        about->devicePointer = NULL;
    if (cuPointerGetAttribute(&about->hostPointer, CU_POINTER_ATTRIBUTE_HOST_POINTER, address))
        about->hostPointer = NULL;
    return cudaSuccess;
}

cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t stream)
{
    CUdeviceptr address = 0;
    if (!pointer)
        return answer(CUDA_ERROR_INVALID_VALUE);
    return allocated(ready() ?: cuMemAllocAsync(&address, bytes, stream), &address, pointer);
}

cudaError_t cudaMallocFromPoolAsync(void **pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t stream)
{
    CUdeviceptr address = 0;
    if (!pointer)
        return answer(CUDA_ERROR_INVALID_VALUE);
    return allocated(ready() ?: cuMemAllocFromPoolAsync(&address, bytes, pool, stream), &address, pointer);
}

cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream)
{
    return answer(ready() ?: cuMemFreeAsync(address_of(pointer), stream));
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device)
{
    return answer(ready() ?: cuDeviceGetDefaultMemPool(pool, device));
}

cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *pool, int device)
{
    return answer(ready() ?: cuDeviceGetMemPool(pool, device));
}

cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t pool)
{
    return answer(ready() ?: cuDeviceSetMemPool(device, pool));
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *wanted)
{
    return answer(ready() ?: cuMemPoolCreate(pool, (const CUmemPoolProps *)wanted));
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool)
{
    return answer(ready() ?: cuMemPoolDestroy(pool));
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes)
{
    return answer(ready() ?: cuMemPoolTrimTo(pool, bytes));
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
{
    return answer(ready() ?: cuMemPoolSetAttribute(pool, (CUmemPool_attribute)attribute, value));
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
{
    return answer(ready() ?: cuMemPoolGetAttribute(pool, (CUmemPool_attribute)attribute, value));
}

cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const struct cudaMemAccessDesc *wanted, size_t count)
{
    return answer(ready() ?: cuMemPoolSetAccess(pool, (const CUmemAccessDesc *)wanted, count));
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *pointer)
{
    return answer(ready() ?: cuIpcGetMemHandle((CUipcMemHandle *)handle, address_of(pointer)));
}

cudaError_t cudaIpcOpenMemHandle(void **pointer, cudaIpcMemHandle_t handle, unsigned int flags)
{
    CUdeviceptr address = 0;
    CUipcMemHandle opened;
    if (!pointer)
        return answer(CUDA_ERROR_INVALID_VALUE);
    memcpy(&opened, &handle, sizeof opened);
    return allocated(ready() ?: cuIpcOpenMemHandle(&address, opened, flags), &address, pointer);
}

cudaError_t cudaIpcCloseMemHandle(void *pointer)
{
    return answer(ready() ?: cuIpcCloseMemHandle(address_of(pointer)));
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *handle, cudaEvent_t event)
{
    return answer(ready() ?: cuIpcGetEventHandle((CUipcEventHandle *)handle, event));
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *event, cudaIpcEventHandle_t handle)
{
    CUipcEventHandle opened;
    memcpy(&opened, &handle, sizeof opened);
    return answer(ready() ?: cuIpcOpenEventHandle(event, opened));
}
