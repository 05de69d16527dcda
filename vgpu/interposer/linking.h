/* How the library finds what it stands in front of. */
#ifndef TESSERA_LINKING_H
#define TESSERA_LINKING_H

#include <stdbool.h>

/* objects.c: a defined function of the first loaded object whose file name begins with `file`; NULL if there is none. It reads the
   symbol tables itself, so it works before anything is initialised and however dlsym is hooked. */
void *object_symbol(const char *file, const char *name);

/* As strcmp() == 0, which a program may have replaced by one that does not work yet. */
static inline bool same_text(const char *one, const char *other)
{
    while (*one && *one == *other)
        one++, other++;
    return *one == *other;
}

/* lookup.c */
void *real_dlsym(void *handle, const char *name);
void *real_dlopen(const char *file, int flags);

#endif
