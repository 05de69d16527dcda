/* What the parts of the simulated CUDA runtime share. It is a thin layer over the driver: streams, events, graphs, pools, libraries and
   kernels are the driver's own handles, and most numbers of errors and attributes are the same in both. */
#ifndef SIMULATOR_RUNTIME_H
#define SIMULATOR_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(default)
#include <cuda.h>
#include <cuda_runtime_api.h>
#pragma GCC visibility pop

/* For functions that cuda_runtime_api.h does not declare: compilers put calls of them into programs. */
#define EXPORTED __attribute__((visibility("default")))

/* devices.c: with a context for the calling thread, the primary one of its device unless it has made another current. `CUDA_SUCCESS` is 0, so
   calls are written `ready() ?: cuCall(…)`. */
CUresult ready(void);
CUresult initialised(void);

/* errors.c: returns the result as the runtime's, and keeps it as the thread's last error if it is one. */
cudaError_t answer(CUresult result);

/* registration.c: the kernel behind a function of the program, or behind a handle of the driver. */
CUresult kernel_of(const void *symbol, CUkernel *kernel);
CUresult variable_of(const void *symbol, CUdeviceptr *address, size_t *bytes);
void variables_forget(CUdevice device);

/* copies.c */
CUdeviceptr address_of(const void *pointer);

#endif
