"""NVIDIA's own bindings: driver, runtime and NVML of cuda-bindings, nvidia-ml-py, and the objects of cuda.core."""

import numpy as np
import pynvml
from cuda.bindings import driver, runtime
from cuda.core import Device, LaunchConfig, ObjectCode, launch
from steps import step

GIB = 1 << 30
PTX = b".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry empty(.param .u64 at)\n{\nret;\n}\n\0"


def total_of_driver() -> int:
    driver.cuInit(0)
    context = driver.cuDevicePrimaryCtxRetain(0)[1]
    driver.cuCtxSetCurrent(context)
    return int(driver.cuMemGetInfo()[2]) // GIB


def total_of_management() -> int:
    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total) // GIB


def kernel() -> str:
    device = Device(0)
    device.set_current()
    stream = device.create_stream()
    buffer = device.allocate(1 << 20, stream=stream)
    empty = ObjectCode.from_ptx(PTX).get_kernel("empty")
    launch(stream, LaunchConfig(grid=128, block=64), empty, np.uint64(int(buffer.handle)))
    stream.sync()
    return "launched"


step("total_gib", total_of_driver)
step("management_total_gib", total_of_management)
step("device", lambda: Device(0).name)
step("kernel", kernel)
step("too_much", lambda: driver.cuMemAlloc(100 * GIB)[0].name)
step("runtime", lambda: runtime.cudaGetDeviceCount()[0].name)
