"""Runge–Kutta steps against closed forms: stability functions, measured order, counted gradients."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from training import backward, batches, flat, network

import sabun
from sabun.bench.measurement import peak_extra_bytes
from sabun.errors import OptionError, SchemeError, TrainingError
from sabun.optim import RungeKutta, describe

TABLEAUS = [n for n in sabun.schemes.SCHEMES if isinstance(sabun.schemes.get(n), sabun.schemes.ButcherTableau)]


def closure_for(optimizer, theta: Tensor, eigenvalue: float, calls: list[int]):
    def closure() -> Tensor:
        calls[0] += 1
        optimizer.zero_grad()
        loss = 0.5 * eigenvalue * (theta**2).sum()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("name", TABLEAUS)
def test_a_step_multiplies_by_the_stability_function(name: str) -> None:
    """θ′ = −λθ: one step is R(−hλ), with R(z) = 1 + z bᵀ(I − zA)⁻¹1 computed by linear algebra."""
    tableau = sabun.schemes.get(name)
    A = torch.tensor([[float(a) for a in row] for row in tableau.A], dtype=torch.float64)
    b = torch.tensor([float(x) for x in tableau.b], dtype=torch.float64)
    one = torch.ones(len(b), dtype=torch.float64)
    for z in (-0.1, -0.7, -1.9):
        theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer, calls = RungeKutta([theta], 0.1, scheme=name), [0]
        optimizer.step(closure_for(optimizer, theta, -z / 0.1, calls))
        expected = 1 + z * (b @ torch.linalg.solve(torch.eye(len(b), dtype=torch.float64) - z * A, one))
        assert float(theta) == pytest.approx(float(expected), rel=1e-12)
        certified = sabun.schemes.certify(tableau).gradient_evaluations
        assert calls[0] == optimizer.gradient_evaluations == optimizer.stats()["gradient_evaluations"] == certified
        assert RungeKutta([theta], 0.1, scheme=name).gradient_evaluations == certified  # before the first step, too


@pytest.mark.parametrize("name", [n for n in TABLEAUS if sabun.schemes.get(n).b_embedded is not None])
def test_with_error_control_a_step_costs_what_the_certificate_says(name: str) -> None:
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer, calls = RungeKutta([theta], 0.01, scheme=name, step_control="embedded-error"), [0]
    certified = sabun.schemes.certify(name).controlled_evaluations
    assert optimizer.gradient_evaluations == certified
    optimizer.step(closure_for(optimizer, theta, 1.0, calls))
    assert calls[0] == optimizer.gradient_evaluations == certified
    assert describe(optimizer)["gradient_evaluations"] == certified


def test_a_stage_that_nothing_uses_is_not_evaluated_wherever_it_stands() -> None:
    """θ′ = −λθ by the midpoint rule, with an idle stage in its middle."""
    idle = sabun.schemes.ButcherTableau(name="idle", A=((0, 0, 0), (1, 0, 0), (0.5, 0, 0)), b=(0, 0, 1))
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer, calls = RungeKutta([theta], 0.1, scheme=idle), [0]
    optimizer.step(closure_for(optimizer, theta, 2.0, calls))
    assert theta.item() == pytest.approx(1 - 0.2 + 0.02, rel=1e-14)
    assert calls[0] == optimizer.gradient_evaluations == idle.gradient_evaluations == 2


@pytest.mark.parametrize("name", ["heun", "rk4", "bogacki-shampine", "chebyshev(5)"])
def test_a_step_holds_the_copies_that_are_declared_and_keeps_none(name: str) -> None:
    """Beside the gradients, which the closure makes: the start, and one gradient a stage."""
    p = nn.Parameter(torch.ones(250, 250))
    optimizer = RungeKutta([p], 0.1, scheme=name)

    def closure() -> Tensor:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad.copy_(p.detach())
        return p.detach()[0, 0]

    optimizer.step(closure)
    held = peak_extra_bytes(lambda: optimizer.step(closure), torch.device("cpu"))
    copies = sabun.schemes.get(name).work_copies
    assert copies * p.nbytes <= held < (copies + 0.1) * p.nbytes
    assert not optimizer.state


@pytest.mark.parametrize(
    ("name", "order"), [("heun", 2), ("ralston", 2), ("kutta-3", 3), ("rk4", 4), ("bogacki-shampine", 3)]
)
def test_the_order_is_what_a_nonlinear_flow_shows(name: str, order: int) -> None:
    # θ′ = −θ³ has θ(t) = 1/√(1 + 2t).
    errors = []
    for steps in (50, 100):
        theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = RungeKutta([theta], 1 / steps, scheme=name)

        def closure(theta=theta, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (theta**4).sum() / 4
            loss.backward()
            return loss

        for _ in range(steps):
            optimizer.step(closure)
        errors.append(abs(float(theta) - 1 / math.sqrt(3)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_one_stage_on_mini_batches_is_sgd() -> None:
    tableau = sabun.schemes.ButcherTableau(name="one-stage", A=((0,),), b=(1,))

    def run(make, stages: bool) -> Tensor:
        model = network()
        optimizer = make(model.parameters())
        for batch in batches(30):

            def closure(batch=batch) -> Tensor:
                optimizer.zero_grad()
                return backward(model, batch)

            optimizer.step(closure)
        return flat(model.parameters())

    ours = run(lambda p: RungeKutta(p, 0.1, scheme=tableau, weight_decay=0.01, decoupled=False), True)
    assert torch.equal(ours, run(lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01), False))


def test_a_long_chebyshev_step_is_stable_where_euler_explodes() -> None:
    tableau = sabun.schemes.get("chebyshev(8)")
    h = 0.9 * float(tableau.stability_interval) / 100
    assert h > 50 * 2 / 100 / 2  # far beyond Euler's 2/λ
    stiff, slow = (torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = RungeKutta([stiff, slow], h, scheme=tableau)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 50 * (stiff**2).sum() + 0.5 * (slow**2).sum()
        loss.backward()
        return loss

    for _ in range(20):
        optimizer.step(closure)
    assert abs(float(stiff)) < 1
    assert abs(float(slow)) < 1e-3
    assert optimizer.stats()["gradient_evaluations"] == 20 * 8


def test_all_stages_see_the_same_batch_and_the_same_noise() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    optimizer, masks = RungeKutta(model.parameters(), 0.01, scheme="rk4"), []
    x = torch.randn(6, 4, dtype=torch.float64)
    model[1].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.step(closure)
    assert all(torch.equal(masks[0], mask) for mask in masks[1:4])
    assert not torch.equal(masks[0], masks[4])


def test_an_embedded_pair_finds_its_step_and_keeps_the_tolerance() -> None:
    theta, calls = torch.ones(1, dtype=torch.float64, requires_grad=True), [0]
    optimizer = RungeKutta([theta], scheme="bogacki-shampine", step_control="embedded-error(tolerance=1e-6)")
    total = 0
    for _ in range(25):
        before = float(theta)
        optimizer.step(closure_for(optimizer, theta, 2.0, calls))
        total += optimizer.gradient_evaluations
        h = optimizer.stats()["step_length"]
        assert abs(float(theta) - before * math.exp(-2 * h)) < 1e-6 * before
    assert total == calls[0] == optimizer.stats()["gradient_evaluations"]
    assert 0.01 < h < 1
    assert optimizer.param_groups[0]["lr"] == h


def test_a_step_that_is_far_too_long_is_rejected_and_counted() -> None:
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer, calls = RungeKutta([theta], scheme="heun-euler", step_control="embedded-error"), [0]
    optimizer.step(closure_for(optimizer, theta, 1.0, calls))
    optimizer.step(closure_for(optimizer, theta, 1e4, calls))
    assert optimizer.stats()["rejected"] >= 2
    assert optimizer.gradient_evaluations == 1 + (optimizer.stats()["rejected"] + 1)
    assert abs(float(theta)) <= 1


def test_a_run_resumes_to_the_bit() -> None:
    for scheme, lr, control in (("rk4", 0.1, None), ("bogacki-shampine", None, "embedded-error")):
        model, data = network(), batches(20)

        def go(model, optimizer, data) -> None:
            for batch in data:

                def closure(batch=batch) -> Tensor:
                    optimizer.zero_grad()
                    return backward(model, batch)

                optimizer.step(closure)

        optimizer = RungeKutta(model.parameters(), lr, scheme=scheme, step_control=control, weight_decay=0.1)
        go(model, optimizer, data[:10])
        twin = copy.deepcopy(model)
        resumed = RungeKutta(twin.parameters(), lr, scheme=scheme, step_control=control, weight_decay=0.5)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        go(model, optimizer, data[10:])
        go(twin, resumed, data[10:])
        assert torch.equal(flat(model.parameters()), flat(twin.parameters()))


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"lr": 0.1, "scheme": "nesterov"}, SchemeError, "not a Runge–Kutta"),
        ({"lr": 0.1, "scheme": "huen"}, SchemeError, "Did you mean 'heun'"),
        ({"scheme": "heun"}, OptionError, "no learning rate"),
        ({"lr": math.nan}, OptionError, "lr must be"),
        ({"lr": 0.1, "weigth_decay": 0.1}, OptionError, "Did you mean 'weight_decay'"),
        ({"lr": 0.1, "scheme": "rk4", "step_control": "embedded-error"}, OptionError, "no embedded pair"),
        ({"lr": 0.1, "step_control": "stability"}, OptionError, "unknown step control"),
    ],
)
def test_a_wrong_option_is_named(options, kind, says) -> None:
    with pytest.raises(kind, match=says):
        RungeKutta(network().parameters(), **options)


def test_it_needs_a_closure_and_the_multistep_class_says_where_to_go() -> None:
    optimizer = RungeKutta(network().parameters(), 0.1)
    with pytest.raises(OptionError, match="needs a closure"):
        optimizer.step()
    with pytest.raises(SchemeError, match="RungeKutta"):
        sabun.Optimizer(network().parameters(), 0.1, scheme="heun")


def test_error_control_never_moves_on_a_step_that_it_rejected() -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        p.grad = None
        loss = (p**2).sum() * (float("nan") if calls > 1 else 1.0)
        loss.backward()
        return loss.detach()

    optimizer = RungeKutta([p], scheme="heun-euler", step_control="embedded-error")
    with pytest.raises(TrainingError, match="no step was accepted"):
        optimizer.step(closure)
    assert torch.equal(p.detach(), torch.ones(3, dtype=torch.float64))


def test_a_closure_that_fails_between_stages_leaves_the_parameters_where_they_stood() -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        p.grad = None
        loss = (p**2).sum()
        loss.backward()
        return loss.detach()

    with pytest.raises(MemoryError):
        RungeKutta([p], lr=0.1, scheme="rk4").step(closure)
    assert torch.equal(p.detach(), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("decoupled", [True, False])
def test_a_parameter_without_a_gradient_does_not_decay(decoupled: bool) -> None:
    a, b = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))

    def closure() -> torch.Tensor:
        a.grad = None
        loss = (a**2).sum()
        loss.backward()
        return loss.detach()

    RungeKutta([a, b], lr=0.1, weight_decay=1.0, decoupled=decoupled).step(closure)
    assert torch.equal(b.detach(), torch.ones(2, dtype=torch.float64))
    assert not torch.equal(a.detach(), torch.ones(2, dtype=torch.float64))
