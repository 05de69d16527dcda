/* What compilers put into programs before main(): images with the kernels and variables in them, known by an address of the host. An image is
   given to the driver when something of it is first used. Images are opaque to the simulated driver, so the runtime makes the variables. */
#include "runtime.h"
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#define MOST_DEVICES 256

struct symbol {
    const void *host;
    const char *name;
    struct image *image; /* NULL: it was unregistered */
    struct symbol *next; /* of the image */
    CUkernel kernel;
    size_t bytes; /* of a variable; 0: it is a kernel */
    CUdeviceptr *addresses;
};

struct image {
    const void *wrapper;
    CUlibrary library;
    struct symbol *symbols;
};

/* Open addressing; a symbol is never taken out, since its address may come again. */
static struct symbol **table;
static size_t room, used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct symbol **place(struct symbol **in, size_t size, const void *host)
{
    size_t at = ((uintptr_t)host >> 4) * UINT64_C(0x9e3779b97f4a7c15) & (size - 1);
    while (in[at] && in[at]->host != host)
        at = (at + 1) & (size - 1);
    return &in[at];
}

static void grow(void)
{
    size_t size = room ? 2 * room : 1024;
    struct symbol **larger = calloc(size, sizeof *larger);
    if (!larger)
        abort();
    for (size_t i = 0; i < room; i++)
        if (table[i])
            *place(larger, size, table[i]->host) = table[i];
    free(table);
    table = larger;
    room = size;
}

static void add(struct image *image, const void *host, const char *name, size_t bytes)
{
    pthread_mutex_lock(&lock);
    if (2 * used >= room)
        grow();
    struct symbol **at = place(table, room, host);
    if (!*at) {
        *at = calloc(1, sizeof **at);
        if (!*at)
            abort();
        used++;
    }
    **at = (struct symbol){.host = host, .name = name, .image = image, .next = image->symbols, .bytes = bytes};
    image->symbols = *at;
    pthread_mutex_unlock(&lock);
}

EXPORTED void **__cudaRegisterFatBinary(void *wrapper)
{
    struct image *image = calloc(1, sizeof *image);
    if (!image)
        abort();
    image->wrapper = wrapper;
    return (void **)image;
}

EXPORTED void __cudaRegisterFatBinaryEnd(void **image)
{
    (void)image;
}

EXPORTED void __cudaUnregisterFatBinary(void **handle)
{
    struct image *image = (struct image *)handle;
    pthread_mutex_lock(&lock);
    for (struct symbol *symbol = image->symbols; symbol; symbol = symbol->next)
        symbol->image = NULL;
    if (image->library)
        cuLibraryUnload(image->library);
    pthread_mutex_unlock(&lock);
    free(image);
}

EXPORTED void __cudaRegisterFunction(void **image, const char *host, char *device, const char *name, int threads, void *tid, void *bid, dim3 *block, dim3 *grid, int *size)
{
    (void)device, (void)threads, (void)tid, (void)bid, (void)block, (void)grid, (void)size;
    add((struct image *)image, host, name, 0);
}

EXPORTED void __cudaRegisterVar(void **image, char *host, char *device, const char *name, int external, size_t bytes, int constant, int global)
{
    (void)device, (void)external, (void)constant, (void)global;
    add((struct image *)image, host, name, bytes);
}

EXPORTED void __cudaRegisterManagedVar(void **image, void **host, char *device, const char *name, int external, size_t bytes, int constant, int global)
{
    (void)device, (void)external, (void)constant, (void)global;
    add((struct image *)image, host, name, bytes);
}

EXPORTED char __cudaInitModule(void **image)
{
    (void)image;
    return 1;
}

static struct symbol *find(const void *host)
{
    struct symbol *symbol = room ? *place(table, room, host) : NULL;
    return symbol && symbol->image ? symbol : NULL;
}

CUresult kernel_of(const void *host, CUkernel *kernel)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    struct symbol *symbol = find(host);
    if (!symbol || symbol->bytes) {
        *kernel = (CUkernel)(uintptr_t)host; /* a handle may stand for a function */
    } else {
        if (!symbol->image->library)
            result = cuLibraryLoadData(&symbol->image->library, symbol->image->wrapper, NULL, NULL, 0, NULL, NULL, 0);
        if (!result && !symbol->kernel)
            result = cuLibraryGetKernel(&symbol->kernel, symbol->image->library, symbol->name);
        *kernel = symbol->kernel;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* A reset has freed the variables of a device; they are made anew when they are asked for. */
void variables_forget(CUdevice device)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < room; i++)
        if (table[i] && table[i]->addresses)
            table[i]->addresses[device] = 0;
    pthread_mutex_unlock(&lock);
}

CUresult variable_of(const void *host, CUdeviceptr *address, size_t *bytes)
{
    CUdevice device;
    CUresult result = cuCtxGetDevice(&device);
    pthread_mutex_lock(&lock);
    struct symbol *symbol = find(host);
    if (!result && (!symbol || !symbol->bytes))
        result = (CUresult)cudaErrorInvalidSymbol;
    if (!result && !symbol->addresses && !(symbol->addresses = calloc(MOST_DEVICES, sizeof *symbol->addresses)))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (!result && !symbol->addresses[device])
        result = cuMemAlloc(&symbol->addresses[device], symbol->bytes) ?: cuMemsetD8(symbol->addresses[device], 0, symbol->bytes);
    if (!result) {
        *address = symbol->addresses[device];
        *bytes = symbol->bytes;
    }
    pthread_mutex_unlock(&lock);
    return result;
}
