/* Finds a function in a loaded object by reading its symbol table. It calls nothing: the first who asks may be a sanitizer or an allocator
   of the program that stands in front of the C library's functions and has not found them yet. */
#define _GNU_SOURCE
#include "linking.h"
#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <stdint.h>

struct tables {
    const ElfW(Sym) *symbols;
    const char *names;
    const uint32_t *hashes;
};

static uint32_t hash_of(const char *name)
{
    uint32_t hash = 5381;
    while (*name)
        hash = hash * 33 + (unsigned char)*name++;
    return hash;
}

/* The loader has relocated these addresses on most machines, not on all. */
static const void *absolute(ElfW(Addr) base, ElfW(Addr) address)
{
    return (const void *)(address < base ? base + address : address);
}

static struct tables read_tables(const struct link_map *object)
{
    struct tables tables = {0};
    for (const ElfW(Dyn) *entry = object->l_ld; entry && entry->d_tag != DT_NULL; entry++) {
        const void *place = absolute(object->l_addr, entry->d_un.d_ptr);
        if (entry->d_tag == DT_SYMTAB)
            tables.symbols = place;
        else if (entry->d_tag == DT_STRTAB)
            tables.names = place;
        else if (entry->d_tag == DT_GNU_HASH)
            tables.hashes = place;
    }
    return tables;
}

/* The table: counts of buckets, first hashed symbol, words of the filter, shift; the filter; buckets; a hash for each symbol, whose last
   bit ends a chain. */
static void *look_up(const struct link_map *object, const char *name)
{
    struct tables tables = read_tables(object);
    if (!tables.symbols || !tables.names || !tables.hashes || !tables.hashes[0])
        return NULL;
    uint32_t count = tables.hashes[0], first = tables.hashes[1], hash = hash_of(name);
    const uint32_t *buckets = (const uint32_t *)((const ElfW(Addr) *)(tables.hashes + 4) + tables.hashes[2]);
    uint32_t at = buckets[hash % count];
    if (at < first)
        return NULL;
    for (;; at++) {
        uint32_t found = buckets[count + at - first];
        const ElfW(Sym) *symbol = &tables.symbols[at];
        if ((found | 1) == (hash | 1) && symbol->st_shndx != SHN_UNDEF && same_text(tables.names + symbol->st_name, name))
            return (void *)(object->l_addr + symbol->st_value);
        if (found & 1)
            return NULL;
    }
}

static bool is_of_file(const struct link_map *object, const char *begins)
{
    const char *file = object->l_name ? object->l_name : "";
    for (const char *at = file; *at; at++)
        if (*at == '/')
            file = at + 1;
    while (*begins && *begins == *file)
        begins++, file++;
    return !*begins;
}

/* The loader's list of objects. It has those of the program's start before any that come and go. */
void *object_symbol(const char *file, const char *name)
{
    void *found = NULL;
    for (const struct link_map *object = _r_debug.r_map; object && !found; object = object->l_next)
        if (is_of_file(object, file))
            found = look_up(object, name);
    return found;
}
