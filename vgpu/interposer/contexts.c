/* cuInit, and contexts. The node keeps room for one context per process and card beside the slice; each further one is charged to the
   slice. What a context owned ends with it. */
#include "allocating.h"
#include "compute.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MOST_DEVICES 64

struct context {
    void *handle;
    CUdevice device;
    bool primary;
    int card;
    uint64_t charged;
    struct context *next;
};

static struct context *contexts;
static unsigned on_card[TESSERA_MOST_CARDS];
static int cards[MOST_DEVICES]; /* 1 + place of the card; 0: not looked for; -1: not of the slice */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void contexts_after_fork(void)
{
    pthread_mutex_init(&lock, NULL);
    contexts = NULL;
    memset(on_card, 0, sizeof on_card);
}

EXPORTED CUresult cuInit(unsigned int flags)
{
    if (!limits_open() || !usage_join())
        return CUDA_ERROR_NOT_PERMITTED;
    return placing_init(flags);
}

/* NO_CARD, too, for those of the slice that other processes are placed on. */
static int own_card(int card)
{
    int placed = placed_card();
    return placed == NO_CARD || placed == card ? card : NO_CARD;
}

int card_of_device(CUdevice device)
{
    CUuuid uuid;
    if (device < 0 || device >= MOST_DEVICES || !limits_open())
        return NO_CARD;
    int known = __atomic_load_n(&cards[device], __ATOMIC_RELAXED);
    if (known)
        return known > 0 ? own_card(known - 1) : NO_CARD;
    if (driver()->cuDeviceGetUuid_v2(&uuid, device) && driver()->cuDeviceGetUuid(&uuid, device))
        return NO_CARD;
    int card = limits_card_of((const unsigned char *)uuid.bytes);
    __atomic_store_n(&cards[device], card == NO_CARD ? -1 : card + 1, __ATOMIC_RELAXED);
    return own_card(card);
}

CUresult current_card(int *card, void **context)
{
    CUdevice device;
    CUcontext current;
    CUresult result = driver()->cuCtxGetDevice(&device);
    if (!result)
        result = driver()->cuCtxGetCurrent(&current);
    if (result)
        return result;
    if (!usage_joined())
        return CUDA_ERROR_NOT_INITIALIZED;
    *context = current;
    *card = card_of_device(device);
    return *card == NO_CARD ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

/* With the lock. */
static struct context *begin(CUdevice device, bool primary, CUresult *result)
{
    int card = usage_joined() ? card_of_device(device) : NO_CARD;
    struct context *context = calloc(1, sizeof *context);
    *result = card == NO_CARD ? (usage_joined() ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_NOT_INITIALIZED) : CUDA_ERROR_OUT_OF_MEMORY;
    if (!context || card == NO_CARD) {
        free(context);
        return NULL;
    }
    *context = (struct context){.device = device, .primary = primary, .card = card};
    context->charged = on_card[card] ? limits_context((unsigned)card) : 0;
    if (context->charged && !charge((unsigned)card, context->charged)) {
        free(context);
        return NULL;
    }
    *result = CUDA_SUCCESS;
    return context;
}

static CUresult made(struct context *context, void *handle, CUresult result)
{
    if (result)
        uncharge((unsigned)context->card, context->charged);
    settle(context->charged);
    if (result) {
        free(context);
        return result;
    }
    context->handle = handle;
    context->next = contexts;
    contexts = context;
    if (on_card[context->card]++ == 0)
        usage_context((unsigned)context->card, true);
    lanes_begin((unsigned)context->card);
    return CUDA_SUCCESS;
}

/* With the lock: the driver has ended it, with all that it owned. */
static void end(struct context **link)
{
    struct context *context = *link;
    *link = context->next;
    for (struct allocation *allocation = book_take_of(context->handle), *next; allocation; allocation = next) {
        next = allocation->next;
        if (!allocation->piece)
            uncharge((unsigned)allocation->card, allocation->charged);
        free(allocation);
    }
    pieces_forget(context->handle);
    uncharge((unsigned)context->card, context->charged);
    if (--on_card[context->card] == 0)
        usage_context((unsigned)context->card, false);
    free(context);
}

static struct context **primary_of(CUdevice device)
{
    struct context **link = &contexts;
    while (*link && !((*link)->primary && (*link)->device == device))
        link = &(*link)->next;
    return link;
}

EXPORTED CUresult cuDevicePrimaryCtxRetain(CUcontext *handle, CUdevice device)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    bool there = *primary_of(device) != NULL;
    struct context *context = there ? NULL : begin(device, true, &result);
    if (!result)
        result = driver()->cuDevicePrimaryCtxRetain(handle, device);
    if (context)
        made(context, result ? NULL : *handle, result);
    pthread_mutex_unlock(&lock);
    return result;
}

/* Before a call by which the primary context of a device may end. Marks of a context that lives on are not missed. */
static void forget_primary(CUdevice device)
{
    pthread_mutex_lock(&lock);
    struct context **link = primary_of(device);
    void *handle = *link ? (*link)->handle : NULL;
    pthread_mutex_unlock(&lock);
    if (handle)
        lanes_forget(handle);
}

/* It ends with the last release, or with a reset. */
static CUresult primary_changed(CUdevice device, CUresult result)
{
    unsigned flags;
    int active = 1;
    pthread_mutex_lock(&lock);
    struct context **link = primary_of(device);
    if (!result && *link && !driver()->cuDevicePrimaryCtxGetState(device, &flags, &active) && !active)
        end(link);
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORTED CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    forget_primary(device);
    return primary_changed(device, driver()->cuDevicePrimaryCtxRelease(device));
}

EXPORTED CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    forget_primary(device);
    return primary_changed(device, driver()->cuDevicePrimaryCtxRelease_v2(device));
}

EXPORTED CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
    forget_primary(device);
    return primary_changed(device, driver()->cuDevicePrimaryCtxReset(device));
}

EXPORTED CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    forget_primary(device);
    return primary_changed(device, driver()->cuDevicePrimaryCtxReset_v2(device));
}

EXPORTED CUresult cuCtxCreate_v2(CUcontext *handle, unsigned int flags, CUdevice device)
{
    CUresult result;
    pthread_mutex_lock(&lock);
    struct context *context = begin(device, false, &result);
    if (context) {
        result = driver()->cuCtxCreate_v2(handle, flags, device);
        made(context, result ? NULL : *handle, result);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORTED CUresult cuCtxCreate_v3(CUcontext *handle, CUexecAffinityParam *parameters, int count, unsigned int flags, CUdevice device)
{
    CUresult result;
    pthread_mutex_lock(&lock);
    struct context *context = begin(device, false, &result);
    if (context) {
        result = driver()->cuCtxCreate_v3(handle, parameters, count, flags, device);
        made(context, result ? NULL : *handle, result);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORTED CUresult cuCtxCreate_v4(CUcontext *handle, CUctxCreateParams *parameters, unsigned int flags, CUdevice device)
{
    CUresult result;
    pthread_mutex_lock(&lock);
    struct context *context = begin(device, false, &result);
    if (context) {
        result = driver()->cuCtxCreate_v4(handle, parameters, flags, device);
        made(context, result ? NULL : *handle, result);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static CUresult destroyed(CUcontext handle, CUresult result)
{
    pthread_mutex_lock(&lock);
    struct context **link = &contexts;
    while (*link && ((*link)->handle != handle || (*link)->primary))
        link = &(*link)->next;
    if (!result && *link)
        end(link);
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORTED CUresult cuCtxDestroy(CUcontext context)
{
    lanes_forget(context);
    return destroyed(context, driver()->cuCtxDestroy(context));
}

EXPORTED CUresult cuCtxDestroy_v2(CUcontext context)
{
    lanes_forget(context);
    return destroyed(context, driver()->cuCtxDestroy_v2(context));
}

EXPORTED CUresult cuCtxDetach(CUcontext context)
{
    lanes_forget(context);
    return destroyed(context, driver()->cuCtxDetach(context));
}

/* The slice as if it were the card. A limit that was made smaller than what is reserved leaves nothing free, and is no error. */
EXPORTED CUresult cuMemGetInfo_v2(size_t *available, size_t *total)
{
    int card;
    void *context;
    CUresult result = driver()->cuMemGetInfo_v2(available, total);
    if (!result)
        result = current_card(&card, &context);
    if (result)
        return result;
    pools_settle();
    usage_reap();
    uint64_t limit = limits_memory((unsigned)card), reserved = usage_reserved((unsigned)card);
    uint64_t left = reserved < limit ? limit - reserved : 0;
    *available = left < *available ? left : *available;
    *total = limit < *total ? limit : *total;
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult result = driver()->cuDeviceTotalMem_v2(bytes, device);
    int card = result ? NO_CARD : card_of_device(device);
    if (card != NO_CARD && limits_memory((unsigned)card) < *bytes)
        *bytes = limits_memory((unsigned)card);
    return result;
}
