/* Who may launch when: within the limit, in the container's turn, and never so much ahead that others would wait for long.

   Launches take from the lane's room, without a lock or a system call, until it is used up; then one looks around (step). Room is what
   may be on the card beyond what is there. */
#include "lanes.h"
#include "allocating.h"
#include <string.h>

#define UNKNOWN (2 * MS)      /* of a function that was not measured yet: two of them are let through at once */
#define ALONE (1000 * MS)     /* room where nobody is hindered */
#define WITH_NEIGHBOURS (20 * MS)
#define LIMITED (8 * MS)
#define CONTENDED (4 * MS)
#define BEHIND (2 * MS)        /* with somebody about who goes first since it pauses */
#define OUTRANKED (500 * US)
#define HANDOVER (300 * US)   /* so little left on the card is no reason to wait before the next one begins */
#define IDLE_TURN (300 * US)
#define IDLE_LANE (20 * MS)
#define OVERDUE (100 * MS)    /* work that was to be done so long ago may wait for others: they must get their turn */
#define LONG_CALL (50 * US)
#define STUCK (1000 * MS)     /* or for a launch that we hold up */
#define STUCK_OWING (5000 * MS) /* which may be beyond the limit, too */
#define MOST_SLEEP (20 * MS)

static struct lane lanes[TESSERA_MOST_CARDS];

void lanes_after_fork(void)
{
    memset(lanes, 0, sizeof lanes);
    for (unsigned card = 0; card < TESSERA_MOST_CARDS; card++)
        pthread_mutex_init(&lanes[card].lock, NULL);
}

void lanes_begin(unsigned card)
{
    struct lane *lane = &lanes[card];
    pthread_mutex_lock(&lane->lock);
    if (!lane->begun) {
        lane->card = card;
        turn_begin(&lane->turn, card);
        __atomic_store_n(&lane->begun, true, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lane->lock);
}

void lanes_forget(CUcontext context)
{
    for (unsigned card = 0; card < TESSERA_MOST_CARDS; card++) {
        if (!__atomic_load_n(&lanes[card].begun, __ATOMIC_ACQUIRE))
            continue;
        pthread_mutex_lock(&lanes[card].lock);
        fences_forget(&lanes[card], context);
        pthread_mutex_unlock(&lanes[card].lock);
    }
}

/* With one card in the slice, as nearly always, the driver need not be asked which it is. */
static struct lane *current_lane(void)
{
    CUdevice device;
    int card = 0;
    if (limits_cards() > 1) {
        if (driver()->cuCtxGetDevice(&device))
            return NULL;
        card = card_of_device(device);
    }
    return card != NO_CARD && __atomic_load_n(&lanes[card].begun, __ATOMIC_ACQUIRE) ? &lanes[card] : NULL;
}

void lane_charge(struct lane *lane, uint64_t now, int64_t device_ns)
{
    uint64_t *used = &own.page->slots[own.place].ledger[lane->card].device_time_ns;
    tokens_spend(lane->card, now, device_ns);
    turn_used(&lane->turn, device_ns);
    __atomic_add_fetch(used, (uint64_t)device_ns, __ATOMIC_RELAXED);
}

/* Charges what launches have taken from the room. One that found too little puts it back, which may come out below zero here. */
static void charge_spent(struct lane *lane, uint64_t now, int64_t left)
{
    int64_t spent = lane->granted_ns - left;
    lane->granted_ns = left;
    if (spent)
        lane_charge(lane, now, spent);
}

static void take_room_back(struct lane *lane, uint64_t now)
{
    charge_spent(lane, now, __atomic_exchange_n(&lane->room_ns, 0, __ATOMIC_ACQ_REL));
    lane->granted_ns = 0;
}

static void grant(struct lane *lane, uint64_t room_ns, uint64_t fence_ns)
{
    lane->granted_ns += (int64_t)room_ns;
    __atomic_store_n(&lane->fence_ns, fence_ns, __ATOMIC_RELAXED);
    __atomic_add_fetch(&lane->room_ns, (int64_t)room_ns, __ATOMIC_ACQ_REL);
}

/* A pause that is neither too short to sleep nor too long to be late. */
static uint64_t pause_of(uint64_t ns)
{
    return ns < 20 * US ? 20 * US : ns > 500 * US ? 500 * US : ns;
}

enum why { NO_WAIT, FOR_OTHERS, FOR_LIMIT, FOR_SELF };

/* What runs should have been done so long ago that it may wait for the very launch that waits for it. */
static bool is_stuck(const struct lane *lane, uint64_t now, uint64_t by)
{
    return fences_overdue(lane, now, by) && now - lane->let_ns > by;
}

/* So much may be on the card at once. */
static uint64_t bound_of(const struct turn *turn, uint64_t limit, uint64_t now)
{
    if (turn_outranked(turn, now))
        return OUTRANKED;
    if (turn_lets_pass(turn, now))
        return BEHIND;
    if (turn->contended)
        return CONTENDED;
    return limit < 100 ? LIMITED : WITH_NEIGHBOURS;
}

/* How long to wait before looking again, 0 if so much may be launched now; the room is set then. */
static uint64_t step(struct lane *lane, uint64_t now, uint64_t cost, enum why *why)
{
    struct turn *turn = &lane->turn;
    uint64_t ahead = fences_ahead(lane, now), limit = limits_compute(lane->card).limit, bound = ALONE;
    *why = FOR_LIMIT;
    uint64_t wait = tokens_wait(lane->card, now);
    if (wait && !is_stuck(lane, now, STUCK_OWING)) { /* nobody keeps its turn, or waits for it, while it may do nothing */
        uint64_t most = MOST_SLEEP;
        if (turn->holds && ahead > HANDOVER)
            most = pause_of(ahead - HANDOVER);
        else
            turn_end(turn);
        return wait < most ? wait : most;
    }
    turn_look(turn, now);
    if (turn->shared || limit < 100) {
        *why = FOR_OTHERS;
        if (turn_is_over(turn, now) && turn->holds) {
            if (ahead > HANDOVER && !fences_overdue(lane, now, OVERDUE))
                return pause_of(ahead - HANDOVER);
            turn_end(turn);
        }
        if (!turn_take(turn, now))
            return turn_wait(turn, now);
        bound = bound_of(turn, limit, now);
    }
    *why = FOR_SELF;
    bool stuck = is_stuck(lane, now, STUCK);
    uint64_t least = bound == OUTRANKED ? HANDOVER / 3 : HANDOVER;
    uint64_t before = bound > cost + least ? bound - cost : least; /* so much may be ahead of this launch */
    if (ahead > before && !stuck)
        return pause_of(ahead - before);
    lane->let_ns = now;
    turn_beat(turn, now, now + ahead + cost);
    grant(lane, ahead + cost < bound ? bound - ahead - cost : 0, bound == ALONE ? 5 * MS : bound / 4);
    lane_charge(lane, now, (int64_t)cost);
    *why = NO_WAIT;
    return 0;
}

static void account(struct lane *lane, enum why why, uint64_t slept_ns)
{
    struct tessera_ledger *ledger = &own.page->slots[own.place].ledger[lane->card];
    if (why == FOR_LIMIT)
        __atomic_add_fetch(&ledger->throttled_ns, slept_ns, __ATOMIC_RELAXED);
    if (why == FOR_OTHERS)
        __atomic_add_fetch(&ledger->waiting_ns, slept_ns, __ATOMIC_RELAXED);
}

/* Returns with the lock. */
static void admit(struct lane *lane, uint64_t cost)
{
    enum why why;
    pthread_mutex_lock(&lane->lock);
    for (;;) {
        uint64_t now = clock_ns();
        take_room_back(lane, now);
        fences_settle(lane, now);
        lane->idle_ns = 0;
        uint64_t wait = step(lane, now, cost, &why);
        if (!wait)
            return;
        lane->waiting++;
        pthread_mutex_unlock(&lane->lock);
        clock_sleep(wait);
        pthread_mutex_lock(&lane->lock);
        lane->waiting--;
        account(lane, why, clock_ns() - now);
    }
}

bool launch_enter(struct launch *launch, const void *function, uint64_t blocks)
{
    struct lane *lane = current_lane();
    if (!lane || is_captured(launch->stream, launch->per_thread))
        return false;
    launch->lane = lane;
    launch->key = cost_key(function, blocks);
    launch->work = work_find(lane, launch->stream, launch->per_thread);
    launch->cost = 0;
    launch->measured = false;
    bool known = cost_of(launch->key, &launch->cost);
    if (known && launch->work && launch->cost < __atomic_load_n(&lane->fence_ns, __ATOMIC_RELAXED)) {
        int64_t cost = (int64_t)launch->cost;
        if (__atomic_sub_fetch(&lane->room_ns, cost, __ATOMIC_ACQ_REL) >= 0)
            return true;
        __atomic_add_fetch(&lane->room_ns, cost, __ATOMIC_ACQ_REL);
    }
    launch->guessed = launch->cost == 0;
    if (launch->guessed)
        launch->cost = UNKNOWN;
    struct relaxed relaxed = captures_relax();
    admit(lane, launch->cost);
    launch->work = work_find(lane, launch->stream, launch->per_thread);
    if (!launch->work)
        launch->work = work_make(lane, launch->stream, launch->per_thread);
    launch->measured = !known || launch->cost >= lane->fence_ns;
    if (launch->measured) {
        fence_open_work(lane, launch->work, launch->per_thread);
        launch->measured = fence_before(lane, launch, &launch->fence);
    }
    pthread_mutex_unlock(&lane->lock);
    captures_restore(&relaxed);
    keeper_wake();
    return true;
}

static void mark_open_work(struct launch *launch)
{
    struct relaxed relaxed = captures_relax();
    pthread_mutex_lock(&launch->lane->lock);
    fence_open_work(launch->lane, launch->work, launch->per_thread);
    pthread_mutex_unlock(&launch->lane->lock);
    captures_restore(&relaxed);
}

void launch_leave(struct launch *launch, CUresult result)
{
    struct lane *lane = launch->lane;
    struct work *work = launch->work;
    if (launch->measured) {
        pthread_mutex_lock(&lane->lock);
        if (launch->waits && clock_ns() > launch->fence.before_ns + LONG_CALL)
            launch->fence.before_ns = 0; /* it has waited: the call's time is the work's */
        if (result)
            launch->fence.key = 0; /* nothing is learnt of what was not done */
        fence_after(lane, work, &launch->fence, launch->per_thread);
        pthread_mutex_unlock(&lane->lock);
        return;
    }
    if (result) {
        __atomic_add_fetch(&lane->room_ns, (int64_t)launch->cost, __ATOMIC_ACQ_REL);
        return;
    }
    uint64_t open = __atomic_add_fetch(&work->open, OPEN_ONE | launch->cost, __ATOMIC_ACQ_REL);
    if (open / OPEN_ONE == 1) {
        __atomic_store_n(&work->opened_ns, clock_ns(), __ATOMIC_RELAXED);
        __atomic_store_n(&work->key, launch->key, __ATOMIC_RELAXED);
    } else if (__atomic_load_n(&work->key, __ATOMIC_RELAXED) != launch->key) {
        __atomic_store_n(&work->key, 0, __ATOMIC_RELAXED);
    }
    if (open % OPEN_ONE >= __atomic_load_n(&lane->fence_ns, __ATOMIC_RELAXED))
        mark_open_work(launch);
}


/* Ends turns that are over or that nobody uses; says that this process is there, and how far its work reaches. */
static uint64_t tick(struct lane *lane, uint64_t now)
{
    struct turn *turn = &lane->turn;
    charge_spent(lane, now, __atomic_load_n(&lane->room_ns, __ATOMIC_ACQUIRE));
    fences_settle(lane, now);
    uint64_t ahead = fences_ahead(lane, now);
    turn_look(turn, now);
    bool over = turn_is_over(turn, now);
    /* What was granted while nobody else was there is too much now. */
    if (over || (turn->contended && __atomic_load_n(&lane->room_ns, __ATOMIC_RELAXED) > (int64_t)CONTENDED))
        take_room_back(lane, now);
    if (turn->holds && over && (ahead <= HANDOVER || fences_overdue(lane, now, OVERDUE)))
        turn_end(turn);
    else if (!over && !fences_overdue(lane, now, OVERDUE))
        turn_renew(turn, now);
    if (ahead || lane->waiting)
        lane->idle_ns = 0;
    else {
        if (!lane->idle_ns)
            lane->idle_ns = now;
        bool pauses = turn->goes_first || now - lane->idle_ns > IDLE_TURN;
        if (pauses && (turn->contended || turn->lower_waits) && turn->holds) {
            take_room_back(lane, now); /* the next launch has to ask again */
            turn_pause(turn);
        }
    }
    if (lane->idle_ns && now - lane->idle_ns > IDLE_LANE) {
        take_room_back(lane, now); /* the next launch wakes the keeper */
        turn_leave(turn);
        return 0;
    }
    if (!lane->waiting || turn->holds)
        turn_beat(turn, now, now + ahead);
    bool tense = turn->contended || turn->lower_waits || turn_outranked(turn, now) || turn_lets_pass(turn, now);
    return tense ? 300 * US : 2 * MS;
}

uint64_t lanes_tick(void)
{
    uint64_t next = 0;
    for (unsigned card = 0; card < TESSERA_MOST_CARDS; card++) {
        struct lane *lane = &lanes[card];
        if (!__atomic_load_n(&lane->begun, __ATOMIC_ACQUIRE))
            continue;
        CUcontext context = NULL;
        pthread_mutex_lock(&lane->lock);
        if (lane->tail != lane->head)
            context = lane->fences[lane->tail % MOST_FENCES].context;
        bool pushed = context && driver()->cuCtxPushCurrent_v2(context) == CUDA_SUCCESS;
        uint64_t again = tick(lane, clock_ns());
        if (pushed)
            driver()->cuCtxPopCurrent_v2(&context);
        pthread_mutex_unlock(&lane->lock);
        next = again && (!next || again < next) ? again : next;
    }
    return next;
}
