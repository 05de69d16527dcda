/* Linking: the texts are put one after the other, and are the image. */
#include "image.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CUlinkState_st {
    struct object object;
    char *image;
    size_t bytes;
};

static CUresult create(CUlinkState *made)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (!result && !made)
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        *made = calloc(1, sizeof **made);
    if (!result && !*made)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (!result)
        (*made)->object.kind = LINK_OBJECT;
    return result;
}

static CUresult add(CUlinkState state, CUjitInputType type, const void *data, size_t bytes)
{
    if (!object_is(state, LINK_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    if (!data || !bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_JIT_INPUT_PTX && state->image)
        return CUDA_ERROR_NOT_SUPPORTED; /* binaries cannot be put together */
    char *larger = realloc(state->image, state->bytes + bytes + 16);
    if (!larger)
        return CUDA_ERROR_OUT_OF_MEMORY;
    state->image = larger;
    if (state->bytes && larger[state->bytes - 1] == 0)
        larger[state->bytes - 1] = '\n';
    memcpy(larger + state->bytes, data, bytes);
    state->bytes += bytes;
    memset(larger + state->bytes, 0, 16);
    return CUDA_SUCCESS;
}

CUresult cuLinkCreate(unsigned int count, CUjit_option *options, void **values, CUlinkState *state)
{
    CUresult entered = enter(__func__);
    (void)count, (void)options, (void)values;
    return entered ? entered : create(state);
}

CUresult cuLinkCreate_v2(unsigned int count, CUjit_option *options, void **values, CUlinkState *state)
{
    CUresult entered = enter(__func__);
    (void)count, (void)options, (void)values;
    return entered ? entered : create(state);
}

CUresult cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t bytes, const char *name, unsigned int count, CUjit_option *options, void **values)
{
    CUresult entered = enter(__func__);
    (void)name, (void)count, (void)options, (void)values;
    return entered ? entered : add(state, type, data, bytes);
}

CUresult cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t bytes, const char *name, unsigned int count, CUjit_option *options, void **values)
{
    CUresult entered = enter(__func__);
    (void)name, (void)count, (void)options, (void)values;
    return entered ? entered : add(state, type, data, bytes);
}

CUresult cuLinkComplete(CUlinkState state, void **image, size_t *bytes)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(state, LINK_OBJECT) || !image)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!state->image)
        return CUDA_ERROR_INVALID_VALUE;
    *image = state->image;
    if (bytes)
        *bytes = state->bytes;
    return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState state)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(state, LINK_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    state->object.kind = 0;
    free(state->image);
    free(state);
    return CUDA_SUCCESS;
}
