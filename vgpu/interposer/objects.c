/* Finds a function in a loaded object by reading its symbol table. */
#define _GNU_SOURCE
#include "linking.h"
#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <string.h>

struct search {
    const char *file, *name;
    void *found;
};

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

static struct tables read_tables(const struct dl_phdr_info *object)
{
    struct tables tables = {0};
    const ElfW(Dyn) *entry = NULL;
    for (unsigned i = 0; i < object->dlpi_phnum; i++)
        if (object->dlpi_phdr[i].p_type == PT_DYNAMIC)
            entry = (const ElfW(Dyn) *)(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr);
    for (; entry && entry->d_tag != DT_NULL; entry++) {
        const void *place = absolute(object->dlpi_addr, entry->d_un.d_ptr);
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
static void *look_up(const struct dl_phdr_info *object, const char *name)
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
        if ((found | 1) == (hash | 1) && symbol->st_shndx != SHN_UNDEF && strcmp(tables.names + symbol->st_name, name) == 0)
            return (void *)(object->dlpi_addr + symbol->st_value);
        if (found & 1)
            return NULL;
    }
}

static int visit(struct dl_phdr_info *object, size_t size, void *argument)
{
    struct search *search = argument;
    (void)size;
    const char *slash = object->dlpi_name ? strrchr(object->dlpi_name, '/') : NULL;
    const char *file = slash ? slash + 1 : object->dlpi_name;
    if (file && strncmp(file, search->file, strlen(search->file)) == 0)
        search->found = look_up(object, search->name);
    return search->found != NULL;
}

void *object_symbol(const char *file, const char *name)
{
    struct search search = {.file = file, .name = name};
    dl_iterate_phdr(visit, &search);
    return search.found;
}
