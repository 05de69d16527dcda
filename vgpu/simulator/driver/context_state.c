/* What a thread does with its current context. */
#include "driver.h"

static CUresult push(CUcontext context)
{
    if (!object_is(context, CONTEXT_OBJECT))
        return CUDA_ERROR_INVALID_CONTEXT;
    current_push(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context)
{
    CUresult entered = enter(__func__);
    return entered ? entered : push(context);
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    CUresult entered = enter(__func__);
    return entered ? entered : push(context);
}

static CUresult pop(CUcontext *context)
{
    struct CUctx_st *popped = current_pop();
    if (!popped)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (context)
        *context = popped;
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext *context)
{
    CUresult entered = enter(__func__);
    return entered ? entered : pop(context);
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    CUresult entered = enter(__func__);
    return entered ? entered : pop(context);
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (context && !object_is(context, CONTEXT_OBJECT))
        return CUDA_ERROR_INVALID_CONTEXT;
    current_set(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!context)
        return CUDA_ERROR_INVALID_VALUE;
    *context = current_top();
    return CUDA_SUCCESS;
}

/* The context named, or the current one. */
static CUresult chosen(CUcontext handle, struct CUctx_st **context)
{
    if (!handle)
        return context_current(context);
    *context = handle;
    return object_is(handle, CONTEXT_OBJECT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

static CUresult device_of(CUdevice *device, CUcontext handle)
{
    struct CUctx_st *context;
    CUresult result = chosen(handle, &context);
    if (!result && !device)
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        *device = context->device;
    return result;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    CUresult entered = enter(__func__);
    return entered ? entered : device_of(device, NULL);
}

CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext context)
{
    CUresult entered = enter(__func__);
    return entered ? entered : device_of(device, context);
}

static CUresult synchronize(CUcontext handle)
{
    struct CUctx_st *context;
    CUresult result = capture_unsafe();
    if (!result)
        result = chosen(handle, &context);
    if (!result)
        result = context_wait(context);
    if (!result)
        pools_trim();
    return result;
}

CUresult cuCtxSynchronize(void)
{
    CUresult entered = enter(__func__);
    return entered ? entered : synchronize(NULL);
}

CUresult cuCtxSynchronize_v2(CUcontext context)
{
    CUresult entered = enter(__func__);
    return entered ? entered : synchronize(context);
}

CUresult cuCtxGetFlags(unsigned int *flags)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && !flags)
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        *flags = context->flags;
    return result;
}

CUresult cuCtxSetFlags(unsigned int flags)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && (flags & ~(unsigned)CU_CTX_FLAGS_MASK))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        context->flags = flags;
    return result;
}

CUresult cuCtxGetId(CUcontext handle, unsigned long long *id)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = chosen(handle, &context);
    if (!result && !id)
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        *id = context->id;
    return result;
}

CUresult cuCtxGetApiVersion(CUcontext handle, unsigned int *version)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = chosen(handle, &context);
    if (!result && !version)
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        *version = context->api_version;
    return result;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && ((unsigned)limit >= CU_LIMIT_MAX))
        result = CUDA_ERROR_UNSUPPORTED_LIMIT;
    if (!result)
        context->limits[limit] = value;
    return result;
}

CUresult cuCtxGetLimit(size_t *value, CUlimit limit)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && !value)
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result && ((unsigned)limit >= CU_LIMIT_MAX))
        result = CUDA_ERROR_UNSUPPORTED_LIMIT;
    if (!result)
        *value = context->limits[limit];
    return result;
}

CUresult cuCtxGetCacheConfig(CUfunc_cache *config)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result)
        *config = (CUfunc_cache)context->cache;
    return result;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache config)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result)
        context->cache = config;
    return result;
}

CUresult cuCtxGetSharedMemConfig(CUsharedconfig *config)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result)
        *config = (CUsharedconfig)context->shared_memory;
    return result;
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig config)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result)
        context->shared_memory = config;
    return result;
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && least)
        *least = 0;
    if (!result && greatest)
        *greatest = -5;
    return result;
}

CUresult cuCtxResetPersistingL2Cache(void)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    return result ? result : context_current(&context);
}

CUresult cuCtxGetExecAffinity(CUexecAffinityParam *parameter, CUexecAffinityType type)
{
    CUresult result = enter(__func__);
    (void)parameter;
    (void)type;
    return result ? result : CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY; /* only under MPS */
}

/* Peers are reachable anyway, by one address space. */
CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && (flags || !object_is(peer, CONTEXT_OBJECT)))
        result = flags ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_CONTEXT;
    if (!result && (peer->device == context->device || driver.devices[peer->device].part))
        result = CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    return result;
}

CUresult cuCtxDisablePeerAccess(CUcontext peer)
{
    CUresult result = enter(__func__);
    return result ? result : object_is(peer, CONTEXT_OBJECT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
