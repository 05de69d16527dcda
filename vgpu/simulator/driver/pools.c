/* Memory in the order of a stream. A pool takes memory from the card in pieces of 32 MiB, and gives what is not used back when the program
   waits for the card, down to its release threshold. A freed allocation counts as used until its stream has come to the point where it
   was freed, except for allocations of the same stream, which may have it at once. */
#include "driver.h"

#define PIECE (32 * MIB)
#define GRAIN 512u

struct CUmemPoolHandle_st {
    struct object object;
    CUdevice device;
    CUmemPoolProps properties;
    uint64_t used, used_high, reserved, reserved_high, threshold;
    int reuse[3];
    bool standard, ended;
    struct CUmemPoolHandle_st *next;
};

/* Freed, but its stream has not come that far. */
struct leaving {
    struct object object;
    struct leaving *next;
    struct CUmemPoolHandle_st *pool;
    uint32_t stream, generation;
    uint64_t number, bytes;
};

static struct CUmemPoolHandle_st *pools;
static struct leaving *leaving;

static uint64_t rounded(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) / to * to;
}

static void drop(struct CUmemPoolHandle_st *pool, uint64_t keep)
{
    /* Programs that want to keep all say so by the largest number there is, which cannot be rounded up. */
    if (keep >= pool->reserved)
        return;
    uint64_t wanted = rounded(pool->used > keep ? pool->used : keep, PIECE);
    if (wanted < pool->reserved) {
        discharge(pool->device, pool->reserved - wanted);
        pool->reserved = wanted;
    }
}

/* With driver.lock: counts as free what its stream has passed, or what the stream that asks has freed itself. */
static void collect(const struct CUstream_st *asking)
{
    machine_lock(driver.machine);
    machine_advance(driver.machine, clock_now(driver.machine));
    for (struct leaving **link = &leaving; *link;) {
        struct leaving *entry = *link;
        const struct stream *stream = &driver.machine->streams[entry->stream];
        bool passed = stream->generation != entry->generation || stream->completed >= entry->number;
        if (!passed && !(asking && asking->index == entry->stream && asking->generation == entry->generation)) {
            link = &entry->next;
            continue;
        }
        entry->pool->used -= entry->bytes;
        *link = entry->next;
        object_end(entry);
    }
    machine_unlock(driver.machine);
}

void pools_trim(void)
{
    if (!__atomic_load_n(&pools, __ATOMIC_ACQUIRE))
        return;
    pthread_mutex_lock(&driver.lock);
    collect(NULL);
    for (struct CUmemPoolHandle_st *pool = pools; pool; pool = pool->next)
        drop(pool, pool->threshold);
    pthread_mutex_unlock(&driver.lock);
}

static struct CUmemPoolHandle_st *pool_new(CUdevice device, const CUmemPoolProps *properties)
{
    struct CUmemPoolHandle_st *pool = object_new(POOL_OBJECT, sizeof *pool);
    pool->device = device;
    pool->properties = *properties;
    pool->reuse[0] = pool->reuse[1] = pool->reuse[2] = 1;
    pool->next = pools;
    __atomic_store_n(&pools, pool, __ATOMIC_RELEASE);
    return pool;
}

struct CUmemPoolHandle_st *pool_standard(CUdevice device)
{
    struct device *about = &driver.devices[device];
    pthread_mutex_lock(&driver.lock);
    if (!about->default_pool) {
        about->default_pool = pool_new(device, &(CUmemPoolProps){.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, {device}}});
        about->default_pool->standard = true;
    }
    pthread_mutex_unlock(&driver.lock);
    return about->default_pool;
}

CUresult pool_allocate(struct CUmemPoolHandle_st *pool, size_t bytes, struct CUstream_st *stream, CUdeviceptr *address)
{
    uint64_t whole = rounded(bytes, GRAIN);
    CUresult result = CUDA_SUCCESS;
    if (!address || !bytes || whole < bytes)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    collect(stream);
    uint64_t wanted = rounded(pool->used + whole, PIECE);
    if (pool->properties.maxSize && wanted > rounded(pool->properties.maxSize, PIECE))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (!result && wanted > pool->reserved && !charge(pool->device, wanted - pool->reserved))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else if (!result && wanted > pool->reserved)
        pool->reserved = wanted;
    void *base = result ? NULL : address_reserve(rounded(bytes, 4096), 4096, NULL, true);
    if (!result && !base)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (!result) {
        pool->used += whole;
        pool->used_high = pool->used > pool->used_high ? pool->used : pool->used_high;
        pool->reserved_high = pool->reserved > pool->reserved_high ? pool->reserved : pool->reserved_high;
        struct region *region = region_add(DEVICE_REGION, (CUdeviceptr)(uintptr_t)base, bytes);
        region->context = stream->context;
        region->device = pool->device;
        region->pool = pool;
        *address = region->base;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult pool_release(struct region *region, struct CUstream_st *stream)
{
    struct leaving *entry = object_new(LINK_OBJECT, sizeof *entry);
    entry->stream = stream->index;
    entry->generation = stream->generation;
    entry->number = submit(stream, &(struct command){.kind = WAIT_STREAM, .target = stream->index, .generation = stream->generation});
    pthread_mutex_lock(&driver.lock);
    entry->pool = region->pool;
    entry->bytes = rounded(region->bytes, GRAIN);
    entry->next = leaving;
    leaving = entry;
    address_release((void *)(uintptr_t)region->base, rounded(region->bytes, 4096));
    region_remove(region);
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

static CUresult allocate_async(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream handle, CUstream standard)
{
    struct CUstream_st *stream;
    uint64_t since = monotonic_ns();
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    CUdevice device = stream->context->device;
    if (!pool)
        pool = driver.devices[device].pool ? driver.devices[device].pool : pool_standard(device);
    if (!object_is(pool, POOL_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    if (stream->capture) {
        struct operation operation = {.kind = ALLOCATE, .allocation = {.poolProps = pool->properties, .bytesize = bytes}};
        result = pool_allocate(pool, bytes, stream, &operation.allocation.dptr);
        if (!result)
            result = capture_add(stream, &operation);
        if (!result)
            *address = operation.allocation.dptr;
        return result;
    }
    result = pool_allocate(pool, bytes, stream, address);
    clock_spend(driver.machine, since, card_of(device)->event_host_ns);
    return result;
}
ON_STREAM(cuMemAllocAsync, _ptsz, (CUdeviceptr *address, size_t bytes, CUstream stream), allocate_async(address, bytes, NULL, stream, standard))
ON_STREAM(cuMemAllocFromPoolAsync, _ptsz, (CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream stream),
          pool ? allocate_async(address, bytes, pool, stream, standard) : CUDA_ERROR_INVALID_VALUE)

static CUresult free_async(CUdeviceptr address, CUstream handle, CUstream standard)
{
    struct CUstream_st *stream;
    uint64_t since = monotonic_ns();
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find(address);
    bool known = region && region->base == address && region->region_kind == DEVICE_REGION, pooled = known && region->pool;
    pthread_mutex_unlock(&driver.lock);
    if (!known)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream->capture)
        return capture_add(stream, &(struct operation){.kind = RELEASE, .address = address});
    if (pooled) {
        result = pool_release(region, stream);
    } else {
        stream_wait(stream, stream_submitted(stream));
        pthread_mutex_lock(&driver.lock);
        result = release(region);
        pthread_mutex_unlock(&driver.lock);
    }
    clock_spend(driver.machine, since, card_of(stream->context->device)->event_host_ns);
    return result;
}
ON_STREAM(cuMemFreeAsync, _ptsz, (CUdeviceptr address, CUstream stream), free_async(address, stream, standard))

CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *properties)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!pool || !properties || properties->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE || properties->handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!is_device(properties->location.id))
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&driver.lock);
    *pool = pool_new(properties->location.id, properties);
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool pool)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(pool, POOL_OBJECT) || pool->standard)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    struct device *about = &driver.devices[pool->device];
    if (about->pool == pool)
        about->pool = NULL;
    collect(NULL);
    pool->threshold = 0; /* what is still used keeps its memory until it is freed */
    drop(pool, 0);
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(pool, POOL_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    collect(NULL);
    drop(pool, keep);
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

static uint64_t *counter(struct CUmemPoolHandle_st *pool, CUmemPool_attribute attribute)
{
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        return &pool->threshold;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
        return &pool->reserved;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        return &pool->reserved_high;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        return &pool->used;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        return &pool->used_high;
    default:
        return NULL;
    }
}

static CUresult attribute(CUmemoryPool pool, CUmemPool_attribute which, void *value, bool set)
{
    if (!object_is(pool, POOL_OBJECT) || !value)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&driver.lock);
    collect(NULL);
    uint64_t *place = counter(pool, which);
    bool high = which == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH || which == CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    if (which >= CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES && which <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES) {
        int *flag = &pool->reuse[which - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES];
        if (set)
            *flag = *(int *)value;
        else
            *(int *)value = *flag;
    } else if (!place || (set && which != CU_MEMPOOL_ATTR_RELEASE_THRESHOLD && !(high && *(cuuint64_t *)value == 0))) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (!set) {
        *(cuuint64_t *)value = *place;
    } else if (high) {
        *place = which == CU_MEMPOOL_ATTR_USED_MEM_HIGH ? pool->used : pool->reserved;
    } else {
        *place = *(cuuint64_t *)value;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute which, void *value)
{
    CUresult entered = enter(__func__);
    return entered ? entered : attribute(pool, which, value, true);
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute which, void *value)
{
    CUresult entered = enter(__func__);
    return entered ? entered : attribute(pool, which, value, false);
}
