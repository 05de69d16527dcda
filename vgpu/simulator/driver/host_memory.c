/* Pinned memory of the host. Its device address is its address. */
#include "driver.h"

static CUresult allocate_host(void **made, size_t bytes, unsigned flags)
{
    struct CUctx_st *context;
    CUresult result = capture_unsafe();
    if (!result)
        result = context_current(&context);
    if (!result && (!made || !bytes || (flags & ~7u)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    size_t whole = (bytes + 4095) / 4096 * 4096;
    *made = address_reserve(whole, 4096, NULL, true);
    if (!*made)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_add(HOST_REGION, (CUdeviceptr)(uintptr_t)*made, bytes);
    region->context = context;
    region->device = context->device;
    region->flags = flags;
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

CUresult cuMemAllocHost_v2(void **made, size_t bytes)
{
    CUresult entered = enter(__func__);
    return entered ? entered : allocate_host(made, bytes, CU_MEMHOSTALLOC_DEVICEMAP);
}

CUresult cuMemHostAlloc(void **made, size_t bytes, unsigned int flags)
{
    CUresult entered = enter(__func__);
    return entered ? entered : allocate_host(made, bytes, flags);
}

CUresult cuMemFreeHost(void *address)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find((CUdeviceptr)(uintptr_t)address);
    if (!region || region->region_kind != HOST_REGION || region->base != (CUdeviceptr)(uintptr_t)address) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        size_t whole = (region->bytes + 4095) / 4096 * 4096;
        region_remove(region);
        address_release(address, whole);
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

static CUresult register_host(void *address, size_t bytes, unsigned flags)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (!result && (!address || !bytes || (flags & ~15u)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    if (region_find((CUdeviceptr)(uintptr_t)address) || region_find((CUdeviceptr)(uintptr_t)address + bytes - 1)) {
        result = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    } else {
        struct region *region = region_add(REGISTERED_REGION, (CUdeviceptr)(uintptr_t)address, bytes);
        region->context = context;
        region->device = context->device;
        region->flags = flags;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuMemHostRegister(void *address, size_t bytes, unsigned int flags)
{
    CUresult entered = enter(__func__);
    return entered ? entered : register_host(address, bytes, flags);
}

CUresult cuMemHostRegister_v2(void *address, size_t bytes, unsigned int flags)
{
    CUresult entered = enter(__func__);
    return entered ? entered : register_host(address, bytes, flags);
}

CUresult cuMemHostUnregister(void *address)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find((CUdeviceptr)(uintptr_t)address);
    if (!region || region->region_kind != REGISTERED_REGION || region->base != (CUdeviceptr)(uintptr_t)address)
        result = CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    else
        region_remove(region);
    pthread_mutex_unlock(&driver.lock);
    return result;
}

static CUresult ask(void *address, CUdeviceptr *device_address, unsigned *flags)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find((CUdeviceptr)(uintptr_t)address);
    if (!region || (region->region_kind != HOST_REGION && region->region_kind != REGISTERED_REGION))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result && device_address)
        *device_address = (CUdeviceptr)(uintptr_t)address;
    if (!result && flags)
        *flags = region->flags;
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device_address, void *address, unsigned int flags)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    return !device_address || flags ? CUDA_ERROR_INVALID_VALUE : ask(address, device_address, NULL);
}

CUresult cuMemHostGetFlags(unsigned int *flags, void *address)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    return flags ? ask(address, NULL, flags) : CUDA_ERROR_INVALID_VALUE;
}
