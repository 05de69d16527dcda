/* Contexts: making and ending them costs memory of the card and, on the real one, about a tenth of a second. */
#include "driver.h"

static unsigned long long next_id = 1;

CUresult context_make(CUdevice device, unsigned flags, bool primary, struct CUctx_st **made)
{
    const struct device *about = &driver.devices[device];
    uint64_t overhead = card_of(device)->context_mib * MIB;
    CUresult result = CUDA_SUCCESS;
    machine_lock(driver.machine);
    machine_advance(driver.machine, clock_now(driver.machine));
    uint32_t index = NOBODY;
    if (!memory_charge(driver.machine, driver.process, about->card, about->part, overhead))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else if ((index = context_create(driver.machine, driver.process, about->card, about->part)) == NOBODY) {
        memory_return(driver.machine, driver.process, about->card, about->part, overhead);
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    machine_unlock(driver.machine);
    if (result)
        return result;
    if (driver.machine->description.clock == CLOCK_VIRTUAL)
        clock_spend(driver.machine, 0, card_of(device)->context_create_ns);
    struct CUctx_st *context = object_new(CONTEXT_OBJECT, sizeof *context);
    context->index = index;
    context->device = device;
    context->primary = primary;
    context->flags = flags;
    context->overhead = overhead;
    context->api_version = 3020;
    context->id = __atomic_fetch_add(&next_id, 1, __ATOMIC_RELAXED);
    context->limits[CU_LIMIT_STACK_SIZE] = 1024;
    context->limits[CU_LIMIT_PRINTF_FIFO_SIZE] = 7 * MIB;
    context->limits[CU_LIMIT_MALLOC_HEAP_SIZE] = 8 * MIB;
    context->limits[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2;
    context->limits[CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048;
    context->limits[CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64;
    result = stream_make(context, CU_STREAM_DEFAULT, 0, &context->legacy);
    *made = context;
    if (result)
        context_end(context);
    return result;
}

void context_end(struct CUctx_st *context)
{
    const struct device *about = &driver.devices[context->device];
    pthread_mutex_lock(&driver.lock);
    release_all(context);
    pthread_mutex_unlock(&driver.lock);
    machine_lock(driver.machine);
    context_destroy(driver.machine, context->index);
    memory_return(driver.machine, driver.process, about->card, about->part, context->overhead);
    machine_unlock(driver.machine);
    if (context->legacy)
        object_end(context->legacy);
    object_end(context);
}

static CUresult create(CUcontext *made, unsigned flags, CUdevice device, unsigned version)
{
    if (!made || (flags & ~(unsigned)CU_CTX_FLAGS_MASK))
        return CUDA_ERROR_INVALID_VALUE;
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    CUresult result = context_make(device, flags, false, made);
    if (result)
        return result;
    (*made)->api_version = version;
    current_push(*made);
    return CUDA_SUCCESS;
}

CUresult cuCtxCreate(CUcontext *context, unsigned int flags, CUdevice device)
{
    CUresult entered = enter(__func__);
    return entered ? entered : create(context, flags, device, 3010);
}

CUresult cuCtxCreate_v2(CUcontext *context, unsigned int flags, CUdevice device)
{
    CUresult entered = enter(__func__);
    return entered ? entered : create(context, flags, device, 3020);
}

EXPORTED CUresult cuCtxCreate_v3(CUcontext *context, CUexecAffinityParam *parameters, int count, unsigned int flags, CUdevice device)
{
    CUresult entered = enter(__func__);
    if (!entered && parameters && count)
        entered = CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY; /* only under MPS */
    return entered ? entered : create(context, flags, device, 3020);
}

CUresult cuCtxCreate_v4(CUcontext *context, CUctxCreateParams *parameters, unsigned int flags, CUdevice device)
{
    CUresult entered = enter(__func__);
    if (!entered && parameters && (parameters->execAffinityParams || parameters->cigParams))
        entered = CUDA_ERROR_NOT_SUPPORTED;
    return entered ? entered : create(context, flags, device, 3020);
}

static CUresult destroy(CUcontext context)
{
    if (!object_is(context, CONTEXT_OBJECT) || context->primary)
        return CUDA_ERROR_INVALID_CONTEXT;
    context_wait(context);
    if (current_top() == context)
        current_pop();
    context_end(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxDestroy(CUcontext context)
{
    CUresult entered = enter(__func__);
    return entered ? entered : destroy(context);
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    CUresult entered = enter(__func__);
    return entered ? entered : destroy(context);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    if (!context)
        return CUDA_ERROR_INVALID_VALUE;
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
    struct device *about = &driver.devices[device];
    pthread_mutex_lock(&guard);
    if (!about->primary)
        result = context_make(device, about->primary_flags, true, &about->primary);
    if (!result) {
        about->primary_count++;
        *context = about->primary;
    } else {
        about->primary = NULL;
    }
    pthread_mutex_unlock(&guard);
    return result;
}

static void end_primary(struct device *about)
{
    struct CUctx_st *context = about->primary;
    about->primary = NULL;
    about->primary_count = 0;
    context_wait(context);
    context_end(context);
}

static CUresult release_primary(CUdevice device)
{
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    struct device *about = &driver.devices[device];
    if (!about->primary_count)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (--about->primary_count == 0)
        end_primary(about);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    CUresult entered = enter(__func__);
    return entered ? entered : release_primary(device);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    CUresult entered = enter(__func__);
    return entered ? entered : release_primary(device);
}

static CUresult reset_primary(CUdevice device)
{
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    if (driver.devices[device].primary)
        end_primary(&driver.devices[device]);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
    CUresult entered = enter(__func__);
    return entered ? entered : reset_primary(device);
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    CUresult entered = enter(__func__);
    return entered ? entered : reset_primary(device);
}

static CUresult set_primary_flags(CUdevice device, unsigned flags)
{
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    if (flags & ~(unsigned)CU_CTX_FLAGS_MASK)
        return CUDA_ERROR_INVALID_VALUE;
    driver.devices[device].primary_flags = flags;
    if (driver.devices[device].primary)
        driver.devices[device].primary->flags = flags;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags)
{
    CUresult entered = enter(__func__);
    return entered ? entered : set_primary_flags(device, flags);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned int flags)
{
    CUresult entered = enter(__func__);
    return entered ? entered : set_primary_flags(device, flags);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    if (flags)
        *flags = driver.devices[device].primary_flags;
    if (active)
        *active = driver.devices[device].primary != NULL;
    return CUDA_SUCCESS;
}
