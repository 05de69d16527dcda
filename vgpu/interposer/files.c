/* Files of the slice: where they are, and reading them without what the program may have changed about the C library. */
#define _GNU_SOURCE
#include "slice.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef TESSERA_TRIAL /* for tests and simulated cards: the environment says where; a library for tenants must never read it */
static const char *from_environment(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}
#else
#define from_environment(name, otherwise) (otherwise)
#endif

const char *mounts_path(void)
{
    return from_environment("TESSERA_TRIAL_MOUNTS", "/proc/self/mountinfo");
}

bool file_status(int file, struct stat *status)
{
    return syscall(SYS_fstat, file, status) == 0;
}

int open_page(const char *name, int flags, uint64_t size)
{
    char path[512];
    struct stat status;
    int length = snprintf(path, sizeof path, "%s/%s", from_environment("TESSERA_TRIAL_PAGES", "/run/tessera"), name);
    if (length < 0 || (size_t)length >= sizeof path)
        return -1;
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC | O_NONBLOCK, 0);
    if (file < 0)
        return -1;
    if (file_status(file, &status) && S_ISREG(status.st_mode) && (uint64_t)status.st_size == size)
        return file;
    syscall(SYS_close, file);
    errno = EINVAL;
    return -1;
}

static int open_of_node(const char *name)
{
    char path[512];
    const char *folder = from_environment("TESSERA_TRIAL_NODE", "/run/tessera/node");
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW, 0);
}

int open_roster(unsigned card)
{
    char name[TESSERA_UUID_BYTES + 16];
    snprintf(name, sizeof name, "roster-%s", limits_uuid(card));
    return open_of_node(name);
}

int open_neighbour(const char *name)
{
    return open_of_node(name);
}

long read_text(const char *path, char *text, unsigned room)
{
    long length = 0, got = 1;
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (file < 0)
        return -1;
    while (got > 0 && (unsigned long)length < room - 1) {
        got = syscall(SYS_read, file, text + length, room - 1 - (unsigned long)length);
        length += got > 0 ? got : 0;
    }
    syscall(SYS_close, file);
    text[length] = 0;
    return length;
}

void say(const char *what)
{
    char line[256];
    int length = snprintf(line, sizeof line, "tessera: %s\n", what);
    if (length > 0 && write(2, line, (size_t)length) < 0)
        return;
}
