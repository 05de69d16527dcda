/* cuMemAlloc and its kin, managed memory included. */
#include "driver.h"

static CUresult allocate_here(CUdeviceptr *address, size_t bytes)
{
    struct CUctx_st *context;
    struct region *region;
    uint64_t since = monotonic_ns();
    if (!address)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = capture_unsafe();
    if (!result)
        result = context_current(&context);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    result = allocate(context, bytes, &region);
    if (!result)
        *address = region->base;
    pthread_mutex_unlock(&driver.lock);
    clock_spend(driver.machine, since, card_of(context->device)->allocation_host_ns);
    return result;
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
    CUresult entered = enter(__func__);
    return entered ? entered : allocate_here(address, bytes);
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *address, size_t *pitch, size_t width, size_t height, unsigned int element)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!pitch || !width || !height || (element != 4 && element != 8 && element != 16))
        return CUDA_ERROR_INVALID_VALUE;
    *pitch = (width + 511) / 512 * 512;
    return allocate_here(address, *pitch * height);
}

/* Freeing waits for the context's work, as on the card. */
CUresult cuMemFree_v2(CUdeviceptr address)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (result)
        return result;
    if (!address)
        return CUDA_SUCCESS;
    if ((result = capture_unsafe()) || (result = context_current(&context)))
        return result;
    context_wait(context);
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find(address);
    bool ours = region && region->base == address && (region->region_kind == DEVICE_REGION || region->region_kind == MANAGED_REGION);
    if (!ours)
        result = CUDA_ERROR_INVALID_VALUE;
    else if (!region->pool)
        result = release(region);
    struct region *pooled = ours && region->pool && !result ? region : NULL;
    pthread_mutex_unlock(&driver.lock);
    if (pooled && !(result = pool_release(pooled, context->legacy)))
        pools_trim();
    return result;
}

CUresult cuMemGetInfo_v2(size_t *available, size_t *total)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && (!available || !total))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    const struct device *about = &driver.devices[context->device];
    machine_lock(driver.machine);
    process_reap(driver.machine);
    const struct part *part = &driver.machine->parts[about->card][about->part];
    *total = part->capacity_bytes;
    *available = part->capacity_bytes - part->used_bytes;
    machine_unlock(driver.machine);
    return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr address)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find(address);
    if (!region || region->region_kind == RESERVED_REGION)
        result = CUDA_ERROR_NOT_FOUND;
    if (!result && base)
        *base = region->base;
    if (!result && bytes)
        *bytes = region->bytes;
    pthread_mutex_unlock(&driver.lock);
    return result;
}

/* Managed memory takes from the card only what is moved there; see README. */
CUresult cuMemAllocManaged(CUdeviceptr *address, size_t bytes, unsigned int flags)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = capture_unsafe();
    if (!result)
        result = context_current(&context);
    if (!result && (!address || !bytes || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    void *base = address_reserve(bytes, 2 * MIB, NULL, true);
    if (!base)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_add(MANAGED_REGION, (CUdeviceptr)(uintptr_t)base, bytes);
    region->context = context;
    region->device = context->device;
    region->flags = flags;
    *address = region->base;
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

/* Moves the region as a whole; a card that is full keeps what it has, and the program goes on without an error. */
static CUresult prefetch(CUdeviceptr address, size_t bytes, CUmemLocation to, CUstream handle, CUstream standard)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    bool to_device = to.type == CU_MEM_LOCATION_TYPE_DEVICE;
    if (!bytes || (to_device && !is_device(to.id)))
        return to_device && bytes ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find(address);
    if (!region || region->region_kind != MANAGED_REGION) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (to_device && region->charged && region->device != to.id) {
        discharge(region->device, region->charged);
        region->charged = 0;
    } else if (!to_device && region->charged) {
        discharge(region->device, region->charged);
        region->charged = 0;
    }
    if (!result && to_device && !region->charged) {
        size_t whole = (region->bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
        region->device = to.id;
        if (charge(to.id, whole))
            region->charged = whole;
    }
    pthread_mutex_unlock(&driver.lock);
    if (result)
        return result;
    const struct card_description *about = card_of(stream->context->device);
    submit(stream, &(struct command){.kind = COPY,
                                     .target = to_device ? HOST_TO_DEVICE : DEVICE_TO_HOST,
                                     .each_ns = about->copy_latency_ns + bytes * 1000 / about->host_copy_bytes_per_us});
    return CUDA_SUCCESS;
}

static CUmemLocation old_location(CUdevice device)
{
    return (CUmemLocation){.type = device == CU_DEVICE_CPU ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
}
ON_STREAM(cuMemPrefetchAsync, _ptsz, (CUdeviceptr address, size_t bytes, CUdevice device, CUstream stream),
          prefetch(address, bytes, old_location(device), stream, standard))
ON_STREAM(cuMemPrefetchAsync_v2, _ptsz, (CUdeviceptr address, size_t bytes, CUmemLocation to, unsigned int flags, CUstream stream),
          flags ? CUDA_ERROR_INVALID_VALUE : prefetch(address, bytes, to, stream, standard))

static CUresult advise(CUdeviceptr address, size_t bytes, CUmem_advise advice)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find(address);
    if (!bytes || !region || region->region_kind != MANAGED_REGION || advice < CU_MEM_ADVISE_SET_READ_MOSTLY)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        region->advice = advice;
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuMemAdvise(CUdeviceptr address, size_t bytes, CUmem_advise advice, CUdevice device)
{
    CUresult entered = enter(__func__);
    (void)device;
    return entered ? entered : advise(address, bytes, advice);
}

CUresult cuMemAdvise_v2(CUdeviceptr address, size_t bytes, CUmem_advise advice, CUmemLocation place)
{
    CUresult entered = enter(__func__);
    (void)place;
    return entered ? entered : advise(address, bytes, advice);
}
