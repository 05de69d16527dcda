/* Each thread's stack of current contexts. */
#include "driver.h"

#define DEPTH 64

static _Thread_local struct CUctx_st *stack[DEPTH];
static _Thread_local unsigned depth;

void current_push(struct CUctx_st *context)
{
    if (depth < DEPTH)
        stack[depth++] = context;
}

struct CUctx_st *current_pop(void)
{
    return depth ? stack[--depth] : NULL;
}

struct CUctx_st *current_top(void)
{
    return depth ? stack[depth - 1] : NULL;
}

void current_set(struct CUctx_st *context)
{
    if (!context)
        current_pop();
    else if (depth)
        stack[depth - 1] = context;
    else
        current_push(context);
}

CUresult context_current(struct CUctx_st **context)
{
    *context = current_top();
    if (!*context)
        return CUDA_ERROR_INVALID_CONTEXT;
    return object_is(*context, CONTEXT_OBJECT) ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}
