/* Devices: how many, which, and how large. */
#include "driver.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!device)
        return CUDA_ERROR_INVALID_VALUE;
    if (!is_device(ordinal))
        return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count)
{
    CUresult entered = enter(__func__);
    if (entered)
        return entered;
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    *count = driver.device_count;
    return CUDA_SUCCESS;
}

static CUresult check(const void *result, CUdevice device)
{
    if (!result)
        return CUDA_ERROR_INVALID_VALUE;
    return is_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    CUresult result = enter(__func__);
    if (result || (result = check(name, device)))
        return result;
    const struct device *about = &driver.devices[device];
    if (length <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (about->part)
        snprintf(name, (size_t)length, "%s MIG %s", card_of(device)->product,
                 card_of(device)->profiles[driver.machine->mig[about->card].instances[about->part].profile].name);
    else
        snprintf(name, (size_t)length, "%s", card_of(device)->product);
    return CUDA_SUCCESS;
}

static int hex(char digit)
{
    return digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10;
}

static void parse_uuid(const char *text, CUuuid *uuid)
{
    unsigned count = 0;
    memset(uuid, 0, sizeof *uuid);
    for (const char *at = text + 4; at[0] && at[1] && count < sizeof uuid->bytes;) {
        if (*at == '-') {
            at++;
            continue;
        }
        uuid->bytes[count++] = (char)(hex(at[0]) << 4 | hex(at[1]));
        at += 2;
    }
}

/* The plain call gives the card's, _v2 that of the MIG instance, if it is one. */
CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    CUresult result = enter(__func__);
    if (result || (result = check(uuid, device)))
        return result;
    parse_uuid(card_of(device)->uuid, uuid);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    CUresult result = enter(__func__);
    if (result || (result = check(uuid, device)))
        return result;
    parse_uuid(driver.devices[device].uuid, uuid);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetLuid(char *luid, unsigned int *mask, CUdevice device)
{
    CUresult result = enter(__func__);
    (void)luid;
    (void)mask;
    (void)device;
    return result ? result : CUDA_ERROR_NOT_SUPPORTED; /* Windows only */
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult result = enter(__func__);
    if (result || (result = check(bytes, device)))
        return result;
    const struct device *about = &driver.devices[device];
    *bytes = driver.machine->parts[about->card][about->part].capacity_bytes;
    return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device)
{
    CUresult result = enter(__func__);
    if (result || (result = check(major, device)) || (result = check(minor, device)))
        return result;
    *major = (int)card_of(device)->capability_major;
    *minor = (int)card_of(device)->capability_minor;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device)
{
    CUresult result = enter(__func__);
    if (result || (result = check(text, device)))
        return result;
    const char *bus_id = card_of(device)->bus_id; /* 00000000:3B:00.0; the driver's has four digits less in front */
    if (length <= (int)strlen(bus_id + 4))
        return CUDA_ERROR_INVALID_VALUE;
    snprintf(text, (size_t)length, "%s", bus_id + 4);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetByPCIBusId(CUdevice *device, const char *text)
{
    CUresult result = enter(__func__);
    if (result)
        return result;
    if (!device || !text)
        return CUDA_ERROR_INVALID_VALUE;
    unsigned wanted[4] = {0}, has[4];
    if (sscanf(text, "%x:%x:%x.%x", &wanted[0], &wanted[1], &wanted[2], &wanted[3]) < 3 &&
        (wanted[0] = 0, sscanf(text, "%x:%x.%x", &wanted[1], &wanted[2], &wanted[3]) < 2))
        return CUDA_ERROR_INVALID_VALUE;
    for (CUdevice candidate = 0; candidate < driver.device_count; candidate++) {
        sscanf(card_of(candidate)->bus_id, "%x:%x:%x.%x", &has[0], &has[1], &has[2], &has[3]);
        if (memcmp(wanted, has, sizeof has) == 0) {
            *device = candidate;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetProperties(CUdevprop *properties, CUdevice device)
{
    CUresult result = enter(__func__);
    if (result || (result = check(properties, device)))
        return result;
    const struct card_description *about = card_of(device);
    *properties = (CUdevprop){.maxThreadsPerBlock = 1024,
                              .maxThreadsDim = {1024, 1024, 64},
                              .maxGridSize = {2147483647, 65535, 65535},
                              .sharedMemPerBlock = 49152,
                              .totalConstantMemory = 65536,
                              .SIMDWidth = 32,
                              .memPitch = 2147483647,
                              .regsPerBlock = 65536,
                              .clockRate = (int)about->clock_khz,
                              .textureAlign = 512};
    return CUDA_SUCCESS;
}

/* Cards of the machine see each other, as over one PCI root; MIG instances see nobody. */
static bool are_peers(CUdevice one, CUdevice other)
{
    return one != other && !driver.devices[one].part && !driver.devices[other].part;
}

CUresult cuDeviceCanAccessPeer(int *possible, CUdevice device, CUdevice peer)
{
    CUresult result = enter(__func__);
    if (result || (result = check(possible, device)) || (result = check(possible, peer)))
        return result;
    *possible = are_peers(device, peer);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attribute, CUdevice device, CUdevice peer)
{
    CUresult result = enter(__func__);
    if (result || (result = check(value, device)) || (result = check(value, peer)))
        return result;
    if (device == peer)
        return CUDA_ERROR_INVALID_DEVICE;
    switch (attribute) {
    case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
    case CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED:
        *value = are_peers(device, peer);
        return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK:
    case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
        *value = 0;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuDeviceGetExecAffinitySupport(int *supported, CUexecAffinityType type, CUdevice device)
{
    CUresult result = enter(__func__);
    (void)type;
    if (result || (result = check(supported, device)))
        return result;
    *supported = 0; /* only under MPS */
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetTexture1DLinearMaxWidth(size_t *width, CUarray_format format, unsigned channels, CUdevice device)
{
    CUresult result = enter(__func__);
    (void)format;
    (void)channels;
    if (result || (result = check(width, device)))
        return result;
    *width = 268435456;
    return CUDA_SUCCESS;
}
