/* Marks in streams, by which a lane knows what has run and how long it took.

   A mark is an event of ours behind about a millisecond of work. If the mark before it in its stream had not been reached when the
   last of that work was submitted, the stream was never without work in between, and the time between the two is what the work took.
   Otherwise what it was thought to cost stands, and now and then a launch gets marks of its own. Marks are put only by the thread that
   launches, never while anything is captured; they are read by anybody. */
#include "lanes.h"

#define OPEN_IS_DONE (200 * US) /* work without a mark is taken as done so long after it should be */
#define LEAST_LEFT (50 * US)
#define SETTLING (2 * MS) /* what the one before has left on the card is gone so long after a turn began */
#define INTERRUPTION (1 * MS) /* so much more than it should take: rather the thread stood still between its marks */
#define MOST_REST (500 * US) /* that the one before may have left on the card, by its own word */
#define MANY 10u          /* times as much work can be measured although such a rest may be in it */
#define LONG (20 * MS)    /* of so long a kernel, a part that others had of the time does not matter much */
#define PLACES 8u /* where a stream may be in the table, so that some dozen streams do not push each other out */
#define MOST_CREDIT (1000 * MS)
#define RUNS_LONG (50 * MS) /* a launch that takes so much longer than thought is charged as it runs */

static struct work *nth_work(struct lane *lane, CUstream stream, unsigned n)
{
    uint64_t home = ((uint64_t)(uintptr_t)stream * UINT64_C(0x9e3779b97f4a7c15)) >> 58;
    return &lane->works[(home + n) % MOST_WORKS];
}

struct work *work_find(struct lane *lane, CUstream stream, bool per_thread)
{
    for (unsigned n = 0; n < PLACES; n++) {
        struct work *work = nth_work(lane, stream, n);
        if (__atomic_load_n(&work->used, __ATOMIC_ACQUIRE) == 1u + per_thread &&
            __atomic_load_n(&work->stream, __ATOMIC_RELAXED) == stream)
            return work;
    }
    return NULL;
}

/* Its open work was paid for as thought. A launch that has just found it goes on with it. */
static void forget_work(struct work *work)
{
    __atomic_store_n(&work->used, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&work->open, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&work->key, 0, __ATOMIC_RELAXED);
    work->last = 0;
}

struct work *work_make(struct lane *lane, CUstream stream, bool per_thread)
{
    struct work *work = NULL;
    for (unsigned n = 0; n < PLACES && !work; n++)
        work = nth_work(lane, stream, n)->used ? NULL : nth_work(lane, stream, n);
    if (!work)
        work = nth_work(lane, stream, lane->pushed_out++ % PLACES);
    forget_work(work);
    __atomic_store_n(&work->stream, stream, __ATOMIC_RELAXED);
    __atomic_store_n(&work->used, 1u + per_thread, __ATOMIC_RELEASE);
    return work;
}

static CUevent take_event(struct lane *lane, CUcontext context)
{
    CUevent event = NULL;
    if (lane->spares && lane->spare_context == context)
        return lane->spare[--lane->spares];
    return driver()->cuEventCreate(&event, CU_EVENT_DEFAULT) ? NULL : event;
}

static void give_event(struct lane *lane, CUcontext context, CUevent event)
{
    if (!event)
        return;
    if (lane->spares && lane->spare_context != context) {
        driver()->cuEventDestroy_v2(event);
        return;
    }
    lane->spare_context = context;
    if (lane->spares < MOST_SPARE)
        lane->spare[lane->spares++] = event;
    else
        driver()->cuEventDestroy_v2(event);
}

static CUresult mark(CUevent event, CUstream stream, bool per_thread)
{
    return (per_thread ? driver()->cuEventRecord_ptsz : driver()->cuEventRecord)(event, stream);
}

static struct fence *fence_of(struct lane *lane, uint64_t number)
{
    return &lane->fences[number % MOST_FENCES];
}

static void drop_done(struct lane *lane)
{
    while (lane->tail != lane->head && fence_of(lane, lane->tail)->done)
        lane->tail++;
}

/* The stream's last mark, if it is still to come: then the stream has had work ever since. */
static struct fence *reached_not_yet(struct lane *lane, const struct work *work)
{
    if (!work->last || work->last - 1 < lane->tail)
        return NULL;
    struct fence *last = fence_of(lane, work->last - 1);
    if (last->done || last->lends_end || driver()->cuEventQuery(last->end) != CUDA_ERROR_NOT_READY)
        return NULL;
    return last;
}

static void lend(struct fence *last, struct fence *fence)
{
    last->lends_end = true;
    fence->start = last->end;
    fence->owns_start = true;
}

/* A launch gets marks of its own: the one before it. */
bool fence_before(struct lane *lane, struct launch *launch, struct fence *fence)
{
    *fence = (struct fence){.cost = launch->cost, .count = 1, .key = launch->key, .guessed = launch->guessed};
    if (lane->head - lane->tail == MOST_FENCES || driver()->cuCtxGetCurrent(&fence->context))
        return false;
    struct fence *last = reached_not_yet(lane, launch->work);
    if (last) {
        lend(last, fence);
        return true;
    }
    fence->start = take_event(lane, fence->context);
    fence->owns_start = fence->start != NULL;
    if (fence->start && !mark(fence->start, launch->stream, launch->per_thread)) {
        fence->before_ns = clock_ns();
        return true;
    }
    give_event(lane, fence->context, fence->start);
    return false;
}

void fence_after(struct lane *lane, struct work *work, struct fence *fence, bool per_thread)
{
    uint64_t now = clock_ns();
    fence->beside = lane->turn.beside;
    bool settling = lane->turn.contended && now - turn_since(&lane->turn) < SETTLING;
    uint64_t rest = fence->before_ns && lane->turn.others_last_ns > fence->before_ns ? lane->turn.others_last_ns - fence->before_ns : 0;
    fence->rest_ns = settling ? (rest < MOST_REST ? rest : MOST_REST) : 0;
    fence->mixed = fence->beside || (settling && fence->cost < MANY * MOST_REST);
    fence->idle_ns = fence->before_ns ? now - fence->before_ns : 0;
    fence->end = take_event(lane, fence->context);
    if (!fence->end || mark(fence->end, work->stream, per_thread)) {
        give_event(lane, fence->context, fence->end); /* the other may be lent, and is left alone */
        return;
    }
    if (lane->head == lane->tail)
        lane->busy_ns = now;
    lane->pending_ns += fence->cost;
    *fence_of(lane, lane->head) = *fence;
    work->last = ++lane->head;
}

/* A mark behind what a stream has been given since the last one. */
void fence_open_work(struct lane *lane, struct work *work, bool per_thread)
{
    struct fence fence = {0};
    if (lane->head - lane->tail == MOST_FENCES || driver()->cuCtxGetCurrent(&fence.context))
        return;
    struct fence *last = reached_not_yet(lane, work);
    uint64_t open = __atomic_exchange_n(&work->open, 0, __ATOMIC_ACQ_REL);
    fence.cost = open % OPEN_ONE;
    fence.count = open / OPEN_ONE;
    fence.key = __atomic_exchange_n(&work->key, 0, __ATOMIC_ACQ_REL);
    if (!fence.cost)
        return;
    if (last)
        lend(last, &fence);
    fence_after(lane, work, &fence, per_thread);
}

static uint64_t measured(struct lane *lane, const struct fence *fence)
{
    float ms = 0;
    if (!fence->start || driver()->cuEventElapsedTime(&ms, fence->start, fence->end) || ms < 0)
        return fence->cost;
    uint64_t took = (uint64_t)((double)ms * 1e6);
    took -= fence->idle_ns < took / 2 ? fence->idle_ns : took / 2; /* a call takes as long as a short kernel */
    if (!fence->mixed) /* so it is little of it, even where a neighbour says more than is so */
        took -= fence->rest_ns < took / 2 ? fence->rest_ns : took / 2;
    /* Others who came when it was nearly done, or went when it had just begun, have had nothing to speak of. */
    uint64_t least = took / (1 + (fence->beside < lane->turn.beside ? fence->beside : lane->turn.beside));
    if ((fence->mixed || lane->turn.beside) && !fence->guessed) { /* others can only have made it longer */
        if (took >= fence->cost && (took < LONG || fence->cost >= least))
            return fence->cost;
        took = took < fence->cost ? took : least;
    } else {
        took = least;
    }
    if (fence->key && fence->count)
        cost_learn(fence->key, took / fence->count, fence->count > 1);
    if (fence->before_ns && !fence->guessed && took > 2 * fence->cost && took - fence->cost < INTERRUPTION)
        return fence->cost;
    uint64_t most = fence->count > 1 && lane->credit_ns > MOST_CREDIT ? MOST_CREDIT : lane->credit_ns; /* it may have waited in between */
    return took < most ? took : most;
}

static void finish(struct lane *lane, struct fence *fence, uint64_t now)
{
    uint64_t took = measured(lane, fence);
    lane->credit_ns -= took < lane->credit_ns ? took : lane->credit_ns;
    lane_charge(lane, now, (int64_t)took - (int64_t)(fence->cost + fence->running_ns));
    lane->pending_ns -= fence->cost < lane->pending_ns ? fence->cost : lane->pending_ns;
    lane->busy_ns = now;
    fence->done = true;
    if (fence->owns_start)
        give_event(lane, fence->context, fence->start);
    if (!fence->lends_end)
        give_event(lane, fence->context, fence->end);
}

/* Nobody knows how long a kernel will take that takes longer than it should. What it has had until now is paid at once: its limit, the
   others' turns and the agent, which sees the card at work, are not kept waiting for its end. */
static void charge_running(struct lane *lane, uint64_t now)
{
    struct fence *first = fence_of(lane, lane->tail);
    if (lane->tail == lane->head || first->done || !first->start || first->count != 1)
        return;
    if (!first->seen_ns && driver()->cuEventQuery(first->start) == CUDA_SUCCESS)
        first->seen_ns = now;
    uint64_t had = first->seen_ns && now > first->seen_ns ? (now - first->seen_ns) / (1 + lane->turn.beside) : 0;
    if (had < first->cost + first->running_ns + RUNS_LONG)
        return;
    uint64_t more = had - first->cost - first->running_ns;
    first->running_ns += more;
    lane_charge(lane, now, (int64_t)more);
}

void fences_settle(struct lane *lane, uint64_t now)
{
    uint64_t passed = lane->settled_ns && now > lane->settled_ns ? now - lane->settled_ns : 0;
    lane->settled_ns = now;
    lane->credit_ns += passed;
    if (lane->tail == lane->head && lane->credit_ns > MOST_CREDIT)
        lane->credit_ns = MOST_CREDIT;
    for (uint64_t number = lane->tail; number != lane->head; number++) {
        struct fence *fence = fence_of(lane, number);
        if (!fence->done && driver()->cuEventQuery(fence->end) != CUDA_ERROR_NOT_READY)
            finish(lane, fence, now);
    }
    drop_done(lane);
    charge_running(lane, now);
    if (lane->tail == lane->head)
        lane->pending_ns = 0;
    for (unsigned i = 0; i < MOST_WORKS; i++) {
        struct work *work = &lane->works[i];
        uint64_t open = __atomic_load_n(&work->open, __ATOMIC_RELAXED) % OPEN_ONE;
        if (open && now > __atomic_load_n(&work->opened_ns, __ATOMIC_RELAXED) + open + OPEN_IS_DONE && lane->tail == lane->head) {
            __atomic_store_n(&work->open, 0, __ATOMIC_RELAXED);
            __atomic_store_n(&work->key, 0, __ATOMIC_RELAXED);
        }
    }
}

/* What is at work has been so since busy_ns. If it should be done and is not, nobody knows how long it will take. */
uint64_t fences_ahead(struct lane *lane, uint64_t now)
{
    uint64_t ahead = lane->pending_ns;
    if (lane->tail != lane->head) {
        uint64_t first = fence_of(lane, lane->tail)->cost, since = now > lane->busy_ns ? now - lane->busy_ns : 0;
        uint64_t left = since < first ? first - since : first / 2 > LEAST_LEFT ? first / 2 : LEAST_LEFT;
        ahead = (ahead > first ? ahead - first : 0) + left;
    }
    for (unsigned i = 0; i < MOST_WORKS; i++)
        ahead += __atomic_load_n(&lane->works[i].open, __ATOMIC_RELAXED) % OPEN_ONE;
    return ahead;
}

bool fences_overdue(const struct lane *lane, uint64_t now, uint64_t by)
{
    return lane->tail != lane->head && now > lane->busy_ns + lane->fences[lane->tail % MOST_FENCES].cost + by;
}

void fences_forget(struct lane *lane, CUcontext context)
{
    for (uint64_t number = lane->tail; number != lane->head; number++)
        if (fence_of(lane, number)->context == context)
            fence_of(lane, number)->done = true;
    if (lane->spare_context == context)
        lane->spares = 0;
    for (unsigned i = 0; i < MOST_WORKS; i++)
        forget_work(&lane->works[i]);
    drop_done(lane);
    lane->pending_ns = 0;
    for (uint64_t number = lane->tail; number != lane->head; number++)
        if (!fence_of(lane, number)->done)
            lane->pending_ns += fence_of(lane, number)->cost;
}
