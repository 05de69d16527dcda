/* Exact times where the clock is virtual: prints nanoseconds of the simulated card, one line a measurement. */
#include "check.h"

static void print(const char *what, CUevent first, CUevent last)
{
    float ms;
    OK(cuEventElapsedTime(&ms, first, last));
    printf("%s %.0f\n", what, (double)ms * 1e6);
}

static void alone(void)
{
    CUevent events[3];
    start();
    for (int i = 0; i < 3; i++)
        OK(cuEventCreate(&events[i], 0));
    OK(cuEventRecord(events[0], NULL));
    launch(1, 5000000, NULL);
    OK(cuEventRecord(events[1], NULL));
    launch(1, 1000000, NULL);
    launch(1, 1000000, NULL);
    OK(cuEventRecord(events[2], NULL));
    OK(cuCtxSynchronize());
    print("one", events[0], events[1]);
    print("two", events[1], events[2]);
}

/* Blocks of 64 threads: the card holds threads_per_multiprocessor / 64 on each multiprocessor, at most 32. */
static void waves(void)
{
    CUevent events[3];
    int multiprocessors, blocks;
    start();
    OK(cuDeviceGetAttribute(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, spin, 64, 0));
    for (int i = 0; i < 3; i++)
        OK(cuEventCreate(&events[i], 0));
    OK(cuEventRecord(events[0], NULL));
    launch((unsigned)(multiprocessors * blocks), 1000000, NULL);
    OK(cuEventRecord(events[1], NULL));
    launch((unsigned)(multiprocessors * blocks) * 3 + 1, 1000000, NULL);
    OK(cuEventRecord(events[2], NULL));
    OK(cuCtxSynchronize());
    print("one", events[0], events[1]);
    print("four", events[1], events[2]);
}

/* Two contexts with 10 ms of work each. */
static void sliced(void)
{
    CUcontext contexts[2];
    CUstream streams[2];
    CUevent events[2][2];
    CUmodule module;
    OK(cuInit(0));
    for (int i = 0; i < 2; i++) {
        OK(cuCtxCreate(&contexts[i], NULL, 0, 0));
        OK(cuStreamCreate(&streams[i], CU_STREAM_NON_BLOCKING));
        OK(cuEventCreate(&events[i][0], 0));
        OK(cuEventCreate(&events[i][1], 0));
    }
    for (int i = 0; i < 2; i++) {
        OK(cuCtxSetCurrent(contexts[i]));
        OK(cuModuleLoadData(&module, image));
        OK(cuModuleGetFunction(&spin, module, "spin"));
        OK(cuEventRecord(events[i][0], streams[i]));
        launch(1, 10000000, streams[i]);
        OK(cuEventRecord(events[i][1], streams[i]));
    }
    for (int i = 0; i < 2; i++) {
        OK(cuCtxSetCurrent(contexts[i]));
        OK(cuStreamSynchronize(streams[i]));
        print(i ? "second" : "first", events[i][0], events[i][1]);
    }
}

/* Two streams of one context share the multiprocessors; a more important one goes first at the end of a wave. */
static void streams(void)
{
    CUstream low, high;
    CUevent events[4];
    int multiprocessors, blocks;
    start();
    OK(cuStreamCreateWithPriority(&low, CU_STREAM_NON_BLOCKING, 0));
    OK(cuStreamCreateWithPriority(&high, CU_STREAM_NON_BLOCKING, -5));
    OK(cuDeviceGetAttribute(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, spin, 64, 0));
    unsigned whole = (unsigned)(multiprocessors * blocks);
    for (int i = 0; i < 4; i++)
        OK(cuEventCreate(&events[i], 0));
    OK(cuEventRecord(events[0], low));
    launch(whole / 2, 1000000, low);
    OK(cuEventRecord(events[1], low));
    launch(whole / 2, 1000000, high);
    OK(cuEventRecord(events[2], high));
    OK(cuCtxSynchronize());
    print("together", events[0], events[2]);
    OK(cuEventRecord(events[0], low));
    launch(whole * 10, 1000000, low);
    OK(cuEventRecord(events[1], low));
    launch(whole, 1000000, high);
    OK(cuEventRecord(events[2], high));
    OK(cuCtxSynchronize());
    print("high", events[0], events[2]);
    print("low", events[0], events[1]);
}

int main(int count, char **arguments)
{
    const char *part = count > 1 ? arguments[1] : "";
    if (strcmp(part, "alone") == 0)
        alone();
    else if (strcmp(part, "waves") == 0)
        waves();
    else if (strcmp(part, "sliced") == 0)
        sliced();
    else if (strcmp(part, "streams") == 0)
        streams();
    else
        return 2;
    return 0;
}
