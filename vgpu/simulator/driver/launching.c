/* Launches of kernels, and what can be asked of a kernel. */
#include "driver.h"
#include <string.h>

static unsigned residents(const struct CUfunc_st *function, unsigned threads, size_t dynamic, const struct card_description *about)
{
    uint64_t per = about->threads_per_multiprocessor, count = threads ? per / ((threads + 31) / 32 * 32) : 0;
    uint64_t shared = function->shared_bytes + dynamic;
    if (count > 32)
        count = 32;
    if (function->blocks_per_multiprocessor && count > function->blocks_per_multiprocessor)
        count = function->blocks_per_multiprocessor;
    if (shared && count > about->shared_memory_per_multiprocessor / (shared + 1024))
        count = about->shared_memory_per_multiprocessor / (shared + 1024);
    return (unsigned)count;
}

CUresult launch_check(CUDA_KERNEL_NODE_PARAMS_v2 *kernel, bool cooperative)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (result)
        return result;
    if (!kernel->func && kernel->kern)
        kernel->func = (struct CUfunc_st *)kernel->kern;
    if (!object_is(kernel->func, FUNCTION_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    uint64_t threads = (uint64_t)kernel->blockDimX * kernel->blockDimY * kernel->blockDimZ;
    uint64_t blocks = (uint64_t)kernel->gridDimX * kernel->gridDimY * kernel->gridDimZ;
    if (!threads || !blocks || threads > 1024 || kernel->blockDimZ > 64 || kernel->gridDimX > 2147483647u || kernel->gridDimY > 65535 || kernel->gridDimZ > 65535)
        return CUDA_ERROR_INVALID_VALUE;
    if ((int)kernel->sharedMemBytes > kernel->func->dynamic_shared_limit)
        return CUDA_ERROR_INVALID_VALUE;
    const struct card_description *about = card_of(context->device);
    if (cooperative && blocks > (uint64_t)residents(kernel->func, (unsigned)threads, kernel->sharedMemBytes, about) * driver.devices[context->device].multiprocessors)
        return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    return CUDA_SUCCESS;
}

static uint64_t packed_parameter(const struct CUfunc_st *function, void **extra)
{
    uint64_t value = 0;
    size_t offset = 0;
    const char *buffer = NULL;
    for (int i = 0; i < function->block_ns_parameter; i++)
        offset += function->parameter_bytes[i];
    for (void **entry = extra; entry && *entry != CU_LAUNCH_PARAM_END; entry += 2)
        if (*entry == CU_LAUNCH_PARAM_BUFFER_POINTER)
            buffer = entry[1];
    if (buffer)
        memcpy(&value, buffer + offset, sizeof value);
    return value;
}

uint64_t launch_block_ns(const CUDA_KERNEL_NODE_PARAMS_v2 *kernel)
{
    const struct CUfunc_st *function = kernel->func;
    uint64_t value;
    if (function->block_ns_parameter < 0)
        return function->block_ns;
    if (!kernel->kernelParams)
        return packed_parameter(function, kernel->extra);
    memcpy(&value, kernel->kernelParams[function->block_ns_parameter], sizeof value);
    return value;
}

static CUresult launch(CUDA_KERNEL_NODE_PARAMS_v2 kernel, CUstream handle, CUstream standard, bool cooperative)
{
    struct CUstream_st *stream;
    CUresult result = launch_check(&kernel, cooperative);
    if (!result)
        result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    struct operation operation = {.kind = LAUNCH, .launch = {.parameters = kernel, .cooperative = cooperative}};
    operation.launch.block_ns = launch_block_ns(&kernel);
    return perform(stream, &operation);
}

#define GRID unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by, unsigned int bz
#define KERNEL_OF(kernel, bytes, arguments, rest) \
    ((CUDA_KERNEL_NODE_PARAMS_v2){.func = (kernel), .gridDimX = gx, .gridDimY = gy, .gridDimZ = gz, .blockDimX = bx, .blockDimY = by, .blockDimZ = bz, .sharedMemBytes = (bytes), .kernelParams = (arguments), .extra = (rest)})

ON_STREAM(cuLaunchKernel, _ptsz, (CUfunction function, GRID, unsigned int shared, CUstream stream, void **parameters, void **extra),
          launch(KERNEL_OF(function, shared, parameters, extra), stream, standard, false))
ON_STREAM(cuLaunchCooperativeKernel, _ptsz, (CUfunction function, GRID, unsigned int shared, CUstream stream, void **parameters),
          launch(KERNEL_OF(function, shared, parameters, NULL), stream, standard, true))

static CUresult launch_configured(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra, CUstream standard)
{
    bool cooperative = false;
    if (!config)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < config->numAttrs; i++)
        if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
            cooperative = config->attrs[i].value.cooperative != 0;
    unsigned gx = config->gridDimX, gy = config->gridDimY, gz = config->gridDimZ, bx = config->blockDimX, by = config->blockDimY, bz = config->blockDimZ;
    return launch(KERNEL_OF(function, config->sharedMemBytes, parameters, extra), config->hStream, standard, cooperative);
}
ON_STREAM(cuLaunchKernelEx, _ptsz, (const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra),
          launch_configured(config, function, parameters, extra, standard))

static CUresult call(CUstream handle, CUstream standard, CUhostFn function, CUstreamCallback callback, void *data)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (!result && !function && !callback)
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result && callback && stream->capture)
        result = capture_refuse(stream);
    if (result)
        return result;
    return perform(stream, &(struct operation){.kind = CALL, .call = {function, callback, handle, data}});
}
ON_STREAM(cuLaunchHostFunc, _ptsz, (CUstream stream, CUhostFn function, void *data), call(stream, standard, function, NULL, data))
ON_STREAM(cuLaunchHostFunc_v2, _ptsz, (CUstream stream, CUhostFn function, void *data, unsigned int mode), ((void)mode, call(stream, standard, function, NULL, data)))
ON_STREAM(cuStreamAddCallback, _ptsz, (CUstream stream, CUstreamCallback callback, void *data, unsigned int flags),
          flags ? CUDA_ERROR_INVALID_VALUE : call(stream, standard, NULL, callback, data))

static CUresult value(CUstream handle, CUstream standard, enum operation_kind kind, CUdeviceptr address, uint64_t number, unsigned bytes, unsigned flags)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    pthread_mutex_lock(&driver.lock);
    if (!result && (!region_find(address) || address % bytes))
        result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&driver.lock);
    if (result)
        return result;
    return perform(stream, &(struct operation){.kind = kind, .value = {address, number, bytes, flags}});
}

#define VALUE(name, kind, type, bytes) \
    ON_STREAM(name, _ptsz, (CUstream stream, CUdeviceptr address, type number, unsigned int flags), value(stream, standard, kind, address, number, bytes, flags))
VALUE(cuStreamWriteValue32, WRITE_VALUE, cuuint32_t, 4)
VALUE(cuStreamWriteValue32_v2, WRITE_VALUE, cuuint32_t, 4)
VALUE(cuStreamWriteValue64, WRITE_VALUE, cuuint64_t, 8)
VALUE(cuStreamWriteValue64_v2, WRITE_VALUE, cuuint64_t, 8)
VALUE(cuStreamWaitValue32, AWAIT_VALUE, cuuint32_t, 4)
VALUE(cuStreamWaitValue32_v2, AWAIT_VALUE, cuuint32_t, 4)
VALUE(cuStreamWaitValue64, AWAIT_VALUE, cuuint64_t, 8)
VALUE(cuStreamWaitValue64_v2, AWAIT_VALUE, cuuint64_t, 8)

static CUresult values(CUstream stream, CUstream standard, unsigned count, const CUstreamBatchMemOpParams *operations)
{
    CUresult result = operations || !count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; !result && i < count; i++) {
        const CUstreamBatchMemOpParams *one = &operations[i];
        bool wide = one->operation == CU_STREAM_MEM_OP_WRITE_VALUE_64 || one->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64;
        bool wait = one->operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 || one->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64;
        if (one->operation == CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES || one->operation == CU_STREAM_MEM_OP_BARRIER)
            continue;
        result = value(stream, standard, wait ? AWAIT_VALUE : WRITE_VALUE, one->writeValue.address, wide ? one->writeValue.value64 : one->writeValue.value, wide ? 8 : 4, one->writeValue.flags);
    }
    return result;
}
ON_STREAM(cuStreamBatchMemOp, _ptsz, (CUstream stream, unsigned int count, CUstreamBatchMemOpParams *operations, unsigned int flags),
          flags ? CUDA_ERROR_INVALID_VALUE : values(stream, standard, count, operations))
ON_STREAM(cuStreamBatchMemOp_v2, _ptsz, (CUstream stream, unsigned int count, CUstreamBatchMemOpParams *operations, unsigned int flags),
          flags ? CUDA_ERROR_INVALID_VALUE : values(stream, standard, count, operations))

static CUresult occupancy(int *blocks, CUfunction function, int threads, size_t dynamic)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (!result && (!blocks || threads <= 0 || !object_is(function, FUNCTION_OBJECT)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        *blocks = (int)residents(function, (unsigned)threads, dynamic, card_of(context->device));
    return result;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int threads, size_t dynamic)
{
    CUresult entered = enter(__func__);
    return entered ? entered : occupancy(blocks, function, threads, dynamic);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction function, int threads, size_t dynamic, unsigned int flags)
{
    CUresult entered = enter(__func__);
    (void)flags;
    return entered ? entered : occupancy(blocks, function, threads, dynamic);
}

static CUresult best_size(int *grid, int *block, CUfunction function, CUoccupancyB2DSize dynamic_of, size_t dynamic, int limit)
{
    int best = 0, blocks;
    if (!grid || !block)
        return CUDA_ERROR_INVALID_VALUE;
    for (int threads = limit > 0 && limit < 1024 ? limit / 32 * 32 : 1024; threads >= 32; threads -= 32) {
        CUresult result = occupancy(&blocks, function, threads, dynamic_of ? dynamic_of(threads) : dynamic);
        if (result)
            return result;
        if (blocks * threads > best) {
            best = blocks * threads;
            *block = threads;
            *grid = blocks * (int)driver.devices[current_top()->device].multiprocessors;
        }
    }
    return best ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction function, CUoccupancyB2DSize dynamic_of, size_t dynamic, int limit)
{
    CUresult entered = enter(__func__);
    return entered ? entered : best_size(grid, block, function, dynamic_of, dynamic, limit);
}

CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int *grid, int *block, CUfunction function, CUoccupancyB2DSize dynamic_of, size_t dynamic, int limit, unsigned int flags)
{
    CUresult entered = enter(__func__);
    (void)flags;
    return entered ? entered : best_size(grid, block, function, dynamic_of, dynamic, limit);
}
