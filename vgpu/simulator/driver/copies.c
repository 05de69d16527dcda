/* The calls that copy. A synchronous one waits in the default stream and moves the data after everything before it. */
#include "driver.h"

static CUresult copy_now(const CUDA_MEMCPY3D *move, CUstream standard)
{
    struct CUstream_st *stream;
    uint64_t since = monotonic_ns();
    CUresult result = stream_of(NULL, standard, &stream);
    if (!result)
        result = capture_unsafe();
    if (!result)
        result = move_check(move);
    if (result || !move_bytes(move))
        return result;
    const struct card_description *about = card_of(stream->context->device);
    enum copy_path path = move_path(move);
    uint64_t rate = path == ON_DEVICE ? about->device_copy_bytes_per_us : about->host_copy_bytes_per_us;
    uint64_t number = submit(stream, &(struct command){.kind = COPY, .target = path, .each_ns = about->copy_latency_ns + move_bytes(move) * 1000 / rate});
    clock_spend(driver.machine, since, about->launch_host_ns);
    stream_wait(stream, number);
    move_now(move);
    return CUDA_SUCCESS;
}

static CUresult copy_later(const CUDA_MEMCPY3D *move, CUstream handle, CUstream standard)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (!result)
        result = move_check(move);
    if (result || !move_bytes(move))
        return result;
    return perform(stream, &(struct operation){.kind = MOVE, .move = *move});
}

static CUDA_MEMCPY3D line(CUmemorytype to_type, void *to_host, CUdeviceptr to, CUmemorytype from_type, const void *from_host, CUdeviceptr from, size_t bytes)
{
    return (CUDA_MEMCPY3D){.srcMemoryType = from_type, .srcHost = from_host, .srcDevice = from,
                           .dstMemoryType = to_type, .dstHost = to_host, .dstDevice = to,
                           .WidthInBytes = bytes, .Height = 1, .Depth = 1};
}

static CUDA_MEMCPY3D any(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return line(CU_MEMORYTYPE_UNIFIED, NULL, to, CU_MEMORYTYPE_UNIFIED, NULL, from, bytes);
}

static CUDA_MEMCPY3D down(CUdeviceptr to, const void *from, size_t bytes)
{
    return line(CU_MEMORYTYPE_DEVICE, NULL, to, CU_MEMORYTYPE_HOST, from, 0, bytes);
}

static CUDA_MEMCPY3D up(void *to, CUdeviceptr from, size_t bytes)
{
    return line(CU_MEMORYTYPE_HOST, to, 0, CU_MEMORYTYPE_DEVICE, NULL, from, bytes);
}

static CUDA_MEMCPY3D across(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return line(CU_MEMORYTYPE_DEVICE, NULL, to, CU_MEMORYTYPE_DEVICE, NULL, from, bytes);
}

static CUDA_MEMCPY3D into_array(CUarray to, size_t offset, CUDA_MEMCPY3D move)
{
    move.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    move.dstArray = to;
    move.dstXInBytes = offset;
    return move;
}

static CUDA_MEMCPY3D from_array(CUarray from, size_t offset, CUDA_MEMCPY3D move)
{
    move.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    move.srcArray = from;
    move.srcXInBytes = offset;
    return move;
}

static CUDA_MEMCPY3D flat(const CUDA_MEMCPY2D *copy)
{
    return (CUDA_MEMCPY3D){.srcXInBytes = copy->srcXInBytes, .srcY = copy->srcY, .srcMemoryType = copy->srcMemoryType, .srcHost = copy->srcHost,
                           .srcDevice = copy->srcDevice, .srcArray = copy->srcArray, .srcPitch = copy->srcPitch,
                           .dstXInBytes = copy->dstXInBytes, .dstY = copy->dstY, .dstMemoryType = copy->dstMemoryType, .dstHost = copy->dstHost,
                           .dstDevice = copy->dstDevice, .dstArray = copy->dstArray, .dstPitch = copy->dstPitch,
                           .WidthInBytes = copy->WidthInBytes, .Height = copy->Height, .Depth = 1};
}

/* The contexts of a copy between cards say nothing that the addresses do not. */
static CUDA_MEMCPY3D peer(const CUDA_MEMCPY3D_PEER *copy)
{
    return (CUDA_MEMCPY3D){.srcXInBytes = copy->srcXInBytes, .srcY = copy->srcY, .srcZ = copy->srcZ, .srcMemoryType = copy->srcMemoryType,
                           .srcHost = copy->srcHost, .srcDevice = copy->srcDevice, .srcArray = copy->srcArray, .srcPitch = copy->srcPitch,
                           .srcHeight = copy->srcHeight, .dstXInBytes = copy->dstXInBytes, .dstY = copy->dstY, .dstZ = copy->dstZ,
                           .dstMemoryType = copy->dstMemoryType, .dstHost = copy->dstHost, .dstDevice = copy->dstDevice,
                           .dstArray = copy->dstArray, .dstPitch = copy->dstPitch, .dstHeight = copy->dstHeight,
                           .WidthInBytes = copy->WidthInBytes, .Height = copy->Height, .Depth = copy->Depth};
}

#define NOW(name, parameters, move) ON_STREAM(name, _ptds, parameters, copy_now(&(CUDA_MEMCPY3D[]){move}[0], standard))
#define LATER(name, parameters, move) ON_STREAM(name, _ptsz, parameters, copy_later(&(CUDA_MEMCPY3D[]){move}[0], stream, standard))

NOW(cuMemcpy, (CUdeviceptr to, CUdeviceptr from, size_t bytes), any(to, from, bytes))
NOW(cuMemcpyHtoD_v2, (CUdeviceptr to, const void *from, size_t bytes), down(to, from, bytes))
NOW(cuMemcpyDtoH_v2, (void *to, CUdeviceptr from, size_t bytes), up(to, from, bytes))
NOW(cuMemcpyDtoD_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes), across(to, from, bytes))
NOW(cuMemcpyDtoA_v2, (CUarray to, size_t offset, CUdeviceptr from, size_t bytes), into_array(to, offset, across(0, from, bytes)))
NOW(cuMemcpyAtoD_v2, (CUdeviceptr to, CUarray from, size_t offset, size_t bytes), from_array(from, offset, across(to, 0, bytes)))
NOW(cuMemcpyHtoA_v2, (CUarray to, size_t offset, const void *from, size_t bytes), into_array(to, offset, down(0, from, bytes)))
NOW(cuMemcpyAtoH_v2, (void *to, CUarray from, size_t offset, size_t bytes), from_array(from, offset, up(to, 0, bytes)))
NOW(cuMemcpyAtoA_v2, (CUarray to, size_t to_offset, CUarray from, size_t from_offset, size_t bytes),
    into_array(to, to_offset, from_array(from, from_offset, across(0, 0, bytes))))
NOW(cuMemcpy2D_v2, (const CUDA_MEMCPY2D *copy), flat(copy))
NOW(cuMemcpy2DUnaligned_v2, (const CUDA_MEMCPY2D *copy), flat(copy))
NOW(cuMemcpy3D_v2, (const CUDA_MEMCPY3D *copy), *copy)
NOW(cuMemcpy3DPeer, (const CUDA_MEMCPY3D_PEER *copy), peer(copy))
NOW(cuMemcpyPeer, (CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t bytes),
    ((void)to_context, (void)from_context, across(to, from, bytes)))

LATER(cuMemcpyAsync, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream), any(to, from, bytes))
LATER(cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream), down(to, from, bytes))
LATER(cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream stream), up(to, from, bytes))
LATER(cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream), across(to, from, bytes))
LATER(cuMemcpyHtoAAsync_v2, (CUarray to, size_t offset, const void *from, size_t bytes, CUstream stream), into_array(to, offset, down(0, from, bytes)))
LATER(cuMemcpyAtoHAsync_v2, (void *to, CUarray from, size_t offset, size_t bytes, CUstream stream), from_array(from, offset, up(to, 0, bytes)))
LATER(cuMemcpy2DAsync_v2, (const CUDA_MEMCPY2D *copy, CUstream stream), flat(copy))
LATER(cuMemcpy3DAsync_v2, (const CUDA_MEMCPY3D *copy, CUstream stream), *copy)
LATER(cuMemcpy3DPeerAsync, (const CUDA_MEMCPY3D_PEER *copy, CUstream stream), peer(copy))
LATER(cuMemcpyPeerAsync, (CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t bytes, CUstream stream),
      ((void)to_context, (void)from_context, across(to, from, bytes)))

static CUresult batch(CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count, size_t *failed, CUstream stream, CUstream standard)
{
    if (!to || !from || !bytes || !count)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        CUDA_MEMCPY3D move = any(to[i], from[i], bytes[i]);
        CUresult result = copy_later(&move, stream, standard);
        if (result) {
            if (failed)
                *failed = i;
            return result;
        }
    }
    return CUDA_SUCCESS;
}
ON_STREAM(cuMemcpyBatchAsync, _ptsz,
          (CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count, CUmemcpyAttributes *attributes, size_t *indices, size_t number, size_t *failed, CUstream stream),
          ((void)attributes, (void)indices, (void)number, batch(to, from, bytes, count, failed, stream, standard)))
ON_STREAM(cuMemcpyBatchAsync_v2, _ptsz,
          (CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count, CUmemcpyAttributes *attributes, size_t *indices, size_t number, CUstream stream),
          ((void)attributes, (void)indices, (void)number, batch(to, from, bytes, count, NULL, stream, standard)))
