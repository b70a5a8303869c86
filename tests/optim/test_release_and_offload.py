"""Gradient release, a step inside ``backward``, and state on the CPU between steps: equal to an ordinary step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sabun
from sabun.optim import create


class Tied(nn.Module):
    """A token embedding that is the head, too, pairs of hidden matrices of equal shapes, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.norm = nn.Embedding(80, 64), nn.LayerNorm(64)
        self.layers = nn.ModuleList([nn.Linear(64, 96), nn.Linear(96, 64), nn.Linear(64, 96), nn.Linear(96, 64)])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        for up, down in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = x + down(torch.tanh(up(self.norm(x))))
        return x @ self.table.weight.mT


def loss_of(model: nn.Module, step: int) -> Tensor:
    tokens = torch.randint(0, 80, (4, 9), generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def release(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """As the documentation has it: an optimizer for each parameter, with the options of its group."""
    singles = []
    for group in optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            if "parts" in group:
                options["parts"] = [group["parts"][i]]
            single = sabun.Optimizer([{**options, "params": [p]}], group["lr"])

            def step(p: Tensor, single: torch.optim.Optimizer = single) -> None:
                single.step()
                single.zero_grad()

            p.register_post_accumulate_grad_hook(step)
            singles.append(single)
    return singles


RULES: dict[str, dict[str, Any]] = {
    "sgd": {}, "nesterov": {}, "adamw": {}, "lion": {}, "taylor-4": {}, "schedule-free-adamw": {},
    "muon": {}, "sabun": {}, "soap": {}, "adamw, compiled": {"fused": True}, "sabun, foreach": {"fused": None},
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_it_is_an_ordinary_step_to_the_bit(rule: str) -> None:
    name = rule.partition(",")[0]
    ordinary, released = Tied(), Tied()
    optimizer = create(name, ordinary, **RULES[rule])
    singles = release(create(name, released, **RULES[rule]))
    alive = []
    for p in released.parameters():
        p.register_post_accumulate_grad_hook(
            lambda p: alive.append(sum(other.grad is not None for other in released.parameters()))
        )
    for step in range(6):
        optimizer.zero_grad()
        loss_of(ordinary, step).backward()
        optimizer.step()
        loss_of(released, step).backward()
    for (key, a), b in zip(ordinary.named_parameters(), released.parameters(), strict=True):
        assert torch.equal(a, b), key
    assert len(singles) == len([*released.parameters()])
    assert max(alive) == 0


def offload(optimizer: torch.optim.Optimizer) -> dict[Tensor, Tensor]:
    """As the documentation has it: copies on the CPU, and no memory on the device between steps."""
    away: dict[Tensor, Tensor] = {}

    def put_away(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for held in optimizer.state.values():
            for t in held.values():
                if t.ndim:  # the counter is on the CPU
                    away[t] = t.to("cpu", copy=True)
                    t.untyped_storage().resize_(0)

    def bring(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for t, copied in away.items():
            t.untyped_storage().resize_(copied.nbytes)
            t.copy_(copied)
        away.clear()

    optimizer.register_step_pre_hook(bring)
    optimizer.register_step_post_hook(put_away)
    return away


@pytest.mark.parametrize("rule", [*RULES, "adamw, 8 bits"])
def test_state_that_is_away_between_steps_changes_nothing(rule: str) -> None:
    options = {"state_dtype": "8bit"} if "8 bits" in rule else RULES[rule]
    models = Tied(), Tied()
    optimizers = [create(rule.partition(",")[0], model, **options) for model in models]
    away = offload(optimizers[1])
    for step in range(4):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
    for (key, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b), key
    held = [t for one in optimizers[1].state.values() for t in one.values() if t.ndim]
    assert len(away) == len(held)
    assert all(t.untyped_storage().nbytes() == 0 for t in held)
