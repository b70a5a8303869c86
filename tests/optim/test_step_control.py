"""Step controls against problems whose answers are known: eigenvalues, tuned fixed steps, a planted jump."""

from __future__ import annotations

import copy
import math
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import sabun
from sabun.errors import OptionError
from sabun.optim.control.embedded_error import PI, starting_step
from sabun.optim.control.stability import StabilityController


class Quadratic:
    """½ Σ λᵢθᵢ², from θ = 1; ``stiffness`` multiplies all λ and may be changed on the way."""

    def __init__(self, largest: float = 1000.0, size: int = 20) -> None:
        self.eigenvalues = torch.logspace(0, math.log10(largest), size, dtype=torch.float64)
        self.theta = torch.ones(size, dtype=torch.float64, requires_grad=True)
        self.stiffness = 1.0
        self.calls = 0

    def loss(self) -> Tensor:
        return self.stiffness * 0.5 * (self.eigenvalues * self.theta**2).sum()

    def closure(self, optimizer):
        def call() -> Tensor:
            self.calls += 1
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        return call


def descend(make, steps: int) -> tuple[float, torch.optim.Optimizer]:
    problem = Quadratic()
    optimizer = make([problem.theta])
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss().backward()
        optimizer.step()
    return float(problem.loss()), optimizer


def tuned(run, center: float, per_octave: int, octaves: int) -> float:
    """The least loss over a fine grid of fixed steps around ``center``; the best must lie inside the grid."""
    grid = [center * 2 ** (i / per_octave) for i in range(-octaves * per_octave, octaves * per_octave + 1)]
    losses = [run(h) for h in grid]
    losses = [loss if math.isfinite(loss) else math.inf for loss in losses]
    best = min(range(len(grid)), key=losses.__getitem__)
    assert 0 < best < len(grid) - 1
    return losses[best]


SCHEMES = ["euler", "look-ahead(0.9, 2)", "adams-bashforth-2"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_a_learning_rate_a_stiff_quadratic_ends_as_low_as_with_the_best_fixed_step(scheme: str) -> None:
    interval = float(sabun.schemes.get(scheme).stability_interval)
    # No fixed step can exceed the interval, and the slow directions want the longest that does not.
    run = lambda h: descend(lambda p: sabun.Optimizer(p, h, scheme=scheme), 300)[0]  # noqa: E731
    best = tuned(run, 0.98 * interval / 1000, per_octave=6, octaves=1)
    found, optimizer = descend(lambda p: sabun.Optimizer(p, scheme=scheme, step_control="embedded-error"), 300)
    assert found <= 1.05 * best
    assert optimizer.stats()["rejected"] > 0
    assert optimizer.param_groups[0]["lr"] == optimizer.stats()["step_length"] > 0


def digits(make, steps: int) -> float:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:600] / 16, dtype=torch.float32), torch.tensor(labels[:600])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = make(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


@pytest.mark.parametrize(("scheme", "center"), [("euler", 1.4), ("look-ahead(0.9, 2)", 6.0)])
def test_without_a_learning_rate_digits_end_as_low_as_with_the_best_fixed_step(scheme: str, center: float) -> None:
    best = tuned(lambda h: digits(lambda p: sabun.Optimizer(p, h, scheme=scheme), 120), center, per_octave=3, octaves=1)
    found = digits(lambda p: sabun.Optimizer(p, scheme=scheme, step_control="embedded-error"), 120)
    assert found <= 1.05 * best


def test_the_controlled_error_is_what_halving_the_step_shows() -> None:
    """On θ′ = −λθ the estimate (h²/2)|θ″| is compared with the true local error of one Euler step."""
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = sabun.Optimizer([theta], step_control="embedded-error(tolerance=1e-4)")
    for _ in range(30):
        before = float(theta)
        theta.grad = theta.detach() * 3.0
        optimizer.step()
        h = optimizer.stats()["step_length"]
        true = abs(float(theta) - before * math.exp(-3.0 * h))
    estimated = optimizer.stats()["error"] * 1e-4 * before
    assert estimated == pytest.approx(true, rel=0.1)


def test_a_given_learning_rate_bounds_the_found_one() -> None:
    _, optimizer = descend(lambda p: sabun.Optimizer(p, 1e-4, step_control="embedded-error"), 100)
    assert optimizer.stats()["step_length"] == 1e-4
    assert optimizer.param_groups[0]["lr"] == 1e-4


def test_the_starting_step_is_that_of_the_textbook() -> None:
    # y′ = −y, y(0) = 1 in units of tolerance 1e-2: d0 = d1 = d2 = 100, h0 = 0.01, h1 = (0.01/100)^(1/2).
    assert starting_step(100.0, 100.0, 100.0, 0.01) == pytest.approx(0.01)
    assert starting_step(100.0, 1.0, 1.0, 1e-4) == pytest.approx(0.01)  # at most 100 times the guess


def test_the_controller_keeps_a_perfect_error_and_flees_a_bad_one() -> None:
    pi = PI(safety=1.0)
    assert pi.next(1.0, 1.0) == 1.0
    assert pi.next(0.01, 1.0) == pi.grow
    assert pi.shorter(math.inf) == pi.shrink
    assert pi.shorter(4.0) == pytest.approx(0.5)


def test_the_curvature_is_the_largest_eigenvalue_and_the_margin_follows() -> None:
    problem = Quadratic()
    optimizer = sabun.Optimizer([problem.theta], 1e-3, step_control="stability(probe_every=1)")
    for _ in range(30):
        optimizer.step(problem.closure(optimizer))
    figures = optimizer.stats()
    assert figures["curvature"] == pytest.approx(1000.0, rel=0.02)
    assert figures["h_lambda"] == pytest.approx(1.0, rel=0.02)
    assert optimizer.margin == pytest.approx(0.5, abs=0.02)
    assert optimizer.gradient_evaluations == 2
    assert sabun.Optimizer([problem.theta], 1.0, step_control="stability").gradient_evaluations > 1
    assert problem.calls == 30 * 2 + StabilityController.FIRST - 1


@pytest.mark.parametrize("scheme", ["euler", "nesterov", "look-ahead(0.9, 2)", "taylor-4"])
@pytest.mark.parametrize("at", [40, 45])
def test_a_jump_of_the_curvature_leaves_training_finite(scheme: str, at: int) -> None:
    interval = float(sabun.schemes.get(scheme).stability_interval)
    h = 0.5 * interval / 1000

    def run(control: str | None) -> list[float]:
        problem = Quadratic()
        optimizer = sabun.Optimizer([problem.theta], h, scheme=scheme, step_control=control)
        losses = []
        for n in range(300):
            if n == at:
                problem.stiffness = 100.0
            losses.append(float(optimizer.step(problem.closure(optimizer))))
        return losses

    fixed, controlled = run(None), run("stability")
    assert not math.isfinite(fixed[-1]) or fixed[-1] > 1e30
    assert all(math.isfinite(loss) for loss in controlled)
    assert max(controlled[at:]) <= 10 * controlled[at]
    assert controlled[-1] < controlled[at]


def test_stability_works_in_the_adam_metric() -> None:
    problem = Quadratic()
    optimizer = sabun.Optimizer(
        [problem.theta], 1.0, scheme="heavy-ball", preconditioner="adam", step_control="stability(probe_every=1)"
    )
    for _ in range(60):
        optimizer.step(problem.closure(optimizer))
    held = optimizer.state[problem.theta]
    root = (held["second_moment"] / (1 - 0.999 ** float(held["step"]))).sqrt() + 1e-8
    assert optimizer.stats()["curvature"] == pytest.approx(float((problem.eigenvalues / root).max()), rel=0.1)


def test_complex_parameters_are_probed_as_their_real_view() -> None:
    def curvature(theta: Tensor, loss) -> float:
        optimizer = sabun.Optimizer([theta], 0.01, preconditioner="adam", step_control="stability(probe_every=1)")
        for _ in range(4):

            def closure() -> Tensor:
                optimizer.zero_grad()
                value = loss(theta)
                value.backward()
                return value

            optimizer.step(closure)
        return optimizer.stats()["curvature"]

    pair = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 5.0], [2.0, 7.0]], dtype=torch.float64)
    real = curvature(pair.clone().requires_grad_(), lambda t: (weights * t**2).sum())
    whole = curvature(
        torch.view_as_complex(pair.clone()).requires_grad_(), lambda t: (weights * torch.view_as_real(t) ** 2).sum()
    )
    assert whole == pytest.approx(real, rel=1e-6)


def test_a_probe_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    x = torch.randn(16, 4, dtype=torch.float64)

    def run(control: str | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        torch.manual_seed(1)
        twin = copy.deepcopy(model)
        optimizer = sabun.Optimizer(twin.parameters(), 1e-3, step_control=control)
        kept = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = twin(x).square().mean()
            loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
            kept = [p.grad.clone() for p in twin.parameters()]
        return torch.cat([p.detach().flatten() for p in twin.parameters()]), torch.rand(1), kept

    plain, probed = run(None), run("stability")
    assert torch.equal(plain[0], probed[0])  # the step is far inside the interval, so the control must not show
    assert torch.equal(plain[1], probed[1])
    assert all(torch.equal(a, b) for a, b in zip(plain[2], probed[2], strict=True))


@pytest.mark.parametrize("control", ["embedded-error", "stability"])
def test_a_controlled_run_resumes_to_the_bit(control: str) -> None:
    def setup():
        problem = Quadratic()
        lr = None if control == "embedded-error" else 1e-3
        return problem, sabun.Optimizer([problem.theta], lr, scheme="nesterov", step_control=control)

    problem, optimizer = setup()
    for _ in range(23):
        optimizer.step(problem.closure(optimizer))
    other, resumed = setup()
    with torch.no_grad():
        other.theta.copy_(problem.theta)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(23):
        optimizer.step(problem.closure(optimizer))
        resumed.step(other.closure(resumed))
    assert torch.equal(problem.theta, other.theta)


def test_what_a_control_cannot_do_is_refused() -> None:
    theta = torch.ones(3, 3, requires_grad=True)
    optimizer = sabun.Optimizer([theta], 0.1, step_control="stability")
    theta.grad = torch.ones_like(theta)
    with pytest.raises(OptionError, match="needs a closure"):
        optimizer.step()
    with pytest.raises(OptionError, match="does not work with the preconditioner 'spectral'"):
        sabun.Optimizer([theta], 0.1, preconditioner="spectral", step_control="stability")
    with pytest.raises(OptionError, match="no learning rate"):
        sabun.Optimizer([theta], step_control="stability")


def test_a_group_that_joins_between_probes_is_probed_before_its_first_step() -> None:
    """A stiff newcomer, λ = 10⁶ at h = 10⁻³: unprobed, its first step throws it a thousandfold away."""
    problem, stiff = Quadratic(), torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = sabun.Optimizer([problem.theta], 1e-3, step_control="stability(probe_every=1000)")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss() + 0.5 * joined * 1e6 * (stiff**2).sum()
        loss.backward()
        return loss

    joined = 0.0
    for _ in range(5):
        optimizer.step(closure)
    optimizer.add_param_group({"params": [stiff]})
    joined = 1.0
    for _ in range(20):
        optimizer.step(closure)
        assert float(stiff.detach().abs().max()) <= 1.0
    assert optimizer.stats()["curvature"] == pytest.approx(1e6, rel=0.05)


def test_all_ranks_choose_the_same_step(python: str, tmp_path) -> None:
    """Gradients are averaged, those of the probes too, so the steps agree although every rank has its own data."""
    worker = Path(__file__).with_name("control_worker.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [*shlex.split(python), str(worker), str(tmp_path / "store"), str(rank), str(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in ranks]
    assert all(process.returncode == 0 for process in ranks), "\n".join(said)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    for control, (steps, weights) in first.items():
        assert torch.equal(steps, second[control][0])
        assert torch.equal(weights, second[control][1])
        assert bool((steps > 0).all())
    assert float(first["stability"][0].min()) < 50.0  # the control did bind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_curvature_is_found_in_low_precision(dtype: torch.dtype) -> None:
    eigenvalues = torch.logspace(0, 3, 20).to(dtype)
    theta = torch.ones(20, dtype=dtype, requires_grad=True)
    optimizer = sabun.Optimizer([theta], 1e-4, step_control="stability(probe_every=1)")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (0.5 * eigenvalues * theta**2).sum()
        loss.backward()
        return loss

    for _ in range(30):
        optimizer.step(closure)
    assert optimizer.stats()["curvature"] == pytest.approx(1000.0, rel=0.02)


def test_stability_under_a_scheduler_resumes_between_probes_to_the_bit() -> None:
    def setup():
        problem = Quadratic()
        optimizer = sabun.Optimizer([problem.theta], 1e-2, scheme="nesterov", step_control="stability(probe_every=7)")
        return problem, optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 50)

    def go(problem, optimizer, schedule, steps: int) -> None:
        for _ in range(steps):
            optimizer.step(problem.closure(optimizer))
            schedule.step()

    a, b = setup(), setup()
    go(*a, 10)
    with torch.no_grad():
        b[0].theta.copy_(a[0].theta)
    b[1].load_state_dict(copy.deepcopy(a[1].state_dict()))
    b[2].load_state_dict(a[2].state_dict())
    go(*a, 35)
    go(*b, 35)
    assert torch.equal(a[0].theta, b[0].theta)
