/* The driver's functions as a program reaches them: linked, by dlsym, or by cuGetProcAddress. */
#ifndef ENTRIES_H
#define ENTRIES_H

#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1024 * 1024)

static inline void expect_(CUresult got, CUresult wanted, const char *call, int line)
{
    if (got == wanted)
        return;
    fprintf(stderr, "line %d: %s gave %d, not %d\n", line, call, (int)got, (int)wanted);
    exit(1);
}

static inline void require_(int holds, const char *what, int line)
{
    if (holds)
        return;
    fprintf(stderr, "line %d: %s does not hold\n", line, what);
    exit(1);
}

#define OK(call) expect_((call), CUDA_SUCCESS, #call, __LINE__)
#define FAILS(result, call) expect_((call), (result), #call, __LINE__)
#define REQUIRE(condition) require_((condition) != 0, #condition, __LINE__)

/* name, symbol, CUDA version to ask for */
#define ENTRIES                                                \
    ENTRY(cuMemAlloc, cuMemAlloc_v2, 3020)                     \
    ENTRY(cuMemAllocPitch, cuMemAllocPitch_v2, 3020)           \
    ENTRY(cuMemAllocManaged, cuMemAllocManaged, 6000)          \
    ENTRY(cuMemFree, cuMemFree_v2, 3020)                       \
    ENTRY(cuMemGetInfo, cuMemGetInfo_v2, 3020)                 \
    ENTRY(cuDeviceTotalMem, cuDeviceTotalMem_v2, 3020)         \
    ENTRY(cuMemAllocAsync, cuMemAllocAsync, 11020)             \
    ENTRY(cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync, 11020) \
    ENTRY(cuMemFreeAsync, cuMemFreeAsync, 11020)               \
    ENTRY(cuMemPoolCreate, cuMemPoolCreate, 11020)             \
    ENTRY(cuMemPoolDestroy, cuMemPoolDestroy, 11020)           \
    ENTRY(cuMemCreate, cuMemCreate, 10020)                     \
    ENTRY(cuMemRelease, cuMemRelease, 10020)                   \
    ENTRY(cuMemMap, cuMemMap, 10020)                           \
    ENTRY(cuMemUnmap, cuMemUnmap, 10020)                       \
    ENTRY(cuArrayCreate, cuArrayCreate_v2, 3020)               \
    ENTRY(cuArray3DCreate, cuArray3DCreate_v2, 3020)           \
    ENTRY(cuArrayDestroy, cuArrayDestroy, 2000)                \
    ENTRY(cuMipmappedArrayCreate, cuMipmappedArrayCreate, 5000) \
    ENTRY(cuMipmappedArrayDestroy, cuMipmappedArrayDestroy, 5000) \
    ENTRY(cuGraphAddMemAllocNode, cuGraphAddMemAllocNode, 11040) \
    ENTRY(cuStreamSynchronize, cuStreamSynchronize, 2000)

#undef cuMemAlloc
#undef cuMemAllocPitch
#undef cuMemFree
#undef cuMemGetInfo
#undef cuDeviceTotalMem
#undef cuArrayCreate
#undef cuArray3DCreate

static struct {
#define ENTRY(name, symbol, version) __typeof__(symbol) *name;
    ENTRIES
#undef ENTRY
} cu;

static CUcontext context;

static inline void *by_address(const char *name, int version, cuuint64_t flags)
{
    CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    void *function = NULL;
    OK(cuGetProcAddress_v2(name, &function, version, flags, &status));
    REQUIRE(function && status == CU_GET_PROC_ADDRESS_SUCCESS);
    return function;
}

static inline void *by_old_address(const char *name, int version)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *function = NULL;
    CUresult (*get)(const char *, void **, int, cuuint64_t) = (CUresult(*)(const char *, void **, int, cuuint64_t))dlsym(library, "cuGetProcAddress");
    REQUIRE(get != NULL);
    OK(get(name, &function, version, 0));
    return function;
}

/* A program that asks libc itself for dlsym. */
static inline void *by_found_dlsym(const char *symbol)
{
    void *(*look)(void *, const char *) = (void *(*)(void *, const char *))dlsym(dlopen("libc.so.6", RTLD_NOW), "dlsym");
    return look(dlopen("libcuda.so.1", RTLD_NOW), symbol);
}

static inline void *reach(const char *way, const char *name, const char *symbol, void *linked, int version)
{
    if (strcmp(way, "linked") == 0)
        return linked;
    if (strcmp(way, "dlsym") == 0)
        return dlsym(dlopen("libcuda.so.1", RTLD_NOW), symbol);
    if (strcmp(way, "default") == 0)
        return dlsym(RTLD_DEFAULT, symbol);
    if (strcmp(way, "found") == 0)
        return by_found_dlsym(symbol);
    if (strcmp(way, "address") == 0)
        return by_address(name, version, CU_GET_PROC_ADDRESS_DEFAULT);
    if (strcmp(way, "per_thread") == 0)
        return by_address(name, version, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
    if (strcmp(way, "old_address") == 0)
        return by_old_address(name, version);
    return NULL;
}

static inline void start(const char *way)
{
    OK(cuInit(0));
#define ENTRY(name, symbol, version) REQUIRE((cu.name = (__typeof__(symbol) *)reach(way, #name, #symbol, (void *)symbol, version)) != NULL);
    ENTRIES
#undef ENTRY
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
}

static inline void wait_for_line(void)
{
    char line[64];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        exit(3);
}

#endif
