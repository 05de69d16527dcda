/* cuMemset and its kin. */
#include "driver.h"
#include <string.h>

void fill_now(const CUDA_MEMSET_NODE_PARAMS *fill)
{
    for (size_t y = 0; y < fill->height; y++) {
        char *row = (char *)(uintptr_t)fill->dst + y * fill->pitch;
        if (fill->elementSize == 1) {
            memset(row, (int)fill->value, fill->width);
            continue;
        }
        for (size_t x = 0; x < fill->width; x++)
            memcpy(row + x * fill->elementSize, &fill->value, fill->elementSize);
    }
}

static CUresult fill(CUdeviceptr to, size_t pitch, unsigned value, unsigned element, size_t width, size_t height, CUstream handle, CUstream standard, bool wait)
{
    struct CUstream_st *stream;
    CUDA_MEMSET_NODE_PARAMS parameters = {.dst = to, .pitch = pitch, .value = value, .elementSize = element, .width = width, .height = height};
    CUresult result = stream_of(handle, standard, &stream);
    if (result || !width || !height)
        return result;
    if (to % element || (height > 1 && pitch < width * element))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    const struct region *region = region_find(to);
    bool inside = region && region->region_kind != RESERVED_REGION &&
                  (region->region_kind == MAPPED_REGION || (height - 1) * pitch + width * element <= region->bytes - (to - region->base));
    pthread_mutex_unlock(&driver.lock);
    if (!inside)
        return CUDA_ERROR_INVALID_VALUE;
    result = perform(stream, &(struct operation){.kind = FILL, .fill = parameters});
    if (!result && wait && !stream->capture)
        stream_wait(stream, stream_submitted(stream));
    return result;
}

#define NOW(name, parameters, arguments) ON_STREAM(name, _ptds, parameters, fill arguments)
#define LATER(name, parameters, arguments) ON_STREAM(name, _ptsz, parameters, fill arguments)

NOW(cuMemsetD8_v2, (CUdeviceptr to, unsigned char value, size_t count), (to, 0, value, 1, count, 1, NULL, standard, true))
NOW(cuMemsetD16_v2, (CUdeviceptr to, unsigned short value, size_t count), (to, 0, value, 2, count, 1, NULL, standard, true))
NOW(cuMemsetD32_v2, (CUdeviceptr to, unsigned int value, size_t count), (to, 0, value, 4, count, 1, NULL, standard, true))
NOW(cuMemsetD2D8_v2, (CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height), (to, pitch, value, 1, width, height, NULL, standard, true))
NOW(cuMemsetD2D16_v2, (CUdeviceptr to, size_t pitch, unsigned short value, size_t width, size_t height), (to, pitch, value, 2, width, height, NULL, standard, true))
NOW(cuMemsetD2D32_v2, (CUdeviceptr to, size_t pitch, unsigned int value, size_t width, size_t height), (to, pitch, value, 4, width, height, NULL, standard, true))

LATER(cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t count, CUstream stream), (to, 0, value, 1, count, 1, stream, standard, false))
LATER(cuMemsetD16Async, (CUdeviceptr to, unsigned short value, size_t count, CUstream stream), (to, 0, value, 2, count, 1, stream, standard, false))
LATER(cuMemsetD32Async, (CUdeviceptr to, unsigned int value, size_t count, CUstream stream), (to, 0, value, 4, count, 1, stream, standard, false))
LATER(cuMemsetD2D8Async, (CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height, CUstream stream), (to, pitch, value, 1, width, height, stream, standard, false))
LATER(cuMemsetD2D16Async, (CUdeviceptr to, size_t pitch, unsigned short value, size_t width, size_t height, CUstream stream), (to, pitch, value, 2, width, height, stream, standard, false))
LATER(cuMemsetD2D32Async, (CUdeviceptr to, size_t pitch, unsigned int value, size_t width, size_t height, CUstream stream), (to, pitch, value, 4, width, height, stream, standard, false))
