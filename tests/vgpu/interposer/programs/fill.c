/* Takes memory of one family, reached in one way, until there is no more; prints how many units it got; gives all back; twice. */
#include "entries.h"

#define MOST 4096
#define UNIT (32 * MIB)

static CUmemoryPool pool;
static CUgraph graph;
static CUdeviceptr address[MOST];
static CUarray array[MOST];
static CUmipmappedArray mipmap[MOST];
static CUmemGenericAllocationHandle physical[MOST];
static CUcontext further[MOST];

static const CUmemAllocationProp on_card = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}}};
static const CUDA_ARRAY_DESCRIPTOR flat = {.Width = 4096, .Height = 2048, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
static const CUDA_ARRAY3D_DESCRIPTOR deep = {.Width = 1024, .Height = 512, .Depth = 4, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 4};

static CUresult take(const char *family, int i)
{
    size_t pitch;
    CUgraphNode node;
    if (strcmp(family, "linear") == 0)
        return cu.cuMemAlloc(&address[i], UNIT - 100);
    if (strcmp(family, "small") == 0)
        return cu.cuMemAlloc(&address[i], MIB / 4);
    if (strcmp(family, "pitch") == 0)
        return cu.cuMemAllocPitch(&address[i], &pitch, 4000, 8192, 4);
    if (strcmp(family, "managed") == 0)
        return cu.cuMemAllocManaged(&address[i], UNIT, CU_MEM_ATTACH_GLOBAL);
    if (strcmp(family, "ordered") == 0)
        return cu.cuMemAllocAsync(&address[i], UNIT, NULL);
    if (strcmp(family, "pool") == 0)
        return cu.cuMemAllocFromPoolAsync(&address[i], UNIT, pool, NULL);
    if (strcmp(family, "physical") == 0)
        return cu.cuMemCreate(&physical[i], UNIT, &on_card, 0);
    if (strcmp(family, "array") == 0)
        return cu.cuArrayCreate(&array[i], &flat);
    if (strcmp(family, "array3d") == 0)
        return cu.cuArray3DCreate(&array[i], &deep);
    if (strcmp(family, "mipmap") == 0) /* 32 MiB, with its other levels less than a third more */
        return cu.cuMipmappedArrayCreate(&mipmap[i], &deep, 3);
    if (strcmp(family, "context") == 0)
        return cuCtxCreate_v4(&further[i], NULL, 0, 0);
    CUDA_MEM_ALLOC_NODE_PARAMS parameters = {.poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}}}, .bytesize = UNIT};
    return cu.cuGraphAddMemAllocNode(&node, graph, NULL, 0, &parameters);
}

static void give(const char *family, int i)
{
    if (strcmp(family, "ordered") == 0 || strcmp(family, "pool") == 0)
        OK(cu.cuMemFreeAsync(address[i], NULL));
    else if (strcmp(family, "physical") == 0)
        OK(cu.cuMemRelease(physical[i]));
    else if (strcmp(family, "array") == 0 || strcmp(family, "array3d") == 0)
        OK(cu.cuArrayDestroy(array[i]));
    else if (strcmp(family, "mipmap") == 0)
        OK(cu.cuMipmappedArrayDestroy(mipmap[i]));
    else if (strcmp(family, "context") == 0)
        OK(cuCtxDestroy(further[i]));
    else if (strcmp(family, "graph") != 0)
        OK(cu.cuMemFree(address[i]));
}

static int fill(const char *family)
{
    int count = 0;
    CUmemPoolProps about = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}}};
    OK(cu.cuMemPoolCreate(&pool, &about));
    OK(cuGraphCreate(&graph, 0));
    CUresult result;
    while ((result = take(family, count)) == CUDA_SUCCESS && count < MOST - 1)
        count++;
    expect_(result, CUDA_ERROR_OUT_OF_MEMORY, "the last", __LINE__);
    OK(cuCtxSetCurrent(context));
    for (int i = 0; i < count; i++)
        give(family, i);
    OK(cuGraphDestroy(graph));
    OK(cu.cuStreamSynchronize(NULL));
    OK(cu.cuMemPoolDestroy(pool));
    return count;
}

int main(int argc, char **argv)
{
    size_t available, total, of_device;
    if (argc != 3)
        return 2;
    start(argv[2]);
    int first = fill(argv[1]), second = fill(argv[1]);
    OK(cu.cuStreamSynchronize(NULL));
    OK(cu.cuMemGetInfo(&available, &total));
    OK(cu.cuDeviceTotalMem(&of_device, 0));
    printf("%d %d %zu %zu %zu\n", first, second, available / MIB, total / MIB, of_device / MIB);
    return 0;
}
