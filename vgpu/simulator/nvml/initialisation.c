/* nvmlInit, the system's own answers, and texts of errors. */
#define _GNU_SOURCE
#include "management.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct machine *machine;

static unsigned users;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static void log_call(const char *name)
{
    const char *path = getenv("GPU_SIMULATOR_LOG");
    char line[128];
    if (!path || !*path)
        return;
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    int length = snprintf(line, sizeof line, "%d %s\n", (int)getpid(), name);
    if (file < 0)
        return;
    ssize_t written = write(file, line, (size_t)length);
    (void)written;
    close(file);
}

static nvmlReturn_t initialise(const char *name)
{
    nvmlReturn_t result = NVML_SUCCESS;
    log_call(name);
    pthread_mutex_lock(&guard);
    if (!machine)
        machine = machine_open();
    if (!machine)
        result = NVML_ERROR_DRIVER_NOT_LOADED;
    else
        users++;
    pthread_mutex_unlock(&guard);
    return result;
}

EXPORTED nvmlReturn_t nvmlInit(void)
{
    return initialise(__func__);
}

EXPORTED nvmlReturn_t nvmlInit_v2(void)
{
    return initialise(__func__);
}

EXPORTED nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    return initialise(__func__);
}

EXPORTED nvmlReturn_t nvmlShutdown(void)
{
    nvmlReturn_t result = NVML_SUCCESS;
    log_call(__func__);
    pthread_mutex_lock(&guard);
    if (!users)
        result = NVML_ERROR_UNINITIALIZED;
    else
        users--;
    pthread_mutex_unlock(&guard);
    return result;
}

nvmlReturn_t begin(const char *name)
{
    log_call(name);
    if (!__atomic_load_n(&users, __ATOMIC_ACQUIRE))
        return NVML_ERROR_UNINITIALIZED;
    machine_lock(machine);
    machine_advance(machine, clock_now(machine));
    process_reap(machine);
    return NVML_SUCCESS;
}

nvmlReturn_t end(nvmlReturn_t result)
{
    machine_unlock(machine);
    return result;
}

nvmlReturn_t refuse(const char *name)
{
    log_call(name);
    return __atomic_load_n(&users, __ATOMIC_ACQUIRE) ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_UNINITIALIZED;
}

nvmlReturn_t put_text(char *to, unsigned room, const char *text)
{
    if (!to)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(to, text);
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int room)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(put_text(version, room, machine->description.driver_release));
}

EXPORTED nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int room)
{
    char text[64];
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    snprintf(text, sizeof text, "%u.%s", (unsigned)(machine->description.driver_version / 1000), machine->description.driver_release);
    return end(put_text(version, room, text));
}

static nvmlReturn_t cuda_version(int *version)
{
    if (!version)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = (int)machine->description.driver_version;
    return NVML_SUCCESS;
}

EXPORTED nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(cuda_version(version));
}

EXPORTED nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    nvmlReturn_t result = begin(__func__);
    return result ? result : end(cuda_version(version));
}

EXPORTED nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int room)
{
    char path[64], text[4096];
    nvmlReturn_t result = begin(__func__);
    if (result)
        return result;
    end(NVML_SUCCESS);
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    if (length < 0 || !name || !room)
        return length < 0 ? NVML_ERROR_NOT_FOUND : NVML_ERROR_INVALID_ARGUMENT;
    text[length] = 0;
    snprintf(name, room, "%s", text);
    return NVML_SUCCESS;
}

EXPORTED const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const texts[] = {
        [NVML_SUCCESS] = "The operation was successful",
        [NVML_ERROR_UNINITIALIZED] = "NVML was not first initialized with nvmlInit()",
        [NVML_ERROR_INVALID_ARGUMENT] = "A supplied argument is invalid",
        [NVML_ERROR_NOT_SUPPORTED] = "The requested operation is not available on target device",
        [NVML_ERROR_NO_PERMISSION] = "The current user does not have permission for operation",
        [NVML_ERROR_ALREADY_INITIALIZED] = "NVML was already initialized",
        [NVML_ERROR_NOT_FOUND] = "A query to find an object was unsuccessful",
        [NVML_ERROR_INSUFFICIENT_SIZE] = "An input argument is not large enough",
        [NVML_ERROR_INSUFFICIENT_POWER] = "A device's external power cables are not properly attached",
        [NVML_ERROR_DRIVER_NOT_LOADED] = "NVIDIA driver is not loaded",
        [NVML_ERROR_TIMEOUT] = "User provided timeout passed",
        [NVML_ERROR_LIBRARY_NOT_FOUND] = "NVML Shared Library couldn't be found or loaded",
        [NVML_ERROR_FUNCTION_NOT_FOUND] = "Local version of NVML doesn't implement this function",
        [NVML_ERROR_GPU_IS_LOST] = "GPU is lost",
        [NVML_ERROR_RESET_REQUIRED] = "GPU requires reset",
        [NVML_ERROR_IN_USE] = "In use by another client",
        [NVML_ERROR_MEMORY] = "Insufficient memory",
        [NVML_ERROR_INSUFFICIENT_RESOURCES] = "Insufficient resources",
        [NVML_ERROR_ARGUMENT_VERSION_MISMATCH] = "The provided version is invalid/unsupported",
    };
    if ((unsigned)result < sizeof texts / sizeof *texts && texts[result])
        return texts[result];
    return "Unknown Error";
}
