/* The state of the simulated machine, in one file that all processes map.

   Invariants. Everything is guarded by one robust mutex, `lock`. Any prefix of the stores made under it is a valid state, up to sums,
   which `recover` computes anew when a holder died: a kill at any moment never stops the others. A process holds its slot's `alive`
   mutex, robust too, in a thread of its own as long as it lives, so that its end is seen whatever it did to its descriptors. */
#ifndef SIMULATOR_MACHINE_H
#define SIMULATOR_MACHINE_H

#include "description.h"
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#define STATE_VERSION 1
#define STATE_VARIABLE "GPU_SIMULATOR_STATE"
#define MAX_PROCESSES 1024
#define MAX_CONTEXTS 1024
#define MAX_STREAMS 8192
#define MAX_EVENTS 65536
#define MAX_SHARED 4096
#define MAX_HOLDERS 32
#define RING 1024
#define PARTS 8 /* of a card: 0 is the whole, 1 to 7 are its GPU instances */
#define BUCKETS 32
#define NOBODY UINT32_MAX
#define FOREVER UINT64_MAX
#define MIB (1024ull * 1024)

enum command_kind { KERNEL = 1, COPY, RECORD, WAIT_EVENT, WAIT_STREAM, HOST };
enum copy_path { HOST_TO_DEVICE = 0, DEVICE_TO_HOST, ON_DEVICE, COPY_PATHS };

/* What a stream waits for or does. amount: blocks of a kernel, sequence number of a wait; each_ns: one wave, or the whole copy. */
struct command {
    uint32_t kind, target, generation, units;
    uint64_t amount, each_ns, token, gap_ns;
};

/* Of the command at the head. It is that of command number `staged`, so completing a command, one store, also resets it. SETTLING: a
   batch of blocks is over, and what is left of the kernel is being written down. */
enum head_stage { WAITING = 0, GAP, READY, RUNNING, SETTLING, CALLED, ANSWERED };

struct stream {
    uint32_t used, generation, context, next; /* used: 1, or 2 when it goes once it is empty; next stream of the same context */
    uint32_t blocking;                        /* takes part in the legacy default stream's order */
    int32_t priority;
    uint64_t submitted, completed;
    uint32_t stage, running_units;
    uint64_t staged; /* one more than the number of the command that `stage` and the next members are about */
    uint64_t ready_order, left, next_left, started_run_ns, end_run_ns, batch, waves; /* in the context's running time */
    struct command ring[RING];
};

struct event {
    uint32_t used, generation, owner, shared;
    uint64_t recorded, completed, time_ns; /* sequence numbers of records, and the last one's time */
};

struct context {
    uint32_t used, process, part, next, first_stream; /* next context of the same part of a card */
    uint64_t run_ns, ready_counter;
};

/* What executes contexts: a card, or one of its GPU instances. */
struct part {
    uint32_t open, first_context, current, loaded;
    uint64_t switching_until, slice_end;
    uint64_t multiprocessors, capacity_bytes, used_bytes;
    uint64_t busy_ns, switching_ns; /* time with a kernel on it, and time that changes of context took, since the beginning */
};

struct bucket {
    uint64_t number, busy_ns;
};

struct process {
    pthread_mutex_t alive;
    uint32_t state, generation; /* state: 0 free, 1 living */
    int32_t pid, outside_pid;   /* as the process sees itself, and as the outermost namespace that has looked sees it */
    uint64_t pid_namespace, contexts;
    uint32_t host_signal; /* futex: a host function is due */
    uint64_t own_bytes[MAX_CARDS][PARTS], shared_bytes[MAX_CARDS][PARTS]; /* what it pays for; the latter follows from the holders */
    uint64_t busy_ns[MAX_CARDS];
    struct bucket buckets[MAX_CARDS][BUCKETS];
};

struct holder {
    uint32_t process, generation, count;
};

/* Device memory that several processes may hold; the first living holder pays for it. */
struct shared_allocation {
    uint32_t used, card, part;
    uint32_t reserved;
    uint64_t bytes, id;
    struct holder holders[MAX_HOLDERS];
};

struct compute_instance {
    uint32_t used, id, profile, start, size;
    char uuid[48];
};

struct gpu_instance {
    uint32_t used, id, profile, start, size; /* profile: row of the card's table; index in the array is the part */
    struct compute_instance compute[PARTS];
};

struct mig {
    uint32_t mode, pending;
    struct gpu_instance instances[PARTS];
};

struct machine {
    struct machine_description description;
    uint64_t version, bytes, initialised;
    pthread_mutex_t lock;
    uint64_t virtual_ns, now_ns, last_reap_ns, next_shared_id, next_event_number;
    uint32_t process_end, context_end, stream_end, event_end, shared_end; /* one more than the highest ever used */
    struct part parts[MAX_CARDS][PARTS];
    struct mig mig[MAX_CARDS];
    struct process processes[MAX_PROCESSES];
    struct context contexts[MAX_CONTEXTS];
    struct shared_allocation shared[MAX_SHARED];
    struct event events[MAX_EVENTS];
    struct stream streams[MAX_STREAMS];
};

/* machine.c */
struct machine *machine_open(void); /* maps and, if it is new, prepares the state; NULL if there is none or it is of another version */
const char *machine_path(void);
void machine_lock(struct machine *machine);
void machine_unlock(struct machine *machine);

/* clock.c: simulated nanoseconds */
uint64_t monotonic_ns(void);
uint64_t clock_now(struct machine *machine);
uint64_t clock_wall_us(struct machine *machine, uint64_t simulated_ns);
void clock_spend(struct machine *machine, uint64_t since_monotonic_ns, uint64_t simulated_ns); /* without the lock */
void clock_sleep(struct machine *machine, uint64_t simulated_ns);                              /* without the lock */

/* process.c */
uint32_t process_register(struct machine *machine); /* with the lock; NOBODY if the table is full */
bool process_hold(struct machine *machine, uint32_t slot);
void process_reap(struct machine *machine); /* with the lock */
int process_visible_pid(struct machine *machine, uint32_t slot);

/* memory.c, all with the lock */
bool memory_charge(struct machine *machine, uint32_t process, unsigned card, unsigned part, uint64_t bytes);
void memory_return(struct machine *machine, uint32_t process, unsigned card, unsigned part, uint64_t bytes);
void memory_recount(struct machine *machine);
uint64_t memory_of(const struct machine *machine, uint32_t process, unsigned card, unsigned part);
uint32_t shared_create(struct machine *machine, uint32_t process, unsigned card, unsigned part, uint64_t bytes); /* of charged memory */
bool shared_hold(struct machine *machine, uint32_t index, uint32_t process);
void shared_release(struct machine *machine, uint32_t index, uint32_t process);

/* objects.c, all with the lock: indices into the tables, NOBODY if one is full */
uint32_t context_create(struct machine *machine, uint32_t process, unsigned card, unsigned part);
void context_destroy(struct machine *machine, uint32_t index);
uint32_t stream_create(struct machine *machine, uint32_t context, int priority, bool blocking);
void stream_destroy(struct machine *machine, uint32_t index);
uint32_t event_create(struct machine *machine, uint32_t process);
void event_destroy(struct machine *machine, uint32_t index);

/* execution.c: one context, in its own running time */
enum head_stage stream_stage(const struct stream *stream);
bool context_runnable(struct machine *machine, struct context *context);
bool context_settle(struct machine *machine, struct context *context);
uint64_t context_next(struct machine *machine, struct context *context); /* running time of the next completion, FOREVER if none */
bool context_busy(struct machine *machine, struct context *context);     /* a kernel is on the card */

/* slicing.c: cards, in simulated time */
void machine_advance(struct machine *machine, uint64_t to_ns);
uint64_t machine_next(struct machine *machine); /* simulated time of the next change, FOREVER if none */

/* queue.c */
bool queue_push(struct machine *machine, uint32_t stream, const struct command *command); /* with the lock; false if it is full */
uint64_t queue_least(struct machine *machine, uint32_t stream, uint64_t number); /* with the lock */
struct waiting {
    bool (*done)(struct machine *machine, void *what);      /* with the lock, time being up to date */
    uint64_t (*least_ns)(struct machine *machine, void *what); /* how long it takes at least; 0 if that is not known */
    void *what;
};
void queue_wait(struct machine *machine, const struct waiting *waiting); /* without the lock */

/* utilisation.c */
void utilisation_add(struct machine *machine, uint32_t process, unsigned card, uint64_t from_ns, uint64_t to_ns);
unsigned utilisation_percent(struct machine *machine, uint32_t process, unsigned card, uint64_t sample);
uint64_t utilisation_sample(struct machine *machine, unsigned card); /* number of the newest readable sample, 0 if none */
uint64_t utilisation_sample_ns(struct machine *machine, unsigned card, uint64_t sample);

#endif
