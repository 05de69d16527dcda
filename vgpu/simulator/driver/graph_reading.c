/* What a graph is made of. */
#include "graph.h"
#include <stdlib.h>
#include <string.h>

/* Callers first ask how many there are, with no list, then for as many as they have room for; what is left over is NULL. */
static void give(CUgraphNode *list, size_t *count, CUgraphNode *found, size_t number)
{
    for (size_t i = 0; list && i < *count; i++)
        list[i] = i < number ? found[i] : NULL;
    if (!list || *count > number)
        *count = number;
}

CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(graph, GRAPH_OBJECT) || !count)
        return CUDA_ERROR_INVALID_VALUE;
    give(nodes, count, graph->nodes, graph->count);
    return CUDA_SUCCESS;
}

CUresult cuGraphGetRootNodes(CUgraph graph, CUgraphNode *nodes, size_t *count)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(graph, GRAPH_OBJECT) || !count)
        return CUDA_ERROR_INVALID_VALUE;
    CUgraphNode *roots = calloc(graph->count + 1, sizeof *roots);
    size_t number = 0;
    if (!roots)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < graph->count; i++)
        if (!graph->nodes[i]->dependency_count)
            roots[number++] = graph->nodes[i];
    give(nodes, count, roots, number);
    free(roots);
    return CUDA_SUCCESS;
}

static CUresult edges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data, size_t *count)
{
    size_t number = 0;
    if (!object_is(graph, GRAPH_OBJECT) || !count)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < graph->count; i++)
        for (size_t d = 0; d < graph->nodes[i]->dependency_count; d++, number++)
            if (from && to && number < *count) {
                from[number] = graph->nodes[i]->dependencies[d];
                to[number] = graph->nodes[i];
                if (data)
                    memset(&data[number], 0, sizeof *data);
            }
    if (!from || *count > number)
        *count = number;
    return CUDA_SUCCESS;
}

CUresult cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : edges(graph, from, to, NULL, count);
}

CUresult cuGraphGetEdges_v2(CUgraph graph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data, size_t *count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : edges(graph, from, to, data, count);
}

static CUresult dependencies(CUgraphNode node, CUgraphNode *list, CUgraphEdgeData *data, size_t *count)
{
    if (!object_is(node, NODE_OBJECT) || !count)
        return CUDA_ERROR_INVALID_VALUE;
    if (data && list)
        memset(data, 0, *count * sizeof *data);
    give(list, count, node->dependencies, node->dependency_count);
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode *list, size_t *count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : dependencies(node, list, NULL, count);
}

CUresult cuGraphNodeGetDependencies_v2(CUgraphNode node, CUgraphNode *list, CUgraphEdgeData *data, size_t *count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : dependencies(node, list, data, count);
}

static CUresult dependents(CUgraphNode node, CUgraphNode *list, CUgraphEdgeData *data, size_t *count)
{
    if (!object_is(node, NODE_OBJECT) || !count)
        return CUDA_ERROR_INVALID_VALUE;
    const struct CUgraph_st *graph = node->graph;
    CUgraphNode *found = calloc(graph->count + 1, sizeof *found);
    size_t number = 0;
    if (!found)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < graph->count; i++)
        for (size_t d = 0; d < graph->nodes[i]->dependency_count; d++)
            if (graph->nodes[i]->dependencies[d] == node)
                found[number++] = graph->nodes[i];
    if (data && list)
        memset(data, 0, *count * sizeof *data);
    give(list, count, found, number);
    free(found);
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode *list, size_t *count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : dependents(node, list, NULL, count);
}

CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode node, CUgraphNode *list, CUgraphEdgeData *data, size_t *count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : dependents(node, list, data, count);
}

static CUresult connect(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!object_is(from[i], NODE_OBJECT) || !object_is(to[i], NODE_OBJECT) || from[i]->graph != graph || to[i]->graph != graph)
            return CUDA_ERROR_INVALID_VALUE;
        CUgraphNode *list = realloc(to[i]->dependencies, (to[i]->dependency_count + 1) * sizeof *list);
        if (!list)
            return CUDA_ERROR_OUT_OF_MEMORY;
        to[i]->dependencies = list;
        list[to[i]->dependency_count++] = from[i];
    }
    return CUDA_SUCCESS;
}

static CUresult disconnect(const CUgraphNode *from, const CUgraphNode *to, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t place = 0;
        if (!object_is(to[i], NODE_OBJECT))
            return CUDA_ERROR_INVALID_VALUE;
        while (place < to[i]->dependency_count && to[i]->dependencies[place] != from[i])
            place++;
        if (place == to[i]->dependency_count)
            return CUDA_ERROR_INVALID_VALUE;
        to[i]->dependencies[place] = to[i]->dependencies[--to[i]->dependency_count];
    }
    return CUDA_SUCCESS;
}

CUresult cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : connect(graph, from, to, count);
}

CUresult cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *data, size_t count)
{
    CUresult entered = enter(__func__);
    (void)data;
    return entered ? entered : connect(graph, from, to, count);
}

CUresult cuGraphRemoveDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t count)
{
    CUresult entered = enter(__func__);
    (void)graph;
    return entered ? entered : disconnect(from, to, count);
}

CUresult cuGraphRemoveDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *data, size_t count)
{
    CUresult entered = enter(__func__);
    (void)graph;
    (void)data;
    return entered ? entered : disconnect(from, to, count);
}

static CUresult known(CUgraphNode node, enum operation_kind kind, const void *result)
{
    return result && object_is(node, NODE_OBJECT) && node->operation.kind == kind ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType *type)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(node, NODE_OBJECT) || !type)
        return CUDA_ERROR_INVALID_VALUE;
    *type = node->type;
    return CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS *parameters)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, LAUNCH, parameters)))
        *parameters = node->operation.launch.parameters;
    return result;
}

CUresult cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v1 *parameters)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, LAUNCH, parameters)))
        memcpy(parameters, &node->operation.launch.parameters, sizeof *parameters);
    return result;
}

CUresult cuGraphMemcpyNodeGetParams(CUgraphNode node, CUDA_MEMCPY3D *parameters)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, MOVE, parameters)))
        *parameters = node->operation.move;
    return result;
}

CUresult cuGraphMemsetNodeGetParams(CUgraphNode node, CUDA_MEMSET_NODE_PARAMS *parameters)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, FILL, parameters)))
        *parameters = node->operation.fill;
    return result;
}

CUresult cuGraphHostNodeGetParams(CUgraphNode node, CUDA_HOST_NODE_PARAMS *parameters)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, CALL, parameters)))
        *parameters = (CUDA_HOST_NODE_PARAMS){.fn = node->operation.call.function, .userData = node->operation.call.data};
    return result;
}

CUresult cuGraphMemAllocNodeGetParams(CUgraphNode node, CUDA_MEM_ALLOC_NODE_PARAMS *parameters)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, ALLOCATE, parameters)))
        *parameters = node->operation.allocation;
    return result;
}

CUresult cuGraphMemFreeNodeGetParams(CUgraphNode node, CUdeviceptr *address)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, RELEASE, address)))
        *address = node->operation.address;
    return result;
}

CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode node, CUevent *event)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, RECORD_EVENT, event)))
        *event = node->operation.event;
    return result;
}

CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode node, CUevent *event)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, AWAIT_EVENT, event)))
        *event = node->operation.event;
    return result;
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph *graph)
{
    CUresult result = enter(__func__);
    if (!result && !(result = known(node, GRAPH, graph)))
        *graph = node->operation.graph;
    return result;
}
