/* Prints what the simulated machine knows, as one JSON object: the truth that books and measurements are compared with. */
#include "../core/machine.h"
#include <stdio.h>

static void print_cards(const struct machine *machine)
{
    for (unsigned card = 0; card < machine->description.card_count; card++) {
        uint64_t used = 0, busy = 0, switching = 0;
        for (unsigned part = 0; part < PARTS; part++) {
            used += machine->parts[card][part].used_bytes;
            busy += machine->parts[card][part].busy_ns;
            switching += machine->parts[card][part].switching_ns;
        }
        printf("%s{\"used_bytes\":%llu,\"capacity_bytes\":%llu,\"busy_ns\":%llu,\"switching_ns\":%llu}", card ? "," : "", (unsigned long long)used,
               (unsigned long long)machine->parts[card][0].capacity_bytes, (unsigned long long)busy, (unsigned long long)switching);
    }
}

static void print_uses(const struct machine *machine, uint32_t slot)
{
    for (unsigned card = 0; card < machine->description.card_count; card++) {
        uint64_t bytes = 0;
        for (unsigned part = 0; part < PARTS; part++)
            bytes += memory_of(machine, slot, card, part);
        printf("%s{\"used_bytes\":%llu,\"busy_ns\":%llu}", card ? "," : "", (unsigned long long)bytes,
               (unsigned long long)machine->processes[slot].busy_ns[card]);
    }
}

static void print_processes(struct machine *machine)
{
    const char *comma = "";
    for (uint32_t slot = 0; slot < machine->process_end; slot++) {
        if (!machine->processes[slot].state)
            continue;
        printf("%s{\"pid\":%d,\"cards\":[", comma, process_visible_pid(machine, slot));
        print_uses(machine, slot);
        printf("]}");
        comma = ",";
    }
}

int main(void)
{
    struct machine *machine = machine_open();
    if (!machine) {
        fprintf(stderr, "no simulated machine in %s\n", machine_path());
        return 1;
    }
    machine_lock(machine);
    machine_advance(machine, clock_now(machine));
    process_reap(machine);
    printf("{\"now_ns\":%llu,\"cards\":[", (unsigned long long)machine->now_ns);
    print_cards(machine);
    printf("],\"processes\":[");
    print_processes(machine);
    printf("]}\n");
    machine_unlock(machine);
    return 0;
}
