"""β may be cycled over all of [0, 1), 0 included, on every path: what the buffer means never depends on β.

The oracle is the recursion itself in plain numpy, m ← βm + (1−β)g and d = (1−β)(1+γ)g + (β − γ(1−β))m_before with the
β of the step; and torch's AdamW, whose β₁ torch's own schedulers cycle.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from training import backward, batches, deviation, flat, network

import sabun
from sabun.optim.reference import Reference

BETAS = (0.0, 0.0, 0.3, 0.9, 0.95, 0.5, 0.0, 0.0, 0.9, 0.01, 0.0, 0.7)
STEPS = len(BETAS)
LR = 0.1

# scheme as made → γ at a given β. Made at 0, near 0 (where the plain pole form would lose digits), and well above.
FAMILIES = {
    "heavy-ball(0)": lambda beta: 0.0,
    "heavy-ball(0.9)": lambda beta: 0.0,
    "nesterov(0)": lambda beta: beta,
    "nesterov(0.9)": lambda beta: beta,
    "look-ahead(0, 0.5)": lambda beta: 0.5,
    "look-ahead(0.01, 2)": lambda beta: 2.0,
    "look-ahead(0.9, 2)": lambda beta: 2.0,
    "quasi-hyperbolic(0.7, 0.9)": lambda beta: beta * 0.3 / (1 - beta),
    "order-two(0.5)": lambda beta: (1 + beta) / (2 * (1 - beta)),
}


def gradients() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(STEPS, 5))


def textbook(name: str, preconditioner: str | None, start_up: str) -> np.ndarray:
    """The trajectory from θ = 0."""
    theta, m, v, path = np.zeros(5), np.zeros(5), np.zeros(5), []
    for n, (beta, g) in enumerate(zip(BETAS, gradients(), strict=True), start=1):
        gamma = FAMILIES[name](beta)
        if n == 1 and start_up == "hold":
            m = g
        of_g, of_m = (1 - beta) * (1 + gamma), beta - gamma * (1 - beta)
        d = of_g * g + of_m * m
        m = beta * m + (1 - beta) * g
        if start_up == "unbiased":
            d = d / (of_g + of_m * (1 - beta ** (n - 1)))
        v = 0.999 * v + 0.001 * g**2
        theta = theta - LR * (d if preconditioner is None else d / (np.sqrt(v / (1 - 0.999**n)) + 1e-8))
        path.append(theta)
    return np.array(path)


def run(optimizer: Any, p: torch.Tensor, steps: range = range(STEPS)) -> np.ndarray:
    path = []
    group = (optimizer.optimizer if isinstance(optimizer, Reference) else optimizer).param_groups[0]
    for n in steps:
        group["momentum"] = BETAS[n]
        p.grad = torch.as_tensor(gradients()[n])
        optimizer.step()
        path.append(p.detach().cpu().numpy().copy())
    return np.array(path)


def make(name: str, path: str, **options: Any) -> tuple[Any, torch.Tensor]:
    p = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    if path == "reference":
        return Reference([p], LR, scheme=name, **options), p
    return sabun.Optimizer([p], LR, scheme=name, **{"foreach": {}, "loop": {"foreach": False}}.get(
        path, {"fused": path}), **options), p  # fmt: skip


@pytest.mark.parametrize("start_up", ["rest", "unbiased", "hold"])
@pytest.mark.parametrize("preconditioner", [None, "adam"])
@pytest.mark.parametrize("path", ["foreach", "loop", "reference", "native"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_path_follows_the_recursion(name: str, path: str, preconditioner: str | None, start_up: str) -> None:
    optimizer, p = make(name, path, preconditioner=preconditioner, start_up=start_up)
    np.testing.assert_allclose(run(optimizer, p), textbook(name, preconditioner, start_up), rtol=1e-12, atol=1e-13)
    if path == "native" and start_up != "hold" and p.is_cpu:
        assert optimizer.compile_s > 0, "the foreach step was taken instead"


@pytest.mark.not_simulated("Inductor has no code for it")
def test_inductor_crosses_zero_as_well() -> None:
    optimizer, p = make("look-ahead(0.9, 2)", "inductor")
    np.testing.assert_allclose(run(optimizer, p), textbook("look-ahead(0.9, 2)", None, "rest"), rtol=1e-12, atol=1e-13)
    assert optimizer._engine.compiled == 2  # one graph each for β > 0 and β = 0


@pytest.mark.parametrize("name", FAMILIES)
def test_under_a_constant_gradient_a_jump_of_momentum_changes_nothing(name: str) -> None:
    """Then m = g whatever β, and every step is h·g. A history kept in units of β would overshoot, or turn round."""
    optimizer, p = make(name, "foreach")
    for n in range(400):
        optimizer.param_groups[0]["momentum"] = 0.0 if n < 10 or n == 300 else 0.8 if n < 310 else 0.95
        p.grad = torch.ones_like(p)
        before = p.detach().clone()
        optimizer.step()
        if n >= 290:
            torch.testing.assert_close(before - p.detach(), torch.full_like(p, LR), rtol=1e-12, atol=1e-13)


SCHEDULES = {
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=40, base_momentum=0.0, max_momentum=0.95),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.02, 8, base_momentum=0.0, max_momentum=0.9),
}


@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize("made_with", [0.0, 0.9])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_torchs_schedulers_cycle_it_as_they_cycle_adamws(schedule: str, made_with: float, options) -> None:
    def go(make):
        model = network()
        optimizer = make(model.parameters())
        scheduler = SCHEDULES[schedule](optimizer)
        path, seen = [], []
        for batch in batches(40):
            group = optimizer.param_groups[0]
            seen.append(group["momentum"] if "momentum" in group else group["betas"][0])
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
            scheduler.step()
            path.append(flat(model.parameters()))
        return torch.stack(path), seen

    ours, seen = go(
        lambda p: sabun.Optimizer(p, 0.02, scheme="heavy-ball", momentum=made_with, preconditioner="adam", **options)
    )
    theirs, expected = go(lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0))
    assert seen == pytest.approx(expected, abs=1e-15)
    assert min(seen) == pytest.approx(0.0, abs=1e-3)
    assert deviation(ours, theirs) < 1e-12


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("half", [1, 6, 9])
def test_a_cycle_resumes_to_the_bit(name: str, half: int) -> None:
    optimizer, p = make(name, "foreach", preconditioner="adam")
    run(optimizer, p, range(half))
    twin = p.detach().clone().requires_grad_()
    resumed = sabun.Optimizer([twin], 0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, p, range(half, STEPS))
    run(resumed, twin, range(half, STEPS))
    assert torch.equal(p, twin)


def test_a_family_with_momentum_keeps_its_buffer_at_zero_and_declares_it() -> None:
    optimizer, p = make("heavy-ball(0)", "foreach")
    run(optimizer, p, range(1))
    assert set(optimizer.state[p]) == {"velocity_0"}
    assert sabun.schemes.get("heavy-ball(0)").state_copies == 1
    assert sabun.schemes.get("euler").state_copies == 0


def test_a_scheduled_value_out_of_range_is_refused_before_anything_moves() -> None:
    a, b = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = sabun.Optimizer([{"params": [a]}, {"params": [b]}], 0.1, scheme="heavy-ball")
    a.grad, b.grad = torch.ones(3), torch.ones(3)
    optimizer.param_groups[1]["momentum"] = 1.0
    with pytest.raises(ValueError, match=r"beta must be a number in \[0, 1\)"):
        optimizer.step()
    assert torch.equal(a, torch.ones(3))
