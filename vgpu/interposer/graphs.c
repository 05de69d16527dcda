/* Nodes of graphs that allocate memory: what the standard pool of their device grows by when they are added. */
#include "pools.h"

struct node_call {
    CUgraphNode *node;
    CUgraph graph;
    const CUgraphNode *dependencies;
    const CUgraphEdgeData *edges;
    size_t count;
    void *parameters;
    int version; /* of cuGraphAddNode; 0: cuGraphAddMemAllocNode */
};

static CUresult ask(void *argument)
{
    const struct node_call *call = argument;
    const struct driver *to = driver();
    switch (call->version) {
    case 0:
        return to->cuGraphAddMemAllocNode(call->node, call->graph, call->dependencies, call->count, call->parameters);
    case 1:
        return to->cuGraphAddNode(call->node, call->graph, call->dependencies, call->count, call->parameters);
    case 2:
        return to->cuGraphAddNode_v2(call->node, call->graph, call->dependencies, call->edges, call->count, call->parameters);
    default:
        return to->cuGraphAddNode_v3(call->node, call->graph, call->dependencies, call->edges, call->count, call->parameters);
    }
}

/* A node that allocates cannot be taken out of its graph again; the program is told, and the graph is of no use to it. */
static void keep(void *argument)
{
    (void)argument;
}

static bool do_not_wait(void *argument)
{
    (void)argument;
    return false;
}

static CUresult add_allocation(struct node_call *call, const CUmemLocation *place, size_t bytes)
{
    CUmemoryPool handle;
    if (!usage_joined())
        return CUDA_ERROR_NOT_INITIALIZED;
    if (place->type != CU_MEM_LOCATION_TYPE_DEVICE)
        return ask(call);
    if (card_of_device(place->id) == NO_CARD)
        return CUDA_ERROR_INVALID_DEVICE;
    CUresult result = driver()->cuDeviceGetDefaultMemPool(&handle, place->id);
    if (result)
        return result;
    pools_lock();
    struct pool *pool = pool_of(handle);
    result = pool ? pool_grow(pool, bytes, &(struct growing){ask, keep, do_not_wait, call}) : CUDA_ERROR_OUT_OF_MEMORY;
    pools_unlock();
    return result;
}

EXPORTED CUresult cuGraphAddMemAllocNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, CUDA_MEM_ALLOC_NODE_PARAMS *parameters)
{
    struct node_call call = {node, graph, dependencies, NULL, count, parameters, 0};
    return parameters ? add_allocation(&call, &parameters->poolProps.location, parameters->bytesize) : ask(&call);
}

static CUresult add_node(struct node_call *call)
{
    const CUgraphNodeParams *parameters = call->parameters;
    if (!parameters || parameters->type != CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        return ask(call);
    return add_allocation(call, &parameters->alloc.poolProps.location, parameters->alloc.bytesize);
}

EXPORTED CUresult cuGraphAddNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, CUgraphNodeParams *parameters)
{
    return add_node(&(struct node_call){node, graph, dependencies, NULL, count, parameters, 1});
}

EXPORTED CUresult cuGraphAddNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *parameters)
{
    return add_node(&(struct node_call){node, graph, dependencies, edges, count, parameters, 2});
}

EXPORTED CUresult cuGraphAddNode_v3(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *parameters)
{
    return add_node(&(struct node_call){node, graph, dependencies, edges, count, parameters, 3});
}
