"""What a step of the preset `sabun` needs of one rank under FSDP2 and DDP: ``python benchmarks/sharding.py``.

Tensors are on the meta device and the process group is torch's fake one, so the code of the step runs as rank 0 of any
number of ranks, without numbers and without a second process. Counted are the bytes that the rank sends, collectives,
floating-point operations of matrix products, which are then those of the busiest rank, and memory beside parameters,
gradients and state. No time is predicted.
Parameters and gradients are in bfloat16, the state in float32. ``tests/optim/test_distributed.py`` counts the same
collectives among four processes.

Beside it stand figures that are computed, not counted, of two optimizers of https://github.com/microsoft/dion, both for
momenta in bfloat16 and matrices sharded by rows: its Muon (:func:`muon`) and Dion with a quarter of the ranks
(:func:`dion`; Ahn, Xu, Abreu & Langford 2025, arXiv 2504.05295).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sabun.optim import create
from sabun.optim import torch_internals as internals

# layers, width, width of keys and values, width of the feed-forward layer, vocabulary: Llama 3.2 1B and Llama 3 70B.
MODELS = {"1B": (16, 2_048, 512, 8_192, 128_256), "70B": (80, 8_192, 1_024, 28_672, 128_256)}


class Count(TorchDispatchMode):
    """Operations of products, and the largest memory that was allocated inside its block."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.largest = self._live = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        out = function(*args, **(kwargs or {}))
        for t in _tensors(out):
            storage = t.untyped_storage()
            if storage._cdata not in known:
                known.add(storage._cdata)
                self._live += storage.nbytes()
                self.largest = max(self.largest, self._live)
                weakref.finalize(storage, self._freed, storage.nbytes())
        if function.__name__.split(".")[0] in ("bmm", "baddbmm"):
            *_, first, second = args
            self.operations += 2 * math.prod(first.shape) * second.shape[-1]
        return out

    def _freed(self, size: int) -> None:
        self._live -= size


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def shapes(model: str) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all parameters."""
    layers, d, keys, wide, vocabulary = MODELS[model]
    found: list[tuple[str, tuple[int, ...]]] = [("embed_tokens.weight", (vocabulary, d))]
    for layer in range(layers):
        for name, rows, columns in (
            ("q_proj", d, d), ("k_proj", keys, d), ("v_proj", keys, d), ("o_proj", d, d),
            ("gate_proj", wide, d), ("up_proj", wide, d), ("down_proj", d, wide),
        ):  # fmt: skip
            found.append((f"layers.{layer}.{name}.weight", (rows, columns)))
        found += [(f"layers.{layer}.{norm}.weight", (d,)) for norm in ("input_layernorm", "post_attention_layernorm")]
    return [*found, ("norm.weight", (d,)), ("lm_head.weight", (vocabulary, d))]


def batches(model: str, ranks: int) -> list[tuple[int, int, int]]:
    """(rows, columns, batches) of the hidden matrices: as many of one shape as there are ranks are a batch."""
    counts = Counter(shape for name, shape in shapes(model) if name.startswith("layers") and len(shape) == 2)
    return [(rows, columns, -(-count // ranks)) for (rows, columns), count in counts.items()]


def muon(model: str, ranks: int) -> tuple[float, float]:
    """(bytes that a rank sends, operations of its products) in a step of Muon of microsoft/dion.

    Two all-to-alls for each batch, in bfloat16. A rank iterates one matrix of each, of which some are padding. Its
    kernels compute half of each symmetric product; whole ones are counted here, as they are for sabun.
    """
    sent = operations = 0.0
    for rows, columns, number in batches(model, ranks):
        short, long = sorted((rows, columns))
        sent += number * 2 * (ranks - 1) * -(-rows // ranks) * columns * 2
        operations += number * 5 * (4 * short**2 * long + 2 * short**3)
    return sent, operations


def dion(model: str, ranks: int, fraction: float = 0.25) -> tuple[float, float]:
    """(bytes that a rank sends, operations of its products) in a step of Dion, ``dion_update_fsdp`` of microsoft/dion.

    Of a direction B of n rows, sharded, and m columns: P = BᵀQ with Q (n × r), summed over the ranks by reduce-scatter;
    P orthogonalised by a randomised Cholesky QR, one matrix of the batch per rank; all-gather of P; R = BP, the norms
    of its columns by all-reduce; two products of P with n × r matrices, for B and for the weights.
    """
    sent = operations = 0.0
    for n, m, number in batches(model, ranks):
        r = fraction * min(m, n)
        sketch = math.ceil(1.25 * r / 128) * 128
        sent += number * 2 * (ranks - 1) * (m * r + r) * 2
        qr = 2 * sketch * m * r + 2 * sketch * r**2 - 2 / 3 * r**3 + 4 * m * r**2 + r**3 / 3
        operations += number * (8 * m * n * r + qr)
    return sent, operations


def sharded(shape: tuple[int, ...], mesh: Any, ranks: int) -> Tensor:
    """Rank 0's part of a parameter with a gradient, sharded by rows."""
    rows = -(-shape[0] // ranks)

    def part() -> Any:
        local = torch.empty((rows, *shape[1:]), dtype=torch.bfloat16, device="meta")
        stride = (math.prod(shape[1:]),) if len(shape) > 1 else ()
        return DTensor.from_local(
            local, mesh, [Shard(0)], run_check=False, shape=torch.Size(shape), stride=(*stride, 1)
        )

    p = torch.nn.Parameter(part())
    p.grad = part()
    return p


@contextlib.contextmanager
def exchanges(ranks: int) -> Iterator[list[tuple[str, int]]]:
    """A process group of so many ranks, and the collectives that rank 0 takes part in, with the bytes that it sends."""
    made: list[tuple[str, int]] = []

    def all_to_all(out: Tensor, given: Tensor, received: list[int], parts: list[int], group: Any) -> None:
        made.append(("all-to-all", (sum(parts) - parts[0]) * given.element_size()))  # what rank 0 keeps is not sent

    def all_gather(out: Tensor, part: Tensor, group: Any) -> None:
        made.append(("all-gather", out.nbytes - part.nbytes))

    def broadcast(part: Tensor, source: int, group: Any) -> None:
        made.append(("broadcast", part.nbytes))  # along a ring: what a rank receives it passes on

    counted = {"all_to_all_single": all_to_all, "all_gather_into_tensor": all_gather, "broadcast": broadcast}
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        with mock.patch.multiple(dist, **counted):
            yield made
    finally:
        dist.destroy_process_group()


def step(members: list[tuple[str, Tensor]], made: list[tuple[str, int]], **options: Any) -> tuple[Any, Count]:
    """The second step of the preset; ``made`` are its collectives."""
    optimizer = create("sabun", members, state_dtype="float32", **options)
    optimizer.step()
    made.clear()
    with Count() as counted:
        optimizer.step()
    return optimizer, counted


def measure(model: str, ranks: int) -> str:
    """One row of the table of FSDP2."""
    with exchanges(ranks) as made:
        mesh = dist.init_device_mesh("cpu", (ranks,))
        optimizer, counted = step([(name, sharded(shape, mesh, ranks)) for name, shape in shapes(model)], made)
    matrices = (bucket for plan in optimizer._plans if plan for bucket in plan.members if bucket.shared.loads)
    (loads,) = next(matrices).shared.loads.values()
    operations = counted.operations * max(loads) / loads[0]  # the loads are numbers of multiplications
    others = " | ".join(f"{size / 1e9:.2f} GB | {n / 1e12:.2f}" for size, n in (muon(model, ranks), dion(model, ranks)))
    return (
        f"| {model} | {ranks} | {sum(sent for _, sent in made) / 1e9:.2f} GB | {len(made)} | {operations / 1e12:.2f} "
        f"| {counted.largest / 1e9:.2f} GB | {others} |"
    )


def replicas(model: str, ranks: int) -> str:
    """One row of the table of DDP: ``divide``, and an all-reduce of the updates of all matrices along a ring."""
    members = []
    for name, shape in shapes(model):
        p = torch.nn.Parameter(torch.empty(shape, dtype=torch.bfloat16, device="meta"))
        p.grad = torch.empty_like(p)
        members.append((name, p))
    with exchanges(ranks) as made:
        _, counted = step(members, made, preconditioner="spectral(divide=True)")
    calls = Counter(call for call, _ in made)
    entries = sum(math.prod(shape) for name, shape in shapes(model) if name.startswith("layers") and len(shape) == 2)
    reduced = 2 * (ranks - 1) / ranks * 4 * entries
    return (
        f"| {model} | {ranks} | {sum(sent for _, sent in made) / 1e9:.2f} GB | {calls['all-gather']} "
        f"| {calls['broadcast']} | {reduced / 1e9:.2f} GB | {counted.largest / 1e9:.2f} GB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 64, 512])
    given = parser.parse_args()
    internals.multiplies_bfloat16 = lambda device: True
    print(
        "| model | ranks | sent per rank and step | all-to-alls | TFLOP of products, busiest rank | memory beside "
        "| Muon of microsoft/dion: sent | TFLOP | Dion, r = ¼: sent | TFLOP |"
    )
    print(10 * "|---" + "|")
    for model in given.models:
        for ranks in given.ranks:
            print(measure(model, ranks), flush=True)
    print("\n| model | ranks (DDP) | sent | all-gathers | broadcasts | sent by an all-reduce | memory beside |")
    print(7 * "|---" + "|")
    for model in given.models:
        for ranks in given.ranks:
            print(replicas(model, ranks), flush=True)


if __name__ == "__main__":
    import piped

    piped.run(main)
