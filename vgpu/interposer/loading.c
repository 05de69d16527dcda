/* Finds the driver, and knows which function of ours stands for which of its own. */
#define _GNU_SOURCE
#include "driver.h"
#include "linking.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

struct hook {
    const char *name;
    void *ours;
    int place; /* of the pointer in struct driver, -1 if we do not call it */
    void *theirs;
};

#define HOOK(symbol, type) __typeof__(type) hook_##symbol __asm__(#symbol);
#define LEGACY(symbol) int hook_##symbol(void) __asm__(#symbol);
#include "hooks.h"
#undef HOOK
#undef LEGACY

static struct hook hooks[] = {
#define HOOK(symbol, type) {#symbol, (void *)hook_##symbol, offsetof(struct driver, symbol), NULL},
#define LEGACY(symbol) {#symbol, (void *)hook_##symbol, -1, NULL},
#include "hooks.h"
#undef HOOK
#undef LEGACY
};

#define ASKED(symbol) {#symbol, NULL, offsetof(struct driver, symbol), NULL}
static const struct hook asked[] = {
    ASKED(cuCtxGetCurrent), ASKED(cuCtxGetDevice), ASKED(cuCtxPushCurrent_v2), ASKED(cuCtxPopCurrent_v2),
    ASKED(cuDevicePrimaryCtxGetState), ASKED(cuDeviceGetUuid), ASKED(cuDeviceGetUuid_v2), ASKED(cuDeviceGetMemPool),
    ASKED(cuDeviceGetDefaultMemPool), ASKED(cuMemPoolGetAttribute), ASKED(cuPointerGetAttribute), ASKED(cuStreamGetCtx), ASKED(cuStreamIsCapturing),
    ASKED(cuStreamIsCapturing_ptsz), ASKED(cuThreadExchangeStreamCaptureMode), ASKED(cuEventCreate), ASKED(cuEventDestroy_v2),
    ASKED(cuEventRecord), ASKED(cuEventRecord_ptsz), ASKED(cuEventQuery), ASKED(cuEventElapsedTime),
};

static struct driver found;
static int state; /* 0: not looked for, 1: not there, 2: there */
static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

static CUresult no_driver(void)
{
    return CUDA_ERROR_NO_DEVICE;
}

static CUresult no_function(void)
{
    return CUDA_ERROR_NOT_SUPPORTED;
}

static void fill(void *library, const char *name, int place)
{
    void *function = library ? real_dlsym(library, name) : (void *)no_driver;
    if (!function)
        function = (void *)no_function;
    if (place >= 0)
        memcpy((char *)&found + place, &function, sizeof function);
}

static void load(void *library)
{
    for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++) {
        fill(library, hooks[i].name, hooks[i].place);
        hooks[i].theirs = library ? real_dlsym(library, hooks[i].name) : NULL;
    }
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        fill(library, asked[i].name, asked[i].place);
    __atomic_store_n(&state, library ? 2 : 1, __ATOMIC_RELEASE);
}

const struct driver *driver(void)
{
    if (__atomic_load_n(&state, __ATOMIC_ACQUIRE) == 2)
        return &found;
    pthread_mutex_lock(&loading);
    if (state != 2)
        load(real_dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL));
    pthread_mutex_unlock(&loading);
    return &found;
}

void *driver_substitute(void *function)
{
    driver();
    for (size_t i = 0; function && i < sizeof hooks / sizeof *hooks; i++)
        if (hooks[i].theirs == function)
            return hooks[i].ours;
    return function;
}

void *driver_named(const char *name)
{
    for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++)
        if (strcmp(hooks[i].name, name) == 0)
            return hooks[i].ours;
    return NULL;
}

/* The driver chooses the variant, by version, flags and kind of stream; we exchange the function it chose. */
EXPORTED CUresult cuGetProcAddress(const char *symbol, void **function, int version, cuuint64_t flags)
{
    CUresult result = driver()->cuGetProcAddress(symbol, function, version, flags);
    if (!result && function)
        *function = driver_substitute(*function);
    return result;
}

EXPORTED CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
    CUresult result = driver()->cuGetProcAddress_v2(symbol, function, version, flags, status);
    if (!result && function)
        *function = driver_substitute(*function);
    return result;
}

EXPORTED CUresult cuGetProcAddress_v2_ptsz(const char *symbol, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
    CUresult result = driver()->cuGetProcAddress_v2_ptsz(symbol, function, version, flags, status);
    if (!result && function)
        *function = driver_substitute(*function);
    return result;
}

#define HOOK(symbol, type)
#define LEGACY(symbol)                   \
    EXPORTED int hook_##symbol(void);    \
    int hook_##symbol(void)              \
    {                                    \
        return CUDA_ERROR_NOT_SUPPORTED; \
    }
#include "hooks.h"
#undef HOOK
#undef LEGACY
