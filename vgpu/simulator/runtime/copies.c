/* Copies and fills. Where memory lies follows from its address, so the direction that a program names is not looked at. */
#include "runtime.h"
#include <stdint.h>

CUdeviceptr address_of(const void *pointer)
{
    return (CUdeviceptr)(uintptr_t)pointer;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    (void)kind;
    return answer(ready() ?: cuMemcpy(address_of(to), address_of(from), bytes));
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    (void)kind;
    return answer(ready() ?: cuMemcpyAsync(address_of(to), address_of(from), bytes, stream));
}

/* All devices and the host have one space of addresses, so the numbers of the devices say nothing new. */
cudaError_t cudaMemcpyPeer(void *to, int to_device, const void *from, int from_device, size_t bytes)
{
    (void)to_device, (void)from_device;
    return cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes, cudaStream_t stream)
{
    (void)to_device, (void)from_device;
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}

static CUDA_MEMCPY2D rectangle(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height)
{
    return (CUDA_MEMCPY2D){
        .srcMemoryType = CU_MEMORYTYPE_UNIFIED,
        .srcDevice = address_of(from),
        .srcPitch = from_pitch,
        .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
        .dstDevice = address_of(to),
        .dstPitch = to_pitch,
        .WidthInBytes = width,
        .Height = height,
    };
}

cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, enum cudaMemcpyKind kind)
{
    CUDA_MEMCPY2D copy = rectangle(to, to_pitch, from, from_pitch, width, height);
    (void)kind;
    return answer(ready() ?: cuMemcpy2DUnaligned(&copy));
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    CUDA_MEMCPY2D copy = rectangle(to, to_pitch, from, from_pitch, width, height);
    (void)kind;
    return answer(ready() ?: cuMemcpy2DAsync(&copy, stream));
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return answer(ready() ?: cuMemsetD8(address_of(to), (unsigned char)value, bytes));
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    return answer(ready() ?: cuMemsetD8Async(address_of(to), (unsigned char)value, bytes, stream));
}

cudaError_t cudaMemset2D(void *to, size_t pitch, int value, size_t width, size_t height)
{
    return answer(ready() ?: cuMemsetD2D8(address_of(to), pitch, (unsigned char)value, width, height));
}

cudaError_t cudaMemset2DAsync(void *to, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream)
{
    return answer(ready() ?: cuMemsetD2D8Async(address_of(to), pitch, (unsigned char)value, width, height, stream));
}

static CUresult inside_of(const void *symbol, size_t offset, size_t bytes, CUdeviceptr *address)
{
    size_t room = 0;
    CUresult result = variable_of(symbol, address, &room);
    if (!result && (offset > room || bytes > room - offset))
        result = CUDA_ERROR_INVALID_VALUE;
    *address += offset;
    return result;
}

cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t bytes, size_t offset, enum cudaMemcpyKind kind)
{
    CUdeviceptr to = 0;
    (void)kind;
    return answer(ready() ?: inside_of(symbol, offset, bytes, &to) ?: cuMemcpy(to, address_of(from), bytes));
}

cudaError_t cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, enum cudaMemcpyKind kind)
{
    CUdeviceptr from = 0;
    (void)kind;
    return answer(ready() ?: inside_of(symbol, offset, bytes, &from) ?: cuMemcpy(address_of(to), from, bytes));
}

cudaError_t cudaMemcpyToSymbolAsync(const void *symbol, const void *from, size_t bytes, size_t offset, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    CUdeviceptr to = 0;
    (void)kind;
    return answer(ready() ?: inside_of(symbol, offset, bytes, &to) ?: cuMemcpyAsync(to, address_of(from), bytes, stream));
}

cudaError_t cudaMemcpyFromSymbolAsync(void *to, const void *symbol, size_t bytes, size_t offset, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    CUdeviceptr from = 0;
    (void)kind;
    return answer(ready() ?: inside_of(symbol, offset, bytes, &from) ?: cuMemcpyAsync(address_of(to), from, bytes, stream));
}

cudaError_t cudaGetSymbolAddress(void **pointer, const void *symbol)
{
    CUdeviceptr address = 0;
    size_t bytes;
    CUresult result = ready() ?: variable_of(symbol, &address, &bytes);
    if (!result)
        *pointer = (void *)(uintptr_t)address;
    return answer(result);
}

cudaError_t cudaGetSymbolSize(size_t *bytes, const void *symbol)
{
    CUdeviceptr address;
    return answer(ready() ?: variable_of(symbol, &address, bytes));
}
