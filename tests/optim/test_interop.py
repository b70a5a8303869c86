"""Taking over from torch in mid-training, and describing any optimizer as a numerical method."""

from __future__ import annotations

import json

import pytest
import torch
from training import backward, batches, flat, network

import sabun
from sabun.errors import OptionError
from sabun.optim import RungeKutta, create, describe, from_torch, torch_internals

TORCH = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.95, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adam-maximize": lambda p: torch.optim.Adam(p, lr=0.001, weight_decay=0.1, maximize=True),
    "adam-no-momentum": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.0, 0.99)),
    "momentum-maximize": lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9, weight_decay=0.01, maximize=True),
    "dampening-without-momentum": lambda p: torch.optim.SGD(p, lr=0.1, dampening=0.5),
    "float32-tensor-lr": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.05), momentum=0.9),
    "tensor-lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("before", [0, 30])
def test_the_continuation_is_identical(name: str, before: int) -> None:
    def run(convert: bool):
        model = network()
        first, *others = model.parameters()
        optimizer = TORCH[name]([{"params": [first], "weight_decay": 0.5}, {"params": others, "lr": 0.02}])
        path = []
        for n, batch in enumerate(batches(before + 50)):
            if n == before and convert:
                optimizer = from_torch(optimizer)
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
            path.append(flat(model.parameters()))
        return torch.stack(path), optimizer

    a, made = run(True)
    b, _ = run(False)
    assert isinstance(made, sabun.Optimizer)
    assert float(((a - b).abs().amax(-1) / b.abs().amax(-1)).max()) < 1e-12


def test_the_original_is_left_alone() -> None:
    model = network()
    optimizer = TORCH["momentum"](model.parameters())
    backward(model, batches(1)[0])
    optimizer.step()
    kept = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    made = from_torch(optimizer)
    made.step()
    for p, buffer in zip(model.parameters(), kept, strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], buffer)


def test_a_warm_up_may_stand_at_zero() -> None:
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert from_torch(optimizer).param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: torch.optim.RMSprop(p), "not torch.optim.rmsprop.RMSprop"),
        (lambda p: torch.optim.SGD(p, momentum=0.9, dampening=0.5), "dampening"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "amsgrad"),
        (lambda p: torch.optim.SGD(p, differentiable=True), "differentiable"),
        (lambda p: torch.optim.SGD([{"params": list(p), "dampening": 0.5, "momentum": 0.9}]), "dampening"),
        (lambda p: type("Mine", (torch.optim.SGD,), {})(p), "Mine"),
        (lambda p: create("sgd", p), "sabun.optim"),
    ],
)
def test_what_has_no_equivalent_is_refused(make, says) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        from_torch(make(network().parameters()))
    assert caught.value.fix


def test_groups_that_differ_in_everything_go_on_as_they_were() -> None:
    """Momentum, Nesterov, coupled decay, ascent and lr by group; one parameter that has no state yet, one frozen."""

    def run(convert: bool):
        model = network()
        a, b, c, d = model.parameters()
        optimizer = torch.optim.SGD(
            [
                {"params": [a], "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
                {"params": [b], "maximize": True, "lr": 1e-4},
                {"params": [c], "momentum": 0.5},
                {"params": [d], "momentum": 0.8, "lr": 0.01},
            ],
            lr=0.05,
        )
        d.requires_grad_(False)
        for n, batch in enumerate(batches(40)):
            if n == 20:
                optimizer = from_torch(optimizer) if convert else optimizer
                d.requires_grad_(True)
                b.requires_grad_(False)
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
        return flat(model.parameters())

    torch.testing.assert_close(run(True), run(False), rtol=1e-12, atol=1e-13)


def test_step_counters_of_parameters_that_skipped_steps_come_along() -> None:
    def run(convert: bool):
        model = network()
        first = next(model.parameters())
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for n, batch in enumerate(batches(20)):
            if n == 10 and convert:
                optimizer = from_torch(optimizer)
                counts = [int(optimizer.state[p]["step"]) for p in model.parameters()]
                assert counts == [6, 10, 10, 10]
            optimizer.zero_grad()
            backward(model, batch)
            if n in (1, 3, 4, 8, 15):
                first.grad = None
            optimizer.step()
        return flat(model.parameters())

    torch.testing.assert_close(run(True), run(False), rtol=1e-12, atol=1e-13)


def test_a_schedule_can_be_resumed_on_what_comes_out() -> None:
    """initial_lr becomes a time step as lr does, so that a new scheduler goes on where the old one stood."""

    def schedule(optimizer, last_epoch):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (1 + n / 10), last_epoch)

    def run(convert: bool):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        scheduler = schedule(optimizer, -1)
        for n, batch in enumerate(batches(40)):
            if n == 15 and convert:
                optimizer = from_torch(optimizer)
                assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.5)
                scheduler = schedule(
                    optimizer, scheduler.last_epoch - 1
                )  # a scheduler takes its first step when it is made
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
            scheduler.step()
        return flat(model.parameters())

    torch.testing.assert_close(run(True), run(False), rtol=1e-12, atol=1e-13)


def test_names_come_along() -> None:
    model = network()
    made = from_torch(torch.optim.SGD(model.named_parameters(), lr=0.1))
    assert made.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]


def test_describe_speaks_of_time_steps() -> None:
    params = list(network().parameters())
    known = describe(torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True))
    assert known is not None
    assert sabun.schemes.get(known["scheme"]) == sabun.nesterov(0.9)
    assert known["lr"] == pytest.approx(0.5)
    assert known["preconditioner"] is None
    assert describe(torch.optim.AdamW(params, lr=0.01))["preconditioner"] == "adam"
    assert describe(torch.optim.RMSprop(params)) is None
    assert describe(torch.optim.AdamW(params, amsgrad=True)) is None
    mine = describe(create("nadamw", params, 0.003))
    assert (mine["lr"], mine["preconditioner"], mine["gradient_evaluations"]) == (0.003, "adam", 1)
    assert describe(RungeKutta(params, 0.1, scheme="rk4"))["gradient_evaluations"] == 4
    for description in (known, mine):
        json.dumps(description)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_without_the_group_key_the_class_decides_how_weights_decay(kind: type[torch.optim.Optimizer]) -> None:
    """torch before 2.7 has no ``decoupled_weight_decay`` in its groups."""
    theirs, ours = (torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64)) for _ in range(2))
    reference = kind([theirs], lr=0.1, weight_decay=0.3)
    old = kind([ours], lr=0.1, weight_decay=0.3)
    for group in old.param_groups:
        group.pop("decoupled_weight_decay", None)
    converted = sabun.from_torch(old)
    for _ in range(5):
        for p, optimizer in ((theirs, reference), (ours, converted)):
            p.grad = p.detach().sin()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_without_the_group_key_an_unknown_class_is_refused() -> None:
    """It may decay its weights either way."""

    class Mine(torch.optim.AdamW):
        pass

    group = Mine([torch.zeros(2, requires_grad=True)]).param_groups[0]
    assert torch_internals.decays_decoupled(Mine, group)
    del group["decoupled_weight_decay"]
    with pytest.raises(OptionError, match="Mine does not say whether"):
        torch_internals.decays_decoupled(Mine, group)


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_a_schedule_that_cycles_the_momentum_and_a_group_added_later_find_the_defaults(name: str) -> None:
    p, q = (torch.zeros(2, requires_grad=True) for _ in range(2))
    old = TORCH[name]([p])
    made = from_torch(old)
    torch.optim.lr_scheduler.OneCycleLR(made, max_lr=0.1, total_steps=5, max_momentum=0.93)
    assert made.param_groups[0]["momentum"] == pytest.approx(0.93)
    for optimizer in (old, made):
        optimizer.add_param_group({"params": [q]})
    expected = from_torch(old).param_groups[1]
    for key in ("lr", "weight_decay", "decoupled", "momentum", "scheme"):
        assert made.param_groups[1][key] == expected[key], key
