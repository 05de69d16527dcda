/* Launches of kernels, and what is known of them. */
#include "runtime.h"
#include <string.h>

#define DEEPEST 16

struct configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};

/* `kernel<<<…>>>(…)` leaves what is between the brackets here, and the function that the compiler made takes it. */
static _Thread_local struct configuration pushed[DEEPEST];
static _Thread_local unsigned depth;

EXPORTED unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream)
{
    if (depth == DEEPEST)
        return 1;
    pushed[depth++] = (struct configuration){grid, block, shared, stream};
    return 0;
}

EXPORTED cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream)
{
    if (!depth)
        return answer((CUresult)cudaErrorMissingConfiguration);
    const struct configuration *top = &pushed[--depth];
    *grid = top->grid;
    *block = top->block;
    *shared = top->shared;
    *(cudaStream_t *)stream = top->stream;
    return cudaSuccess;
}

/* The driver takes kernels of libraries where it takes functions. */
static CUfunction as_function(CUkernel kernel)
{
    return (CUfunction)kernel;
}

static CUresult launch(CUkernel kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream)
{
    return cuLaunchKernel(as_function(kernel), grid.x, grid.y, grid.z, block.x, block.y, block.z, (unsigned)shared, stream, arguments, NULL);
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream)
{
    CUkernel kernel;
    return answer(ready() ?: kernel_of(function, &kernel) ?: launch(kernel, grid, block, arguments, shared, stream));
}

EXPORTED cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function)
{
    return answer(ready() ?: kernel_of(function, kernel));
}

cudaError_t cudaGetKernel(cudaKernel_t *kernel, const void *function)
{
    return __cudaGetKernel(kernel, function);
}

EXPORTED cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream)
{
    return answer(ready() ?: launch(kernel, grid, block, arguments, shared, stream));
}

cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream)
{
    CUkernel kernel;
    CUresult result = ready() ?: kernel_of(function, &kernel);
    if (!result)
        result = cuLaunchCooperativeKernel(as_function(kernel), grid.x, grid.y, grid.z, block.x, block.y, block.z, (unsigned)shared, stream, arguments);
    return answer(result);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *wanted, const void *function, void **arguments)
{
    CUkernel kernel;
    if (!wanted)
        return answer(CUDA_ERROR_INVALID_VALUE);
    CUlaunchConfig config = {
        .gridDimX = wanted->gridDim.x,
        .gridDimY = wanted->gridDim.y,
        .gridDimZ = wanted->gridDim.z,
        .blockDimX = wanted->blockDim.x,
        .blockDimY = wanted->blockDim.y,
        .blockDimZ = wanted->blockDim.z,
        .sharedMemBytes = (unsigned)wanted->dynamicSmemBytes,
        .hStream = wanted->stream,
        .attrs = (CUlaunchAttribute *)wanted->attrs,
        .numAttrs = wanted->numAttrs,
    };
    return answer(ready() ?: kernel_of(function, &kernel) ?: cuLaunchKernelEx(&config, as_function(kernel), arguments, NULL));
}

cudaError_t cudaGetFuncBySymbol(cudaFunction_t *function, const void *symbol)
{
    CUkernel kernel;
    return answer(ready() ?: kernel_of(symbol, &kernel) ?: cuKernelGetFunction(function, kernel));
}

cudaError_t cudaFuncSetAttribute(const void *symbol, enum cudaFuncAttribute attribute, int value)
{
    CUkernel kernel;
    CUfunction function;
    return answer(ready() ?: kernel_of(symbol, &kernel) ?: cuKernelGetFunction(&function, kernel) ?: cuFuncSetAttribute(function, (CUfunction_attribute)attribute, value));
}

cudaError_t cudaFuncSetCacheConfig(const void *symbol, enum cudaFuncCache config)
{
    CUkernel kernel;
    CUfunction function;
    return answer(ready() ?: kernel_of(symbol, &kernel) ?: cuKernelGetFunction(&function, kernel) ?: cuFuncSetCacheConfig(function, (CUfunc_cache)config));
}

static CUresult read_attribute(CUfunction function, CUfunction_attribute attribute, int *value)
{
    return cuFuncGetAttribute(value, attribute, function);
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *about, const void *symbol)
{
    CUkernel kernel;
    CUfunction function;
    int shared, constant, local;
    CUresult result = ready() ?: kernel_of(symbol, &kernel) ?: cuKernelGetFunction(&function, kernel);
    if (result || !about)
        return answer(result ?: CUDA_ERROR_INVALID_VALUE);
    memset(about, 0, sizeof *about);
    result = read_attribute(function, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, &shared)
                 ?: read_attribute(function, CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES, &constant)
                 ?: read_attribute(function, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, &local)
                 ?: read_attribute(function, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &about->maxThreadsPerBlock)
                 ?: read_attribute(function, CU_FUNC_ATTRIBUTE_NUM_REGS, &about->numRegs)
                 ?: read_attribute(function, CU_FUNC_ATTRIBUTE_PTX_VERSION, &about->ptxVersion)
                 ?: read_attribute(function, CU_FUNC_ATTRIBUTE_BINARY_VERSION, &about->binaryVersion)
                 ?: read_attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, &about->maxDynamicSharedSizeBytes);
    if (!result) {
        about->sharedSizeBytes = (size_t)shared;
        about->constSizeBytes = (size_t)constant;
        about->localSizeBytes = (size_t)local;
    }
    return answer(result);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *symbol, int block, size_t shared)
{
    CUkernel kernel;
    return answer(ready() ?: kernel_of(symbol, &kernel) ?: cuOccupancyMaxActiveBlocksPerMultiprocessor(count, as_function(kernel), block, shared));
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *symbol, int block, size_t shared, unsigned int flags)
{
    CUkernel kernel;
    return answer(ready() ?: kernel_of(symbol, &kernel) ?: cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(count, as_function(kernel), block, shared, flags));
}
