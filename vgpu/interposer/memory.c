/* Linear memory: cuMemAlloc, cuMemAllocPitch, cuMemAllocManaged, and their end. */
#include "allocating.h"
#include <stdlib.h>

struct request {
    CUdeviceptr *address;
    size_t *pitch;
    size_t bytes, width, height;
    unsigned element;
};

static CUresult ask(const struct request *request)
{
    if (request->pitch)
        return driver()->cuMemAllocPitch_v2(request->address, request->pitch, request->width, request->height, request->element);
    return driver()->cuMemAlloc_v2(request->address, request->bytes);
}

static size_t bytes_of(const struct request *request)
{
    return request->pitch ? *request->pitch * request->height : request->bytes;
}

/* Refuses what the driver has given, since there is no room for it in the slice. */
static CUresult take_back(CUdeviceptr *address)
{
    driver()->cuMemFree_v2(*address);
    *address = 0;
    return CUDA_ERROR_OUT_OF_MEMORY;
}

/* Where a small allocation lies decides what it costs: a new piece, or nothing. */
static CUresult place_small(const struct request *request, struct allocation *allocation, bool paid)
{
    struct piece *piece = piece_at(*request->address);
    bool fresh = !piece;
    if (fresh && !paid && !(paid = charge((unsigned)allocation->card, PIECE)))
        return take_back(request->address);
    if (fresh && !(piece = piece_add(*request->address, allocation->card, allocation->context))) {
        take_back(request->address);
        uncharge((unsigned)allocation->card, PIECE);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (!fresh && paid)
        uncharge((unsigned)allocation->card, PIECE);
    piece_take(piece, *request->address, allocation->bytes);
    allocation->piece = piece;
    return CUDA_SUCCESS;
}

/* With the lock of the pieces. At the limit it is still tried if a piece has room. */
static CUresult allocate_small(const struct request *request, struct allocation *allocation)
{
    bool paid = charge((unsigned)allocation->card, PIECE);
    if (!paid && !pieces_have_room(allocation->card, allocation->context, allocation->bytes))
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = ask(request);
    if (!result) {
        allocation->bytes = bytes_of(request);
        result = place_small(request, allocation, paid);
    } else if (paid) {
        uncharge((unsigned)allocation->card, PIECE);
    }
    if (paid)
        settle(PIECE);
    return result;
}

/* The pitch that the driver chooses may be more than was reckoned with. */
static CUresult pay_rest(const struct request *request, struct allocation *allocation)
{
    uint64_t whole = rounded(bytes_of(request), PIECE), paid = allocation->charged;
    if (whole > paid && !charge((unsigned)allocation->card, whole - paid))
        return take_back(request->address);
    if (whole > paid)
        settle(whole - paid);
    else
        uncharge((unsigned)allocation->card, paid - whole);
    allocation->charged = whole;
    return CUDA_SUCCESS;
}

static CUresult allocate_large(const struct request *request, struct allocation *allocation)
{
    uint64_t whole = rounded(allocation->bytes, PIECE);
    if (!charge((unsigned)allocation->card, whole))
        return CUDA_ERROR_OUT_OF_MEMORY;
    allocation->charged = whole;
    CUresult result = ask(request);
    if (!result)
        result = pay_rest(request, allocation);
    if (result)
        uncharge((unsigned)allocation->card, allocation->charged);
    settle(whole);
    return result;
}

static CUresult allocate(struct request *request)
{
    int card;
    void *context;
    CUresult result = current_card(&card, &context);
    if (result)
        return result;
    if (!request->address || !request->bytes)
        return ask(request);
    struct allocation *allocation = book_new(LINEAR, 0, card, request->bytes, 0);
    if (!allocation)
        return CUDA_ERROR_OUT_OF_MEMORY;
    allocation->context = context;
    bool small = request->bytes <= SMALL;
    pools_settle();
    if (small)
        pieces_lock();
    result = small ? allocate_small(request, allocation) : allocate_large(request, allocation);
    if (result) {
        free(allocation);
    } else {
        allocation->key = *request->address;
        book_put(allocation);
    }
    if (small)
        pieces_unlock();
    return result;
}

EXPORTED CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
    return allocate(&(struct request){.address = address, .bytes = bytes});
}

EXPORTED CUresult cuMemAllocPitch_v2(CUdeviceptr *address, size_t *pitch, size_t width, size_t height, unsigned int element)
{
    uint64_t row = rounded(width, 512);
    if (!pitch || !width || !height || row > (UINT64_MAX >> 1) / height)
        return driver()->cuMemAllocPitch_v2(address, pitch, width, height, element);
    return allocate(&(struct request){.address = address, .pitch = pitch, .bytes = row * height, .width = width, .height = height, .element = element});
}

/* Managed memory can be on the card as a whole, and is charged as if it were. */
EXPORTED CUresult cuMemAllocManaged(CUdeviceptr *address, size_t bytes, unsigned int flags)
{
    int card;
    void *context;
    uint64_t whole = rounded(bytes, PIECE);
    CUresult result = current_card(&card, &context);
    if (result)
        return result;
    struct allocation *allocation = book_new(MANAGED, 0, card, bytes, whole);
    if (!allocation)
        return CUDA_ERROR_OUT_OF_MEMORY;
    allocation->context = context;
    pools_settle();
    if (bytes && !charge((unsigned)card, whole)) {
        free(allocation);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    result = driver()->cuMemAllocManaged(address, bytes, flags);
    settle(bytes ? whole : 0);
    if (result) {
        uncharge((unsigned)card, bytes ? whole : 0);
        free(allocation);
        return result;
    }
    allocation->key = *address;
    book_put(allocation);
    return CUDA_SUCCESS;
}

static CUresult free_small(struct allocation *allocation)
{
    struct piece *piece = allocation->piece;
    pieces_lock();
    piece_leave(piece, allocation->key, allocation->bytes);
    pieces_unlock();
    CUresult result = driver()->cuMemFree_v2(allocation->key);
    pieces_lock();
    if (result)
        piece_stay(piece, allocation->key, allocation->bytes);
    else
        piece_left(piece, allocation->key, allocation->bytes);
    pieces_unlock();
    return result;
}

/* Out of the book first: once the driver has freed it, another thread may get the same address. */
EXPORTED CUresult cuMemFree_v2(CUdeviceptr address)
{
    struct allocation *allocation = book_take(LINEAR, address);
    if (!allocation)
        allocation = book_take(MANAGED, address);
    if (!allocation)
        allocation = book_take(POOLED, address);
    if (!allocation)
        return driver()->cuMemFree_v2(address);
    CUresult result = allocation->piece ? free_small(allocation) : driver()->cuMemFree_v2(address);
    if (result) {
        book_put(allocation);
        return result;
    }
    if (allocation->kind == POOLED)
        pool_allocation_freed(allocation);
    else
        uncharge((unsigned)allocation->card, allocation->charged);
    free(allocation);
    pools_settle();
    return CUDA_SUCCESS;
}

/* Before managed memory moves to another card, that card's part must have room for it. */
static CUresult charge_move(CUdeviceptr address, CUdevice device, struct allocation **moved)
{
    int card = card_of_device(device);
    struct allocation *allocation = book_take(MANAGED, address);
    *moved = NULL;
    if (!allocation)
        return CUDA_SUCCESS;
    if (card == allocation->card) {
        book_put(allocation);
        return CUDA_SUCCESS;
    }
    if (card == NO_CARD || !charge((unsigned)card, allocation->charged)) {
        book_put(allocation);
        return card == NO_CARD ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_OUT_OF_MEMORY;
    }
    settle(allocation->charged);
    *moved = allocation;
    return CUDA_SUCCESS;
}

static CUresult end_move(struct allocation *moved, CUdevice device, CUresult result)
{
    if (!moved)
        return result;
    int card = card_of_device(device);
    uncharge((unsigned)(result ? card : moved->card), moved->charged);
    moved->card = result ? moved->card : card;
    book_put(moved);
    return result;
}

static CUresult prefetch(CUdeviceptr address, CUmemLocation to, CUresult (*go)(const void *), const void *call)
{
    struct allocation *moved = NULL;
    CUresult result = to.type == CU_MEM_LOCATION_TYPE_DEVICE ? charge_move(address, to.id, &moved) : CUDA_SUCCESS;
    return result ? result : end_move(moved, to.id, go(call));
}

struct old_call {
    __typeof__(cuMemPrefetchAsync) *function;
    CUdeviceptr address;
    size_t bytes;
    CUdevice device;
    CUstream stream;
};

struct new_call {
    __typeof__(cuMemPrefetchAsync_v2) *function;
    CUdeviceptr address;
    size_t bytes;
    CUmemLocation to;
    unsigned flags;
    CUstream stream;
};

static CUresult go_old(const void *argument)
{
    const struct old_call *call = argument;
    return call->function(call->address, call->bytes, call->device, call->stream);
}

static CUresult go_new(const void *argument)
{
    const struct new_call *call = argument;
    return call->function(call->address, call->bytes, call->to, call->flags, call->stream);
}

static CUresult prefetch_old(const struct old_call *call)
{
    CUmemLocation to = {.type = call->device == CU_DEVICE_CPU ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE, .id = call->device};
    return prefetch(call->address, to, go_old, call);
}

EXPORTED CUresult cuMemPrefetchAsync(CUdeviceptr address, size_t bytes, CUdevice device, CUstream stream)
{
    return prefetch_old(&(struct old_call){driver()->cuMemPrefetchAsync, address, bytes, device, stream});
}

EXPORTED CUresult cuMemPrefetchAsync_ptsz(CUdeviceptr address, size_t bytes, CUdevice device, CUstream stream)
{
    return prefetch_old(&(struct old_call){driver()->cuMemPrefetchAsync_ptsz, address, bytes, device, stream});
}

EXPORTED CUresult cuMemPrefetchAsync_v2(CUdeviceptr address, size_t bytes, CUmemLocation to, unsigned int flags, CUstream stream)
{
    return prefetch(address, to, go_new, &(struct new_call){driver()->cuMemPrefetchAsync_v2, address, bytes, to, flags, stream});
}

EXPORTED CUresult cuMemPrefetchAsync_v2_ptsz(CUdeviceptr address, size_t bytes, CUmemLocation to, unsigned int flags, CUstream stream)
{
    return prefetch(address, to, go_new, &(struct new_call){driver()->cuMemPrefetchAsync_v2_ptsz, address, bytes, to, flags, stream});
}
