#define _GNU_SOURCE
#include "machine.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The books of device memory. Truth is in the processes' own counters and in the holders of shared allocations; all sums follow from
   them, and are computed anew when somebody died while writing. */

bool memory_charge(struct machine *machine, uint32_t process, unsigned card, unsigned part, uint64_t bytes)
{
    struct part *place = &machine->parts[card][part];
    if (bytes > place->capacity_bytes || place->used_bytes > place->capacity_bytes - bytes) {
        process_reap(machine);
        if (bytes > place->capacity_bytes || place->used_bytes > place->capacity_bytes - bytes)
            return false;
    }
    machine->processes[process].own_bytes[card][part] += bytes;
    place->used_bytes += bytes;
    return true;
}

void memory_return(struct machine *machine, uint32_t process, unsigned card, unsigned part, uint64_t bytes)
{
    machine->processes[process].own_bytes[card][part] -= bytes;
    machine->parts[card][part].used_bytes -= bytes;
}

uint64_t memory_of(const struct machine *machine, uint32_t process, unsigned card, unsigned part)
{
    return machine->processes[process].own_bytes[card][part] + machine->processes[process].shared_bytes[card][part];
}

static bool is_living(const struct machine *machine, const struct holder *holder)
{
    const struct process *process = &machine->processes[holder->process];
    return holder->count && process->state && process->generation == holder->generation;
}

static struct holder *payer_of(struct machine *machine, struct shared_allocation *shared)
{
    for (unsigned i = 0; i < MAX_HOLDERS; i++)
        if (is_living(machine, &shared->holders[i]))
            return &shared->holders[i];
    return NULL;
}

/* What nobody holds any more goes, with the file of its content if it has one. */
static void settle_shared(struct machine *machine)
{
    for (uint32_t index = 0; index < machine->shared_end; index++) {
        struct shared_allocation *shared = &machine->shared[index];
        const struct holder *payer = shared->used ? payer_of(machine, shared) : NULL;
        if (payer) {
            machine->processes[payer->process].shared_bytes[shared->card][shared->part] += shared->bytes;
        } else if (shared->used) {
            char path[512];
            snprintf(path, sizeof path, "%s.memory-%llu", machine_path(), (unsigned long long)shared->id);
            unlink(path);
            shared->used = 0;
        }
    }
}

void memory_recount(struct machine *machine)
{
    for (uint32_t slot = 0; slot < machine->process_end; slot++)
        memset(machine->processes[slot].shared_bytes, 0, sizeof machine->processes[slot].shared_bytes);
    settle_shared(machine);
    for (unsigned card = 0; card < machine->description.card_count; card++)
        for (unsigned part = 0; part < PARTS; part++) {
            uint64_t sum = 0;
            for (uint32_t slot = 0; slot < machine->process_end; slot++)
                if (machine->processes[slot].state)
                    sum += memory_of(machine, slot, card, part);
            machine->parts[card][part].used_bytes = sum;
        }
}

static struct holder *find_holder(struct machine *machine, struct shared_allocation *shared, uint32_t process)
{
    for (unsigned i = 0; i < MAX_HOLDERS; i++)
        if (shared->holders[i].process == process && is_living(machine, &shared->holders[i]))
            return &shared->holders[i];
    return NULL;
}

/* Memory that the process has paid for becomes shared: it goes on paying while it holds it. */
uint32_t shared_create(struct machine *machine, uint32_t process, unsigned card, unsigned part, uint64_t bytes)
{
    for (uint32_t index = 0; index < MAX_SHARED; index++) {
        struct shared_allocation *shared = &machine->shared[index];
        if (shared->used)
            continue;
        memset(shared, 0, sizeof *shared);
        shared->card = card;
        shared->part = part;
        shared->bytes = bytes;
        shared->id = machine->next_shared_id++;
        shared->holders[0] = (struct holder){process, machine->processes[process].generation, 1};
        if (index >= machine->shared_end)
            machine->shared_end = index + 1;
        machine->processes[process].own_bytes[card][part] -= bytes;
        machine->processes[process].shared_bytes[card][part] += bytes;
        shared->used = 1;
        return index;
    }
    return NOBODY;
}

bool shared_hold(struct machine *machine, uint32_t index, uint32_t process)
{
    struct shared_allocation *shared = &machine->shared[index];
    struct holder *holder = find_holder(machine, shared, process);
    if (holder) {
        holder->count++;
        return true;
    }
    for (unsigned i = 0; i < MAX_HOLDERS; i++) {
        holder = &shared->holders[i];
        if (is_living(machine, holder))
            continue;
        holder->count = 0;
        holder->process = process;
        holder->generation = machine->processes[process].generation;
        holder->count = 1;
        return true;
    }
    return false;
}

void shared_release(struct machine *machine, uint32_t index, uint32_t process)
{
    struct holder *holder = find_holder(machine, &machine->shared[index], process);
    if (!holder)
        return;
    holder->count--;
    if (!holder->count)
        memory_recount(machine);
}
