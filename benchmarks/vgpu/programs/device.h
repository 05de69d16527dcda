/* What the benchmark's programs share: a kernel that lasts as long as it is told, and simulated time. */
#ifndef DEVICE_H
#define DEVICE_H

#define _GNU_SOURCE
#include <cuda.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define THREADS 256

static inline void check_(CUresult got, const char *call, int line)
{
    const char *name = "unknown";
    if (got == CUDA_SUCCESS)
        return;
    cuGetErrorName(got, &name);
    fprintf(stderr, "line %d: %s gave %s\n", line, call, name);
    _exit(1);
}

#define OK(call) check_((call), #call, __LINE__)

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

static inline uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
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
