"""Gradient release: a step inside ``backward``, one optimizer for each parameter, against an ordinary step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sabun
from sabun.optim import create


class Tied(nn.Module):
    """Token embedding, hidden matrices of two equal shapes and another one, a norm, and a head that is the embedding."""

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
