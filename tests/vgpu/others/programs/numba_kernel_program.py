"""Numba: a kernel that it compiles, with NVVM and NVRTC, which it also wants before it calls a card available."""

import numpy as np
from numba import cuda
from steps import step


def add_one(values):
    at = cuda.grid(1)
    if at < values.size:
        values[at] += 1


def kernel() -> str:
    cuda.jit(add_one)[1024, 256](cuda.to_device(np.zeros(1 << 18, dtype=np.float32)))
    cuda.synchronize()
    return "launched"


step("available", cuda.is_available)
step("kernel", kernel)
