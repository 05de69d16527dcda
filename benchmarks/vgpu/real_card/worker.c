/* What the processes of the benchmark do. Each says "ready", answers each line of its input with a line, and ends with the end of it.

       worker about                        one line: UUID, bytes, the driver's version, name
       worker launch                       one line: nanoseconds of a launch of an empty kernel, median of batches
       worker allocate                     one line: nanoseconds of an allocation of 2 MiB, median
       worker load matmul|stream|graph     keeps the card busy from the first line on; answers the launches done so far, and CLOCK_MONOTONIC
       worker requests MEAN_NS             from the first line to the second: Poisson arrivals, each a small matrix product that is waited for;
                                           answers the number, the median and the 99th percentile of the latencies in microseconds
       worker hold                         has a context; answers the card's free bytes
       worker grow                         answers how many pieces of 64 MiB it has been given, asking for more each time
       worker share                        answers the handle of 64 MiB that it has filled
       worker open HANDLE                  answers "same" if that is what it finds there */
#define _GNU_SOURCE
#include "../programs/calls.h"
#include "kernels.h"
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define BATCHES 500
#define BATCH 32
#define FLIGHT 8
#define NODES 20
#define MOST 200000
#define FEWEST 20
#define SIDE 2048
#define SMALL_SIDE 512
#define STREAMED (64u << 20)

static CUcontext context;
static CUfunction empty, matmul, stream_kernel;
static CUstream stream;
static uint64_t done;

static bool next_line(void)
{
    char line[256];
    return fgets(line, sizeof line, stdin) != NULL;
}

static void ready(void)
{
    puts("ready");
    fflush(stdout);
}

static void start(void)
{
    CUmodule module;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, kernels));
    OK(cuModuleGetFunction(&empty, module, "empty"));
    OK(cuModuleGetFunction(&matmul, module, "matmul"));
    OK(cuModuleGetFunction(&stream_kernel, module, "stream"));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
}

static CUdeviceptr zeros(size_t bytes)
{
    CUdeviceptr address;
    OK(cuMemAlloc(&address, bytes));
    OK(cuMemsetD8(address, 0, bytes));
    return address;
}

static void about(void)
{
    CUuuid uuid;
    char name[128];
    size_t bytes;
    int version;
    OK(cuInit(0));
    OK(cuDeviceGetUuid(&uuid, 0));
    OK(cuDeviceGetName(name, sizeof name, 0));
    OK(cuDeviceTotalMem(&bytes, 0));
    OK(cuDriverGetVersion(&version));
    printf("GPU-");
    for (int i = 0; i < 16; i++)
        printf("%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", (unsigned char)uuid.bytes[i]);
    printf(" %zu %d %s\n", bytes, version, name);
}

static double launches(void)
{
    static double spans[BATCHES];
    uint64_t zero = 0;
    void *parameters[] = {&zero};
    for (int batch = 0; batch < BATCHES; batch++) {
        uint64_t before = monotonic_ns();
        for (int i = 0; i < BATCH; i++)
            OK(cuLaunchKernel(empty, 1, 1, 1, 32, 1, 1, 0, stream, parameters, NULL));
        spans[batch] = (double)(monotonic_ns() - before) / BATCH;
        OK(cuStreamSynchronize(stream));
    }
    return median(spans, BATCHES);
}

static double allocations(void)
{
    static double spans[BATCHES];
    CUdeviceptr address;
    for (int i = 0; i < BATCHES; i++) {
        uint64_t before = monotonic_ns();
        OK(cuMemAlloc(&address, 2 * MIB));
        spans[i] = (double)(monotonic_ns() - before);
        OK(cuMemFree(address));
    }
    return median(spans, BATCHES);
}

/* What a launch of a kind is, made ready once. */
static CUdeviceptr one, two, three;
static CUgraphExec graph;

static void multiply(unsigned side)
{
    void *parameters[] = {&one, &two, &three, &side};
    OK(cuLaunchKernel(matmul, side / 16, side / 16, 1, 16, 16, 1, 0, stream, parameters, NULL));
}

static void pass_over(void)
{
    unsigned count = STREAMED;
    void *parameters[] = {&one, &two, &count};
    OK(cuLaunchKernel(stream_kernel, 4096, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
}

static void prepare(const char *kind)
{
    bool streams = strcmp(kind, "stream") == 0;
    size_t bytes = streams ? STREAMED * sizeof(float) : SIDE * SIDE * sizeof(float);
    one = zeros(bytes);
    two = zeros(bytes);
    three = streams ? 0 : zeros(bytes);
    if (strcmp(kind, "graph") != 0)
        return;
    CUgraph captured;
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    for (int i = 0; i < NODES; i++)
        multiply(SMALL_SIDE);
    OK(cuStreamEndCapture(stream, &captured));
    OK(cuGraphInstantiateWithFlags(&graph, captured, 0));
}

static void launch_one(const char *kind)
{
    if (graph)
        OK(cuGraphLaunch(graph, stream));
    else if (strcmp(kind, "stream") == 0)
        pass_over();
    else
        multiply(SIDE);
}

static void *answer_with_count(void *unused)
{
    (void)unused;
    while (next_line()) {
        printf("%llu %llu\n", (unsigned long long)__atomic_load_n(&done, __ATOMIC_ACQUIRE), (unsigned long long)monotonic_ns());
        fflush(stdout);
    }
    _exit(0);
}

/* Counts what has ended on the card, not what was launched. */
static void load(const char *kind)
{
    CUevent events[FLIGHT];
    pthread_t thread;
    prepare(kind);
    for (int i = 0; i < FLIGHT; i++)
        OK(cuEventCreate(&events[i], CU_EVENT_DISABLE_TIMING));
    ready();
    if (!next_line() || pthread_create(&thread, NULL, answer_with_count, NULL))
        _exit(1);
    for (uint64_t at = 0;; at++) {
        if (at >= FLIGHT) {
            OK(cuEventSynchronize(events[at % FLIGHT]));
            __atomic_fetch_add(&done, 1, __ATOMIC_RELEASE);
        }
        launch_one(kind);
        OK(cuEventRecord(events[at % FLIGHT], stream));
    }
}

static bool stopped;

static void *wait_for_stop(void *unused)
{
    (void)unused;
    next_line();
    __atomic_store_n(&stopped, true, __ATOMIC_RELEASE);
    return NULL;
}

static void requests(double mean_ns)
{
    static double latencies[MOST];
    size_t count = 0;
    pthread_t thread;
    prepare("matmul");
    multiply(SMALL_SIDE);
    OK(cuStreamSynchronize(stream));
    ready();
    if (!next_line() || pthread_create(&thread, NULL, wait_for_stop, NULL))
        _exit(1);
    srand48(7);
    uint64_t arrival = monotonic_ns();
    while (count < FEWEST || (!__atomic_load_n(&stopped, __ATOMIC_ACQUIRE) && count < MOST)) {
        arrival += (uint64_t)(-log(1 - drand48()) * mean_ns);
        struct timespec until = {.tv_sec = (time_t)(arrival / 1000000000u), .tv_nsec = (long)(arrival % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        multiply(SMALL_SIDE);
        OK(cuStreamSynchronize(stream));
        latencies[count++] = (double)(monotonic_ns() - arrival) / 1000;
    }
    qsort(latencies, count, sizeof *latencies, by_value);
    printf("%zu %.1f %.1f\n", count, latencies[count / 2], latencies[count * 99 / 100]);
    fflush(stdout);
    pthread_join(thread, NULL);
}

static void hold(void)
{
    size_t available, total;
    ready();
    while (next_line()) {
        OK(cuMemGetInfo(&available, &total));
        printf("%zu\n", available);
        fflush(stdout);
    }
}

static void grow(void)
{
    CUdeviceptr piece;
    int pieces = 0;
    ready();
    while (next_line()) {
        while (cuMemAlloc(&piece, 64 * MIB) == CUDA_SUCCESS)
            pieces++;
        printf("%d\n", pieces);
        fflush(stdout);
    }
}

static void share(void)
{
    CUipcMemHandle handle;
    CUdeviceptr address = zeros(64 * MIB);
    OK(cuMemsetD8(address, 0x5a, 64 * MIB));
    OK(cuCtxSynchronize());
    OK(cuIpcGetMemHandle(&handle, address));
    ready();
    while (next_line()) {
        for (size_t i = 0; i < sizeof handle.reserved; i++)
            printf("%02x", (unsigned char)handle.reserved[i]);
        puts("");
        fflush(stdout);
    }
}

static void open_shared(const char *text)
{
    CUipcMemHandle handle;
    CUdeviceptr address;
    unsigned char found[4096], wanted[4096];
    for (size_t i = 0; i < sizeof handle.reserved; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            _exit(2);
        handle.reserved[i] = (char)byte;
    }
    memset(wanted, 0x5a, sizeof wanted);
    OK(cuIpcOpenMemHandle(&address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    OK(cuMemcpyDtoH(found, address + 63 * MIB, sizeof found));
    ready();
    while (next_line()) {
        puts(memcmp(found, wanted, sizeof found) == 0 ? "same" : "other");
        fflush(stdout);
    }
    OK(cuIpcCloseMemHandle(address));
}

int main(int count, char **arguments)
{
    const char *what = count > 1 ? arguments[1] : "", *more = count > 2 ? arguments[2] : "";
    if (strcmp(what, "about") == 0) {
        about();
        return 0;
    }
    start();
    if (strcmp(what, "launch") == 0)
        printf("%.1f\n", launches());
    else if (strcmp(what, "allocate") == 0)
        printf("%.1f\n", allocations());
    else if (strcmp(what, "load") == 0)
        load(more);
    else if (strcmp(what, "requests") == 0)
        requests(atof(more));
    else if (strcmp(what, "hold") == 0)
        hold();
    else if (strcmp(what, "grow") == 0)
        grow();
    else if (strcmp(what, "share") == 0)
        share();
    else if (strcmp(what, "open") == 0)
        open_shared(more);
    else
        return 2;
    return 0;
}
