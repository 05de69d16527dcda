/* A hash table of allocations, by kind and key. */
#include "book.h"
#include <pthread.h>
#include <stdlib.h>

#define FIRST_ROOM 1024u

static struct allocation **table;
static size_t room, count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The parent's allocations are nothing to a child: its driver refuses every call. */
void book_after_fork(void)
{
    pthread_mutex_init(&lock, NULL);
    table = NULL;
    room = count = 0;
    pieces_after_fork();
    pools_after_fork();
    contexts_after_fork();
}

static size_t place_of(enum kind kind, uint64_t key)
{
    uint64_t mixed = (key ^ (uint64_t)kind << 60) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(mixed >> 20) & (room - 1);
}

static void insert(struct allocation *allocation)
{
    size_t place = place_of(allocation->kind, allocation->key);
    allocation->next = table[place];
    table[place] = allocation;
}

/* Without memory it stays as it is, and chains grow. */
static void grow(void)
{
    struct allocation **before = table;
    size_t old_room = room, wanted = room ? room * 2 : FIRST_ROOM;
    struct allocation **larger = calloc(wanted, sizeof *larger);
    if (!larger)
        return;
    table = larger;
    room = wanted;
    for (size_t place = 0; place < old_room; place++)
        for (struct allocation *entry = before[place], *next; entry; entry = next) {
            next = entry->next;
            insert(entry);
        }
    free(before);
}

/* Storage that is needed after the driver has answered is asked for before, so that nothing that was allocated goes uncounted. */
struct allocation *book_new(enum kind kind, uint64_t key, int card, uint64_t bytes, uint64_t charged)
{
    struct allocation *allocation = calloc(1, sizeof *allocation);
    pthread_mutex_lock(&lock);
    if (count >= room)
        grow();
    bool there = room > 0;
    pthread_mutex_unlock(&lock);
    if (!allocation || !there) {
        free(allocation);
        return NULL;
    }
    allocation->kind = kind;
    allocation->key = key;
    allocation->card = card;
    allocation->bytes = bytes;
    allocation->charged = charged;
    return allocation;
}

void book_put(struct allocation *allocation)
{
    pthread_mutex_lock(&lock);
    insert(allocation);
    count++;
    pthread_mutex_unlock(&lock);
}

static struct allocation **find(enum kind kind, uint64_t key)
{
    struct allocation **link = room ? &table[place_of(kind, key)] : NULL;
    while (link && *link && ((*link)->kind != kind || (*link)->key != key))
        link = &(*link)->next;
    return link && *link ? link : NULL;
}

static struct allocation *take_out(struct allocation **link)
{
    struct allocation *found = *link;
    *link = found->next;
    count--;
    return found;
}

struct allocation *book_take(enum kind kind, uint64_t key)
{
    pthread_mutex_lock(&lock);
    struct allocation **link = find(kind, key);
    struct allocation *found = link ? take_out(link) : NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

struct allocation *book_take_of(void *context)
{
    struct allocation *list = NULL;
    pthread_mutex_lock(&lock);
    for (size_t place = 0; place < room; place++)
        for (struct allocation **link = &table[place]; *link;) {
            if ((*link)->context != context) {
                link = &(*link)->next;
                continue;
            }
            struct allocation *found = take_out(link);
            found->next = list;
            list = found;
        }
    pthread_mutex_unlock(&lock);
    return list;
}

bool book_hold(uint64_t handle, int handles, int maps, struct allocation **physical)
{
    pthread_mutex_lock(&lock);
    struct allocation **link = find(PHYSICAL, handle);
    *physical = link ? *link : NULL;
    if (link) {
        (*link)->handles += (unsigned)handles;
        (*link)->maps += (unsigned)maps;
    }
    pthread_mutex_unlock(&lock);
    return link != NULL;
}

struct allocation *book_let_go(struct allocation *physical, int handles, int maps)
{
    pthread_mutex_lock(&lock);
    physical->handles -= (unsigned)handles;
    physical->maps -= (unsigned)maps;
    struct allocation **link = physical->handles || physical->maps ? NULL : find(PHYSICAL, physical->key);
    struct allocation *ended = link && *link == physical ? take_out(link) : NULL;
    pthread_mutex_unlock(&lock);
    return ended;
}
