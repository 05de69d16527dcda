/* What the CUDA runtime guarantees, by its documentation. The last part is what compilers put into programs, with an image that only a
   simulated card takes; it is run where the argument says so. */
#include "../check.h"
#include <cuda_runtime_api.h>
#include <pthread.h>

#define RIGHT(call) expect_((CUresult)(call), CUDA_SUCCESS, #call, __LINE__)
#define WRONG(result, call) expect_((CUresult)(call), (CUresult)(result), #call, __LINE__)
#define MIB ((size_t)1024 * 1024)

static void devices(void)
{
    struct cudaDeviceProp about;
    int count, version, multiprocessors, device = -1;
    size_t available, total;
    RIGHT(cudaGetDeviceCount(&count));
    REQUIRE(count >= 1);
    RIGHT(cudaRuntimeGetVersion(&version));
    REQUIRE(version / 1000 == 13);
    RIGHT(cudaGetDeviceProperties(&about, 0));
    RIGHT(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    REQUIRE(strlen(about.name) > 3 && about.major >= 7 && about.warpSize == 32 && about.multiProcessorCount == multiprocessors);
    RIGHT(cudaMemGetInfo(&available, &total));
    REQUIRE(available > 0 && available <= total && total == about.totalGlobalMem);
    WRONG(cudaErrorInvalidDevice, cudaSetDevice(count));
    RIGHT(cudaGetDevice(&device));
    REQUIRE(device == 0);
    REQUIRE(cudaGetLastError() == cudaErrorInvalidDevice && cudaGetLastError() == cudaSuccess);
    REQUIRE(strcmp(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation") == 0);
    REQUIRE(strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory") == 0);
}

static void *last_error_of_another(void *wrong)
{
    *(int *)wrong = cudaPeekAtLastError() != cudaSuccess;
    return NULL;
}

static void memory(void)
{
    struct cudaPointerAttributes about;
    unsigned char sent[4096], got[4096];
    void *pointer, *host;
    size_t available, total, after;
    int wrong = 1;
    pthread_t other;
    RIGHT(cudaFree(NULL));
    RIGHT(cudaMalloc(&pointer, 64 * MIB));
    RIGHT(cudaMemset(pointer, 7, sizeof sent));
    RIGHT(cudaMemcpy(got, pointer, sizeof got, cudaMemcpyDeviceToHost));
    REQUIRE(got[0] == 7 && got[4095] == 7);
    memset(sent, 9, sizeof sent);
    RIGHT(cudaMemcpy2D(pointer, 256, sent, 64, 64, 16, cudaMemcpyHostToDevice));
    RIGHT(cudaMemcpy(got, pointer, sizeof got, cudaMemcpyDefault));
    REQUIRE(got[63] == 9 && got[64] == 7 && got[256] == 9);
    RIGHT(cudaPointerGetAttributes(&about, pointer));
    REQUIRE(about.type == cudaMemoryTypeDevice && about.device == 0 && about.devicePointer == pointer);
    RIGHT(cudaPointerGetAttributes(&about, sent));
    REQUIRE(about.type == cudaMemoryTypeUnregistered);
    RIGHT(cudaMallocHost(&host, MIB));
    RIGHT(cudaPointerGetAttributes(&about, host));
    REQUIRE(about.type == cudaMemoryTypeHost);
    RIGHT(cudaFreeHost(host));
    RIGHT(cudaMemGetInfo(&available, &total));
    WRONG(cudaErrorMemoryAllocation, cudaMalloc(&host, total + MIB));
    RIGHT(pthread_create(&other, NULL, last_error_of_another, &wrong));
    RIGHT(pthread_join(other, NULL));
    REQUIRE(!wrong && cudaGetLastError() == cudaErrorMemoryAllocation);
    RIGHT(cudaFree(pointer));
    RIGHT(cudaMemGetInfo(&after, &total));
    REQUIRE(after >= available + 64 * MIB);
    RIGHT(cudaMallocAsync(&pointer, MIB, NULL));
    RIGHT(cudaFreeAsync(pointer, NULL));
    RIGHT(cudaDeviceSynchronize());
}

static void launches(void)
{
    cudaStream_t stream;
    cudaEvent_t from, to;
    cudaLibrary_t library;
    cudaKernel_t kernel;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes = 0;
    float milliseconds = 0;
    unsigned long long ns = 5000000;
    void *arguments[] = {&ns};
    dim3 one = {1, 1, 1}, block = {64, 1, 1};
    RIGHT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RIGHT(cudaEventCreate(&from));
    RIGHT(cudaEventCreate(&to));
    RIGHT(cudaLibraryLoadData(&library, image, NULL, NULL, 0, NULL, NULL, 0));
    RIGHT(cudaLibraryGetKernel(&kernel, library, "spin"));
    RIGHT(cudaEventRecord(from, stream));
    RIGHT(cudaLaunchKernel((const void *)kernel, one, block, arguments, 0, stream));
    RIGHT(cudaEventRecord(to, stream));
    WRONG(cudaErrorNotReady, cudaEventQuery(to));
    RIGHT(cudaEventSynchronize(to));
    RIGHT(cudaEventElapsedTime(&milliseconds, from, to));
    REQUIRE(milliseconds >= 4.9f);
    RIGHT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    RIGHT(cudaLaunchKernel((const void *)kernel, one, block, arguments, 0, stream));
    RIGHT(cudaStreamEndCapture(stream, &graph));
    RIGHT(cudaGraphGetNodes(graph, NULL, &nodes));
    REQUIRE(nodes == 1);
    RIGHT(cudaGraphInstantiate(&exec, graph, 0));
    RIGHT(cudaGraphLaunch(exec, stream));
    RIGHT(cudaStreamSynchronize(stream));
    RIGHT(cudaGraphExecDestroy(exec));
    RIGHT(cudaGraphDestroy(graph));
    RIGHT(cudaLibraryUnload(library));
    RIGHT(cudaStreamDestroy(stream));
}

void **__cudaRegisterFatBinary(void *);
void __cudaRegisterFatBinaryEnd(void **);
void __cudaUnregisterFatBinary(void **);
void __cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, dim3 *, dim3 *, int *);
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int);
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, struct CUstream_st *);
cudaError_t __cudaPopCallConfiguration(dim3 *, dim3 *, size_t *, void *);

/* Each is the place of the host by which a program knows a kernel or a variable of the image. */
static char kernels[3000], variable;

static void registered(void)
{
    static const unsigned empty[] = {0xba55ed50u, 0x00100001u, 0, 0};
    static const struct {
        unsigned magic, version;
        const void *image, *unused;
    } wrapper = {0x466243b1u, 1, empty, NULL};
    static char names[3000][8];
    dim3 grid = {3, 1, 1}, block = {64, 1, 1}, popped_grid, popped_block;
    cudaStream_t stream;
    size_t shared;
    int sent = 41, got = 0;
    struct cudaFuncAttributes about;
    void **handle = __cudaRegisterFatBinary((void *)&wrapper);
    for (int i = 0; i < 3000; i++) {
        snprintf(names[i], sizeof names[i], "k%d", i);
        __cudaRegisterFunction(handle, &kernels[i], NULL, names[i], -1, NULL, NULL, NULL, NULL, NULL);
    }
    __cudaRegisterVar(handle, &variable, NULL, "variable", 0, sizeof sent, 0, 0);
    __cudaRegisterFatBinaryEnd(handle);
    REQUIRE(__cudaPushCallConfiguration(grid, block, 16, NULL) == 0);
    RIGHT(__cudaPopCallConfiguration(&popped_grid, &popped_block, &shared, &stream));
    REQUIRE(popped_grid.x == 3 && popped_block.x == 64 && shared == 16 && stream == NULL);
    WRONG(cudaErrorMissingConfiguration, __cudaPopCallConfiguration(&popped_grid, &popped_block, &shared, &stream));
    for (int i = 0; i < 3000; i += 500)
        RIGHT(cudaLaunchKernel(&kernels[i], grid, block, NULL, 0, NULL));
    RIGHT(cudaFuncGetAttributes(&about, &kernels[2999]));
    REQUIRE(about.maxThreadsPerBlock >= 64);
    RIGHT(cudaMemcpyToSymbol(&variable, &sent, sizeof sent, 0, cudaMemcpyHostToDevice));
    RIGHT(cudaMemcpyFromSymbol(&got, &variable, sizeof got, 0, cudaMemcpyDeviceToHost));
    REQUIRE(got == 41);
    WRONG(cudaErrorInvalidValue, cudaMemcpyToSymbol(&variable, &sent, sizeof sent, 1, cudaMemcpyHostToDevice));
    WRONG(cudaErrorInvalidSymbol, cudaMemcpyToSymbol(&sent, &sent, sizeof sent, 0, cudaMemcpyHostToDevice));
    RIGHT(cudaDeviceSynchronize());
    RIGHT(cudaDeviceReset());
    RIGHT(cudaMemcpyFromSymbol(&got, &variable, sizeof got, 0, cudaMemcpyDeviceToHost));
    REQUIRE(got == 0);
    __cudaUnregisterFatBinary(handle);
    WRONG(cudaErrorInvalidSymbol, cudaMemcpyToSymbol(&variable, &sent, sizeof sent, 0, cudaMemcpyHostToDevice));
}

int main(int count, char **arguments)
{
    devices();
    memory();
    launches();
    if (count > 1 && strcmp(arguments[1], "registered") == 0)
        registered();
    puts("done");
    return 0;
}
