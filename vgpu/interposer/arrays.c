/* Arrays and mipmaps. They have no address to tell what they share with others, so each is charged whole pieces of its own. Sparse ones
   and those that get their memory later take none here; that comes from cuMemCreate. */
#include "allocating.h"
#include <stdlib.h>

static uint64_t format_bits(CUarray_format format)
{
    switch ((int)format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return 8;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return 16;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        return 32;
    default:
        return 32; /* of the compressed and planar formats none has more per channel */
    }
}

static uint64_t at_least_one(uint64_t number)
{
    return number ? number : 1;
}

static uint64_t times(uint64_t one, uint64_t other)
{
    uint64_t product;
    return __builtin_mul_overflow(one, other, &product) ? UINT64_MAX : product;
}

static uint64_t bytes_of(const CUDA_ARRAY3D_DESCRIPTOR *about, unsigned levels)
{
    uint64_t sum = 0, element = format_bits(about->Format) / 8 * at_least_one(about->NumChannels);
    for (unsigned level = 0; level < levels && level < 64; level++) {
        bool layered = (about->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) != 0;
        uint64_t depth = layered ? about->Depth : about->Depth >> level;
        uint64_t area = times(at_least_one(about->Width >> level), at_least_one(about->Height >> level));
        uint64_t bytes = times(times(element, area), at_least_one(depth));
        sum = sum + bytes < sum ? UINT64_MAX : sum + bytes;
    }
    return sum;
}

static struct allocation *prepare(const CUDA_ARRAY3D_DESCRIPTOR *about, unsigned levels, CUresult *result)
{
    int card;
    void *context;
    struct allocation *allocation = NULL;
    *result = current_card(&card, &context);
    if (*result)
        return NULL;
    bool later = about->Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING);
    uint64_t whole = later ? 0 : rounded(bytes_of(about, levels), PIECE);
    pools_settle();
    *result = CUDA_ERROR_OUT_OF_MEMORY;
    if (!(allocation = book_new(ARRAY, 0, card, whole, whole)))
        return NULL;
    allocation->context = context;
    if (whole && !charge((unsigned)card, whole)) {
        free(allocation);
        return NULL;
    }
    *result = CUDA_SUCCESS;
    return allocation;
}

static CUresult finish(struct allocation *allocation, const void *handle, CUresult result)
{
    if (result)
        uncharge((unsigned)allocation->card, allocation->charged);
    settle(allocation->charged);
    if (result) {
        free(allocation);
        return result;
    }
    allocation->key = (uint64_t)(uintptr_t)handle;
    book_put(allocation);
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuArrayCreate_v2(CUarray *array, const CUDA_ARRAY_DESCRIPTOR *about)
{
    CUresult result;
    if (!array || !about)
        return driver()->cuArrayCreate_v2(array, about);
    CUDA_ARRAY3D_DESCRIPTOR same = {.Width = about->Width, .Height = about->Height, .Format = about->Format, .NumChannels = about->NumChannels};
    struct allocation *allocation = prepare(&same, 1, &result);
    if (!allocation)
        return result;
    result = driver()->cuArrayCreate_v2(array, about);
    return finish(allocation, result ? NULL : *array, result);
}

EXPORTED CUresult cuArray3DCreate_v2(CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *about)
{
    CUresult result;
    if (!array || !about)
        return driver()->cuArray3DCreate_v2(array, about);
    struct allocation *allocation = prepare(about, 1, &result);
    if (!allocation)
        return result;
    result = driver()->cuArray3DCreate_v2(array, about);
    return finish(allocation, result ? NULL : *array, result);
}

EXPORTED CUresult cuMipmappedArrayCreate(CUmipmappedArray *mipmap, const CUDA_ARRAY3D_DESCRIPTOR *about, unsigned int levels)
{
    CUresult result;
    if (!mipmap || !about)
        return driver()->cuMipmappedArrayCreate(mipmap, about, levels);
    struct allocation *allocation = prepare(about, levels, &result);
    if (!allocation)
        return result;
    result = driver()->cuMipmappedArrayCreate(mipmap, about, levels);
    return finish(allocation, result ? NULL : *mipmap, result);
}

static CUresult ended(struct allocation *allocation, CUresult result)
{
    if (allocation && result) {
        book_put(allocation);
    } else if (allocation) {
        uncharge((unsigned)allocation->card, allocation->charged);
        free(allocation);
    }
    return result;
}

EXPORTED CUresult cuArrayDestroy(CUarray array)
{
    struct allocation *allocation = book_take(ARRAY, (uint64_t)(uintptr_t)array);
    return ended(allocation, driver()->cuArrayDestroy(array));
}

EXPORTED CUresult cuMipmappedArrayDestroy(CUmipmappedArray mipmap)
{
    struct allocation *allocation = book_take(ARRAY, (uint64_t)(uintptr_t)mipmap);
    return ended(allocation, driver()->cuMipmappedArrayDestroy(mipmap));
}
