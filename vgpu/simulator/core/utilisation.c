/* What NVML samples: busy time by process and card in buckets of one sampling period, read some periods together as whole percents. */
#include "machine.h"

void utilisation_add(struct machine *machine, uint32_t process, unsigned card, uint64_t from_ns, uint64_t to_ns)
{
    uint64_t period = machine->description.cards[card].utilisation_period_ns;
    while (from_ns < to_ns) {
        uint64_t number = from_ns / period;
        uint64_t end = (number + 1) * period < to_ns ? (number + 1) * period : to_ns;
        struct bucket *bucket = &machine->processes[process].buckets[card][number % BUCKETS];
        if (bucket->number != number) {
            bucket->busy_ns = 0;
            bucket->number = number;
        }
        bucket->busy_ns += end - from_ns;
        from_ns = end;
    }
}

/* Sample n covers the window that ends with period n - 1 and is readable utilisation_lag_ns later. */
uint64_t utilisation_sample(struct machine *machine, unsigned card)
{
    const struct card_description *about = &machine->description.cards[card];
    uint64_t now = clock_now(machine);
    return now < about->utilisation_lag_ns ? 0 : (now - about->utilisation_lag_ns) / about->utilisation_period_ns;
}

uint64_t utilisation_sample_ns(struct machine *machine, unsigned card, uint64_t sample)
{
    return sample * machine->description.cards[card].utilisation_period_ns;
}

unsigned utilisation_percent(struct machine *machine, uint32_t process, unsigned card, uint64_t sample)
{
    const struct card_description *about = &machine->description.cards[card];
    uint64_t periods = (about->utilisation_window_ns + about->utilisation_period_ns / 2) / about->utilisation_period_ns;
    uint64_t busy = 0;
    if (periods > BUCKETS - 4)
        periods = BUCKETS - 4;
    if (periods > sample)
        periods = sample;
    for (uint64_t number = sample - periods; number < sample; number++) {
        const struct bucket *bucket = &machine->processes[process].buckets[card][number % BUCKETS];
        if (bucket->number == number)
            busy += bucket->busy_ns;
    }
    return periods ? (unsigned)(busy * 100 / (periods * about->utilisation_period_ns)) : 0;
}
