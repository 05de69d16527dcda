/* Device memory as the driver takes it from the card: in pieces of 2 MiB, of which allocations up to 1 MiB share some. */
#define _GNU_SOURCE
#include "driver.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE (2 * MIB)
#define SMALL MIB
#define GRAIN 512u
#define GRAINS (PIECE / GRAIN)

/* A piece that small allocations share. */
struct chunk {
    struct object object;
    struct chunk *next;
    struct CUctx_st *context;
    CUdeviceptr base;
    unsigned used_grains;
    uint32_t shared;
    uint64_t shared_id;
    unsigned char taken[GRAINS / 8];
};

static struct chunk *chunks;

bool charge(CUdevice device, uint64_t bytes)
{
    const struct device *about = &driver.devices[device];
    machine_lock(driver.machine);
    bool granted = memory_charge(driver.machine, driver.process, about->card, about->part, bytes);
    machine_unlock(driver.machine);
    return granted;
}

void discharge(CUdevice device, uint64_t bytes)
{
    const struct device *about = &driver.devices[device];
    machine_lock(driver.machine);
    memory_return(driver.machine, driver.process, about->card, about->part, bytes);
    machine_unlock(driver.machine);
}

static bool is_taken(const struct chunk *chunk, unsigned grain)
{
    return chunk->taken[grain / 8] >> (grain % 8) & 1;
}

static void mark(struct chunk *chunk, unsigned first, unsigned grains, bool taken)
{
    for (unsigned grain = first; grain < first + grains; grain++) {
        if (taken)
            chunk->taken[grain / 8] |= (unsigned char)(1 << grain % 8);
        else
            chunk->taken[grain / 8] &= (unsigned char)~(1 << grain % 8);
    }
    chunk->used_grains += taken ? grains : -grains;
}

static bool find_space(const struct chunk *chunk, unsigned grains, unsigned *first)
{
    unsigned run = 0;
    if (GRAINS - chunk->used_grains < grains)
        return false;
    for (unsigned grain = 0; grain < GRAINS; grain++) {
        run = is_taken(chunk, grain) ? 0 : run + 1;
        if (run == grains) {
            *first = grain + 1 - grains;
            return true;
        }
    }
    return false;
}

static struct chunk *new_chunk(struct CUctx_st *context)
{
    if (!charge(context->device, PIECE))
        return NULL;
    void *base = address_reserve(PIECE, PIECE, NULL, true);
    if (!base) {
        discharge(context->device, PIECE);
        return NULL;
    }
    struct chunk *chunk = object_new(CHUNK_OBJECT, sizeof *chunk);
    chunk->context = context;
    chunk->base = (CUdeviceptr)(uintptr_t)base;
    chunk->shared = NOBODY;
    chunk->next = chunks;
    chunks = chunk;
    return chunk;
}

/* Memory that others hold, too, is paid for until the last has let it go. */
static void give_back(CUdevice device, uint64_t bytes, uint32_t shared, uint64_t shared_id)
{
    const struct device *about = &driver.devices[device];
    machine_lock(driver.machine);
    if (shared == NOBODY)
        memory_return(driver.machine, driver.process, about->card, about->part, bytes);
    else if (driver.machine->shared[shared].id == shared_id)
        shared_release(driver.machine, shared, driver.process);
    machine_unlock(driver.machine);
}

static void end_chunk(struct chunk *chunk)
{
    struct chunk **link = &chunks;
    while (*link != chunk)
        link = &(*link)->next;
    *link = chunk->next;
    give_back(chunk->context->device, PIECE, chunk->shared, chunk->shared_id);
    address_release((void *)(uintptr_t)chunk->base, PIECE);
    object_end(chunk);
}

static CUresult allocate_small(struct CUctx_st *context, size_t bytes, struct region **made)
{
    unsigned grains = (unsigned)((bytes + GRAIN - 1) / GRAIN), first = 0;
    struct chunk *chunk = chunks;
    while (chunk && !(chunk->context == context && find_space(chunk, grains, &first)))
        chunk = chunk->next;
    if (!chunk && !(chunk = new_chunk(context)))
        return CUDA_ERROR_OUT_OF_MEMORY;
    mark(chunk, first, grains, true);
    *made = region_add(DEVICE_REGION, chunk->base + (CUdeviceptr)first * GRAIN, bytes);
    (*made)->chunk = chunk;
    return CUDA_SUCCESS;
}

static CUresult allocate_large(struct CUctx_st *context, size_t bytes, struct region **made)
{
    size_t whole = (bytes + PIECE - 1) / PIECE * PIECE;
    if (whole < bytes || !charge(context->device, whole))
        return CUDA_ERROR_OUT_OF_MEMORY;
    void *base = address_reserve(whole, PIECE, NULL, true);
    if (!base) {
        discharge(context->device, whole);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *made = region_add(DEVICE_REGION, (CUdeviceptr)(uintptr_t)base, bytes);
    (*made)->charged = whole;
    return CUDA_SUCCESS;
}

CUresult allocate(struct CUctx_st *context, size_t bytes, struct region **region)
{
    if (!bytes)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = bytes <= SMALL ? allocate_small(context, bytes, region) : allocate_large(context, bytes, region);
    if (!result) {
        (*region)->context = context;
        (*region)->device = context->device;
    }
    return result;
}

CUresult release(struct region *region)
{
    struct chunk *chunk = region->chunk;
    if (chunk) {
        unsigned first = (unsigned)((region->base - chunk->base) / GRAIN);
        mark(chunk, first, (unsigned)((region->bytes + GRAIN - 1) / GRAIN), false);
        region_remove(region);
        if (!chunk->used_grains)
            end_chunk(chunk);
        return CUDA_SUCCESS;
    }
    size_t mapped = region->region_kind == DEVICE_REGION ? region->charged : region->bytes;
    if (region->region_kind == DEVICE_REGION || region->charged)
        give_back(region->device, region->charged, region->shared, region->shared_id);
    address_release((void *)(uintptr_t)region->base, mapped);
    region_remove(region);
    return CUDA_SUCCESS;
}

/* What a context owned goes with it; memory of the host and reservations of addresses stay with the process. */
void release_all(struct CUctx_st *context)
{
    for (struct region *region = region_first(), *next; region; region = next) {
        next = region_after(region);
        bool owned = region->region_kind == DEVICE_REGION || region->region_kind == MANAGED_REGION;
        if (region->context == context && owned && !region->pool)
            release(region);
    }
}

/* Other processes reach the content by a file beside the state. */
static bool move_to_file(CUdeviceptr base, size_t bytes, uint64_t id)
{
    char path[512];
    void *address = (void *)(uintptr_t)base;
    snprintf(path, sizeof path, "%s.memory-%llu", machine_path(), (unsigned long long)id);
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0)
        return false;
    bool moved = ftruncate(file, (off_t)bytes) == 0;
    static const char zeros[65536];
    for (size_t at = 0; moved && at < bytes; at += sizeof zeros) {
        size_t step = bytes - at < sizeof zeros ? bytes - at : sizeof zeros;
        if (memcmp((char *)address + at, zeros, step) != 0)
            moved = pwrite(file, (char *)address + at, step, (off_t)at) == (ssize_t)step;
    }
    moved = moved && mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == address;
    close(file);
    if (!moved)
        unlink(path);
    return moved;
}

static CUresult share_range(CUdevice device, CUdeviceptr base, size_t bytes, uint32_t *shared, uint64_t *id)
{
    const struct device *about = &driver.devices[device];
    if (*shared != NOBODY)
        return CUDA_SUCCESS;
    machine_lock(driver.machine);
    uint32_t index = shared_create(driver.machine, driver.process, about->card, about->part, bytes);
    uint64_t made = index == NOBODY ? 0 : driver.machine->shared[index].id;
    machine_unlock(driver.machine);
    if (index == NOBODY)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (!move_to_file(base, bytes, made)) {
        machine_lock(driver.machine);
        driver.machine->processes[driver.process].own_bytes[about->card][about->part] += bytes;
        shared_release(driver.machine, index, driver.process);
        machine_unlock(driver.machine);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    *shared = index;
    *id = made;
    return CUDA_SUCCESS;
}

/* Makes memory reachable for other processes; a small allocation with its whole piece, in which it lies at the offset. */
CUresult share(struct region *region, uint64_t *offset)
{
    struct chunk *chunk = region->chunk;
    *offset = 0;
    if (!chunk)
        return share_range(region->device, region->base, region->charged, &region->shared, &region->shared_id);
    CUresult result = share_range(region->device, chunk->base, PIECE, &chunk->shared, &chunk->shared_id);
    *offset = region->base - chunk->base;
    region->shared = chunk->shared;
    region->shared_id = chunk->shared_id;
    return result;
}
