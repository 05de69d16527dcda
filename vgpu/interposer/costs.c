/* What a launch costs in device time, by function and size of its grid: learnt from launches that were measured, and measured again now
   and then. The table is of this process; entries of different functions may push each other out, which costs a measurement. */
#include "compute.h"

#define ENTRIES 4096u
#define UNIT UINT64_C(16)   /* ns, so that 32 bits hold a minute */
#define FIRST 8u            /* launches that are measured one by one */
#define EVERY 256u          /* then one of so many, unless they are measured many at a time, which is more exact */

static struct cost {
    uint64_t key;
    uint32_t ns, seen; /* in units; how often it was asked for */
} costs[ENTRIES];

/* A kernel takes as long for grids of nearly the same size; halves of a power of two are told apart. */
static unsigned size_class(uint64_t blocks)
{
    unsigned log = 63u - (unsigned)__builtin_clzll(blocks | 1);
    return log * 2 + (log ? (unsigned)(blocks >> (log - 1) & 1) : 0);
}

uint64_t cost_key(const void *function, uint64_t blocks)
{
    uint64_t key = ((uint64_t)(uintptr_t)function ^ (uint64_t)size_class(blocks) << 56) * UINT64_C(0x9e3779b97f4a7c15);
    return key ? key : 1;
}

static struct cost *entry_of(uint64_t key)
{
    return &costs[key >> 52];
}

bool cost_of(uint64_t key, uint64_t *ns)
{
    struct cost *entry = entry_of(key);
    if (__atomic_load_n(&entry->key, __ATOMIC_RELAXED) != key)
        return false;
    uint32_t seen = __atomic_load_n(&entry->seen, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->seen, seen + 1, __ATOMIC_RELAXED); /* a lost count measures a little later */
    *ns = __atomic_load_n(&entry->ns, __ATOMIC_RELAXED) * UNIT;
    return seen >= FIRST && seen % EVERY;
}

/* Moves by an eighth of the difference, and by no more than a sixteenth of what is known: a thread that is interrupted between its
   marks would else make all its kernels seem long. */
void cost_learn(uint64_t key, uint64_t ns, bool of_many)
{
    struct cost *entry = entry_of(key);
    uint64_t units = ns / UNIT ? ns / UNIT : 1;
    if (units > UINT32_MAX)
        units = UINT32_MAX;
    if (__atomic_load_n(&entry->key, __ATOMIC_RELAXED) != key) {
        __atomic_store_n(&entry->seen, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&entry->ns, (uint32_t)units, __ATOMIC_RELAXED);
        __atomic_store_n(&entry->key, key, __ATOMIC_RELEASE);
        return;
    }
    int64_t known = __atomic_load_n(&entry->ns, __ATOMIC_RELAXED), step = ((int64_t)units - known) / 8, most = known / 16 + 1;
    step = step > most && __atomic_load_n(&entry->seen, __ATOMIC_RELAXED) > 4 * FIRST ? most : step;
    if (!step)
        step = (int64_t)units > known ? 1 : (int64_t)units < known ? -1 : 0;
    __atomic_store_n(&entry->ns, (uint32_t)(known + step), __ATOMIC_RELAXED);
    if (of_many)
        __atomic_store_n(&entry->seen, 4 * FIRST + 1, __ATOMIC_RELAXED);
}
