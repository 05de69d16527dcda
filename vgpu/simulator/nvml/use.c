/* Memory and time that are used, by card and by process. */
#include "management.h"
#include <string.h>

static uint64_t used_bytes(nvmlDevice_t device)
{
    uint64_t used = machine->parts[device->card][device->part].used_bytes;
    if (!device->part)
        for (unsigned part = 1; part < PARTS; part++)
            used += machine->parts[device->card][part].used_bytes;
    return used;
}

static uint64_t total_bytes(nvmlDevice_t device)
{
    return device->part ? machine->parts[device->card][device->part].capacity_bytes : about(device)->memory_mib * MIB;
}

/* The first version counts what the driver keeps for itself as used. */
EXPORTED nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || !memory)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    uint64_t reserved = device->part ? 0 : about(device)->reserved_mib * MIB;
    memory->total = total_bytes(device);
    memory->used = used_bytes(device) + reserved;
    memory->free = memory->total - memory->used;
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || !memory)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    if (memory->version != nvmlMemory_v2)
        return end(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    memory->total = total_bytes(device);
    memory->reserved = device->part ? 0 : about(device)->reserved_mib * MIB;
    memory->used = used_bytes(device);
    memory->free = memory->total - memory->used - memory->reserved;
    return end(NVML_SUCCESS);
}

/* Whether the process has a context on that part of the card. */
static bool has_context(uint32_t process, unsigned card, unsigned part)
{
    for (uint32_t i = machine->parts[card][part].first_context; i != NOBODY; i = machine->contexts[i].next)
        if (machine->contexts[i].process == process)
            return true;
    return false;
}

struct entry {
    uint32_t process;
    unsigned part;
};

static unsigned find_entries(nvmlDevice_t device, struct entry *entries, unsigned room)
{
    unsigned count = 0;
    for (uint32_t process = 0; process < machine->process_end; process++) {
        if (!machine->processes[process].state || !(machine->processes[process].contexts >> device->card & 1))
            continue;
        for (unsigned part = 0; part < PARTS; part++) {
            if ((device->part && part != device->part) || !has_context(process, device->card, part))
                continue;
            if (count < room)
                entries[count] = (struct entry){process, part};
            count++;
        }
    }
    return count;
}

/* Lists of processes have grown by members; `bytes` says which version the caller has. */
static nvmlReturn_t processes(nvmlDevice_t device, unsigned *count, void *list, size_t bytes)
{
    struct entry entries[MAX_PROCESSES];
    if (!is_handle(device) || !count)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned found = find_entries(device, entries, MAX_PROCESSES);
    if (found > *count || (found && !list)) {
        *count = found;
        return NVML_ERROR_INSUFFICIENT_SIZE;
    }
    *count = found;
    for (unsigned i = 0; i < found; i++) {
        const struct entry *entry = &entries[i];
        nvmlProcessInfo_t info = {.pid = (unsigned)process_visible_pid(machine, entry->process),
                                  .usedGpuMemory = memory_of(machine, entry->process, device->card, entry->part),
                                  .gpuInstanceId = entry->part ? machine->mig[device->card].instances[entry->part].id : 0xFFFFFFFF,
                                  .computeInstanceId = entry->part ? 0 : 0xFFFFFFFF};
        memcpy((char *)list + i * bytes, &info, bytes);
    }
    return NVML_SUCCESS;
}

#define PROCESSES(name, type)                                                                    \
    EXPORTED nvmlReturn_t name(nvmlDevice_t device, unsigned int *count, type *list)             \
    {                                                                                            \
        nvmlReturn_t result = begin(__func__);                                                   \
        return result ? result : end(processes(device, count, list, sizeof *list));              \
    }
PROCESSES(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t)

static nvmlReturn_t nobody(nvmlDevice_t device, unsigned *count)
{
    if (!is_handle(device) || !count)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    return NVML_SUCCESS;
}

#define NO_PROCESSES(name, type)                                                     \
    EXPORTED nvmlReturn_t name(nvmlDevice_t device, unsigned int *count, type *list) \
    {                                                                                \
        nvmlReturn_t result = begin(__func__);                                       \
        (void)list;                                                                  \
        return result ? result : end(nobody(device, count));                         \
    }
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

EXPORTED nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t *list)
{
    struct entry entries[MAX_PROCESSES];
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || !list)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    unsigned found = list->mode == NVML_PROCESS_MODE_COMPUTE ? find_entries(device, entries, MAX_PROCESSES) : 0;
    bool fits = found <= list->numProcArrayEntries && (list->procArray || !found);
    list->numProcArrayEntries = found;
    if (!fits)
        return end(NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < found; i++)
        list->procArray[i] = (nvmlProcessDetail_v1_t){.pid = (unsigned)process_visible_pid(machine, entries[i].process),
                                                      .usedGpuMemory = memory_of(machine, entries[i].process, device->card, entries[i].part),
                                                      .gpuInstanceId = entries[i].part ? machine->mig[device->card].instances[entries[i].part].id : 0xFFFFFFFF,
                                                      .computeInstanceId = entries[i].part ? 0 : 0xFFFFFFFF};
    return end(NVML_SUCCESS);
}

struct sample {
    uint32_t process;
    unsigned percent;
};

/* The newest readable sample, of those processes that did something in it; nothing if the caller has seen it. */
static nvmlReturn_t samples(nvmlDevice_t device, uint64_t seen_us, struct sample *list, unsigned *count, uint64_t *time_us)
{
    *count = 0;
    if (!is_handle(device))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (device->part || machine->mig[device->card].mode)
        return NVML_ERROR_NOT_SUPPORTED;
    uint64_t sample = utilisation_sample(machine, device->card);
    *time_us = clock_wall_us(machine, utilisation_sample_ns(machine, device->card, sample));
    if (!sample || *time_us <= seen_us)
        return NVML_ERROR_NOT_FOUND;
    for (uint32_t process = 0; process < machine->process_end; process++) {
        unsigned percent = machine->processes[process].state ? utilisation_percent(machine, process, device->card, sample) : 0;
        if (percent)
            list[(*count)++] = (struct sample){process, percent};
    }
    return *count ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

EXPORTED nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *list, unsigned int *count, unsigned long long seen_us)
{
    struct sample found[MAX_PROCESSES];
    unsigned number;
    uint64_t time_us;
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!count)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    result = samples(device, seen_us, found, &number, &time_us);
    if (result)
        return end(result);
    bool fits = list && *count >= number;
    *count = number;
    if (!fits)
        return end(NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < number; i++)
        list[i] = (nvmlProcessUtilizationSample_t){.pid = (unsigned)process_visible_pid(machine, found[i].process), .timeStamp = time_us, .smUtil = found[i].percent};
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *info)
{
    struct sample found[MAX_PROCESSES];
    unsigned number;
    uint64_t time_us;
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!info)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    result = samples(device, info->lastSeenTimeStamp, found, &number, &time_us);
    if (result)
        return end(result);
    bool fits = info->procUtilArray && info->processSamplesCount >= number;
    info->processSamplesCount = number;
    if (!fits)
        return end(NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < number; i++)
        info->procUtilArray[i] = (nvmlProcessUtilizationInfo_v1_t){.timeStamp = time_us, .pid = (unsigned)process_visible_pid(machine, found[i].process), .smUtil = found[i].percent};
    return end(NVML_SUCCESS);
}

static unsigned card_percent(nvmlDevice_t device)
{
    unsigned sum = 0;
    uint64_t sample = utilisation_sample(machine, device->card);
    for (uint32_t process = 0; sample && process < machine->process_end; process++)
        if (machine->processes[process].state)
            sum += utilisation_percent(machine, process, device->card, sample);
    return sum > 100 ? 100 : sum;
}

EXPORTED nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || !rates)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    if (device->part || machine->mig[device->card].mode)
        return end(NVML_ERROR_NOT_SUPPORTED);
    *rates = (nvmlUtilization_t){.gpu = card_percent(device)};
    return end(NVML_SUCCESS);
}

/* A card draws a fifth of its limit when idle, and the rest as it is used; 35 to 70 degrees. A rough guess, to have a moving number. */
EXPORTED nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || device->part || !milliwatts)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    *milliwatts = (unsigned)(about(device)->power_limit_mw * (20 + 80 * card_percent(device) / 100) / 100);
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *degrees)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || device->part || !degrees || sensor != NVML_TEMPERATURE_GPU)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    *degrees = 35 + 35 * card_percent(device) / 100;
    return end(NVML_SUCCESS);
}
