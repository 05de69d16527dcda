/* The last error of each thread, and the names of errors. */
#include "runtime.h"

struct named_error {
    cudaError_t error;
    const char *name;
};

#define NAMED(name) {name, #name},
static const struct named_error names[] = {
#include "error_names.h"
};
#undef NAMED

static _Thread_local cudaError_t last;

cudaError_t answer(CUresult result)
{
    if (result)
        last = (cudaError_t)result;
    return (cudaError_t)result;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last;
    last = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last;
}

const char *cudaGetErrorName(cudaError_t error)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].error == error)
            return names[i].name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    const char *text;
    return cuGetErrorString((CUresult)error, &text) ? "unrecognized error code" : text;
}
