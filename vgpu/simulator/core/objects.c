/* Contexts, streams and events in the shared tables. An index is given again only with a new generation. */
#include "machine.h"

uint32_t context_create(struct machine *machine, uint32_t process, unsigned card, unsigned part)
{
    for (uint32_t index = 0; index < MAX_CONTEXTS; index++) {
        struct context *context = &machine->contexts[index];
        struct part *place = &machine->parts[card][part];
        if (context->used)
            continue;
        *context = (struct context){
            .process = process, .part = card * PARTS + part, .next = place->first_context, .first_stream = NOBODY};
        context->used = 1;
        place->first_context = index;
        machine->processes[process].contexts |= 1ull << card;
        if (index >= machine->context_end)
            machine->context_end = index + 1;
        return index;
    }
    return NOBODY;
}

static void unlink_context(struct machine *machine, uint32_t index)
{
    struct context *context = &machine->contexts[index];
    struct part *place = &machine->parts[context->part / PARTS][context->part % PARTS];
    uint32_t *link = &place->first_context;
    while (*link != NOBODY && *link != index)
        link = &machine->contexts[*link].next;
    if (*link == index)
        *link = context->next;
    if (place->current == index)
        place->current = NOBODY;
    if (place->loaded == index)
        place->loaded = NOBODY;
}

void context_destroy(struct machine *machine, uint32_t index)
{
    struct context *context = &machine->contexts[index];
    uint32_t process = context->process;
    unsigned card = context->part / PARTS;
    while (context->first_stream != NOBODY)
        stream_destroy(machine, context->first_stream);
    unlink_context(machine, index);
    context->used = 0;
    for (uint32_t other = 0; other < machine->context_end; other++)
        if (machine->contexts[other].used && machine->contexts[other].process == process && machine->contexts[other].part / PARTS == card)
            return;
    machine->processes[process].contexts &= ~(1ull << card);
}

uint32_t stream_create(struct machine *machine, uint32_t context, int priority, bool blocking)
{
    for (uint32_t index = 0; index < MAX_STREAMS; index++) {
        struct stream *stream = &machine->streams[index];
        if (stream->used)
            continue;
        stream->generation++;
        stream->context = context;
        stream->priority = priority;
        stream->blocking = blocking;
        stream->submitted = stream->completed = 0;
        stream->staged = 0;
        stream->running_units = 0;
        stream->next = machine->contexts[context].first_stream;
        stream->used = 1;
        machine->contexts[context].first_stream = index;
        if (index >= machine->stream_end)
            machine->stream_end = index + 1;
        return index;
    }
    return NOBODY;
}

void stream_destroy(struct machine *machine, uint32_t index)
{
    struct stream *stream = &machine->streams[index];
    struct context *context = &machine->contexts[stream->context];
    uint32_t *link = &context->first_stream;
    while (*link != NOBODY && *link != index)
        link = &machine->streams[*link].next;
    if (*link == index)
        *link = stream->next;
    stream->used = 0;
    stream->generation++;
}

uint32_t event_create(struct machine *machine, uint32_t process)
{
    for (uint32_t tried = 0, index = machine->next_event_number; tried < MAX_EVENTS; tried++, index++) {
        struct event *event = &machine->events[index % MAX_EVENTS];
        if (event->used)
            continue;
        event->generation++;
        event->owner = process;
        event->shared = 0;
        event->recorded = event->completed = event->time_ns = 0;
        event->used = 1;
        index %= MAX_EVENTS;
        machine->next_event_number = index + 1;
        if (index >= machine->event_end)
            machine->event_end = index + 1;
        return index;
    }
    return NOBODY;
}

void event_destroy(struct machine *machine, uint32_t index)
{
    machine->events[index].used = 0;
    machine->events[index].generation++;
}
