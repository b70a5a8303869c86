"""What a checkpoint may bring: everything of its groups. What it may not: another kind, control or model. Nothing half.

A refusal must leave the optimizer as it was, to the bit; so every test of one compares all of it before and after.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from capabilities import step
from torch import Tensor, nn
from training import batches, flat, network

import sabun
from sabun.errors import OptionError, StateError
from sabun.optim import Ema, Fixed, RungeKutta
from sabun.schemes import ButcherTableau

Make = Callable[[Any], torch.optim.Optimizer]

KINDS: dict[str, Make] = {
    "fixed": lambda p: sabun.Optimizer(p, 0.05, scheme="nesterov"),
    "embedded-error": lambda p: sabun.Optimizer(p, scheme="nesterov", step_control="embedded-error"),
    "stability": lambda p: sabun.Optimizer(p, 0.05, scheme="nesterov", step_control="stability"),
    "runge-kutta": lambda p: RungeKutta(p, 0.05, scheme="heun-euler"),
    "runge-kutta embedded": lambda p: RungeKutta(p, scheme="heun-euler", step_control="embedded-error"),
}


def trained(make: Make, model: nn.Module | None = None, steps: int = 3) -> torch.optim.Optimizer:
    model = model or network()
    optimizer = make(model.named_parameters())
    go(optimizer, model, steps)
    return optimizer


def go(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int) -> None:
    for x, y in batches(steps):
        step(optimizer, lambda x=x, y=y: ((model(x) - y) ** 2).mean())


def everything(optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
    """All that a load could change, as plain comparable values."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().tolist()
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    params = [p for group in optimizer.param_groups for p in group["params"]]
    return plain((copy.deepcopy(optimizer.state_dict()), params, optimizer.defaults))


def refused(optimizer: torch.optim.Optimizer, state: dict[str, Any], says: str) -> StateError:
    before, saved = everything(optimizer), copy.deepcopy(state)
    with pytest.raises(StateError, match=says) as caught:
        optimizer.load_state_dict(state)
    assert everything(optimizer) == before
    assert repr(state) == repr(saved), "the checkpoint itself was changed"
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("theirs", KINDS)
@pytest.mark.parametrize("ours", KINDS)
def test_another_kind_or_step_control_is_refused_before_anything_changes(ours: str, theirs: str) -> None:
    optimizer, state = trained(KINDS[ours]), trained(KINDS[theirs], steps=2).state_dict()
    if ours == theirs:
        optimizer.load_state_dict(copy.deepcopy(state))
        assert repr(optimizer.state_dict()) == repr(state)
        return
    same_class = ("runge-kutta" in ours) == ("runge-kutta" in theirs)
    error = refused(optimizer, state, "step_control" if same_class else "RungeKutta")
    if same_class:
        assert repr(state["param_groups"][0]["step_control"]) in str(error)


def test_the_checkpoint_of_another_model_is_refused() -> None:
    wide = nn.Sequential(nn.Linear(10, 17), nn.Tanh(), nn.Linear(17, 3)).double()
    state = trained(KINDS["fixed"], wide).state_dict()
    refused(trained(KINDS["fixed"]), state, r"'0.weight' .*\(17, 10\).*\(16, 10\)")


def test_the_checkpoint_of_a_turned_matrix_is_refused() -> None:
    """As many entries in another shape, beside a preconditioner whose state is a matrix for every parameter."""
    for preconditioner in (None, "adam", "kronecker"):
        params = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 3), (3, 4), (2, 3, 2))]
        optimizers = [sabun.Optimizer([p], 0.1, scheme="heavy-ball", preconditioner=preconditioner) for p in params]
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = torch.ones_like(p)
            optimizer.step()
        refused(optimizers[1], optimizers[0].state_dict(), "shape")
        for optimizer in optimizers:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("scheme", "nesterof", "Did you mean 'nesterov'"),
        ("scheme", '{"name": "x"}', "cannot be read"),
        ("scheme", "lagrange-4", "2.686"),
        ("preconditioner", "adamm", "Did you mean 'adam'"),
        ("averaging", "emma", "Did you mean 'ema'"),
        ("preconditioner", "adam(beta2=1.5)", "beta2 must be"),
        ("foreach", "yes", "foreach must be"),
        ("momentum", -1.0, "momentum must be"),
        ("version", 99, "Update sabun"),
        ("version", 2, "has format 2"),
        ("lr", "fast", "lr must be a number"),
        ("lr_peak", None, "lr_peak must be a number"),
    ],
)
def test_a_damaged_checkpoint_is_refused_before_anything_changes(key: str, value: object, says: str) -> None:
    state = trained(KINDS["fixed"]).state_dict()
    state["param_groups"][0][key] = value
    refused(trained(KINDS["fixed"]), state, says)


@pytest.mark.parametrize("key", ["lr", "lr_peak", "preconditioner", "averaging", "step_control"])
def test_a_checkpoint_that_lacks_a_key_is_refused(key: str) -> None:
    state = trained(KINDS["fixed"]).state_dict()
    del state["param_groups"][0][key]
    refused(trained(KINDS["fixed"]), state, f"{key} is missing")


def test_a_role_of_another_kind_in_a_group_is_refused() -> None:
    optimizer = trained(KINDS["fixed"])
    optimizer.param_groups[0]["preconditioner"] = Ema()
    with pytest.raises(OptionError, match="preconditioner must be"):
        optimizer.step()


@pytest.mark.parametrize("make", [KINDS["fixed"], KINDS["runge-kutta"]])
def test_what_is_no_checkpoint_of_ours_is_refused(make: Make) -> None:
    optimizer = trained(make)
    foreign = torch.optim.SGD(network().parameters(), 0.1, momentum=0.9)
    refused(optimizer, foreign.state_dict(), "not a checkpoint of a sabun optimizer")
    refused(optimizer, {"weights": 1}, "not a checkpoint")


def test_a_hook_of_the_users_is_examined_too() -> None:
    """The hook may rewrite the checkpoint; what is judged is what would be loaded."""
    optimizer, state = trained(KINDS["fixed"]), trained(KINDS["embedded-error"]).state_dict()

    def mend(_: object, given: dict[str, Any]) -> dict[str, Any]:
        groups = [{**group, "step_control": "fixed"} for group in given["param_groups"]]
        return {**given, "param_groups": groups}

    refused(optimizer, state, "step_control")
    handle = optimizer.register_load_state_dict_pre_hook(mend)
    optimizer.load_state_dict(state)
    handle.remove()
    assert optimizer.param_groups[0]["step_control"] == Fixed()


def test_a_checkpoint_brings_its_roles_and_options() -> None:
    model = network()
    saved = sabun.Optimizer(
        model.parameters(), 0.01, scheme="taylor-4", preconditioner="adam(beta2=0.9)", averaging="ema(decay=0.5)"
    )
    go(saved, model, 4)
    twin = copy.deepcopy(model)
    other = sabun.Optimizer(twin.parameters(), 0.5, scheme="nesterov", preconditioner="sign", weight_decay=0.3)
    other.load_state_dict(copy.deepcopy(saved.state_dict()))
    go(saved, model, 4)
    go(other, twin, 4)
    assert torch.equal(flat(model.parameters()), flat(twin.parameters()))


@pytest.mark.parametrize("kind", [sabun.Optimizer, RungeKutta])
@pytest.mark.parametrize(("ours", "theirs"), [(None, 0.1), (0.1, None)])
def test_whether_the_step_length_is_found_or_bounded_comes_with_the_checkpoint(kind, ours, theirs) -> None:
    """lr is the upper bound of an error-controlled step, or what was found; a group says which, not the constructor."""

    def make(params: Any, lr: float | None) -> torch.optim.Optimizer:
        return kind(params, lr, scheme="euler" if kind is sabun.Optimizer else "heun-euler",
                    step_control="embedded-error(tolerance=0.1)")  # fmt: skip

    model = network()
    saved = make(model.parameters(), theirs)
    go(saved, model, 8)
    twin = copy.deepcopy(model)
    resumed = make(twin.parameters(), ours)
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    go(saved, model, 12)
    go(resumed, twin, 12)
    assert torch.equal(flat(model.parameters()), flat(twin.parameters()))
    lengths = [o.stats()["step_length"] for o in (saved, resumed)]
    assert lengths[0] == lengths[1]
    assert (lengths[0] <= 0.1) is (theirs is not None), "a bound of 0.1 should bind here, and only where there is one"


def test_a_custom_tableau_survives_a_checkpoint() -> None:
    mine = ButcherTableau(name="mine", A=((0, 0), (0.75, 0)), b=(0.25, 0.75))
    model = network()
    optimizer = RungeKutta(model.parameters(), 0.1, scheme=mine)
    go(optimizer, model, 2)
    twin = copy.deepcopy(model)
    for other in (RungeKutta(twin.parameters(), 0.1), copy.deepcopy(optimizer)):
        other.load_state_dict(optimizer.state_dict())
        assert other.tableau == mine


def test_step_counters_may_be_plain_numbers() -> None:
    """As torch.optim wrote them once, and as torch's own generic check demands."""
    model = network()
    optimizer = sabun.Optimizer(model.parameters(), 0.01, preconditioner="adam", scheme="heavy-ball")
    go(optimizer, model, 3)
    state, twin = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model)
    for held in state["state"].values():
        held["step"] = held["step"].item()
    other = sabun.Optimizer(twin.parameters(), 0.01, preconditioner="adam", scheme="heavy-ball")
    other.load_state_dict(state)
    go(optimizer, model, 3)
    go(other, twin, 3)
    assert torch.equal(flat(model.parameters()), flat(twin.parameters()))


@pytest.mark.parametrize("averaging", ["ema", "schedule-free"])
def test_a_copy_made_inside_the_averaged_block_trains_on_from_the_training_point(averaging: str) -> None:
    model = network()
    optimizer = sabun.Optimizer(model.parameters(), 0.05, scheme="nesterov", averaging=averaging)
    go(optimizer, model, 5)
    with optimizer.averaged():
        twin, other = copy.deepcopy((model, optimizer))
    assert torch.equal(flat(model.parameters()), flat(twin.parameters()))
    go(optimizer, model, 3)
    go(other, twin, 3)
    assert torch.equal(flat(model.parameters()), flat(twin.parameters()))
    assert not any("training_point" in held for held in other.state.values())


def test_user_hooks_see_the_checkpoint_as_it_is() -> None:
    optimizer = sabun.Optimizer(network().parameters(), 0.1, scheme="nesterov")
    go(optimizer, network(), 1)
    seen = []
    optimizer.register_load_state_dict_pre_hook(lambda o, state: seen.append(state))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "mine": 1})
    state = optimizer.state_dict()
    assert state["mine"] == 1
    optimizer.load_state_dict(state)
    assert all(isinstance(v, Tensor) for held in seen[0]["state"].values() for v in held.values())


def test_a_custom_scheme_survives_a_checkpoint() -> None:
    mine = sabun.schemes.LinearMultistep("mine", alpha=(1, -1), beta=(0.75, 0.25), start_up="hold")
    model = network()
    optimizer = sabun.Optimizer(model.parameters(), 0.1, scheme=mine)
    go(optimizer, model, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(model)
    other = sabun.Optimizer(twin.parameters(), 0.5)
    other.load_state_dict(torch.load(file, weights_only=True))
    go(optimizer, model, 3)
    go(other, twin, 3)
    assert torch.equal(flat(model.parameters()), flat(twin.parameters()))
