/* Attributes and names of kernels. */
#include "driver.h"

static CUresult get(int *value, CUfunction_attribute attribute, const struct CUfunc_st *function)
{
    if (!value)
        return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(function, FUNCTION_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = 1024;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = (int)function->shared_bytes;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *value = (int)function->registers;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = (int)(card_of(0)->capability_major * 10 + card_of(0)->capability_minor);
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = function->dynamic_shared_limit;
        return CUDA_SUCCESS;
    default:
        *value = 0;
        return attribute < CU_FUNC_ATTRIBUTE_MAX ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult set(struct CUfunc_st *function, CUfunction_attribute attribute, int value)
{
    if (!object_is(function, FUNCTION_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)
        return CUDA_SUCCESS;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 ||
        (uint64_t)value + function->shared_bytes > card_of(0)->shared_memory_per_block_optin)
        return CUDA_ERROR_INVALID_VALUE;
    function->dynamic_shared_limit = value;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function)
{
    CUresult entered = enter(__func__);
    return entered ? entered : get(value, attribute, function);
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
    CUresult entered = enter(__func__);
    return entered ? entered : set(function, attribute, value);
}

CUresult cuKernelGetAttribute(int *value, CUfunction_attribute attribute, CUkernel kernel, CUdevice device)
{
    CUresult entered = enter(__func__);
    if (!entered && !is_device(device))
        entered = CUDA_ERROR_INVALID_DEVICE;
    return entered ? entered : get(value, attribute, (struct CUfunc_st *)kernel);
}

CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice device)
{
    CUresult entered = enter(__func__);
    if (!entered && !is_device(device))
        entered = CUDA_ERROR_INVALID_DEVICE;
    return entered ? entered : set((struct CUfunc_st *)kernel, attribute, value);
}

CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config)
{
    CUresult entered = enter(__func__);
    (void)config;
    return entered ? entered : object_is(function, FUNCTION_OBJECT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice device)
{
    CUresult entered = enter(__func__);
    (void)config;
    (void)device;
    return entered ? entered : object_is(kernel, FUNCTION_OBJECT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuFuncSetSharedMemConfig(CUfunction function, CUsharedconfig config)
{
    CUresult entered = enter(__func__);
    (void)config;
    return entered ? entered : object_is(function, FUNCTION_OBJECT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuFuncGetModule(CUmodule *module, CUfunction function)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!module || !object_is(function, FUNCTION_OBJECT))
        return module ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
    *module = function->module;
    return CUDA_SUCCESS;
}

static CUresult name_of(const char **name, const struct CUfunc_st *function)
{
    if (!name || !object_is(function, FUNCTION_OBJECT))
        return name ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
    *name = function->name;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char **name, CUfunction function)
{
    CUresult entered = enter(__func__);
    return entered ? entered : name_of(name, function);
}

CUresult cuKernelGetName(const char **name, CUkernel kernel)
{
    CUresult entered = enter(__func__);
    return entered ? entered : name_of(name, (struct CUfunc_st *)kernel);
}

static CUresult parameter(const struct CUfunc_st *function, size_t index, size_t *offset, size_t *bytes)
{
    size_t at = 0;
    if (!object_is(function, FUNCTION_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    if (!offset || index >= function->parameter_count)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < index; i++)
        at += function->parameter_bytes[i];
    *offset = at;
    if (bytes)
        *bytes = function->parameter_bytes[index];
    return CUDA_SUCCESS;
}

CUresult cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *bytes)
{
    CUresult entered = enter(__func__);
    return entered ? entered : parameter(function, index, offset, bytes);
}

CUresult cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t *offset, size_t *bytes)
{
    CUresult entered = enter(__func__);
    return entered ? entered : parameter((struct CUfunc_st *)kernel, index, offset, bytes);
}

static CUresult count_parameters(const struct CUfunc_st *function, size_t *count)
{
    if (!count || !object_is(function, FUNCTION_OBJECT))
        return count ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
    *count = function->parameter_count;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetParamCount(CUfunction function, size_t *count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : count_parameters(function, count);
}

CUresult cuKernelGetParamCount(CUkernel kernel, size_t *count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : count_parameters((struct CUfunc_st *)kernel, count);
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!state || !object_is(function, FUNCTION_OBJECT))
        return state ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
    *state = CU_FUNCTION_LOADING_STATE_LOADED;
    return CUDA_SUCCESS;
}

CUresult cuFuncLoad(CUfunction function)
{
    CUresult entered = enter(__func__);
    return entered ? entered : object_is(function, FUNCTION_OBJECT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
