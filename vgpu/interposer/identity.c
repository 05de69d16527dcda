/* Whose container this is. The kubelet mounts files of the pod into each container, and the names of their sources hold the pod's UID and
   the container's name: ".../pods/UID/etc-hosts", ".../pods/UID/containers/NAME/ID". A process cannot change them without rights that
   a tenant does not have. Outside of Kubernetes there are no such mounts, and nothing to compare. */
#include "slice.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool begins(const char *text, const char *word)
{
    size_t length = strlen(word);
    return strncmp(text, word, length) == 0 && text[length] == '/';
}

/* The fourth field of the line is the source within its file system. */
static const char *source_of(const char *line)
{
    for (int field = 0; line && field < 3; field++) {
        line = strchr(line, ' ');
        line = line ? line + 1 : NULL;
    }
    return line;
}

static bool agrees(char *line, const char *pod_uid, const char *container)
{
    static const char pods[] = "/pods/", containers[] = "/containers/";
    const char *source = source_of(line);
    char *end = source ? strchr(source, ' ') : NULL;
    if (!end)
        return true;
    *end = 0;
    const char *pod = strstr(source, pods);
    if (!pod || (!strstr(pod, "/etc-hosts") && !strstr(pod, containers)))
        return true;
    pod += sizeof pods - 1;
    if (!begins(pod, pod_uid))
        return false;
    const char *name = pod + strlen(pod_uid);
    return strncmp(name, containers, sizeof containers - 1) != 0 || begins(name + sizeof containers - 1, container);
}

bool belongs_here(const char *pod_uid, const char *container)
{
    bool right = true;
    unsigned room = 1 << 20;
    char *text = malloc(room);
    if (!text)
        return false;
    long length = read_text(mounts_path(), text, room);
    for (char *line = text, *next; right && length > 0 && line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        right = agrees(line, pod_uid, container);
    }
    free(text);
    return right && length >= 0;
}
