/* Putting commands into a stream, and waiting for what they do. */
#define _GNU_SOURCE
#include "machine.h"
#include <time.h>

/* What the kernel takes when the card has nothing else to do. */
static uint64_t least_of(struct machine *machine, const struct context *context, const struct command *command)
{
    unsigned card = context->part / PARTS;
    uint64_t room = machine->parts[card][context->part % PARTS].multiprocessors * machine->description.cards[card].threads_per_multiprocessor;
    uint64_t together = room / command->units ? room / command->units : 1;
    return command->gap_ns + (command->amount + together - 1) / together * command->each_ns;
}

bool queue_push(struct machine *machine, uint32_t index, const struct command *command)
{
    struct stream *stream = &machine->streams[index];
    if (stream->submitted - stream->completed >= RING)
        return false;
    struct command *slot = &stream->ring[stream->submitted % RING];
    *slot = *command;
    if (slot->kind == KERNEL)
        slot->token = least_of(machine, &machine->contexts[stream->context], command);
    stream->submitted++;
    return true;
}

/* A bound from below for the time until the stream has completed the command with that number. */
uint64_t queue_least(struct machine *machine, uint32_t index, uint64_t number)
{
    const struct stream *stream = &machine->streams[index];
    const struct context *context = &machine->contexts[stream->context];
    uint64_t least = 0;
    for (uint64_t n = stream->completed; n < number && n < stream->submitted; n++) {
        const struct command *command = &stream->ring[n % RING];
        if (n == stream->completed && (stream_stage(stream) == GAP || stream_stage(stream) == RUNNING))
            least += stream->end_run_ns > context->run_ns ? stream->end_run_ns - context->run_ns : 0;
        else if (command->kind == KERNEL)
            least += command->token;
        else
            least += command->each_ns;
    }
    return least;
}

/* Without a nearer bound the wait looks again soon: what it waits for depends on others. */
static uint64_t pause_of(struct machine *machine, uint64_t least_ns)
{
    if (least_ns)
        return least_ns;
    uint64_t next = machine_next(machine);
    uint64_t pause = next == FOREVER || next < machine->now_ns ? 50000 : next - machine->now_ns;
    return pause > 500000 ? 500000 : pause;
}

void queue_wait(struct machine *machine, const struct waiting *waiting)
{
    for (;;) {
        machine_lock(machine);
        machine_advance(machine, clock_now(machine));
        if (waiting->done(machine, waiting->what)) {
            machine_unlock(machine);
            return;
        }
        bool is_virtual = machine->description.clock == CLOCK_VIRTUAL, stuck = false;
        uint64_t pause = 0;
        if (is_virtual) {
            uint64_t next = machine_next(machine);
            stuck = next == FOREVER;
            if (!stuck && machine->virtual_ns < next)
                machine->virtual_ns = next;
        } else {
            pause = pause_of(machine, waiting->least_ns(machine, waiting->what));
        }
        machine_unlock(machine);
        if (is_virtual && stuck)
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        else if (!is_virtual)
            clock_sleep(machine, pause);
    }
}
