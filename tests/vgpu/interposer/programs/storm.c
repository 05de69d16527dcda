/* All kinds of calls from several threads of one program. storm SEED THREADS OPERATIONS: says "ready", waits for a line, makes so many
   in each thread, forks now and then, and prints "done". Refusals for want of memory are right, everything else must succeed. */
#include "../../simulator/programs/check.h"
#include <dlfcn.h>
#include <nvml.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define STREAMS 12 /* of a thread; with all of them more than a lane has places for */
#define HELD 8

static CUstream common; /* of all threads */
static CUdevice device;
static nvmlReturn_t (*memory_info)(nvmlDevice_t, nvmlMemory_t *);
static nvmlReturn_t (*running)(nvmlDevice_t, unsigned *, nvmlProcessInfo_t *);
static nvmlDevice_t handle;

struct thread {
    pthread_t thread;
    unsigned seed;
    unsigned long operations;
    CUstream streams[STREAMS];
    CUdeviceptr held[HELD];
    size_t bytes[HELD];
    CUgraphExec graph;
};

static unsigned chance(struct thread *self, unsigned of)
{
    return (unsigned)rand_r(&self->seed) % of;
}

static CUstream any_stream(struct thread *self)
{
    return chance(self, 8) ? self->streams[chance(self, STREAMS)] : common;
}

static CUgraphExec graph_of(CUstream stream)
{
    CUgraph graph;
    CUgraphExec instance;
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    for (unsigned i = 0; i < 3; i++)
        launch(100, 1000 * (i + 1), stream);
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiate(&instance, graph, 0));
    OK(cuGraphDestroy(graph));
    return instance;
}

static void renew_memory(struct thread *self)
{
    unsigned place = chance(self, HELD);
    if (self->held[place])
        OK(cuMemFree(self->held[place]));
    self->held[place] = 0;
    self->bytes[place] = 1 + chance(self, 4u << 20);
    CUresult result = cuMemAlloc(&self->held[place], self->bytes[place]);
    REQUIRE(result == CUDA_SUCCESS || result == CUDA_ERROR_OUT_OF_MEMORY);
    if (result)
        self->held[place] = 0;
}

/* Large ones are device time, small ones are not. */
static void fill_and_copy(struct thread *self)
{
    unsigned to = chance(self, HELD), from = chance(self, HELD);
    CUstream stream = any_stream(self);
    if (!self->held[to] || !self->held[from])
        return;
    OK(cuMemsetD8Async(self->held[to], 1, self->bytes[to], stream));
    OK(cuMemsetD32(self->held[from], 7, self->bytes[from] / 4));
    if (to != from)
        OK(cuMemcpyDtoDAsync(self->held[to], self->held[from], self->bytes[to] < self->bytes[from] ? self->bytes[to] : self->bytes[from], stream));
    OK(cuStreamSynchronize(stream)); /* before somebody frees it */
}

static void renew_stream(struct thread *self)
{
    CUstream *place = &self->streams[chance(self, STREAMS)];
    OK(cuStreamDestroy(*place));
    OK(cuStreamCreate(place, CU_STREAM_NON_BLOCKING));
}

static void ordered_memory(struct thread *self)
{
    CUdeviceptr address;
    CUstream stream = self->streams[chance(self, STREAMS)];
    CUresult result = cuMemAllocAsync(&address, 1 + chance(self, 1u << 20), stream);
    REQUIRE(result == CUDA_SUCCESS || result == CUDA_ERROR_OUT_OF_MEMORY);
    if (!result)
        OK(cuMemFreeAsync(address, stream));
}

/* It has marks of the library in its streams when it ends. */
static void another_context(void)
{
    CUcontext other;
    CUmodule module;
    CUfunction function;
    unsigned long long ns = 1000;
    void *parameters[] = {&ns};
    CUresult result = cuCtxCreate_v4(&other, NULL, 0, device);
    REQUIRE(result == CUDA_SUCCESS || result == CUDA_ERROR_OUT_OF_MEMORY);
    if (!result) {
        OK(cuModuleLoadData(&module, image));
        OK(cuModuleGetFunction(&function, module, "spin"));
        for (int i = 0; i < 20; i++)
            OK(cuLaunchKernel(function, 10, 1, 1, 64, 1, 1, 0, NULL, parameters, NULL));
        OK(cuCtxDestroy(other));
    }
    OK(cuCtxSetCurrent(context));
}

static void ask_management(void)
{
    nvmlMemory_t memory;
    nvmlProcessInfo_t processes[64];
    unsigned count = 64;
    REQUIRE(memory_info(handle, &memory) == NVML_SUCCESS && memory.used <= memory.total);
    REQUIRE(running(handle, &count, processes) == NVML_SUCCESS && count >= 1);
}

/* A child has no driver, whatever the other threads of its parent were about. */
static void fork_a_child(void)
{
    int status;
    CUdeviceptr address;
    pid_t child = fork();
    if (child == 0) {
        _exit(cuMemAlloc(&address, 1 << 20) == CUDA_SUCCESS || cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, common, NULL, NULL) == CUDA_SUCCESS);
    }
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

static void operate(struct thread *self)
{
    static const unsigned grids[] = {1, 7, 100, 1000, 5000};
    size_t available, total;
    CUstream stream = any_stream(self);
    unsigned what = chance(self, 400);
    if (what == 0)
        fork_a_child();
    else if (what == 1)
        another_context();
    else if (what < 20)
        OK(cuGraphLaunch(self->graph, self->streams[0]));
    else if (what < 24)
        renew_stream(self);
    else if (what < 60)
        renew_memory(self);
    else if (what < 70)
        ordered_memory(self);
    else if (what < 80)
        OK(cuStreamSynchronize(stream));
    else if (what < 84)
        OK(cuMemGetInfo(&available, &total));
    else if (what < 88)
        ask_management();
    else if (what < 90)
        fill_and_copy(self);
    else
        launch(grids[chance(self, 5)], 500 + chance(self, 4) * 2000, stream);
}

static void *run(void *argument)
{
    struct thread *self = argument;
    OK(cuCtxSetCurrent(context));
    for (int i = 0; i < STREAMS; i++)
        OK(cuStreamCreate(&self->streams[i], CU_STREAM_NON_BLOCKING));
    self->graph = graph_of(self->streams[0]);
    for (unsigned long i = 0; i < self->operations; i++)
        operate(self);
    OK(cuStreamSynchronize(common));
    for (int i = 0; i < STREAMS; i++)
        OK(cuStreamDestroy(self->streams[i]));
    for (int i = 0; i < HELD; i++)
        if (self->held[i])
            OK(cuMemFree(self->held[i]));
    OK(cuGraphExecDestroy(self->graph));
    return NULL;
}

static void find_management(void)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    REQUIRE(library != NULL);
    nvmlReturn_t (*init)(void) = (nvmlReturn_t(*)(void))dlsym(library, "nvmlInit_v2");
    nvmlReturn_t (*by_index)(unsigned, nvmlDevice_t *) = (nvmlReturn_t(*)(unsigned, nvmlDevice_t *))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    memory_info = (nvmlReturn_t(*)(nvmlDevice_t, nvmlMemory_t *))dlsym(library, "nvmlDeviceGetMemoryInfo");
    running = (nvmlReturn_t(*)(nvmlDevice_t, unsigned *, nvmlProcessInfo_t *))dlsym(library, "nvmlDeviceGetComputeRunningProcesses_v3");
    REQUIRE(init && by_index && memory_info && running);
    REQUIRE(init() == NVML_SUCCESS && by_index(0, &handle) == NVML_SUCCESS);
}

int main(int count, char **words)
{
    char line[16];
    struct thread threads[8] = {0};
    if (count != 4)
        return 2;
    unsigned seed = (unsigned)strtoul(words[1], NULL, 10);
    int number = atoi(words[2]);
    REQUIRE(number >= 1 && number <= 8);
    start();
    find_management();
    OK(cuCtxGetDevice(&device));
    OK(cuStreamCreate(&common, CU_STREAM_NON_BLOCKING));
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 3;
    for (int i = 0; i < number; i++) {
        threads[i].seed = seed * 8 + (unsigned)i;
        threads[i].operations = strtoul(words[3], NULL, 10);
        REQUIRE(pthread_create(&threads[i].thread, NULL, run, &threads[i]) == 0);
    }
    for (int i = 0; i < number; i++)
        pthread_join(threads[i].thread, NULL);
    OK(cuStreamDestroy(common));
    puts("done");
    return 0;
}
