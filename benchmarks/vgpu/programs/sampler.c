/* The truth over time: every INTERVAL simulated nanoseconds what the simulator's own book says of card 0, until the end of
   its input. A line of output:

       simulated_ns monotonic_ns busy_ns switching_ns pid=busy_ns pid=busy_ns …

   It is linked with the simulator's core, as the simulator's `inspect` is. */
#include "machine.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#define MOST 64

struct line {
    uint64_t now, real, busy, switching, each[MOST];
    int pid[MOST];
    unsigned count;
};

static void look(struct machine *machine, struct line *line)
{
    const struct part *part = &machine->parts[0][0];
    machine_lock(machine);
    line->real = monotonic_ns();
    machine_advance(machine, clock_now(machine));
    line->now = machine->now_ns;
    line->busy = part->busy_ns;
    line->switching = part->switching_ns;
    line->count = 0;
    for (uint32_t slot = 0; slot < machine->process_end && line->count < MOST; slot++) {
        if (!machine->processes[slot].state || !machine->processes[slot].contexts)
            continue;
        line->pid[line->count] = process_visible_pid(machine, slot);
        line->each[line->count++] = machine->processes[slot].busy_ns[0];
    }
    machine_unlock(machine);
}

static void print(const struct line *line)
{
    printf("%llu %llu %llu %llu", (unsigned long long)line->now, (unsigned long long)line->real, (unsigned long long)line->busy,
           (unsigned long long)line->switching);
    for (unsigned i = 0; i < line->count; i++)
        printf(" %d=%llu", line->pid[i], (unsigned long long)line->each[i]);
    putchar('\n');
}

int main(int argc, char **argv)
{
    uint64_t interval = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    struct machine *machine = machine_open();
    struct line line;
    if (!machine || !interval) {
        fprintf(stderr, "no simulated machine in %s, or no interval\n", machine_path());
        return 1;
    }
    prctl(PR_SET_TIMERSLACK, 1000UL);
    uint64_t step = interval * machine->description.dilation_ppm / 1000000u, next = monotonic_ns();
    while (poll(&input, 1, 0) == 0) {
        look(machine, &line);
        print(&line);
        next += step;
        if (next < monotonic_ns())
            next = monotonic_ns(); /* a look that was late is not made up for */
        struct timespec until = {.tv_sec = (time_t)(next / 1000000000u), .tv_nsec = (long)(next % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    look(machine, &line);
    print(&line);
    return 0;
}
