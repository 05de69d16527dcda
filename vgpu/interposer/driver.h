/* The real driver, as the library calls it: functions that it stands in for, and those that it asks. */
#ifndef TESSERA_DRIVER_H
#define TESSERA_DRIVER_H

#define __CUDA_API_VERSION_INTERNAL
#define __CUDA_API_PUSH_VISIBILITY_DEFAULT
#include <cuda.h>
#include <stdbool.h>
#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))
#define MIB (UINT64_C(1) << 20)

struct driver {
#define HOOK(symbol, type) __typeof__(type) *symbol;
#define LEGACY(symbol)
#include "hooks.h"
#undef HOOK
#undef LEGACY
    __typeof__(cuCtxGetCurrent) *cuCtxGetCurrent;
    __typeof__(cuCtxGetDevice) *cuCtxGetDevice;
    __typeof__(cuCtxPushCurrent_v2) *cuCtxPushCurrent_v2;
    __typeof__(cuCtxPopCurrent_v2) *cuCtxPopCurrent_v2;
    __typeof__(cuDevicePrimaryCtxGetState) *cuDevicePrimaryCtxGetState;
    __typeof__(cuDeviceGetUuid) *cuDeviceGetUuid;
    __typeof__(cuDeviceGetUuid_v2) *cuDeviceGetUuid_v2;
    __typeof__(cuDeviceGetMemPool) *cuDeviceGetMemPool;
    __typeof__(cuDeviceGetDefaultMemPool) *cuDeviceGetDefaultMemPool;
    __typeof__(cuMemPoolGetAttribute) *cuMemPoolGetAttribute;
    __typeof__(cuPointerGetAttribute) *cuPointerGetAttribute;
    __typeof__(cuStreamGetCtx) *cuStreamGetCtx;
    __typeof__(cuStreamIsCapturing) *cuStreamIsCapturing, *cuStreamIsCapturing_ptsz;
    __typeof__(cuThreadExchangeStreamCaptureMode) *cuThreadExchangeStreamCaptureMode;
    __typeof__(cuEventCreate) *cuEventCreate;
    __typeof__(cuEventDestroy_v2) *cuEventDestroy_v2;
    __typeof__(cuEventRecord) *cuEventRecord, *cuEventRecord_ptsz;
    __typeof__(cuEventQuery) *cuEventQuery;
    __typeof__(cuEventElapsedTime) *cuEventElapsedTime;
};

/* loading.c: finds the driver at the first use. A function that it lacks answers CUDA_ERROR_NOT_SUPPORTED, a driver that is missing
   CUDA_ERROR_NO_DEVICE; so every member may always be called. */
const struct driver *driver(void);
void *driver_substitute(void *function); /* the library's own function for one of the driver's; else the function itself */
void *driver_named(const char *name);    /* the library's own function of that name, NULL if it has none */

#endif
