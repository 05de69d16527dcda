/* Physical memory by cuMemCreate, and how it goes to other processes as a file descriptor. */
#define _GNU_SOURCE
#include "driver.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GRANULARITY (2 * MIB)
#define FILE_NAME "gpu-simulator-"

static struct physical *physical_of(CUmemGenericAllocationHandle handle)
{
    struct physical *physical = (struct physical *)(uintptr_t)handle;
    return object_is(physical, PHYSICAL_OBJECT) ? physical : NULL;
}

static CUresult check(const CUmemAllocationProp *properties)
{
    if (!properties || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (properties->requestedHandleTypes & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    return is_device(properties->location.id) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *properties, CUmemAllocationGranularity_flags option)
{
    CUresult result = enter(__func__);
    (void)option;
    if (!result && !granularity)
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        result = check(properties);
    if (!result)
        *granularity = GRANULARITY;
    return result;
}

static bool back(struct physical *physical)
{
    char name[64];
    int file = -1, flags = MAP_SHARED | MAP_NORESERVE;
    if (physical->properties.requestedHandleTypes) {
        snprintf(name, sizeof name, FILE_NAME "%llu", (unsigned long long)physical->shared_id);
        file = memfd_create(name, MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, (off_t)physical->bytes) != 0)
            return false;
    }
    physical->file = file;
    physical->backing = mmap(NULL, physical->bytes, PROT_READ | PROT_WRITE, file < 0 ? flags | MAP_ANONYMOUS : flags, file, 0);
    return physical->backing != MAP_FAILED;
}

static void pay_back(struct physical *physical)
{
    const struct device *about = &driver.devices[physical->device];
    machine_lock(driver.machine);
    if (physical->shared == NOBODY)
        memory_return(driver.machine, driver.process, about->card, about->part, physical->bytes);
    else if (driver.machine->shared[physical->shared].id == physical->shared_id)
        shared_release(driver.machine, physical->shared, driver.process);
    machine_unlock(driver.machine);
}

static CUresult pay(struct physical *physical)
{
    const struct device *about = &driver.devices[physical->device];
    CUresult result = CUDA_SUCCESS;
    machine_lock(driver.machine);
    if (!memory_charge(driver.machine, driver.process, about->card, about->part, physical->bytes)) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else if (physical->properties.requestedHandleTypes) {
        physical->shared = shared_create(driver.machine, driver.process, about->card, about->part, physical->bytes);
        if (physical->shared == NOBODY) {
            memory_return(driver.machine, driver.process, about->card, about->part, physical->bytes);
            result = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            physical->shared_id = driver.machine->shared[physical->shared].id;
        }
    }
    machine_unlock(driver.machine);
    return result;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *properties, unsigned long long flags)
{
    CUresult result = enter(__func__);
    if (!result && (!handle || flags || !bytes || bytes % GRANULARITY))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        result = check(properties);
    if (result)
        return result;
    struct physical *physical = object_new(PHYSICAL_OBJECT, sizeof *physical);
    physical->properties = *properties;
    physical->bytes = bytes;
    physical->device = properties->location.id;
    physical->shared = NOBODY;
    physical->file = -1;
    physical->handles = 1;
    result = pay(physical);
    if (!result && !back(physical)) {
        pay_back(physical);
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result)
        object_end(physical);
    else
        *handle = (CUmemGenericAllocationHandle)(uintptr_t)physical;
    return result;
}

/* With driver.lock: memory goes when neither a handle nor a mapping is left. */
void physical_settle(struct physical *physical)
{
    if (physical->handles || physical->maps)
        return;
    munmap(physical->backing, physical->bytes);
    if (physical->file >= 0)
        close(physical->file);
    pay_back(physical);
    object_end(physical);
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    CUresult result = enter(__func__);
    struct physical *physical = physical_of(handle);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    if (!physical || !physical->handles) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        physical->handles--;
        physical_settle(physical);
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    struct region *region = region_find((CUdeviceptr)(uintptr_t)address);
    if (!handle || !region || region->region_kind != MAPPED_REGION) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        region->physical->handles++;
        *handle = (CUmemGenericAllocationHandle)(uintptr_t)region->physical;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *properties, CUmemGenericAllocationHandle handle)
{
    CUresult result = enter(__func__);
    const struct physical *physical = physical_of(handle);
    if (!result && (!properties || !physical))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        *properties = physical->properties;
    return result;
}

CUresult cuMemExportToShareableHandle(void *shareable, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType type, unsigned long long flags)
{
    CUresult result = enter(__func__);
    const struct physical *physical = physical_of(handle);
    if (result)
        return result;
    if (!shareable || flags || !physical || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || physical->file < 0)
        return CUDA_ERROR_INVALID_VALUE;
    int copy = fcntl(physical->file, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return CUDA_ERROR_INVALID_HANDLE;
    *(int *)shareable = copy;
    return CUDA_SUCCESS;
}

/* The name of the descriptor's file says which shared allocation it is. */
static uint64_t id_of(int file)
{
    char link[64], name[256];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name - 1);
    name[length < 0 ? 0 : length] = 0;
    const char *found = strstr(name, FILE_NAME);
    return found ? strtoull(found + strlen(FILE_NAME), NULL, 10) : 0;
}

static uint32_t hold_shared(uint64_t id)
{
    uint32_t found = NOBODY;
    machine_lock(driver.machine);
    for (uint32_t index = 0; found == NOBODY && index < driver.machine->shared_end; index++)
        if (driver.machine->shared[index].used && driver.machine->shared[index].id == id &&
            shared_hold(driver.machine, index, driver.process))
            found = index;
    machine_unlock(driver.machine);
    return found;
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *shareable, CUmemAllocationHandleType type)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    if (!handle || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_INVALID_VALUE;
    int file = (int)(uintptr_t)shareable;
    uint64_t id = id_of(file);
    uint32_t index = id ? hold_shared(id) : NOBODY;
    if (index == NOBODY)
        return CUDA_ERROR_INVALID_VALUE;
    const struct shared_allocation *shared = &driver.machine->shared[index];
    struct physical *physical = object_new(PHYSICAL_OBJECT, sizeof *physical);
    physical->bytes = shared->bytes;
    physical->shared = index;
    physical->shared_id = id;
    physical->handles = 1;
    physical->file = fcntl(file, F_DUPFD_CLOEXEC, 0);
    physical->device = 0;
    for (CUdevice device = 0; device < driver.device_count; device++)
        if (driver.devices[device].card == shared->card && driver.devices[device].part == shared->part)
            physical->device = device;
    physical->properties = (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                                 .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                                 .location = {CU_MEM_LOCATION_TYPE_DEVICE, {physical->device}}};
    physical->backing = mmap(NULL, physical->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (physical->backing == MAP_FAILED) {
        pay_back(physical);
        object_end(physical);
        return CUDA_ERROR_MAP_FAILED;
    }
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)physical;
    return CUDA_SUCCESS;
}
