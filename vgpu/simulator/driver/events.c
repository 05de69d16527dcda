/* Events: points in a stream, with the card's time. */
#include "driver.h"
#include <string.h>

CUresult cuEventCreate(CUevent *made, unsigned int flags)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && (!made || (flags & ~7u) || ((flags & CU_EVENT_INTERPROCESS) && !(flags & CU_EVENT_DISABLE_TIMING))))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    machine_lock(driver.machine);
    uint32_t index = event_create(driver.machine, driver.process);
    uint32_t generation = index == NOBODY ? 0 : driver.machine->events[index].generation;
    machine_unlock(driver.machine);
    if (index == NOBODY)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct CUevent_st *event = object_new(EVENT_OBJECT, sizeof *event);
    event->context = context;
    event->index = index;
    event->generation = generation;
    event->flags = flags;
    *made = event;
    return CUDA_SUCCESS;
}

static CUresult destroy(CUevent event)
{
    if (!object_is(event, EVENT_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    machine_lock(driver.machine);
    machine_advance(driver.machine, clock_now(driver.machine));
    if (!event->opened && driver.machine->events[event->index].generation == event->generation)
        event_destroy(driver.machine, event->index);
    machine_unlock(driver.machine);
    object_end(event);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event)
{
    CUresult entered = enter(__func__);
    return entered ? entered : destroy(event);
}

CUresult cuEventDestroy_v2(CUevent event)
{
    CUresult entered = enter(__func__);
    return entered ? entered : destroy(event);
}

static CUresult record(CUevent event, CUstream handle, CUstream standard, unsigned flags)
{
    struct CUstream_st *stream;
    if (!object_is(event, EVENT_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    if (flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    if (stream->context->device != event->context->device)
        return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture && !(flags & CU_EVENT_RECORD_EXTERNAL))
        return capture_record(stream, event);
    if (flags && !stream->capture)
        return CUDA_ERROR_INVALID_VALUE;
    return perform(stream, &(struct operation){.kind = RECORD_EVENT, .event = event});
}
ON_STREAM(cuEventRecord, _ptsz, (CUevent event, CUstream stream), record(event, stream, standard, 0))
ON_STREAM(cuEventRecordWithFlags, _ptsz, (CUevent event, CUstream stream, unsigned int flags), record(event, stream, standard, flags))

static CUresult wait_event(CUstream handle, CUstream standard, CUevent event, unsigned flags)
{
    struct CUstream_st *stream;
    if (!object_is(event, EVENT_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    if (flags & CU_EVENT_WAIT_EXTERNAL)
        return stream->capture ? perform(stream, &(struct operation){.kind = AWAIT_EVENT, .event = event}) : CUDA_ERROR_INVALID_VALUE;
    if (event->capture || stream->capture)
        return capture_wait(stream, event);
    return perform(stream, &(struct operation){.kind = AWAIT_EVENT, .event = event});
}
ON_STREAM(cuStreamWaitEvent, _ptsz, (CUstream stream, CUevent event, unsigned int flags), wait_event(stream, standard, event, flags))

struct record_place {
    uint32_t event, event_generation, stream;
    uint64_t number, stream_number;
};

static bool is_recorded(struct machine *machine, void *what)
{
    const struct record_place *place = what;
    const struct event *event = &machine->events[place->event];
    return event->generation != place->event_generation || event->completed >= place->number;
}

static uint64_t least_until(struct machine *machine, void *what)
{
    const struct record_place *place = what;
    return place->stream == NOBODY ? 0 : queue_least(machine, place->stream, place->stream_number);
}

static struct record_place place_of(const struct CUevent_st *event)
{
    struct record_place place = {.event = event->index, .event_generation = event->generation, .stream = NOBODY};
    machine_lock(driver.machine);
    machine_advance(driver.machine, clock_now(driver.machine));
    place.number = driver.machine->events[event->index].recorded;
    machine_unlock(driver.machine);
    if (event->stream_number) {
        place.stream = event->stream;
        place.stream_number = event->stream_number;
    }
    return place;
}

CUresult cuEventQuery(CUevent event)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(event, EVENT_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    if (event->capture)
        return CUDA_ERROR_CAPTURED_EVENT;
    CUresult unsafe = capture_unsafe();
    if (unsafe)
        return unsafe;
    struct record_place place = place_of(event);
    machine_lock(driver.machine);
    bool done = is_recorded(driver.machine, &place);
    machine_unlock(driver.machine);
    return done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent event)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(event, EVENT_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    if (event->capture)
        return CUDA_ERROR_CAPTURED_EVENT;
    CUresult unsafe = capture_unsafe();
    if (unsafe)
        return unsafe;
    struct record_place place = place_of(event);
    queue_wait(driver.machine, &(struct waiting){is_recorded, least_until, &place});
    pools_trim();
    return CUDA_SUCCESS;
}

static CUresult elapsed(float *milliseconds, CUevent start, CUevent end)
{
    if (!milliseconds)
        return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(start, EVENT_OBJECT) || !object_is(end, EVENT_OBJECT) || ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING))
        return CUDA_ERROR_INVALID_HANDLE;
    if (start->capture || end->capture)
        return CUDA_ERROR_CAPTURED_EVENT;
    machine_lock(driver.machine);
    machine_advance(driver.machine, clock_now(driver.machine));
    struct event first = driver.machine->events[start->index], last = driver.machine->events[end->index];
    machine_unlock(driver.machine);
    if (!first.recorded || !last.recorded)
        return CUDA_ERROR_INVALID_HANDLE;
    if (first.completed < first.recorded || last.completed < last.recorded)
        return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)((double)(int64_t)(last.time_ns - first.time_ns) / 1e6);
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    CUresult entered = enter(__func__);
    return entered ? entered : elapsed(milliseconds, start, end);
}

CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end)
{
    CUresult entered = enter(__func__);
    return entered ? entered : elapsed(milliseconds, start, end);
}

struct event_handle {
    uint64_t magic;
    uint32_t index, generation;
};

CUresult cuIpcGetEventHandle(CUipcEventHandle *handle, CUevent event)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!handle || !object_is(event, EVENT_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    if (!(event->flags & CU_EVENT_INTERPROCESS) || event->opened)
        return CUDA_ERROR_INVALID_VALUE;
    struct event_handle content = {DESCRIPTION_MAGIC, event->index, event->generation};
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &content, sizeof content);
    driver.machine->events[event->index].shared = 1;
    return CUDA_SUCCESS;
}

CUresult cuIpcOpenEventHandle(CUevent *made, CUipcEventHandle handle)
{
    struct CUctx_st *context;
    struct event_handle content;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (result)
        return result;
    memcpy(&content, &handle, sizeof content);
    if (!made || content.magic != DESCRIPTION_MAGIC || content.index >= MAX_EVENTS)
        return CUDA_ERROR_INVALID_VALUE;
    const struct event *shared = &driver.machine->events[content.index];
    if (shared->generation != content.generation || !shared->shared)
        return CUDA_ERROR_INVALID_HANDLE;
    struct CUevent_st *event = object_new(EVENT_OBJECT, sizeof *event);
    event->context = context;
    event->index = content.index;
    event->generation = content.generation;
    event->flags = CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING;
    event->opened = true;
    *made = event;
    return CUDA_SUCCESS;
}

CUresult cuCtxRecordEvent(CUcontext context, CUevent event)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(context, CONTEXT_OBJECT) || !object_is(event, EVENT_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    return perform(context->legacy, &(struct operation){.kind = RECORD_EVENT, .event = event});
}

CUresult cuCtxWaitEvent(CUcontext context, CUevent event)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(context, CONTEXT_OBJECT) || !object_is(event, EVENT_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    return perform(context->legacy, &(struct operation){.kind = AWAIT_EVENT, .event = event});
}
