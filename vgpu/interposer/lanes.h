/* A lane: this process on one card. Everything but what is marked atomic is under its lock. */
#ifndef TESSERA_LANES_H
#define TESSERA_LANES_H

#include "compute.h"
#include <pthread.h>

#define MOST_FENCES 256u
#define MOST_WORKS 64u
#define MOST_SPARE 64u

/* Work between two marks in a stream. */
struct fence {
    CUevent start, end; /* start NULL: its beginning was not marked */
    CUcontext context;
    bool owns_start, lends_end, done;
    bool guessed; /* nothing is known of the function */
    bool mixed;   /* others may have had the card, too, when it was submitted */
    unsigned beside; /* how many others had work on the card when it was submitted */
    uint64_t cost, count, key; /* key 0: of several functions */
    uint64_t before_ns; /* when the start was marked in a stream without work; 0: it was not */
    uint64_t idle_ns;   /* how long the card may have waited for the call after that mark */
    uint64_t rest_ns;   /* how long it was still at work for who had the turn before */
    uint64_t seen_ns;   /* when it was first seen at work, one launch by itself */
    uint64_t running_ns; /* charged since, beyond the cost */
};

/* One call that launches. */
struct launch {
    CUstream stream;
    bool per_thread, guessed, measured; /* guessed: nothing is known of the function; measured: between marks of its own */
    bool waits; /* the call returns when the work is done */
    uint64_t key, cost;
    struct lane *lane;
    struct work *work;
    struct fence fence;
};

#define OPEN_ONE (UINT64_C(1) << 44)

/* A stream. Work is open until a mark comes after it. */
struct work {
    CUstream stream;   /* atomic */
    uint64_t used;     /* atomic; 1 + whether it is the kind of each thread */
    uint64_t open;     /* atomic; how many launches times OPEN_ONE, and the ns that they are thought to take */
    uint64_t key;      /* atomic; 0: of several functions */
    uint64_t opened_ns; /* atomic */
    uint64_t last;     /* 1 + number of its last fence */
};

struct lane {
    pthread_mutex_t lock;
    bool begun;       /* atomic */
    unsigned card;
    struct turn turn;
    int64_t room_ns;  /* atomic: of estimated work that may be launched without asking */
    int64_t granted_ns;
    uint64_t fence_ns; /* atomic: a mark after so much work */
    uint64_t tail, head; /* numbers of fences */
    uint64_t pending_ns, busy_ns; /* estimated work behind the fences; since when the first of them is at work */
    uint64_t credit_ns, settled_ns; /* device time is never more than time */
    uint64_t idle_ns;
    uint64_t let_ns;  /* when a launch was last let through although work is overdue */
    unsigned waiting; /* threads that want to launch */
    unsigned pushed_out;
    unsigned spares;
    CUcontext spare_context;
    CUevent spare[MOST_SPARE];
    struct fence fences[MOST_FENCES];
    struct work works[MOST_WORKS];
};

/* fences.c, all with the lock. Those that mark need the stream's context to be current. */
struct work *work_find(struct lane *lane, CUstream stream, bool per_thread); /* without the lock, too */
struct work *work_make(struct lane *lane, CUstream stream, bool per_thread);
bool fence_before(struct lane *lane, struct launch *launch, struct fence *fence);
void fence_after(struct lane *lane, struct work *work, struct fence *fence, bool per_thread);
void fence_open_work(struct lane *lane, struct work *work, bool per_thread);
void fences_settle(struct lane *lane, uint64_t now); /* takes in what has run since */
uint64_t fences_ahead(struct lane *lane, uint64_t now); /* device time until all is done that was launched */
bool fences_overdue(const struct lane *lane, uint64_t now, uint64_t by);
void fences_forget(struct lane *lane, CUcontext context);

/* lanes.c */
bool launch_enter(struct launch *launch, const void *function, uint64_t blocks); /* may wait; false: it is not counted */
void launch_leave(struct launch *launch, CUresult result);
void lane_charge(struct lane *lane, uint64_t now, int64_t device_ns);

/* The end of a function that puts work on the card by `call`; `stream` and `per_thread` say where. */
#define COUNTED(function, blocks, call) COUNTED_AND(false, function, blocks, call)
#define COUNTED_AND(waits_for_it, function, blocks, call)           \
    do {                                                            \
        struct launch launch;                                       \
        launch.stream = stream, launch.per_thread = per_thread;     \
        launch.waits = waits_for_it;                                \
        if (!launch_enter(&launch, (const void *)(function), (blocks))) \
            return (call);                                          \
        CUresult result = (call);                                   \
        launch_leave(&launch, result);                              \
        return result;                                              \
    } while (0)

#endif
