/* Ranges of addresses that the driver knows, sorted by address. A device address is the address of its backing in this process, so
   content works; nothing is committed before it is touched, so a card may be larger than the machine. */
#define _GNU_SOURCE
#include "driver.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct region **sorted;
static size_t count, room;
static unsigned long long next_id = 1;

/* Index of the first region that begins after the address. */
static size_t place_after(CUdeviceptr address)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sorted[middle]->base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Mapped memory lies inside of a reservation; the innermost region counts, and it is the last that begins before the address. */
struct region *region_find(CUdeviceptr address)
{
    for (size_t place = place_after(address); place > 0; place--) {
        struct region *region = sorted[place - 1];
        if (address - region->base < region->bytes)
            return region;
        if (region->region_kind != MAPPED_REGION)
            break;
    }
    return NULL;
}

struct region *region_add(enum region_kind kind, CUdeviceptr base, size_t bytes)
{
    if (count == room) {
        room = room ? room * 2 : 256;
        sorted = realloc(sorted, room * sizeof *sorted);
        if (!sorted)
            abort();
    }
    struct region *region = object_new(REGION_OBJECT, sizeof *region);
    region->region_kind = kind;
    region->base = base;
    region->bytes = bytes;
    region->shared = NOBODY;
    region->id = next_id++;
    size_t place = place_after(base);
    memmove(&sorted[place + 1], &sorted[place], (count - place) * sizeof *sorted);
    sorted[place] = region;
    count++;
    return region;
}

void region_remove(struct region *region)
{
    size_t place = place_after(region->base);
    while (place > 0 && sorted[place - 1] != region)
        place--;
    if (place > 0) {
        memmove(&sorted[place - 1], &sorted[place], (count - place) * sizeof *sorted);
        count--;
    }
    object_end(region);
}

struct region *region_first(void)
{
    return count ? sorted[0] : NULL;
}

struct region *region_after(const struct region *region)
{
    size_t place = place_after(region->base);
    while (place > 0 && sorted[place - 1] != region)
        place--;
    return place < count ? sorted[place] : NULL;
}

/* Address space, aligned; at the wanted place if it is free there. NULL if there is none. */
void *address_reserve(size_t bytes, size_t alignment, void *wanted, bool accessible)
{
    int protection = accessible ? PROT_READ | PROT_WRITE : PROT_NONE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (wanted) {
        void *there = mmap(wanted, bytes, protection, flags | MAP_FIXED_NOREPLACE, -1, 0);
        if (there == wanted) {
            madvise(there, bytes, MADV_DONTFORK);
            return there;
        }
        if (there != MAP_FAILED)
            munmap(there, bytes);
    }
    char *large = mmap(NULL, bytes + alignment, protection, flags, -1, 0);
    if (large == MAP_FAILED)
        return NULL;
    char *start = (char *)(((uintptr_t)large + alignment - 1) / alignment * alignment);
    if (start > large)
        munmap(large, (size_t)(start - large));
    if (large + bytes + alignment > start + bytes)
        munmap(start + bytes, (size_t)(large + bytes + alignment - (start + bytes)));
    madvise(start, bytes, MADV_DONTFORK);
    madvise(start, bytes, MADV_NOHUGEPAGE);
    return start;
}

void address_release(void *address, size_t bytes)
{
    munmap(address, bytes);
}
