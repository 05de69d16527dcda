/* Commands into streams, in the order that default streams impose, and waiting for them. */
#include "driver.h"
#include <stdlib.h>

struct place {
    uint32_t index, generation;
    uint64_t number;
    unsigned room;
};

static bool has_room(struct machine *machine, void *what)
{
    const struct place *place = what;
    const struct stream *stream = &machine->streams[place->index];
    return stream->generation != place->generation || RING - (stream->submitted - stream->completed) >= place->room;
}

static bool is_over(struct machine *machine, void *what)
{
    const struct place *place = what;
    const struct stream *stream = &machine->streams[place->index];
    return stream->generation != place->generation || stream->completed >= place->number;
}

static uint64_t least_until(struct machine *machine, void *what)
{
    const struct place *place = what;
    return queue_least(machine, place->index, place->number);
}

static uint64_t least_for_room(struct machine *machine, void *what)
{
    const struct place *place = what;
    const struct stream *stream = &machine->streams[place->index];
    return queue_least(machine, place->index, stream->completed + 1);
}

/* The legacy stream waits for all blocking ones, these wait for it. Returns how many entries that takes, and with `push` makes them. */
static unsigned order(struct CUstream_st *stream, bool push)
{
    struct machine *machine = driver.machine;
    struct CUctx_st *context = stream->context;
    unsigned count = 0;
    if (stream != context->legacy) {
        const struct stream *legacy = &machine->streams[context->legacy->index];
        if ((stream->flags & CU_STREAM_NON_BLOCKING) || legacy->submitted == legacy->completed || stream->legacy_seen == legacy->submitted)
            return 0;
        if (push) {
            queue_push(machine, stream->index,
                       &(struct command){.kind = WAIT_STREAM, .target = context->legacy->index, .generation = legacy->generation, .amount = legacy->submitted});
            stream->legacy_seen = legacy->submitted;
        }
        return 1;
    }
    for (uint32_t index = machine->contexts[context->index].first_stream; index != NOBODY; index = machine->streams[index].next) {
        const struct stream *other = &machine->streams[index];
        if (index == stream->index || !other->blocking || other->submitted == other->completed)
            continue;
        count++;
        if (push)
            queue_push(machine, stream->index,
                       &(struct command){.kind = WAIT_STREAM, .target = index, .generation = other->generation, .amount = other->submitted});
    }
    return count;
}

uint64_t submit(struct CUstream_st *stream, const struct command *given)
{
    struct command command = *given;
    for (;;) {
        machine_lock(driver.machine);
        machine_advance(driver.machine, clock_now(driver.machine));
        struct stream *queue = &driver.machine->streams[stream->index];
        struct place place = {.index = stream->index, .generation = stream->generation};
        place.room = order(stream, false) + 1;
        if (place.room > RING)
            place.room = RING;
        if (has_room(driver.machine, &place)) {
            order(stream, true);
            if (command.kind == RECORD)
                command.amount = ++driver.machine->events[command.target].recorded;
            queue_push(driver.machine, stream->index, &command);
            uint64_t number = queue->submitted;
            machine_unlock(driver.machine);
            return number;
        }
        machine_unlock(driver.machine);
        queue_wait(driver.machine, &(struct waiting){has_room, least_for_room, &place});
    }
}

void stream_wait(struct CUstream_st *stream, uint64_t number)
{
    struct place place = {.index = stream->index, .generation = stream->generation, .number = number};
    queue_wait(driver.machine, &(struct waiting){is_over, least_until, &place});
}

uint64_t stream_submitted(struct CUstream_st *stream)
{
    machine_lock(driver.machine);
    uint64_t number = driver.machine->streams[stream->index].submitted;
    machine_unlock(driver.machine);
    return number;
}

bool stream_done(struct CUstream_st *stream, uint64_t number)
{
    struct place place = {.index = stream->index, .generation = stream->generation, .number = number};
    machine_lock(driver.machine);
    machine_advance(driver.machine, clock_now(driver.machine));
    bool done = is_over(driver.machine, &place);
    machine_unlock(driver.machine);
    return done;
}

/* Waits for what all streams of the context have now; what others submit meanwhile does not count. */
CUresult context_wait(struct CUctx_st *context)
{
    struct place *places;
    unsigned count = 0;
    machine_lock(driver.machine);
    uint32_t first = driver.machine->contexts[context->index].first_stream;
    for (uint32_t index = first; index != NOBODY; index = driver.machine->streams[index].next)
        count++;
    places = calloc(count ? count : 1, sizeof *places);
    count = 0;
    for (uint32_t index = first; places && index != NOBODY; index = driver.machine->streams[index].next) {
        const struct stream *stream = &driver.machine->streams[index];
        places[count++] = (struct place){.index = index, .generation = stream->generation, .number = stream->submitted};
    }
    machine_unlock(driver.machine);
    if (!places)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (unsigned i = 0; i < count; i++)
        queue_wait(driver.machine, &(struct waiting){is_over, least_until, &places[i]});
    free(places);
    return CUDA_SUCCESS;
}
