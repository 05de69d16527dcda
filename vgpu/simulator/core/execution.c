/* One context's streams while the context has the card, in its own running time.

   A stream does one command after the other. Copies take the engine of their direction. Kernels share the multiprocessors block by
   block: in the order of priority, then of readiness, each gets as many blocks on the card as there is room for, and keeps them for one
   wave; a kernel that is alone does its whole waves in one go and is cut back to the running one when another gets ready. */
#define _GNU_SOURCE
#include "machine.h"
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct command *head_of(struct stream *stream)
{
    return stream->completed == stream->submitted ? NULL : &stream->ring[stream->completed % RING];
}

enum head_stage stream_stage(const struct stream *stream)
{
    return stream->staged == stream->completed + 1 ? (enum head_stage)stream->stage : WAITING;
}

/* Comes last, after all that belongs to the new stage: a process may be killed between any two stores. */
static void set_stage(struct stream *stream, enum head_stage stage)
{
    __atomic_store_n(&stream->stage, stage, __ATOMIC_RELEASE);
    __atomic_store_n(&stream->staged, stream->completed + 1, __ATOMIC_RELEASE);
}

static uint32_t running_units(const struct stream *stream)
{
    return stream_stage(stream) == RUNNING && stream->ring[stream->completed % RING].kind == KERNEL ? stream->running_units : 0;
}

static uint64_t capacity(struct machine *machine, const struct context *context)
{
    unsigned card = context->part / PARTS;
    return machine->parts[card][context->part % PARTS].multiprocessors * machine->description.cards[card].threads_per_multiprocessor;
}

static bool is_met(struct machine *machine, const struct command *wait)
{
    if (wait->kind == WAIT_EVENT) {
        const struct event *event = &machine->events[wait->target];
        return event->generation != wait->generation || event->completed >= wait->amount;
    }
    const struct stream *stream = &machine->streams[wait->target];
    return stream->generation != wait->generation || stream->completed >= wait->amount;
}

static bool stream_runnable(struct machine *machine, struct stream *stream)
{
    const struct command *head = head_of(stream);
    if (!head)
        return stream->used == 2;
    if (head->kind == WAIT_EVENT || head->kind == WAIT_STREAM)
        return is_met(machine, head);
    return stream_stage(stream) != CALLED;
}

bool context_runnable(struct machine *machine, struct context *context)
{
    for (uint32_t index = context->first_stream; index != NOBODY; index = machine->streams[index].next)
        if (stream_runnable(machine, &machine->streams[index]))
            return true;
    return false;
}

bool context_busy(struct machine *machine, struct context *context)
{
    for (uint32_t index = context->first_stream; index != NOBODY; index = machine->streams[index].next)
        if (running_units(&machine->streams[index]))
            return true;
    return false;
}

uint64_t context_next(struct machine *machine, struct context *context)
{
    uint64_t next = FOREVER;
    for (uint32_t index = context->first_stream; index != NOBODY; index = machine->streams[index].next) {
        struct stream *stream = &machine->streams[index];
        enum head_stage stage = stream_stage(stream);
        if ((stage == GAP || stage == RUNNING) && head_of(stream) && stream->end_run_ns < next)
            next = stream->end_run_ns;
    }
    return next;
}

static void complete(struct machine *machine, struct stream *stream, const struct command *head)
{
    if (head->kind == RECORD && machine->events[head->target].generation == head->generation) {
        struct event *event = &machine->events[head->target];
        event->time_ns = machine->now_ns;
        event->completed = head->amount;
    }
    __atomic_store_n(&stream->completed, stream->completed + 1, __ATOMIC_RELEASE);
}

static void call_host(struct machine *machine, const struct context *context)
{
    uint32_t *signal = &machine->processes[context->process].host_signal;
    __atomic_fetch_add(signal, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, signal, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Somebody else got ready: who runs many waves in one go stops after the present one. */
static void cut_batches(struct machine *machine, struct context *context)
{
    for (uint32_t index = context->first_stream; index != NOBODY; index = machine->streams[index].next) {
        struct stream *stream = &machine->streams[index];
        if (!running_units(stream) || stream->waves <= 1)
            continue;
        uint64_t wave = head_of(stream)->each_ns, since = context->run_ns - stream->started_run_ns;
        uint64_t waves = wave ? (since + wave - 1) / wave : 1;
        if (waves < 1)
            waves = 1;
        if (waves < stream->waves) {
            stream->waves = waves;
            stream->end_run_ns = stream->started_run_ns + waves * wave;
        }
    }
}

static void make_ready(struct machine *machine, struct context *context, struct stream *stream)
{
    cut_batches(machine, context);
    stream->ready_order = ++context->ready_counter;
    set_stage(stream, READY);
}

static bool is_copying(struct machine *machine, const struct context *context, uint32_t path)
{
    for (uint32_t index = context->first_stream; index != NOBODY; index = machine->streams[index].next) {
        const struct stream *stream = &machine->streams[index];
        const struct command *head = &stream->ring[stream->completed % RING];
        if (stream_stage(stream) == RUNNING && head->kind == COPY && head->target == path)
            return true;
    }
    return false;
}

/* Starts the command at the head; true if the stream got further. */
static bool begin(struct machine *machine, struct context *context, struct stream *stream, struct command *head)
{
    switch (head->kind) {
    case WAIT_EVENT:
    case WAIT_STREAM:
        if (!is_met(machine, head))
            return false;
        complete(machine, stream, head);
        return true;
    case HOST:
        set_stage(stream, CALLED);
        call_host(machine, context);
        return true;
    case COPY:
        if (is_copying(machine, context, head->target))
            return false;
        break;
    case KERNEL:
        stream->left = head->amount;
        if (!head->gap_ns) {
            make_ready(machine, context, stream);
            return true;
        }
        stream->end_run_ns = context->run_ns + head->gap_ns;
        set_stage(stream, GAP);
        return true;
    }
    stream->end_run_ns = context->run_ns + head->each_ns;
    set_stage(stream, RUNNING);
    return true;
}

/* Ends what is over by now; true if the stream got further. */
static bool end(struct machine *machine, struct context *context, struct stream *stream, struct command *head)
{
    if (stream->end_run_ns > context->run_ns)
        return false;
    if (stream_stage(stream) == GAP) {
        make_ready(machine, context, stream);
    } else if (head->kind == KERNEL) {
        stream->next_left = stream->left - stream->batch * stream->waves;
        set_stage(stream, SETTLING);
    } else {
        complete(machine, stream, head);
    }
    return true;
}

static void take_rest(struct machine *machine, struct stream *stream, const struct command *head)
{
    stream->left = stream->next_left;
    if (stream->left)
        set_stage(stream, READY);
    else
        complete(machine, stream, head);
}

static bool step(struct machine *machine, struct context *context, struct stream *stream)
{
    struct command *head = head_of(stream);
    if (!head)
        return false;
    switch (stream_stage(stream)) {
    case WAITING:
        return begin(machine, context, stream, head);
    case GAP:
    case RUNNING:
        return end(machine, context, stream, head);
    case SETTLING:
        take_rest(machine, stream, head);
        return true;
    case ANSWERED:
        complete(machine, stream, head);
        return true;
    case READY:
    case CALLED:
        break;
    }
    return false;
}

static struct stream *next_ready(struct machine *machine, struct context *context, unsigned *ready, uint64_t *running)
{
    struct stream *best = NULL;
    *ready = 0;
    *running = 0;
    for (uint32_t index = context->first_stream; index != NOBODY; index = machine->streams[index].next) {
        struct stream *stream = &machine->streams[index];
        *running += running_units(stream);
        if (stream_stage(stream) != READY || !head_of(stream))
            continue;
        ++*ready;
        if (!best || stream->priority < best->priority ||
            (stream->priority == best->priority && stream->ready_order < best->ready_order))
            best = stream;
    }
    return best;
}

static void dispatch(struct machine *machine, struct context *context)
{
    uint64_t room = capacity(machine, context), running;
    unsigned ready;
    for (struct stream *stream; (stream = next_ready(machine, context, &ready, &running));) {
        const struct command *head = head_of(stream);
        uint64_t blocks = running < room ? (room - running) / head->units : 0;
        if (!blocks && !running)
            blocks = 1;
        if (!blocks)
            return;
        if (blocks > stream->left)
            blocks = stream->left;
        stream->batch = blocks;
        stream->waves = ready == 1 && !running ? stream->left / blocks : 1;
        stream->started_run_ns = context->run_ns;
        stream->end_run_ns = context->run_ns + stream->waves * head->each_ns;
        stream->running_units = (uint32_t)(blocks * head->units);
        set_stage(stream, RUNNING);
    }
}

/* Brings everything to where it stands at this moment; true if anything changed. */
bool context_settle(struct machine *machine, struct context *context)
{
    bool changed = false, again;
    do {
        again = false;
        for (uint32_t index = context->first_stream, next; index != NOBODY; index = next) {
            struct stream *stream = &machine->streams[index];
            next = stream->next;
            while (step(machine, context, stream))
                again = true;
            if (stream->used == 2 && stream->completed == stream->submitted) {
                stream_destroy(machine, index);
                again = true;
            }
        }
        changed |= again;
    } while (again);
    dispatch(machine, context);
    return changed;
}
