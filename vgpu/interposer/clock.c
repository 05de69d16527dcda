/* The time in which cards are shared, and sleeping in it. */
#define _GNU_SOURCE
#include "compute.h"
#include <stdlib.h>
#include <time.h>

#ifdef TESSERA_TRIAL /* simulated cards may run slower than the clock, so that many processes fit few processors */
static uint64_t slowness_ppm(void)
{
    static uint64_t known;
    uint64_t ppm = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!ppm) {
        const char *value = getenv("TESSERA_TRIAL_DILATION_PPM");
        ppm = value ? strtoull(value, NULL, 10) : 0;
        ppm = ppm ? ppm : 1000000;
        __atomic_store_n(&known, ppm, __ATOMIC_RELAXED);
    }
    return ppm;
}
#else
#define slowness_ppm() UINT64_C(1000000)
#endif

uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t real = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return slowness_ppm() == 1000000u ? real : (uint64_t)((unsigned __int128)real * 1000000u / slowness_ppm());
}

void clock_sleep(uint64_t ns)
{
    uint64_t real = (uint64_t)((unsigned __int128)ns * slowness_ppm() / 1000000u);
    nanosleep(&(struct timespec){.tv_sec = (time_t)(real / 1000000000u), .tv_nsec = (long)(real % 1000000000u)}, NULL);
}
