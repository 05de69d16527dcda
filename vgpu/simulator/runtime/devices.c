/* Devices: which one a thread works on, and what the runtime says of them. */
#include "runtime.h"
#include <pthread.h>
#include <string.h>

#define MOST_DEVICES 256

static _Thread_local int chosen;
static CUcontext primaries[MOST_DEVICES]; /* retained once, for life */
static pthread_mutex_t primaries_lock = PTHREAD_MUTEX_INITIALIZER;

CUresult initialised(void)
{
    return cuInit(0);
}

static CUresult primary_of(CUdevice device, CUcontext *context)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&primaries_lock);
    if (!primaries[device])
        result = cuDevicePrimaryCtxRetain(&primaries[device], device);
    *context = primaries[device];
    pthread_mutex_unlock(&primaries_lock);
    return result;
}

CUresult ready(void)
{
    CUcontext context = NULL;
    CUresult result = initialised() ?: cuCtxGetCurrent(&context);
    if (result || context)
        return result;
    return primary_of(chosen, &context) ?: cuCtxSetCurrent(context);
}

static CUresult check(int device)
{
    int count;
    CUresult result = initialised() ?: cuDeviceGetCount(&count);
    if (result)
        return result;
    return device >= 0 && device < count && device < MOST_DEVICES ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    if (!count)
        return answer(CUDA_ERROR_INVALID_VALUE);
    *count = 0;
    return answer(initialised() ?: cuDeviceGetCount(count));
}

cudaError_t cudaSetDevice(int device)
{
    CUcontext context;
    CUresult result = check(device) ?: primary_of(device, &context) ?: cuCtxSetCurrent(context);
    if (!result)
        chosen = device;
    return answer(result);
}

cudaError_t cudaGetDevice(int *device)
{
    CUcontext context = NULL;
    if (!device)
        return answer(CUDA_ERROR_INVALID_VALUE);
    *device = chosen;
    CUresult result = initialised() ?: cuCtxGetCurrent(&context);
    return answer(result || !context ? result : cuCtxGetDevice(device));
}

cudaError_t cudaInitDevice(int device, unsigned int flags, unsigned int more)
{
    CUcontext context;
    (void)flags, (void)more;
    return answer(check(device) ?: primary_of(device, &context));
}

cudaError_t cudaSetDeviceFlags(unsigned int flags)
{
    return answer(initialised() ?: cuDevicePrimaryCtxSetFlags(chosen, flags & ~(unsigned)cudaDeviceMapHost));
}

cudaError_t cudaDeviceSynchronize(void)
{
    return answer(ready() ?: cuCtxSynchronize());
}

cudaError_t cudaDeviceReset(void)
{
    CUresult result = initialised();
    pthread_mutex_lock(&primaries_lock);
    if (!result && primaries[chosen])
        result = cuDevicePrimaryCtxReset(chosen);
    variables_forget(chosen);
    primaries[chosen] = NULL;
    pthread_mutex_unlock(&primaries_lock);
    return answer(result ?: cuCtxSetCurrent(NULL));
}

cudaError_t cudaDriverGetVersion(int *version)
{
    return answer(cuDriverGetVersion(version));
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    if (!version)
        return answer(CUDA_ERROR_INVALID_VALUE);
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    return answer(check(device) ?: cuDeviceGetAttribute(value, (CUdevice_attribute)attribute, device));
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int room, int device)
{
    return answer(check(device) ?: cuDeviceGetPCIBusId(text, room, device));
}

cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *text)
{
    return answer(initialised() ?: cuDeviceGetByPCIBusId(device, text));
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    return answer(check(device) ?: check(peer) ?: cuDeviceCanAccessPeer(can, device, peer));
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned int flags)
{
    CUcontext context;
    return answer(ready() ?: check(peer) ?: primary_of(peer, &context) ?: cuCtxEnablePeerAccess(context, flags));
}

cudaError_t cudaDeviceDisablePeerAccess(int peer)
{
    CUcontext context;
    return answer(ready() ?: check(peer) ?: primary_of(peer, &context) ?: cuCtxDisablePeerAccess(context));
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    return answer(ready() ?: cuCtxGetStreamPriorityRange(least, greatest));
}

cudaError_t cudaDeviceGetLimit(size_t *value, enum cudaLimit limit)
{
    return answer(ready() ?: cuCtxGetLimit(value, (CUlimit)limit));
}

cudaError_t cudaDeviceSetLimit(enum cudaLimit limit, size_t value)
{
    return answer(ready() ?: cuCtxSetLimit((CUlimit)limit, value));
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned int version, unsigned long long flags, enum cudaDriverEntryPointQueryResult *status)
{
    CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    CUresult result = cuGetProcAddress(name, function, (int)version, flags, &found);
    if (status)
        *status = (enum cudaDriverEntryPointQueryResult)found;
    return answer(result);
}

/* The driver has nothing to profile, so there is nothing to tell it. Declared in cuda_profiler_api.h. */
EXPORTED cudaError_t cudaProfilerStart(void)
{
    return answer(ready());
}

EXPORTED cudaError_t cudaProfilerStop(void)
{
    return answer(ready());
}
