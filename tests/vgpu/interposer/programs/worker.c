/* A program of a container, for tests with several. It says "ready", waits for a line, does its part, and prints the result. */
#include "entries.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static void hold(size_t mib)
{
    CUdeviceptr address;
    OK(cu.cuMemAlloc(&address, mib * MIB));
    wait_for_line();
    OK(cu.cuMemFree(address));
    puts("freed");
}

static void hold_without_descriptors(size_t mib)
{
    CUdeviceptr address;
    OK(cu.cuMemAlloc(&address, mib * MIB));
    for (int file = 3; file < 1024; file++)
        close(file);
    wait_for_line();
    OK(cu.cuMemFree(address));
    wait_for_line();
    puts("freed");
}

/* A child has no driver and no part in the ledger, whatever it tries. */
static void forked(size_t mib)
{
    CUdeviceptr address, other;
    int status;
    OK(cu.cuMemAlloc(&address, mib * MIB));
    pid_t child = fork();
    if (child == 0) {
        REQUIRE(cu.cuMemAlloc(&other, MIB) != CUDA_SUCCESS);
        REQUIRE(cu.cuMemFree(address) != CUDA_SUCCESS);
        _exit(0);
    }
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    wait_for_line();
    OK(cu.cuMemFree(address));
    puts("freed");
}

static void replaced(size_t mib)
{
    CUdeviceptr address;
    OK(cu.cuMemAlloc(&address, mib * MIB));
    execlp("sh", "sh", "-c", "echo ready; read line; echo other", (char *)NULL);
}

/* A line each: "alloc MIB", "free" (the newest), "info". */
static void told(void)
{
    CUdeviceptr address[64];
    int count = 0;
    size_t mib, available, total;
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "alloc %zu", &mib) == 1) {
            CUresult result = cu.cuMemAlloc(&address[count], mib * MIB);
            count += result == CUDA_SUCCESS;
            printf("%d\n", (int)result);
        } else if (strcmp(line, "free\n") == 0) {
            printf("%d\n", (int)cu.cuMemFree(address[--count]));
        } else {
            OK(cu.cuMemGetInfo(&available, &total));
            printf("%zu %zu\n", available / MIB, total / MIB);
        }
        fflush(stdout);
    }
}

struct churning {
    unsigned seed;
    size_t most; /* bytes held at most by this thread */
    int endless, may_refuse;
    unsigned long operations, refused;
};

enum { NOTHING, LINEAR, ORDERED, PHYSICAL, ARRAY };

struct held {
    int kind;
    size_t bytes;
    CUdeviceptr address;
    CUmemGenericAllocationHandle physical;
    CUarray array;
};

static void drop(struct held *held, CUstream stream)
{
    if (held->kind == LINEAR)
        OK(cu.cuMemFree(held->address));
    else if (held->kind == ORDERED)
        OK(cu.cuMemFreeAsync(held->address, stream));
    else if (held->kind == PHYSICAL)
        OK(cu.cuMemRelease(held->physical));
    else if (held->kind == ARRAY)
        OK(cu.cuArrayDestroy(held->array));
    held->kind = NOTHING;
    held->bytes = 0;
}

static CUresult take(struct held *held, int kind, size_t bytes, CUstream stream)
{
    static const CUmemAllocationProp on_card = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}}};
    CUDA_ARRAY_DESCRIPTOR flat = {.Width = 512, .Height = bytes / 2048, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
    CUresult result = kind == LINEAR     ? cu.cuMemAlloc(&held->address, bytes)
                      : kind == ORDERED  ? cu.cuMemAllocAsync(&held->address, bytes, stream)
                      : kind == PHYSICAL ? cu.cuMemCreate(&held->physical, bytes, &on_card, 0)
                                         : cu.cuArrayCreate(&held->array, &flat);
    if (result == CUDA_SUCCESS) {
        held->kind = kind;
        held->bytes = bytes;
    }
    return result;
}

/* `most` bounds what is held in whole pieces of 2 MiB, and small ones count as one each, so with enough for all nothing may be refused. */
static void *churn(void *argument)
{
    struct churning *churning = argument;
    struct held held[16] = {0};
    size_t sum = 0;
    CUstream stream;
    OK(cuCtxSetCurrent(context));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (unsigned long at = 0; churning->endless || at < churning->operations; at++) {
        struct held *place = &held[(unsigned)rand_r(&churning->seed) % 16];
        int kind = churning->may_refuse ? 1 + rand_r(&churning->seed) % 4 : LINEAR + 2 * (rand_r(&churning->seed) % 2);
        int small = kind == LINEAR && rand_r(&churning->seed) % 2;
        size_t bytes = small ? 1 + (size_t)rand_r(&churning->seed) % MIB : 2 * MIB * (1 + (size_t)rand_r(&churning->seed) % 16);
        size_t counted = small ? 2 * MIB : bytes;
        sum -= (place->bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
        drop(place, stream);
        if (sum + counted <= churning->most) {
            CUresult result = take(place, kind, bytes, stream);
            REQUIRE(result == CUDA_SUCCESS || (churning->may_refuse && result == CUDA_ERROR_OUT_OF_MEMORY));
            churning->refused += result != CUDA_SUCCESS;
            sum += result == CUDA_SUCCESS ? counted : 0;
        }
        if (at % 16 == 0)
            OK(cu.cuStreamSynchronize(stream));
    }
    OK(cu.cuStreamSynchronize(stream));
    OK(cuStreamDestroy(stream));
    return NULL;
}

/* THREADS threads, OPERATIONS each (0: for ever), at most MIB in all; refusals only if MAY_REFUSE. Holds what it has until the line. */
static void torture(unsigned seed, int threads, unsigned long operations, size_t mib, int may_refuse)
{
    pthread_t thread[8];
    struct churning churning[8];
    unsigned long refused = 0;
    if (!operations) {
        puts("ready");
        fflush(stdout);
    } else {
        wait_for_line();
    }
    for (int i = 0; i < threads; i++) {
        churning[i] = (struct churning){seed * 8 + (unsigned)i, mib * MIB / (size_t)threads, !operations, may_refuse, operations, 0};
        REQUIRE(pthread_create(&thread[i], NULL, churn, &churning[i]) == 0);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        refused += churning[i].refused;
    }
    OK(cuCtxSynchronize());
    printf("%lu\n", refused);
    wait_for_line();
    puts("done");
}

int main(int argc, char **argv)
{
    const char *part = argc > 1 ? argv[1] : "";
    unsigned long number[5] = {0};
    for (int i = 0; i < 5 && i + 2 < argc; i++)
        number[i] = strtoul(argv[i + 2], NULL, 10);
    if (strcmp(part, "refused") == 0) {
        FAILS(CUDA_ERROR_NOT_PERMITTED, cuInit(0));
        REQUIRE(cuDevicePrimaryCtxRetain(&context, 0) != CUDA_SUCCESS);
        return 0;
    }
    start("dlsym");
    if (strcmp(part, "hold") == 0)
        hold(number[0]);
    else if (strcmp(part, "hold_without_descriptors") == 0)
        hold_without_descriptors(number[0]);
    else if (strcmp(part, "forked") == 0)
        forked(number[0]);
    else if (strcmp(part, "replaced") == 0)
        replaced(number[0]);
    else if (strcmp(part, "told") == 0)
        told();
    else if (strcmp(part, "torture") == 0)
        torture((unsigned)number[0], (int)number[1], number[2], number[3], (int)number[4]);
    else
        return 2;
    return 0;
}
