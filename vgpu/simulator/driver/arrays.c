/* Arrays and mipmaps: rows of elements, packed, in memory taken as cuMemAlloc takes it. */
#include "driver.h"
#include <string.h>

static size_t format_bytes(CUarray_format format)
{
    switch ((int)format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        return 4;
    default:
        return 0;
    }
}

static size_t at_least_one(size_t number)
{
    return number ? number : 1;
}

static size_t bytes_of(const CUDA_ARRAY3D_DESCRIPTOR *about)
{
    return format_bytes(about->Format) * about->NumChannels * about->Width * at_least_one(about->Height) * at_least_one(about->Depth);
}

static bool is_valid(const CUDA_ARRAY3D_DESCRIPTOR *about)
{
    return about && about->Width && format_bytes(about->Format) && (about->NumChannels == 1 || about->NumChannels == 2 || about->NumChannels == 4);
}

static struct CUarray_st *array_new(const CUDA_ARRAY3D_DESCRIPTOR *about)
{
    struct CUarray_st *array = object_new(ARRAY_OBJECT, sizeof *array);
    array->descriptor = *about;
    array->element_bytes = format_bytes(about->Format) * about->NumChannels;
    array->row_bytes = array->element_bytes * about->Width;
    return array;
}

static CUresult create(CUarray *made, const CUDA_ARRAY3D_DESCRIPTOR *about)
{
    struct CUctx_st *context;
    struct region *region;
    CUresult result = capture_unsafe();
    if (!result)
        result = context_current(&context);
    if (!result && (!made || !is_valid(about)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result && (about->Flags & CUDA_ARRAY3D_SPARSE))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result)
        return result;
    pthread_mutex_lock(&driver.lock);
    result = allocate(context, bytes_of(about), &region);
    if (!result) {
        *made = array_new(about);
        (*made)->region = region;
        (*made)->data = region->base;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuArray3DCreate_v2(CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *about)
{
    CUresult entered = enter(__func__);
    return entered ? entered : create(array, about);
}

CUresult cuArrayCreate_v2(CUarray *array, const CUDA_ARRAY_DESCRIPTOR *about)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!about)
        return CUDA_ERROR_INVALID_VALUE;
    return create(array, &(CUDA_ARRAY3D_DESCRIPTOR){.Width = about->Width, .Height = about->Height, .Format = about->Format, .NumChannels = about->NumChannels});
}

CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *about, CUarray array)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!about || !object_is(array, ARRAY_OBJECT))
        return about ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
    *about = array->descriptor;
    return CUDA_SUCCESS;
}

CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *about, CUarray array)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!about || !object_is(array, ARRAY_OBJECT))
        return about ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
    *about = (CUDA_ARRAY_DESCRIPTOR){.Width = array->descriptor.Width, .Height = array->descriptor.Height, .Format = array->descriptor.Format, .NumChannels = array->descriptor.NumChannels};
    return CUDA_SUCCESS;
}

CUresult cuArrayDestroy(CUarray array)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && (!object_is(array, ARRAY_OBJECT) || array->mipmap))
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result)
        return result;
    context_wait(context);
    pthread_mutex_lock(&driver.lock);
    release(array->region);
    object_end(array);
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

static CUDA_ARRAY3D_DESCRIPTOR level_of(const CUDA_ARRAY3D_DESCRIPTOR *about, unsigned level)
{
    CUDA_ARRAY3D_DESCRIPTOR smaller = *about;
    smaller.Width = at_least_one(about->Width >> level);
    smaller.Height = about->Height ? at_least_one(about->Height >> level) : 0;
    smaller.Depth = about->Depth ? at_least_one(about->Depth >> level) : 0;
    return smaller;
}

CUresult cuMipmappedArrayCreate(CUmipmappedArray *made, const CUDA_ARRAY3D_DESCRIPTOR *about, unsigned int levels)
{
    struct CUctx_st *context;
    struct region *region;
    CUresult result = enter(__func__);
    if (!result)
        result = capture_unsafe();
    if (!result)
        result = context_current(&context);
    if (!result && (!made || !is_valid(about) || !levels || levels > 16))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result && (about->Flags & CUDA_ARRAY3D_SPARSE))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result)
        return result;
    size_t bytes = 0;
    for (unsigned level = 0; level < levels; level++) {
        CUDA_ARRAY3D_DESCRIPTOR smaller = level_of(about, level);
        bytes += bytes_of(&smaller);
    }
    pthread_mutex_lock(&driver.lock);
    result = allocate(context, bytes, &region);
    if (!result) {
        struct CUmipmappedArray_st *mipmap = object_new(MIPMAP_OBJECT, sizeof *mipmap);
        mipmap->descriptor = *about;
        mipmap->levels = levels;
        mipmap->region = region;
        CUdeviceptr at = region->base;
        for (unsigned level = 0; level < levels; level++) {
            CUDA_ARRAY3D_DESCRIPTOR smaller = level_of(about, level);
            mipmap->level[level] = array_new(&smaller);
            mipmap->level[level]->mipmap = mipmap;
            mipmap->level[level]->data = at;
            at += bytes_of(&smaller);
        }
        *made = mipmap;
    }
    pthread_mutex_unlock(&driver.lock);
    return result;
}

CUresult cuMipmappedArrayGetLevel(CUarray *array, CUmipmappedArray mipmap, unsigned int level)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!object_is(mipmap, MIPMAP_OBJECT))
        return CUDA_ERROR_INVALID_HANDLE;
    if (!array || level >= mipmap->levels)
        return CUDA_ERROR_INVALID_VALUE;
    *array = mipmap->level[level];
    return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayDestroy(CUmipmappedArray mipmap)
{
    struct CUctx_st *context;
    CUresult result = enter(__func__);
    if (!result)
        result = context_current(&context);
    if (!result && !object_is(mipmap, MIPMAP_OBJECT))
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result)
        return result;
    context_wait(context);
    pthread_mutex_lock(&driver.lock);
    release(mipmap->region);
    for (unsigned level = 0; level < mipmap->levels; level++)
        object_end(mipmap->level[level]);
    object_end(mipmap);
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

static CUresult requirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *needed, size_t bytes, CUdevice device)
{
    if (!needed)
        return CUDA_ERROR_INVALID_VALUE;
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    memset(needed, 0, sizeof *needed);
    needed->size = (bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
    needed->alignment = 2 * MIB;
    return CUDA_SUCCESS;
}

CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *needed, CUarray array, CUdevice device)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    return object_is(array, ARRAY_OBJECT) ? requirements(needed, bytes_of(&array->descriptor), device) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *needed, CUmipmappedArray mipmap, CUdevice device)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    return object_is(mipmap, MIPMAP_OBJECT) ? requirements(needed, mipmap->region->bytes, device) : CUDA_ERROR_INVALID_HANDLE;
}
