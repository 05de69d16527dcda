/* The limit of a container on a card: device time that it is given as time goes by, spent by all its processes. A long kernel goes
   into debt and pays after. */
#include "compute.h"

#define IDLE_TOKENS (20 * MS)  /* what an idle container saves up */
#define BUSY_TOKENS (100 * MS) /* and one that waits for its turn */
#define ENOUGH (2 * MS)       /* after a debt it goes on with so much, so that it does not stop for every kernel */
#define MOST_WAIT (60000 * MS) /* every wait ends: what is owed for more is forgiven */

static struct tessera_turns_card *of(unsigned card)
{
    return &turns_page()->cards[card];
}

static void refill(unsigned card, uint64_t now, uint64_t limit)
{
    struct tessera_turns_card *mine = of(card);
    uint64_t last = __atomic_load_n(&mine->refilled_ns, __ATOMIC_RELAXED);
    if (last > now || now - last > MOST_WAIT) { /* the first time; or of an earlier start of the machine */
        if (__atomic_compare_exchange_n(&mine->refilled_ns, &last, now, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            __atomic_store_n(&mine->tokens_ns, (int64_t)ENOUGH, __ATOMIC_RELEASE);
        return;
    }
    if (now - last < 20 * US || !__atomic_compare_exchange_n(&mine->refilled_ns, &last, now, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return;
    int64_t had = __atomic_load_n(&mine->tokens_ns, __ATOMIC_RELAXED), will;
    int64_t most = __atomic_load_n(&mine->seats_in_use, __ATOMIC_RELAXED) ? (int64_t)BUSY_TOKENS : (int64_t)IDLE_TOKENS;
    int64_t lowest = -(int64_t)(MOST_WAIT * limit / 100);
    do {
        will = (had < lowest ? lowest : had) + (int64_t)((now - last) * limit / 100);
        will = will > most ? most : will;
    } while (!__atomic_compare_exchange_n(&mine->tokens_ns, &had, will, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
}

uint64_t tokens_wait(unsigned card, uint64_t now)
{
    uint64_t limit = limits_compute(card).limit;
    if (limit >= 100)
        return 0;
    refill(card, now, limit);
    int64_t have = __atomic_load_n(&of(card)->tokens_ns, __ATOMIC_RELAXED);
    return have > 0 ? 0 : ((uint64_t)-have + ENOUGH * limit / 100) * 100 / limit;
}

void tokens_spend(unsigned card, uint64_t now, int64_t device_ns)
{
    uint64_t limit = limits_compute(card).limit;
    if (limit >= 100)
        return;
    refill(card, now, limit);
    __atomic_sub_fetch(&of(card)->tokens_ns, device_ns, __ATOMIC_ACQ_REL);
}
