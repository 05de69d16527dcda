/* Graphs as data: nodes, order, copies. Branches run one after the other; see README. */
#include "graph.h"
#include <stdlib.h>
#include <string.h>

static unsigned next_graph_id = 1;

static void *must(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

struct CUgraph_st *graph_new(void)
{
    struct CUgraph_st *graph = object_new(GRAPH_OBJECT, sizeof *graph);
    graph->memory = must(calloc(1, sizeof *graph->memory));
    graph->memory->owners = 1;
    graph->id = __atomic_fetch_add(&next_graph_id, 1, __ATOMIC_RELAXED);
    return graph;
}

void graph_own_memory(struct CUgraph_st *graph, CUdeviceptr address)
{
    struct graph_memory *memory = graph->memory;
    memory->addresses = must(realloc(memory->addresses, (memory->count + 1) * sizeof *memory->addresses));
    memory->addresses[memory->count++] = address;
}

static void leave_memory(struct graph_memory *memory)
{
    if (--memory->owners)
        return;
    for (size_t i = 0; i < memory->count; i++) {
        pthread_mutex_lock(&driver.lock);
        struct region *region = region_find(memory->addresses[i]);
        struct CUctx_st *context = region ? region->context : NULL;
        pthread_mutex_unlock(&driver.lock);
        if (region && region->pool && object_is(context, CONTEXT_OBJECT))
            pool_release(region, context->legacy);
    }
    free(memory->addresses);
    free(memory);
}

static void node_end(struct CUgraphNode_st *node)
{
    if (node->operation.kind == GRAPH)
        graph_end(node->operation.graph);
    free(node->dependencies);
    free(node->parameters);
    object_end(node);
}

void graph_end(struct CUgraph_st *graph)
{
    for (size_t i = 0; i < graph->count; i++)
        node_end(graph->nodes[i]);
    free(graph->nodes);
    leave_memory(graph->memory);
    object_end(graph);
}

static CUgraphNodeType type_of(const struct operation *operation)
{
    switch (operation->kind) {
    case LAUNCH:
        return CU_GRAPH_NODE_TYPE_KERNEL;
    case MOVE:
        return CU_GRAPH_NODE_TYPE_MEMCPY;
    case FILL:
        return CU_GRAPH_NODE_TYPE_MEMSET;
    case CALL:
        return CU_GRAPH_NODE_TYPE_HOST;
    case RECORD_EVENT:
        return CU_GRAPH_NODE_TYPE_EVENT_RECORD;
    case AWAIT_EVENT:
        return CU_GRAPH_NODE_TYPE_WAIT_EVENT;
    case ALLOCATE:
        return CU_GRAPH_NODE_TYPE_MEM_ALLOC;
    case RELEASE:
        return CU_GRAPH_NODE_TYPE_MEM_FREE;
    case WRITE_VALUE:
    case AWAIT_VALUE:
        return CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
    case GRAPH:
        return CU_GRAPH_NODE_TYPE_GRAPH;
    case NOTHING:
        break;
    }
    return CU_GRAPH_NODE_TYPE_EMPTY;
}

/* The parameters' values belong to the node from now on, where the kernel says how many there are. */
static void keep_parameters(struct CUgraphNode_st *node)
{
    CUDA_KERNEL_NODE_PARAMS_v2 *kernel = &node->operation.launch.parameters;
    const struct CUfunc_st *function = kernel->func;
    size_t bytes = 0;
    if (!kernel->kernelParams || !function->parameter_count)
        return;
    for (unsigned i = 0; i < function->parameter_count; i++)
        bytes += (function->parameter_bytes[i] + 15) / 16 * 16;
    void **pointers = must(calloc(1, function->parameter_count * sizeof *pointers + 16 + bytes));
    char *data = (char *)(pointers + function->parameter_count + (function->parameter_count & 1));
    for (unsigned i = 0; i < function->parameter_count; i++) {
        pointers[i] = data;
        memcpy(data, kernel->kernelParams[i], function->parameter_bytes[i]);
        data += (function->parameter_bytes[i] + 15) / 16 * 16;
    }
    free(node->parameters);
    node->parameters = pointers;
    kernel->kernelParams = pointers;
}

void node_set(struct CUgraphNode_st *node, const struct operation *operation)
{
    node->operation = *operation;
    node->type = type_of(operation);
    if (operation->kind == LAUNCH)
        keep_parameters(node);
}

struct CUgraphNode_st *node_add(struct CUgraph_st *graph, const struct operation *operation, struct CUgraphNode_st *const *dependencies, size_t count)
{
    struct CUgraphNode_st *node = object_new(NODE_OBJECT, sizeof *node);
    node->graph = graph;
    node->id = graph->next_node_id++;
    node_set(node, operation);
    if (count) {
        node->dependencies = must(calloc(count, sizeof *dependencies));
        memcpy(node->dependencies, dependencies, count * sizeof *dependencies);
        node->dependency_count = count;
    }
    if (graph->count == graph->room) {
        graph->room = graph->room ? graph->room * 2 : 16;
        graph->nodes = must(realloc(graph->nodes, graph->room * sizeof *graph->nodes));
    }
    graph->nodes[graph->count++] = node;
    return node;
}

static bool visit(struct CUgraphNode_st *node, struct CUgraphNode_st **order, size_t *place)
{
    if (node->done)
        return true;
    if (node->visited)
        return false;
    node->visited = true;
    for (size_t i = 0; i < node->dependency_count; i++)
        if (!visit(node->dependencies[i], order, place))
            return false;
    node->done = true;
    order[(*place)++] = node;
    return true;
}

bool graph_sort(struct CUgraph_st *graph)
{
    struct CUgraphNode_st **order = must(calloc(graph->count + 1, sizeof *order));
    size_t place = 0;
    bool sorted = true;
    for (size_t i = 0; i < graph->count; i++)
        graph->nodes[i]->visited = graph->nodes[i]->done = false;
    for (size_t i = 0; sorted && i < graph->count; i++)
        sorted = visit(graph->nodes[i], order, &place);
    if (sorted)
        memcpy(graph->nodes, order, graph->count * sizeof *order);
    free(order);
    return sorted;
}

struct CUgraphNode_st *graph_find_copy(const struct CUgraph_st *graph, const struct CUgraphNode_st *original)
{
    for (size_t i = 0; i < graph->count; i++)
        if (graph->nodes[i]->original == original)
            return graph->nodes[i];
    return NULL;
}

struct CUgraph_st *graph_copy(const struct CUgraph_st *graph)
{
    struct CUgraph_st *copy = graph_new();
    free(copy->memory);
    copy->memory = graph->memory;
    copy->memory->owners++;
    for (size_t i = 0; i < graph->count; i++) {
        struct operation operation = graph->nodes[i]->operation;
        if (operation.kind == GRAPH)
            operation.graph = graph_copy(operation.graph);
        node_add(copy, &operation, NULL, 0)->original = graph->nodes[i];
    }
    for (size_t i = 0; i < graph->count; i++) {
        const struct CUgraphNode_st *from = graph->nodes[i];
        struct CUgraphNode_st *to = copy->nodes[i];
        to->disabled = from->disabled;
        to->id = from->id;
        to->dependency_count = from->dependency_count;
        to->dependencies = must(calloc(from->dependency_count + 1, sizeof *to->dependencies));
        for (size_t d = 0; d < from->dependency_count; d++)
            to->dependencies[d] = graph_find_copy(copy, from->dependencies[d]);
    }
    return copy;
}

bool node_depends(const struct CUgraphNode_st *node, const struct CUgraphNode_st *on)
{
    if (node == on)
        return true;
    for (size_t i = 0; i < node->dependency_count; i++)
        if (node_depends(node->dependencies[i], on))
            return true;
    return false;
}

CUresult graph_run(const struct CUgraph_st *graph, struct CUstream_st *stream)
{
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; !result && i < graph->count; i++)
        if (!graph->nodes[i]->disabled)
            result = execute(stream, &graph->nodes[i]->operation, true);
    return result;
}
