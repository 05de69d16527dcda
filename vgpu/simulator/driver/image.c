/* Images. Text, which may be PTX at the same time, can say what it is to the simulator in comments:

       // simulated kernel NAME block_ns=20000 blocks_per_multiprocessor=2 registers=32 shared=1024 parameters=8,8,4
       // simulated global NAME BYTES

   block_ns=@0 takes the time of a block from the kernel's parameter 0, a 64-bit number. Kernels of plain PTX (.entry) and of cubins (ELF
   symbols) are found by name and take the standard time; fat binaries are compressed, so any name is one of theirs. The file that
   GPU_SIMULATOR_KERNELS names has such comments, too, and applies to kernels of any image. */
#include "image.h"
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STANDARD_BLOCK_NS 10000
#define FATBIN_WRAPPER 0x466243b1u
#define FATBIN 0xba55ed50u

static void set_parameters(struct CUfunc_st *function, const char *list)
{
    function->parameter_count = 0;
    for (char *end; *list && function->parameter_count < 32; list = *end == ',' ? end + 1 : end) {
        function->parameter_bytes[function->parameter_count++] = (unsigned)strtoul(list, &end, 10);
        if (end == list)
            break;
    }
}

static void set_option(struct CUfunc_st *function, const char *option)
{
    const char *value = strchr(option, '=');
    if (!value++)
        return;
    if (strncmp(option, "block_ns=@", 10) == 0)
        function->block_ns_parameter = atoi(value + 1);
    else if (strncmp(option, "block_ns=", 9) == 0)
        function->block_ns = strtoull(value, NULL, 10);
    else if (strncmp(option, "blocks_per_multiprocessor=", 26) == 0)
        function->blocks_per_multiprocessor = (unsigned)strtoul(value, NULL, 10);
    else if (strncmp(option, "registers=", 10) == 0)
        function->registers = (unsigned)strtoul(value, NULL, 10);
    else if (strncmp(option, "shared=", 7) == 0)
        function->shared_bytes = (unsigned)strtoul(value, NULL, 10);
    else if (strncmp(option, "parameters=", 11) == 0)
        set_parameters(function, value);
}

/* Splits off the next word of a line; NULL at its end. */
static const char *next_word(const char **at, const char *end, char *word, size_t room)
{
    size_t length = 0;
    while (*at < end && (**at == ' ' || **at == '\t' || **at == '\r'))
        ++*at;
    while (*at < end && **at != ' ' && **at != '\t' && **at != '\r') {
        if (length + 1 < room)
            word[length++] = **at;
        ++*at;
    }
    word[length] = 0;
    return length ? word : NULL;
}

static const char *line_end(const char *at)
{
    const char *end = strchr(at, '\n');
    return end ? end : at + strlen(at);
}

/* Reads the options of one kernel from a text; false if it does not name it. */
static bool read_options(struct CUfunc_st *function, const char *text)
{
    char word[256];
    bool found = false;
    for (const char *at = text; (at = strstr(at, "// simulated kernel "));) {
        const char *end = line_end(at);
        at += strlen("// simulated kernel ");
        if (!next_word(&at, end, word, sizeof word) || strcmp(word, function->name) != 0)
            continue;
        found = true;
        while (next_word(&at, end, word, sizeof word))
            set_option(function, word);
    }
    return found;
}

static const char *read_file(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    if (file && fseek(file, 0, SEEK_END) == 0) {
        long size = ftell(file);
        rewind(file);
        text = size >= 0 ? calloc((size_t)size + 1, 1) : NULL;
        if (text && fread(text, 1, (size_t)size, file) != (size_t)size)
            text[0] = 0;
    }
    if (file)
        fclose(file);
    return text;
}

static const char *rules;
static pthread_once_t rules_read = PTHREAD_ONCE_INIT;

static void read_rules(void)
{
    const char *path = getenv("GPU_SIMULATOR_KERNELS");
    rules = path && *path ? read_file(path) : NULL;
}

struct CUfunc_st *image_kernel(struct CUmod_st *module, const char *name)
{
    for (struct CUfunc_st *known = module->functions; known; known = known->next)
        if (strcmp(known->name, name) == 0)
            return known;
    struct CUfunc_st *function = object_new(FUNCTION_OBJECT, sizeof *function);
    snprintf(function->name, sizeof function->name, "%s", name);
    function->module = module;
    function->block_ns = STANDARD_BLOCK_NS;
    function->block_ns_parameter = -1;
    function->registers = 32;
    function->dynamic_shared_limit = 49152;
    pthread_once(&rules_read, read_rules);
    if (rules)
        read_options(function, rules);
    struct CUfunc_st **end = &module->functions;
    while (*end)
        end = &(*end)->next;
    *end = function;
    return function;
}

static void read_directives(struct CUmod_st *module, const char *text)
{
    char word[256], size[32];
    for (const char *at = text; (at = strstr(at, "// simulated "));) {
        const char *end = line_end(at);
        at += strlen("// simulated ");
        if (!next_word(&at, end, word, sizeof word))
            continue;
        if (strcmp(word, "kernel") == 0 && next_word(&at, end, word, sizeof word)) {
            read_options(image_kernel(module, word), text);
        } else if (strcmp(word, "global") == 0 && next_word(&at, end, word, sizeof word) && next_word(&at, end, size, sizeof size)) {
            struct global *global = calloc(1, sizeof *global);
            if (!global)
                abort();
            snprintf(global->name, sizeof global->name, "%s", word);
            global->bytes = strtoull(size, NULL, 10);
            global->next = module->globals;
            module->globals = global;
        }
    }
}

static void read_ptx(struct CUmod_st *module, const char *text)
{
    char word[256];
    for (const char *at = text; (at = strstr(at, ".entry"));) {
        at += strlen(".entry");
        if (*at != ' ' && *at != '\t')
            continue;
        const char *name = at + strspn(at, " \t");
        size_t length = strcspn(name, " \t\r\n(");
        snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word - 1), name);
        image_kernel(module, word);
    }
}

/* A cubin's kernels are its global functions. */
static void read_elf(struct CUmod_st *module, const unsigned char *image)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    for (unsigned s = 0; s < header->e_shnum; s++) {
        if (sections[s].sh_type != SHT_SYMTAB || sections[s].sh_link >= header->e_shnum)
            continue;
        const Elf64_Sym *symbols = (const Elf64_Sym *)(image + sections[s].sh_offset);
        const char *names = (const char *)image + sections[sections[s].sh_link].sh_offset;
        for (size_t i = 0; i < sections[s].sh_size / sizeof *symbols; i++)
            if (ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC && ELF64_ST_BIND(symbols[i].st_info) == STB_GLOBAL)
                image_kernel(module, names + symbols[i].st_name);
    }
}

bool image_read(struct CUmod_st *module, const void *image)
{
    const unsigned char *bytes = image;
    uint32_t magic;
    memset(&magic, 0, sizeof magic);
    memcpy(&magic, image, bytes[0] && bytes[1] && bytes[2] ? sizeof magic : 1);
    if (memcmp(bytes, ELFMAG, 1) == 0 && memcmp(bytes, ELFMAG, SELFMAG) == 0) {
        read_elf(module, bytes);
        return true;
    }
    if (magic == FATBIN_WRAPPER || magic == FATBIN) {
        module->open_ended = true;
        return true;
    }
    const char *text = image;
    if (!strstr(text, "// simulated ") && !strstr(text, ".version"))
        return false;
    read_directives(module, text);
    read_ptx(module, text);
    return true;
}
