/* The calls that launch kernels and graphs. Each asks its lane first. */
#include "lanes.h"

static inline uint64_t product(unsigned x, unsigned y, unsigned z)
{
    return (uint64_t)x * y * z;
}

#define KERNEL_ARGUMENTS                                                                                                        \
    CUfunction function, unsigned int x, unsigned int y, unsigned int z, unsigned int block_x, unsigned int block_y,             \
        unsigned int block_z, unsigned int shared, CUstream stream, void **parameters

static inline CUresult launch_kernel(KERNEL_ARGUMENTS, void **extra, bool per_thread, __typeof__(cuLaunchKernel) *call)
{
    COUNTED(function, product(x, y, z), call(function, x, y, z, block_x, block_y, block_z, shared, stream, parameters, extra));
}

EXPORTED CUresult cuLaunchKernel(KERNEL_ARGUMENTS, void **extra)
{
    return launch_kernel(function, x, y, z, block_x, block_y, block_z, shared, stream, parameters, extra, false, driver()->cuLaunchKernel);
}

EXPORTED CUresult cuLaunchKernel_ptsz(KERNEL_ARGUMENTS, void **extra)
{
    return launch_kernel(function, x, y, z, block_x, block_y, block_z, shared, stream, parameters, extra, true, driver()->cuLaunchKernel_ptsz);
}

static inline CUresult launch_cooperative(KERNEL_ARGUMENTS, bool per_thread, __typeof__(cuLaunchCooperativeKernel) *call)
{
    COUNTED(function, product(x, y, z), call(function, x, y, z, block_x, block_y, block_z, shared, stream, parameters));
}

EXPORTED CUresult cuLaunchCooperativeKernel(KERNEL_ARGUMENTS)
{
    return launch_cooperative(function, x, y, z, block_x, block_y, block_z, shared, stream, parameters, false, driver()->cuLaunchCooperativeKernel);
}

EXPORTED CUresult cuLaunchCooperativeKernel_ptsz(KERNEL_ARGUMENTS)
{
    return launch_cooperative(function, x, y, z, block_x, block_y, block_z, shared, stream, parameters, true,
                              driver()->cuLaunchCooperativeKernel_ptsz);
}

static inline CUresult launch_extended(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra, bool per_thread,
                                       __typeof__(cuLaunchKernelEx) *call)
{
    if (!config)
        return call(config, function, parameters, extra);
    CUstream stream = config->hStream;
    COUNTED(function, product(config->gridDimX, config->gridDimY, config->gridDimZ), call(config, function, parameters, extra));
}

EXPORTED CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra)
{
    return launch_extended(config, function, parameters, extra, false, driver()->cuLaunchKernelEx);
}

EXPORTED CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra)
{
    return launch_extended(config, function, parameters, extra, true, driver()->cuLaunchKernelEx_ptsz);
}

static inline CUresult launch_graph(CUgraphExec graph, CUstream stream, bool per_thread, __typeof__(cuGraphLaunch) *call)
{
    COUNTED(graph, 1, call(graph, stream));
}

EXPORTED CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream)
{
    return launch_graph(graph, stream, false, driver()->cuGraphLaunch);
}

EXPORTED CUresult cuGraphLaunch_ptsz(CUgraphExec graph, CUstream stream)
{
    return launch_graph(graph, stream, true, driver()->cuGraphLaunch_ptsz);
}

/* Counted on the card of the first part, whose context is current as a rule. */
EXPORTED CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *parts, unsigned int count, unsigned int flags)
{
    const bool per_thread = false;
    if (!parts || !count)
        return driver()->cuLaunchCooperativeKernelMultiDevice(parts, count, flags);
    CUstream stream = parts->hStream;
    COUNTED(parts->function, product(parts->gridDimX, parts->gridDimY, parts->gridDimZ),
            driver()->cuLaunchCooperativeKernelMultiDevice(parts, count, flags));
}

/* Of CUDA before 4: the size of the block is the function's. */
EXPORTED CUresult cuLaunchGridAsync(CUfunction function, int width, int height, CUstream stream)
{
    const bool per_thread = false;
    COUNTED(function, product((unsigned)width, (unsigned)height, 1), driver()->cuLaunchGridAsync(function, width, height, stream));
}

EXPORTED CUresult cuLaunchGrid(CUfunction function, int width, int height)
{
    const bool per_thread = false;
    CUstream stream = NULL;
    COUNTED(function, product((unsigned)width, (unsigned)height, 1), driver()->cuLaunchGrid(function, width, height));
}

EXPORTED CUresult cuLaunch(CUfunction function)
{
    const bool per_thread = false;
    CUstream stream = NULL;
    COUNTED(function, 1, driver()->cuLaunch(function));
}
