"""Taichi: it compiles kernels with an LLVM of its own and needs nothing but the driver."""

import taichi
from steps import step

taichi.init(arch=taichi.cuda, device_memory_GB=1)
values = taichi.field(taichi.f32, shape=1 << 20)


@taichi.kernel
def add_one():
    for at in values:
        values[at] += 1


def kernel() -> str:
    add_one()
    taichi.sync()
    return "launched"


step("backend", lambda: taichi.lang.impl.current_cfg().arch == taichi.cuda)
step("kernel", kernel)
step("copy", lambda: values.to_numpy().shape)
