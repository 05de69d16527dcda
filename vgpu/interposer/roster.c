/* The containers that have a part of a card, and what they say of their turns.

   Their pages belong to other tenants, who may write anything and may cut the file short: they are copied with pread, never mapped. */
#define _GNU_SOURCE
#include "compute.h"
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REFRESH (50 * MS)

static struct tessera_turns_page *page;
static uint64_t page_inode;
static bool of_the_container;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

void roster_after_fork(void)
{
    pthread_mutex_init(&opening, NULL);
    if (!of_the_container)
        page = NULL;
}

static struct tessera_turns_page *open_now(void)
{
    struct stat status;
    struct tessera_turns_page *made = MAP_FAILED;
    int file = open_page("turns", O_RDWR, sizeof *made);
    if (file >= 0 && file_status(file, &status)) {
        made = mmap(NULL, sizeof *made, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        page_inode = status.st_ino;
    }
    if (file >= 0)
        syscall(SYS_close, file);
    of_the_container = made != MAP_FAILED && made->magic == TESSERA_TURNS_MAGIC && made->version == TESSERA_PAGES_VERSION;
    if (of_the_container)
        return made;
    say("its turns are not there: limits of compute hold for each program by itself");
    return mmap(NULL, sizeof *made, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

struct tessera_turns_page *turns_page(void)
{
    struct tessera_turns_page *known = __atomic_load_n(&page, __ATOMIC_ACQUIRE);
    if (known)
        return known;
    pthread_mutex_lock(&opening);
    if (!page)
        __atomic_store_n(&page, open_now(), __ATOMIC_RELEASE);
    pthread_mutex_unlock(&opening);
    return page;
}

static bool is_sound(const struct tessera_neighbour *neighbour)
{
    return memchr(neighbour->page, 0, sizeof neighbour->page) && !strchr(neighbour->page, '/') && neighbour->page[0] != '.' &&
           neighbour->place < TESSERA_MOST_CARDS && neighbour->compute_request_centi >= 1 && neighbour->compute_request_centi <= 100 &&
           neighbour->weight >= 1;
}

/* How long somebody has kept us waiting is not forgotten because somebody else came or went. */
static void remember(struct peer *peer, const struct roster *before)
{
    for (unsigned i = 0; i < before->count; i++)
        if (strcmp(before->peers[i].name, peer->name) == 0 && before->peers[i].place == peer->place) {
            peer->kept_ns = before->peers[i].kept_ns;
            peer->allowed_ns = before->peers[i].allowed_ns;
            peer->distrusted = before->peers[i].distrusted;
        }
}

static void add(struct roster *roster, const struct roster *before, const struct tessera_neighbour *neighbour)
{
    struct stat status;
    struct peer *peer = &roster->peers[roster->count];
    int file = is_sound(neighbour) ? open_neighbour(neighbour->page) : -1;
    if (file < 0)
        return;
    bool mine = file_status(file, &status) && of_the_container && status.st_ino == page_inode;
    syscall(SYS_close, file);
    *peer = (struct peer){.own = mine, .place = neighbour->place, .request = neighbour->compute_request_centi, .limit = neighbour->compute_limit_centi,
                          .weight = neighbour->weight, .priority = neighbour->priority_class};
    memcpy(peer->name, neighbour->page, sizeof peer->name);
    remember(peer, before);
    roster->count++;
}

void roster_refresh(struct roster *roster, unsigned card, uint64_t now)
{
    static struct tessera_roster read; /* under the lane's lock of one card; others of this process wait for `opening` */
    struct stat status;
    if (roster->read_ns && now - roster->read_ns < REFRESH)
        return;
    roster->read_ns = now;
    int file = open_roster(card);
    if (file < 0 || !file_status(file, &status)) {
        if (file >= 0)
            syscall(SYS_close, file);
        roster->count = 0;
        roster->inode = 0;
        return;
    }
    uint64_t changed = (uint64_t)status.st_mtim.tv_sec * 1000000000u + (uint64_t)status.st_mtim.tv_nsec;
    if (roster->inode != status.st_ino || roster->changed != changed) {
        pthread_mutex_lock(&opening);
        bool whole = syscall(SYS_pread64, file, &read, sizeof read, 0) == (long)sizeof read && read.magic == TESSERA_ROSTER_MAGIC &&
                     read.version == TESSERA_PAGES_VERSION && read.count <= TESSERA_MOST_NEIGHBOURS;
        if (whole) {
            const struct roster before = *roster;
            roster->count = 0;
            for (unsigned i = 0; i < read.count; i++)
                add(roster, &before, &read.neighbours[i]);
            roster->inode = status.st_ino;
            roster->changed = changed;
        }
        pthread_mutex_unlock(&opening);
    }
    syscall(SYS_close, file);
}

/* No descriptor is kept: programs close those that are not theirs, and use the numbers for something else. */
bool peer_copy(const struct peer *peer, struct tessera_turns_card *copy)
{
    const size_t first = offsetof(struct tessera_turns_page, cards);
    int file = open_neighbour(peer->name);
    if (file < 0)
        return false;
    bool whole = syscall(SYS_pread64, file, copy, sizeof *copy, (long)(first + peer->place * sizeof *copy)) == (long)sizeof *copy;
    syscall(SYS_close, file);
    return whole;
}
