/* Streams that are captured: what they are given becomes a graph, with the order that streams and events give it. */
#include "graph.h"
#include <stdlib.h>
#include <string.h>

#define PARTICIPANTS 64
#define TAILS 32

struct participant {
    struct CUstream_st *stream;
    struct CUgraphNode_st *tails[TAILS]; /* what the stream's next node waits for */
    size_t count;
};

struct capture {
    struct capture *next;
    unsigned long long id;
    CUstreamCaptureMode mode;
    pthread_t thread;
    struct CUstream_st *origin;
    struct CUgraph_st *graph;
    bool own_graph, invalid, ended;
    struct participant participants[PARTICIPANTS];
    size_t count;
};

/* Captures are kept: an event that was recorded in one stays a captured event until it is recorded again. */
static struct capture *captures;
static unsigned long long next_id = 1;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

static struct participant *participant_of(struct capture *capture, const struct CUstream_st *stream)
{
    for (size_t i = 0; i < capture->count; i++)
        if (capture->participants[i].stream == stream)
            return &capture->participants[i];
    return NULL;
}

static struct participant *join(struct capture *capture, struct CUstream_st *stream)
{
    struct participant *participant = participant_of(capture, stream);
    if (!participant && capture->count < PARTICIPANTS) {
        participant = &capture->participants[capture->count++];
        *participant = (struct participant){.stream = stream};
        stream->capture = capture;
    }
    return participant;
}

static void add_tail(struct participant *participant, struct CUgraphNode_st *node)
{
    for (size_t i = 0; i < participant->count; i++)
        if (participant->tails[i] == node)
            return;
    if (participant->count < TAILS)
        participant->tails[participant->count++] = node;
}

static CUresult begin(CUstream handle, CUstream standard, CUstreamCaptureMode mode, CUgraph graph, const CUgraphNode *after, size_t count)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    if (mode > CU_STREAM_CAPTURE_MODE_RELAXED || count > TAILS || (graph && !object_is(graph, GRAPH_OBJECT)))
        return CUDA_ERROR_INVALID_VALUE;
    if (stream == stream->context->legacy)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture)
        return CUDA_ERROR_ILLEGAL_STATE;
    struct capture *capture = calloc(1, sizeof *capture);
    if (!capture)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&guard);
    capture->id = next_id++;
    capture->mode = mode;
    capture->thread = pthread_self();
    capture->origin = stream;
    capture->own_graph = !graph;
    capture->graph = graph ? graph : graph_new();
    struct participant *origin = join(capture, stream);
    for (size_t i = 0; i < count; i++)
        add_tail(origin, after[i]);
    capture->next = captures;
    captures = capture;
    pthread_mutex_unlock(&guard);
    return CUDA_SUCCESS;
}
ON_STREAM(cuStreamBeginCapture, _ptsz, (CUstream stream), begin(stream, standard, CU_STREAM_CAPTURE_MODE_GLOBAL, NULL, NULL, 0))
ON_STREAM(cuStreamBeginCapture_v2, _ptsz, (CUstream stream, CUstreamCaptureMode mode), begin(stream, standard, mode, NULL, NULL, 0))
ON_STREAM(cuStreamBeginCaptureToGraph, _ptsz, (CUstream stream, CUgraph graph, const CUgraphNode *after, const CUgraphEdgeData *data, size_t count, CUstreamCaptureMode mode),
          ((void)data, graph ? begin(stream, standard, mode, graph, after, count) : CUDA_ERROR_INVALID_VALUE))

/* All streams that took part must have come back to the one that began. */
static bool is_joined(struct capture *capture)
{
    const struct participant *origin = participant_of(capture, capture->origin);
    for (size_t i = 0; i < capture->count; i++)
        for (size_t t = 0; t < capture->participants[i].count; t++) {
            bool reached = false;
            for (size_t o = 0; !reached && o < origin->count; o++)
                reached = node_depends(origin->tails[o], capture->participants[i].tails[t]);
            if (!reached)
                return false;
        }
    return true;
}

static CUresult end(CUstream handle, CUstream standard, CUgraph *graph)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    if (!graph)
        return CUDA_ERROR_INVALID_VALUE;
    struct capture *capture = stream->capture;
    if (!capture)
        return CUDA_ERROR_ILLEGAL_STATE;
    if (capture->origin != stream)
        return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(capture->thread, pthread_self()))
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    pthread_mutex_lock(&guard);
    if (capture->invalid)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (!is_joined(capture))
        result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    for (size_t i = 0; i < capture->count; i++)
        capture->participants[i].stream->capture = NULL;
    capture->ended = true;
    *graph = result ? NULL : capture->graph;
    pthread_mutex_unlock(&guard);
    if (result && capture->own_graph)
        graph_end(capture->graph);
    return result;
}
ON_STREAM(cuStreamEndCapture, _ptsz, (CUstream stream, CUgraph *graph), end(stream, standard, graph))

CUresult capture_add(struct CUstream_st *stream, const struct operation *operation)
{
    struct capture *capture = stream->capture;
    if (capture->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    pthread_mutex_lock(&guard);
    struct participant *participant = participant_of(capture, stream);
    struct CUgraphNode_st *node = node_add(capture->graph, operation, participant->tails, participant->count);
    if (operation->kind == ALLOCATE)
        graph_own_memory(capture->graph, operation->allocation.dptr);
    participant->tails[0] = node;
    participant->count = 1;
    pthread_mutex_unlock(&guard);
    return CUDA_SUCCESS;
}

CUresult capture_record(struct CUstream_st *stream, CUevent event)
{
    struct capture *capture = stream->capture;
    if (capture->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    const struct participant *participant = participant_of(capture, stream);
    struct CUgraphNode_st **nodes = calloc(TAILS, sizeof *nodes);
    if (!nodes)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(nodes, participant->tails, participant->count * sizeof *nodes);
    free(event->captured);
    event->captured = nodes;
    event->captured_count = participant->count;
    event->capture = capture;
    return CUDA_SUCCESS;
}

CUresult capture_wait(struct CUstream_st *stream, CUevent event)
{
    struct capture *from = event->capture, *to = stream->capture;
    if (!from) {
        to->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (from->ended || from->invalid)
        return from->ended ? CUDA_ERROR_CAPTURED_EVENT : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (to && to != from) {
        to->invalid = from->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    pthread_mutex_lock(&guard);
    struct participant *participant = join(from, stream);
    for (size_t i = 0; participant && i < event->captured_count; i++)
        add_tail(participant, event->captured[i]);
    pthread_mutex_unlock(&guard);
    return participant ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult capture_refuse(struct CUstream_st *stream)
{
    if (!stream->capture)
        return CUDA_SUCCESS;
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

static bool forbids(const struct capture *capture)
{
    bool own = pthread_equal(capture->thread, pthread_self());
    if (capture->ended || capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED || thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return false;
    return own || (capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL);
}

CUresult capture_unsafe(void)
{
    CUresult result = CUDA_SUCCESS;
    if (!__atomic_load_n(&captures, __ATOMIC_ACQUIRE))
        return result;
    pthread_mutex_lock(&guard);
    for (struct capture *capture = captures; capture; capture = capture->next)
        if (forbids(capture)) {
            capture->invalid = true;
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    pthread_mutex_unlock(&guard);
    return result;
}

bool capture_blocks_legacy(struct CUstream_st *stream)
{
    bool blocked = false;
    if (stream != stream->context->legacy || !__atomic_load_n(&captures, __ATOMIC_ACQUIRE))
        return false;
    pthread_mutex_lock(&guard);
    for (struct capture *capture = captures; capture; capture = capture->next)
        for (size_t i = 0; !capture->ended && i < capture->count; i++)
            if (capture->participants[i].stream->context == stream->context && !(capture->participants[i].stream->flags & CU_STREAM_NON_BLOCKING))
                blocked = capture->invalid = true;
    pthread_mutex_unlock(&guard);
    return blocked;
}

static CUresult status(CUstream handle, CUstream standard, CUstreamCaptureStatus *state, cuuint64_t *id, CUgraph *graph, const CUgraphNode **nodes, const CUgraphEdgeData **data, size_t *count)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    if (!state)
        return CUDA_ERROR_INVALID_VALUE;
    struct capture *capture = stream->capture;
    if (!capture && capture_blocks_legacy(stream))
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    *state = !capture ? CU_STREAM_CAPTURE_STATUS_NONE : capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    if (*state != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        return CUDA_SUCCESS;
    const struct participant *participant = participant_of(capture, stream);
    if (id)
        *id = capture->id;
    if (graph)
        *graph = capture->graph;
    if (nodes)
        *nodes = participant->tails;
    if (data)
        *data = NULL;
    if (count)
        *count = participant->count;
    return CUDA_SUCCESS;
}
ON_STREAM(cuStreamIsCapturing, _ptsz, (CUstream stream, CUstreamCaptureStatus *state), status(stream, standard, state, NULL, NULL, NULL, NULL, NULL))
ON_STREAM(cuStreamGetCaptureInfo, _ptsz, (CUstream stream, CUstreamCaptureStatus *state, cuuint64_t *id), status(stream, standard, state, id, NULL, NULL, NULL, NULL))
ON_STREAM(cuStreamGetCaptureInfo_v2, _ptsz, (CUstream stream, CUstreamCaptureStatus *state, cuuint64_t *id, CUgraph *graph, const CUgraphNode **nodes, size_t *count),
          status(stream, standard, state, id, graph, nodes, NULL, count))
ON_STREAM(cuStreamGetCaptureInfo_v3, _ptsz,
          (CUstream stream, CUstreamCaptureStatus *state, cuuint64_t *id, CUgraph *graph, const CUgraphNode **nodes, const CUgraphEdgeData **data, size_t *count),
          status(stream, standard, state, id, graph, nodes, data, count))

static CUresult update(CUstream handle, CUstream standard, const CUgraphNode *nodes, size_t count, unsigned flags)
{
    struct CUstream_st *stream;
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    if (!stream->capture)
        return CUDA_ERROR_ILLEGAL_STATE;
    if (count > TAILS || (count && !nodes) || flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES)
        return CUDA_ERROR_INVALID_VALUE;
    struct participant *participant = participant_of(stream->capture, stream);
    if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES)
        participant->count = 0;
    for (size_t i = 0; i < count; i++)
        add_tail(participant, nodes[i]);
    return CUDA_SUCCESS;
}
ON_STREAM(cuStreamUpdateCaptureDependencies, _ptsz, (CUstream stream, CUgraphNode *nodes, size_t count, unsigned int flags), update(stream, standard, nodes, count, flags))
ON_STREAM(cuStreamUpdateCaptureDependencies_v2, _ptsz, (CUstream stream, CUgraphNode *nodes, const CUgraphEdgeData *data, size_t count, unsigned int flags),
          ((void)data, update(stream, standard, nodes, count, flags)))

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!mode || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    CUstreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}
