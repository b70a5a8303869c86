"""One place: a preconditioner with an option and a scheme, each declared by one entry, work everywhere."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from training import backward, batches, flat, network

import sabun
from sabun import schemes
from sabun.errors import OptionError
from sabun.optim import PRECONDITIONERS, Preconditioner, create, describe
from sabun.optim.averaging import AVERAGING
from sabun.optim.notation import resolve
from sabun.optim.options import ABOVE_ZERO, option
from sabun.optim.preconditioners import Work
from sabun.optim.reference import Reference
from sabun.optim.terms import Tensors, Terms, accumulate
from sabun.poc.resolved import search_space
from sabun.poc.spec import Arm, LogUniform
from sabun.schemes.catalogue import Entry
from sabun.script import arms


@dataclass(frozen=True)
class Mine(Preconditioner):
    """u = d / (strength + |m|), with m the largest gradient so far."""

    strength: float = option(1.0, ABOVE_ZERO, "number that is added to the largest gradient")

    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "divided by the largest gradient so far"
    lr_center: ClassVar[float] = 0.07
    like: ClassVar[tuple[str, ...]] = ("largest",)

    def precondition(self, work: Work) -> tuple[Terms, Tensors | None]:
        for largest, g in zip(work.state["largest"], work.grads, strict=True):
            torch.maximum(largest, g.abs(), out=largest)
        total = accumulate(work.terms)
        torch._foreach_div_(total, torch._foreach_add(work.state["largest"], self.strength))
        return [(1.0, total)], None

    def reference(self, g: Tensor, d: Tensor, n: int, var: dict[str, Tensor]) -> Tensor:
        var["m"] = torch.maximum(var.get("m", torch.zeros_like(g)), g.abs())
        return d.div(self.strength + var["m"])


@pytest.fixture
def mine() -> Iterator[None]:
    PRECONDITIONERS.register(Mine)
    yield
    del PRECONDITIONERS._entries["mine"]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, skip: int = 0) -> Tensor:
    for batch in batches(skip + steps)[skip:]:
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step()
    return flat(model.parameters())


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("given", ["mine(strength=2)", "mine(2)", Mine(2)])
def test_it_steps_as_its_reference_does(given: str | Mine) -> None:
    models = [network(), network(), network()]
    reference = Reference(models[0].parameters(), 0.1, scheme="nesterov", preconditioner=given)
    for batch in batches(8):
        models[0].zero_grad()
        backward(models[0], batch)
        reference.step()
    for model, fused in zip(models[1:], (None, True), strict=True):
        optimizer = sabun.Optimizer(model.parameters(), 0.1, scheme="nesterov", preconditioner=given, fused=fused)
        torch.testing.assert_close(train(model, optimizer, 8), flat(models[0].parameters()), rtol=1e-12, atol=1e-12)
        assert set(optimizer.state[next(model.parameters())]) == {"velocity_0", "largest"}


def test_a_part_that_changes_a_method_does_not_inherit_the_compiled_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``fused`` its own method is called, as in the plain step."""

    @dataclass(frozen=True)
    class Halved(PRECONDITIONERS["adam"]):  # type: ignore[misc]
        name: ClassVar[str] = "halved"

        def precondition(self, work: Work) -> tuple[Terms, Tensors | None]:
            terms, denominators = super().precondition(work)
            return [(weight / 2, tensors) for weight, tensors in terms], denominators

    @dataclass(frozen=True)
    class Late(AVERAGING["ema"]):  # type: ignore[misc]
        name: ClassVar[str] = "late"

        def follow(self, xs: Tensors, state: Mapping[str, Tensors], count: int) -> None:
            if count > 3:
                super().follow(xs, state, count)

    monkeypatch.setitem(PRECONDITIONERS._entries, "halved", Halved)
    monkeypatch.setitem(AVERAGING._entries, "late", Late)
    for options in ({"preconditioner": Halved()}, {"averaging": Late(0.5)}):
        found = []
        for fused in (None, True):
            model = network()
            optimizer = sabun.Optimizer(model.parameters(), 0.1, scheme="nesterov", fused=fused, **options)
            train(model, optimizer, 5)
            with optimizer.averaged():
                found.append(flat(model.parameters()).clone())
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("mine")
def test_the_notation_has_it() -> None:
    optimizer = resolve("euler@mine(strength=2)").make(network(), {"lr": 0.1})
    assert optimizer.param_groups[0]["preconditioner"] == Mine(2)
    assert create("adamw", network(), preconditioner="mine", strength=3.0).param_groups[0]["preconditioner"] == Mine(3)
    for text, says in (
        ("euler@mine(strenght=2)", "Did you mean 'strength'"),
        ("euler@mine(strength=-1)", "strength must be a finite number > 0"),
        ("euler@mines", "Did you mean 'mine'"),
    ):
        with pytest.raises(OptionError, match=says):
            resolve(text)


@pytest.mark.usefixtures("mine")
def test_a_checkpoint_has_it() -> None:
    model = network()
    optimizer = sabun.Optimizer(model.parameters(), 0.1, scheme="nesterov", preconditioner=Mine(2))
    train(model, optimizer, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["param_groups"][0]["preconditioner"] == "mine(strength=2)"
    twin = copy.deepcopy(model)
    other = sabun.Optimizer(twin.parameters(), 0.5)
    other.load_state_dict(state)
    assert torch.equal(train(model, optimizer, 5, 5), train(twin, other, 5, 5))


@pytest.mark.usefixtures("mine")
def test_the_description_and_the_catalogue_page_have_it() -> None:
    optimizer = sabun.Optimizer(network().parameters(), 0.1, preconditioner=Mine(2))
    described = describe(optimizer)
    assert described is not None
    assert described["preconditioner"] == "mine(strength=2)"
    assert "preconditioner: mine(strength=2)" in repr(optimizer)
    declared = PRECONDITIONERS["mine"].options()["strength"]
    assert (declared.default, declared.legal.words) == (1.0, "a finite number > 0")


@pytest.mark.usefixtures("mine")
def test_a_search_has_it() -> None:
    recipe = arms.recipe(Arm.named("nesterov@mine"))
    assert search_space(recipe, 3.0)["lr"].center == Mine.lr_center
    arm = Arm(name="x", optimizer="nesterov@mine", space={"strength": LogUniform(center=1.0)}, options={"lr": 0.1})
    built = arms.recipe(arm).build(network(), {"strength": 2.5})
    assert built.param_groups[0]["preconditioner"] == Mine(2.5)
    with pytest.raises(sabun.errors.StudyError, match="strength"):
        arms.recipe(Arm(name="x", optimizer="nesterov@adam", space={"strength": LogUniform(center=1.0)}))


def test_a_scheme_is_one_entry_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Fraction(1, 2)
    entry = Entry("half-and-half", lambda: ((Fraction(1), Fraction(-1)), (half, half)), 1, "this test", "rest",
                  summary="the mean of the last two gradients")  # fmt: skip
    monkeypatch.setitem(schemes.SCHEMES, entry.name, entry)
    model, slow = network(), network()
    optimizer = resolve("half-and-half@adam(beta2=0.9)").make(model, {"lr": 0.01})
    reference = Reference(slow.parameters(), 0.01, scheme="half-and-half", preconditioner="adam(beta2=0.9)")
    for batch in batches(6):
        slow.zero_grad()
        backward(slow, batch)
        reference.step()
    torch.testing.assert_close(train(model, optimizer, 6), flat(slow.parameters()), rtol=1e-12, atol=1e-12)
    twin = copy.deepcopy(model)
    other = sabun.Optimizer(twin.parameters(), 0.5)
    other.load_state_dict(optimizer.state_dict())
    assert optimizer.state_dict()["param_groups"][0]["scheme"] == "half-and-half"
    assert torch.equal(train(model, optimizer, 3, 6), train(twin, other, 3, 6))
    described = describe(optimizer)
    assert described is not None
    assert described["certificate"]["order"] == 1
