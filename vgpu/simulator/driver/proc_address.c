/* cuGetProcAddress: the newest variant of a function that the asked CUDA version knows, for the asked kind of default stream. */
#include "driver.h"
#include <string.h>

enum stream_kind { ANY, LEGACY, PER_THREAD };

struct symbol {
    const char *name, *symbol;
    int version;
    enum stream_kind kind;
    void (*function)(void);
};

#define SYMBOL(name, symbol, version, kind) void symbol##_address(void) __asm__(#symbol);
#include "symbols.h"
#undef SYMBOL

#define SYMBOL(name, symbol, version, kind) {#name, #symbol, version, kind, symbol##_address},
static const struct symbol symbols[] = {
#include "symbols.h"
};
#undef SYMBOL

/* Which of two fitting variants it is: the newer one, and of equally new ones that of the asked kind of stream. */
static bool is_better(const struct symbol *one, const struct symbol *other, bool per_thread)
{
    if (!other)
        return true;
    if (per_thread && (one->kind == PER_THREAD) != (other->kind == PER_THREAD))
        return one->kind == PER_THREAD;
    return one->version > other->version;
}

static const struct symbol *find(const char *name, int version, bool per_thread, bool *known)
{
    const struct symbol *best = NULL;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        const struct symbol *symbol = &symbols[i];
        if (strcmp(symbol->name, name) != 0 || (symbol->kind == PER_THREAD && !per_thread))
            continue;
        *known = true;
        if (symbol->version <= version && is_better(symbol, best, per_thread))
            best = symbol;
    }
    return best;
}

static CUresult look_up(const char *name, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status, bool standard_per_thread)
{
    bool known = false, per_thread = standard_per_thread;
    if (!name || !*name || !function)
        return CUDA_ERROR_INVALID_VALUE;
    if (flags & ~(cuuint64_t)(CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM))
        return CUDA_ERROR_INVALID_VALUE;
    int driver_version = driver.machine ? (int)driver.machine->description.driver_version : CUDA_VERSION;
    if (version > driver_version)
        return CUDA_ERROR_INVALID_VALUE;
    if (flags)
        per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
    const struct symbol *symbol = find(name, version, per_thread, &known);
    *function = symbol ? (void *)(uintptr_t)symbol->function : NULL;
    if (status)
        *status = symbol  ? CU_GET_PROC_ADDRESS_SUCCESS
                  : known ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                          : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return symbol || status ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* The first version cannot say why there is no function: it fails. */
CUresult cuGetProcAddress(const char *name, void **function, int version, cuuint64_t flags)
{
    log_call(__func__);
    return look_up(name, function, version, flags, NULL, false);
}

CUresult cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
    log_call(__func__);
    CUdriverProcAddressQueryResult unused;
    return look_up(name, function, version, flags, status ? status : &unused, false);
}

EXPORTED CUresult cuGetProcAddress_v2_ptsz(const char *name, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
    log_call("cuGetProcAddress_v2_ptsz");
    CUdriverProcAddressQueryResult unused;
    return look_up(name, function, version, flags, status ? status : &unused, true);
}

/* The tables behind this call are not public. */
CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
    log_call(__func__);
    if (!table || !id)
        return CUDA_ERROR_INVALID_VALUE;
    *table = NULL;
    return CUDA_ERROR_NOT_SUPPORTED;
}
