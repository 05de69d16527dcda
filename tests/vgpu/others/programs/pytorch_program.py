"""PyTorch: its start, its allocator, its own kernels, a graph, a step of training, and the libraries that it leaves work to."""

import torch
from steps import step

GIB = 1 << 30


def events() -> str:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    values = torch.ones(1 << 24, device="cuda")
    begin.record()
    values.mul_(2)
    end.record()
    end.synchronize()
    return "later" if begin.elapsed_time(end) > 0 else "not later"


def graph() -> str:
    values, graph = torch.ones(1 << 20, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values.add_(1)
    graph.replay()
    torch.cuda.synchronize()
    return "replayed"


def training() -> str:
    model = torch.nn.Sequential(torch.nn.LayerNorm(64), torch.nn.ReLU()).cuda()
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(8, 64, device="cuda")).sum().backward()
    optimiser.step()
    torch.cuda.synchronize()
    return "one step"


def compiled() -> tuple[int, ...]:
    """What Triton makes of it."""
    return tuple(torch.compile(lambda values: (values * 2 + 1).relu())(torch.ones(100, device="cuda")).shape)


def copies() -> int:
    return int(torch.arange(1 << 20).cuda().cpu()[54321])


step("available", torch.cuda.is_available)
step("name", lambda: torch.cuda.get_device_properties(0).name)
step("total_gib", lambda: torch.cuda.mem_get_info()[1] // GIB)
step("first_allocation", lambda: torch.empty(1 << 20, device="cuda").numel())
step("copies", copies)
step("kernels", lambda: tuple((torch.ones(1 << 20, device="cuda") + 1).sum().shape))
step("streams", lambda: torch.cuda.Stream().query())
step("events", events)
step("graph", graph)
step("training", training)
step("compiled", compiled)
step("too_much", lambda: torch.empty(100 * GIB, dtype=torch.uint8, device="cuda"))
step("matmul", lambda: (torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")).shape)
step("convolution", lambda: torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8).cuda(), torch.ones(4, 3, 3, 3).cuda()).shape)
