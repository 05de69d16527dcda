/* Opens the shared file. The first process that does, makes the mutexes, under a lock of the file that the kernel drops if it dies. */
#define _GNU_SOURCE
#include "machine.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

const char *machine_path(void)
{
    static char standard[64];
    const char *chosen = getenv(STATE_VARIABLE);
    if (chosen && *chosen)
        return chosen;
    snprintf(standard, sizeof standard, "/dev/shm/gpu-simulator-%u", (unsigned)getuid());
    return standard;
}

static void make_mutex(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

static void prepare(struct machine *machine)
{
    make_mutex(&machine->lock);
    for (unsigned slot = 0; slot < MAX_PROCESSES; slot++)
        make_mutex(&machine->processes[slot].alive);
    for (unsigned card = 0; card < machine->description.card_count; card++) {
        const struct card_description *about = &machine->description.cards[card];
        for (unsigned part = 0; part < PARTS; part++)
            machine->parts[card][part] = (struct part){.first_context = NOBODY, .current = NOBODY, .loaded = NOBODY};
        struct part *whole = &machine->parts[card][0];
        whole->open = 1;
        whole->multiprocessors = about->multiprocessors;
        whole->capacity_bytes = (about->memory_mib - about->reserved_mib) * MIB;
    }
    machine->next_shared_id = 1;
    machine->version = STATE_VERSION;
    machine->bytes = sizeof *machine;
    __atomic_store_n(&machine->initialised, 1, __ATOMIC_RELEASE);
}

static bool is_ours(const struct machine_description *about)
{
    return about->magic == DESCRIPTION_MAGIC && about->version == DESCRIPTION_VERSION && about->bytes == sizeof *about &&
           about->card_bytes == sizeof about->cards[0] && about->card_count <= MAX_CARDS;
}

struct machine *machine_open(void)
{
    struct machine *machine = NULL;
    struct machine_description about;
    int file = open(machine_path(), O_RDWR | O_CLOEXEC);
    if (file < 0)
        return NULL;
    if (flock(file, LOCK_EX) != 0)
        goto done;
    struct stat status;
    if (fstat(file, &status) != 0 || pread(file, &about, sizeof about, 0) != (ssize_t)sizeof about || !is_ours(&about))
        goto done;
    if ((size_t)status.st_size < sizeof *machine && ftruncate(file, sizeof *machine) != 0)
        goto done;
    machine = mmap(NULL, sizeof *machine, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (machine == MAP_FAILED) {
        machine = NULL;
        goto done;
    }
    if (!machine->initialised)
        prepare(machine);
    if (machine->version != STATE_VERSION || machine->bytes != sizeof *machine) {
        munmap(machine, sizeof *machine);
        machine = NULL;
    }
done:
    flock(file, LOCK_UN); /* closing is not enough: the mapping holds the file */
    close(file);
    return machine;
}

void machine_lock(struct machine *machine)
{
    if (pthread_mutex_lock(&machine->lock) == EOWNERDEAD) {
        memory_recount(machine);
        pthread_mutex_consistent(&machine->lock);
    }
}

void machine_unlock(struct machine *machine)
{
    pthread_mutex_unlock(&machine->lock);
}
