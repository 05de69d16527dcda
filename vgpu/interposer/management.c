/* NVML shows the container's slice and its own processes, by the numbers that they have inside of it. It asks NVML itself first, so
   errors are NVML's; a card that is not of the slice, or limits that are not there, give NVML_ERROR_NO_PERMISSION. */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "management.h"
#include "linking.h"
#include "slice.h"
#include <dlfcn.h>
#include <nvml.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

struct management {
    __typeof__(nvmlDeviceGetCount_v2) *nvmlDeviceGetCount, *nvmlDeviceGetCount_v2;
    __typeof__(nvmlDeviceGetHandleByIndex_v2) *nvmlDeviceGetHandleByIndex, *nvmlDeviceGetHandleByIndex_v2;
    __typeof__(nvmlDeviceGetHandleByUUID) *nvmlDeviceGetHandleByUUID;
    __typeof__(nvmlDeviceGetUUID) *nvmlDeviceGetUUID;
    __typeof__(nvmlDeviceGetMemoryInfo) *nvmlDeviceGetMemoryInfo;
    __typeof__(nvmlDeviceGetMemoryInfo_v2) *nvmlDeviceGetMemoryInfo_v2;
};

static struct management found;
static bool loaded;
static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

static nvmlReturn_t no_library(void)
{
    return NVML_ERROR_LIBRARY_NOT_FOUND;
}

static nvmlReturn_t no_function(void)
{
    return NVML_ERROR_FUNCTION_NOT_FOUND;
}

static void fill(void *library, const char *name, size_t place)
{
    void *function = library ? real_dlsym(library, name) : (void *)no_library;
    if (!function)
        function = (void *)no_function;
    memcpy((char *)&found + place, &function, sizeof function);
}

static void load(void)
{
    void *library = real_dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
    fill(library, "nvmlDeviceGetCount", offsetof(struct management, nvmlDeviceGetCount));
    fill(library, "nvmlDeviceGetCount_v2", offsetof(struct management, nvmlDeviceGetCount_v2));
    fill(library, "nvmlDeviceGetHandleByIndex", offsetof(struct management, nvmlDeviceGetHandleByIndex));
    fill(library, "nvmlDeviceGetHandleByIndex_v2", offsetof(struct management, nvmlDeviceGetHandleByIndex_v2));
    fill(library, "nvmlDeviceGetHandleByUUID", offsetof(struct management, nvmlDeviceGetHandleByUUID));
    fill(library, "nvmlDeviceGetUUID", offsetof(struct management, nvmlDeviceGetUUID));
    fill(library, "nvmlDeviceGetMemoryInfo", offsetof(struct management, nvmlDeviceGetMemoryInfo));
    fill(library, "nvmlDeviceGetMemoryInfo_v2", offsetof(struct management, nvmlDeviceGetMemoryInfo_v2));
}

static const struct management *management(void)
{
    pthread_mutex_lock(&loading);
    if (!loaded)
        load();
    loaded = true;
    pthread_mutex_unlock(&loading);
    return &found;
}

static const struct {
    const char *name;
    void *function;
} hooks[] = {
#define HOOK(symbol) {#symbol, (void *)symbol},
#include "management_hooks.h"
#undef HOOK
};

void *management_named(const char *name)
{
    for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++)
        if (strcmp(hooks[i].name, name) == 0)
            return hooks[i].function;
    return NULL;
}

static nvmlReturn_t card_of(nvmlDevice_t device, int *card)
{
    char uuid[TESSERA_UUID_BYTES];
    nvmlReturn_t result = management()->nvmlDeviceGetUUID(device, uuid, sizeof uuid);
    if (result)
        return result;
    *card = limits_open() && usage_open() ? limits_card_named(uuid) : NO_CARD;
    if (placed_card() != NO_CARD && placed_card() != *card)
        *card = NO_CARD; /* another process's */
    return *card == NO_CARD ? NVML_ERROR_NO_PERMISSION : NVML_SUCCESS;
}

static nvmlReturn_t count_of(unsigned int *count, nvmlReturn_t result)
{
    if (!result && *count && limits_one_device())
        *count = 1;
    return result;
}

EXPORTED nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    return count_of(count, management()->nvmlDeviceGetCount(count));
}

EXPORTED nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    return count_of(count, management()->nvmlDeviceGetCount_v2(count));
}

/* Who has not called cuInit is not placed yet, and sees the first card. */
static nvmlReturn_t the_device(unsigned int index, nvmlDevice_t *device)
{
    int placed = placed_card();
    if (index != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    return management()->nvmlDeviceGetHandleByUUID(limits_uuid(placed == NO_CARD ? 0 : (unsigned)placed), device);
}

EXPORTED nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return limits_one_device() ? the_device(index, device) : management()->nvmlDeviceGetHandleByIndex(index, device);
}

EXPORTED nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    return limits_one_device() ? the_device(index, device) : management()->nvmlDeviceGetHandleByIndex_v2(index, device);
}

static void divide(int card, unsigned long long *total, unsigned long long *available, unsigned long long *used)
{
    usage_reap();
    uint64_t limit = limits_memory((unsigned)card), reserved = usage_reserved((unsigned)card);
    *total = limit < *total ? limit : *total;
    *used = reserved < *total ? reserved : *total;
    *available = *total - *used;
}

EXPORTED nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    int card;
    nvmlReturn_t result = management()->nvmlDeviceGetMemoryInfo(device, memory);
    if (!result)
        result = card_of(device, &card);
    if (!result)
        divide(card, &memory->total, &memory->free, &memory->used);
    return result;
}

EXPORTED nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    int card;
    nvmlReturn_t result = management()->nvmlDeviceGetMemoryInfo_v2(device, memory);
    if (!result)
        result = card_of(device, &card);
    if (result)
        return result;
    memory->reserved = 0;
    divide(card, &memory->total, &memory->free, &memory->used);
    return NVML_SUCCESS;
}

static unsigned find(int card, nvmlProcessInfo_t *list, unsigned room)
{
    unsigned count = 0;
    uint64_t context = limits_context((unsigned)card);
    usage_reap();
    writer_enter();
    for (unsigned place = 0; place < TESSERA_MOST_PROCESSES; place++) {
        const struct tessera_process_slot *slot = &own.page->slots[place];
        uint64_t bytes = slot->ledger[card].bytes;
        if (slot->generation % 2 == 0 || !(slot->contexts >> card & 1))
            continue;
        if (count < room)
            list[count] = (nvmlProcessInfo_t){.pid = slot->pid,
                                              .usedGpuMemory = bytes + context < bytes ? UINT64_MAX : bytes + context,
                                              .gpuInstanceId = 0xFFFFFFFF,
                                              .computeInstanceId = 0xFFFFFFFF};
        count++;
    }
    writer_leave();
    return count;
}

/* Lists of processes have grown by members; `bytes` says which version the caller has. */
static nvmlReturn_t processes(nvmlDevice_t device, unsigned *count, void *list, size_t bytes)
{
    nvmlProcessInfo_t all[TESSERA_MOST_PROCESSES];
    int card;
    nvmlReturn_t result = card_of(device, &card);
    if (result)
        return result;
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned number = find(card, all, TESSERA_MOST_PROCESSES), room = *count;
    *count = number;
    if (number > room || (number && !list))
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < number; i++)
        memcpy((char *)list + i * bytes, &all[i], bytes);
    return NVML_SUCCESS;
}

#define PROCESSES(name, type)                                                        \
    EXPORTED nvmlReturn_t name(nvmlDevice_t device, unsigned int *count, type *list) \
    {                                                                                \
        return processes(device, count, list, sizeof *list);                         \
    }
PROCESSES(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t)

static nvmlReturn_t nobody(nvmlDevice_t device, unsigned *count)
{
    int card;
    nvmlReturn_t result = card_of(device, &card);
    if (!result && !count)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (!result)
        *count = 0;
    return result;
}

/* Who else draws or uses MPS on the card is not the container's business. */
#define NOBODY(name, type)                                                           \
    EXPORTED nvmlReturn_t name(nvmlDevice_t device, unsigned int *count, type *list) \
    {                                                                                \
        (void)list;                                                                  \
        return nobody(device, count);                                                \
    }
NOBODY(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
NOBODY(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
NOBODY(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)
NOBODY(nvmlDeviceGetAccountingPids, unsigned int)

EXPORTED nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t *list)
{
    nvmlProcessInfo_t all[TESSERA_MOST_PROCESSES];
    int card;
    nvmlReturn_t result = card_of(device, &card);
    if (result)
        return result;
    if (!list)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned number = list->mode == NVML_PROCESS_MODE_COMPUTE ? find(card, all, TESSERA_MOST_PROCESSES) : 0, room = list->numProcArrayEntries;
    list->numProcArrayEntries = number;
    if (number > room || (number && !list->procArray))
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < number; i++)
        list->procArray[i] = (nvmlProcessDetail_v1_t){.pid = all[i].pid, .usedGpuMemory = all[i].usedGpuMemory, .gpuInstanceId = 0xFFFFFFFF, .computeInstanceId = 0xFFFFFFFF};
    return NVML_SUCCESS;
}

/* Samples are of all processes of the card, by numbers outside of the container that it cannot tell apart: there are none. */
EXPORTED nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *list, unsigned int *count, unsigned long long seen)
{
    (void)list;
    (void)seen;
    nvmlReturn_t result = nobody(device, count);
    return result ? result : NVML_ERROR_NOT_FOUND;
}

EXPORTED nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *info)
{
    if (!info)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = nobody(device, &info->processSamplesCount);
    return result ? result : NVML_ERROR_NOT_FOUND;
}
