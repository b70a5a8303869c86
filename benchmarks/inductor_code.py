"""What ``fused="inductor"`` reads and writes on CUDA, by the code that Inductor writes for an H100: no GPU is needed.

    python benchmarks/inductor_code.py adamw nesterov

prints, for each preset, the kernels of a step of three tensors and one number, and for each tensor how often its
entries are read and written. Triton must be installed; of torch it uses internals, as they are in 2.13. The graph is
traced on a CPU, its tensors are then said to be on CUDA, and Inductor lowers it.
"""

from __future__ import annotations

import argparse
import json
import re
import types
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from sabun.optim import create
from sabun.optim.compiled import inductor

SIZES = ((640, 320), (1000,), (70, 90), ())
H100 = types.SimpleNamespace(
    name="H100", major=9, minor=0, multi_processor_count=132, max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65_536, warp_size=32, max_threads_per_block=1024, shared_memory_per_block=48 * 2**10,
    shared_memory_per_block_optin=227 * 2**10, total_memory=80 * 2**30, L2_cache_size=50 * 2**20,
)  # fmt: skip


def traced(preset: str) -> tuple[Any, list[Tensor]]:
    """The graph of a step after autograd's part of the compiler, and the tensors that go into it."""
    from torch._inductor import compile_fx
    from torch.fx.experimental.proxy_tensor import make_fx

    calls: list[tuple[Any, Any]] = []
    original = inductor.make_graph

    def recording(rule: Any) -> inductor.Graph:
        bodies: list[Any] = []
        compiled, torch.compile = torch.compile, lambda body, **_: bodies.append(body)
        try:
            original(rule)
        finally:
            torch.compile = compiled
        return inductor.Graph(lambda *args: calls.append((bodies[0], args)))

    inductor.make_graph = recording
    try:
        params = [torch.randn(size, requires_grad=True) for size in SIZES]
        for p in params:
            p.grad = torch.randn_like(p)
        create(preset, params, fused="inductor").step()
    finally:
        inductor.make_graph = original
    body, given = calls[0]
    flat, form = tree_flatten(given)
    flat = [t.detach() for t in flat]

    def step(*tensors: Tensor) -> tuple[()]:
        body(*tree_unflatten(list(tensors), form))
        return ()

    found: list[Any] = []

    class FoundError(Exception):
        pass

    def take(graph: Any, *_: Any, **__: Any) -> None:
        found.append(graph)
        raise FoundError

    with torch.no_grad():
        graph = make_fx(step, tracing_mode="real", pre_dispatch=True)(*[t.clone() for t in flat])
        try:
            compile_fx.compile_fx(graph, flat, inner_compile=take)
        except Exception:
            if not found:
                raise
    return found[0], flat


def code(graph: Any, tensors: list[Tensor]) -> str:
    """The program that Inductor writes for this graph on an H100."""
    import torch.utils._triton
    from torch._dynamo import device_interface
    from torch._inductor.debug import DebugContext
    from torch._inductor.fx_passes.post_grad import post_grad_passes, view_to_reshape
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch._subclasses.fake_tensor import FakeTensorMode

    cuda = device_interface.CudaInterface
    for where in (cuda, cuda.Worker, torch.cuda):
        for name, value in {
            "get_device_properties": H100, "current_device": 0, "is_available": True, "device_count": 1,
            "get_compute_capability": 90, "get_device_capability": (9, 0),
        }.items():  # fmt: skip
            setattr(where, name, staticmethod(lambda *_, value=value, **__: value))
    torch.utils._triton.triton_hash_with_backend = lambda *_: ""
    torch.version.cuda = "13.0"
    mode = FakeTensorMode()

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda:0")

    with mode, V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
        for node in graph.graph.nodes:
            if "val" in node.meta:
                node.meta["val"] = tree_map(moved, node.meta["val"])
        view_to_reshape(graph)
        post_grad_passes(graph, True)
        lowering = GraphLowering(graph)
        with V.set_graph_handler(lowering):
            lowering.run(*map(moved, tensors))
            program = lowering.codegen()[0]
    return str(getattr(program, "value", program))


def count(program: str) -> dict[str, Any]:
    """Kernels, and loads and stores of entries by a thread, in all kernels and per tensor; scalars are left out."""
    entry = r"\(\w+ \+ \(x\d"
    tensors = sum(map(bool, SIZES))
    loads, stores = (len(re.findall(rf"tl\.{way}{entry}", program)) for way in ("load", "store"))
    return {
        "kernels": len(re.findall(r"^ +triton_\w+\.run\(", program, re.MULTILINE)),
        "loads": loads / tensors,
        "stores": stores / tensors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+")
    # A process looks like one with CUDA after the first lowering, so all is traced before.
    graphs = {preset: traced(preset) for preset in parser.parse_args().presets}
    print(json.dumps({preset: count(code(*graph)) for preset, graph in graphs.items()}))


if __name__ == "__main__":
    import piped

    piped.run(main)
