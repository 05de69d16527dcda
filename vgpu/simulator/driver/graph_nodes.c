/* The calls that build and read graphs. */
#include "graph.h"
#include <stdlib.h>
#include <string.h>

CUresult cuGraphCreate(CUgraph *graph, unsigned int flags)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!graph || flags)
        return CUDA_ERROR_INVALID_VALUE;
    *graph = graph_new();
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(graph, GRAPH_OBJECT) || graph->child)
        return CUDA_ERROR_INVALID_VALUE;
    graph_end(graph);
    return CUDA_SUCCESS;
}

CUresult cuGraphClone(CUgraph *copy, CUgraph graph)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!copy || !object_is(graph, GRAPH_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    *copy = graph_copy(graph);
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeFindInClone(CUgraphNode *node, CUgraphNode original, CUgraph copy)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!node || !object_is(copy, GRAPH_OBJECT))
        return CUDA_ERROR_INVALID_VALUE;
    *node = graph_find_copy(copy, original);
    return *node ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult add(CUgraphNode *made, CUgraph graph, const CUgraphNode *dependencies, size_t count, const struct operation *operation)
{
    if (!made || !object_is(graph, GRAPH_OBJECT) || (count && !dependencies))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        if (!object_is(dependencies[i], NODE_OBJECT) || dependencies[i]->graph != graph)
            return CUDA_ERROR_INVALID_VALUE;
    *made = node_add(graph, operation, dependencies, count);
    return CUDA_SUCCESS;
}

static CUresult kernel_operation(struct operation *operation, const CUDA_KERNEL_NODE_PARAMS_v2 *parameters)
{
    if (!parameters)
        return CUDA_ERROR_INVALID_VALUE;
    *operation = (struct operation){.kind = LAUNCH, .launch = {.parameters = *parameters}};
    CUresult result = launch_check(&operation->launch.parameters, false);
    if (!result)
        operation->launch.block_ns = launch_block_ns(&operation->launch.parameters);
    return result;
}

/* The first version lacks the last two members. */
static CUDA_KERNEL_NODE_PARAMS_v2 newer(const CUDA_KERNEL_NODE_PARAMS_v1 *old)
{
    CUDA_KERNEL_NODE_PARAMS_v2 parameters = {0};
    memcpy(&parameters, old, sizeof *old);
    return parameters;
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, const CUDA_KERNEL_NODE_PARAMS *parameters)
{
    struct operation operation;
    CUresult result = enter(__func__);
    if (!result)
        result = kernel_operation(&operation, parameters);
    return result ? result : add(node, graph, dependencies, count, &operation);
}

CUresult cuGraphAddKernelNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, const CUDA_KERNEL_NODE_PARAMS_v1 *old)
{
    struct operation operation;
    CUresult result = enter(__func__);
    if (!result && !old)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    CUDA_KERNEL_NODE_PARAMS_v2 parameters = newer(old);
    result = kernel_operation(&operation, &parameters);
    return result ? result : add(node, graph, dependencies, count, &operation);
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, const CUDA_MEMCPY3D *copy, CUcontext context)
{
    CUresult result = enter(__func__);
    (void)context;
    if (!result)
        result = copy ? move_check(copy) : CUDA_ERROR_INVALID_VALUE;
    return result ? result : add(node, graph, dependencies, count, &(struct operation){.kind = MOVE, .move = *copy});
}

CUresult cuGraphAddMemsetNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, const CUDA_MEMSET_NODE_PARAMS *fill, CUcontext context)
{
    CUresult result = enter(__func__);
    (void)context;
    if (!result && (!fill || !fill->width || !fill->height))
        result = CUDA_ERROR_INVALID_VALUE;
    return result ? result : add(node, graph, dependencies, count, &(struct operation){.kind = FILL, .fill = *fill});
}

CUresult cuGraphAddHostNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, const CUDA_HOST_NODE_PARAMS *host)
{
    CUresult result = enter(__func__);
    if (!result && (!host || !host->fn))
        result = CUDA_ERROR_INVALID_VALUE;
    return result ? result : add(node, graph, dependencies, count, &(struct operation){.kind = CALL, .call = {.function = host->fn, .data = host->userData}});
}

CUresult cuGraphAddEmptyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count)
{
    CUresult entered = enter(__func__);
    return entered ? entered : add(node, graph, dependencies, count, &(struct operation){.kind = NOTHING});
}

CUresult cuGraphAddChildGraphNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, CUgraph child)
{
    CUresult result = enter(__func__);
    if (!result && (!object_is(child, GRAPH_OBJECT) || !object_is(graph, GRAPH_OBJECT)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    struct operation operation = {.kind = GRAPH, .graph = graph_copy(child)};
    operation.graph->child = true;
    result = graph_sort(operation.graph) ? add(node, graph, dependencies, count, &operation) : CUDA_ERROR_INVALID_VALUE;
    if (result)
        graph_end(operation.graph);
    return result;
}

CUresult cuGraphAddEventRecordNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, CUevent event)
{
    CUresult result = enter(__func__);
    if (!result && !object_is(event, EVENT_OBJECT))
        result = CUDA_ERROR_INVALID_VALUE;
    return result ? result : add(node, graph, dependencies, count, &(struct operation){.kind = RECORD_EVENT, .event = event});
}

CUresult cuGraphAddEventWaitNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, CUevent event)
{
    CUresult result = enter(__func__);
    if (!result && !object_is(event, EVENT_OBJECT))
        result = CUDA_ERROR_INVALID_VALUE;
    return result ? result : add(node, graph, dependencies, count, &(struct operation){.kind = AWAIT_EVENT, .event = event});
}

/* The memory is the graph's, from now until the last of its copies is gone. */
static CUresult allocation_operation(struct operation *operation, CUgraph graph, CUDA_MEM_ALLOC_NODE_PARAMS *parameters)
{
    struct CUctx_st *context;
    CUresult result = context_current(&context);
    if (!result && (!parameters || !object_is(graph, GRAPH_OBJECT) || !is_device(parameters->poolProps.location.id)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        result = pool_allocate(pool_standard(parameters->poolProps.location.id), parameters->bytesize, context->legacy, &parameters->dptr);
    if (result)
        return result;
    graph_own_memory(graph, parameters->dptr);
    *operation = (struct operation){.kind = ALLOCATE, .allocation = *parameters};
    return CUDA_SUCCESS;
}

CUresult cuGraphAddMemAllocNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, CUDA_MEM_ALLOC_NODE_PARAMS *parameters)
{
    struct operation operation;
    CUresult result = enter(__func__);
    if (!result)
        result = allocation_operation(&operation, graph, parameters);
    return result ? result : add(node, graph, dependencies, count, &operation);
}

CUresult cuGraphAddMemFreeNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, CUdeviceptr address)
{
    CUresult entered = enter(__func__);
    return entered ? entered : add(node, graph, dependencies, count, &(struct operation){.kind = RELEASE, .address = address});
}

/* One call for all kinds of nodes. */
static CUresult operation_of(struct operation *operation, CUgraph graph, CUgraphNodeParams *parameters)
{
    CUDA_KERNEL_NODE_PARAMS_v2 kernel;
    if (!parameters)
        return CUDA_ERROR_INVALID_VALUE;
    memset(operation, 0, sizeof *operation);
    switch (parameters->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        memcpy(&kernel, &parameters->kernel, sizeof kernel);
        return kernel_operation(operation, &kernel);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        operation->kind = MOVE;
        operation->move = parameters->memcpy.copyParams;
        return move_check(&operation->move);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        operation->kind = FILL;
        memcpy(&operation->fill, &parameters->memset, sizeof operation->fill);
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_HOST:
        operation->kind = CALL;
        operation->call.function = parameters->host.fn;
        operation->call.data = parameters->host.userData;
        return parameters->host.fn ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        operation->kind = parameters->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD ? RECORD_EVENT : AWAIT_EVENT;
        operation->event = parameters->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD ? parameters->eventRecord.event : parameters->eventWait.event;
        return object_is(operation->event, EVENT_OBJECT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC: {
        CUDA_MEM_ALLOC_NODE_PARAMS allocation = {.poolProps = parameters->alloc.poolProps, .bytesize = parameters->alloc.bytesize};
        CUresult result = allocation_operation(operation, graph, &allocation);
        parameters->alloc.dptr = allocation.dptr;
        return result;
    }
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        operation->kind = RELEASE;
        operation->address = parameters->free.dptr;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_GRAPH:
        if (!object_is(parameters->graph.graph, GRAPH_OBJECT) || !graph_sort(parameters->graph.graph))
            return CUDA_ERROR_INVALID_VALUE;
        operation->kind = GRAPH;
        operation->graph = graph_copy(parameters->graph.graph);
        operation->graph->child = true;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

static CUresult add_any(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, CUgraphNodeParams *parameters)
{
    struct operation operation;
    CUresult result = operation_of(&operation, graph, parameters);
    return result ? result : add(node, graph, dependencies, count, &operation);
}

CUresult cuGraphAddNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count, CUgraphNodeParams *parameters)
{
    CUresult entered = enter(__func__);
    return entered ? entered : add_any(node, graph, dependencies, count, parameters);
}

CUresult cuGraphAddNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *parameters)
{
    CUresult entered = enter(__func__);
    (void)edges;
    return entered ? entered : add_any(node, graph, dependencies, count, parameters);
}

CUresult cuGraphAddNode_v3(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *parameters)
{
    CUresult entered = enter(__func__);
    (void)edges;
    return entered ? entered : add_any(node, graph, dependencies, count, parameters);
}

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

CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *parameters)
{
    struct operation operation;
    CUresult result = enter(__func__);
    if (!result)
        result = kernel_operation(&operation, parameters);
    return result ? result : set(node, LAUNCH, &operation);
}

CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *parameters)
{
    struct operation operation;
    CUresult result = enter(__func__);
    if (!result)
        result = kernel_operation(&operation, parameters);
    return result ? result : set_in(exec, node, LAUNCH, &operation);
}

CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D *copy, CUcontext context)
{
    CUresult result = enter(__func__);
    (void)context;
    if (!result)
        result = copy ? move_check(copy) : CUDA_ERROR_INVALID_VALUE;
    return result ? result : set_in(exec, node, MOVE, &(struct operation){.kind = MOVE, .move = *copy});
}

CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *fill, CUcontext context)
{
    CUresult result = enter(__func__);
    (void)context;
    if (!result && !fill)
        result = CUDA_ERROR_INVALID_VALUE;
    return result ? result : set_in(exec, node, FILL, &(struct operation){.kind = FILL, .fill = *fill});
}

CUresult cuGraphExecHostNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUDA_HOST_NODE_PARAMS *host)
{
    CUresult result = enter(__func__);
    if (!result && (!host || !host->fn))
        result = CUDA_ERROR_INVALID_VALUE;
    return result ? result : set_in(exec, node, CALL, &(struct operation){.kind = CALL, .call = {.function = host->fn, .data = host->userData}});
}

CUresult cuGraphNodeSetParams(CUgraphNode node, CUgraphNodeParams *parameters)
{
    struct operation operation;
    CUresult result = enter(__func__);
    if (!result && !object_is(node, NODE_OBJECT))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        result = operation_of(&operation, node->graph, parameters);
    return result ? result : set(node, operation.kind, &operation);
}

CUresult cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node, CUgraphNodeParams *parameters)
{
    struct operation operation;
    CUresult result = enter(__func__);
    if (!result && !object_is(node, NODE_OBJECT))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        result = operation_of(&operation, node->graph, parameters);
    return result ? result : set_in(exec, node, operation.kind, &operation);
}
