/* What a stream or a node of a graph does, as commands with their cost and, for copies, with the data.

   Data moves when the command is given, except behind a function of the host: then it moves in the stream's order. */
#include "driver.h"
#include <stdlib.h>
#include <string.h>

static bool call_plain(void *data)
{
    struct operation *operation = data;
    if (operation->call.callback)
        operation->call.callback(operation->call.stream, CUDA_SUCCESS, operation->call.data);
    else
        operation->call.function(operation->call.data);
    free(operation);
    return true;
}

static bool move_later(void *data)
{
    struct operation *operation = data;
    if (operation->kind == MOVE)
        move_now(&operation->move);
    else
        fill_now(&operation->fill);
    free(operation);
    return true;
}

static bool write_value(void *data)
{
    struct operation *operation = data;
    void *address = (void *)(uintptr_t)operation->value.address;
    if (operation->value.bytes == 8)
        __atomic_store_n((uint64_t *)address, operation->value.value, __ATOMIC_RELEASE);
    else
        __atomic_store_n((uint32_t *)address, (uint32_t)operation->value.value, __ATOMIC_RELEASE);
    free(operation);
    return true;
}

static bool await_value(void *data)
{
    struct operation *operation = data;
    void *address = (void *)(uintptr_t)operation->value.address;
    bool wide = operation->value.bytes == 8, met;
    uint64_t is = wide ? __atomic_load_n((uint64_t *)address, __ATOMIC_ACQUIRE) : __atomic_load_n((uint32_t *)address, __ATOMIC_ACQUIRE);
    uint64_t wanted = operation->value.value;
    switch (operation->value.flags & 3) {
    case CU_STREAM_WAIT_VALUE_EQ:
        met = is == wanted;
        break;
    case CU_STREAM_WAIT_VALUE_AND:
        met = (is & wanted) != 0;
        break;
    case CU_STREAM_WAIT_VALUE_NOR:
        met = wide ? ~(is | wanted) != 0 : (uint32_t) ~(is | wanted) != 0;
        break;
    default:
        met = wide ? (int64_t)(is - wanted) >= 0 : (int32_t)(uint32_t)(is - wanted) >= 0;
    }
    if (met)
        free(operation);
    return met;
}

static void later(struct CUstream_st *stream, bool (*function)(void *), const struct operation *operation)
{
    struct operation *copy = malloc(sizeof *copy);
    if (!copy)
        abort();
    *copy = *operation;
    call_in_order(stream, function, copy);
}

static unsigned units(const CUDA_KERNEL_NODE_PARAMS_v2 *kernel, const struct card_description *about)
{
    uint64_t per = about->threads_per_multiprocessor;
    uint64_t threads = (uint64_t)kernel->blockDimX * kernel->blockDimY * kernel->blockDimZ;
    uint64_t shared = kernel->func->shared_bytes + kernel->sharedMemBytes;
    uint64_t wanted = (threads + 31) / 32 * 32;
    if (wanted < per / 32)
        wanted = per / 32;
    if (kernel->func->blocks_per_multiprocessor && wanted < per / kernel->func->blocks_per_multiprocessor)
        wanted = per / kernel->func->blocks_per_multiprocessor;
    if (shared && wanted < per * (shared + 1024) / about->shared_memory_per_multiprocessor)
        wanted = per * (shared + 1024) / about->shared_memory_per_multiprocessor;
    return (unsigned)(wanted > per ? per : wanted);
}

static void launch(struct CUstream_st *stream, const struct operation *operation, bool in_graph)
{
    const CUDA_KERNEL_NODE_PARAMS_v2 *kernel = &operation->launch.parameters;
    const struct card_description *about = card_of(stream->context->device);
    submit(stream, &(struct command){.kind = KERNEL,
                                     .units = units(kernel, about),
                                     .amount = (uint64_t)kernel->gridDimX * kernel->gridDimY * kernel->gridDimZ,
                                     .each_ns = operation->launch.block_ns,
                                     .gap_ns = in_graph ? about->graph_node_ns : about->launch_device_ns});
}

static void transfer(struct CUstream_st *stream, const struct operation *operation)
{
    const struct card_description *about = card_of(stream->context->device);
    uint64_t bytes, rate;
    enum copy_path path = ON_DEVICE;
    if (operation->kind == MOVE) {
        bytes = move_bytes(&operation->move);
        path = move_path(&operation->move);
        rate = path == ON_DEVICE ? about->device_copy_bytes_per_us : about->host_copy_bytes_per_us;
    } else {
        bytes = (uint64_t)operation->fill.elementSize * operation->fill.width * operation->fill.height;
        rate = about->fill_bytes_per_us;
    }
    struct command command = {.kind = COPY, .target = path, .each_ns = about->copy_latency_ns + bytes * 1000 / rate};
    if (calls_pending()) {
        submit(stream, &command);
        later(stream, move_later, operation);
        return;
    }
    if (operation->kind == MOVE)
        move_now(&operation->move);
    else
        fill_now(&operation->fill);
    submit(stream, &command);
}

static void record(struct CUstream_st *stream, CUevent event)
{
    uint64_t cost = card_of(stream->context->device)->event_device_ns;
    event->capture = NULL;
    event->stream_number = submit(stream, &(struct command){.kind = RECORD, .target = event->index, .generation = event->generation, .each_ns = cost});
    event->stream = stream->index;
}

static void await_event(struct CUstream_st *stream, CUevent event)
{
    machine_lock(driver.machine);
    uint64_t number = driver.machine->events[event->index].recorded;
    machine_unlock(driver.machine);
    if (number)
        submit(stream, &(struct command){.kind = WAIT_EVENT, .target = event->index, .generation = event->generation, .amount = number});
}

CUresult execute(struct CUstream_st *stream, const struct operation *operation, bool in_graph)
{
    switch (operation->kind) {
    case NOTHING:
    case ALLOCATE:
    case RELEASE:
        return CUDA_SUCCESS; /* memory of a graph is there from its instantiation on */
    case LAUNCH:
        launch(stream, operation, in_graph);
        return CUDA_SUCCESS;
    case MOVE:
    case FILL:
        transfer(stream, operation);
        return CUDA_SUCCESS;
    case CALL:
        later(stream, call_plain, operation);
        return CUDA_SUCCESS;
    case RECORD_EVENT:
        record(stream, operation->event);
        return CUDA_SUCCESS;
    case AWAIT_EVENT:
        await_event(stream, operation->event);
        return CUDA_SUCCESS;
    case WRITE_VALUE:
        later(stream, write_value, operation);
        return CUDA_SUCCESS;
    case AWAIT_VALUE:
        later(stream, await_value, operation);
        return CUDA_SUCCESS;
    case GRAPH:
        return graph_run(operation->graph, stream);
    }
    return CUDA_ERROR_INVALID_VALUE;
}

static uint64_t host_cost(const struct operation *operation, const struct card_description *about)
{
    switch (operation->kind) {
    case RECORD_EVENT:
    case AWAIT_EVENT:
        return about->event_host_ns;
    default:
        return about->launch_host_ns;
    }
}

CUresult perform(struct CUstream_st *stream, const struct operation *operation)
{
    uint64_t since = monotonic_ns();
    if (stream->capture)
        return capture_add(stream, operation);
    if (capture_blocks_legacy(stream))
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    CUresult result = execute(stream, operation, false);
    clock_spend(driver.machine, since, host_cost(operation, card_of(stream->context->device)));
    return result;
}
