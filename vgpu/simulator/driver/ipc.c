/* Device memory of one process in another one. */
#define _GNU_SOURCE
#include "driver.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct memory_handle {
    uint64_t magic, id, offset, bytes, whole;
    uint32_t index, process, generation, reserved;
};

CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr address)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    if (!handle)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find(address);
    uint64_t offset = 0;
    if (!region || region->region_kind != DEVICE_REGION || region->pool)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        result = share(region, &offset);
    if (!result) {
        struct memory_handle content = {.magic = DESCRIPTION_MAGIC,
                                        .id = region->shared_id,
                                        .offset = offset,
                                        .bytes = region->bytes,
                                        .whole = driver.machine->shared[region->shared].bytes,
                                        .index = region->shared,
                                        .process = driver.process,
                                        .generation = driver.machine->processes[driver.process].generation};
        memset(handle, 0, sizeof *handle);
        memcpy(handle, &content, sizeof content);
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

static struct region *already_open(uint64_t id)
{
    for (struct region *region = region_first(); region; region = region_after(region))
        if (region->region_kind == IPC_REGION && region->shared_id == id)
            return region;
    return NULL;
}

static CUresult map_shared(const struct memory_handle *content, struct CUctx_st *context, struct region **made)
{
    char path[512];
    snprintf(path, sizeof path, "%s.memory-%llu", machine_path(), (unsigned long long)content->id);
    machine_lock(driver.machine);
    process_reap(driver.machine);
    const struct shared_allocation *shared = &driver.machine->shared[content->index];
    bool held = shared->used && shared->id == content->id && shared_hold(driver.machine, content->index, driver.process);
    machine_unlock(driver.machine);
    if (!held)
        return CUDA_ERROR_INVALID_HANDLE;
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *base = file < 0 ? NULL : address_reserve(content->whole, 2 * MIB, NULL, false);
    bool mapped = base && mmap(base, content->whole, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == base;
    if (file >= 0)
        close(file);
    if (!mapped) {
        machine_lock(driver.machine);
        shared_release(driver.machine, content->index, driver.process);
        machine_unlock(driver.machine);
        return CUDA_ERROR_MAP_FAILED;
    }
    *made = region_add(IPC_REGION, (CUdeviceptr)(uintptr_t)base, content->whole);
    (*made)->context = context;
    (*made)->device = context->device;
    (*made)->shared = content->index;
    (*made)->shared_id = content->id;
    return CUDA_SUCCESS;
}

static CUresult open_memory(CUdeviceptr *address, CUipcMemHandle handle, unsigned flags)
{
    struct CUctx_st *context;
    struct memory_handle content;
    struct region *region;
    CUresult result = context_current(&context);
    memcpy(&content, &handle, sizeof content);
    if (!result && (!address || content.magic != DESCRIPTION_MAGIC || content.index >= MAX_SHARED ||
                    (flags & ~(unsigned)CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result && content.process == driver.process && content.generation == driver.machine->processes[driver.process].generation)
        result = CUDA_ERROR_INVALID_CONTEXT; /* a process does not open its own memory */
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    region = already_open(content.id);
    if (!region)
        result = map_shared(&content, context, &region);
    if (!result) {
        region->opened++;
        *address = region->base + content.offset;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuIpcOpenMemHandle(CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags)
{
    CUresult entered = enter(__func__);
    return entered ? entered : open_memory(address, handle, flags);
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags)
{
    CUresult entered = enter(__func__);
    return entered ? entered : open_memory(address, handle, flags);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr address)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (result)
        return result;
    context_wait(context);
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find(address);
    if (!region || region->region_kind != IPC_REGION) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (--region->opened == 0) {
        machine_lock(driver.machine);
        if (driver.machine->shared[region->shared].id == region->shared_id)
            shared_release(driver.machine, region->shared, driver.process);
        machine_unlock(driver.machine);
        address_release((void *)(uintptr_t)region->base, region->bytes);
        region_remove(region);
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}
