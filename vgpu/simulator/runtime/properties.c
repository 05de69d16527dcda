/* cudaDeviceProp, from the driver's attributes. */
#include "runtime.h"
#include <string.h>

static int attribute(CUdevice device, CUdevice_attribute which)
{
    int value = 0;
    return cuDeviceGetAttribute(&value, which, device) ? 0 : value;
}

static size_t amount(CUdevice device, CUdevice_attribute which)
{
    return (size_t)attribute(device, which);
}

static void blocks(struct cudaDeviceProp *about, CUdevice device)
{
    about->sharedMemPerBlock = amount(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
    about->regsPerBlock = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
    about->warpSize = attribute(device, CU_DEVICE_ATTRIBUTE_WARP_SIZE);
    about->maxThreadsPerBlock = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    about->maxThreadsDim[0] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X);
    about->maxThreadsDim[1] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y);
    about->maxThreadsDim[2] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z);
    about->maxGridSize[0] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X);
    about->maxGridSize[1] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y);
    about->maxGridSize[2] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z);
    about->sharedMemPerBlockOptin = amount(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    about->reservedSharedMemPerBlock = amount(device, CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
    about->maxThreadsPerMultiProcessor = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
    about->maxBlocksPerMultiProcessor = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR);
    about->sharedMemPerMultiprocessor = amount(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
    about->regsPerMultiprocessor = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
}

static void memory(struct cudaDeviceProp *about, CUdevice device)
{
    about->memPitch = amount(device, CU_DEVICE_ATTRIBUTE_MAX_PITCH);
    about->totalConstMem = amount(device, CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY);
    about->textureAlignment = amount(device, CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
    about->texturePitchAlignment = amount(device, CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT);
    about->surfaceAlignment = amount(device, CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT);
    about->canMapHostMemory = attribute(device, CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY);
    about->unifiedAddressing = attribute(device, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING);
    about->memoryBusWidth = attribute(device, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
    about->l2CacheSize = attribute(device, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
    about->persistingL2CacheMaxSize = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE);
    about->accessPolicyMaxWindowSize = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE);
    about->globalL1CacheSupported = attribute(device, CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED);
    about->localL1CacheSupported = attribute(device, CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED);
    about->managedMemory = attribute(device, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY);
    about->concurrentManagedAccess = attribute(device, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS);
    about->pageableMemoryAccess = attribute(device, CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS);
    about->canUseHostPointerForRegisteredMem = attribute(device, CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM);
    about->hostRegisterSupported = attribute(device, CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED);
    about->memoryPoolsSupported = attribute(device, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED);
    about->memoryPoolSupportedHandleTypes = (unsigned)attribute(device, CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES);
}

static void abilities(struct cudaDeviceProp *about, CUdevice device)
{
    about->major = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    about->minor = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    about->multiProcessorCount = attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    about->integrated = attribute(device, CU_DEVICE_ATTRIBUTE_INTEGRATED);
    about->concurrentKernels = attribute(device, CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS);
    about->ECCEnabled = attribute(device, CU_DEVICE_ATTRIBUTE_ECC_ENABLED);
    about->asyncEngineCount = attribute(device, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT);
    about->streamPrioritiesSupported = attribute(device, CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED);
    about->isMultiGpuBoard = attribute(device, CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD);
    about->multiGpuBoardGroupID = attribute(device, CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID);
    about->computePreemptionSupported = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED);
    about->cooperativeLaunch = attribute(device, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH);
    about->clusterLaunch = attribute(device, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH);
    about->ipcEventSupported = attribute(device, CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED);
    about->unifiedFunctionPointers = attribute(device, CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS);
    about->pciBusID = attribute(device, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID);
    about->pciDeviceID = attribute(device, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID);
    about->pciDomainID = attribute(device, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID);
    about->hostNumaId = -1;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *about, int device)
{
    CUuuid uuid;
    int count;
    if (!about)
        return answer(CUDA_ERROR_INVALID_VALUE);
    memset(about, 0, sizeof *about);
    CUresult result = initialised() ?: cuDeviceGetCount(&count);
    if (!result && (device < 0 || device >= count))
        result = CUDA_ERROR_INVALID_DEVICE;
    result = result ?: cuDeviceGetName(about->name, sizeof about->name, device) ?: cuDeviceGetUuid(&uuid, device) ?: cuDeviceTotalMem(&about->totalGlobalMem, device);
    if (result)
        return answer(result);
    memcpy(&about->uuid, &uuid, sizeof uuid);
    blocks(about, device);
    memory(about, device);
    abilities(about, device);
    return cudaSuccess;
}
