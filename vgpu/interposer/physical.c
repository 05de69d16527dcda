/* Physical memory by cuMemCreate: it is there as long as a handle or a mapping of it is. What another process has exported is not
   charged again where it is imported. */
#include "allocating.h"
#include <stdlib.h>

EXPORTED CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *properties, unsigned long long flags)
{
    if (!handle || !properties || !bytes || properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return driver()->cuMemCreate(handle, bytes, properties, flags);
    if (!usage_joined())
        return CUDA_ERROR_NOT_INITIALIZED;
    int card = card_of_device(properties->location.id);
    if (card == NO_CARD)
        return CUDA_ERROR_INVALID_DEVICE;
    struct allocation *allocation = book_new(PHYSICAL, 0, card, bytes, rounded(bytes, PIECE));
    if (!allocation)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pools_settle();
    if (!charge((unsigned)card, allocation->charged)) {
        free(allocation);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    CUresult result = driver()->cuMemCreate(handle, bytes, properties, flags);
    if (result)
        uncharge((unsigned)card, allocation->charged);
    settle(allocation->charged);
    if (result) {
        free(allocation);
        return result;
    }
    allocation->key = *handle;
    allocation->handles = 1;
    book_put(allocation);
    return CUDA_SUCCESS;
}

static void end(struct allocation *physical)
{
    uncharge((unsigned)physical->card, physical->charged);
    free(physical);
}

/* Puts a physical allocation, or its counts, back as they were: the driver has refused. */
static void restore(uint64_t handle, struct allocation *ended, int handles, int maps)
{
    if (ended) {
        ended->handles += (unsigned)handles;
        ended->maps += (unsigned)maps;
        book_put(ended);
    } else {
        struct allocation *same;
        book_hold(handle, handles, maps, &same);
    }
}

EXPORTED CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    struct allocation *physical, *ended = NULL;
    bool known = book_hold(handle, 0, 0, &physical) && physical->handles;
    if (known)
        ended = book_let_go(physical, 1, 0);
    CUresult result = driver()->cuMemRelease(handle);
    if (known && result)
        restore(handle, ended, 1, 0);
    else if (ended)
        end(ended);
    return result;
}

EXPORTED CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address)
{
    struct allocation *physical;
    CUresult result = driver()->cuMemRetainAllocationHandle(handle, address);
    if (!result)
        book_hold(*handle, 1, 0, &physical);
    return result;
}

EXPORTED CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags)
{
    struct allocation *physical;
    if (!book_hold(handle, 0, 1, &physical))
        return driver()->cuMemMap(address, bytes, offset, handle, flags);
    struct allocation *mapping = book_new(MAPPING, address, physical->card, bytes, 0);
    CUresult result = mapping ? driver()->cuMemMap(address, bytes, offset, handle, flags) : CUDA_ERROR_OUT_OF_MEMORY;
    if (!result) {
        mapping->physical = physical;
        mapping->owner = handle;
        book_put(mapping);
        return CUDA_SUCCESS;
    }
    struct allocation *ended = book_let_go(physical, 0, 1);
    if (ended)
        end(ended);
    free(mapping);
    return result;
}

/* All mappings that begin in the range, as a list. */
static struct allocation *take_mappings(CUdeviceptr address, size_t bytes)
{
    struct allocation *list = NULL;
    for (uint64_t at = address; at - address < bytes;) {
        struct allocation *mapping = book_take(MAPPING, at);
        at += mapping ? mapping->bytes : PIECE;
        if (mapping) {
            mapping->next = list;
            list = mapping;
        }
    }
    return list;
}

EXPORTED CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
    struct allocation *list = take_mappings(address, bytes), *next;
    for (struct allocation *mapping = list; mapping; mapping = mapping->next) {
        struct allocation *ended = book_let_go(mapping->physical, 0, 1);
        mapping->handles = ended != NULL; /* of a mapping: this was the last of its memory */
    }
    CUresult result = driver()->cuMemUnmap(address, bytes);
    for (struct allocation *mapping = list; mapping; mapping = next) {
        next = mapping->next;
        struct allocation *ended = mapping->handles ? mapping->physical : NULL;
        mapping->handles = 0;
        if (result) {
            restore(mapping->owner, ended, 0, 1);
            book_put(mapping);
            continue;
        }
        if (ended)
            end(ended);
        free(mapping);
    }
    return result;
}

/* What is mapped into a sparse array cannot be told from what is unmapped later, so it stays charged until the process ends. */
static void keep(const CUarrayMapInfo *list, unsigned count)
{
    struct allocation *physical;
    for (unsigned i = 0; i < count; i++)
        if (list[i].memOperationType == CU_MEM_OPERATION_TYPE_MAP && list[i].memHandleType == CU_MEM_HANDLE_TYPE_GENERIC)
            book_hold(list[i].memHandle.memHandle, 0, 1, &physical);
}

EXPORTED CUresult cuMemMapArrayAsync(CUarrayMapInfo *list, unsigned int count, CUstream stream)
{
    CUresult result = driver()->cuMemMapArrayAsync(list, count, stream);
    if (!result)
        keep(list, count);
    return result;
}

EXPORTED CUresult cuMemMapArrayAsync_ptsz(CUarrayMapInfo *list, unsigned int count, CUstream stream)
{
    CUresult result = driver()->cuMemMapArrayAsync_ptsz(list, count, stream);
    if (!result)
        keep(list, count);
    return result;
}
