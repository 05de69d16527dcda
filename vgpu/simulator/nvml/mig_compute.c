/* Compute instances: parts of a GPU instance's multiprocessors; and the MIG devices that programs see, one for each. */
#define _GNU_SOURCE
#include "management.h"
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static struct nvmlComputeInstance_st handles[MAX_CARDS][PARTS][PARTS];

/* Slices of each profile, by its number (NVML_COMPUTE_INSTANCE_PROFILE_*), which is also its id. */
static const unsigned profile_slices[NVML_COMPUTE_INSTANCE_PROFILE_COUNT] = {1, 2, 3, 4, 7};

static nvmlComputeInstance_t handle_of(unsigned card, unsigned part, unsigned place)
{
    handles[card][part][place] = (struct nvmlComputeInstance_st){card, part, place};
    return &handles[card][part][place];
}

static struct compute_instance *instance_of(nvmlComputeInstance_t handle)
{
    if (handle < &handles[0][0][0] || handle > &handles[MAX_CARDS - 1][PARTS - 1][PARTS - 1])
        return NULL;
    struct compute_instance *instance = &machine->mig[handle->card].instances[handle->part].compute[handle->place];
    return machine->mig[handle->card].instances[handle->part].used && instance->used ? instance : NULL;
}

static const struct profile_description *whole_of(nvmlGpuInstance_t handle)
{
    const struct gpu_instance *whole = gpu_instance_of(handle);
    return whole ? &machine->description.cards[handle->card].profiles[whole->profile] : NULL;
}

/* A profile is there if it fits, and odd rests are not cut: three slices only of three or seven. */
static bool offers(const struct profile_description *whole, unsigned profile)
{
    unsigned slices = profile < NVML_COMPUTE_INSTANCE_PROFILE_COUNT ? profile_slices[profile] : 0;
    return slices && slices <= whole->slices && !(slices == 3 && whole->slices == 4);
}

static nvmlReturn_t check(nvmlGpuInstance_t handle, unsigned profile, const struct profile_description **whole)
{
    *whole = whole_of(handle);
    if (!*whole || profile >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    return offers(*whole, profile) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

EXPORTED nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t handle, unsigned int profile, unsigned int engines, nvmlComputeInstanceProfileInfo_t *info)
{
    const struct profile_description *whole;
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    result = info && engines == NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED ? check(handle, profile, &whole) : NVML_ERROR_INVALID_ARGUMENT;
    if (!result) {
        unsigned slices = profile_slices[profile];
        *info = (nvmlComputeInstanceProfileInfo_t){.id = profile, .sliceCount = slices, .instanceCount = (unsigned)whole->slices / slices,
                                                   .multiprocessorCount = (unsigned)(whole->multiprocessors * slices / whole->slices),
                                                   .sharedCopyEngineCount = (unsigned)whole->copy_engines, .sharedDecoderCount = (unsigned)whole->decoders,
                                                   .sharedJpegCount = (unsigned)whole->jpegs, .sharedOfaCount = (unsigned)whole->ofas};
    }
    return end(result);
}

static nvmlReturn_t versioned(nvmlGpuInstance_t handle, unsigned profile, unsigned engines, nvmlComputeInstanceProfileInfo_v2_t *info)
{
    const struct profile_description *whole;
    nvmlComputeInstanceProfileInfo_v3_t full = {0};
    nvmlReturn_t result = info && engines == NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED ? check(handle, profile, &whole) : NVML_ERROR_INVALID_ARGUMENT;
    if (result)
        return result;
    unsigned slices = profile_slices[profile];
    if (info->version != nvmlComputeInstanceProfileInfo_v2 && info->version != nvmlComputeInstanceProfileInfo_v3)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    full = (nvmlComputeInstanceProfileInfo_v3_t){.version = info->version, .id = profile, .sliceCount = slices, .instanceCount = (unsigned)whole->slices / slices,
                                                 .multiprocessorCount = (unsigned)(whole->multiprocessors * slices / whole->slices),
                                                 .sharedCopyEngineCount = (unsigned)whole->copy_engines, .sharedDecoderCount = (unsigned)whole->decoders,
                                                 .sharedJpegCount = (unsigned)whole->jpegs, .sharedOfaCount = (unsigned)whole->ofas};
    if (slices == whole->slices)
        snprintf(full.name, sizeof full.name, "MIG %s", whole->name);
    else
        snprintf(full.name, sizeof full.name, "MIG %uc.%s", slices, whole->name);
    memcpy(info, &full, full.version == nvmlComputeInstanceProfileInfo_v3 ? sizeof full : sizeof *info);
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t handle, unsigned int profile, unsigned int engines, nvmlComputeInstanceProfileInfo_v2_t *info)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(versioned(handle, profile, engines, info));
}

static bool is_free(const struct gpu_instance *whole, unsigned start, unsigned size)
{
    for (unsigned place = 0; place < PARTS; place++)
        if (whole->compute[place].used && start < whole->compute[place].start + whole->compute[place].size && whole->compute[place].start < start + size)
            return false;
    return true;
}

EXPORTED nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t handle, unsigned int profile, unsigned int *count)
{
    const struct profile_description *whole;
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    result = count ? check(handle, profile, &whole) : NVML_ERROR_INVALID_ARGUMENT;
    if (result)
        return end(result);
    *count = 0;
    for (unsigned start = 0; start + profile_slices[profile] <= whole->slices; start += profile_slices[profile])
        *count += is_free(gpu_instance_of(handle), start, profile_slices[profile]);
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlGpuInstanceGetComputeInstancePossiblePlacements(nvmlGpuInstance_t handle, unsigned int profile, nvmlComputeInstancePlacement_t *list, unsigned int *count)
{
    const struct profile_description *whole;
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    result = count ? check(handle, profile, &whole) : NVML_ERROR_INVALID_ARGUMENT;
    if (result)
        return end(result);
    unsigned number = (unsigned)whole->slices / profile_slices[profile];
    bool fits = !list || *count >= number;
    *count = number;
    if (!fits)
        return end(NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; list && i < number; i++)
        list[i] = (nvmlComputeInstancePlacement_t){i * profile_slices[profile], profile_slices[profile]};
    return end(NVML_SUCCESS);
}

static void new_uuid(char *text, size_t room)
{
    unsigned char bytes[16] = {0};
    ssize_t got = getrandom(bytes, sizeof bytes, 0);
    (void)got;
    snprintf(text, room, "MIG-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5],
             (bytes[6] & 15) | 0x40, bytes[7], (bytes[8] & 63) | 0x80, bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15]);
}

static nvmlReturn_t create(nvmlGpuInstance_t handle, unsigned profile, const nvmlComputeInstancePlacement_t *wanted, nvmlComputeInstance_t *made)
{
    const struct profile_description *description;
    nvmlReturn_t result = made ? check(handle, profile, &description) : NVML_ERROR_INVALID_ARGUMENT;
    if (result)
        return result;
    struct gpu_instance *whole = gpu_instance_of(handle);
    unsigned slices = profile_slices[profile], start = 0, place = 0;
    if (wanted && (wanted->size != slices || wanted->start + slices > description->slices))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (wanted)
        start = wanted->start;
    while (!wanted && start + slices <= description->slices && !is_free(whole, start, slices))
        start++;
    while (place < PARTS && whole->compute[place].used)
        place++;
    if (place == PARTS || start + slices > description->slices || !is_free(whole, start, slices))
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    whole->compute[place] = (struct compute_instance){.used = 1, .id = place, .profile = profile, .start = start, .size = slices};
    new_uuid(whole->compute[place].uuid, sizeof whole->compute[place].uuid);
    *made = handle_of(handle->card, handle->part, place);
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t handle, unsigned int profile, nvmlComputeInstance_t *made)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(create(handle, profile, NULL, made));
}

EXPORTED nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(nvmlGpuInstance_t handle, unsigned int profile, const nvmlComputeInstancePlacement_t *wanted, nvmlComputeInstance_t *made)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(wanted ? create(handle, profile, wanted, made) : NVML_ERROR_INVALID_ARGUMENT);
}

EXPORTED nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t handle)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    struct compute_instance *instance = instance_of(handle);
    if (!instance)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    if (part_in_use(handle->card, handle->part))
        return end(NVML_ERROR_IN_USE);
    instance->used = 0;
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t handle, unsigned int profile, nvmlComputeInstance_t *list, unsigned int *count)
{
    const struct profile_description *whole;
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    result = list && count ? check(handle, profile, &whole) : NVML_ERROR_INVALID_ARGUMENT;
    if (result)
        return end(result);
    *count = 0;
    for (unsigned place = 0; place < PARTS; place++)
        if (gpu_instance_of(handle)->compute[place].used && gpu_instance_of(handle)->compute[place].profile == profile)
            list[(*count)++] = handle_of(handle->card, handle->part, place);
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t handle, unsigned int id, nvmlComputeInstance_t *found)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    const struct gpu_instance *whole = gpu_instance_of(handle);
    if (!whole || !found)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    if (id >= PARTS || !whole->compute[id].used)
        return end(NVML_ERROR_NOT_FOUND);
    *found = handle_of(handle->card, handle->part, id);
    return end(NVML_SUCCESS);
}

static nvmlReturn_t info_of(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info, bool placement)
{
    const struct compute_instance *instance = instance_of(handle);
    if (!instance || !info)
        return NVML_ERROR_INVALID_ARGUMENT;
    info->device = card_handle(handle->card);
    info->gpuInstance = gpu_handle(handle->card, handle->part);
    info->id = instance->id;
    info->profileId = instance->profile;
    if (placement)
        info->placement = (nvmlComputeInstancePlacement_t){instance->start, instance->size};
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlComputeInstanceGetInfo(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(info_of(handle, info, false));
}

EXPORTED nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(info_of(handle, info, true));
}

EXPORTED nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || !count)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    *count = about(device)->profile_count ? (unsigned)about(device)->mig_max_instances : 0;
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *found)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || device->part || !found || index >= about(device)->mig_max_instances)
        return end(about(device)->profile_count ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_NOT_SUPPORTED);
    for (unsigned part = 1; part < PARTS; part++)
        for (unsigned place = 0; machine->mig[device->card].instances[part].used && place < PARTS; place++)
            if (machine->mig[device->card].instances[part].compute[place].used && index-- == 0) {
                *found = mig_handle(device->card, part, place);
                return end(NVML_SUCCESS);
            }
    return end(NVML_ERROR_NOT_FOUND);
}

EXPORTED nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *card)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || !device->part || !card)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    *card = card_handle(device->card);
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || !device->part || !id)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    *id = machine->mig[device->card].instances[device->part].id;
    return end(NVML_SUCCESS);
}

EXPORTED nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    if (!is_handle(device) || !device->part || !id)
        return end(NVML_ERROR_INVALID_ARGUMENT);
    *id = machine->mig[device->card].instances[device->part].compute[device->instance].id;
    return end(NVML_SUCCESS);
}

static nvmlReturn_t attributes(nvmlDevice_t device, nvmlDeviceAttributes_t *value)
{
    if (!is_handle(device) || !device->part || !value)
        return NVML_ERROR_INVALID_ARGUMENT;
    const struct gpu_instance *whole = &machine->mig[device->card].instances[device->part];
    const struct profile_description *profile = &about(device)->profiles[whole->profile];
    unsigned slices = whole->compute[device->instance].size;
    *value = (nvmlDeviceAttributes_t){.multiprocessorCount = (unsigned)(profile->multiprocessors * slices / profile->slices),
                                      .sharedCopyEngineCount = (unsigned)profile->copy_engines, .sharedDecoderCount = (unsigned)profile->decoders,
                                      .sharedJpegCount = (unsigned)profile->jpegs, .sharedOfaCount = (unsigned)profile->ofas,
                                      .gpuInstanceSliceCount = (unsigned)profile->slices, .computeInstanceSliceCount = slices, .memorySizeMB = profile->memory_mib};
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *value)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(attributes(device, value));
}

EXPORTED nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *value)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(attributes(device, value));
}
