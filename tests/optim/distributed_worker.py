"""One rank: ``python distributed_worker.py MODE DIRECTORY RANK WORLD``. Used by test_distributed.

Modes: ``ddp`` trains replicas, with the optimizer whole on each rank and with torch's ZeRO around it; ``save`` trains 6
steps sharded by FSDP2, checkpoints, trains 6 more; ``resume`` loads that checkpoint in a world of its own size and
trains the last 6 steps; ``sequence`` trains a block that is tensor and sequence parallel; ``placed`` steps
hidden matrices in several placements, and moves their checkpoints. In ``ddp``, ``save`` and ``resume`` each rank has
its part of every batch.
"""

from __future__ import annotations

import faulthandler
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from training import backward, batches, leave

import sabun
from sabun.optim import PRECONDITIONERS, create
from sabun.optim.preconditioners import spectral

torch.set_num_threads(1)

ARMS = {
    "nesterov": lambda p: sabun.Optimizer(p, 0.1, scheme="nesterov", weight_decay=0.1),
    "taylor-4@adam": lambda p: sabun.Optimizer(p, 0.01, scheme="taylor-4", preconditioner="adam", averaging="ema"),
    "schedule-free": lambda p: sabun.Optimizer(p, 0.01, preconditioner="adam", averaging="schedule-free"),
    "spectral": lambda p: sabun.Optimizer(p, 0.01, scheme="nesterov", preconditioner="spectral"),
    "kronecker": lambda p: sabun.Optimizer(p, 0.01, scheme="heavy-ball", preconditioner="kronecker(refresh_every=4)"),
    "sabun": lambda p: create("sabun", p, 0.01),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    # 7 rows on 2 ranks: shards of unequal size.
    return nn.Sequential(nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 3)).double()


class Block(nn.Module):
    """Two norms, two linear layers and a head, over (batch, sequence, 8)."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.up, self.down = norm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.last, self.head = norm(8), nn.Linear(8, 4)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(x + self.down(torch.tanh(self.up(self.first(x))))))


# Arms with sequence parallelism, and their norm. Before a LayerNorm the sums over the rows of a gradient are exactly 0;
# `kronecker` divides what rounding leaves of them by ε.
SEQUENTIAL = {name: (name, nn.LayerNorm) for name in ARMS} | {"kronecker, RMSNorm": ("kronecker", nn.RMSNorm)}
SEQUENCES = [
    tuple(torch.randn(2, 6, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for n in (8, 4))
    for seed in range(8)
]


def divide_sequences(model: Block, mesh: object) -> None:
    """Linear layers by columns and rows, norms and what is between them by positions: replicated weights and biases of
    a shard of the sequence, whose gradients are partial sums.
    """
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    plan = {
        "first": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
        "last": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    parallelize_module(model, mesh, plan)
    parallelize_module(model, mesh, PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Shard(1)))


class Collectives(TorchDispatchMode):
    """The names of the collectives inside its block, and the bytes of their first tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []
        self.sent = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace in ("c10d", "_c10d_functional") and "wait" not in function.__name__:
            first = args[1] if "alltoall" in function.__name__ else args[0]
            tensors = first if isinstance(first, list | tuple) else [first]
            if "alltoall" in function.__name__:  # (received, given, group, sizes of the parts received, and sent)
                kept = args[4][dist.get_rank(dist.ProcessGroup.unbox(args[2]))]
                self.sent += (args[1].shape[0] - kept) * args[1].element_size()
            elif "allgather" in function.__name__:  # (all, the part of this rank, group)
                self.sent += args[0].nbytes - args[1].nbytes
            self.calls.append((function.__name__, sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))))
        return function(*args, **(kwargs or {}))


HIDDEN = [(24, 16), (16, 24), (17, 16), (16, 16), (24, 16)]
EXPERTS = [(8, 12, 8), (4, 8, 12)]
UNEVEN = [(5, 12, 8), (2, 8, 12)]
EVEN = [(24, 16), (16, 24), (24, 16), (16, 24)]
RULES = ("spectral", "spectral(row_normalization=True)", "kronecker(refresh_every=2)")

# Shapes, ranks along each dimension of the mesh, and what they divide ("-": nothing). "tp" stands for tensor
# parallelism, by columns and by rows in turn, and FSDP2 after it.
PLACED = {
    "rows": (HIDDEN, (4,), "0"),
    "columns": (HIDDEN, (4,), "1"),
    "replicas": (HIDDEN, (2, 2), "-0"),
    "both": (HIDDEN, (2, 2), "01"),
    "rows twice": (HIDDEN, (2, 2), "00"),
    "tensor parallel": (EVEN, (2, 2), "tp"),
    "nothing": (HIDDEN, (4,), "-"),
    "nothing twice": (HIDDEN, (2, 2), "--"),
    "experts": (EXPERTS, (4,), "0"),
    "uneven experts": (UNEVEN, (4,), "0"),
    "experts and rows": (EXPERTS, (2, 2), "10"),
    "experts of replicas": (EXPERTS, (2, 2), "-0"),
    "plain": (HIDDEN, (), ""),  # as under DDP, with divide=True
    "plain, one": (HIDDEN[:1], (), ""),  # of four ranks one has work
}


def start(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def hidden(tensors: list[torch.Tensor], ranks: tuple[int, ...] = (), divided: str = "") -> nn.Module:
    """A module with these weights, divided among ranks."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model = nn.Module()
    mesh = dist.init_device_mesh("cpu", ranks, mesh_dim_names=("first", "second")[: len(ranks)]) if ranks else None
    for i, tensor in enumerate(tensors):
        name = f"number_{i}"
        if divided == "tp":
            layer = nn.Linear(tensor.shape[1], tensor.shape[0], bias=False, dtype=tensor.dtype)
            layer.weight.data.copy_(tensor)
            parallelize_module(layer, mesh["second"], RowwiseParallel() if i % 2 else ColwiseParallel())
            fully_shard(layer, mesh=mesh["first"])
            model.register_parameter(name, layer.weight)
        else:
            ways = [Replicate() if way == "-" else Shard(int(way)) for way in divided]
            tensor = distribute_tensor(tensor, mesh, ways) if ranks else tensor.clone()
            model.register_parameter(name, nn.Parameter(tensor))
    return model


def optimizer_of(model: nn.Module, rule: str, **options: object) -> torch.optim.Optimizer:
    three = next(model.parameters()).ndim == 3
    chosen = PRECONDITIONERS.make(rule)
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        chosen = replace(chosen, divide=True)
    return sabun.Optimizer(
        model.named_parameters(), 0.1, scheme="nesterov", preconditioner=chosen,
        matrices={"*": "stack" if three else "matrix"}, **options,
    )  # fmt: skip


def go(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, steps: int) -> None:
    """Gradients that are equal to the bit however the weights are divided."""
    for n in range(first, first + steps):
        for p in model.parameters():
            p.grad = torch.sin(p.detach() * (n + 2))
        optimizer.step()


def local(t: torch.Tensor) -> torch.Tensor:
    return t.to_local() if isinstance(t, DTensor) else t


def held(optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of the state that this rank holds: that of matrices, and all."""
    sizes: dict[str, int] = {"matrices": 0, "all": 0}
    for state in optimizer.state.values():
        for key, t in state.items():
            sizes["all"] += local(t).nbytes
            sizes["matrices"] += local(t).nbytes if not key.startswith(("velocity", "step")) else 0
    return sizes


def owned(name: str, rule: str, **options: object) -> dict[str, object]:
    """Four steps in a placement: the collectives of the last, its matrices, the state, and the parameters."""
    shapes, ranks, divided = PLACED[name]
    model = hidden(start(shapes, torch.float64), ranks, divided)
    optimizer = optimizer_of(model, rule, **options)
    matrices: list[int] = []
    original = spectral.orthogonalize_all
    spectral.orthogonalize_all = lambda stacks, **options: (
        matrices.append(sum(map(len, stacks))),
        original(stacks, **options),
    )[1]
    go(model, optimizer, 0, 3)
    matrices.clear()
    with Collectives() as collectives:
        go(model, optimizer, 3, 1)
    spectral.orthogonalize_all = original
    return {
        "calls": [list(call) for call in collectives.calls],
        "matrices": sum(matrices),
        "shards": sum(local(p).nbytes for p in model.parameters()),
        "state": held(optimizer),
        "params": list(whole(model).values()),
    }


def moved(name: str, rule: str, directory: Path) -> dict[str, object]:
    """A checkpoint of this placement after three steps, and one of one process that goes on here."""
    shapes, ranks, divided = PLACED[name]
    model = hidden(start(shapes, torch.float64), ranks, divided)
    optimizer = optimizer_of(model, rule)
    go(model, optimizer, 0, 3)
    model_state, optimizer_state = get_state_dict(model, optimizer, options=FLAT)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=str(directory / f"{name}, {rule}"))
    _, full = get_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True))
    again = hidden([torch.zeros(shape, dtype=torch.float64) for shape in shapes], ranks, divided)
    resumed = optimizer_of(again, rule)
    load(again, resumed, directory / f"one, {name}, {rule}")
    go(again, resumed, 3, 3)
    return {"full": full["state"], "resumed": list(whole(again).values())}


def load(model: nn.Module, optimizer: torch.optim.Optimizer, place: Path) -> None:
    model_state, optimizer_state = get_state_dict(model, optimizer, options=FLAT)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=str(place), no_dist=not dist.is_initialized())
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=FLAT
    )  # fmt: skip


FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
MOVED = ("rows", "both", "experts", "plain")
SHORT = "spectral(exchange_dtype='bfloat16')"
# "uneven experts" are gathered by every rank, because their rows have state.
SHORTENED = ("rows", "replicas", "nothing", "nothing twice", "uneven experts", "experts", "plain", "plain, one")
SHORT_EVEN = "spectral(exchange_dtype='bfloat16', row_normalization=True)"

# The hidden matrices of four layers of width 256: 12 MiB in float32.
LAYERS = [(768, 256), (256, 256), (1024, 256), (256, 1024)] * 4


def sized(world: int) -> dict[str, object]:
    """The last of two steps on those layers under FSDP2: its collectives, and the state; and the state of SOAP."""
    results = {}
    plain = {"plain": "spectral", f"plain, {SHORT}": SHORT}
    for rule, steps in (("spectral", 2), (SHORT, 2), ("kronecker", 1), *((rule, 2) for rule in plain)):
        model = hidden(start(LAYERS, torch.float32), *(() if rule in plain else ((world,), "0")))
        optimizer = optimizer_of(model, plain.get(rule, rule))
        go(model, optimizer, 0, steps - 1)
        with Collectives() as collectives:
            go(model, optimizer, steps - 1, 1)
        calls = [list(call) for call in collectives.calls]
        moved = {
            key: p - first for (key, p), first in zip(whole(model).items(), start(LAYERS, torch.float32), strict=True)
        }
        results[rule] = {"calls": calls, "sent": collectives.sent, "state": held(optimizer), "moved": moved}
    return results


def placed(world: int, directory: Path) -> dict[str, dict[str, object]]:
    results = {f"{name}, {rule}": owned(name, rule) for name in PLACED for rule in RULES}
    results |= {f"moved {name}, {rule}": moved(name, rule, directory) for name in MOVED for rule in RULES[1:]}
    results |= {f"{name}, short": owned(name, SHORT_EVEN) for name in SHORTENED}
    return {**results, "one by one": owned("rows", "spectral", foreach=False), **sized(world)}


def sequences(world: int) -> dict[str, dict[str, torch.Tensor]]:
    """Of two ranks: tensor and sequence parallelism. Of four: FSDP2 after them."""
    mesh = dist.init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
    results = {}
    for name, (arm, norm) in SEQUENTIAL.items():
        model = Block(norm)
        divide_sequences(model, mesh["tensor"])
        for module in (*model.children(), model) if world > 2 else ():
            fully_shard(module, mesh=mesh["data"])
        optimizer = ARMS[arm](model.named_parameters())
        train(model, optimizer, SEQUENCES)
        # FSDP2 reduces the partial sums itself.
        assert any(p.grad.placements != p.placements for p in model.parameters()) is (world == 2)
        results[name] = whole(model)
    return results


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data) -> None:
    for batch in data:
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step()


def part(data: list, rank: int, world: int) -> list:
    """This rank's part of each batch."""
    return [tuple(t.chunk(world)[rank] for t in batch) for batch in data]


def divided(name: str, data: list) -> dict[str, torch.Tensor]:
    """Replicas again, each rank holding the optimizer of its share of the parameters."""
    model = network()
    replica = nn.parallel.DistributedDataParallel(model)
    members = list(model.parameters())
    if name == "sabun":  # by names, which torch's ZeRO does not take: the groups as the preset makes them
        made = ARMS[name](model.named_parameters()).param_groups
        members = [{key: value for key, value in group.items() if key != "param_names"} for group in made]
    optimizer = ZeroRedundancyOptimizer(members, optimizer_class=lambda params, **_: ARMS[name](params))
    train(replica, optimizer, data)
    return whole(model)


def main(mode: str, directory: Path, rank: int, world: int) -> None:
    faulthandler.dump_traceback_later(200, exit=True)
    store = dist.FileStore(str(directory / f"store-{mode}-{world}"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    results = {}
    mesh, data = dist.init_device_mesh("cpu", (world,)), part(batches(12), rank, world)
    options = FLAT
    if mode == "sequence":
        results = sequences(world)
    elif mode == "placed":
        results = placed(world, directory)
    for name, make in ARMS.items() if mode not in ("sequence", "placed") else ():
        model = network()
        if mode == "ddp":
            replica = nn.parallel.DistributedDataParallel(model)
            optimizer = make(replica.named_parameters())
            train(replica, optimizer, data)
        else:
            for layer in model:
                if isinstance(layer, nn.Linear):
                    fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            optimizer = make(model.named_parameters())
            if mode == "save":
                train(model, optimizer, data[:6])
            else:
                with torch.no_grad():
                    for p in model.parameters():
                        p.zero_()  # everything must come from the checkpoint
            model_state, optimizer_state = get_state_dict(model, optimizer, options=options)
            state = {"model": model_state, "optimizer": optimizer_state}
            if mode == "save":
                dcp.save(state, checkpoint_id=str(directory / name))
            else:
                dcp.load(state, checkpoint_id=str(directory / name))
                loaded = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
                set_state_dict(model, optimizer, **loaded, options=options)
            train(model, optimizer, data[6:])
        if mode == "ddp":
            results[f"{name}, ZeRO"] = divided(name, data)
        results[name] = whole(model)
        with optimizer.averaged():
            results[name] |= {f"averaged {key}": value for key, value in whole(model).items()}
    if rank == 0 or mode == "placed":
        torch.save(results, directory / (f"{mode}-{world}.pt" if rank == 0 else f"{mode}-{world}-{rank}.pt"))
    leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
