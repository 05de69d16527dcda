/* Streams that are being captured: what is submitted to them is not run but becomes part of a graph. */
#include "compute.h"

static uint32_t captures; /* begun and not ended */

void captures_after_fork(void)
{
    captures = 0;
}

bool is_captured(CUstream stream, bool per_thread)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (!__atomic_load_n(&captures, __ATOMIC_RELAXED))
        return false;
    CUresult result = (per_thread ? driver()->cuStreamIsCapturing_ptsz : driver()->cuStreamIsCapturing)(stream, &status);
    return result || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* A capture may forbid its thread, or all threads, to ask for events, and would be spoilt by it. */
struct relaxed captures_relax(void)
{
    struct relaxed relaxed = {.changed = __atomic_load_n(&captures, __ATOMIC_RELAXED) != 0, .mode = CU_STREAM_CAPTURE_MODE_RELAXED};
    if (relaxed.changed)
        relaxed.changed = driver()->cuThreadExchangeStreamCaptureMode(&relaxed.mode) == CUDA_SUCCESS;
    return relaxed;
}

void captures_restore(struct relaxed *relaxed)
{
    if (relaxed->changed)
        driver()->cuThreadExchangeStreamCaptureMode(&relaxed->mode);
}

static CUresult begun(CUresult result)
{
    if (!result)
        __atomic_add_fetch(&captures, 1, __ATOMIC_RELAXED);
    return result;
}

/* Also one that was spoilt is over now; a call that was no end of anything is not counted. */
static CUresult ended(CUresult result)
{
    uint32_t count = __atomic_load_n(&captures, __ATOMIC_RELAXED);
    if (result == CUDA_ERROR_ILLEGAL_STATE || result == CUDA_ERROR_INVALID_VALUE || result == CUDA_ERROR_STREAM_CAPTURE_UNMATCHED ||
        result == CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD)
        return result;
    while (count && !__atomic_compare_exchange_n(&captures, &count, count - 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return result;
}

EXPORTED CUresult cuStreamBeginCapture(CUstream stream)
{
    return begun(driver()->cuStreamBeginCapture(stream));
}

EXPORTED CUresult cuStreamBeginCapture_ptsz(CUstream stream)
{
    return begun(driver()->cuStreamBeginCapture_ptsz(stream));
}

EXPORTED CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode)
{
    return begun(driver()->cuStreamBeginCapture_v2(stream, mode));
}

EXPORTED CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, CUstreamCaptureMode mode)
{
    return begun(driver()->cuStreamBeginCapture_v2_ptsz(stream, mode));
}

EXPORTED CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode *dependencies, const CUgraphEdgeData *edges,
                                              size_t count, CUstreamCaptureMode mode)
{
    return begun(driver()->cuStreamBeginCaptureToGraph(stream, graph, dependencies, edges, count, mode));
}

EXPORTED CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph, const CUgraphNode *dependencies,
                                                   const CUgraphEdgeData *edges, size_t count, CUstreamCaptureMode mode)
{
    return begun(driver()->cuStreamBeginCaptureToGraph_ptsz(stream, graph, dependencies, edges, count, mode));
}

EXPORTED CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    return ended(driver()->cuStreamEndCapture(stream, graph));
}

EXPORTED CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph *graph)
{
    return ended(driver()->cuStreamEndCapture_ptsz(stream, graph));
}
