"""tinygrad: it writes PTX itself and needs nothing but the driver."""

import os

os.environ |= {"DEV": "CUDA:PTX", "CACHELEVEL": "0"}

from steps import step
from tinygrad import Tensor
from tinygrad.device import Device

GIB = 1 << 30


def kernels() -> str:
    (Tensor.ones(1 << 20).contiguous() + 1).realize()
    Device["CUDA"].synchronize()
    return "launched"


step("kernels", kernels)
step("matmul", lambda: (Tensor.rand(64, 64) @ Tensor.rand(64, 64)).numpy().shape)
step("too_much", lambda: Device["CUDA"].allocator.alloc(100 * GIB))
