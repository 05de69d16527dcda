/* What the benchmark's programs share: a kernel that lasts as long as it is told, and simulated time. */
#ifndef DEVICE_H
#define DEVICE_H

#define _GNU_SOURCE
#include "calls.h"
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>

#define THREADS 256

static const char image[] =
    "// simulated kernel spin block_ns=@0 parameters=8\n"
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry spin(.param .u64 ns)\n{\nret;\n}\n";

static CUcontext context;
static CUfunction spin;
static unsigned wave; /* blocks that fill the card once, so that a kernel lasts as long as one of its blocks */

static inline void start(void)
{
    CUmodule module;
    int multiprocessors, blocks;
    prctl(PR_SET_TIMERSLACK, 1000UL);
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, image));
    OK(cuModuleGetFunction(&spin, module, "spin"));
    OK(cuDeviceGetAttribute(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, spin, THREADS, 0));
    wave = (unsigned)(multiprocessors * blocks);
}

static inline void sleep_until(uint64_t ns)
{
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
        ;
}

/* Says "ready" and waits for a line; false at the end of the input. */
static inline bool wait_for_line(void)
{
    char line[64];
    puts("ready");
    fflush(stdout);
    return fgets(line, sizeof line, stdin) != NULL;
}

#endif
