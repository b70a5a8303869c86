"""β that follows the learning rate: its path in closed form, one step on every path through the code, exact resume."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler
from training import backward, batches, flat, network

import sabun
from sabun.errors import OptionError
from sabun.optim import create, describe
from sabun.optim.momentum import momentum_of
from sabun.optim.reference import Reference

STEPS = 40
Make = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]

# Scheduler, and the part of the largest rate so far that is gone at step n.
PATHS: dict[str, tuple[Make | None, Callable[[int], float]]] = {
    "none": (None, lambda n: 0.0),
    "linear": (lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, STEPS), lambda n: n / STEPS),
    "cosine": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
        lambda n: (1 - math.cos(math.pi * n / STEPS)) / 2,
    ),
    "warm-up": (
        lambda o: lr_scheduler.LambdaLR(o, lambda n: min(1.0, n / 10, (STEPS - n) / 20)),
        lambda n: 0.0 if n <= 20 else 1 - (STEPS - n) / 20,
    ),
    "restart": (lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 - (n % 10) / 10), lambda n: (n % 10) / 10),
    "step": (lambda o: lr_scheduler.StepLR(o, 20, gamma=0.1), lambda n: 0.0 if n < 20 else 0.9),
}

ARMS = {
    "heavy-ball": {"scheme": "heavy-ball(0.8)"},
    "nesterov@adam": {"scheme": "nesterov(0.8)", "preconditioner": "adam"},
    "look-ahead@spectral": {"scheme": "look-ahead(0.8, 2)", "preconditioner": "spectral"},
    "look-ahead, ema": {"scheme": "look-ahead(0.8, 2)", "averaging": "ema"},
    "quasi-hyperbolic@sign": {"scheme": "quasi-hyperbolic(0.7, 0.8)", "preconditioner": "sign"},
}
every = pytest.mark.parametrize("options", ARMS.values(), ids=ARMS)


def now(optimizer: torch.optim.Optimizer) -> float:
    group = optimizer.param_groups[0]
    beta = momentum_of(group)
    assert beta is not None
    return beta


@pytest.mark.parametrize("path", PATHS)
def test_beta_goes_with_the_part_of_the_rate_that_is_gone(path: str) -> None:
    make, gone = PATHS[path]
    model = network()
    optimizer = sabun.Optimizer(model.parameters(), 0.01, scheme="look-ahead(0.8, 2)", momentum_end=0.95)
    scheduler = make(optimizer) if make else None
    for n, batch in enumerate(batches(STEPS)):
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step()
        assert now(optimizer) == pytest.approx(0.8 + gone(n) * 0.15, abs=0.15 / 128 + 1e-9)
        if n == 0:
            assert now(optimizer) == 0.8
        if scheduler:
            scheduler.step()


def train(optimizer, model, data, total: int = STEPS, skip: int = 0, step=None) -> None:
    for n, batch in enumerate(data, skip):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - n / total)
        optimizer.zero_grad()
        backward(model, batch)
        (step or optimizer.step)()


@every
def test_every_path_through_the_code_takes_the_steps_of_the_reference(options) -> None:
    model = network()
    slow = Reference(model.parameters(), 0.01, momentum_end=0.95, **options)
    train(slow.optimizer, model, batches(STEPS), step=slow.step)
    for way in ({"foreach": True}, {"foreach": False}, {"fused": True}):
        other = network()
        optimizer = sabun.Optimizer(other.parameters(), 0.01, momentum_end=0.95, **options, **way)
        train(optimizer, other, batches(STEPS))
        torch.testing.assert_close(flat(other.parameters()), flat(model.parameters()), rtol=1e-9, atol=1e-11)


@every
def test_it_is_the_same_as_setting_momentum_by_hand(options) -> None:
    ends = []
    for by_hand in (True, False):
        model = network()
        optimizer = sabun.Optimizer(model.parameters(), 0.01, **options, **({} if by_hand else {"momentum_end": 0.95}))
        for n, batch in enumerate(batches(STEPS)):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 - n / STEPS)
                if by_hand:
                    group["momentum"] = 0.8 + round(64 * (1 - group["lr"] / 0.01)) / 64 * (0.95 - 0.8)
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
        ends.append(flat(model.parameters()))
    assert torch.equal(*ends)


@every
def test_a_constant_rate_is_the_plain_scheme(options) -> None:
    ends = []
    for end in (None, 0.95):
        model = network()
        optimizer = sabun.Optimizer(model.parameters(), 0.01, momentum_end=end, **options)
        for batch in batches(STEPS):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
        ends.append(flat(model.parameters()))
    assert torch.equal(*ends)


@every
def test_a_resumed_training_is_the_undisturbed_one(options) -> None:
    data = batches(STEPS)
    whole = network()
    train(sabun.Optimizer(whole.parameters(), 0.01, momentum_end=0.95, **options), whole, data)

    half = network()
    first = sabun.Optimizer(half.parameters(), 0.01, momentum_end=0.95, **options)
    train(first, half, data[:25])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = sabun.Optimizer(half.parameters(), 0.5, **options)  # a new process has seen no rate yet
    second.load_state_dict(torch.load(file, weights_only=True))
    train(second, half, data[25:], skip=25)
    assert torch.equal(flat(half.parameters()), flat(whole.parameters()))


@pytest.mark.cpu_only("a step that is compiled for the CPU")
def test_the_compiled_step_is_not_compiled_again() -> None:
    model = network(torch.float32)
    optimizer = sabun.Optimizer(
        model.parameters(), 0.01, scheme="look-ahead(0.8, 2)", preconditioner="adam", momentum_end=0.95, fused=True
    )
    train(optimizer, model, batches(STEPS, torch.float32))
    assert optimizer.compile_s > 0, "the foreach step was taken instead"
    assert optimizer._engine.compiled == 1


def test_a_scheduler_that_cycles_momentum_is_obeyed() -> None:
    ends = []
    for end in (None, 0.99):
        model = network()
        optimizer = sabun.Optimizer(model.parameters(), 0.01, scheme="nesterov(0.9)", momentum_end=end)
        scheduler = lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=STEPS)
        for batch in batches(STEPS):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
            scheduler.step()
        ends.append(flat(model.parameters()))
    assert torch.equal(*ends)


def test_groups_have_their_own_end_and_their_own_peak() -> None:
    model = network()
    optimizer = sabun.Optimizer(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.1, "momentum_end": None}],
        0.01, scheme="heavy-ball(0.8)", momentum_end=0.9,
    )  # fmt: skip
    for n, batch in enumerate(batches(3)):
        for group, lr in zip(optimizer.param_groups, (0.01, 0.1), strict=True):
            group["lr"] = lr * (1 - n / 4)
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step()
    first, second = optimizer.param_groups
    assert (first["lr_peak"], second["lr_peak"]) == (0.01, 0.1)
    assert momentum_of(first) == pytest.approx(0.85)
    assert momentum_of(second) == 0.8


def test_a_tensor_rate_is_followed() -> None:
    model = network()
    optimizer = sabun.Optimizer(model.parameters(), torch.tensor(0.02), scheme="heavy-ball(0.8)", momentum_end=0.9)
    for rate in (0.02, 0.01):
        optimizer.param_groups[0]["lr"].fill_(rate)
        optimizer.zero_grad()
        backward(model, batches(1)[0])
        optimizer.step()
    assert isinstance(optimizer.param_groups[0]["lr_peak"], float)
    assert now(optimizer) == pytest.approx(0.85, abs=1e-6)


def test_the_stability_control_and_the_description_know_the_beta_of_now() -> None:
    """heavy-ball's interval 2(1+β)/(1−β): 18 at the start's 0.8, 78 at 0.95."""
    theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = sabun.Optimizer(
        [theta], 1.0, scheme="heavy-ball(0.8)", momentum_end=0.95,
        step_control="stability(fraction=1.0, probe_every=1)",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (50 * theta**2).sum()  # curvature 100
        loss.backward()
        return loss

    lengths = []
    for lr in (1.0, 0.5, 1e-9):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(closure)
        lengths.append(optimizer.stats()["step_length"])
    assert lengths == [pytest.approx(18 / 100), pytest.approx(2 * 1.875 / 0.125 / 100), pytest.approx(1e-9)]
    assert describe(optimizer)["certificate"]["stability_interval"] == pytest.approx(78)
    optimizer.param_groups[0]["lr"] = 2.0  # beyond every rate so far: the next step begins at the start again
    assert now(optimizer) == 0.8


def test_what_cannot_be_is_refused() -> None:
    def make(**options) -> None:
        sabun.Optimizer(network().parameters(), **{"lr": 0.1, **options})

    with pytest.raises(OptionError, match="no momentum"):
        make(scheme="euler", momentum_end=0.9)
    for wrong in (1.0, -0.1, "0.9", math.nan, True):
        with pytest.raises(OptionError, match="momentum_end"):
            make(scheme="heavy-ball", momentum_end=wrong)
    for control in ("embedded-error", "balance"):
        with pytest.raises(OptionError, match="momentum_end follows the learning rate"):
            make(scheme="heavy-ball", momentum_end=0.95, step_control=control)
    model = network()
    optimizer = sabun.Optimizer(model[0].parameters(), 0.1)
    with pytest.raises(OptionError, match="no momentum"):
        optimizer.add_param_group({"params": list(model[2].parameters()), "momentum_end": 0.9})
    assert len(optimizer.param_groups) == 1


def test_the_notation_has_it() -> None:
    optimizer = create("look-ahead(0.8, 2)", network().parameters(), momentum_end=0.95)
    assert optimizer.param_groups[0]["momentum_end"] == 0.95
