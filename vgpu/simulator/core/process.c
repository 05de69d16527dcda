/* Who uses the machine. Each process has a slot and a thread that holds the slot's mutex as long as the process lives. */
#define _GNU_SOURCE
#include "machine.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct keeping {
    pthread_mutex_t *alive;
    sem_t held;
    bool success;
};

static void *keep(void *argument)
{
    struct keeping *keeping = argument;
    int outcome = pthread_mutex_lock(keeping->alive);
    if (outcome == EOWNERDEAD)
        outcome = pthread_mutex_consistent(keeping->alive);
    keeping->success = outcome == 0;
    prctl(PR_SET_NAME, "gpu-keeper");
    sem_post(&keeping->held);
    for (;;)
        pause();
    return NULL;
}

/* The thread takes no signal of the program. */
bool process_hold(struct machine *machine, uint32_t slot)
{
    struct keeping keeping = {.alive = &machine->processes[slot].alive};
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    sem_init(&keeping.held, 0, 0);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 65536);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&thread, &attributes, keep, &keeping) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    while (started && sem_wait(&keeping.held) != 0)
        ;
    sem_destroy(&keeping.held);
    return started && keeping.success;
}

static uint64_t namespace_of(const char *process)
{
    char path[288];
    struct stat status;
    snprintf(path, sizeof path, "/proc/%s/ns/pid", process);
    return stat(path, &status) == 0 ? (uint64_t)status.st_ino : 0;
}

uint32_t process_register(struct machine *machine)
{
    process_reap(machine);
    for (uint32_t slot = 0; slot < MAX_PROCESSES; slot++) {
        struct process *process = &machine->processes[slot];
        if (process->state)
            continue;
        process->generation++;
        process->pid = getpid();
        process->outside_pid = 0;
        process->pid_namespace = namespace_of("self");
        process->contexts = 0;
        memset(process->own_bytes, 0, sizeof process->own_bytes);
        memset(process->shared_bytes, 0, sizeof process->shared_bytes);
        memset(process->busy_ns, 0, sizeof process->busy_ns);
        memset(process->buckets, 0, sizeof process->buckets);
        if (!process_hold(machine, slot))
            return NOBODY;
        process->state = 1;
        if (slot >= machine->process_end)
            machine->process_end = slot + 1;
        return slot;
    }
    return NOBODY;
}

/* May be broken off and begun anew at any point. Streams are also looked for one by one: some may not have come into their list. */
static void forget(struct machine *machine, uint32_t slot)
{
    struct process *process = &machine->processes[slot];
    for (uint32_t index = 0; index < machine->stream_end; index++)
        if (machine->streams[index].used && machine->contexts[machine->streams[index].context].process == slot)
            stream_destroy(machine, index);
    for (uint32_t index = 0; index < machine->context_end; index++)
        if (machine->contexts[index].used && machine->contexts[index].process == slot)
            context_destroy(machine, index);
    for (uint32_t index = 0; index < machine->event_end; index++)
        if (machine->events[index].used && machine->events[index].owner == slot)
            event_destroy(machine, index);
    process->state = 0;
    process->generation++;
    memory_recount(machine);
}

void process_reap(struct machine *machine)
{
    for (uint32_t slot = 0; slot < machine->process_end; slot++) {
        struct process *process = &machine->processes[slot];
        if (!process->state)
            continue;
        int outcome = pthread_mutex_trylock(&process->alive);
        if (outcome == EBUSY)
            continue;
        if (outcome == EOWNERDEAD)
            pthread_mutex_consistent(&process->alive);
        if (outcome == 0 || outcome == EOWNERDEAD) {
            forget(machine, slot);
            pthread_mutex_unlock(&process->alive);
        }
    }
}

/* The last number of the line "NSpid:" is the process as its own namespace sees it; 0 if it cannot be read. */
static int innermost_pid(const char *process)
{
    char path[288], line[256];
    int pid = 0;
    snprintf(path, sizeof path, "/proc/%s/status", process);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "NSpid:", 6) != 0)
            continue;
        for (char *word = strtok(line + 6, " \t\n"); word; word = strtok(NULL, " \t\n"))
            pid = atoi(word);
        break;
    }
    if (file)
        fclose(file);
    return pid;
}

static int search_outside(uint64_t wanted_namespace, int wanted_pid)
{
    DIR *folder = opendir("/proc");
    int found = 0;
    for (struct dirent *entry; folder && !found && (entry = readdir(folder));)
        if (isdigit((unsigned char)entry->d_name[0]) && namespace_of(entry->d_name) == wanted_namespace &&
            innermost_pid(entry->d_name) == wanted_pid)
            found = atoi(entry->d_name);
    if (folder)
        closedir(folder);
    return found;
}

/* As NVML does it: the number outside of all containers. A reader inside of one that no one outside has told cannot know it. */
int process_visible_pid(struct machine *machine, uint32_t slot)
{
    struct process *process = &machine->processes[slot];
    if (process->pid_namespace == namespace_of("self"))
        return process->outside_pid ? process->outside_pid : process->pid;
    if (!process->outside_pid)
        process->outside_pid = search_outside(process->pid_namespace, process->pid);
    return process->outside_pid ? process->outside_pid : process->pid;
}
