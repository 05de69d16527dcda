/* Allocations in the order of a stream, and those of graphs: from a pool. */
#include "pools.h"
#include <stdlib.h>

struct ordered {
    CUdeviceptr *address;
    size_t bytes;
    CUmemoryPool pool; /* NULL: the current one of the stream's device */
    CUstream stream;
    bool per_thread;
};

static CUresult ask(void *argument)
{
    const struct ordered *call = argument;
    const struct driver *to = driver();
    if (call->pool)
        return (call->per_thread ? to->cuMemAllocFromPoolAsync_ptsz : to->cuMemAllocFromPoolAsync)(call->address, call->bytes, call->pool, call->stream);
    return (call->per_thread ? to->cuMemAllocAsync_ptsz : to->cuMemAllocAsync)(call->address, call->bytes, call->stream);
}

/* The pool must not keep what it has grown by. */
static void take_back(void *argument)
{
    const struct ordered *call = argument;
    CUmemoryPool pool = call->pool;
    CUdevice device;
    (call->per_thread ? driver()->cuMemFreeAsync_ptsz : driver()->cuMemFreeAsync)(*call->address, call->stream);
    (call->per_thread ? driver()->cuStreamSynchronize_ptsz : driver()->cuStreamSynchronize)(call->stream);
    if (!pool && (driver()->cuCtxGetDevice(&device) || driver()->cuDeviceGetMemPool(&pool, device)))
        return;
    driver()->cuMemPoolTrimTo(pool, 0);
    *call->address = 0;
}

/* What the stream has freed is free when it has come that far. A stream that is being captured does not wait. */
static bool wait_for_frees(void *argument)
{
    const struct ordered *call = argument;
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
    const struct driver *to = driver();
    if ((call->per_thread ? to->cuStreamIsCapturing_ptsz : to->cuStreamIsCapturing)(call->stream, &status) || status != CU_STREAM_CAPTURE_STATUS_NONE)
        return false;
    return (call->per_thread ? to->cuStreamSynchronize_ptsz : to->cuStreamSynchronize)(call->stream) == CUDA_SUCCESS;
}

/* The device of a stream is that of its context; the standard streams belong to the current one. */
static CUresult pool_of_stream(CUstream stream, CUmemoryPool *pool)
{
    CUcontext current = NULL, context = NULL;
    CUdevice device;
    const struct driver *to = driver();
    CUresult result = to->cuCtxGetCurrent(&current);
    bool standard = !stream || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD;
    if (!result && !standard)
        result = to->cuStreamGetCtx(stream, &context);
    bool other = !result && context && context != current;
    if (other)
        result = to->cuCtxPushCurrent_v2(context);
    if (!result)
        result = to->cuCtxGetDevice(&device);
    if (other)
        to->cuCtxPopCurrent_v2(&context);
    if (!result && card_of_device(device) == NO_CARD)
        result = CUDA_ERROR_INVALID_DEVICE;
    return result ? result : to->cuDeviceGetMemPool(pool, device);
}

static CUresult allocate(struct ordered *call)
{
    CUmemoryPool handle = call->pool;
    if (!usage_joined())
        return CUDA_ERROR_NOT_INITIALIZED;
    CUresult result = handle ? CUDA_SUCCESS : pool_of_stream(call->stream, &handle);
    if (result)
        return result;
    if (!call->address || !call->bytes)
        return ask(call);
    struct allocation *allocation = book_new(POOLED, 0, NO_CARD, rounded(call->bytes, 512), 0);
    if (!allocation)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pools_lock();
    struct pool *pool = pool_of(handle);
    result = pool ? pool_grow(pool, call->bytes, &(struct growing){ask, take_back, wait_for_frees, call}) : ask(call);
    if (!result && pool) {
        pool->live += allocation->bytes;
        allocation->pool = pool;
        allocation->key = *call->address;
        book_put(allocation);
    } else {
        free(allocation);
    }
    pools_unlock();
    return result;
}

EXPORTED CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream)
{
    return allocate(&(struct ordered){address, bytes, NULL, stream, false});
}

EXPORTED CUresult cuMemAllocAsync_ptsz(CUdeviceptr *address, size_t bytes, CUstream stream)
{
    return allocate(&(struct ordered){address, bytes, NULL, stream, true});
}

EXPORTED CUresult cuMemAllocFromPoolAsync(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream stream)
{
    if (!pool)
        return driver()->cuMemAllocFromPoolAsync(address, bytes, pool, stream);
    return allocate(&(struct ordered){address, bytes, pool, stream, false});
}

EXPORTED CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream stream)
{
    if (!pool)
        return driver()->cuMemAllocFromPoolAsync_ptsz(address, bytes, pool, stream);
    return allocate(&(struct ordered){address, bytes, pool, stream, true});
}

static CUresult release(CUdeviceptr address, CUstream stream, __typeof__(cuMemFreeAsync) *function)
{
    struct allocation *allocation = book_take(POOLED, address);
    bool pooled = allocation != NULL;
    if (!pooled)
        allocation = book_take(LINEAR, address);
    struct piece *piece = allocation ? allocation->piece : NULL;
    if (piece) {
        pieces_lock();
        piece_leave(piece, address, allocation->bytes);
        pieces_unlock();
    }
    CUresult result = function(address, stream);
    if (piece) {
        pieces_lock();
        if (result)
            piece_stay(piece, address, allocation->bytes);
        else
            piece_left(piece, address, allocation->bytes);
        pieces_unlock();
    }
    if (!allocation)
        return result;
    if (result) {
        book_put(allocation);
        return result;
    }
    if (pooled)
        pool_allocation_freed(allocation);
    else
        uncharge((unsigned)allocation->card, allocation->charged);
    free(allocation);
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream)
{
    return release(address, stream, driver()->cuMemFreeAsync);
}

EXPORTED CUresult cuMemFreeAsync_ptsz(CUdeviceptr address, CUstream stream)
{
    return release(address, stream, driver()->cuMemFreeAsync_ptsz);
}
