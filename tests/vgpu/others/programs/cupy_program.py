"""CuPy: it has NVIDIA's runtime inside."""

import cupy
from steps import step

step("driver_version", cupy.cuda.runtime.driverGetVersion)
step("devices", cupy.cuda.runtime.getDeviceCount)
step("array", lambda: cupy.zeros(1024).shape)
