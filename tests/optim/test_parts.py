"""Parts of a group: layouts against separate parameters, the rest against a group of its own, and what is refused."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training import network

import sabun
from sabun.errors import OptionError, StateError
from sabun.optim import create
from sabun.optim.layouts import layout_of
from sabun.optim.parts import rest_of

MATRIX = ("spectral", "spectral(row_normalization=True)", "kronecker(refresh_every=2, max_factor=10)")
LAYOUTS = {
    "stack": (4, 8, 12),
    "stack(split=2)": (3, 8, 12),
    "stack(split=(4, 8), dim=1)": (3, 8, 12),
    "matrix(split=3, num_heads=2)": (24, 16),
    "matrix(split=(6, 12, 6))": (24, 16),
    "matrix(split=(8, 4, 4), dim=1)": (24, 16),
    "matrix(split=2)": (8, 3, 3, 3),
}


def gradients(shape: tuple[int, ...], steps: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)]


@pytest.mark.parametrize("preconditioner", MATRIX)
@pytest.mark.parametrize("part", LAYOUTS)
def test_every_matrix_of_a_parameter_is_a_parameter_by_itself(part: str, preconditioner: str) -> None:
    layout, shape = layout_of(part), LAYOUTS[part]
    assert layout is not None
    first, *grads = gradients(shape)
    whole = nn.Parameter(first.clone())
    alone = [nn.Parameter(matrix.clone().contiguous()) for matrix in layout.matrices(first)]
    options: dict[str, Any] = {"lr": 0.1, "scheme": "taylor-4", "preconditioner": preconditioner, "weight_decay": 0.1}
    together = sabun.Optimizer([("block.weight", whole)], matrices={"block.weight": part}, **options)
    separate = sabun.Optimizer(alone, **options)
    for n, grad in enumerate(grads):
        whole.grad = grad.clone()
        for p, g in zip(alone, layout.matrices(grad), strict=True):
            p.grad = g.clone()
        together.step()
        separate.step()
        if n == 1:  # through a checkpoint
            stored = io.BytesIO()
            torch.save(together.state_dict(), stored)
            stored.seek(0)
            together = sabun.Optimizer([("block.weight", whole)], **options)
            together.load_state_dict(torch.load(stored, weights_only=True))
            assert together.param_groups[0]["parts"] == [part]
    joined = layout.join([p.detach() for p in alone], whole.shape)
    torch.testing.assert_close(whole.detach(), joined, rtol=1e-12, atol=1e-12)


def test_experts_are_one_matrix_each_and_what_is_unknown_goes_to_adam() -> None:
    class FeedForwardExperts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, 8, 12))

    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, 8, 12))

    def part(params: Any, **options: Any) -> str:
        (group,) = sabun.Optimizer(params, lr=0.1, preconditioner="spectral", **options).param_groups
        (found,) = group["parts"]
        return str(found)

    experts, unknown, kernel = FeedForwardExperts(), Unknown(), nn.Conv1d(8, 4, 3)
    assert part(experts.parameters()) == "stack"
    assert part(unknown.parameters()) == "rest"
    assert part([kernel.weight]) == "matrix"
    assert part(unknown.named_parameters(), matrices="up: stack") == "stack"
    assert part([torch.randn(4, 8, 12, requires_grad=True)]) == "rest"
    assert part([("moe.experts.w1", torch.randn(4, 8, 12, requires_grad=True))]) == "stack"
    assert part([torch.randn(4, 8, 1, 1, requires_grad=True)]) == "matrix"
    p = nn.Parameter(torch.randn(4, 8, 12))
    p.grad = torch.randn(4, 8, 12)
    adam = nn.Parameter(p.detach().clone())
    adam.grad = p.grad.clone()
    sabun.Optimizer([p], lr=0.1, preconditioner="spectral").step()
    sabun.Optimizer([adam], lr=0.1, preconditioner="adam").step()
    assert torch.equal(p, adam)


@pytest.mark.parametrize("name", ["muon", "soap", "sabun"])
@pytest.mark.parametrize("fused", [False, True])
def test_the_rest_is_what_a_group_of_its_own_would_be(name: str, fused: bool) -> None:
    """Two groups by hand, under a schedule, step to the bit as one group with a rest."""
    one = network()
    two = copy.deepcopy(one)
    optimizer = create(name, one, fused=fused)
    (group,) = optimizer.param_groups
    rest = dict(group["rest"])
    factor = rest.pop("lr_factor", 1.0)
    rest.pop("momentum", None)
    members = list(two.parameters())
    sides = [
        [p for p, part in zip(members, group["parts"], strict=True) if (part == "rest") is side]
        for side in (False, True)
    ]
    shared = {key: group[key] for key in ("scheme", "preconditioner", "momentum_end", "weight_decay", "step_limit")}
    groups = [{"params": sides[0], **shared}, {"params": sides[1], **shared, **rest, "lr": group["lr"] * factor}]
    by_hand = sabun.Optimizer(groups, group["lr"], fused=fused)
    for n in range(6):
        for model in (one, two):
            generator = torch.Generator().manual_seed(n)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        scale = 1 - n / 8
        group["lr"] = 0.01 * scale
        for other, relative in zip(by_hand.param_groups, (1.0, factor), strict=True):
            other["lr"] = group["lr"] * relative
        optimizer.step()
        by_hand.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_schedule_and_edits_reach_both_parts() -> None:
    model = network()
    optimizer = create("sabun", model, 0.1, weight_decay=0.0)
    optimizer.param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.param_groups[0]["rest"]["preconditioner"] = "sign"
    optimizer.step()
    moved = [(p - b).abs() for p, b in zip(model.parameters(), before, strict=True) if p.ndim < 2]
    for change in moved:
        torch.testing.assert_close(change, torch.full_like(change, 0.05))


def test_a_cycled_momentum_is_a_shape_for_the_rest() -> None:
    optimizer = create("muon", network(), 0.01)
    seen = []
    for beta in (0.95, 0.85, 0.95):
        optimizer.param_groups[0]["momentum"] = beta
        seen.append(rest_of(optimizer.param_groups[0])["momentum"])
    assert seen == pytest.approx([0.9, 0.7, 0.9])  # 1 − β is three times as large


def test_wrong_parts_are_refused_and_nothing_changes() -> None:
    model = network()
    optimizer = create("soap", model)
    stored = optimizer.state_dict()
    for key, value, says in (
        ("parts", ["matrix"], "one layout for every parameter"),
        ("parts", ["stack"] * len(list(model.parameters())), "is no stack"),
        ("rest", {"preconditioner": "adm"}, "adm"),
        ("rest", 3, "rest must be"),
    ):
        wrong = copy.deepcopy(stored)
        wrong["param_groups"][0][key] = value
        with pytest.raises(StateError, match=says):
            optimizer.load_state_dict(wrong)
    for rest, says in (
        ({"averaging": "ema"}, "option of the rest"),
        ({"lr_factor": -1.0}, "finite number"),
        ({"momentum": 0.9}, "no scheme"),
    ):
        with pytest.raises(OptionError, match=says):
            sabun.Optimizer(network().parameters(), 0.1, preconditioner="spectral", rest=rest)


@pytest.mark.cpu_only("a process group of gloo")
def test_parameters_that_fsdp1_has_flattened_are_refused(tmp_path) -> None:
    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        flat = FullyShardedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), device_id=torch.device("cpu"))
        for make in (lambda: create("muon", flat), lambda: create("soap", list(flat.parameters()))):
            with pytest.raises(OptionError, match="FSDP1") as caught:
                make()
            assert "fully_shard" in str(caught.value.fix)
        create("adamw", flat)
    finally:
        dist.destroy_process_group()
