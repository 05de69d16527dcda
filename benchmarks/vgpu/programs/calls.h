/* What programs that measure calls of the driver share. */
#ifndef CALLS_H
#define CALLS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

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

static inline uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline int by_value(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

/* Sorts the list. */
static inline double median(double *list, size_t count)
{
    qsort(list, count, sizeof *list, by_value);
    return list[count / 2];
}

#endif
