/* Sums and ledgers of the usage page.

   The sum of a card is never above its limit: it grows only where it was compared with the limit, under the writer's mark, before the
   driver is called. Ledgers grow before the sum and shrink after it, so a writer that is killed leaves at most too little in the sum,
   and the mark with it: whoever finds the mark of a dead writer adds up all ledgers before anything is granted. */
#define _GNU_SOURCE
#include "slice.h"
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#define TURNS 1000
#define LOOK_AGAIN_NS 100000
#define MOST_NS UINT64_C(2000000000)

static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;

void usage_after_fork(void)
{
    pthread_mutex_init(&threads, NULL);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* A process that is just joining has no slot: it marks with its number. */
static uint64_t own_mark(void)
{
    if (own.place >= 0)
        return (uint64_t)(own.place + 1) | (own.generation & UINT32_MAX) << 32;
    return (uint64_t)(TESSERA_MOST_PROCESSES + 1) | (uint64_t)(uint32_t)getpid() << 32;
}

static bool writer_is_dead(uint64_t mark)
{
    uint32_t place = (uint32_t)mark, detail = (uint32_t)(mark >> 32);
    if (place == TESSERA_MOST_PROCESSES + 1)
        return detail == (uint32_t)getpid() || start_of(detail) == 0;
    if (place == 0 || place > TESSERA_MOST_PROCESSES)
        return true;
    const struct tessera_process_slot *slot = &own.page->slots[place - 1];
    return (uint32_t)slot->generation != detail || slot->generation % 2 == 0 || (int)place - 1 == own.place || slot_is_gone(place - 1);
}

static uint64_t add(uint64_t one, uint64_t other)
{
    return one + other < one ? UINT64_MAX : one + other;
}

static void count_anew(void)
{
    for (unsigned card = 0; card < TESSERA_MOST_CARDS; card++) {
        uint64_t sum = 0;
        for (unsigned place = 0; place < TESSERA_MOST_PROCESSES; place++)
            if (own.page->slots[place].generation % 2)
                sum = add(sum, own.page->slots[place].ledger[card].bytes);
        __atomic_store_n(&own.page->cards[card].reserved_bytes, sum, __ATOMIC_RELEASE);
    }
}

static bool mark_is_free(uint64_t mine)
{
    uint64_t nobody = 0;
    return __atomic_compare_exchange_n(&own.page->writer, &nobody, mine, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* Takes the mark of a writer that is dead, or that has been stopped for two seconds: what that one still does when it goes on leaves
   the sums too high by what it was about, never too low. */
static bool take_over(uint64_t mine, bool even_from_the_living)
{
    uint64_t mark = __atomic_load_n(&own.page->writer, __ATOMIC_ACQUIRE);
    if (!mark || (!even_from_the_living && !writer_is_dead(mark)))
        return false;
    if (!__atomic_compare_exchange_n(&own.page->writer, &mark, mine, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return false;
    count_anew();
    return true;
}

/* Only one thread of a process is here; between processes the mark decides. Held for some dozen stores, or for a reaping. */
void writer_enter(void)
{
    pthread_mutex_lock(&threads);
    uint64_t mine = own_mark(), began = 0;
    for (unsigned turn = 0; !mark_is_free(mine); turn++) {
        if (turn < TURNS) {
            sched_yield();
            continue;
        }
        uint64_t now = now_ns();
        began = began ? began : now;
        if (take_over(mine, now - began > MOST_NS))
            return;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_AGAIN_NS}, NULL);
    }
}

void writer_leave(void)
{
    uint64_t mark = __atomic_load_n(&own.page->writer, __ATOMIC_RELAXED);
    uint32_t place = (uint32_t)mark;
    bool mine = mark == own_mark() || (place == TESSERA_MOST_PROCESSES + 1 && (uint32_t)(mark >> 32) == (uint32_t)getpid());
    if (mine)
        __atomic_compare_exchange_n(&own.page->writer, &mark, 0, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&threads);
}

static uint64_t pending_of_all(void)
{
    uint64_t sum = 0;
    for (unsigned place = 0; place < TESSERA_MOST_PROCESSES; place++)
        if (own.page->slots[place].generation % 2)
            sum = add(sum, own.page->slots[place].pending_bytes);
    return sum;
}

enum answer usage_reserve(unsigned card, uint64_t bytes)
{
    uint64_t limit = limits_memory(card), generation = limits_generation();
    enum answer answer = REFUSED;
    if (bytes > limit)
        return REFUSED;
    writer_enter();
    struct tessera_process_slot *slot = &own.page->slots[own.place];
    uint64_t sum = __atomic_load_n(&own.page->cards[card].reserved_bytes, __ATOMIC_ACQUIRE);
    if (sum <= limit - bytes) {
        slot->pending_bytes += bytes;
        slot->ledger[card].bytes += bytes;
        __atomic_add_fetch(&own.page->cards[card].reserved_bytes, bytes, __ATOMIC_RELEASE);
        answer = GRANTED;
    } else {
        uint64_t pending = pending_of_all();
        if (pending && (pending >= sum || sum - pending <= limit - bytes))
            answer = TRY_AGAIN;
    }
    if (own.page->limits_generation < generation)
        own.page->limits_generation = generation;
    writer_leave();
    return answer;
}

void usage_settle(uint64_t bytes)
{
    writer_enter();
    struct tessera_process_slot *slot = &own.page->slots[own.place];
    slot->pending_bytes -= bytes < slot->pending_bytes ? bytes : slot->pending_bytes;
    writer_leave();
}

void usage_return(unsigned card, uint64_t bytes)
{
    if (!bytes || !usage_joined())
        return;
    writer_enter();
    struct tessera_ledger *ledger = &own.page->slots[own.place].ledger[card];
    uint64_t *place = &own.page->cards[card].reserved_bytes, sum = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    while (!__atomic_compare_exchange_n(place, &sum, sum - (bytes < sum ? bytes : sum), false, __ATOMIC_RELEASE, __ATOMIC_ACQUIRE))
        ;
    ledger->bytes -= bytes < ledger->bytes ? bytes : ledger->bytes;
    writer_leave();
}

uint64_t usage_reserved(unsigned card)
{
    return __atomic_load_n(&own.page->cards[card].reserved_bytes, __ATOMIC_ACQUIRE);
}

void usage_context(unsigned card, bool there)
{
    writer_enter();
    struct tessera_process_slot *slot = &own.page->slots[own.place];
    slot->contexts = there ? slot->contexts | UINT64_C(1) << card : slot->contexts & ~(UINT64_C(1) << card);
    writer_leave();
}
