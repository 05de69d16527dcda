/* Changes of nodes, attributes and graph memory. */
#include "graph.h"
#include <string.h>

static CUresult set(CUgraphNode node, enum operation_kind kind, const struct operation *operation)
{
    if (!object_is(node, NODE_OBJECT) || node->operation.kind != kind)
        return CUDA_ERROR_INVALID_VALUE;
    node_set(node, operation);
    return CUDA_SUCCESS;
}

static CUresult set_in(CUgraphExec exec, CUgraphNode node, enum operation_kind kind, const struct operation *operation)
{
    if (!object_is(exec, EXEC_OBJECT) || !object_is(node, NODE_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    return set(graph_find_copy(exec->graph, node), kind, operation);
}

static CUresult kernel(struct operation *operation, const CUDA_KERNEL_NODE_PARAMS_v1 *old)
{
    if (!old)
        return CUDA_ERROR_INVALID_VALUE;
    *operation = (struct operation){.kind = LAUNCH};
    memcpy(&operation->launch.parameters, old, sizeof *old);
    CUresult result = launch_check(&operation->launch.parameters, false);
    if (!result)
        operation->launch.block_ns = launch_block_ns(&operation->launch.parameters);
    return result;
}

CUresult cuGraphKernelNodeSetParams(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1 *old)
{
    struct operation operation;
    CUresult result = enter(__func__);
    if (!result)
        result = kernel(&operation, old);
    return result ? result : set(node, LAUNCH, &operation);
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1 *old)
{
    struct operation operation;
    CUresult result = enter(__func__);
    if (!result)
        result = kernel(&operation, old);
    return result ? result : set_in(exec, node, LAUNCH, &operation);
}

CUresult cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D *copy)
{
    CUresult result = enter(__func__);
    if (!result)
        result = copy ? move_check(copy) : CUDA_ERROR_INVALID_VALUE;
    return result ? result : set(node, MOVE, &(struct operation){.kind = MOVE, .move = *copy});
}

CUresult cuGraphMemsetNodeSetParams(CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *fill)
{
    CUresult result = enter(__func__);
    if (!result && !fill)
        result = CUDA_ERROR_INVALID_VALUE;
    return result ? result : set(node, FILL, &(struct operation){.kind = FILL, .fill = *fill});
}

CUresult cuGraphHostNodeSetParams(CUgraphNode node, const CUDA_HOST_NODE_PARAMS *host)
{
    CUresult result = enter(__func__);
    if (!result && (!host || !host->fn))
        result = CUDA_ERROR_INVALID_VALUE;
    return result ? result : set(node, CALL, &(struct operation){.kind = CALL, .call = {.function = host->fn, .data = host->userData}});
}

static CUresult set_event(CUgraphExec exec, CUgraphNode node, enum operation_kind kind, CUevent event, bool in_exec)
{
    struct operation operation = {.kind = kind, .event = event};
    if (!object_is(event, EVENT_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    return in_exec ? set_in(exec, node, kind, &operation) : set(node, kind, &operation);
}

CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode node, CUevent event)
{
    CUresult entered = enter(__func__);
    return entered ? entered : set_event(NULL, node, RECORD_EVENT, event, false);
}

CUresult cuGraphEventWaitNodeSetEvent(CUgraphNode node, CUevent event)
{
    CUresult entered = enter(__func__);
    return entered ? entered : set_event(NULL, node, AWAIT_EVENT, event, false);
}

CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event)
{
    CUresult entered = enter(__func__);
    return entered ? entered : set_event(exec, node, RECORD_EVENT, event, true);
}

CUresult cuGraphExecEventWaitNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event)
{
    CUresult entered = enter(__func__);
    return entered ? entered : set_event(exec, node, AWAIT_EVENT, event, true);
}

CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec exec, CUgraphNode node, CUgraph child)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    struct CUgraphNode_st *copy = object_is(exec, EXEC_OBJECT) ? graph_find_copy(exec->graph, node) : NULL;
    if (!copy || copy->operation.kind != GRAPH || !object_is(child, GRAPH_OBJECT) || !graph_sort(child) ||
        copy->operation.graph->count != child->count)
        return CUDA_ERROR_INVALID_VALUE;
    graph_end(copy->operation.graph);
    copy->operation.graph = graph_copy(child);
    copy->operation.graph->child = true;
    return CUDA_SUCCESS;
}

/* Nodes that waited for it wait for nothing in its place. */
CUresult cuGraphDestroyNode(CUgraphNode node)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(node, NODE_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    struct CUgraph_st *graph = node->graph;
    for (size_t i = 0; i < graph->count; i++) {
        struct CUgraphNode_st *other = graph->nodes[i];
        for (size_t d = 0; d < other->dependency_count;) {
            if (other->dependencies[d] == node)
                other->dependencies[d] = other->dependencies[--other->dependency_count];
            else
                d++;
        }
    }
    size_t place = 0;
    while (place < graph->count && graph->nodes[place] != node)
        place++;
    if (place < graph->count)
        memmove(&graph->nodes[place], &graph->nodes[place + 1], (--graph->count - place) * sizeof *graph->nodes);
    object_end(node);
    return CUDA_SUCCESS;
}

CUresult cuGraphGetId(CUgraph graph, unsigned int *id)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(graph, GRAPH_OBJECT) || !id)
        return CUDA_ERROR_INVALID_VALUE;
    *id = graph->id;
    return CUDA_SUCCESS;
}

CUresult cuGraphExecGetId(CUgraphExec exec, unsigned int *id)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(exec, EXEC_OBJECT) || !id)
        return CUDA_ERROR_INVALID_VALUE;
    *id = exec->id;
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetLocalId(CUgraphNode node, unsigned int *id)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(node, NODE_OBJECT) || !id)
        return CUDA_ERROR_INVALID_VALUE;
    *id = node->id;
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetContainingGraph(CUgraphNode node, CUgraph *graph)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(node, NODE_OBJECT) || !graph)
        return CUDA_ERROR_INVALID_VALUE;
    *graph = node->graph;
    return CUDA_SUCCESS;
}

/* What the graphs' allocations use is counted in the device's pool. */
CUresult cuDeviceGraphMemTrim(CUdevice device)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    pools_trim();
    return CUDA_SUCCESS;
}
