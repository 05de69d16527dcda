/* A pool takes memory from the card in pieces of 32 MiB, as the driver does, and gives it back when the program waits for the card. Before
   an allocation its growth is reckoned from what the pool holds and what of it is in use; afterwards the driver says what it was. */
#include "pools.h"
#include <pthread.h>
#include <stdlib.h>

#define GROWTH (32 * MIB)
#define GRAIN 512u

static struct pool *pools;
static uint64_t charged_in_all; /* so that a program without pools pays nothing for them */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void pools_after_fork(void)
{
    pthread_mutex_init(&lock, NULL);
    pools = NULL;
    charged_in_all = 0;
}

void pools_lock(void)
{
    pthread_mutex_lock(&lock);
}

void pools_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

static uint64_t attribute(const struct pool *pool, CUmemPool_attribute which)
{
    cuuint64_t value = 0;
    return driver()->cuMemPoolGetAttribute(pool->handle, which, &value) ? 0 : value;
}

/* Of destroyed ones whose memory is all back, the place is used again. */
static struct pool *add(CUmemoryPool handle, int card)
{
    struct pool *pool = pools;
    while (pool && !(pool->ended && !pool->live && !pool->charged))
        pool = pool->next;
    if (!pool && (pool = calloc(1, sizeof *pool))) {
        pool->next = pools;
        pools = pool;
    }
    if (pool) {
        pool->handle = handle;
        pool->card = card;
        pool->ended = false;
    }
    return pool;
}

/* One that is not known yet is a device's own, or not ours to count. */
struct pool *pool_of(CUmemoryPool handle)
{
    CUmemoryPool standard;
    for (struct pool *pool = pools; pool; pool = pool->next)
        if (pool->handle == handle && !pool->ended)
            return pool;
    for (CUdevice device = 0; driver()->cuDeviceGetDefaultMemPool(&standard, device) == CUDA_SUCCESS; device++)
        if (standard == handle && card_of_device(device) != NO_CARD)
            return add(handle, card_of_device(device));
    return NULL;
}

static void set_charged(struct pool *pool, uint64_t charged)
{
    __atomic_add_fetch(&charged_in_all, charged - pool->charged, __ATOMIC_RELAXED);
    pool->charged = charged;
}

static void shrink(struct pool *pool)
{
    uint64_t held = pool->ended ? (pool->live ? pool->charged : 0) : attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    if (held >= pool->charged)
        return;
    uncharge((unsigned)pool->card, pool->charged - held);
    set_charged(pool, held);
}

void pools_settle(void)
{
    if (!__atomic_load_n(&charged_in_all, __ATOMIC_RELAXED))
        return;
    pools_lock();
    for (struct pool *pool = pools; pool; pool = pool->next)
        shrink(pool);
    pools_unlock();
}

/* What the pool holds beyond what was reckoned is paid now, or the allocation is taken back. */
static bool pay_rest(struct pool *pool, uint64_t before, uint64_t paid)
{
    uint64_t held = attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), grown = held > before ? held - before : 0;
    if (grown > paid && !charge((unsigned)pool->card, grown - paid))
        return false;
    if (grown > paid)
        settle(grown - paid);
    else
        uncharge((unsigned)pool->card, paid - grown);
    set_charged(pool, before + grown);
    return true;
}

/* What it will grow by, as the driver rounds it. */
static uint64_t growth_of(struct pool *pool, uint64_t bytes)
{
    shrink(pool);
    uint64_t used = attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), room = pool->charged > used ? pool->charged - used : 0;
    return bytes > room ? rounded(bytes - room, GROWTH) : 0;
}

/* Memory that was freed counts as used until its stream has come that far. If there is no room to grow, but would be without that, the
   stream is waited for. */
static bool pay(struct pool *pool, uint64_t bytes, const struct growing *growing, uint64_t *growth)
{
    *growth = growth_of(pool, bytes);
    if (!*growth || charge((unsigned)pool->card, *growth))
        return true;
    if (pool->live > pool->charged || bytes > pool->charged - pool->live)
        return false;
    pools_unlock();
    bool waited = growing->wait_for_frees(growing->call);
    pools_lock();
    *growth = waited ? growth_of(pool, bytes) : *growth;
    return waited && (!*growth || charge((unsigned)pool->card, *growth));
}

CUresult pool_grow(struct pool *pool, uint64_t bytes, const struct growing *growing)
{
    uint64_t growth;
    if (!pay(pool, rounded(bytes, GRAIN), growing, &growth))
        return CUDA_ERROR_OUT_OF_MEMORY;
    uint64_t before = pool->charged;
    CUresult result = growing->ask(growing->call);
    if (!result && !pay_rest(pool, before, growth)) {
        growing->take_back(growing->call);
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result)
        uncharge((unsigned)pool->card, growth);
    settle(growth);
    return result;
}

void pool_allocation_freed(struct allocation *allocation)
{
    pools_lock();
    allocation->pool->live -= allocation->bytes < allocation->pool->live ? allocation->bytes : allocation->pool->live;
    pools_unlock();
}

EXPORTED CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *properties)
{
    CUresult result = driver()->cuMemPoolCreate(pool, properties);
    if (result || properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return result;
    int card = card_of_device(properties->location.id);
    pools_lock();
    struct pool *known = card == NO_CARD ? NULL : add(*pool, card);
    pools_unlock();
    if (known)
        return CUDA_SUCCESS;
    driver()->cuMemPoolDestroy(*pool);
    return card == NO_CARD ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_OUT_OF_MEMORY;
}

EXPORTED CUresult cuMemPoolDestroy(CUmemoryPool handle)
{
    pools_lock();
    CUresult result = driver()->cuMemPoolDestroy(handle);
    for (struct pool *pool = pools; !result && pool; pool = pool->next)
        if (pool->handle == handle && !pool->ended) {
            pool->ended = true;
            shrink(pool);
        }
    pools_unlock();
    return result;
}

static CUresult then_settle(CUresult result)
{
    pools_settle();
    return result;
}

EXPORTED CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep)
{
    return then_settle(driver()->cuMemPoolTrimTo(pool, keep));
}

EXPORTED CUresult cuDeviceGraphMemTrim(CUdevice device)
{
    return then_settle(driver()->cuDeviceGraphMemTrim(device));
}

EXPORTED CUresult cuCtxSynchronize(void)
{
    return then_settle(driver()->cuCtxSynchronize());
}

EXPORTED CUresult cuCtxSynchronize_v2(CUcontext context)
{
    return then_settle(driver()->cuCtxSynchronize_v2(context));
}

EXPORTED CUresult cuStreamSynchronize(CUstream stream)
{
    return then_settle(driver()->cuStreamSynchronize(stream));
}

EXPORTED CUresult cuStreamSynchronize_ptsz(CUstream stream)
{
    return then_settle(driver()->cuStreamSynchronize_ptsz(stream));
}

EXPORTED CUresult cuEventSynchronize(CUevent event)
{
    return then_settle(driver()->cuEventSynchronize(event));
}
