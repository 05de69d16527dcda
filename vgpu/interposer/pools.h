/* Pools: what they hold of a card is charged, not what is allocated from them. */
#ifndef TESSERA_POOLS_H
#define TESSERA_POOLS_H

#include "allocating.h"

struct pool {
    CUmemoryPool handle;
    int card;
    uint64_t charged; /* what the driver said that the pool holds */
    uint64_t live;    /* allocated and not freed, as this process sees it */
    bool ended;       /* destroyed: the handle means nothing any more */
    struct pool *next;
};

/* pools.c. The lock is held while the driver is asked, so that each growth is seen by itself. */
void pools_lock(void);
void pools_unlock(void);
struct pool *pool_of(CUmemoryPool handle); /* NULL for one that is not on a card of the slice, or imported */
/* An allocation from a pool. */
struct growing {
    CUresult (*ask)(void *);
    void (*take_back)(void *);
    bool (*wait_for_frees)(void *); /* without the lock; false: it cannot */
    void *call;
};

CUresult pool_grow(struct pool *pool, uint64_t bytes, const struct growing *growing);

#endif
