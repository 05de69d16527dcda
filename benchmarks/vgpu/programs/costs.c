/* What calls cost the calling thread in real time: prints the median nanoseconds of one call.

       costs launch|allocate|join

   launch    cuLaunchKernel of a kernel without duration, by batches that are timed together
   allocate  cuMemAlloc of 2 MiB, each by itself
   join      says "ready", waits for a line, and prints how long cuInit takes (the first call, which joins the container) */
#include "device.h"

#define BATCH 32
#define BATCHES 2000
#define SINGLE 4000

static double launches(void)
{
    static double spans[BATCHES];
    uint64_t ns = 0;
    void *parameters[] = {&ns};
    for (int batch = 0; batch < BATCHES; batch++) {
        uint64_t before = monotonic_ns();
        for (int i = 0; i < BATCH; i++)
            OK(cuLaunchKernel(spin, 1, 1, 1, THREADS, 1, 1, 0, NULL, parameters, NULL));
        spans[batch] = (double)(monotonic_ns() - before) / BATCH;
        OK(cuCtxSynchronize());
    }
    return median(spans, BATCHES);
}

static double allocations(void)
{
    static double spans[SINGLE];
    CUdeviceptr address;
    for (int i = 0; i < SINGLE; i++) {
        uint64_t before = monotonic_ns();
        OK(cuMemAlloc(&address, 2 << 20));
        spans[i] = (double)(monotonic_ns() - before);
        OK(cuMemFree(address));
    }
    return median(spans, SINGLE);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "join") == 0) {
        if (!wait_for_line())
            return 0;
        uint64_t before = monotonic_ns();
        OK(cuInit(0));
        printf("%.0f\n", (double)(monotonic_ns() - before));
        fflush(stdout);
        /* It stays until all have joined. */
        wait_for_line();
        return 0;
    }
    start();
    if (strcmp(what, "launch") == 0)
        printf("%.1f\n", launches());
    else if (strcmp(what, "allocate") == 0)
        printf("%.1f\n", allocations());
    else
        return 2;
    return 0;
}
