/* Ranges of addresses, and physical memory mapped into them. Until access is set, touching a mapping faults, as it does on the card. */
#define _GNU_SOURCE
#include "driver.h"
#include <string.h>
#include <sys/mman.h>

#define GRANULARITY (2 * MIB)

void physical_settle(struct physical *physical);

CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr wanted, unsigned long long flags)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    if (!address || !bytes || bytes % GRANULARITY || flags || (alignment & (alignment - 1)))
        return CUDA_ERROR_INVALID_VALUE;
    void *base = address_reserve(bytes, alignment > GRANULARITY ? alignment : GRANULARITY, (void *)(uintptr_t)wanted, false);
    if (!base)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&driver.lock);
    region_add(RESERVED_REGION, (CUdeviceptr)(uintptr_t)base, bytes);
    pthread_mutex_unlock(&driver.lock);
    *address = (CUdeviceptr)(uintptr_t)base;
    return CUDA_SUCCESS;
}

/* The reservation that holds the whole range. */
static struct region *reservation_of(CUdeviceptr address, size_t bytes)
{
    for (struct region *region = region_first(); region && region->base <= address; region = region_after(region))
        if (region->region_kind == RESERVED_REGION && address - region->base < region->bytes && bytes <= region->bytes - (address - region->base))
            return region;
    return NULL;
}

static bool anything_mapped(CUdeviceptr address, size_t bytes)
{
    for (struct region *region = region_first(); region && region->base < address + bytes; region = region_after(region))
        if (region->region_kind == MAPPED_REGION && region->base + region->bytes > address)
            return true;
    return false;
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    struct region *region = reservation_of(address, bytes);
    if (!region || region->base != address || region->bytes != bytes || anything_mapped(address, bytes)) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        address_release((void *)(uintptr_t)address, bytes);
        region_remove(region);
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

/* A second mapping of the same pages: mremap of no bytes duplicates a shared one, and needs no descriptor. */
static bool map_pages(CUdeviceptr address, size_t bytes, const struct physical *physical, size_t offset)
{
    void *wanted = (void *)(uintptr_t)address;
    if (mremap((char *)physical->backing + offset, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, wanted) != wanted)
        return false;
    madvise(wanted, bytes, MADV_DONTFORK);
    return mprotect(wanted, bytes, PROT_NONE) == 0;
}

CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags)
{
    CUresult result = enter(__func__);
    struct physical *physical = (struct physical *)(uintptr_t)handle;
    if (result)
        return result;
    if (!object_is(physical, PHYSICAL_OBJECT) || !bytes || bytes % GRANULARITY || offset % GRANULARITY || flags || offset + bytes > physical->bytes)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    struct region *reservation = reservation_of(address, bytes);
    if (!reservation || anything_mapped(address, bytes)) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (!map_pages(address, bytes, physical, offset)) {
        result = CUDA_ERROR_MAP_FAILED;
    } else {
        struct region *region = region_add(MAPPED_REGION, address, bytes);
        region->physical = physical;
        region->physical_offset = offset;
        region->device = physical->device;
        region->reservation = reservation->base;
        physical->maps++;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

static bool covered(CUdeviceptr address, size_t bytes)
{
    CUdeviceptr at = address;
    for (struct region *region = region_first(); region && at < address + bytes; region = region_after(region))
        if (region->region_kind == MAPPED_REGION && region->base == at)
            at += region->bytes;
    return at == address + bytes;
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    if (!bytes || !covered(address, bytes)) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        mmap((void *)(uintptr_t)address, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        for (struct region *region = region_first(), *next; region; region = next) {
            next = region_after(region);
            if (region->region_kind != MAPPED_REGION || region->base < address || region->base >= address + bytes)
                continue;
            struct physical *physical = region->physical;
            physical->maps--;
            region_remove(region);
            physical_settle(physical);
        }
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t count)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    if (!access || !count)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    if (!bytes || !covered(address, bytes))
        result = CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; !result && i < count; i++) {
        int protection = access[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? PROT_READ | PROT_WRITE
                         : access[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READ    ? PROT_READ
                                                                               : PROT_NONE;
        if (access[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || !is_device(access[i].location.id))
            result = CUDA_ERROR_INVALID_DEVICE;
        else if (mprotect((void *)(uintptr_t)address, bytes, protection) != 0)
            result = CUDA_ERROR_INVALID_VALUE;
        for (struct region *region = region_first(); !result && region; region = region_after(region))
            if (region->region_kind == MAPPED_REGION && region->base >= address && region->base < address + bytes)
                region->flags = access[i].flags;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *place, CUdeviceptr address)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find(address);
    if (!flags || !place || !region || region->region_kind != MAPPED_REGION)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        *flags = region->flags;
    pthread_mutex_unlock(&driver.lock);
    return result;
}
