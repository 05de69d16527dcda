/* Large fills, and copies within a card: the multiprocessors do them, so they are device time as kernels are. Copies from and to the host
   are done by engines of their own, and keep no kernel waiting. Small ones are over before anybody could be asked. */
#include "lanes.h"

#define LEAST (UINT64_C(1) << 20) /* bytes */
#define UNIT (UINT64_C(1) << 16)  /* costs are learnt by so many */

#define MOVED(symbol, where, waits, parameters, kind, bytes, arguments)                 \
    EXPORTED CUresult symbol parameters                                                 \
    {                                                                                   \
        where;                                                                          \
        uint64_t moved = (bytes);                                                       \
        if (moved < LEAST)                                                              \
            return driver()->symbol arguments;                                          \
        COUNTED_AND(waits, kind, moved / UNIT, driver()->symbol arguments);             \
    }
#define NOW(symbol, parameters, kind, bytes, arguments)                                                                    \
    MOVED(symbol, CUstream stream = NULL; const bool per_thread = false, true, parameters, kind, bytes, arguments)         \
    MOVED(symbol##_ptds, CUstream stream = NULL; const bool per_thread = true, true, parameters, kind, bytes, arguments)
#define LATER(symbol, parameters, kind, bytes, arguments)                                              \
    MOVED(symbol, const bool per_thread = false, false, parameters, kind, bytes, arguments)            \
    MOVED(symbol##_ptsz, const bool per_thread = true, false, parameters, kind, bytes, arguments)

static const char fills[5], copies[1]; /* their addresses stand for functions */

NOW(cuMemsetD8_v2, (CUdeviceptr to, unsigned char value, size_t count), &fills[1], count * 1, (to, value, count))
NOW(cuMemsetD2D8_v2, (CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height), &fills[1], width * height * 1,
    (to, pitch, value, width, height))
LATER(cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t count, CUstream stream), &fills[1], count * 1,
      (to, value, count, stream))
LATER(cuMemsetD2D8Async, (CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height, CUstream stream), &fills[1],
      width * height * 1, (to, pitch, value, width, height, stream))
NOW(cuMemsetD16_v2, (CUdeviceptr to, unsigned short value, size_t count), &fills[2], count * 2, (to, value, count))
NOW(cuMemsetD2D16_v2, (CUdeviceptr to, size_t pitch, unsigned short value, size_t width, size_t height), &fills[2], width * height * 2,
    (to, pitch, value, width, height))
LATER(cuMemsetD16Async, (CUdeviceptr to, unsigned short value, size_t count, CUstream stream), &fills[2], count * 2,
      (to, value, count, stream))
LATER(cuMemsetD2D16Async, (CUdeviceptr to, size_t pitch, unsigned short value, size_t width, size_t height, CUstream stream), &fills[2],
      width * height * 2, (to, pitch, value, width, height, stream))
NOW(cuMemsetD32_v2, (CUdeviceptr to, unsigned int value, size_t count), &fills[4], count * 4, (to, value, count))
NOW(cuMemsetD2D32_v2, (CUdeviceptr to, size_t pitch, unsigned int value, size_t width, size_t height), &fills[4], width * height * 4,
    (to, pitch, value, width, height))
LATER(cuMemsetD32Async, (CUdeviceptr to, unsigned int value, size_t count, CUstream stream), &fills[4], count * 4,
      (to, value, count, stream))
LATER(cuMemsetD2D32Async, (CUdeviceptr to, size_t pitch, unsigned int value, size_t width, size_t height, CUstream stream), &fills[4],
      width * height * 4, (to, pitch, value, width, height, stream))
NOW(cuMemcpyDtoD_v2, (CUdeviceptr to, CUdeviceptr from, size_t count), copies, count, (to, from, count))
LATER(cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t count, CUstream stream), copies, count, (to, from, count, stream))

static bool on_card(CUdeviceptr address)
{
    unsigned int type = 0;
    return !driver()->cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) && type == CU_MEMORYTYPE_DEVICE;
}

/* Of a copy that does not say between what it is. */
static size_t within(CUdeviceptr to, CUdeviceptr from, size_t count)
{
    return count >= LEAST && on_card(to) && on_card(from) ? count : 0;
}

NOW(cuMemcpy, (CUdeviceptr to, CUdeviceptr from, size_t count), copies, within(to, from, count), (to, from, count))
LATER(cuMemcpyAsync, (CUdeviceptr to, CUdeviceptr from, size_t count, CUstream stream), copies, within(to, from, count),
      (to, from, count, stream))

static bool is_on_card(CUmemorytype type, CUdeviceptr address)
{
    return type == CU_MEMORYTYPE_DEVICE || type == CU_MEMORYTYPE_ARRAY || (type == CU_MEMORYTYPE_UNIFIED && on_card(address));
}

/* Of a copy of rows. */
static size_t rows(const CUDA_MEMCPY2D *copy)
{
    bool counts = copy && is_on_card(copy->srcMemoryType, copy->srcDevice) && is_on_card(copy->dstMemoryType, copy->dstDevice);
    return counts ? copy->WidthInBytes * copy->Height : 0;
}

static size_t layers(const CUDA_MEMCPY3D *copy)
{
    bool counts = copy && is_on_card(copy->srcMemoryType, copy->srcDevice) && is_on_card(copy->dstMemoryType, copy->dstDevice);
    return counts ? copy->WidthInBytes * copy->Height * copy->Depth : 0;
}

NOW(cuMemcpy2D_v2, (const CUDA_MEMCPY2D *copy), copies, rows(copy), (copy))
NOW(cuMemcpy2DUnaligned_v2, (const CUDA_MEMCPY2D *copy), copies, rows(copy), (copy))
NOW(cuMemcpy3D_v2, (const CUDA_MEMCPY3D *copy), copies, layers(copy), (copy))
LATER(cuMemcpy2DAsync_v2, (const CUDA_MEMCPY2D *copy, CUstream stream), copies, rows(copy), (copy, stream))
LATER(cuMemcpy3DAsync_v2, (const CUDA_MEMCPY3D *copy, CUstream stream), copies, layers(copy), (copy, stream))

static size_t batch(const CUdeviceptr *to, const CUdeviceptr *from, const size_t *sizes, size_t count)
{
    size_t all = 0, counts = 0;
    if (!to || !from || !sizes)
        return 0;
    for (size_t i = 0; i < count; i++)
        all += sizes[i];
    for (size_t i = 0; i < count && all >= LEAST; i++)
        if (on_card(to[i]) && on_card(from[i]))
            counts += sizes[i];
    return counts;
}

LATER(cuMemcpyBatchAsync_v2, (CUdeviceptr *to, CUdeviceptr *from, size_t *sizes, size_t count, CUmemcpyAttributes *attributes, size_t *of,
      size_t number, CUstream stream), copies, batch(to, from, sizes, count), (to, from, sizes, count, attributes, of, number, stream))
LATER(cuMemcpyBatchAsync, (CUdeviceptr *to, CUdeviceptr *from, size_t *sizes, size_t count, CUmemcpyAttributes *attributes, size_t *of,
      size_t number, size_t *failed, CUstream stream), copies, batch(to, from, sizes, count),
      (to, from, sizes, count, attributes, of, number, failed, stream))
