/* Which pool a device uses, and who may reach a pool. */
#include "driver.h"

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!pool)
        return CUDA_ERROR_INVALID_VALUE;
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    *pool = pool_standard(device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!pool)
        return CUDA_ERROR_INVALID_VALUE;
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    *pool = driver.devices[device].pool ? driver.devices[device].pool : pool_standard(device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    if (!object_is(pool, POOL_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    driver.devices[device].pool = pool;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *access, size_t count)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    return object_is(pool, POOL_OBJECT) && (access || !count) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool pool, CUmemLocation *location)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!flags || !location || !object_is(pool, POOL_OBJECT) || location->type != CU_MEM_LOCATION_TYPE_DEVICE || !is_device(location->id))
        return CUDA_ERROR_INVALID_VALUE;
    *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE; /* one address space for all cards */
    return CUDA_SUCCESS;
}

static CUresult chosen(CUmemoryPool *pool, const CUmemLocation *place, CUmemAllocationType type, bool standard)
{
    if (!pool || !place || type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (place->type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!is_device(place->id))
        return CUDA_ERROR_INVALID_DEVICE;
    *pool = !standard && driver.devices[place->id].pool ? driver.devices[place->id].pool : pool_standard(place->id);
    return CUDA_SUCCESS;
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *place, CUmemAllocationType type)
{
    CUresult entered = enter(__func__);
    return entered ? entered : chosen(pool, place, type, true);
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *place, CUmemAllocationType type)
{
    CUresult entered = enter(__func__);
    return entered ? entered : chosen(pool, place, type, false);
}

CUresult cuMemSetMemPool(CUmemLocation *place, CUmemAllocationType type, CUmemoryPool pool)
{
    CUmemoryPool before;
    CUresult result = enter(__func__);
    if (!result)
        result = chosen(&before, place, type, false);
    if (!result && !object_is(pool, POOL_OBJECT))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        driver.devices[place->id].pool = pool;
    return result;
}
