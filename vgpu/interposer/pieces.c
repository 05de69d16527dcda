/* The driver puts allocations of at most 1 MiB into pieces of 2 MiB that they share, so a piece is charged, with the first allocation that
   is seen in it, and returned with the last. Where the driver will put the next one is not known before; whether a piece has room for
   it in one run is, as far as our own allocations go. */
#include "book.h"
#include "allocating.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define GRAIN 512u
#define GRAINS (PIECE / GRAIN)
#define CHAINS 1024

struct piece {
    uint64_t base;
    int card;
    void *context;
    unsigned allocations, leaving;
    struct piece *next;
    unsigned char taken[GRAINS / 8], freeing[GRAINS / 8]; /* freeing: the driver has not said that it is done */
};

static struct piece *chains[CHAINS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void pieces_after_fork(void)
{
    pthread_mutex_init(&lock, NULL);
    memset(chains, 0, sizeof chains);
}

void pieces_lock(void)
{
    pthread_mutex_lock(&lock);
}

void pieces_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

static struct piece **chain_of(uint64_t address)
{
    return &chains[address / PIECE % CHAINS];
}

static bool has_run(const struct piece *piece, unsigned grains)
{
    unsigned run = 0;
    for (unsigned grain = 0; grain < GRAINS && run < grains; grain++)
        run = (piece->taken[grain / 8] | piece->freeing[grain / 8]) >> grain % 8 & 1 ? 0 : run + 1;
    return run >= grains;
}

bool pieces_have_room(int card, void *context, uint64_t bytes)
{
    unsigned grains = (unsigned)((bytes + GRAIN - 1) / GRAIN);
    for (unsigned chain = 0; chain < CHAINS; chain++)
        for (const struct piece *piece = chains[chain]; piece; piece = piece->next)
            if (piece->card == card && piece->context == context && has_run(piece, grains))
                return true;
    return false;
}

struct piece *piece_at(uint64_t address)
{
    struct piece *piece = *chain_of(address);
    while (piece && piece->base != address / PIECE * PIECE)
        piece = piece->next;
    return piece;
}

struct piece *piece_add(uint64_t address, int card, void *context)
{
    struct piece *piece = calloc(1, sizeof *piece);
    if (!piece)
        return NULL;
    piece->base = address / PIECE * PIECE;
    piece->card = card;
    piece->context = context;
    piece->next = *chain_of(address);
    *chain_of(address) = piece;
    return piece;
}

static void set(unsigned char *bits, unsigned grain, bool on)
{
    bits[grain / 8] = (unsigned char)((bits[grain / 8] & ~(1u << grain % 8)) | (unsigned)on << grain % 8);
}

static void mark(struct piece *piece, uint64_t address, uint64_t bytes, bool taken, bool freeing)
{
    unsigned first = (unsigned)((address - piece->base) / GRAIN), grains = (unsigned)((bytes + GRAIN - 1) / GRAIN);
    for (unsigned grain = first; grain < first + grains && grain < GRAINS; grain++) {
        set(piece->taken, grain, taken);
        set(piece->freeing, grain, freeing);
    }
}

/* A place that the driver gives anew has been freed, whether or not the thread that freed it has come back. */
void piece_take(struct piece *piece, uint64_t address, uint64_t bytes)
{
    mark(piece, address, bytes, true, false);
    piece->allocations++;
}

void piece_leave(struct piece *piece, uint64_t address, uint64_t bytes)
{
    mark(piece, address, bytes, false, true);
    piece->allocations--;
    piece->leaving++;
}

void piece_stay(struct piece *piece, uint64_t address, uint64_t bytes)
{
    piece_take(piece, address, bytes);
    piece->leaving--;
}

static void end(struct piece *piece)
{
    struct piece **link = chain_of(piece->base);
    while (*link && *link != piece)
        link = &(*link)->next;
    if (!*link)
        return;
    *link = piece->next;
    uncharge((unsigned)piece->card, PIECE);
    free(piece);
}

void piece_left(struct piece *piece, uint64_t address, uint64_t bytes)
{
    unsigned first = (unsigned)((address - piece->base) / GRAIN), grains = (unsigned)((bytes + GRAIN - 1) / GRAIN);
    for (unsigned grain = first; grain < first + grains && grain < GRAINS; grain++)
        set(piece->freeing, grain, false);
    piece->leaving--;
    if (!piece->allocations && !piece->leaving)
        end(piece);
}

void pieces_forget(void *context)
{
    pthread_mutex_lock(&lock);
    for (unsigned chain = 0; chain < CHAINS; chain++)
        for (struct piece *piece = chains[chain], *next; piece; piece = next) {
            next = piece->next;
            if (piece->context == context)
                end(piece);
        }
    pthread_mutex_unlock(&lock);
}
