/* Graphs: nodes with what they do and what they wait for. An executable graph is a copy whose nodes remember their originals. */
#ifndef SIMULATOR_GRAPH_H
#define SIMULATOR_GRAPH_H

#include "driver.h"

/* Device memory of a graph's allocation nodes; it is there until the graph and all its copies are gone. */
struct graph_memory {
    unsigned owners;
    size_t count;
    CUdeviceptr *addresses;
};

struct CUgraphNode_st {
    struct object object;
    struct CUgraph_st *graph;
    struct CUgraphNode_st *original;
    struct operation operation;
    CUgraphNodeType type;
    struct CUgraphNode_st **dependencies;
    size_t dependency_count;
    bool disabled, visited, done;
    void *parameters; /* copy of a kernel's parameters */
    unsigned id;
};

struct CUgraph_st {
    struct object object;
    struct CUgraphNode_st **nodes; /* in the order in which they run, once it is sorted */
    size_t count, room;
    struct graph_memory *memory;
    unsigned id, next_node_id;
    bool child;
};

struct CUgraphExec_st {
    struct object object;
    struct CUgraph_st *graph;
    unsigned long long flags;
    unsigned id;
};

struct CUgraph_st *graph_new(void);
void graph_end(struct CUgraph_st *graph);
bool graph_sort(struct CUgraph_st *graph); /* false if it has a circle */
void graph_own_memory(struct CUgraph_st *graph, CUdeviceptr address);
struct CUgraphNode_st *graph_find_copy(const struct CUgraph_st *graph, const struct CUgraphNode_st *original);
bool node_depends(const struct CUgraphNode_st *node, const struct CUgraphNode_st *on);
void node_set(struct CUgraphNode_st *node, const struct operation *operation);

#endif
