/* A program of a container that does what it is asked, a line each, and answers with the driver's result: "init" (may be repeated until
   it succeeds), "alloc MIB", "free" (the newest), "launch" (some kernels, and waits for them); "info" answers "FREE TOTAL" in MiB. */
#include "../../simulator/programs/check.h"

#define MIB ((size_t)1024 * 1024)

static CUresult launches(void)
{
    static CUfunction function;
    unsigned long long ns = 50000;
    void *parameters[] = {&ns};
    CUmodule module;
    CUresult result = function ? CUDA_SUCCESS : cuModuleLoadData(&module, image);
    if (!result && !function)
        result = cuModuleGetFunction(&function, module, "spin");
    for (int i = 0; i < 20 && !result; i++)
        result = cuLaunchKernel(function, 100, 1, 1, 64, 1, 1, 0, NULL, parameters, NULL);
    return result ? result : cuCtxSynchronize();
}

static CUresult begin(void)
{
    CUresult result = cuInit(0);
    if (!result)
        result = cuDevicePrimaryCtxRetain(&context, 0);
    return result ? result : cuCtxSetCurrent(context);
}

int main(void)
{
    static CUdeviceptr address[4096];
    int count = 0;
    size_t mib, available = 0, total = 0;
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        CUresult result = CUDA_ERROR_INVALID_VALUE;
        if (strcmp(line, "init\n") == 0)
            result = begin();
        else if (strcmp(line, "launch\n") == 0)
            result = launches();
        else if (strcmp(line, "free\n") == 0 && count)
            result = cuMemFree(address[--count]);
        else if (sscanf(line, "alloc %zu", &mib) == 1 && count < 4096)
            result = cuMemAlloc(&address[count], mib * MIB);
        else if (strcmp(line, "info\n") == 0)
            result = cuMemGetInfo(&available, &total);
        if (line[0] == 'a' && !result)
            count++;
        if (line[0] == 'i' && line[2] == 'f' && !result)
            printf("%zu %zu\n", available / MIB, total / MIB);
        else
            printf("%d\n", (int)result);
        fflush(stdout);
    }
    return 0;
}
