"""Everything that sabun asks of torch beyond its public API, so that a new torch is checked in one place.

The absence of a name, an attribute or a group key is never read as a value: each function says what it means.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd as Convolution

from sabun.errors import OptionError

__all__ = [
    "Convolution", "amp_check", "children_of", "decays_decoupled", "foreach_add", "foreach_add_", "foreach_addcdiv_",
    "foreach_addcmul_", "foreach_copy_", "foreach_div", "foreach_div_", "foreach_lerp", "foreach_lerp_", "foreach_mul",
    "foreach_mul_", "foreach_neg", "foreach_norm", "foreach_sign", "foreach_sign_", "foreach_sqrt", "fsdp1_is_loaded",
    "gathered", "has_flattened", "in_rows", "inner_schedulers", "is_dtensor", "is_in_rows", "is_made", "is_unscaled",
    "most_precise", "multiplies_bfloat16", "parameters_of", "placed", "rows_like", "scheduler_rates",
    "scheduler_steps", "shard", "sum_of_ranks", "unsafe_view", "versions", "ways_of", "whole",
]  # fmt: skip

# Arithmetic on lists of tensors: what torch's own optimizers are made of.
foreach_add, foreach_add_ = torch._foreach_add, torch._foreach_add_
foreach_addcdiv_, foreach_addcmul_ = torch._foreach_addcdiv_, torch._foreach_addcmul_
foreach_copy_ = torch._foreach_copy_
foreach_div, foreach_div_ = torch._foreach_div, torch._foreach_div_
foreach_lerp, foreach_lerp_ = torch._foreach_lerp, torch._foreach_lerp_
foreach_mul, foreach_mul_ = torch._foreach_mul, torch._foreach_mul_
foreach_neg, foreach_norm = torch._foreach_neg, torch._foreach_norm
foreach_sign, foreach_sign_ = torch._foreach_sign, torch._foreach_sign_
foreach_sqrt = torch._foreach_sqrt
amp_check = torch._amp_foreach_non_finite_check_and_unscale_
"""What ``torch.amp.GradScaler`` finds non-finite gradients with."""


def is_dtensor(t: object) -> TypeGuard[Any]:
    """Whether ``t`` is a DTensor. Only a program that has loaded that class has one, so it is not imported here."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def gathered(shard: Tensor, like: Any, dtype: torch.dtype | None = None) -> Tensor:
    """The whole tensor of which each rank has the shard that it has of the DTensor ``like``.

    It is exchanged in ``dtype`` where there are several ranks; None: in that of ``shard``.
    """
    from torch.distributed.tensor import DTensor  # loaded already: see is_dtensor

    sent = shard if dtype is None or like.device_mesh.size() == 1 else shard.to(dtype)
    whole: Tensor = DTensor.from_local(
        sent, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()
    return whole.to(shard.dtype)


def ways_of(t: Any) -> dict[int, int] | None:
    """The dimension of a DTensor that each dimension of its mesh divides, in the order in which they are undone.

    None for partial sums, and for shards that are neither chunks of a dimension nor chunks of chunks, as those of FSDP2
    after tensor parallelism are.
    """
    from torch.distributed.tensor import Shard  # loaded already: see is_dtensor

    plain, strided = {}, {}
    for i, placement in enumerate(t.placements):
        if type(placement) is Shard:
            plain[i] = placement.dim % t.ndim
        elif type(placement).__name__ == "_StridedShard":  # divided after the dimensions of the mesh behind it
            strided[i] = (placement.dim % t.ndim, placement.split_factor)
        elif not placement.is_replicate():
            return None
    for i, (dim, factor) in strided.items():
        behind = [t.device_mesh.size(j) for j, other in plain.items() if other == dim and j > i]
        if factor != math.prod(behind) or len(behind) < list(plain.values()).count(dim):
            return None
    dims = [dim for dim, _ in strided.values()]
    if len({*dims}) < len(dims):
        return None
    ways = {**plain, **{i: dim for i, (dim, _) in strided.items()}}
    if len({*plain.values()}) < len(plain):  # of one dimension: divided along the first dimension of the mesh first
        return {i: ways[i] for i in (*strided, *reversed(plain))}
    return {i: ways[i] for i in sorted(ways)}


def whole(t: Any) -> Tensor:
    """All of a DTensor."""
    gathered: Tensor = t.full_tensor()
    return gathered


def in_rows(part: Tensor, mesh: Any, shape: Sequence[int]) -> Tensor:
    """The DTensor of this shape that is sharded along its first dimension by all dimensions of a mesh."""
    from torch.distributed.tensor import DTensor, Shard  # loaded already: see is_dtensor

    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    made: Tensor = DTensor.from_local(
        part, mesh, [Shard(0)] * mesh.ndim, run_check=False, shape=torch.Size(shape), stride=tuple(strides)
    )
    return made


def rows_like(t: Any, columns: int) -> Tensor:
    """Zeros in float32, with this number of columns and as many rows as ``t``, a DTensor where it is one."""
    local = t.to_local() if is_dtensor(t) else t
    made = torch.zeros((local.shape[0], columns), dtype=torch.float32, device=local.device)
    if not is_dtensor(t):
        return made
    from torch.distributed.tensor import DTensor  # loaded already: see is_dtensor

    rows: Tensor = DTensor.from_local(
        made, t.device_mesh, t.placements, run_check=False, shape=torch.Size((t.shape[0], columns)), stride=(columns, 1)
    )
    return rows


def is_in_rows(t: Any, mesh: Any) -> bool:
    """Whether a DTensor is sharded as :func:`in_rows` says."""
    return t.device_mesh == mesh and all(type(one).__name__ == "Shard" and one.dim == 0 for one in t.placements)


def shard(whole: Tensor, like: Any) -> Tensor:
    """This rank's shard of a tensor that all ranks have, placed as the DTensor ``like``."""
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * like.device_mesh.ndim
    held = DTensor.from_local(whole, like.device_mesh, everywhere, run_check=False)
    return held.redistribute(placements=like.placements).to_local()


def placed(gradients: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """The gradients with the placements of their parameters, where both are DTensors.

    Sequence parallelism leaves replicated parameters with partial sums as gradients, many and small. Those of one mesh
    are reduced together.
    """
    out = list(gradients)
    sums: dict[Any, list[int]] = {}
    for i, (g, p) in enumerate(zip(gradients, params, strict=True)):
        if not (is_dtensor(g) and is_dtensor(p)) or (g.placements == p.placements and g.device_mesh == p.device_mesh):
            continue
        replicated = all(placement.is_replicate() for placement in p.placements)
        if (
            replicated
            and g.device_mesh == p.device_mesh
            and not any(placement.is_shard() for placement in g.placements)
        ):
            sums.setdefault((g.device_mesh, g.placements, g.dtype), []).append(i)
        else:
            out[i] = g.redistribute(p.device_mesh, p.placements)
    for (mesh, placements, _), places in sums.items():
        from torch.distributed.tensor import DTensor  # loaded already: see is_dtensor

        parts: list[Any] = [out[i] for i in places]
        flat = DTensor.from_local(
            torch.cat([part.to_local().reshape(-1) for part in parts]), mesh, placements, run_check=False
        )
        like: Any = params[places[0]]
        reduced = flat.redistribute(placements=like.placements).to_local()
        for i, part in zip(places, torch.split(reduced, [part.numel() for part in parts]), strict=True):
            out[i] = DTensor.from_local(part.view(out[i].shape), mesh, like.placements, run_check=False)
    return out


def sum_of_ranks(number: Tensor, like: Any) -> Tensor:
    """The sum of each rank's ``number`` over the mesh of the DTensor ``like``; for any other tensor the number."""
    if not is_dtensor(like):
        return number
    from torch.distributed.tensor import DTensor, Partial

    everywhere = [Partial()] * like.device_mesh.ndim
    total: Tensor = DTensor.from_local(number, like.device_mesh, everywhere, run_check=False).full_tensor()
    return total


def most_precise(device: torch.device) -> torch.dtype:
    """The longest real dtype that a device computes in; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def versions(tensors: Iterable[Tensor]) -> int:
    """The number of changes in place that autograd has counted, over all tensors."""
    return sum(t._version for t in tensors)


@lru_cache(maxsize=64)
def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for products in bfloat16, as its module in torch says; False where that says nothing.

    CUDA devices have them from compute capability 8.0 on; torch emulates bfloat16 on others, which is slow.
    """
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    module: Any = getattr(torch, device.type, None)
    known = getattr(module, "_is_avx512_bf16_supported" if device.type == "cpu" else "is_bf16_supported", None)
    return known is not None and bool(known())


def unsafe_view() -> Any:
    """The operator that ``reshape`` becomes in a traced graph."""
    return torch.ops.aten._unsafe_view.default


# Optimizers, schedulers, scalers


def decays_decoupled(kind: type[torch.optim.Optimizer], group: dict[str, Any]) -> bool:
    """Whether a group of Adam or AdamW decays its weights apart from the gradient.

    The group says so. Where it has no such key (groups made by torch before 2.7), the class does. Raises OptionError
    for any other class.
    """
    if "decoupled_weight_decay" in group:
        return bool(group["decoupled_weight_decay"])
    if kind not in (torch.optim.Adam, torch.optim.AdamW):
        raise OptionError(
            f"a group of {kind.__module__}.{kind.__qualname__} does not say whether its weight decay is decoupled.",
            fix="Use torch.optim.Adam or AdamW.",
        )
    return kind is torch.optim.AdamW


def scheduler_steps(scheduler: Any) -> int:
    """The number of steps of a scheduler after the one that its constructor makes."""
    counted = vars(scheduler).get("_step_count")  # ReduceLROnPlateau has none; others may set last_epoch at will
    return int(scheduler.last_epoch) if counted is None else max(int(counted) - 1, int(scheduler.last_epoch))


def scheduler_rates(scheduler: Any) -> tuple[float, ...] | None:
    """The learning rates that a scheduler set last; None before the first."""
    rates = vars(scheduler).get("_last_lr")
    return tuple(float(rate) for rate in rates) if rates else None


def inner_schedulers(scheduler: Any) -> Sequence[Any]:
    """The schedulers that a ``SequentialLR`` or ``ChainedScheduler`` is made of; none for any other."""
    return tuple(vars(scheduler).get("_schedulers", ()))


def is_unscaled(scaler: torch.amp.GradScaler, optimizer: object) -> bool:
    """Whether ``scaler.unscale_(optimizer)`` or ``scaler.step(optimizer)`` was called since its last update."""
    known = scaler._per_optimizer_states
    return id(optimizer) in known and known[id(optimizer)]["stage"].name != "READY"


# Modules. One may be half made: found before its constructor has run.


def is_made(module: nn.Module) -> bool:
    """Whether the constructor of :class:`torch.nn.Module` has run."""
    return "_modules" in vars(module)


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that a module itself owns, by name."""
    return {name: p for name, p in vars(module).get("_parameters", {}).items() if p is not None}


def children_of(module: nn.Module) -> list[nn.Module]:
    """The modules directly inside a module."""
    return [child for child in vars(module).get("_modules", {}).values() if child is not None]


def fsdp1_is_loaded() -> bool:
    """Whether this program can have parameters that FullyShardedDataParallel has flattened."""
    return "torch.distributed.fsdp.fully_sharded_data_parallel" in sys.modules


def has_flattened(parameters: Sequence[Tensor], modules: Iterable[nn.Module]) -> bool:
    """Whether FullyShardedDataParallel (FSDP1) has flattened one of the parameters, owned by one of the modules."""
    if not fsdp1_is_loaded():
        return False
    if any(getattr(p, "_is_flat_param", False) for p in parameters):  # only flat parameters have the mark
        return True
    ids = {id(p): p for p in parameters}
    for module in modules:
        handle: Any = getattr(vars(module).get("_handle"), "flat_param", None)
        originals = getattr(handle, "_params", None)  # with use_orig_params
        if originals is not None and any(
            id(p) in ids and p.shape != shape for p, shape in zip(originals, handle._shapes, strict=True)
        ):
            return True
    return False
