/* What an address is. */
#include "driver.h"
#include <string.h>

static bool is_host(const struct region *region)
{
    return region->region_kind == HOST_REGION || region->region_kind == REGISTERED_REGION;
}

/* Sizes of what is written as cuda.h documents them. A range that nobody knows answers only to cuPointerGetAttributes, with zeros. */
static CUresult answer(void *data, CUpointer_attribute attribute, CUdeviceptr address, const struct region *region)
{
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = region ? region->context : NULL;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = !region ? 0 : is_host(region) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = region ? address : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        *(void **)data = region && (is_host(region) || region->region_kind == MANAGED_REGION) ? (void *)(uintptr_t)address : NULL;
        return region && !*(void **)data ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        *(unsigned *)data = region && region->sync_memops;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        *(unsigned long long *)data = region ? region->id : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned *)data = region && region->region_kind == MANAGED_REGION;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = region ? region->device : -2;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        *(unsigned *)data = region && region->region_kind == DEVICE_REGION && !region->pool;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)data = region ? region->base : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)data = region ? region->bytes : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned *)data = region && region->region_kind != RESERVED_REGION;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *(unsigned long long *)data = region && region->physical ? region->physical->properties.requestedHandleTypes : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        *(unsigned *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        *(unsigned *)data = region ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        *(CUmemoryPool *)data = region ? region->pool : NULL;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        *(size_t *)data = region && region->physical ? region->physical->bytes : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        *(CUdeviceptr *)data = region && region->physical ? region->base : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        *(unsigned long long *)data = region ? region->id : 0;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr address)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    if (!data)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find(address);
    result = region ? answer(data, attribute, address, region) : CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute *attributes, void **data, CUdeviceptr address)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    if (!count || !attributes || !data)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find(address);
    for (unsigned i = 0; !result && i < count; i++) {
        result = data[i] ? answer(data[i], attributes[i], address, region) : CUDA_ERROR_INVALID_VALUE;
        if (attributes[i] == CU_POINTER_ATTRIBUTE_HOST_POINTER && result == CUDA_ERROR_INVALID_VALUE && data[i])
            result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute attribute, CUdeviceptr address)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find(address);
    if (!value || !region || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        region->sync_memops = *(const unsigned *)value != 0;
    pthread_mutex_unlock(&driver.lock);
    return result;
}

static CUresult range_attribute(void *data, size_t bytes, CUmem_range_attribute attribute, CUdeviceptr address)
{
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find(address);
    bool managed = region && region->region_kind == MANAGED_REGION;
    int place = managed && region->charged ? region->device : CU_DEVICE_CPU;
    pthread_mutex_unlock(&driver.lock);
    if (!managed || !data || bytes < 4)
        return CUDA_ERROR_INVALID_VALUE;
    if (attribute == CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION || attribute == CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION)
        *(int *)data = place;
    else if (attribute == CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY)
        *(int *)data = 0;
    else
        return CUDA_ERROR_NOT_SUPPORTED;
    return CUDA_SUCCESS;
}

CUresult cuMemRangeGetAttribute(void *data, size_t size, CUmem_range_attribute attribute, CUdeviceptr address, size_t bytes)
{
    CUresult entered = enter(__func__);
    (void)bytes;
    return entered ? entered : range_attribute(data, size, attribute, address);
}

CUresult cuMemRangeGetAttributes(void **data, size_t *sizes, CUmem_range_attribute *attributes, size_t count, CUdeviceptr address, size_t bytes)
{
    CUresult result = enter(__func__);
    (void)bytes;
    for (size_t i = 0; !result && i < count; i++)
        result = range_attribute(data[i], sizes[i], attributes[i], address);
    return result;
}
