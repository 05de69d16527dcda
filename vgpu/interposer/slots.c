/* This process's slot in the usage page, and the slots of processes that are no more.

   A process holds a record lock on the byte that stands for its slot. It drops when the process ends, however it ends, but also when a
   program closes all its descriptors, so a lock that is free is only a reason to look whether the process is there. */
#define _GNU_SOURCE
#include "book.h"
#include "compute.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FIRST_LOCK (1 << 24) /* beyond the end of the file, where nothing else is locked */

struct own_slot own = {.file = -1, .place = -1};
static pthread_mutex_t joining = PTHREAD_MUTEX_INITIALIZER;

/* In a child everything begins anew: slot, lock and contexts are the parent's. */
static void after_fork(void)
{
    own.place = -1;
    own.file = -1;
    pthread_mutex_init(&joining, NULL);
    limits_after_fork();
    usage_after_fork();
    book_after_fork();
    roster_after_fork();
    lanes_after_fork();
    captures_after_fork();
    keeper_after_fork();
}

static bool is_page(const struct tessera_usage_page *page)
{
    return page->magic == TESSERA_USAGE_MAGIC && page->version == TESSERA_PAGES_VERSION && page->size == sizeof *page;
}

static bool open_now(void)
{
    struct stat status;
    static bool prepared;
    int file = open_page("usage", O_RDWR, sizeof *own.page);
    if (file < 0 || !file_status(file, &status))
        return false;
    if (!own.page) {
        void *mapped = mmap(NULL, sizeof *own.page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped == MAP_FAILED || !is_page(mapped)) {
            syscall(SYS_close, file);
            return false;
        }
        own.inode = status.st_ino;
        __atomic_store_n(&own.page, mapped, __ATOMIC_RELEASE);
    }
    if (!prepared)
        pthread_atfork(NULL, NULL, after_fork);
    prepared = true;
    own.file = file;
    return true;
}

bool usage_open(void)
{
    if (__atomic_load_n(&own.page, __ATOMIC_ACQUIRE))
        return true;
    pthread_mutex_lock(&joining);
    bool opened = own.page || open_now();
    pthread_mutex_unlock(&joining);
    return opened;
}

/* The descriptor may have been closed by the program, and its number may stand for something else by now. The lock went with it. */
static bool have_file(void)
{
    struct stat status;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = FIRST_LOCK + (long)own.place, .l_len = 1};
    if (own.file >= 0 && file_status(own.file, &status) && status.st_ino == own.inode)
        return true;
    own.file = -1;
    if (!open_now() || !file_status(own.file, &status) || status.st_ino != own.inode)
        return false;
    if (own.place >= 0)
        syscall(SYS_fcntl, own.file, F_SETLK, &lock);
    return true;
}

static bool record_lock(int command, unsigned place, short *kind)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = FIRST_LOCK + (long)place, .l_len = 1};
    if (!have_file() || syscall(SYS_fcntl, own.file, command, &lock) != 0)
        return false;
    *kind = lock.l_type;
    return true;
}

bool slot_is_gone(unsigned place)
{
    const struct tessera_process_slot *slot = &own.page->slots[place];
    short kind;
    if ((int)place == own.place)
        return false;
    if (!record_lock(F_GETLK, place, &kind) || kind != F_UNLCK)
        return false;
    if (slot->pid == (uint32_t)getpid())
        return true; /* of the program that was here before this one */
    return is_gone(slot->pid, slot->pid_start_ticks, own.inode);
}

/* By the writer. The sums first: a reaper that is killed here leaves a slot in use, and the next counts anew. */
static void free_slot(struct tessera_process_slot *slot)
{
    for (unsigned card = 0; card < TESSERA_MOST_CARDS; card++) {
        struct tessera_card_usage *sum = &own.page->cards[card];
        struct tessera_ledger *ledger = &slot->ledger[card];
        sum->reserved_bytes -= ledger->bytes < sum->reserved_bytes ? ledger->bytes : sum->reserved_bytes;
        sum->retired_device_time_ns += ledger->device_time_ns;
        sum->retired_waiting_ns += ledger->waiting_ns;
        sum->retired_throttled_ns += ledger->throttled_ns;
        memset(ledger, 0, sizeof *ledger);
    }
    slot->pending_bytes = 0;
    __atomic_add_fetch(&slot->generation, 1, __ATOMIC_RELEASE);
}

static unsigned reap_now(unsigned *used)
{
    unsigned freed = 0;
    *used = 0;
    for (unsigned place = 0; place < TESSERA_MOST_PROCESSES; place++) {
        struct tessera_process_slot *slot = &own.page->slots[place];
        if (slot->generation % 2 == 0)
            continue;
        if (slot_is_gone(place)) {
            free_slot(slot);
            freed++;
        } else {
            ++*used;
        }
    }
    return freed;
}

bool usage_reap(void)
{
    unsigned used;
    writer_enter();
    unsigned freed = reap_now(&used);
    writer_leave();
    return freed > 0;
}

/* A slot that nobody has marked and nobody locks. Its lock comes before its mark, so that it is never seen marked and free. */
static bool take_slot(void)
{
    short kind;
    for (unsigned place = 0; place < TESSERA_MOST_PROCESSES; place++) {
        struct tessera_process_slot *slot = &own.page->slots[place];
        if (slot->generation % 2 || !record_lock(F_SETLK, place, &kind))
            continue;
        uint64_t generation = slot->generation + 1;
        own.card = limits_one_device() ? (int)placing_choose() : NO_CARD;
        memset((char *)slot + sizeof slot->generation, 0, sizeof *slot - sizeof slot->generation);
        slot->pid = (uint32_t)getpid();
        slot->pid_start_ticks = start_of(slot->pid);
        slot->placed = (uint32_t)(own.card + 1);
        __atomic_store_n(&slot->generation, generation, __ATOMIC_RELEASE);
        own.generation = generation;
        own.pid = (int32_t)slot->pid;
        __atomic_store_n(&own.place, (int)place, __ATOMIC_RELEASE);
        return true;
    }
    return false;
}

bool usage_join(void)
{
    unsigned used;
    if (!usage_open()) {
        say("no card for this program: its page of usage is missing or damaged");
        return false;
    }
    pthread_mutex_lock(&joining);
    bool joined = own.place >= 0;
    if (!joined) {
        writer_enter();
        reap_now(&used);
        joined = used < limits_processes() && take_slot();
        if (joined)
            own.page->limits_generation = limits_generation();
        writer_leave();
        if (!joined)
            say("no card for this program: too many programs of this container use it");
    }
    pthread_mutex_unlock(&joining);
    return joined;
}

/* The process's number tells children that began without fork(), too. */
bool usage_joined(void)
{
    return __atomic_load_n(&own.place, __ATOMIC_ACQUIRE) >= 0 && own.pid == (int32_t)getpid();
}
