/* dlsym and dlvsym: the real ones answer, and what they answer is exchanged if it is a function that the library stands in for.

   RTLD_NEXT and RTLD_DEFAULT mean something to the caller's object, so whatever is not exchanged goes on to the real function by a jump
   that leaves the caller's return address where it is. */
#define _GNU_SOURCE
#include "driver.h"
#include "linking.h"
#include "management.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

typedef void *(*dlsym_function)(void *, const char *);
typedef void *(*dlvsym_function)(void *, const char *, const char *);
typedef void *(*dlopen_function)(const char *, int);

/* Also read by the code below in assembler. */
__attribute__((visibility("hidden"))) dlsym_function tessera_dlsym;
__attribute__((visibility("hidden"))) dlvsym_function tessera_dlvsym;

static void *of_the_loader(const char *name)
{
    void *found = object_symbol("libc.so.", name);
    return found ? found : object_symbol("libdl.so.", name); /* before glibc 2.34 */
}

static void find_real(void)
{
    static const char message[] = "tessera: this C library has no dlsym\n";
    if (__atomic_load_n(&tessera_dlvsym, __ATOMIC_ACQUIRE))
        return;
    dlsym_function symbol = (dlsym_function)of_the_loader("dlsym");
    dlvsym_function versioned = (dlvsym_function)of_the_loader("dlvsym");
    if (!symbol || !versioned) {
        if (write(2, message, sizeof message - 1) < 0)
            abort();
        abort();
    }
    __atomic_store_n(&tessera_dlsym, symbol, __ATOMIC_RELEASE);
    __atomic_store_n(&tessera_dlvsym, versioned, __ATOMIC_RELEASE);
}

void *real_dlsym(void *handle, const char *name)
{
    find_real();
    return tessera_dlsym(handle, name);
}

void *real_dlopen(const char *file, int flags)
{
    dlopen_function open = (dlopen_function)of_the_loader("dlopen");
    return open ? open(file, flags) : NULL;
}

EXPORTED void *dlsym(void *restrict handle, const char *restrict name);
EXPORTED void *dlvsym(void *restrict handle, const char *restrict name, const char *restrict version);

static void *own(const char *name)
{
    if (same_text(name, "dlsym"))
        return (void *)dlsym;
    if (same_text(name, "dlvsym"))
        return (void *)dlvsym;
    if (name[0] == 'd')
        return NULL;
    void *found = driver_named(name);
    return found ? found : management_named(name);
}

/* What the caller gets instead; NULL sends it on to the real function. A name that is found is not enough: the object must have it. */
__attribute__((visibility("hidden"), used)) void *tessera_choose(void *handle, const char *name, const char *version)
{
    find_real();
    bool may_be = name && ((name[0] == 'c' && name[1] == 'u') || (name[0] == 'n' && name[1] == 'v') || (name[0] == 'd' && name[1] == 'l'));
    void *mine = may_be ? own(name) : NULL;
    if (!mine || handle == RTLD_NEXT || handle == RTLD_DEFAULT)
        return mine;
    void *theirs = version ? tessera_dlvsym(handle, name, version) : tessera_dlsym(handle, name);
    return theirs ? mine : NULL;
}

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl dlsym\n.type dlsym,@function\n"
        "dlsym:\n"
        "push %rdi\npush %rsi\nsub $8,%rsp\nxor %edx,%edx\ncall tessera_choose\nadd $8,%rsp\npop %rsi\npop %rdi\n"
        "test %rax,%rax\njnz 1f\njmp *tessera_dlsym(%rip)\n1:\nret\n"
        ".size dlsym,.-dlsym\n"
        ".globl dlvsym\n.type dlvsym,@function\n"
        "dlvsym:\n"
        "push %rdi\npush %rsi\npush %rdx\ncall tessera_choose\npop %rdx\npop %rsi\npop %rdi\n"
        "test %rax,%rax\njnz 1f\njmp *tessera_dlvsym(%rip)\n1:\nret\n"
        ".size dlvsym,.-dlvsym\n");
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl dlsym\n.type dlsym,%function\n"
        "dlsym:\n"
        "stp x29,x30,[sp,-32]!\nstp x0,x1,[sp,16]\nmov x2,xzr\nbl tessera_choose\nmov x9,x0\nldp x0,x1,[sp,16]\nldp x29,x30,[sp],32\n"
        "cbz x9,1f\nmov x0,x9\nret\n1:\nadrp x9,tessera_dlsym\nldr x9,[x9,:lo12:tessera_dlsym]\nbr x9\n"
        ".size dlsym,.-dlsym\n"
        ".globl dlvsym\n.type dlvsym,%function\n"
        "dlvsym:\n"
        "stp x29,x30,[sp,-48]!\nstp x0,x1,[sp,16]\nstr x2,[sp,32]\nbl tessera_choose\nmov x9,x0\nldp x0,x1,[sp,16]\nldr x2,[sp,32]\n"
        "ldp x29,x30,[sp],48\ncbz x9,1f\nmov x0,x9\nret\n1:\nadrp x9,tessera_dlvsym\nldr x9,[x9,:lo12:tessera_dlvsym]\nbr x9\n"
        ".size dlvsym,.-dlvsym\n");
#else
#error "dlsym is written for x86-64 and 64-bit ARM"
#endif
