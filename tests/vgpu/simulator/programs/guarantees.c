/* What the driver guarantees, by its documentation; one part is run per call, named by the argument. */
#include "check.h"
#include <pthread.h>
#include <unistd.h>

#define MIB ((size_t)1024 * 1024)

static void before_initialisation(void)
{
    int count;
    const char *text;
    FAILS(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&count));
    FAILS(CUDA_ERROR_INVALID_VALUE, cuInit(1));
    OK(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &text));
    REQUIRE(strcmp(text, "CUDA_ERROR_OUT_OF_MEMORY") == 0);
    OK(cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &text));
    REQUIRE(strcmp(text, "out of memory") == 0);
    FAILS(CUDA_ERROR_INVALID_VALUE, cuGetErrorName((CUresult)123456, &text));
    OK(cuInit(0));
    OK(cuInit(0));
    FAILS(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());
}

static void devices(void)
{
    int count, major, minor, multiprocessors, warp;
    char name[128], bus[32];
    size_t total;
    CUdevice device, again;
    CUuuid uuid, same;
    OK(cuInit(0));
    OK(cuDeviceGetCount(&count));
    REQUIRE(count >= 1);
    FAILS(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, count));
    OK(cuDeviceGet(&device, 0));
    OK(cuDeviceGetName(name, sizeof name, device));
    REQUIRE(strlen(name) > 3);
    OK(cuDeviceTotalMem(&total, device));
    OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    OK(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device));
    OK(cuDeviceGetAttribute(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
    OK(cuDeviceGetAttribute(&warp, CU_DEVICE_ATTRIBUTE_WARP_SIZE, device));
    REQUIRE(major >= 7 && minor >= 0 && multiprocessors >= 1 && warp == 32 && total > 1024 * MIB);
    OK(cuDeviceGetUuid(&uuid, device));
    OK(cuDeviceGetUuid(&same, device));
    REQUIRE(memcmp(&uuid, &same, sizeof uuid) == 0);
    OK(cuDeviceGetPCIBusId(bus, sizeof bus, device));
    OK(cuDeviceGetByPCIBusId(&again, bus));
    REQUIRE(again == device);
}

static void contexts(void)
{
    CUcontext one, popped, current;
    CUdevice device;
    unsigned flags;
    int active;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    REQUIRE(!active);
    OK(cuCtxGetCurrent(&current));
    REQUIRE(current == NULL);
    OK(cuCtxCreate(&one, NULL, 0, 0));
    OK(cuCtxGetCurrent(&current));
    REQUIRE(current == one);
    OK(cuCtxGetDevice(&device));
    REQUIRE(device == 0);
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxPushCurrent(context));
    OK(cuCtxPopCurrent(&popped));
    REQUIRE(popped == context);
    OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    REQUIRE(active);
    OK(cuDevicePrimaryCtxRelease(0));
    FAILS(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease(0));
    OK(cuCtxDestroy(one));
    OK(cuCtxGetCurrent(&current));
    REQUIRE(current == NULL);
}

static void memory(void)
{
    CUdeviceptr one, base;
    size_t bytes, before;
    char text[32] = "the content arrives", back[32] = "";
    start();
    before = free_bytes();
    OK(cuMemAlloc(&one, 64 * MIB));
    REQUIRE(before - free_bytes() >= 64 * MIB && before - free_bytes() <= 66 * MIB);
    OK(cuMemGetAddressRange(&base, &bytes, one + 1000));
    REQUIRE(base == one && bytes == 64 * MIB);
    OK(cuMemcpyHtoD(one + 5, text, sizeof text));
    OK(cuMemcpyDtoH(back, one + 5, sizeof back));
    REQUIRE(strcmp(text, back) == 0);
    OK(cuMemsetD32(one, 0x01020304, 4));
    OK(cuMemcpyDtoH(back, one, 16));
    REQUIRE(back[0] == 4 && back[15] == 1);
    FAILS(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(&one, 0));
    FAILS(CUDA_ERROR_INVALID_VALUE, cuMemFree(base + 8));
    OK(cuMemFree(base));
    OK(cuMemFree(0));
    REQUIRE(free_bytes() == before);
}

static void out_of_memory(void)
{
    CUdeviceptr blocks[4096], rest;
    size_t count = 0, available, total;
    CUresult result;
    start();
    OK(cuMemGetInfo(&available, &total));
    FAILS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&rest, total + MIB));
    while ((result = cuMemAlloc(&blocks[count], 256 * MIB)) == CUDA_SUCCESS)
        count++;
    expect_(result, CUDA_ERROR_OUT_OF_MEMORY, "cuMemAlloc", __LINE__);
    REQUIRE(free_bytes() < 256 * MIB + 64 * MIB);
    FAILS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&rest, 512 * MIB));
    OK(cuMemFree(blocks[--count]));
    OK(cuMemAlloc(&rest, 128 * MIB));
    OK(cuMemFree(rest));
    while (count)
        OK(cuMemFree(blocks[--count]));
    REQUIRE(free_bytes() == available);
}

static void small_allocations(void)
{
    CUdeviceptr one, many[1000];
    start();
    OK(cuMemAlloc(&one, 512));
    size_t before = free_bytes();
    for (int i = 0; i < 1000; i++) {
        OK(cuMemAlloc(&many[i], 512));
        REQUIRE(many[i] % 256 == 0);
    }
    REQUIRE(before - free_bytes() <= 2 * MIB); /* they share pieces of 2 MiB */
    for (int i = 0; i < 1000; i++)
        OK(cuMemFree(many[i]));
    REQUIRE(free_bytes() == before);
    OK(cuMemFree(one));
}

static void pointers(void)
{
    CUdeviceptr one, managed;
    void *host;
    unsigned kind, is_managed;
    CUcontext of;
    start();
    OK(cuMemAlloc(&one, MIB));
    OK(cuMemAllocHost(&host, MIB));
    OK(cuMemAllocManaged(&managed, MIB, CU_MEM_ATTACH_GLOBAL));
    OK(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, one + 7));
    REQUIRE(kind == CU_MEMORYTYPE_DEVICE);
    OK(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(size_t)host));
    REQUIRE(kind == CU_MEMORYTYPE_HOST);
    OK(cuPointerGetAttribute(&is_managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, managed));
    REQUIRE(is_managed);
    OK(cuPointerGetAttribute(&of, CU_POINTER_ATTRIBUTE_CONTEXT, one));
    REQUIRE(of == context);
    FAILS(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(size_t)&kind));
    *(int *)(size_t)managed = 42;
    REQUIRE(*(volatile int *)(size_t)managed == 42);
    OK(cuMemFree(managed));
    OK(cuMemFreeHost(host));
    OK(cuMemFree(one));
}

static void pools(void)
{
    CUdeviceptr one, two;
    CUmemoryPool pool;
    CUstream stream;
    cuuint64_t used, reserved, keep = 1024 * MIB;
    start();
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuDeviceGetDefaultMemPool(&pool, 0));
    size_t before = free_bytes();
    OK(cuMemAllocAsync(&one, 10 * MIB, stream));
    OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
    OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved));
    REQUIRE(used == 10 * MIB && reserved >= used && before - free_bytes() >= 10 * MIB);
    OK(cuMemsetD8Async(one, 7, 10 * MIB, stream));
    OK(cuMemFreeAsync(one, stream));
    OK(cuMemAllocAsync(&two, 10 * MIB, stream)); /* the same stream may have it at once */
    OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &reserved));
    REQUIRE(reserved < 20 * MIB + 32 * MIB);
    OK(cuMemFreeAsync(two, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
    REQUIRE(used == 0 && free_bytes() == before);
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
    OK(cuMemAllocAsync(&one, 10 * MIB, stream));
    OK(cuMemFreeAsync(one, stream));
    OK(cuStreamSynchronize(stream));
    REQUIRE(before - free_bytes() >= 10 * MIB);
    OK(cuMemPoolTrimTo(pool, 0));
    REQUIRE(free_bytes() == before);
    keep = UINT64_MAX; /* all of it, for ever */
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
    OK(cuMemAllocAsync(&one, 10 * MIB, stream));
    OK(cuCtxSynchronize());
    REQUIRE(before - free_bytes() >= 10 * MIB);
    OK(cuMemFreeAsync(one, stream));
    OK(cuCtxSynchronize());
    REQUIRE(before - free_bytes() >= 10 * MIB);
    OK(cuMemPoolTrimTo(pool, 0));
    REQUIRE(free_bytes() == before);
}

static void virtual_memory(void)
{
    CUmemAllocationProp about = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}}};
    CUmemAccessDesc access = {.location = about.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle;
    CUdeviceptr range;
    size_t grain, before;
    unsigned value = 0;
    start();
    before = free_bytes();
    OK(cuMemGetAllocationGranularity(&grain, &about, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    REQUIRE(grain == 2 * MIB);
    FAILS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&handle, grain + 1, &about, 0));
    OK(cuMemAddressReserve(&range, 4 * grain, 0, 0, 0));
    REQUIRE(free_bytes() == before);
    OK(cuMemCreate(&handle, grain, &about, 0));
    REQUIRE(before - free_bytes() == grain);
    OK(cuMemMap(range, grain, 0, handle, 0));
    OK(cuMemMap(range + grain, grain, 0, handle, 0));
    FAILS(CUDA_ERROR_INVALID_VALUE, cuMemMap(range, grain, 0, handle, 0));
    OK(cuMemSetAccess(range, 2 * grain, &access, 1));
    OK(cuMemsetD32(range, 77, 16));
    OK(cuMemcpyDtoH(&value, range + grain + 4, sizeof value));
    REQUIRE(value == 77); /* both places show the same memory */
    OK(cuMemRelease(handle));
    REQUIRE(before - free_bytes() == grain); /* still mapped */
    FAILS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(range, 4 * grain));
    OK(cuMemUnmap(range, 2 * grain));
    REQUIRE(free_bytes() == before);
    OK(cuMemAddressFree(range, 4 * grain));
}

static void arrays(void)
{
    CUarray array, level;
    CUmipmappedArray mipmap;
    CUDA_ARRAY3D_DESCRIPTOR about = {.Width = 1024, .Height = 1024, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 4}, seen;
    float row[16] = {1, 2, 3, 4}, back[16] = {0};
    start();
    size_t before = free_bytes();
    OK(cuArray3DCreate(&array, &about));
    REQUIRE(before - free_bytes() >= 16 * MIB);
    OK(cuArray3DGetDescriptor(&seen, array));
    REQUIRE(seen.Width == 1024 && seen.NumChannels == 4);
    OK(cuMemcpyHtoA(array, 64, row, sizeof row));
    OK(cuMemcpyAtoH(back, array, 64, sizeof back));
    REQUIRE(memcmp(row, back, sizeof row) == 0);
    OK(cuArrayDestroy(array));
    REQUIRE(free_bytes() == before);
    OK(cuMipmappedArrayCreate(&mipmap, &about, 3));
    REQUIRE(before - free_bytes() >= 21 * MIB);
    OK(cuMipmappedArrayGetLevel(&level, mipmap, 1));
    OK(cuArray3DGetDescriptor(&seen, level));
    REQUIRE(seen.Width == 512);
    OK(cuMipmappedArrayDestroy(mipmap));
    REQUIRE(free_bytes() == before);
}

static void streams(void)
{
    CUstream one, two;
    CUevent event, first, last;
    float ms;
    start();
    OK(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreateWithPriority(&two, CU_STREAM_NON_BLOCKING, -1));
    OK(cuEventCreate(&event, CU_EVENT_DEFAULT));
    OK(cuEventCreate(&first, CU_EVENT_DEFAULT));
    OK(cuEventCreate(&last, CU_EVENT_DEFAULT));
    OK(cuEventQuery(event)); /* never recorded: nothing to wait for */
    FAILS(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, first, event));
    launch(1, 50000000, one);
    OK(cuEventRecord(event, one));
    FAILS(CUDA_ERROR_NOT_READY, cuStreamQuery(one));
    FAILS(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    OK(cuStreamWaitEvent(two, event, 0));
    OK(cuEventRecord(first, two));
    launch(1, 5000000, two);
    OK(cuEventRecord(last, two));
    FAILS(CUDA_ERROR_NOT_READY, cuEventElapsedTime(&ms, first, last));
    OK(cuEventSynchronize(last));
    OK(cuStreamQuery(one)); /* the other had to be over */
    OK(cuEventElapsedTime(&ms, first, last));
    REQUIRE(ms >= 4.9 && ms < 60);
    OK(cuEventElapsedTime(&ms, event, last));
    REQUIRE(ms > 0);
    OK(cuStreamDestroy(one));
    FAILS(CUDA_ERROR_INVALID_HANDLE, cuStreamDestroy(NULL));
}

static void legacy_stream(void)
{
    CUstream blocking, free_stream;
    start();
    OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    OK(cuStreamCreate(&free_stream, CU_STREAM_NON_BLOCKING));
    launch(1, 150000000, blocking);
    launch(1, 1000, NULL);
    launch(1, 1000, free_stream);
    OK(cuStreamSynchronize(free_stream)); /* waits for neither */
    FAILS(CUDA_ERROR_NOT_READY, cuStreamQuery(blocking));
    OK(cuStreamSynchronize(CU_STREAM_LEGACY)); /* the legacy stream waited for the blocking one */
    OK(cuStreamQuery(blocking));
    launch(1, 150000000, NULL);
    launch(1, 1000, blocking);
    FAILS(CUDA_ERROR_NOT_READY, cuStreamQuery(blocking)); /* and the other way round */
    OK(cuCtxSynchronize());
}

static int called, order[4];

static void CUDA_CB note(void *data)
{
    order[called++] = (int)(size_t)data;
}

static void CUDA_CB note_status(CUstream stream, CUresult status, void *data)
{
    (void)stream;
    order[called++] = status == CUDA_SUCCESS ? (int)(size_t)data : -1;
}

static void callbacks(void)
{
    CUstream stream;
    CUdeviceptr one;
    int number = 5, back = 0;
    start();
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc(&one, 4096));
    launch(1, 20000000, stream);
    OK(cuLaunchHostFunc(stream, note, (void *)1));
    OK(cuMemcpyHtoDAsync(one, &number, sizeof number, stream));
    OK(cuStreamAddCallback(stream, note_status, (void *)2, 0));
    OK(cuMemcpyDtoHAsync(&back, one, sizeof back, stream));
    REQUIRE(called == 0);
    OK(cuStreamSynchronize(stream));
    REQUIRE(called == 2 && order[0] == 1 && order[1] == 2 && back == 5);
}

static void values(void)
{
    CUstream one, two;
    CUdeviceptr flag;
    start();
    OK(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&two, CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc(&flag, 4096));
    OK(cuMemsetD32(flag, 0, 1));
    OK(cuStreamWaitValue32(one, flag, 3, CU_STREAM_WAIT_VALUE_GEQ));
    FAILS(CUDA_ERROR_NOT_READY, cuStreamQuery(one));
    OK(cuStreamWriteValue32(two, flag, 4, 0));
    OK(cuStreamSynchronize(two));
    OK(cuStreamSynchronize(one));
}

static void graphs(void)
{
    CUstream stream, side;
    CUgraph graph;
    CUgraphExec exec;
    CUgraphNode nodes[8], node;
    CUgraphNodeType type;
    CUevent first, last, fork, join;
    CUstreamCaptureStatus status;
    CUdeviceptr one;
    size_t count = 8;
    float ms;
    unsigned char back[16];
    start();
    OK(cuMemAlloc(&one, 4096));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&side, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&first, 0));
    OK(cuEventCreate(&last, 0));
    OK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
    OK(cuMemsetD8(one, 0, 4096));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    launch(1, 5000000, stream);
    OK(cuEventRecord(fork, stream));
    OK(cuStreamWaitEvent(side, fork, 0));
    OK(cuMemsetD8Async(one, 9, 16, side));
    OK(cuEventRecord(join, side));
    OK(cuStreamWaitEvent(stream, join, 0));
    launch(1, 5000000, stream);
    OK(cuStreamIsCapturing(stream, &status));
    REQUIRE(status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphGetNodes(graph, nodes, &count));
    REQUIRE(count == 3);
    OK(cuGraphNodeGetType(nodes[0], &type));
    REQUIRE(type == CU_GRAPH_NODE_TYPE_KERNEL);
    OK(cuMemcpyDtoH(back, one, 16));
    REQUIRE(back[0] == 0); /* nothing has run yet */
    OK(cuGraphInstantiate(&exec, graph, 0));
    OK(cuEventRecord(first, stream));
    OK(cuGraphLaunch(exec, stream));
    OK(cuGraphLaunch(exec, stream));
    OK(cuEventRecord(last, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuEventElapsedTime(&ms, first, last));
    REQUIRE(ms >= 19.9);
    OK(cuMemcpyDtoH(back, one, 16));
    REQUIRE(back[0] == 9 && back[15] == 9);
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphAddEmptyNode(&node, graph, nodes, 1));
    OK(cuGraphDestroy(graph));
}

static void captures_refuse(void)
{
    CUstream stream, other;
    CUgraph graph;
    CUdeviceptr one;
    CUevent event;
    start();
    OK(cuStreamCreate(&stream, CU_STREAM_DEFAULT));
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&event, 0));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    FAILS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(stream));
    FAILS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &graph));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    FAILS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc(&one, 4096));
    FAILS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &graph));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuMemAlloc(&one, 4096));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    launch(1, 1000, stream);
    OK(cuEventRecord(event, stream));
    FAILS(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(event));
    OK(cuStreamWaitEvent(other, event, 0));
    launch(1, 1000, other);
    FAILS(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, cuStreamEndCapture(stream, &graph));
    FAILS(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(stream, &graph));
}

static void modules(void)
{
    CUmodule module;
    CUfunction function;
    CUdeviceptr counter;
    size_t bytes;
    int blocks, multiprocessors;
    unsigned long long ns = 1000;
    void *parameters[] = {&ns};
    start();
    FAILS(CUDA_ERROR_INVALID_IMAGE, cuModuleLoadData(&module, "neither PTX nor a cubin"));
    OK(cuModuleLoadData(&module, image));
    FAILS(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&function, module, "none"));
    OK(cuModuleGetGlobal(&counter, &bytes, module, "counter"));
    REQUIRE(bytes == 8 && counter);
    OK(cuDeviceGetAttribute(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, spin, 64, 0));
    REQUIRE(blocks >= 1);
    OK(cuLaunchCooperativeKernel(spin, (unsigned)(blocks * multiprocessors), 1, 1, 64, 1, 1, 0, NULL, parameters));
    FAILS(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, cuLaunchCooperativeKernel(spin, (unsigned)(blocks * multiprocessors + 1), 1, 1, 64, 1, 1, 0, NULL, parameters));
    FAILS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(spin, 1, 1, 1, 2048, 1, 1, 0, NULL, parameters, NULL));
    FAILS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(spin, 0, 1, 1, 64, 1, 1, 0, NULL, parameters, NULL));
    CUlaunchConfig config = {.gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 64, .blockDimY = 1, .blockDimZ = 1};
    OK(cuLaunchKernelEx(&config, spin, parameters, NULL));
    OK(cuCtxSynchronize());
    OK(cuModuleUnload(module));
}

static void *in_thread(void *unused)
{
    CUcontext current;
    (void)unused;
    OK(cuCtxGetCurrent(&current));
    REQUIRE(current == NULL); /* contexts are current for a thread */
    OK(cuCtxSetCurrent(context));
    launch(1, 1000, CU_STREAM_PER_THREAD);
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    return NULL;
}

static void threads(void)
{
    pthread_t many[8];
    start();
    for (int i = 0; i < 8; i++)
        REQUIRE(pthread_create(&many[i], NULL, in_thread, NULL) == 0);
    for (int i = 0; i < 8; i++)
        pthread_join(many[i], NULL);
}

static const struct {
    const char *name;
    void (*run)(void);
} parts[] = {
    {"before_initialisation", before_initialisation}, {"devices", devices}, {"contexts", contexts}, {"memory", memory},
    {"out_of_memory", out_of_memory}, {"small_allocations", small_allocations}, {"pointers", pointers}, {"pools", pools},
    {"virtual_memory", virtual_memory}, {"arrays", arrays}, {"streams", streams}, {"legacy_stream", legacy_stream},
    {"callbacks", callbacks}, {"values", values}, {"graphs", graphs}, {"captures_refuse", captures_refuse}, {"modules", modules}, {"threads", threads},
};

int main(int count, char **arguments)
{
    for (size_t i = 0; count > 1 && i < sizeof parts / sizeof *parts; i++)
        if (strcmp(parts[i].name, arguments[1]) == 0) {
            parts[i].run();
            return 0;
        }
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        puts(parts[i].name);
    return count > 1;
}
