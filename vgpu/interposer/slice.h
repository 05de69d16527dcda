/* What this container may use, and what its processes have reserved of it. */
#ifndef TESSERA_SLICE_H
#define TESSERA_SLICE_H

#include "pages.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define NO_CARD (-1)

/* files.c: system calls as they are, since newer C libraries have given their wrappers new names. */
bool file_status(int file, struct stat *status);
int open_page(const char *name, int flags, uint64_t size); /* of the container's folder of pages; -1 with errno, EINVAL for a wrong size */
int open_roster(unsigned card);          /* who has a part of the card, -1 if nobody says so */
int open_neighbour(const char *name);    /* a turns page of somebody, to be read */
long read_text(const char *path, char *text, unsigned room);
const char *mounts_path(void);
void say(const char *what); /* a line on the standard error */

/* identity.c: false if the mounts of this process are those of another pod or container. */
bool belongs_here(const char *pod_uid, const char *container);

/* limits.c. All but limits_open need limits_open to have succeeded; it says why it did not. */
bool limits_open(void);
unsigned limits_cards(void);
int limits_card_of(const unsigned char uuid[16]); /* place of the card, NO_CARD if it is not in the slice */
int limits_card_named(const char *uuid);
uint64_t limits_memory(unsigned card);
uint64_t limits_context(unsigned card);
unsigned limits_processes(void);
uint64_t limits_generation(void);
struct compute_limits {
    uint32_t request, limit, weight, priority; /* centi-cards; of the card */
};
struct compute_limits limits_compute(unsigned card);
const char *limits_uuid(unsigned card);
bool limits_one_device(void); /* false, too, without limits */
void limits_after_fork(void);

/* processes.c */
uint64_t start_of(uint32_t pid); /* field 22 of /proc/PID/stat, 0 if there is no such process or it is a zombie */
bool is_gone(uint32_t pid, uint64_t start_ticks, uint64_t page_inode); /* without doubt; a program that another has replaced is gone */

/* slots.c: the usage page, and this process's slot in it. */
struct own_slot {
    struct tessera_usage_page *page;
    int file, place; /* place -1: none */
    int32_t pid;
    int card; /* the one that it was placed on */
    uint64_t generation, inode;
};
extern struct own_slot own;
bool usage_open(void); /* maps the page; the process needs no slot to read it */
bool usage_join(void); /* takes a slot; false when there is none left, or the page is not one */
bool usage_joined(void);
bool usage_reap(void); /* takes the slots of ended processes back; true if there were any */
bool slot_is_gone(unsigned place);

/* placing.c: the mode of one device. */
unsigned placing_choose(void); /* by the writer */
int placed_card(void);         /* NO_CARD: all cards of the slice are this process's */

/* usage.c: the sums. One writer at a time, who may be killed at any moment: the next then counts anew. */
void writer_enter(void);
void writer_leave(void);
enum answer { GRANTED, REFUSED, TRY_AGAIN };
enum answer usage_reserve(unsigned card, uint64_t bytes); /* TRY_AGAIN: room is kept for calls that may yet fail */
void usage_settle(uint64_t bytes);                        /* a call that it was reserved for has returned */
void usage_return(unsigned card, uint64_t bytes);
uint64_t usage_reserved(unsigned card);
void usage_context(unsigned card, bool there);
void usage_after_fork(void);

#endif
