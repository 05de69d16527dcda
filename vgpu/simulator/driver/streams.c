/* Streams: the legacy one of each context, one for each thread, and those that programs make. */
#include "driver.h"
#include <string.h>

#define OWN_STREAMS 8

struct own {
    struct CUctx_st *context;
    unsigned long long context_id;
    struct CUstream_st *stream;
};

static _Thread_local struct own own_streams[OWN_STREAMS];
static unsigned long long next_id = 1;
static pthread_key_t thread_end;
static pthread_once_t key_made = PTHREAD_ONCE_INIT;

CUresult stream_make(struct CUctx_st *context, unsigned flags, int priority, struct CUstream_st **made)
{
    machine_lock(driver.machine);
    uint32_t index = stream_create(driver.machine, context->index, priority, !(flags & CU_STREAM_NON_BLOCKING));
    uint32_t generation = index == NOBODY ? 0 : driver.machine->streams[index].generation;
    machine_unlock(driver.machine);
    if (index == NOBODY)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct CUstream_st *stream = object_new(STREAM_OBJECT, sizeof *stream);
    stream->context = context;
    stream->index = index;
    stream->generation = generation;
    stream->flags = flags;
    stream->priority = priority;
    stream->id = __atomic_fetch_add(&next_id, 1, __ATOMIC_RELAXED);
    *made = stream;
    return CUDA_SUCCESS;
}

/* The stream's work goes on; its entry ends with it. */
void stream_end(struct CUstream_st *stream)
{
    machine_lock(driver.machine);
    struct stream *queue = &driver.machine->streams[stream->index];
    if (queue->generation == stream->generation) {
        if (queue->submitted == queue->completed)
            stream_destroy(driver.machine, stream->index);
        else
            queue->used = 2;
    }
    machine_unlock(driver.machine);
    object_end(stream);
}

static void end_own(void *streams)
{
    struct own *own = streams;
    for (unsigned i = 0; i < OWN_STREAMS; i++)
        if (own[i].stream && !driver.forked && object_is(own[i].stream, STREAM_OBJECT))
            stream_end(own[i].stream);
}

static void make_key(void)
{
    pthread_key_create(&thread_end, end_own);
}

static CUresult own_stream(struct CUctx_st *context, struct CUstream_st **stream)
{
    struct own *free_entry = &own_streams[0];
    for (unsigned i = 0; i < OWN_STREAMS; i++) {
        if (own_streams[i].context == context && own_streams[i].context_id == context->id) {
            *stream = own_streams[i].stream;
            return CUDA_SUCCESS;
        }
        if (!own_streams[i].stream || !object_is(own_streams[i].context, CONTEXT_OBJECT))
            free_entry = &own_streams[i];
    }
    pthread_once(&key_made, make_key);
    pthread_setspecific(thread_end, own_streams);
    CUresult result = stream_make(context, CU_STREAM_DEFAULT, 0, stream);
    if (!result)
        *free_entry = (struct own){context, context->id, *stream};
    return result;
}

CUresult stream_of(CUstream handle, CUstream standard, struct CUstream_st **stream)
{
    struct CUctx_st *context;
    if (!handle)
        handle = standard;
    if (handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
        CUresult result = context_current(&context);
        if (result)
            return result;
        if (handle == CU_STREAM_PER_THREAD)
            return own_stream(context, stream);
        *stream = context->legacy;
        return CUDA_SUCCESS;
    }
    if (!object_is(handle, STREAM_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    if (driver.machine->streams[handle->index].generation != handle->generation)
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    *stream = handle;
    return CUDA_SUCCESS;
}

static CUresult create(CUstream *made, unsigned flags, int priority)
{
    struct CUctx_st *context;
    if (!made || (flags & ~(unsigned)CU_STREAM_NON_BLOCKING))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = context_current(&context);
    return result ? result : stream_make(context, flags, priority, made);
}

CUresult cuStreamCreate(CUstream *stream, unsigned int flags)
{
    CUresult entered = enter(__func__);
    return entered ? entered : create(stream, flags, 0);
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned int flags, int priority)
{
    CUresult entered = enter(__func__);
    int clamped = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    return entered ? entered : create(stream, flags, clamped);
}

static CUresult destroy(CUstream handle)
{
    struct CUstream_st *stream;
    if (!handle || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD)
        return CUDA_ERROR_INVALID_HANDLE;
    CUresult result = stream_of(handle, handle, &stream);
    if (!result)
        stream_end(stream);
    return result;
}

CUresult cuStreamDestroy(CUstream stream)
{
    CUresult entered = enter(__func__);
    return entered ? entered : destroy(stream);
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    CUresult entered = enter(__func__);
    return entered ? entered : destroy(stream);
}

static CUresult synchronize(CUstream handle, CUstream standard)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (!result)
        result = capture_refuse(stream);
    if (result)
        return result;
    if (stream == stream->context->legacy)
        submit(stream, &(struct command){.kind = WAIT_STREAM, .target = stream->index, .generation = stream->generation});
    stream_wait(stream, stream_submitted(stream));
    pools_trim();
    return CUDA_SUCCESS;
}
ON_STREAM(cuStreamSynchronize, _ptsz, (CUstream stream), synchronize(stream, standard))

static CUresult query(CUstream handle, CUstream standard)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (!result)
        result = capture_refuse(stream);
    if (result)
        return result;
    if (stream == stream->context->legacy)
        submit(stream, &(struct command){.kind = WAIT_STREAM, .target = stream->index, .generation = stream->generation});
    return stream_done(stream, stream_submitted(stream)) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
ON_STREAM(cuStreamQuery, _ptsz, (CUstream stream), query(stream, standard))

enum question { PRIORITY, FLAGS, ID, DEVICE, CONTEXT };

static CUresult ask(CUstream handle, CUstream standard, enum question question, void *answer)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (!result && !answer)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    switch (question) {
    case PRIORITY:
        *(int *)answer = stream->priority;
        break;
    case FLAGS:
        *(unsigned *)answer = stream->flags;
        break;
    case ID:
        *(unsigned long long *)answer = stream->id;
        break;
    case DEVICE:
        *(CUdevice *)answer = stream->context->device;
        break;
    case CONTEXT:
        *(CUcontext *)answer = stream->context;
        break;
    }
    return CUDA_SUCCESS;
}
ON_STREAM(cuStreamGetPriority, _ptsz, (CUstream stream, int *priority), ask(stream, standard, PRIORITY, priority))
ON_STREAM(cuStreamGetFlags, _ptsz, (CUstream stream, unsigned int *flags), ask(stream, standard, FLAGS, flags))
ON_STREAM(cuStreamGetId, _ptsz, (CUstream stream, unsigned long long *id), ask(stream, standard, ID, id))
ON_STREAM(cuStreamGetDevice, _ptsz, (CUstream stream, CUdevice *device), ask(stream, standard, DEVICE, device))
ON_STREAM(cuStreamGetCtx, _ptsz, (CUstream stream, CUcontext *context), ask(stream, standard, CONTEXT, context))

static CUresult contexts(CUstream stream, CUstream standard, CUcontext *context, CUgreenCtx *green)
{
    if (green)
        *green = NULL;
    return ask(stream, standard, CONTEXT, context);
}
ON_STREAM(cuStreamGetCtx_v2, _ptsz, (CUstream stream, CUcontext *context, CUgreenCtx *green), contexts(stream, standard, context, green))

static CUresult attribute(CUstream handle, CUstream standard, CUstreamAttrID which, CUstreamAttrValue *get, const CUstreamAttrValue *set)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (!result && ((unsigned)which >= sizeof stream->attributes / sizeof *stream->attributes || (!get && !set)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result && get)
        *get = stream->attributes[which];
    if (!result && set)
        stream->attributes[which] = *set;
    return result;
}
ON_STREAM(cuStreamGetAttribute, _ptsz, (CUstream stream, CUstreamAttrID which, CUstreamAttrValue *value), attribute(stream, standard, which, value, NULL))
ON_STREAM(cuStreamSetAttribute, _ptsz, (CUstream stream, CUstreamAttrID which, const CUstreamAttrValue *value), attribute(stream, standard, which, NULL, value))

static CUresult copy_attributes(CUstream to, CUstream from, CUstream standard)
{
    struct CUstream_st *target, *source;
    CUresult result = stream_of(to, standard, &target);
    if (!result)
        result = stream_of(from, standard, &source);
    if (!result)
        memcpy(target->attributes, source->attributes, sizeof target->attributes);
    return result;
}
ON_STREAM(cuStreamCopyAttributes, _ptsz, (CUstream to, CUstream from), copy_attributes(to, from, standard))

static CUresult attach(CUstream handle, CUstream standard, CUdeviceptr address, unsigned flags)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find(address);
    if (!result && (!region || region->region_kind != MANAGED_REGION || !(flags & 7)))
        result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&driver.lock);
    return result;
}
ON_STREAM(cuStreamAttachMemAsync, _ptsz, (CUstream stream, CUdeviceptr address, size_t length, unsigned int flags),
          ((void)length, attach(stream, standard, address, flags)))
