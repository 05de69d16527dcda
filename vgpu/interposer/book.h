/* What this process has allocated, and what each allocation was charged. */
#ifndef TESSERA_BOOK_H
#define TESSERA_BOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kind { LINEAR, MANAGED, ARRAY, PHYSICAL, MAPPING, POOLED };

struct piece;
struct pool;

struct allocation {
    enum kind kind;
    uint64_t key; /* address or handle */
    int card;
    uint64_t bytes, charged;
    void *context;                /* whose end is the end of this, NULL for none */
    struct piece *piece;          /* LINEAR, small: where it lies, instead of a charge of its own */
    struct pool *pool;            /* POOLED */
    struct allocation *physical;  /* MAPPING: of what, */
    uint64_t owner;               /* and its key */
    unsigned handles, maps;       /* PHYSICAL: gone when both are 0 */
    struct allocation *next;
};

/* book.c: all with a lock of their own. What is taken is the caller's, who puts it back or frees it. */
void book_put(struct allocation *allocation);
struct allocation *book_new(enum kind kind, uint64_t key, int card, uint64_t bytes, uint64_t charged);
struct allocation *book_take(enum kind kind, uint64_t key);
struct allocation *book_take_of(void *context); /* all of that context's, a list */
bool book_hold(uint64_t handle, int handles, int maps, struct allocation **physical); /* adds to a PHYSICAL's counts; false if it is not there */
struct allocation *book_let_go(struct allocation *physical, int handles, int maps);   /* and takes it out when nothing is left */
void book_after_fork(void);

/* charge.c */
bool charge(unsigned card, uint64_t bytes); /* waits, at most a fifth of a second, for calls of others that may fail */
void uncharge(unsigned card, uint64_t bytes);
void settle(uint64_t bytes); /* the call that was charged for has returned */

/* pieces.c: memory that small allocations share. All but pieces_forget need pieces_lock. */
void pieces_lock(void);
void pieces_unlock(void);
bool pieces_have_room(int card, void *context, uint64_t bytes);
struct piece *piece_at(uint64_t address);
struct piece *piece_add(uint64_t address, int card, void *context);
void piece_take(struct piece *piece, uint64_t address, uint64_t bytes);
void piece_leave(struct piece *piece, uint64_t address, uint64_t bytes); /* before the driver frees it */
void piece_left(struct piece *piece, uint64_t address, uint64_t bytes);  /* and after that */
void piece_stay(struct piece *piece, uint64_t address, uint64_t bytes);  /* the driver refused to free it */
void pieces_forget(void *context);
void pieces_after_fork(void);

/* pools.c */
void pools_settle(void); /* asks the driver how much pools hold, after it may have become less */
void pool_allocation_freed(struct allocation *allocation);
void pools_after_fork(void);

void contexts_after_fork(void); /* contexts.c */

#endif
