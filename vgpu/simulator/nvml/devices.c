/* Cards and MIG devices: handles, names and fixed facts. */
#include "management.h"
#include <stdio.h>
#include <string.h>

static struct nvmlDevice_st cards[MAX_CARDS], instances[MAX_CARDS][PARTS][PARTS];

nvmlDevice_t card_handle(unsigned card)
{
    cards[card].card = card;
    return &cards[card];
}

nvmlDevice_t mig_handle(unsigned card, unsigned part, unsigned instance)
{
    instances[card][part][instance] = (struct nvmlDevice_st){card, part, instance};
    return &instances[card][part][instance];
}

bool is_handle(nvmlDevice_t device)
{
    if (device >= cards && device < cards + machine->description.card_count)
        return true;
    if (device < &instances[0][0][0] || device > &instances[MAX_CARDS - 1][PARTS - 1][PARTS - 1])
        return false;
    return machine->mig[device->card].instances[device->part].used && machine->mig[device->card].instances[device->part].compute[device->instance].used;
}

const struct card_description *about(nvmlDevice_t device)
{
    return &machine->description.cards[device->card];
}

static nvmlReturn_t count(unsigned *number)
{
    if (!number)
        return NVML_ERROR_INVALID_ARGUMENT;
    *number = (unsigned)machine->description.card_count;
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlDeviceGetCount(unsigned int *number)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(count(number));
}

EXPORTED nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *number)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(count(number));
}

static nvmlReturn_t by_index(unsigned index, nvmlDevice_t *device)
{
    if (!device || index >= machine->description.card_count)
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = card_handle(index);
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(by_index(index, device));
}

EXPORTED nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(by_index(index, device));
}

static nvmlReturn_t by_uuid(const char *uuid, nvmlDevice_t *device)
{
    if (!uuid || !device)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned card = 0; card < machine->description.card_count; card++) {
        if (strcmp(machine->description.cards[card].uuid, uuid) == 0) {
            *device = card_handle(card);
            return NVML_SUCCESS;
        }
        for (unsigned part = 1; part < PARTS; part++)
            for (unsigned i = 0; machine->mig[card].instances[part].used && i < PARTS; i++)
                if (machine->mig[card].instances[part].compute[i].used && strcmp(machine->mig[card].instances[part].compute[i].uuid, uuid) == 0) {
                    *device = mig_handle(card, part, i);
                    return NVML_SUCCESS;
                }
    }
    return NVML_ERROR_NOT_FOUND;
}

EXPORTED nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(by_uuid(uuid, device));
}

/* Both forms of the domain, with four and with eight digits, are understood. */
static nvmlReturn_t by_bus(const char *bus_id, nvmlDevice_t *device)
{
    unsigned wanted[3], has[3];
    if (!bus_id || !device || sscanf(bus_id, "%x:%x:%x", &wanted[0], &wanted[1], &wanted[2]) != 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned card = 0; card < machine->description.card_count; card++) {
        sscanf(machine->description.cards[card].bus_id, "%x:%x:%x", &has[0], &has[1], &has[2]);
        if (memcmp(wanted, has, sizeof has) == 0) {
            *device = card_handle(card);
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

EXPORTED nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *device)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(by_bus(bus_id, device));
}

EXPORTED nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(by_bus(bus_id, device));
}

static nvmlReturn_t name_of(nvmlDevice_t device, char *name, unsigned room)
{
    char text[160];
    if (!is_handle(device))
        return NVML_ERROR_INVALID_ARGUMENT;
    snprintf(text, sizeof text, "%s", about(device)->product);
    if (device->part)
        snprintf(text, sizeof text, "%s MIG %s", about(device)->product, about(device)->profiles[machine->mig[device->card].instances[device->part].profile].name);
    return put_text(name, room, text);
}

EXPORTED nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int room)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(name_of(device, name, room));
}

static nvmlReturn_t uuid_of(nvmlDevice_t device, char *uuid, unsigned room)
{
    if (!is_handle(device))
        return NVML_ERROR_INVALID_ARGUMENT;
    return put_text(uuid, room, device->part ? machine->mig[device->card].instances[device->part].compute[device->instance].uuid : about(device)->uuid);
}

EXPORTED nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int room)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(uuid_of(device, uuid, room));
}

static nvmlReturn_t pci(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    if (!is_handle(device) || device->part || !info)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(info, 0, sizeof *info);
    snprintf(info->busId, sizeof info->busId, "%.31s", about(device)->bus_id);
    snprintf(info->busIdLegacy, sizeof info->busIdLegacy, "%.15s", about(device)->bus_id + 4);
    sscanf(about(device)->bus_id, "%x:%x:%x", &info->domain, &info->bus, &info->device);
    info->pciDeviceId = (unsigned)about(device)->pci_device;
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(pci(device, info));
}

EXPORTED nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(pci(device, info));
}

EXPORTED nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(pci(device, info));
}

EXPORTED nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || !major || !minor)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    *major = (int)about(device)->capability_major;
    *minor = (int)about(device)->capability_minor;
    return end(NVML_SUCCESS);
}

/* Answers that are one number of the card's description. */
static nvmlReturn_t give(nvmlDevice_t device, unsigned *to, uint64_t number)
{
    if (!is_handle(device) || !to)
        return NVML_ERROR_INVALID_ARGUMENT;
    *to = (unsigned)number;
    return NVML_SUCCESS;
}

#define NUMBER(name, type, number)                                             \
    EXPORTED nvmlReturn_t name(nvmlDevice_t device, type *value)               \
    {                                                                          \
        nvmlReturn_t result = begin(__func__);                                 \
        if (result)                                                            \
            return result;                                                     \
        if (!is_handle(device))                                                \
            return end(NVML_ERROR_INVALID_ARGUMENT);                           \
        return end(give(device, (unsigned *)value, (number)));                 \
    }
NUMBER(nvmlDeviceGetIndex, unsigned int, device->card)
NUMBER(nvmlDeviceGetMinorNumber, unsigned int, device->card)
NUMBER(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t, about(device)->architecture)
NUMBER(nvmlDeviceGetBrand, nvmlBrandType_t, NVML_BRAND_NVIDIA)
NUMBER(nvmlDeviceGetMemoryBusWidth, unsigned int, about(device)->memory_bus_bits)
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned int, about(device)->power_limit_mw)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, about(device)->power_limit_mw)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, about(device)->power_limit_mw)
NUMBER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
NUMBER(nvmlDeviceGetComputeMode, nvmlComputeMode_t, NVML_COMPUTEMODE_DEFAULT)
NUMBER(nvmlDeviceGetPerformanceState, nvmlPstates_t, NVML_PSTATE_0)
NUMBER(nvmlDeviceGetDisplayActive, nvmlEnableState_t, NVML_FEATURE_DISABLED)
NUMBER(nvmlDeviceGetDisplayMode, nvmlEnableState_t, NVML_FEATURE_DISABLED)
NUMBER(nvmlDeviceIsMigDeviceHandle, unsigned int, device->part != 0)

static nvmlReturn_t clock_of(nvmlDevice_t device, nvmlClockType_t type, unsigned *mhz)
{
    if (!is_handle(device) || !mhz || type >= NVML_CLOCK_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    *mhz = (unsigned)((type == NVML_CLOCK_MEM ? about(device)->memory_clock_khz : about(device)->clock_khz) / 1000);
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(clock_of(device, type, mhz));
}

EXPORTED nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(clock_of(device, type, mhz));
}

EXPORTED nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t one, nvmlDevice_t other, nvmlGpuTopologyLevel_t *level)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(one) || !is_handle(other) || !level)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    *level = one == other ? NVML_TOPOLOGY_INTERNAL : NVML_TOPOLOGY_HOSTBRIDGE; /* as the driver's peers: one PCI root */
    return end(NVML_SUCCESS);
}
