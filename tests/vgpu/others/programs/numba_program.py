"""Numba: what it knows of the card, arrays, streams and events."""

import numpy as np
from numba import cuda
from steps import step

GIB = 1 << 30


def arrays() -> int:
    there = cuda.to_device(np.arange(1 << 20, dtype=np.int32))
    return int(there.copy_to_host()[12345])


def streams() -> str:
    stream, begin, end = cuda.stream(), cuda.event(), cuda.event()
    begin.record(stream)
    cuda.to_device(np.zeros(1 << 24, dtype=np.uint8), stream=stream)
    end.record(stream)
    end.synchronize()
    return "later" if begin.elapsed_time(end) > 0 else "not later"


step("cards", lambda: len(cuda.gpus))
step("name", lambda: cuda.get_current_device().name)
step("total_gib", lambda: cuda.current_context().get_memory_info().total // GIB)
step("arrays", arrays)
step("streams", streams)
step("too_much", lambda: cuda.device_array(100 * GIB, dtype=np.uint8))
