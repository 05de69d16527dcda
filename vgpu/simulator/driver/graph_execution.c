/* Executable graphs. */
#include "graph.h"

static unsigned next_id = 1;

static CUresult instantiate(CUgraphExec *made, CUgraph graph, unsigned long long flags)
{
    if (!made || !object_is(graph, GRAPH_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!graph_sort(graph))
        return CUDA_ERROR_INVALID_VALUE;
    struct CUgraphExec_st *exec = object_new(EXEC_OBJECT, sizeof *exec);
    exec->graph = graph_copy(graph);
    exec->flags = flags;
    exec->id = __atomic_fetch_add(&next_id, 1, __ATOMIC_RELAXED);
    *made = exec;
    return CUDA_SUCCESS;
}

static CUresult instantiate_old(CUgraphExec *made, CUgraph graph, CUgraphNode *wrong, char *text, size_t room)
{
    if (wrong)
        *wrong = NULL;
    if (text && room)
        *text = 0;
    return instantiate(made, graph, 0);
}

CUresult cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *wrong, char *text, size_t room)
{
    CUresult entered = enter(__func__);
    return entered ? entered : instantiate_old(exec, graph, wrong, text, room);
}

CUresult cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *wrong, char *text, size_t room)
{
    CUresult entered = enter(__func__);
    return entered ? entered : instantiate_old(exec, graph, wrong, text, room);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags)
{
    CUresult entered = enter(__func__);
    return entered ? entered : instantiate(exec, graph, flags);
}

static CUresult instantiate_with(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *parameters)
{
    if (!parameters)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = instantiate(exec, graph, parameters->flags);
    parameters->hErrNode_out = NULL;
    parameters->result_out = result ? CUDA_GRAPH_INSTANTIATE_ERROR : CUDA_GRAPH_INSTANTIATE_SUCCESS;
    return result;
}
ON_STREAM(cuGraphInstantiateWithParams, _ptsz, (CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *parameters),
          ((void)standard, instantiate_with(exec, graph, parameters)))

CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(exec, EXEC_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    graph_end(exec->graph);
    object_end(exec);
    return CUDA_SUCCESS;
}

CUresult cuGraphExecGetFlags(CUgraphExec exec, cuuint64_t *flags)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(exec, EXEC_OBJECT) || !flags)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = exec->flags;
    return CUDA_SUCCESS;
}

static CUresult launch(CUgraphExec exec, CUstream handle, CUstream standard)
{
    struct CUstream_st *stream;
    if (!object_is(exec, EXEC_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = stream_of(handle, standard, &stream);
    if (result)
        return result;
    struct operation operation = {.kind = GRAPH, .graph = exec->graph};
    if (stream->capture)
        operation.graph = graph_copy(exec->graph);
    return perform(stream, &operation);
}
ON_STREAM(cuGraphLaunch, _ptsz, (CUgraphExec exec, CUstream stream), launch(exec, stream, standard))

static CUresult upload(CUgraphExec exec, CUstream handle, CUstream standard)
{
    struct CUstream_st *stream;
    return object_is(exec, EXEC_OBJECT) ? stream_of(handle, standard, &stream) : CUDA_ERROR_INVALID_VALUE;
}
ON_STREAM(cuGraphUpload, _ptsz, (CUgraphExec exec, CUstream stream), upload(exec, stream, standard))

/* Nodes are compared by their place; each may only get other parameters. */
static CUgraphExecUpdateResult update(struct CUgraph_st *to, struct CUgraph_st *from, CUgraphNode *wrong)
{
    *wrong = NULL;
    if (!graph_sort(from) || from->count != to->count)
        return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    for (size_t i = 0; i < from->count; i++) {
        *wrong = from->nodes[i];
        if (from->nodes[i]->dependency_count != to->nodes[i]->dependency_count)
            return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        if (from->nodes[i]->type != to->nodes[i]->type)
            return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
    }
    *wrong = NULL;
    for (size_t i = 0; i < from->count; i++) {
        if (from->nodes[i]->operation.kind != GRAPH)
            node_set(to->nodes[i], &from->nodes[i]->operation);
        to->nodes[i]->original = from->nodes[i];
    }
    return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

CUresult cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode *wrong, CUgraphExecUpdateResult *outcome)
{
    CUgraphNode node;
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(exec, EXEC_OBJECT) || !object_is(graph, GRAPH_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    CUgraphExecUpdateResult result = update(exec->graph, graph, &node);
    if (wrong)
        *wrong = node;
    if (outcome)
        *outcome = result;
    return result == CU_GRAPH_EXEC_UPDATE_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
}

CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo *outcome)
{
    CUgraphNode node;
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(exec, EXEC_OBJECT) || !object_is(graph, GRAPH_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    CUgraphExecUpdateResult result = update(exec->graph, graph, &node);
    if (outcome)
        *outcome = (CUgraphExecUpdateResultInfo){.result = result, .errorNode = node};
    return result == CU_GRAPH_EXEC_UPDATE_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
}

CUresult cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode node, unsigned int enabled)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    struct CUgraphNode_st *copy = object_is(exec, EXEC_OBJECT) ? graph_find_copy(exec->graph, node) : NULL;
    if (!copy || (copy->operation.kind != LAUNCH && copy->operation.kind != MOVE && copy->operation.kind != FILL))
        return CUDA_ERROR_INVALID_VALUE;
    copy->disabled = !enabled;
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetEnabled(CUgraphExec exec, CUgraphNode node, unsigned int *enabled)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    struct CUgraphNode_st *copy = object_is(exec, EXEC_OBJECT) ? graph_find_copy(exec->graph, node) : NULL;
    if (!copy || !enabled)
        return CUDA_ERROR_INVALID_VALUE;
    *enabled = !copy->disabled;
    return CUDA_SUCCESS;
}
