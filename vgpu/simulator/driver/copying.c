/* One shape for all copies: CUDA_MEMCPY3D. A copy of bytes is one row. */
#include "driver.h"
#include <string.h>

struct CUarray_st *array_valid(CUarray array)
{
    return object_is(array, ARRAY_OBJECT) ? array : NULL;
}

CUdeviceptr location(CUmemorytype type, const void *host, CUdeviceptr device, CUarray array)
{
    switch (type) {
    case CU_MEMORYTYPE_HOST:
        return (CUdeviceptr)(uintptr_t)host;
    case CU_MEMORYTYPE_DEVICE:
    case CU_MEMORYTYPE_UNIFIED:
        return device;
    case CU_MEMORYTYPE_ARRAY:
        return array_valid(array) ? array->data : 0;
    }
    return 0;
}

struct side {
    char *base;
    size_t row, slice; /* bytes from row to row, and from slice to slice */
};

static struct side side_of(CUdeviceptr base, CUmemorytype type, CUarray array, size_t pitch, size_t height, size_t x, size_t y, size_t z)
{
    struct side side = {.row = pitch, .slice = pitch * height};
    if (type == CU_MEMORYTYPE_ARRAY && array) {
        side.row = array->row_bytes;
        side.slice = array->row_bytes * (array->descriptor.Height ? array->descriptor.Height : 1);
    }
    side.base = (char *)(uintptr_t)base + x + y * side.row + z * side.slice;
    return side;
}

void move_now(const CUDA_MEMCPY3D *move)
{
    CUdeviceptr from = location(move->srcMemoryType, move->srcHost, move->srcDevice, move->srcArray);
    CUdeviceptr to = location(move->dstMemoryType, move->dstHost, move->dstDevice, move->dstArray);
    struct side source = side_of(from, move->srcMemoryType, move->srcArray, move->srcPitch, move->srcHeight, move->srcXInBytes, move->srcY, move->srcZ);
    struct side target = side_of(to, move->dstMemoryType, move->dstArray, move->dstPitch, move->dstHeight, move->dstXInBytes, move->dstY, move->dstZ);
    for (size_t z = 0; z < move->Depth; z++)
        for (size_t y = 0; y < move->Height; y++)
            memmove(target.base + z * target.slice + y * target.row, source.base + z * source.slice + y * source.row, move->WidthInBytes);
}

size_t move_bytes(const CUDA_MEMCPY3D *move)
{
    return move->WidthInBytes * move->Height * move->Depth;
}

static bool is_on_device(CUmemorytype type, CUdeviceptr address)
{
    if (type == CU_MEMORYTYPE_HOST)
        return false;
    if (type != CU_MEMORYTYPE_UNIFIED)
        return true;
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find(address);
    bool on_device = region && region->region_kind != HOST_REGION && region->region_kind != REGISTERED_REGION;
    pthread_mutex_unlock(&driver.lock);
    return on_device;
}

enum copy_path move_path(const CUDA_MEMCPY3D *move)
{
    bool from = is_on_device(move->srcMemoryType, move->srcDevice), to = is_on_device(move->dstMemoryType, move->dstDevice);
    return from == to ? ON_DEVICE : to ? HOST_TO_DEVICE : DEVICE_TO_HOST;
}

static bool within(CUdeviceptr address, size_t bytes)
{
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find(address);
    bool inside = region && region->region_kind != RESERVED_REGION && bytes <= region->bytes - (address - region->base);
    pthread_mutex_unlock(&driver.lock);
    return inside;
}

/* A one-dimensional range must lie in one allocation; a row of mapped pieces may go on in the next. */
static bool range_valid(CUmemorytype type, const void *host, CUdeviceptr device, CUarray array, size_t bytes)
{
    if (type == CU_MEMORYTYPE_HOST)
        return host != NULL;
    if (type == CU_MEMORYTYPE_ARRAY)
        return array_valid(array) != NULL;
    if (type == CU_MEMORYTYPE_DEVICE) {
        pthread_mutex_lock(&driver.lock);
        const struct region *region = region_find(device);
        bool mapped = region && region->region_kind == MAPPED_REGION;
        pthread_mutex_unlock(&driver.lock);
        return mapped || within(device, bytes);
    }
    return device != 0;
}

CUresult move_check(const CUDA_MEMCPY3D *move)
{
    size_t row = move->Height == 1 && move->Depth == 1 ? move->WidthInBytes : 1;
    bool narrow = (move->srcPitch && move->srcMemoryType != CU_MEMORYTYPE_ARRAY && move->srcPitch < move->WidthInBytes) ||
                  (move->dstPitch && move->dstMemoryType != CU_MEMORYTYPE_ARRAY && move->dstPitch < move->WidthInBytes);
    if (!move_bytes(move))
        return CUDA_SUCCESS;
    if (narrow || !range_valid(move->srcMemoryType, move->srcHost, move->srcDevice, move->srcArray, row) ||
        !range_valid(move->dstMemoryType, move->dstHost, move->dstDevice, move->dstArray, row))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
