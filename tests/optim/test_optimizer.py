"""The optimizer against torch.optim, step for step; and every way of asking for it wrongly."""

from __future__ import annotations

import math

import pytest
import torch
from training import backward, batches, deviation, flat, network, trajectory

import sabun
from sabun.errors import OptionError, SabunError, SchemeError


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), lambda p: sabun.Optimizer(p, 0.1)),
        (
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
            lambda p: sabun.Optimizer(p, 0.5, scheme="heavy-ball"),
        ),
        (
            lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.95, nesterov=True),
            lambda p: sabun.Optimizer(p, 0.02 / 0.05, scheme="nesterov", momentum=0.95),
        ),
        (
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
            lambda p: sabun.Optimizer(p, 0.5, scheme="heavy-ball", weight_decay=0.01, decoupled=False),
        ),
        (
            lambda p: torch.optim.SGD(p, lr=0.0001, momentum=0.9, maximize=True),
            lambda p: sabun.Optimizer(p, 0.001, scheme="heavy-ball", maximize=True),
        ),
        (
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
            lambda p: sabun.Optimizer(p, 0.01, scheme="heavy-ball", preconditioner="adam", weight_decay=0.1),
        ),
        (
            lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-6),
            lambda p: sabun.Optimizer(
                p, 0.01, scheme="heavy-ball(0.8)", preconditioner="adam(beta2=0.95, eps=1e-6)",
                weight_decay=0.1, decoupled=False,
            ),
        ),
    ],
    ids=["sgd", "momentum", "nesterov", "momentum-l2", "maximize", "adamw", "adam-l2"],
)  # fmt: skip
def test_the_trajectory_is_that_of_torch(theirs, ours) -> None:
    assert deviation(trajectory(ours), trajectory(theirs)) < 1e-12


def test_cycling_momentum_is_that_of_torch() -> None:
    def run(make):
        model = network()
        optimizer = make(model.parameters())
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=60, base_momentum=0.8, max_momentum=0.95
        )
        path, seen = [], []
        for batch in batches(60):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
            scheduler.step()
            path.append(flat(model.parameters()))
            seen.append(optimizer.param_groups[0].get("momentum", optimizer.param_groups[0].get("betas", [0])[0]))
        return torch.stack(path), seen

    a, seen = run(lambda p: sabun.Optimizer(p, 0.02, scheme="heavy-ball", preconditioner="adam"))
    b, expected = run(lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0))
    assert min(seen) == pytest.approx(0.8, abs=1e-3)
    assert seen == pytest.approx(expected)
    assert deviation(a, b) < 1e-12


def test_lr_is_the_time_step_for_every_scheme() -> None:
    for scheme in ("euler", "heavy-ball", "nesterov", "look-ahead(0.9, 2)", "adams-bashforth-2", "taylor-4"):
        p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = sabun.Optimizer([p], 0.1, scheme=scheme)
        for _ in range(400):
            p.grad = torch.ones_like(p)
            before = p.detach().clone()
            optimizer.step()
        assert torch.allclose(p.detach() - before, torch.full_like(p, -0.1), atol=1e-12), scheme


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"lr": 0.0}, OptionError, "lr must be"),
        ({"lr": -1.0}, OptionError, "lr must be"),
        ({"lr": math.nan}, OptionError, "lr must be"),
        ({"lr": math.inf}, OptionError, "lr must be"),
        ({"lr": "0.1"}, OptionError, "lr must be"),
        ({"lr": True}, OptionError, "lr must be"),
        ({"lr": torch.tensor([0.1, 0.1])}, OptionError, "Tensor lr must be 1-element"),
        ({}, OptionError, "no learning rate given"),
        ({"lr": 0.1, "scheme": "nesterof"}, SchemeError, "Did you mean 'nesterov'"),
        ({"lr": 0.1, "scheme": "lagrange-4"}, SchemeError, "2.686"),
        ({"lr": 0.1, "preconditioner": "adamm"}, OptionError, "Did you mean 'adam'"),
        ({"lr": 0.1, "averaging": "emma"}, OptionError, "Did you mean 'ema'"),
        ({"lr": 0.1, "weigth_decay": 0.1}, OptionError, "Did you mean 'weight_decay'"),
        ({"lr": 0.1, "weight_decay": -0.1}, OptionError, "weight_decay must be"),
        ({"lr": 0.1, "weight_decay": math.nan}, OptionError, "weight_decay must be"),
        ({"lr": 0.1, "preconditioner": "adam(beta2=1.0)"}, OptionError, "beta2 must be"),
        ({"lr": 0.1, "preconditioner": "adam(eps=-1e-8)"}, OptionError, "eps must be"),
        ({"lr": 0.1, "maximize": 1}, OptionError, "maximize must be"),
        ({"lr": 0.1, "scheme": "heavy-ball", "momentum": 1.0}, OptionError, "momentum must be"),
        ({"lr": 0.1, "scheme": "heavy-ball", "momentum": math.nan}, OptionError, "momentum must be"),
        ({"lr": 0.1, "momentum": 0.9}, OptionError, "has no momentum"),
        ({"lr": 0.1, "averaging": "ema(decay=1.5)"}, OptionError, "decay must be"),
        ({"lr": 0.1, "preconditioner": "kronecker(refresh_every=0)"}, OptionError, "refresh_every must be"),
        ({"lr": 0.1, "preconditioner": "spectral(iteration='qr')"}, OptionError, "iteration must be"),
        ({"lr": 0.1, "preconditioner": 3}, OptionError, "a name, an object or None"),
        ({"lr": 0.1, "beta2": 0.9}, OptionError, "option of the preconditioner 'adam'"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(options, kind, says) -> None:
    p = torch.zeros(2, requires_grad=True)
    with pytest.raises(kind, match=says) as caught:
        sabun.Optimizer([p], **options)
    assert isinstance(caught.value, SabunError)
    assert caught.value.fix
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("group", "says"),
    [({"lr": -1.0}, "lr must"), ({"weigth_decay": 0.1}, "Did you mean 'weight_decay'"),
     ({"preconditioner": "adam(beta2=2)"}, "beta2 must"),
     ({"preconditioner": "adm"}, "'adam'"), ({"step_control": "stability"}, "whole optimizer")],
)  # fmt: skip
def test_a_wrong_group_changes_nothing(group, says) -> None:
    p, q = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = sabun.Optimizer([p], 0.1)
    with pytest.raises(OptionError, match=says):
        optimizer.add_param_group({"params": [q], **group})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("schem", "scheme"),
        ("preconditoner", "preconditioner"),
        ("step_contrl", "step_control"),
        ("momentun", "momentum"),
    ],
)
def test_a_misspelt_option_of_any_kind_names_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(OptionError, match=f"Did you mean '{meant}'"):
        sabun.Optimizer([torch.nn.Parameter(torch.ones(1))], lr=0.1, **{wrong: 0.5})


@pytest.mark.parametrize(
    ("kind", "flag"),
    [(sabun.Optimizer, "differentiable"), (sabun.RungeKutta, "differentiable"), (sabun.RungeKutta, "capturable")],
)
def test_what_cannot_be_had_of_torchs_options_is_refused_with_a_way_out(kind, flag: str) -> None:
    p, q = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = kind([p], 0.1, **{flag: False})
    optimizer.add_param_group({"params": [q], flag: False})
    assert not any(flag in group for group in optimizer.param_groups)
    for ask in (
        lambda: kind([p], 0.1, **{flag: True}),
        lambda: kind([{"params": [p], flag: True}], 0.1),
        lambda: optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], flag: True}),
    ):
        with pytest.raises(OptionError, match=f"{flag}=True is not supported") as caught:
            ask()
        assert caught.value.fix
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("kind", [sabun.Optimizer, sabun.RungeKutta])
def test_a_step_inside_a_cuda_graph_is_refused(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer = kind([p], 0.1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(OptionError, match="capturable"):
        optimizer.step(lambda: p.sum())
    assert torch.equal(p, torch.ones(2))
