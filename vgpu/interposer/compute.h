/* Device time: what launches cost, who may launch now, and what has run. Start reading at launches.c, then lanes.c and turns.c.

   A lane is this process on one card. Times are in ns of clock_ns(). */
#ifndef TESSERA_COMPUTE_H
#define TESSERA_COMPUTE_H

#include "driver.h"
#include "slice.h"
#include <stdbool.h>
#include <stdint.h>

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)

/* clock.c */
uint64_t clock_ns(void);
void clock_sleep(uint64_t ns);

/* roster.c: the containers that have a part of a card, this one among them; where nobody says so it is taken to be alone. */
struct peer {
    char name[TESSERA_NAME_BYTES];
    bool own; /* it is this container itself */
    uint32_t place, request, limit, weight, priority;
    bool active;                  /* in the last look */
    uint64_t virtual_ns;          /* what it said then */
    uint64_t kept_ns, allowed_ns; /* how long it has kept us waiting, and might have */
    bool distrusted;              /* until that is made up */
};
struct roster {
    unsigned count;
    uint64_t read_ns, inode, changed;
    struct peer peers[TESSERA_MOST_NEIGHBOURS];
};
struct tessera_turns_page *turns_page(void); /* this container's; of this process alone if the container has none */
void roster_refresh(struct roster *roster, unsigned card, uint64_t now);
bool peer_copy(const struct peer *peer, struct tessera_turns_card *copy); /* what it says of the card; false if that is no page */
void roster_after_fork(void);

/* turns.c: whose turn it is on a card. */
struct turn {
    unsigned card, seat;
    struct roster roster;
    bool busy;           /* it has had work since it was idle */
    bool paused;         /* it had none when it gave up its last turn */
    bool holds;          /* this process has its turn */
    uint64_t device_ns, last_device_ns; /* that it has used in this turn, and in the one before */
    uint64_t outranked_ns; /* when somebody of a higher class was last active */
    uint64_t behind_ns;  /* when somebody who goes first for another reason was */
    uint64_t free_ns;    /* since when nobody has a turn, as far as this process sees */
    uint64_t looked_ns;

    /* What the last look saw. */
    bool shared;         /* other containers have a part of the card */
    bool contended;      /* somebody else wants the card or has it, and is not of a lower class */
    bool lower_waits;    /* somebody of a lower class wants the card */
    bool blocked;        /* somebody else has a turn that we wait for */
    uint64_t blocked_ns; /* since when, the longest */
    bool overtaken;      /* somebody of a higher class wants the card or has it, or who goes first wants it */
    bool goes_first;     /* others let us go before them, however short their turn was */
    uint64_t lead_ns;    /* so far ahead of us, in virtual time, they do */
    uint64_t share_ppm;  /* of the card, that is due to this container */
    uint64_t floor_ns;   /* least virtual time of the other active containers of our class; UINT64_MAX: there is none */
    bool waiting;        /* somebody of our class waits */
    uint64_t waiting_virtual_ns, waiting_since_ns; /* who of them is next */
    struct peer *waiting_peer; /* NULL: it is of this container */
    unsigned beside;     /* how many others have work on the card */
    uint64_t others_until_ns; /* when the work of who has the turn will be done */
    uint64_t others_last_ns;  /* and of anybody */
};
void turn_begin(struct turn *turn, unsigned card);
void turn_look(struct turn *turn, uint64_t now);              /* reads what the others say */
bool turn_take(struct turn *turn, uint64_t now);              /* after a look: takes it if it is ours to take, else says that we wait */
bool turn_is_over(const struct turn *turn, uint64_t now);     /* after a look: somebody else is due */
uint64_t turn_since(const struct turn *turn);                 /* 0: it has none */
void turn_renew(struct turn *turn, uint64_t now);             /* after a look: it goes on, and its work does */
void turn_end(struct turn *turn);                             /* also stops waiting */
void turn_pause(struct turn *turn);                           /* this process has nothing to do with it, for now */
void turn_used(struct turn *turn, int64_t device_ns);         /* device time, or a correction */
void turn_beat(struct turn *turn, uint64_t now, uint64_t until);
void turn_leave(struct turn *turn);                           /* this process has no work */
bool turn_outranked(const struct turn *turn, uint64_t now);   /* somebody of a higher class was active of late */
bool turn_lets_pass(const struct turn *turn, uint64_t now);   /* somebody who goes first since it pauses was */
uint64_t turn_wait(const struct turn *turn, uint64_t now);    /* how long to sleep before the next look */

/* tokens.c: the limit of this container on a card. */
uint64_t tokens_wait(unsigned card, uint64_t now); /* 0: it may launch */
void tokens_spend(unsigned card, uint64_t now, int64_t device_ns);

/* costs.c: what a launch costs by function and size, learnt. */
uint64_t cost_key(const void *function, uint64_t blocks);
bool cost_of(uint64_t key, uint64_t *ns); /* false: unknown, or it is time to measure it again */
void cost_learn(uint64_t key, uint64_t ns, bool of_many);

/* lanes.c */
void lanes_begin(unsigned card);      /* a context is there */
void lanes_forget(CUcontext context); /* before it ends */
uint64_t lanes_tick(void);            /* the keeper's part; when to do it again, 0: there is no work */
void lanes_after_fork(void);

/* captures.c */
bool is_captured(CUstream stream, bool per_thread); /* what is submitted to it becomes part of a graph */
struct relaxed {
    bool changed;
    CUstreamCaptureMode mode;
};
struct relaxed captures_relax(void); /* from here on, calls of ours in this thread do no harm to what is being captured */
void captures_restore(struct relaxed *relaxed);
void captures_after_fork(void);

/* keeper.c: a thread that looks after the lanes while there is work. */
void keeper_wake(void);
void keeper_after_fork(void);

#endif
