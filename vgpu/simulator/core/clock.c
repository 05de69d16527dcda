/* Simulated time: real time slowed or hastened by a factor, or a counter that only calls move. */
#define _GNU_SOURCE
#include "machine.h"
#include <sched.h>
#include <sys/prctl.h>
#include <time.h>

uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t to_real(const struct machine *machine, uint64_t simulated_ns)
{
    return (uint64_t)((unsigned __int128)simulated_ns * machine->description.dilation_ppm / 1000000u);
}

uint64_t clock_now(struct machine *machine)
{
    const struct machine_description *about = &machine->description;
    if (about->clock == CLOCK_VIRTUAL)
        return __atomic_load_n(&machine->virtual_ns, __ATOMIC_RELAXED);
    uint64_t real = monotonic_ns() - about->monotonic_base_ns;
    if (about->dilation_ppm == 1000000u)
        return real;
    return (uint64_t)((unsigned __int128)real * 1000000u / about->dilation_ppm);
}

uint64_t clock_wall_us(struct machine *machine, uint64_t simulated_ns)
{
    return machine->description.wall_base_us + to_real(machine, simulated_ns) / 1000;
}

/* A call that takes the calling thread simulated_ns, counted from since_monotonic_ns. */
void clock_spend(struct machine *machine, uint64_t since_monotonic_ns, uint64_t simulated_ns)
{
    if (machine->description.clock == CLOCK_VIRTUAL) {
        __atomic_fetch_add(&machine->virtual_ns, simulated_ns, __ATOMIC_RELAXED);
        return;
    }
    uint64_t until = since_monotonic_ns + to_real(machine, simulated_ns);
    while (monotonic_ns() < until)
        ;
}

/* Sleeps as exactly as the kernel can: the thread's timer slack, 50 us by default, is narrowed for the sleep. */
void clock_sleep(struct machine *machine, uint64_t simulated_ns)
{
    uint64_t real = to_real(machine, simulated_ns);
    if (real < 5000) {
        sched_yield();
        return;
    }
    int slack = prctl(PR_GET_TIMERSLACK);
    if (slack > 1000)
        prctl(PR_SET_TIMERSLACK, 1000UL);
    struct timespec span = {.tv_sec = (time_t)(real / 1000000000u), .tv_nsec = (long)(real % 1000000000u)};
    nanosleep(&span, NULL);
    if (slack > 1000)
        prctl(PR_SET_TIMERSLACK, (unsigned long)slack);
}
