/* Functions of the host in the order of a stream. One thread of the process runs them when their turn has come; it sleeps otherwise. */
#define _GNU_SOURCE
#include "driver.h"
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct call {
    bool (*function)(void *data);
    void *data;
};

static unsigned pending; /* calls that have been submitted and are not over */
static pthread_once_t started = PTHREAD_ONCE_INIT;

bool calls_pending(void)
{
    return __atomic_load_n(&pending, __ATOMIC_ACQUIRE) != 0;
}

static uint32_t *signal_word(void)
{
    return &driver.machine->processes[driver.process].host_signal;
}

/* The longest sleep in real nanoseconds: until the card's next change, or until somebody who brought it forward wakes this thread. */
static void sleep_until_called(uint32_t seen, bool retry)
{
    uint64_t span = 1000000;
    if (!calls_pending()) {
        syscall(SYS_futex, signal_word(), FUTEX_WAIT, seen, NULL, NULL, 0);
        return;
    }
    machine_lock(driver.machine);
    machine_advance(driver.machine, clock_now(driver.machine));
    uint64_t next = machine_next(driver.machine), now = driver.machine->now_ns;
    machine_unlock(driver.machine);
    if (driver.machine->description.clock == CLOCK_SCALED && next != FOREVER && next > now) {
        uint64_t real = (uint64_t)((unsigned __int128)(next - now) * driver.machine->description.dilation_ppm / 1000000u);
        span = real < 20000 ? 20000 : real < span ? real : span;
    }
    if (retry && span > 100000)
        span = 100000;
    struct timespec timeout = {.tv_nsec = (long)span};
    syscall(SYS_futex, signal_word(), FUTEX_WAIT, seen, &timeout, NULL, 0);
}

/* Finds a stream that has called and whose call is not among those tried in this round. */
static struct call *find_call(uint32_t from, uint32_t *index, uint32_t *generation)
{
    struct call *found = NULL;
    machine_lock(driver.machine);
    machine_advance(driver.machine, clock_now(driver.machine));
    for (uint32_t i = from; !found && i < driver.machine->stream_end; i++) {
        const struct stream *stream = &driver.machine->streams[i];
        if (!stream->used || stream->submitted == stream->completed || stream_stage(stream) != CALLED ||
            driver.machine->contexts[stream->context].process != driver.process)
            continue;
        found = (struct call *)(uintptr_t)stream->ring[stream->completed % RING].token;
        *index = i;
        *generation = stream->generation;
    }
    machine_unlock(driver.machine);
    return found;
}

static void answer(uint32_t index, uint32_t generation)
{
    machine_lock(driver.machine);
    struct stream *stream = &driver.machine->streams[index];
    if (stream->generation == generation && stream_stage(stream) == CALLED)
        stream->stage = ANSWERED;
    machine_advance(driver.machine, clock_now(driver.machine));
    machine_unlock(driver.machine);
}

static void *serve(void *unused)
{
    (void)unused;
    prctl(PR_SET_NAME, "gpu-callbacks");
    for (;;) {
        uint32_t seen = __atomic_load_n(signal_word(), __ATOMIC_ACQUIRE), index = 0, generation = 0, from = 0;
        bool done = false, retry = false;
        for (struct call *call; (call = find_call(from, &index, &generation)); from = index + 1) {
            if (!call->function(call->data)) {
                retry = true;
                continue;
            }
            free(call);
            __atomic_fetch_sub(&pending, 1, __ATOMIC_RELEASE);
            answer(index, generation);
            done = true;
        }
        if (!done)
            sleep_until_called(seen, retry);
    }
    return NULL;
}

static void start(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, &attributes, serve, NULL) != 0)
        abort(); /* what was promised to be called could not be */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

void call_in_order(struct CUstream_st *stream, bool (*function)(void *data), void *data)
{
    struct call *call = malloc(sizeof *call);
    if (!call)
        abort();
    *call = (struct call){function, data};
    pthread_once(&started, start);
    __atomic_fetch_add(&pending, 1, __ATOMIC_ACQ_REL);
    submit(stream, &(struct command){.kind = HOST, .token = (uint64_t)(uintptr_t)call});
    __atomic_fetch_add(signal_word(), 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, signal_word(), FUTEX_WAKE, 1, NULL, NULL, 0);
}
