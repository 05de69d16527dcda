/* The mode of one device: a container with parts of several cards sees one, and each of its processes has that one on another card, so
   many on each as it has of it. A program that knows nothing of several cards uses all of them by running in several processes.

   The place is chosen when a process joins, and kept in its slot of the usage page. */
#define _GNU_SOURCE
#include "allocating.h"
#include "slice.h"
#include <stdlib.h>
#include <string.h>

/* Where the share per process is largest after this one has come. By the writer. */
unsigned placing_choose(void)
{
    uint64_t there[TESSERA_MOST_CARDS] = {0};
    unsigned best = 0;
    for (unsigned place = 0; place < TESSERA_MOST_PROCESSES; place++) {
        const struct tessera_process_slot *slot = &own.page->slots[place];
        if (slot->generation % 2 && slot->placed && slot->placed <= limits_cards())
            there[slot->placed - 1]++;
    }
    for (unsigned card = 1; card < limits_cards(); card++)
        if (limits_compute(card).request * (there[best] + 1) > limits_compute(best).request * (there[card] + 1))
            best = card;
    return best;
}

int placed_card(void)
{
    return __atomic_load_n(&own.place, __ATOMIC_ACQUIRE) >= 0 ? own.card : NO_CARD;
}

/* Whether the program lets the driver show what may be its first device. */
static bool shows_first(const char *visible)
{
    return !visible || strncmp(visible, "0", 1) == 0 || strncmp(visible, "GPU-", 4) == 0 || strncmp(visible, "MIG-", 4) == 0;
}

/* The driver is told to show that card alone, so that its number is 0 wherever a number is asked for. */
CUresult placing_init(unsigned int flags)
{
    const char *before = getenv("CUDA_VISIBLE_DEVICES");
    int card = placed_card();
    if (card == NO_CARD || !shows_first(before))
        return driver()->cuInit(flags);
    char *kept = before ? strdup(before) : NULL;
    if (before && !kept)
        return CUDA_ERROR_OUT_OF_MEMORY;
    setenv("CUDA_VISIBLE_DEVICES", limits_uuid((unsigned)card), 1);
    CUresult result = driver()->cuInit(flags);
    if (kept)
        setenv("CUDA_VISIBLE_DEVICES", kept, 1); /* for the programs that this one starts */
    else
        unsetenv("CUDA_VISIBLE_DEVICES");
    free(kept);
    return result;
}

/* The driver's device of this process's card; not its first where the program says which ones it wants. */
static CUresult find(CUdevice *device)
{
    int count = 0;
    CUresult result = driver()->cuDeviceGetCount(&count);
    for (int ordinal = 0; !result && ordinal < count; ordinal++) {
        CUdevice seen;
        if (driver()->cuDeviceGet(&seen, ordinal) || card_of_device(seen) == NO_CARD)
            continue;
        *device = seen;
        return CUDA_SUCCESS;
    }
    return result ? result : CUDA_ERROR_NO_DEVICE;
}

EXPORTED CUresult cuDeviceGetCount(int *count)
{
    CUdevice device;
    CUresult result = driver()->cuDeviceGetCount(count);
    if (!result && limits_one_device())
        *count = find(&device) == CUDA_SUCCESS;
    return result;
}

EXPORTED CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    if (!limits_one_device() || !device)
        return driver()->cuDeviceGet(device, ordinal);
    CUdevice seen;
    CUresult result = find(&seen);
    if (!result && ordinal != 0)
        return CUDA_ERROR_INVALID_DEVICE;
    if (!result)
        *device = seen;
    return result == CUDA_ERROR_NO_DEVICE ? CUDA_ERROR_INVALID_DEVICE : result;
}
