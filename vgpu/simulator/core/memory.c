/* The books of device memory. Truth is in the processes' own counters and in the shared allocations; the parts' sums follow from them. */
#define _GNU_SOURCE
#include "machine.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool memory_charge(struct machine *machine, uint32_t process, unsigned card, unsigned part, uint64_t bytes)
{
    struct part *place = &machine->parts[card][part];
    if (bytes > place->capacity_bytes || place->used_bytes > place->capacity_bytes - bytes) {
        process_reap(machine);
        if (bytes > place->capacity_bytes || place->used_bytes > place->capacity_bytes - bytes)
            return false;
    }
    machine->processes[process].used_bytes[card][part] += bytes;
    place->used_bytes += bytes;
    return true;
}

void memory_return(struct machine *machine, uint32_t process, unsigned card, unsigned part, uint64_t bytes)
{
    machine->processes[process].used_bytes[card][part] -= bytes;
    machine->parts[card][part].used_bytes -= bytes;
}

void memory_recount(struct machine *machine)
{
    for (unsigned card = 0; card < machine->description.card_count; card++) {
        for (unsigned part = 0; part < PARTS; part++) {
            uint64_t sum = 0;
            for (uint32_t slot = 0; slot < machine->process_end; slot++)
                if (machine->processes[slot].state)
                    sum += machine->processes[slot].used_bytes[card][part];
            machine->parts[card][part].used_bytes = sum;
        }
    }
}

static struct holder *find_holder(struct machine *machine, struct shared_allocation *shared, uint32_t process)
{
    for (unsigned i = 0; i < MAX_HOLDERS; i++) {
        struct holder *holder = &shared->holders[i];
        if (holder->count && holder->process == process && holder->generation == machine->processes[process].generation)
            return holder;
    }
    return NULL;
}

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
        shared->payer = process;
        shared->payer_generation = machine->processes[process].generation;
        shared->id = machine->next_shared_id++;
        shared->holders[0] = (struct holder){process, shared->payer_generation, 1};
        shared->used = 1;
        if (index >= machine->shared_end)
            machine->shared_end = index + 1;
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
        if (!shared->holders[i].count) {
            shared->holders[i] = (struct holder){process, machine->processes[process].generation, 1};
            return true;
        }
    }
    return false;
}

/* The memory stays charged once: to the payer while it holds it, then to another holder. */
static bool settle_payer(struct machine *machine, struct shared_allocation *shared, uint32_t leaving)
{
    if (shared->payer != leaving)
        return false;
    memory_return(machine, leaving, shared->card, shared->part, shared->bytes);
    for (unsigned i = 0; i < MAX_HOLDERS; i++) {
        struct holder *holder = &shared->holders[i];
        if (holder->count && machine->processes[holder->process].generation == holder->generation) {
            shared->payer = holder->process;
            shared->payer_generation = holder->generation;
            machine->processes[shared->payer].used_bytes[shared->card][shared->part] += shared->bytes;
            machine->parts[shared->card][shared->part].used_bytes += shared->bytes;
            return false;
        }
    }
    char path[512];
    snprintf(path, sizeof path, "%s.memory-%llu", machine_path(), (unsigned long long)shared->id);
    unlink(path);
    shared->used = 0;
    return true;
}

bool shared_release(struct machine *machine, uint32_t index, uint32_t process)
{
    struct shared_allocation *shared = &machine->shared[index];
    struct holder *holder = find_holder(machine, shared, process);
    if (!holder || --holder->count)
        return false;
    return settle_payer(machine, shared, process);
}

void shared_release_all(struct machine *machine, uint32_t process)
{
    for (uint32_t index = 0; index < machine->shared_end; index++) {
        struct shared_allocation *shared = &machine->shared[index];
        struct holder *holder = shared->used ? find_holder(machine, shared, process) : NULL;
        if (!holder)
            continue;
        holder->count = 0;
        settle_payer(machine, shared, process);
    }
}
