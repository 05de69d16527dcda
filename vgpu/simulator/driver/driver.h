/* What the parts of the simulated libcuda share. Handles are pointers to the structures below; a handle's first field says what it is,
   and memory of an ended one is only used again for its own kind, so that a stale handle is refused. */
#ifndef SIMULATOR_DRIVER_H
#define SIMULATOR_DRIVER_H

#define __CUDA_API_VERSION_INTERNAL
#define __CUDA_API_PUSH_VISIBILITY_DEFAULT
#include <cuda.h>

#include "../core/machine.h"

enum object_kind {
    CONTEXT_OBJECT = 0x43545831,
    STREAM_OBJECT,
    EVENT_OBJECT,
    MODULE_OBJECT,
    FUNCTION_OBJECT,
    GRAPH_OBJECT,
    NODE_OBJECT,
    EXEC_OBJECT,
    POOL_OBJECT,
    ARRAY_OBJECT,
    MIPMAP_OBJECT,
    PHYSICAL_OBJECT,
    REGION_OBJECT,
    LINK_OBJECT,
    CHUNK_OBJECT
};

struct object {
    uint32_t kind;
    struct object *next_free;
};

struct device {
    unsigned card, part;
    int gpu_instance, compute_instance; /* -1 without MIG */
    unsigned multiprocessors;
    char uuid[48];
    struct CUctx_st *primary;
    unsigned primary_count, primary_flags;
    struct CUmemPoolHandle_st *default_pool, *pool;
};

struct CUctx_st {
    struct object object;
    uint32_t index;
    CUdevice device;
    bool primary;
    unsigned flags, api_version, cache, shared_memory;
    unsigned long long id;
    size_t limits[CU_LIMIT_MAX];
    uint64_t overhead;
    struct CUstream_st *legacy;
    struct CUmod_st *modules;
};

struct CUstream_st {
    struct object object;
    struct CUctx_st *context;
    uint32_t index, generation;
    unsigned flags;
    int priority;
    unsigned long long id;
    uint64_t legacy_seen; /* the legacy stream's last command that this one already waits for */
    struct capture *capture;
    CUstreamAttrValue attributes[16];
};

struct CUevent_st {
    struct object object;
    struct CUctx_st *context;
    uint32_t index, generation;
    unsigned flags;
    bool opened; /* from another process */
    struct capture *capture;
    struct CUgraphNode_st **captured;
    size_t captured_count;
    uint32_t stream;
    uint64_t stream_number; /* where it was last recorded, for waits */
};

struct CUfunc_st {
    struct object object;
    struct CUmod_st *module;
    struct CUfunc_st *next;
    char name[256];
    uint64_t block_ns;
    int block_ns_parameter; /* index of the parameter that holds it, -1 if none does */
    unsigned blocks_per_multiprocessor, registers, shared_bytes, parameter_count;
    unsigned parameter_bytes[32];
    int dynamic_shared_limit;
};

struct CUmod_st {
    struct object object;
    struct CUctx_st *context;
    struct CUmod_st *next;
    struct CUfunc_st *functions;
    struct global *globals;
    bool open_ended; /* its kernels cannot be listed, so any name is one */
    bool library;
};

enum region_kind { DEVICE_REGION = 1, MANAGED_REGION, HOST_REGION, REGISTERED_REGION, RESERVED_REGION, MAPPED_REGION, IPC_REGION };

/* A range of addresses that the driver knows. */
struct region {
    struct object object;
    enum region_kind region_kind;
    CUdeviceptr base;
    size_t bytes, charged; /* charged: of device memory, to this process; shared memory is charged by its own entry */
    struct CUctx_st *context;
    CUdevice device;
    unsigned flags;
    unsigned long long id;
    struct chunk *chunk; /* where a small allocation lies */
    uint32_t shared;     /* index of the shared allocation, NOBODY if there is none */
    uint64_t shared_id;
    unsigned opened;
    struct CUmemPoolHandle_st *pool;
    struct physical *physical;
    size_t physical_offset;
    CUdeviceptr reservation;
    bool sync_memops;
    unsigned advice;
};

/* Memory that cuMemCreate made; the handle is its address. */
struct physical {
    struct object object;
    CUmemAllocationProp properties;
    size_t bytes;
    void *backing;
    int file;
    uint32_t shared;
    uint64_t shared_id, charged;
    unsigned handles, maps;
    CUdevice device;
};

struct CUarray_st {
    struct object object;
    CUDA_ARRAY3D_DESCRIPTOR descriptor;
    struct region *region; /* NULL: a level of a mipmap, or a sparse array without memory */
    CUdeviceptr data;
    size_t element_bytes, row_bytes;
    struct CUmipmappedArray_st *mipmap;
};

struct CUmipmappedArray_st {
    struct object object;
    CUDA_ARRAY3D_DESCRIPTOR descriptor;
    unsigned levels;
    struct CUarray_st *level[16];
    struct region *region;
};

/* What a stream or a node of a graph does. */
enum operation_kind { NOTHING = 0, LAUNCH, MOVE, FILL, CALL, RECORD_EVENT, AWAIT_EVENT, ALLOCATE, RELEASE, WRITE_VALUE, AWAIT_VALUE, GRAPH };

struct operation {
    enum operation_kind kind;
    union {
        struct {
            CUDA_KERNEL_NODE_PARAMS_v2 parameters;
            uint64_t block_ns;
            bool cooperative;
        } launch;
        CUDA_MEMCPY3D move;
        CUDA_MEMSET_NODE_PARAMS fill;
        struct {
            CUhostFn function;
            CUstreamCallback callback;
            CUstream stream;
            void *data;
        } call;
        CUevent event;
        CUDA_MEM_ALLOC_NODE_PARAMS allocation;
        CUdeviceptr address;
        struct {
            CUdeviceptr address;
            uint64_t value;
            unsigned bytes, flags;
        } value;
        struct CUgraph_st *graph;
    };
};

struct driver {
    struct machine *machine;
    uint32_t process;
    bool initialised, forked;
    pthread_mutex_t lock; /* of this process's own tables; taken before the machine's */
    int device_count;
    struct device devices[MAX_CARDS * PARTS];
};

extern struct driver driver;

/* entry.c */
CUresult enter(const char *name); /* logs the call; refuses it before cuInit and after a fork */
void log_call(const char *name);
const struct card_description *card_of(CUdevice device);
bool is_device(CUdevice device);

/* objects.c */
void *object_new(uint32_t kind, size_t bytes);
void object_end(void *object);
bool object_is(const void *object, uint32_t kind);

/* contexts.c, current.c */
CUresult context_current(struct CUctx_st **context);
CUresult context_make(CUdevice device, unsigned flags, bool primary, struct CUctx_st **context);
void context_end(struct CUctx_st *context);
void current_push(struct CUctx_st *context);
struct CUctx_st *current_pop(void);
struct CUctx_st *current_top(void);
void current_set(struct CUctx_st *context);
CUresult context_wait(struct CUctx_st *context);

/* streams.c, submission.c */
CUresult stream_of(CUstream handle, CUstream standard, struct CUstream_st **stream);
CUresult stream_make(struct CUctx_st *context, unsigned flags, int priority, struct CUstream_st **stream);
void stream_end(struct CUstream_st *stream);
uint64_t submit(struct CUstream_st *stream, const struct command *command); /* returns its number */
void stream_wait(struct CUstream_st *stream, uint64_t number);              /* until that command is over */
bool stream_done(struct CUstream_st *stream, uint64_t number);
uint64_t stream_submitted(struct CUstream_st *stream);

/* operations.c: does it, or puts it into the graph that is being captured */
CUresult perform(struct CUstream_st *stream, const struct operation *operation);
CUresult execute(struct CUstream_st *stream, const struct operation *operation, bool in_graph);

/* calls.c: functions of the host in a stream's order. A function that returns false is called again. */
void call_in_order(struct CUstream_st *stream, bool (*function)(void *data), void *data);
bool calls_pending(void);

/* regions.c, with driver.lock */
struct region *region_find(CUdeviceptr address);
struct region *region_add(enum region_kind kind, CUdeviceptr base, size_t bytes);
void region_remove(struct region *region);
struct region *region_first(void);
struct region *region_after(const struct region *region);
void *address_reserve(size_t bytes, size_t alignment, void *wanted, bool accessible);
void address_release(void *address, size_t bytes);

/* allocation.c, with driver.lock */
CUresult allocate(struct CUctx_st *context, size_t bytes, struct region **region);
CUresult release(struct region *region);
void release_all(struct CUctx_st *context);
bool charge(CUdevice device, uint64_t bytes);
void discharge(CUdevice device, uint64_t bytes);
CUresult share(struct region *region, uint64_t *offset);

/* pools.c */
CUresult pool_allocate(struct CUmemPoolHandle_st *pool, size_t bytes, struct CUstream_st *stream, CUdeviceptr *address);
CUresult pool_release(struct region *region, struct CUstream_st *stream);
void pools_trim(void);
struct CUmemPoolHandle_st *pool_standard(CUdevice device);

/* copying.c */
void move_now(const CUDA_MEMCPY3D *move);
void fill_now(const CUDA_MEMSET_NODE_PARAMS *fill);
CUresult move_check(const CUDA_MEMCPY3D *move);
size_t move_bytes(const CUDA_MEMCPY3D *move);
enum copy_path move_path(const CUDA_MEMCPY3D *move);
CUdeviceptr location(CUmemorytype type, const void *host, CUdeviceptr device, CUarray array);

/* launching.c */
CUresult launch_check(CUDA_KERNEL_NODE_PARAMS_v2 *parameters, bool cooperative);
uint64_t launch_block_ns(const CUDA_KERNEL_NODE_PARAMS_v2 *parameters);

/* capture.c */
CUresult capture_add(struct CUstream_st *stream, const struct operation *operation);
CUresult capture_record(struct CUstream_st *stream, CUevent event);
CUresult capture_wait(struct CUstream_st *stream, CUevent event);
CUresult capture_refuse(struct CUstream_st *stream); /* a call that no captured stream allows */
CUresult capture_unsafe(void);                       /* a call that captures of this thread or of others forbid */
bool capture_blocks_legacy(struct CUstream_st *stream);

/* graphs.c */
struct CUgraphNode_st *node_add(struct CUgraph_st *graph, const struct operation *operation, struct CUgraphNode_st *const *dependencies, size_t count);
CUresult graph_run(const struct CUgraph_st *graph, struct CUstream_st *stream);
struct CUgraph_st *graph_copy(const struct CUgraph_st *graph);

/* For functions that cuda.h does not declare under this name. */
#define EXPORTED __attribute__((visibility("default")))

/* Most calls that take a stream exist twice: under their plain name the null stream is the legacy one, under the name with a suffix it is
   the calling thread's own. CALL sees it as `standard`. */
#define ON_STREAM(name, suffix, parameters, call)       \
    EXPORTED CUresult name parameters                   \
    {                                                   \
        const CUstream standard = CU_STREAM_LEGACY;     \
        CUresult entered = enter(#name);                \
        return entered ? entered : (call);              \
    }                                                   \
    EXPORTED CUresult name##suffix parameters           \
    {                                                   \
        const CUstream standard = CU_STREAM_PER_THREAD; \
        CUresult entered = enter(#name #suffix);        \
        return entered ? entered : (call);              \
    }

#endif
