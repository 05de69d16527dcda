/* Whether a process lives, from /proc. In doubt it does: a ledger that is kept too long costs its container room, one that is taken too
   early would let it have more than its slice. */
#define _GNU_SOURCE
#include "slice.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t decimal(const char *text)
{
    uint64_t number = 0;
    while (*text == ' ')
        text++;
    while (*text >= '0' && *text <= '9')
        number = number * 10 + (uint64_t)(*text++ - '0');
    return number;
}

/* Fields of /proc/PID/stat after the name, which may hold anything but ends at the last parenthesis: the third is the first here. */
static const char *field(const char *after_name, int wanted)
{
    for (int at = 3; after_name && at < wanted; at++) {
        after_name = strchr(after_name, ' ');
        after_name = after_name ? after_name + 1 : NULL;
    }
    return after_name;
}

static bool read_fields(uint32_t pid, char *text, unsigned room, const char **fields)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    if (read_text(path, text, room) <= 0)
        return false;
    const char *name_end = strrchr(text, ')');
    *fields = name_end && name_end[1] == ' ' ? name_end + 2 : NULL;
    return *fields != NULL;
}

/* The main thread alone may have ended: then the state is Z, too, but there are other threads. */
static bool is_zombie(const char *fields)
{
    const char *threads = field(fields, 20);
    return fields[0] == 'X' || (fields[0] == 'Z' && threads && decimal(threads) <= 1);
}

uint64_t start_of(uint32_t pid)
{
    char text[2048];
    const char *fields;
    if (!read_fields(pid, text, sizeof text, &fields) || is_zombie(fields))
        return 0;
    const char *start = field(fields, 22);
    return start ? decimal(start) : 0;
}

/* A process that has started another program keeps its number and its start, but has the page no longer. */
static bool has_page(uint32_t pid, uint64_t inode)
{
    char path[64], word[32], line[600];
    snprintf(path, sizeof path, "/proc/%u/maps", pid);
    snprintf(word, sizeof word, " %llu ", (unsigned long long)inode);
    FILE *file = fopen(path, "re");
    bool found = !file, any = false;
    while (!found && fgets(line, sizeof line, file)) {
        any = true;
        found = strstr(line, word) != NULL;
    }
    if (file)
        fclose(file);
    return found || !any; /* what cannot be read counts as there */
}

bool is_gone(uint32_t pid, uint64_t start_ticks, uint64_t page_inode)
{
    char text[2048];
    const char *fields;
    if (pid == 0 || pid > (1u << 22) || (kill((pid_t)pid, 0) != 0 && errno == ESRCH))
        return true;
    if (!read_fields(pid, text, sizeof text, &fields))
        return false;
    const char *start = field(fields, 22);
    return is_zombie(fields) || (start && decimal(start) != start_ticks) || !has_page(pid, page_inode);
}
