/* cuDeviceGetAttribute. What is not listed is 0, which for nearly all attributes means "no". */
#include "driver.h"
#include <stdio.h>

struct constant {
    CUdevice_attribute attribute;
    int value;
};

#define IS(name, value) {CU_DEVICE_ATTRIBUTE_##name, value}
static const struct constant constants[] = {
    IS(MAX_THREADS_PER_BLOCK, 1024), IS(MAX_BLOCK_DIM_X, 1024), IS(MAX_BLOCK_DIM_Y, 1024), IS(MAX_BLOCK_DIM_Z, 64),
    IS(MAX_GRID_DIM_X, 2147483647), IS(MAX_GRID_DIM_Y, 65535), IS(MAX_GRID_DIM_Z, 65535),
    IS(MAX_SHARED_MEMORY_PER_BLOCK, 49152), IS(TOTAL_CONSTANT_MEMORY, 65536), IS(WARP_SIZE, 32), IS(MAX_PITCH, 2147483647),
    IS(MAX_REGISTERS_PER_BLOCK, 65536), IS(MAX_REGISTERS_PER_MULTIPROCESSOR, 65536), IS(TEXTURE_ALIGNMENT, 512), IS(GPU_OVERLAP, 1),
    IS(CAN_MAP_HOST_MEMORY, 1), IS(COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT), IS(SURFACE_ALIGNMENT, 512), IS(CONCURRENT_KERNELS, 1),
    IS(ECC_ENABLED, 1), IS(ASYNC_ENGINE_COUNT, 2), IS(UNIFIED_ADDRESSING, 1), IS(TEXTURE_PITCH_ALIGNMENT, 32),
    IS(MAXIMUM_TEXTURE1D_WIDTH, 131072), IS(MAXIMUM_TEXTURE2D_WIDTH, 131072), IS(MAXIMUM_TEXTURE2D_HEIGHT, 65536),
    IS(MAXIMUM_TEXTURE3D_WIDTH, 16384), IS(MAXIMUM_TEXTURE3D_HEIGHT, 16384), IS(MAXIMUM_TEXTURE3D_DEPTH, 16384),
    IS(MAXIMUM_TEXTURE1D_LINEAR_WIDTH, 268435456), IS(STREAM_PRIORITIES_SUPPORTED, 1), IS(GLOBAL_L1_CACHE_SUPPORTED, 1),
    IS(LOCAL_L1_CACHE_SUPPORTED, 1), IS(MANAGED_MEMORY, 1), IS(SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO, 2),
    IS(CONCURRENT_MANAGED_ACCESS, 1), IS(COMPUTE_PREEMPTION_SUPPORTED, 1), IS(CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1),
    IS(CAN_USE_STREAM_MEM_OPS_V1, 1), IS(CAN_USE_64_BIT_STREAM_MEM_OPS_V1, 1), IS(CAN_USE_STREAM_WAIT_VALUE_NOR_V1, 1),
    IS(CAN_USE_64_BIT_STREAM_MEM_OPS, 1), IS(CAN_USE_STREAM_WAIT_VALUE_NOR, 1), IS(COOPERATIVE_LAUNCH, 1), IS(HOST_REGISTER_SUPPORTED, 1),
    IS(VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1), IS(HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1),
    IS(MAX_BLOCKS_PER_MULTIPROCESSOR, 32), IS(RESERVED_SHARED_MEMORY_PER_BLOCK, 1024), IS(READ_ONLY_HOST_REGISTER_SUPPORTED, 1),
    IS(MEMORY_POOLS_SUPPORTED, 1), IS(MEMPOOL_SUPPORTED_HANDLE_TYPES, CU_MEM_HANDLE_TYPE_NONE), IS(IPC_EVENT_SUPPORTED, 1),
    IS(MEM_SYNC_DOMAIN_COUNT, 1), IS(NUMA_CONFIG, CU_DEVICE_NUMA_CONFIG_NONE), IS(NUMA_ID, -1), IS(HOST_NUMA_ID, -1),
};

static int of_card(CUdevice_attribute attribute, CUdevice device)
{
    const struct card_description *about = card_of(device);
    unsigned bus[4];
    sscanf(about->bus_id, "%x:%x:%x.%x", &bus[0], &bus[1], &bus[2], &bus[3]);
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        return (int)driver.devices[device].multiprocessors;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        return (int)about->capability_major;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        return (int)about->capability_minor;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        return (int)about->clock_khz;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        return (int)about->memory_clock_khz;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
        return (int)about->memory_bus_bits;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
        return (int)about->l2_cache_bytes;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        return (int)about->threads_per_multiprocessor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
        return (int)about->shared_memory_per_multiprocessor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
        return (int)about->shared_memory_per_block_optin;
    case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED:
        return about->capability_major >= 9;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
        return (int)bus[0];
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        return (int)bus[1];
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
        return (int)bus[2];
    default:
        return 0;
    }
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!value || attribute < 1 || attribute >= CU_DEVICE_ATTRIBUTE_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    if (!is_device(device))
        return CUDA_ERROR_INVALID_DEVICE;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (constants[i].attribute == attribute) {
            *value = constants[i].value;
            return CUDA_SUCCESS;
        }
    *value = of_card(attribute, device);
    return CUDA_SUCCESS;
}
