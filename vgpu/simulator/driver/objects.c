/* Memory of handles. It is never given back, so a stale handle can be looked at; ended objects are used again for their own kind. */
#include "driver.h"
#include <stdlib.h>
#include <string.h>

#define KINDS 32

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static struct object *ended[KINDS];

void *object_new(uint32_t kind, size_t bytes)
{
    struct object **list = &ended[(kind - CONTEXT_OBJECT) % KINDS];
    pthread_mutex_lock(&guard);
    struct object *object = *list;
    if (object)
        *list = object->next_free;
    pthread_mutex_unlock(&guard);
    if (object)
        memset(object, 0, bytes);
    else if (!(object = calloc(1, bytes)))
        abort(); /* a few hundred bytes: the program has no memory left */
    object->kind = kind;
    return object;
}

void object_end(void *pointer)
{
    struct object *object = pointer;
    struct object **list = &ended[(object->kind - CONTEXT_OBJECT) % KINDS];
    pthread_mutex_lock(&guard);
    object->kind = 0;
    object->next_free = *list;
    *list = object;
    pthread_mutex_unlock(&guard);
}

bool object_is(const void *pointer, uint32_t kind)
{
    const struct object *object = pointer;
    return object && ((uintptr_t)object & 7) == 0 && (uintptr_t)object > 4096 && object->kind == kind;
}
