/* cuInit, the devices that the environment lets a program see, and what every call passes through. */
#define _GNU_SOURCE
#include "driver.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct driver driver = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char *log_path;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static void after_fork(void)
{
    if (driver.initialised)
        driver.forked = true;
}

static void prepare(void)
{
    const char *path = getenv("GPU_SIMULATOR_LOG");
    log_path = path && *path ? path : NULL;
    pthread_atfork(NULL, NULL, after_fork);
}

/* One line for each call. The file is opened for each: a program may close all its descriptors. */
void log_call(const char *name)
{
    char line[128];
    pthread_once(&prepared, prepare);
    if (!log_path)
        return;
    int file = open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    int length = snprintf(line, sizeof line, "%d %s\n", (int)getpid(), name);
    if (file >= 0) {
        if (write(file, line, (size_t)length) != length)
            log_path = NULL;
        close(file);
    }
}

CUresult enter(const char *name)
{
    log_call(name);
    return driver.initialised && !driver.forked ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

const struct card_description *card_of(CUdevice device)
{
    return &driver.machine->description.cards[driver.devices[device].card];
}

bool is_device(CUdevice device)
{
    return device >= 0 && device < driver.device_count;
}

static void add_device(unsigned card, unsigned part, const struct compute_instance *instance)
{
    struct device *device = &driver.devices[driver.device_count++];
    const struct card_description *about = &driver.machine->description.cards[card];
    *device = (struct device){.card = card, .part = part, .gpu_instance = -1, .compute_instance = -1};
    device->multiprocessors = (unsigned)about->multiprocessors;
    snprintf(device->uuid, sizeof device->uuid, "%s", about->uuid);
    if (instance) {
        const struct gpu_instance *whole = &driver.machine->mig[card].instances[part];
        const struct profile_description *profile = &about->profiles[whole->profile];
        device->gpu_instance = (int)whole->id;
        device->compute_instance = (int)instance->id;
        device->multiprocessors = (unsigned)(profile->multiprocessors * instance->size / profile->slices);
        snprintf(device->uuid, sizeof device->uuid, "%s", instance->uuid);
    }
}

static const struct compute_instance *first_instance(unsigned card, const char *uuid, unsigned *part)
{
    for (*part = 1; *part < PARTS; ++*part) {
        const struct gpu_instance *whole = &driver.machine->mig[card].instances[*part];
        for (unsigned i = 0; whole->used && i < PARTS; i++)
            if (whole->compute[i].used && (!uuid || strncmp(whole->compute[i].uuid, uuid, strlen(uuid)) == 0))
                return &whole->compute[i];
    }
    return NULL;
}

/* A card in MIG mode shows its first instance only, and nothing if it has none. */
static void add_card(unsigned card)
{
    unsigned part;
    if (!driver.machine->mig[card].mode) {
        add_device(card, 0, NULL);
        return;
    }
    const struct compute_instance *instance = first_instance(card, NULL, &part);
    if (instance)
        add_device(card, part, instance);
}

/* One entry of CUDA_VISIBLE_DEVICES: a number, or the beginning of a UUID; false ends the list, as in the real driver. */
static bool add_named(const char *word)
{
    unsigned count = (unsigned)driver.machine->description.card_count, part;
    char *end;
    long number = strtol(word, &end, 10);
    if (*word && !*end) {
        if (number < 0 || number >= (long)count)
            return false;
        add_card((unsigned)number);
        return true;
    }
    for (unsigned card = 0; card < count; card++) {
        if (strncmp(word, "GPU-", 4) == 0 && strncmp(driver.machine->description.cards[card].uuid, word, strlen(word)) == 0) {
            add_card(card);
            return true;
        }
        const struct compute_instance *instance = strncmp(word, "MIG-", 4) == 0 ? first_instance(card, word, &part) : NULL;
        if (instance) {
            add_device(card, part, instance);
            return true;
        }
    }
    return false;
}

static void find_devices(void)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    char list[1024], *rest = list;
    driver.device_count = 0;
    if (!visible) {
        for (unsigned card = 0; card < driver.machine->description.card_count; card++)
            add_card(card);
        return;
    }
    snprintf(list, sizeof list, "%s", visible);
    for (char *word; (word = strsep(&rest, ",")) && driver.device_count < MAX_CARDS * PARTS;)
        if (!add_named(word + strspn(word, " ")))
            return;
}

CUresult cuInit(unsigned int flags)
{
    CUresult result = CUDA_SUCCESS;
    log_call("cuInit");
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (driver.forked)
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&driver.lock);
    if (driver.initialised)
        goto done;
    if (!driver.machine)
        driver.machine = machine_open();
    if (!driver.machine) {
        result = CUDA_ERROR_NO_DEVICE;
        goto done;
    }
    machine_lock(driver.machine);
    find_devices();
    if (driver.device_count)
        driver.process = process_register(driver.machine);
    machine_unlock(driver.machine);
    if (!driver.device_count)
        result = CUDA_ERROR_NO_DEVICE;
    else if (driver.process == NOBODY)
        result = CUDA_ERROR_OPERATING_SYSTEM;
    else
        driver.initialised = true;
done:
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuDriverGetVersion(int *version)
{
    log_call("cuDriverGetVersion");
    if (!version)
        return CUDA_ERROR_INVALID_VALUE;
    if (!driver.machine) {
        pthread_mutex_lock(&driver.lock);
        if (!driver.machine)
            driver.machine = machine_open();
        pthread_mutex_unlock(&driver.lock);
    }
    *version = driver.machine ? (int)driver.machine->description.driver_version : CUDA_VERSION;
    return CUDA_SUCCESS;
}
