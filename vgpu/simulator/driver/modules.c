/* Modules and libraries. A library is a module of no context; its kernels are functions. */
#include "image.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static CUresult make_globals(struct CUmod_st *module)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&driver.lock);
    for (struct global *global = module->globals; !result && global; global = global->next)
        result = allocate(module->context, global->bytes, &global->region);
    pthread_mutex_unlock(&driver.lock);
    return result;
}

static void unload(struct CUmod_st *module)
{
    pthread_mutex_lock(&driver.lock);
    for (struct global *global = module->globals, *next; global; global = next) {
        next = global->next;
        if (global->region && object_is(module->context, CONTEXT_OBJECT))
            release(global->region);
        free(global);
    }
    for (struct CUfunc_st *function = module->functions, *next; function; function = next) {
        next = function->next;
        object_end(function);
    }
    object_end(module);
    pthread_mutex_unlock(&driver.lock);
}

static CUresult load(struct CUmod_st **made, const void *image, bool library)
{
    struct CUctx_st *context = NULL;
    CUresult result = library ? CUDA_SUCCESS : context_current(&context);
    if (!result && (!made || !image))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    struct CUmod_st *module = object_new(MODULE_OBJECT, sizeof *module);
    module->context = context;
    module->library = library;
    if (!image_read(module, image))
        result = CUDA_ERROR_INVALID_IMAGE;
    if (!result && context)
        result = make_globals(module);
    if (result)
        unload(module);
    else
        *made = module;
    return result;
}

static CUresult load_file(struct CUmod_st **made, const char *path, bool library)
{
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file)
        return path ? CUDA_ERROR_FILE_NOT_FOUND : CUDA_ERROR_INVALID_VALUE;
    CUresult result = CUDA_ERROR_INVALID_IMAGE;
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *image = size > 0 ? calloc((size_t)size + 8, 1) : NULL;
    if (image && fread(image, 1, (size_t)size, file) == (size_t)size)
        result = load(made, image, library);
    free(image);
    fclose(file);
    return result;
}

CUresult cuModuleLoad(CUmodule *module, const char *path)
{
    CUresult entered = enter(__func__);
    return entered ? entered : load_file(module, path, false);
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    CUresult entered = enter(__func__);
    return entered ? entered : load(module, image, false);
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int count, CUjit_option *options, void **values)
{
    CUresult entered = enter(__func__);
    (void)count;
    (void)options;
    (void)values;
    return entered ? entered : load(module, image, false);
}

CUresult cuModuleLoadFatBinary(CUmodule *module, const void *image)
{
    CUresult entered = enter(__func__);
    return entered ? entered : load(module, image, false);
}

CUresult cuModuleUnload(CUmodule module)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(module, MODULE_OBJECT) || module->library)
        return CUDA_ERROR_INVALID_HANDLE;
    if (object_is(module->context, CONTEXT_OBJECT))
        context_wait(module->context);
    unload(module);
    return CUDA_SUCCESS;
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!mode)
        return CUDA_ERROR_INVALID_VALUE;
    *mode = CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

static CUresult function_of(struct CUfunc_st **function, struct CUmod_st *module, const char *name)
{
    if (!function || !name)
        return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(module, MODULE_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&driver.lock);
    struct CUfunc_st *found = module->functions;
    while (found && strcmp(found->name, name) != 0)
        found = found->next;
    if (!found && module->open_ended)
        found = image_kernel(module, name);
    pthread_mutex_unlock(&driver.lock);
    if (!found)
        return CUDA_ERROR_NOT_FOUND;
    *function = found;
    return CUDA_SUCCESS;
}

static CUresult count_functions(unsigned *count, struct CUmod_st *module)
{
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(module, MODULE_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    *count = 0;
    for (const struct CUfunc_st *function = module->functions; function; function = function->next)
        ++*count;
    return CUDA_SUCCESS;
}

static CUresult list_functions(struct CUfunc_st **functions, unsigned room, struct CUmod_st *module)
{
    if (!functions)
        return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(module, MODULE_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    for (struct CUfunc_st *function = module->functions; function && room; function = function->next, room--)
        *functions++ = function;
    return CUDA_SUCCESS;
}

static CUresult global_of(CUdeviceptr *address, size_t *bytes, const struct CUmod_st *module, const char *name)
{
    if (!name)
        return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(module, MODULE_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    for (const struct global *global = module->globals; global; global = global->next) {
        if (strcmp(global->name, name) != 0 || !global->region)
            continue;
        if (address)
            *address = global->region->base;
        if (bytes)
            *bytes = global->bytes;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_NOT_FOUND;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    CUresult entered = enter(__func__);
    return entered ? entered : function_of(function, module, name);
}

CUresult cuModuleGetFunctionCount(unsigned int *count, CUmodule module)
{
    CUresult entered = enter(__func__);
    return entered ? entered : count_functions(count, module);
}

CUresult cuModuleEnumerateFunctions(CUfunction *functions, unsigned int room, CUmodule module)
{
    CUresult entered = enter(__func__);
    return entered ? entered : list_functions(functions, room, module);
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr *address, size_t *bytes, CUmodule module, const char *name)
{
    CUresult entered = enter(__func__);
    return entered ? entered : global_of(address, bytes, module, name);
}

static struct CUmod_st *as_module(CUlibrary library)
{
    return (struct CUmod_st *)library;
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *image, CUjit_option *jit, void **jit_values, unsigned int jit_count, CUlibraryOption *options, void **values, unsigned int count)
{
    CUresult entered = enter(__func__);
    (void)jit, (void)jit_values, (void)jit_count, (void)options, (void)values, (void)count;
    return entered ? entered : load((struct CUmod_st **)library, image, true);
}

CUresult cuLibraryLoadFromFile(CUlibrary *library, const char *path, CUjit_option *jit, void **jit_values, unsigned int jit_count, CUlibraryOption *options, void **values, unsigned int count)
{
    CUresult entered = enter(__func__);
    (void)jit, (void)jit_values, (void)jit_count, (void)options, (void)values, (void)count;
    return entered ? entered : load_file((struct CUmod_st **)library, path, true);
}

CUresult cuLibraryUnload(CUlibrary library)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(library, MODULE_OBJECT) || !as_module(library)->library)
        return CUDA_ERROR_INVALID_HANDLE;
    unload(as_module(library));
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name)
{
    CUresult entered = enter(__func__);
    return entered ? entered : function_of((struct CUfunc_st **)kernel, as_module(library), name);
}

CUresult cuLibraryGetKernelCount(unsigned int *count, CUlibrary library)
{
    CUresult entered = enter(__func__);
    return entered ? entered : count_functions(count, as_module(library));
}

CUresult cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int room, CUlibrary library)
{
    CUresult entered = enter(__func__);
    return entered ? entered : list_functions((struct CUfunc_st **)kernels, room, as_module(library));
}

CUresult cuLibraryGetModule(CUmodule *module, CUlibrary library)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!module || !object_is(library, MODULE_OBJECT))
        return module ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
    *module = as_module(library);
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetGlobal(CUdeviceptr *address, size_t *bytes, CUlibrary library, const char *name)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && !object_is(library, MODULE_OBJECT))
        result = CUDA_ERROR_INVALID_HANDLE;
    if (!result && as_module(library)->context != context) {
        as_module(library)->context = context; /* its variables are there from the first use on */
        result = make_globals(as_module(library));
    }
    return result ? result : global_of(address, bytes, as_module(library), name);
}

CUresult cuKernelGetFunction(CUfunction *function, CUkernel kernel)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && (!function || !object_is(kernel, FUNCTION_OBJECT)))
        result = function ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
    if (!result)
        *function = (struct CUfunc_st *)kernel;
    return result;
}

CUresult cuKernelGetLibrary(CUlibrary *library, CUkernel kernel)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!library || !object_is(kernel, FUNCTION_OBJECT))
        return library ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
    *library = (CUlibrary)((struct CUfunc_st *)kernel)->module;
    return CUDA_SUCCESS;
}
