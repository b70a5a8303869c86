"""``sabun.swap`` and ``sabun.log`` inside a run, seen from the training loop. Oracle: the same loop, driven by hand."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sabun.errors import TrainingError
from sabun.poc.spec import Arm
from sabun.script import arms, client
from sabun.script.protocol import Driver
from sabun.script.sealed import seal

Opened = Callable[..., Path]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Open a run as the study does: a file that says what to do, locked; its records are to be found beside it."""
    held = contextlib.ExitStack()

    def open_(optimizer: str, options: dict[str, Any] | None = None, **values: float) -> Path:
        file = held.enter_context((tmp_path / "run.json").open("wb"))
        fcntl.flock(file, fcntl.LOCK_EX)
        arm = Arm(name="x", optimizer=optimizer, options=options or {})
        file.write(seal({"arm": arm.model_dump(mode="json"), "hyperparameters": values, "seed": 1}))
        file.flush()
        monkeypatch.setenv(client.VARIABLE, file.name)
        monkeypatch.setattr(client, "_session", None)
        monkeypatch.setattr(client.atexit, "register", lambda *_: None)
        return tmp_path / "records.jsonl"

    yield open_
    held.close()
    if client._session is not None and client._session.point is not None:
        client._session.point.stop()


def records(path: Path, kind: str = "log") -> list[dict[str, Any]]:
    return [record for line in path.read_text().splitlines() if (record := json.loads(line))["kind"] == kind]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, evaluated: Callable[[float], None], ways: Any = None
) -> None:
    """Three epochs of four steps. ``ways(evaluating)`` is what a loop that knows of averages puts around each part."""
    ways = ways or (lambda evaluating: contextlib.nullcontext())
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(32, 3, generator=generator)
    y = x.sum(1, keepdim=True)
    for _ in range(3):
        model.train()
        with ways(False):
            for rows in torch.randperm(32, generator=generator).split(8):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
                optimizer.step()
        model.eval()
        with ways(True), torch.no_grad():
            evaluated(float(nn.functional.mse_loss(model(x), y)))


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("nesterov", {"averaging": "ema(decay=0.5)"}), ("euler", {"averaging": "tail(start=3)"}),
     ("schedule-free-adamw", {}), ("schedulefree:AdamWScheduleFree", {})],
)  # fmt: skip
def test_an_averaging_arm_is_evaluated_at_its_average_though_the_script_knows_nothing_of_it(
    optimizer: str, options: dict[str, Any], opened: Opened
) -> None:
    found = opened(optimizer, options, lr=0.05)
    model = network()
    loop(model, client.swap(torch.optim.SGD(model.parameters(), lr=0.1)), lambda loss: client.log(val_loss=loss))

    other = network()
    by_hand = arms.recipe(Arm(name="x", optimizer=optimizer, options=options)).build(other, {"lr": 0.05})
    expected: list[float] = []

    def ways(evaluating: bool) -> contextlib.AbstractContextManager[object]:
        if hasattr(by_hand, "averaged"):
            return by_hand.averaged() if evaluating else contextlib.nullcontext()
        by_hand.eval() if evaluating else by_hand.train()  # type: ignore[attr-defined]
        return contextlib.nullcontext()

    loop(other, by_hand, expected.append, ways)
    assert [record["val_loss"] for record in records(found)] == expected
    plain = network()  # and it does make a difference
    last = arms.recipe(Arm(name="x", optimizer="euler")).build(plain, {"lr": 0.05})
    other_losses: list[float] = []
    loop(plain, last, other_losses.append)
    assert other_losses != expected


def test_training_in_evaluation_mode_is_refused_for_an_averaging_arm(opened: Opened) -> None:
    opened("nesterov", {"averaging": "ema"}, lr=0.05)
    model = network().eval()
    optimizer = client.swap(torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(2):  # the first step makes the average
        model(torch.ones(2, 3)).sum().backward()
        with pytest.raises(TrainingError, match="trains its model in evaluation mode"):
            optimizer.step()


def test_modules_are_left_as_they_are_and_one_hook_watches_averaging_arms_only(opened: Opened) -> None:
    watched = torch.nn.modules.module._global_forward_pre_hooks
    assert len(watched) == 0
    opened("nesterov", {"averaging": "ema"}, lr=0.05)
    model = network()
    load = nn.Module.load_state_dict
    client.swap(torch.optim.SGD(model.parameters(), lr=0.1))
    assert len(watched) == 1
    model(torch.ones(2, 3))
    assert [len(module._forward_pre_hooks) for module in model.modules()] == [0, 0, 0, 0]
    assert client._session is not None
    assert client._session.point is not None
    assert [type(module) for module in client._session.point._outermost] == [nn.Sequential]
    client._session.point.stop()
    assert len(watched) == 0
    assert nn.Module.load_state_dict is load


def test_two_networks_under_one_optimizer_are_both_found(opened: Opened) -> None:
    found = opened("nesterov", {"averaging": "ema(decay=0.5)"}, lr=0.05)
    one, two = network(), network()
    optimizer = client.swap(torch.optim.SGD([*one.parameters(), *two.parameters()], lr=0.1))
    for _ in range(2):
        (one(torch.ones(2, 3)) + two(torch.ones(2, 3))).sum().backward()
        optimizer.step()
    last = [p.detach().clone() for p in two.parameters()]
    with torch.no_grad():
        one(torch.ones(2, 3))
    assert any(not torch.equal(a, b) for a, b in zip(last, two.parameters(), strict=True))
    (one(torch.ones(2, 3)) + two(torch.ones(2, 3))).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(last, two.parameters(), strict=True))
    assert found.exists()


def test_closures_are_counted_and_their_time_is_not_the_optimizers(opened: Opened) -> None:
    found = opened("torch.optim:LBFGS(max_iter=3, line_search_fn='strong_wolfe')", lr=0.5)
    model = network()
    optimizer = client.swap(torch.optim.SGD(model.parameters(), lr=0.1))
    x = torch.randn(64, 3)
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        for _ in range(200):  # far more than LBFGS itself does
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    for way in (lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure)):
        way()
        client.log(val_loss=closure().detach())
        calls -= 1
    first, second = records(found)
    assert second["gradient_evaluations"] == calls > 2
    assert first["optimizer_s"] < 0.5 * first["train_s"]
    assert second["optimizer_s"] < 0.5 * second["train_s"]


@pytest.mark.parametrize("optimizer", ["heun", "torch.optim:LBFGS"])
def test_an_arm_that_needs_a_closure_says_so_where_the_script_has_none(optimizer: str, opened: Opened) -> None:
    opened(optimizer, lr=0.1)
    model = network()
    swapped = client.swap(torch.optim.SGD(model.parameters(), lr=0.1))
    model(torch.ones(1, 3)).sum().backward()
    with pytest.raises(TrainingError, match=r"needs a closure.*mytask.py:Task"):
        swapped.step()


class Perturbing(torch.optim.Optimizer):
    """Sharpness-aware, as its authors write it: along the gradient that is there, then the closure, then back."""

    def __init__(self, params: Any, lr: float = 0.1, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        if closure is None:
            raise RuntimeError("SAM requires a closure")
        ps = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        moves = [self.param_groups[0]["rho"] * p.grad for p in ps]
        torch._foreach_add_(ps, moves) if ps else None
        with torch.enable_grad():
            closure()
        torch._foreach_sub_(ps, moves) if ps else None
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad)


def test_an_optimizer_that_goes_on_from_a_gradient_is_refused_in_a_script_that_leaves_it_the_last_batchs(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened("euler", lr=0.1)
    model = network()
    monkeypatch.setattr(client, "_replace", lambda *_: Perturbing(model.parameters()))
    optimizer = client.swap(torch.optim.SGD(model.parameters(), lr=0.1))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 3)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # no gradient yet: it cannot move
    with pytest.raises(TrainingError, match="moves the parameters before it calls its closure"):
        optimizer.step(closure)


def test_a_task_gives_such_an_optimizer_its_gradient_first() -> None:
    """Against the method's definition, θ ← θ − h g(θ + ρ g(θ)), written out."""
    rho, lr = 0.05, 0.1
    model, other = network(), network()
    optimizer = Perturbing(model.parameters(), lr, rho)
    driver = Driver(optimizer)
    batches = [torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    for step, x in enumerate(batches):
        counted = 0

        def gradient(x: torch.Tensor = x) -> torch.Tensor:
            nonlocal counted
            counted += 1
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = model(x).square().sum()
            loss.backward()
            return loss

        driver.step(gradient)
        assert counted == 2
        assert driver.kind == "gradient"
        ps = list(other.parameters())
        first = torch.autograd.grad(other(x).square().sum(), ps)
        with torch.no_grad():
            torch._foreach_add_(ps, first, alpha=rho)
        second = torch.autograd.grad(other(x).square().sum(), ps)
        with torch.no_grad():
            torch._foreach_add_(ps, first, alpha=-rho)
            torch._foreach_add_(ps, second, alpha=-lr)
        for p, q in zip(model.parameters(), ps, strict=True):
            assert torch.allclose(p, q, atol=1e-6), step


def test_mistakes_of_order_and_kind(opened: Opened) -> None:
    opened("script")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(TrainingError, match=r"before sabun\.swap"):
        client.log(val_loss=1.0)
    assert client.swap(optimizer) is optimizer
    client.log(val_loss=1.0)
    client.log(val_loss=torch.tensor(0.5))
    with pytest.raises(TrainingError, match=r"swap was called twice"):
        client.swap(optimizer)
    with pytest.raises(TrainingError, match="got epoch 2 after epoch 2"):
        client.log(epoch=2, val_loss=0.5)
    with pytest.raises(TrainingError, match="val_loss=Tensor, which is not a number"):
        client.log(val_loss=torch.ones(3))
    with pytest.raises(TrainingError, match="accuracy=list, which is not a number"):
        client.log(val_loss=1.0, accuracy=[0.5])


def test_a_script_ends_when_its_study_has_ended(opened: Opened, tmp_path: Path) -> None:
    found = opened("script")
    client.swap(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    client.log(val_loss=1.0)
    before = found.read_bytes()
    (tmp_path / "run.json").write_bytes((tmp_path / "run.json").read_bytes())
    session = client._session
    assert session is not None
    session.path = tmp_path / "left.json"
    session.path.write_text("{}")  # nobody holds this one
    with pytest.raises(SystemExit, match="has ended"):
        client.log(val_loss=0.5)
    assert found.read_bytes() == before


def test_a_loss_with_its_graph_is_logged_without_a_warning(opened: Opened, recwarn: pytest.WarningsRecorder) -> None:
    found = opened("script")
    p = torch.ones(1, requires_grad=True)
    client.swap(torch.optim.SGD([p], lr=0.1))
    torch.set_warn_always(True)  # torch gives this warning once per process
    try:
        client.log(val_loss=(2 * p).sum(), train_loss=p)
    finally:
        torch.set_warn_always(False)
    assert [(record["val_loss"], record["train_loss"]) for record in records(found)] == [(2.0, 1.0)]
    assert not recwarn.list
