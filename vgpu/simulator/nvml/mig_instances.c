/* MIG mode and GPU instances: parts of a card with their own multiprocessors and memory. */
#define _GNU_SOURCE
#include "management.h"
#include <stdio.h>
#include <string.h>

static struct nvmlGpuInstance_st handles[MAX_CARDS][PARTS];

nvmlGpuInstance_t gpu_handle(unsigned card, unsigned part)
{
    handles[card][part] = (struct nvmlGpuInstance_st){card, part};
    return &handles[card][part];
}

struct gpu_instance *gpu_instance_of(nvmlGpuInstance_t handle)
{
    if (handle < &handles[0][0] || handle > &handles[MAX_CARDS - 1][PARTS - 1])
        return NULL;
    struct gpu_instance *instance = &machine->mig[handle->card].instances[handle->part];
    return instance->used ? instance : NULL;
}

static bool is_card(nvmlDevice_t device)
{
    return is_handle(device) && !device->part;
}

const struct profile_description *profile_by_id(unsigned card, unsigned id)
{
    const struct card_description *description = &machine->description.cards[card];
    for (unsigned row = 0; row < description->profile_count; row++)
        if (description->profiles[row].id == id)
            return &description->profiles[row];
    return NULL;
}

bool part_in_use(unsigned card, unsigned part)
{
    return machine->parts[card][part].first_context != NOBODY;
}

static bool card_in_use(unsigned card)
{
    for (unsigned part = 0; part < PARTS; part++)
        if (part_in_use(card, part) || (part && machine->mig[card].instances[part].used))
            return true;
    return false;
}

EXPORTED nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_card(device) || !current || !pending)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    if (!about(device)->profile_count)
        return end(NVML_ERROR_NOT_SUPPORTED);
    *current = machine->mig[device->card].mode;
    *pending = machine->mig[device->card].pending;
    return end(NVML_SUCCESS);
}

/* The mode that is wanted is kept as pending where it cannot come at once; `activation` says why. */
EXPORTED nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t device, unsigned int mode, nvmlReturn_t *activation)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_card(device) || mode > 1 || !activation)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    if (!about(device)->profile_count)
        return end(NVML_ERROR_NOT_SUPPORTED);
    struct mig *mig = &machine->mig[device->card];
    mig->pending = mode;
    *activation = NVML_SUCCESS;
    if (mig->mode == mode)
        return end(NVML_SUCCESS);
    if (card_in_use(device->card))
        *activation = NVML_ERROR_IN_USE;
    else if (about(device)->mig_reset_required)
        *activation = NVML_ERROR_RESET_REQUIRED;
    else
        mig->mode = mode;
    return end(NVML_SUCCESS);
}

/* Taking a card away and finding it again resets it, which is when a pending mode comes. */
static nvmlReturn_t reset(const nvmlPciInfo_t *pci)
{
    nvmlDevice_t device;
    unsigned has[3];
    if (!pci)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned card = 0; card < machine->description.card_count; card++) {
        device = card_handle(card);
        sscanf(about(device)->bus_id, "%x:%x:%x", &has[0], &has[1], &has[2]);
        if (has[0] != pci->domain || has[1] != pci->bus || has[2] != pci->device)
            continue;
        if (card_in_use(card))
            return NVML_ERROR_IN_USE;
        machine->mig[card].mode = machine->mig[card].pending;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
}

EXPORTED nvmlReturn_t nvmlDeviceRemoveGpu_v2(nvmlPciInfo_t *pci, nvmlDetachGpuState_t state, nvmlPcieLinkState_t link)
{
    nvmlReturn_t result = begin(__func__);
    (void)state;
    (void)link;
    return result ? result : end(reset(pci));
}

EXPORTED nvmlReturn_t nvmlDeviceRemoveGpu(nvmlPciInfo_t *pci)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(reset(pci));
}

EXPORTED nvmlReturn_t nvmlDeviceDiscoverGpus(nvmlPciInfo_t *pci)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(pci ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT);
}

static nvmlReturn_t find_profile(nvmlDevice_t device, unsigned index, bool by_id, const struct profile_description **profile)
{
    if (!is_card(device))
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned row = 0; row < about(device)->profile_count; row++) {
        *profile = &about(device)->profiles[row];
        if ((by_id ? (*profile)->id : (*profile)->nvml) == index)
            return NVML_SUCCESS;
    }
    return !by_id && index >= NVML_GPU_INSTANCE_PROFILE_COUNT ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_NOT_SUPPORTED;
}

EXPORTED nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned int index, nvmlGpuInstanceProfileInfo_t *info)
{
    const struct profile_description *profile;
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    result = info ? find_profile(device, index, false, &profile) : NVML_ERROR_INVALID_ARGUMENT;
    if (!result)
        *info = (nvmlGpuInstanceProfileInfo_t){.id = (unsigned)profile->id, .sliceCount = (unsigned)profile->slices, .instanceCount = (unsigned)profile->instances,
                                               .multiprocessorCount = (unsigned)profile->multiprocessors, .copyEngineCount = (unsigned)profile->copy_engines,
                                               .decoderCount = (unsigned)profile->decoders, .jpegCount = (unsigned)profile->jpegs, .ofaCount = (unsigned)profile->ofas,
                                               .memorySizeMB = profile->memory_mib};
    return end(result);
}

static nvmlReturn_t versioned(nvmlDevice_t device, unsigned index, bool by_id, nvmlGpuInstanceProfileInfo_v2_t *info)
{
    const struct profile_description *profile;
    nvmlReturn_t result = info ? find_profile(device, index, by_id, &profile) : NVML_ERROR_INVALID_ARGUMENT;
    if (result)
        return result;
    if (info->version == nvmlGpuInstanceProfileInfo_v2) {
        *info = (nvmlGpuInstanceProfileInfo_v2_t){.version = info->version, .id = (unsigned)profile->id, .sliceCount = (unsigned)profile->slices,
                                                  .instanceCount = (unsigned)profile->instances, .multiprocessorCount = (unsigned)profile->multiprocessors,
                                                  .copyEngineCount = (unsigned)profile->copy_engines, .decoderCount = (unsigned)profile->decoders,
                                                  .jpegCount = (unsigned)profile->jpegs, .ofaCount = (unsigned)profile->ofas, .memorySizeMB = profile->memory_mib};
        snprintf(info->name, sizeof info->name, "MIG %s", profile->name);
        return NVML_SUCCESS;
    }
    nvmlGpuInstanceProfileInfo_v3_t *newer = (nvmlGpuInstanceProfileInfo_v3_t *)info;
    if (newer->version != nvmlGpuInstanceProfileInfo_v3)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    *newer = (nvmlGpuInstanceProfileInfo_v3_t){.version = newer->version, .id = (unsigned)profile->id, .sliceCount = (unsigned)profile->slices,
                                               .instanceCount = (unsigned)profile->instances, .multiprocessorCount = (unsigned)profile->multiprocessors,
                                               .copyEngineCount = (unsigned)profile->copy_engines, .decoderCount = (unsigned)profile->decoders,
                                               .jpegCount = (unsigned)profile->jpegs, .ofaCount = (unsigned)profile->ofas, .memorySizeMB = profile->memory_mib};
    snprintf(newer->name, sizeof newer->name, "MIG %s", profile->name);
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned int index, nvmlGpuInstanceProfileInfo_v2_t *info)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(versioned(device, index, false, info));
}

EXPORTED nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t device, unsigned int id, nvmlGpuInstanceProfileInfo_v2_t *info)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(versioned(device, id, true, info));
}

static nvmlReturn_t placements(nvmlDevice_t device, unsigned id, nvmlGpuInstancePlacement_t *list, unsigned *count)
{
    const struct profile_description *profile;
    nvmlReturn_t result = count ? find_profile(device, id, true, &profile) : NVML_ERROR_INVALID_ARGUMENT;
    if (result)
        return result;
    bool fits = !list || *count >= profile->start_count;
    *count = (unsigned)profile->start_count;
    if (!fits)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; list && i < profile->start_count; i++)
        list[i] = (nvmlGpuInstancePlacement_t){(unsigned)profile->starts[i], (unsigned)profile->size};
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t device, unsigned int id, nvmlGpuInstancePlacement_t *list, unsigned int *count)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(placements(device, id, list, count));
}

EXPORTED nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device, unsigned int id, nvmlGpuInstancePlacement_t *list, unsigned int *count)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(placements(device, id, list, count));
}

bool place_is_free(unsigned card, unsigned start, unsigned size)
{
    for (unsigned part = 1; part < PARTS; part++) {
        const struct gpu_instance *instance = &machine->mig[card].instances[part];
        if (instance->used && start < instance->start + instance->size && instance->start < start + size)
            return false;
    }
    return true;
}

unsigned instances_of(unsigned card, const struct profile_description *profile)
{
    unsigned count = 0;
    for (unsigned part = 1; part < PARTS; part++) {
        const struct gpu_instance *instance = &machine->mig[card].instances[part];
        count += instance->used && &machine->description.cards[card].profiles[instance->profile] == profile;
    }
    return count;
}

/* Compute slices are fewer than memory slices on the large cards: seven of eight. */
static unsigned free_slices(unsigned card)
{
    const struct card_description *description = &machine->description.cards[card];
    unsigned used = 0;
    for (unsigned part = 1; part < PARTS; part++)
        if (machine->mig[card].instances[part].used)
            used += (unsigned)description->profiles[machine->mig[card].instances[part].profile].slices;
    return (unsigned)description->mig_max_instances - used;
}

unsigned remaining(unsigned card, const struct profile_description *profile)
{
    unsigned places = 0, last_end = 0, slices = free_slices(card) / (unsigned)profile->slices;
    unsigned left = (unsigned)profile->instances - instances_of(card, profile);
    for (unsigned i = 0; i < profile->start_count; i++)
        if (profile->starts[i] >= last_end && place_is_free(card, (unsigned)profile->starts[i], (unsigned)profile->size)) {
            places++;
            last_end = (unsigned)(profile->starts[i] + profile->size);
        }
    places = places < slices ? places : slices;
    return places < left ? places : left;
}

EXPORTED nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t device, unsigned int id, unsigned int *count)
{
    const struct profile_description *profile;
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    result = count ? find_profile(device, id, true, &profile) : NVML_ERROR_INVALID_ARGUMENT;
    if (!result && !machine->mig[device->card].mode)
        result = NVML_ERROR_NOT_SUPPORTED;
    if (!result)
        *count = remaining(device->card, profile);
    return end(result);
}

static nvmlReturn_t create(nvmlDevice_t device, unsigned id, const nvmlGpuInstancePlacement_t *wanted, nvmlGpuInstance_t *made)
{
    const struct profile_description *profile;
    nvmlReturn_t result = made ? find_profile(device, id, true, &profile) : NVML_ERROR_INVALID_ARGUMENT;
    if (result)
        return result;
    unsigned card = device->card, start = NOBODY, part = 1;
    if (!machine->mig[card].mode)
        return NVML_ERROR_NOT_SUPPORTED;
    for (unsigned i = 0; start == NOBODY && i < profile->start_count; i++)
        if (wanted ? wanted->start == profile->starts[i] && wanted->size == profile->size : place_is_free(card, (unsigned)profile->starts[i], (unsigned)profile->size))
            start = (unsigned)profile->starts[i];
    if (wanted && start == NOBODY)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (start == NOBODY || !place_is_free(card, start, (unsigned)profile->size) || !remaining(card, profile))
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    while (part < PARTS && machine->mig[card].instances[part].used)
        part++;
    if (part == PARTS)
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    struct part *place = &machine->parts[card][part];
    *place = (struct part){.open = 1, .first_context = NOBODY, .current = NOBODY, .loaded = NOBODY,
                           .multiprocessors = profile->multiprocessors, .capacity_bytes = profile->memory_mib * MIB};
    machine->mig[card].instances[part] = (struct gpu_instance){.used = 1, .id = part, .profile = (uint32_t)(profile - about(device)->profiles), .start = start, .size = (uint32_t)profile->size};
    *made = gpu_handle(card, part);
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *made)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(create(device, id, NULL, made));
}

EXPORTED nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned int id, const nvmlGpuInstancePlacement_t *wanted, nvmlGpuInstance_t *made)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(wanted ? create(device, id, wanted, made) : NVML_ERROR_INVALID_ARGUMENT);
}

EXPORTED nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t handle)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    struct gpu_instance *instance = gpu_instance_of(handle);
    if (!instance)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned place = 0; place < PARTS; place++)
        if (instance->compute[place].used)
            return end(NVML_ERROR_IN_USE);
    if (part_in_use(handle->card, handle->part))
        return end(NVML_ERROR_IN_USE);
    instance->used = 0;
    machine->parts[handle->card][handle->part].open = 0;
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *list, unsigned int *count)
{
    const struct profile_description *profile;
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    result = list && count ? find_profile(device, id, true, &profile) : NVML_ERROR_INVALID_ARGUMENT;
    if (!result && !machine->mig[device->card].mode)
        result = NVML_ERROR_NOT_SUPPORTED;
    if (result)
        return end(result);
    *count = 0;
    for (unsigned part = 1; part < PARTS; part++)
        if (machine->mig[device->card].instances[part].used && &about(device)->profiles[machine->mig[device->card].instances[part].profile] == profile)
            list[(*count)++] = gpu_handle(device->card, part);
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *handle)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_card(device) || !handle)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned part = 1; part < PARTS; part++)
        if (machine->mig[device->card].instances[part].used && machine->mig[device->card].instances[part].id == id) {
            *handle = gpu_handle(device->card, part);
            return end(NVML_SUCCESS);
        }
    return end(NVML_ERROR_NOT_FOUND);
}

EXPORTED nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t handle, nvmlGpuInstanceInfo_t *info)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    const struct gpu_instance *instance = gpu_instance_of(handle);
    if (!instance || !info)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    *info = (nvmlGpuInstanceInfo_t){.device = card_handle(handle->card), .id = instance->id,
                                    .profileId = (unsigned)machine->description.cards[handle->card].profiles[instance->profile].id, .placement = {instance->start, instance->size}};
    return end(NVML_SUCCESS);
}
