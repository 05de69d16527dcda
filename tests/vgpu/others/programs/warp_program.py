"""NVIDIA Warp: it asks the driver for devices, and has NVIDIA's runtime inside for the rest."""

import warp
from steps import step

GIB = 1 << 30

step("devices", warp.get_cuda_device_count)
step("name", lambda: warp.get_device("cuda:0").name)
step("total_gib", lambda: warp.get_device("cuda:0").total_memory // GIB)
step("array", lambda: warp.zeros(1024, dtype=float, device="cuda:0").shape)
