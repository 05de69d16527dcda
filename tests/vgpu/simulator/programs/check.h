/* What the programs of these tests share: checks that say what failed, and a kernel that takes as long as it is told. */
#ifndef CHECK_H
#define CHECK_H

#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void expect_(CUresult got, CUresult wanted, const char *call, int line)
{
    const char *name = "unknown", *other = "unknown";
    if (got == wanted)
        return;
    cuGetErrorName(got, &name);
    cuGetErrorName(wanted, &other);
    fprintf(stderr, "line %d: %s gave %s, not %s\n", line, call, name, other);
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

/* PTX for a real card; the comment is for the simulated one. */
static const char image[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    "// simulated kernel spin block_ns=@0 parameters=8\n"
    "// simulated global counter 8\n"
    ".visible .global .align 8 .b8 counter[8];\n"
    ".visible .entry spin(.param .u64 ns)\n{\n"
    ".reg .u64 %start, %now, %span;\n.reg .pred %more;\n"
    "ld.param.u64 %span, [ns];\nmov.u64 %start, %globaltimer;\n"
    "AGAIN:\nmov.u64 %now, %globaltimer;\nsub.u64 %now, %now, %start;\nsetp.lt.u64 %more, %now, %span;\n@%more bra AGAIN;\nret;\n}\n";

static CUcontext context;
static CUfunction spin;

static inline void start(void)
{
    CUmodule module;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, image));
    OK(cuModuleGetFunction(&spin, module, "spin"));
}

static inline void launch(unsigned blocks, unsigned long long ns, CUstream stream)
{
    void *parameters[] = {&ns};
    OK(cuLaunchKernel(spin, blocks, 1, 1, 64, 1, 1, 0, stream, parameters, NULL));
}

static inline size_t free_bytes(void)
{
    size_t available, total;
    OK(cuMemGetInfo(&available, &total));
    return available;
}

#endif
