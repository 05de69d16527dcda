/* Cards in simulated time. Contexts that have work take turns, a slice each; a change of context costs the card's switching time; who
   has nothing to do gives the rest of its slice away at once; who is alone keeps the card, and the end of its slice stays on the grid
   that began with it. Nothing runs by itself: whoever looks brings the machine forward to now, which is exact since what is submitted
   later cannot change what was before. */
#include "machine.h"

static unsigned part_count(const struct machine *machine, unsigned card)
{
    return machine->mig[card].mode ? PARTS : 1;
}

static uint32_t next_runnable(struct machine *machine, const struct part *part, uint32_t after)
{
    uint32_t start = after == NOBODY ? NOBODY : machine->contexts[after].next;
    for (uint32_t index = start; index != NOBODY; index = machine->contexts[index].next)
        if (context_runnable(machine, &machine->contexts[index]))
            return index;
    for (uint32_t index = part->first_context; index != start && index != NOBODY; index = machine->contexts[index].next)
        if (context_runnable(machine, &machine->contexts[index]))
            return index;
    return NOBODY;
}

static bool other_runnable(struct machine *machine, const struct part *part)
{
    for (uint32_t index = part->first_context; index != NOBODY; index = machine->contexts[index].next)
        if (index != part->current && context_runnable(machine, &machine->contexts[index]))
            return true;
    return false;
}

static void switch_to(struct machine *machine, const struct card_description *about, struct part *part, uint32_t index)
{
    part->current = index;
    if (index == NOBODY)
        return;
    part->switching_until = machine->now_ns;
    if (part->loaded != NOBODY && part->loaded != index)
        part->switching_until += about->switch_ns;
    part->loaded = index;
    part->slice_end = part->switching_until + about->slice_ns;
}

static void renew_slice(const struct machine *machine, const struct card_description *about, struct part *part)
{
    if (part->slice_end < machine->now_ns)
        part->slice_end += (machine->now_ns - part->slice_end + about->slice_ns - 1) / about->slice_ns * about->slice_ns;
}

static bool settle_part(struct machine *machine, const struct card_description *about, struct part *part)
{
    bool changed = false;
    for (;;) {
        if (part->current != NOBODY && machine->now_ns < part->switching_until)
            return changed;
        if (part->current != NOBODY) {
            struct context *context = &machine->contexts[part->current];
            changed |= context_settle(machine, context);
            renew_slice(machine, about, part);
            bool over = machine->now_ns >= part->slice_end;
            if (context_runnable(machine, context) && !(over && other_runnable(machine, part)))
                return changed;
        }
        uint32_t next = next_runnable(machine, part, part->current != NOBODY ? part->current : part->loaded);
        switch_to(machine, about, part, next);
        if (next == NOBODY)
            return changed;
        changed = true;
    }
}

static uint64_t part_next(struct machine *machine, struct part *part)
{
    if (part->current == NOBODY)
        return FOREVER;
    if (machine->now_ns < part->switching_until)
        return part->switching_until;
    struct context *context = &machine->contexts[part->current];
    uint64_t next = context_next(machine, context);
    if (next != FOREVER)
        next = machine->now_ns + (next > context->run_ns ? next - context->run_ns : 0);
    if (part->slice_end < next && other_runnable(machine, part))
        next = part->slice_end;
    return next;
}

uint64_t machine_next(struct machine *machine)
{
    uint64_t next = FOREVER;
    for (unsigned card = 0; card < machine->description.card_count; card++)
        for (unsigned part = 0; part < part_count(machine, card); part++) {
            uint64_t candidate = part_next(machine, &machine->parts[card][part]);
            if (candidate < next)
                next = candidate;
        }
    return next;
}

static bool settle(struct machine *machine)
{
    bool changed = false;
    for (unsigned card = 0; card < machine->description.card_count; card++)
        for (unsigned part = 0; part < part_count(machine, card); part++)
            if (machine->parts[card][part].first_context != NOBODY)
                changed |= settle_part(machine, &machine->description.cards[card], &machine->parts[card][part]);
    return changed;
}

static void elapse(struct machine *machine, uint64_t to_ns)
{
    for (unsigned card = 0; card < machine->description.card_count; card++)
        for (unsigned part = 0; part < part_count(machine, card); part++) {
            struct part *place = &machine->parts[card][part];
            uint64_t span = to_ns - machine->now_ns;
            if (place->current == NOBODY)
                continue;
            if (machine->now_ns < place->switching_until) {
                place->switching_ns += span;
                continue;
            }
            struct context *context = &machine->contexts[place->current];
            if (context_busy(machine, context)) {
                place->busy_ns += span;
                machine->processes[context->process].busy_ns[card] += span;
                utilisation_add(machine, context->process, card, machine->now_ns, to_ns);
            }
            context->run_ns += span;
        }
    machine->now_ns = to_ns;
}

void machine_advance(struct machine *machine, uint64_t to_ns)
{
    if (machine->now_ns - machine->last_reap_ns > 1000000u) {
        machine->last_reap_ns = machine->now_ns;
        process_reap(machine);
    }
    for (;;) {
        while (settle(machine))
            ;
        if (to_ns <= machine->now_ns)
            return;
        uint64_t next = machine_next(machine);
        elapse(machine, next < to_ns ? next : to_ns);
    }
}
