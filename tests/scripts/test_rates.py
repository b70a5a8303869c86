"""What is compared is what was asked: the rates that users' scripts step, whatever sets them, and runs that step none.

The right value of every rate is computed here, from the script's schedule as a shape that multiplies the arm's rate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from sabun.errors import TrainingError
from sabun.poc.check import check
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Arm, Run, Study
from sabun.poc.study import default_study, run
from sabun.poc.training.script import ScriptTrainer
from sabun.script.rates import Rates

LOOPS = Path(__file__).with_name("loops")
STEPS = 6
OWN = 1e-2
ARM = "nesterov@adam"


def study_of(python: str, command: str, *candidates: str, **budget: int) -> Study:
    return default_study(
        task=f"script:{python} {LOOPS}/{command}",
        task_options={"time_limit": 100.0},
        baseline="script",
        candidates=candidates or (ARM,),
        **{"epochs": 3, "trials": 0, "seeds": 1, **budget},
    )


def trained(python: str, command: str, arm: str, logs: Path, **values: float) -> RunResult:
    study = study_of(python, command, *([] if arm == "script" else [arm]))
    task = Run(arm=arm, seed=0, phase="evaluate", hyperparameters=values)
    *_, last = ScriptTrainer(resolve(study), logs).run(task)
    assert isinstance(last, RunResult)
    return last


def rates_of(result: RunResult) -> list[tuple[float | None, float | None, float | None]]:
    assert result.status == "finished", result.failure
    assert {group.steps for group in result.rates} == {result.epochs[-1].gradient_evaluations}
    return [(group.asked, group.first, group.last) for group in result.rates]


COSINE = [1e-3 + (1e-2 - 1e-3) * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(3)]
ONE_CYCLE_LAST = 1e-2 / 25 / 1e4 + (1e-2 - 1e-2 / 25 / 1e4) * (
    1 + math.cos(math.pi * (3 * STEPS - 1 - (0.3 * (3 * STEPS + 1) - 1)) / (3 * STEPS - (0.3 * (3 * STEPS + 1) - 1)))
) / 2  # fmt: skip

SHAPES = {
    # kind, groups: per group the rate of the script's own optimizer at creation, in its first and in its last step
    ("none", "one"): [(1e-2, 1e-2, 1e-2)],
    ("lambda", "one"): [(1e-2, 1e-2, 9e-4)],
    ("lambda", "discriminative"): [(1e-4, 1e-4, 9e-6), (1e-2, 1e-2, 9e-4)],
    ("lambda", "tensor"): [(1e-4, 1e-4, 9e-6), (1e-2, 1e-2, 9e-4)],
    ("lambda", "integer"): [(1.0, 1.0, 0.09), (1e-2, 1e-2, 9e-4)],
    ("lambdas", "discriminative"): [(1e-4, 1e-4, 1e-4), (1e-2, 1e-2, 1e-2 / 3)],
    ("cosine", "one"): [(1e-2, COSINE[0], COSINE[2])],
    ("none", "frozen"): [(0.0, 0.0, 0.0), (1e-2, 1e-2, 1e-2)],
    ("one-cycle", "one"): [(1e-2, 4e-4, ONE_CYCLE_LAST)],
    ("plateau", "one"): [(1e-2, 1e-2, 2e-3)],
    ("sequence", "one"): [(1e-2, 1e-3, 5e-3)],
}


@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize(("kind", "groups"), SHAPES)
def test_a_scripts_schedule_is_a_shape_on_the_arms_rate(
    kind: str, groups: str, placement: str, python: str, tmp_path: Path
) -> None:
    """Whether the scheduler is created before ``swap`` or after it, and whatever the groups are."""
    command = f"scheduler.py {placement} {kind} {groups}"
    for arm, values, factor in (
        (ARM, {"lr": 0.003}, 0.3),
        ("script", {"lr_multiplier": 0.5}, 0.5),
    ):
        found = rates_of(trained(python, command, arm, tmp_path, **values))
        for group, expected in zip(found, SHAPES[kind, groups], strict=True):
            assert group == pytest.approx([factor * rate for rate in expected], rel=1e-6)


def test_the_same_optimizer_on_both_sides_gives_the_same_run(python: str, tmp_path: Path) -> None:
    """A/A through ``swap``: torch's AdamW in place of the script's, its scheduler created before."""
    same = "torch.optim:AdamW"
    for command in ("scheduler.py before cosine discriminative", "scheduler.py after one-cycle one"):
        one = trained(python, command, "script", tmp_path)
        other = trained(python, command, same, tmp_path, lr=OWN)
        assert one.weights_sha256 == other.weights_sha256
        assert [e.val_loss for e in one.epochs] == [e.val_loss for e in other.epochs]
        assert [e.lr for e in one.epochs] == [e.lr for e in other.epochs]
        assert one.rates == other.rates


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("not_assigned.py", "the swapped optimizer was never stepped: the script steps the optimizer that it gave"),
        ("remade.py remade", "the swapped optimizer was never stepped: put 'optimizer = sabun.swap(optimizer)'"),
        ("remade.py nothing", "the swapped optimizer was never stepped"),
    ],
)
def test_a_run_without_a_step_of_the_swapped_optimizer_has_failed(
    command: str, words: str, python: str, tmp_path: Path
) -> None:
    result = trained(python, command, ARM, tmp_path, lr=0.003)
    assert result.status == "failed"
    assert result.failure.startswith(words), result.failure
    (finding,) = check(study_of(python, command)).findings
    assert finding.code == "fails"
    assert finding.detail.startswith("the swapped optimizer was never stepped")


def test_a_script_that_sets_its_own_rates_sets_the_shape(python: str, tmp_path: Path) -> None:
    first, last = 1 / 6, (1e-3 + 0.5 * (1 + math.cos(math.pi * 12 / 13)) * 9e-3) / 1e-2
    curves = []
    for lr in (0.003, 0.1):
        result = trained(python, "sets_lr.py", ARM, tmp_path, lr=lr)
        for group in rates_of(result):
            assert group == pytest.approx([lr, lr * first, lr * last])
        assert [group.largest for group in result.rates] == pytest.approx([lr, lr])
        assert result.epochs[-1].lr == pytest.approx(lr * last)
        curves.append([epoch.val_loss for epoch in result.epochs])
    assert curves[0] != curves[1]


def test_rates_without_a_reference_are_refused_with_the_line_that_sets_them(python: str, tmp_path: Path) -> None:
    result = trained(python, "sets_lr.py zero", ARM, tmp_path)
    assert result.status == "failed"
    code = 'param_group["lr"] = get_lr(it)'
    lines = [line.strip() for line in (LOOPS / "sets_lr.py").read_text().splitlines()]
    assert f"(line {lines.index(code) + 1} of sets_lr.py: {code})" in result.failure
    assert "Create the optimizer with its largest learning rate" in result.failure
    own = trained(python, "sets_lr.py zero", "script", tmp_path, lr_multiplier=0.5)  # needs no reference
    assert [group.largest for group in own.rates] == pytest.approx([0.005, 0.005])


def test_notes_of_groups_are_kept(python: str, tmp_path: Path) -> None:
    result = trained(python, "layer_decay.py", ARM, tmp_path, lr=0.003)
    assert [group.name for group in result.rates] == ["layer0", "layer1", "layer2"]
    for group, scale in zip(rates_of(result), (0.01, 0.1, 1.0), strict=True):
        assert group == pytest.approx([0.003, 0.003 * scale, 0.0015 * scale])


def test_check_reports_the_rates_of_every_arm_and_group(python: str) -> None:
    checked = check(study_of(python, "scheduler.py before one-cycle one", ARM, "torch.optim:AdamW"))
    assert checked.findings == []
    assert set(checked.rates) == {"script", ARM, "torch.optim:AdamW"}
    for arm, asked in (("script", OWN), (ARM, 0.003), ("torch.optim:AdamW", 0.003)):
        (group,) = checked.rates[arm]
        assert (group.asked, group.first) == pytest.approx((asked, asked / 25))
        assert group.largest == pytest.approx(asked, rel=0.05)
        assert (group.parameters, group.steps) == (467, 3 * STEPS)


@pytest.mark.parametrize(
    ("command", "first"), [("trainer.py", 0.0), ("lightning_module.py dict", 1.0), ("lightning_module.py lists", 1.0)]
)
def test_schedulers_of_frameworks_are_shapes_too(command: str, first: float, python: str, tmp_path: Path) -> None:
    """An optimizer and its scheduler, made without ``swap``: ``attach`` swaps, and the schedule goes on."""
    last = 1 / (16 if command == "trainer.py" else 18)
    for arm, values, lr in ((ARM, {"lr": 0.003}, 0.003), ("script", {"lr_multiplier": 0.5}, 0.005)):
        result = trained(python, command, arm, tmp_path, **values)
        for group in rates_of(result):
            assert group == pytest.approx([lr, lr * first, lr * last])
        assert {group.steps for group in result.rates} == {18}
        assert "lr_scheduler.step()" not in (tmp_path / f"{result.run}.txt").read_text()  # torch's warning


OVERWRITES = '''
import torch

class Stubborn(torch.optim.SGD):
    """Ignores the rate that it is given."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 0.01
        return super().step(closure)
'''


def test_an_optimizer_that_overwrites_its_rate_is_found(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``check``, and by a study at the second trial that steps the rates of the first."""
    (tmp_path / "stubborn.py").write_text(OVERWRITES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    study = study_of(python, "scheduler.py after none one", "stubborn:Stubborn", trials=2, tuning_seeds=1, seeds=2)
    codes = {(finding.code, finding.arm) for finding in check(study).findings}
    assert ("rate-not-stepped", "stubborn:Stubborn") in codes
    with pytest.raises(Exception, match=r"'stubborn:Stubborn' was asked for the rates .* and stepped .* both times"):
        run(study, tmp_path / "study")


# The kind: random schedulers, placements and groups. Parameters are scalars with gradient 1, and the arm is plain
# gradient descent, so that a step moves a parameter by its rate. The oracle is the script's own SGD without ``swap``.

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda e: 1 / (1 + e)),
    "lambdas": lambda o: lr_scheduler.LambdaLR(o, [lambda e, i=i: 0.9 ** (i * e) for i in range(len(o.param_groups))]),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda e: 0.8),
    "step": lambda o: lr_scheduler.StepLR(o, 2),
    "multi-step": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.25, 3),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=4),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 4, eta_min=1e-3),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, eta_min=1e-4),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 5, 2.0),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(
        o, [0.1 * (i + 1) for i in range(len(o.param_groups))], 10, cycle_momentum=False
    ),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=False),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(o, 4)], [2]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


def moves(
    optimizer: Any, scheduler: Any, parameters: list[torch.Tensor], by_hand: float | None
) -> Iterator[list[float]]:
    """Yield how far each step moves the parameters; ``by_hand`` is a factor that the script applies itself."""
    for _ in range(6):
        before = [p.item() for p in parameters]
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
        yield [a - p.item() for a, p in zip(before, parameters, strict=True)]
        scheduler.step()
        if by_hand is not None:
            for group in optimizer.param_groups:
                group["lr"] *= by_hand


@given(
    kind=st.sampled_from(sorted(SCHEDULERS)),
    before=st.booleans(),
    rates=st.lists(st.sampled_from([None, 0.0, 1e-3, 0.05, 0.1, 1]), min_size=1, max_size=4),
    tensors=st.booleans(),
    lr=st.sampled_from([1e-3, 0.1, 0.37]),
    arm=st.sampled_from(["euler", "torch.optim:SGD", "script"]),
    by_hand=st.sampled_from([None, None, 0.5]),
)
def test_stepped_rates_are_the_asked_rate_times_the_shape(
    kind: str, before: bool, rates: list[float | None], tensors: bool, lr: float, arm: str, by_hand: float | None
) -> None:
    def script(swap: bool) -> tuple[list[list[float]], Rates | None]:
        parameters = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in rates]
        groups = [
            {"params": [p]} | ({} if rate is None else {"lr": torch.tensor(float(rate)) if tensors else rate})
            for p, rate in zip(parameters, rates, strict=True)
        ]
        optimizer: Any = torch.optim.SGD(groups, lr=0.1, momentum=0.0)
        made = SCHEDULERS[kind](optimizer) if before or not swap else None
        ledger = None
        if swap:
            from sabun.script.client import _replace

            new = optimizer if arm == "script" else _replace(optimizer, Arm.named(arm), {"lr": lr})
            ledger = Rates(optimizer, new, multiplier=lr if arm == "script" else 1.0)
            new.register_step_pre_hook(lambda *_: ledger.before_step())
            new.register_step_post_hook(lambda *_: ledger.after_step())
            optimizer = new
            made = made or SCHEDULERS[kind](optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a scheduler that sees no step warns
            warnings.filterwarnings("ignore", "The epoch parameter")
            warnings.filterwarnings("ignore", "To get the last learning rate")
            return list(moves(optimizer, made, parameters, by_hand)), ledger

    if by_hand is not None and before and arm != "script":
        return  # refused
    own, _ = script(swap=False)
    factor = lr if arm == "script" else lr / 0.1
    found, ledger = script(swap=True)
    assert ledger is not None
    for theirs, mine in zip(own, found, strict=True):
        assert mine == pytest.approx([factor * move for move in theirs], rel=1e-6, abs=1e-15)
    for group, moved in zip(ledger.record(), zip(*found, strict=True), strict=True):
        assert [group["first"], group["last"], group["largest"]] == pytest.approx(
            [moved[0], moved[-1], max(moved)], rel=1e-6, abs=1e-15
        )


def swapped_rates(optimizer: Any, arm: str, **options: Any) -> tuple[Any, Rates]:
    """The arm's optimizer with its rates, as a run has them."""
    from sabun.script.client import _replace

    new = optimizer if arm == "script" else _replace(optimizer, Arm.named(arm), {"lr": 0.05})
    rates = Rates(optimizer, new, **options)
    new.register_step_pre_hook(lambda *_: rates.before_step())
    new.register_step_post_hook(lambda *_: rates.after_step())
    return new, rates


def scalar() -> torch.Tensor:
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    p.grad = torch.ones_like(p)
    return p


def test_two_writers_of_a_rate_are_refused() -> None:
    """A scheduler created before ``swap``, and the script, set the rate of the same step to different values."""
    own = torch.optim.SGD([scalar()], lr=0.1)
    scheduler = lr_scheduler.ExponentialLR(own, 0.5)
    optimizer, _ = swapped_rates(own, "euler")
    optimizer.step()
    scheduler.step()
    optimizer.param_groups[0]["lr"] = 0.07
    with pytest.raises(
        TrainingError, match=r"set both by a scheduler created before sabun\.swap and by the script"
    ) as e:
        optimizer.step()
    assert "Create the scheduler after optimizer = sabun.swap(optimizer)" in str(e.value)
    own = torch.optim.SGD([scalar()], lr=0.1)
    scheduler = lr_scheduler.ExponentialLR(own, 0.5)
    optimizer, rates = swapped_rates(own, "euler")
    optimizer.step()
    scheduler.step()
    optimizer.param_groups[0]["lr"] = own.param_groups[0]["lr"]  # the same value is no contradiction
    optimizer.step()
    assert rates.record()[0]["last"] == pytest.approx(0.025)


class Nested(torch.optim.SGD):
    """Calls the step of its base class, which torch's hooks see as a second step."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Twice(Nested):
    """Calls the step of its base class two times."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        return super().step(closure)


@pytest.mark.parametrize(("kind", "moves"), [(Nested, 1), (Twice, 2)])
def test_a_step_inside_a_step_is_taken_at_the_same_rate_and_counted_once(kind: Any, moves: int) -> None:
    p = scalar()
    optimizer, rates = swapped_rates(kind([p], lr=0.1), "script", multiplier=0.5)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    for expected in (0.05, 0.025):
        before = p.item()
        optimizer.step()
        assert before - p.item() == pytest.approx(moves * expected)
        scheduler.step()
    (group,) = rates.record()
    assert (group["steps"], group["first"], group["last"]) == (2, pytest.approx(0.05), pytest.approx(0.025))


@given(
    lr=st.sampled_from([1.0, 0.5, 0.0]),
    peak=st.floats(1e-4, 10.0),
    scales=st.lists(st.sampled_from([1.0, 0.1]), min_size=1, max_size=3),
    arm=st.sampled_from(["euler", "torch.optim:SGD"]),
)
def test_the_peak_of_a_schedule_is_the_reference(lr: float, peak: float, scales: list[float], arm: str) -> None:
    """Where the script's schedule reaches ``peak_lr``, the arm steps at its own rate, and groups keep their ratios."""
    if lr == 0.0:
        scales = [1.0] * len(scales)
    parameters = [scalar() for _ in scales]
    groups = [{"params": [p], "lr": lr * scale} for p, scale in zip(parameters, scales, strict=True)]
    own = torch.optim.SGD(groups, lr=lr)
    optimizer, rates = swapped_rates(own, arm, peak_lr=peak)
    for factor in (0.25, 1.0, 0.5):
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = peak * factor * scale
        before = [p.item() for p in parameters]
        optimizer.step()
        for p, start, scale in zip(parameters, before, scales, strict=True):
            assert start - p.item() == pytest.approx(0.05 * factor * scale, rel=1e-9)
    for group, scale in zip(rates.record(), scales, strict=True):
        assert group["asked"] == pytest.approx(0.05 * scale)
        assert group["largest"] == pytest.approx(0.05 * scale)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(TrainingError, match="peak_lr"):
            Rates(own, own, peak_lr=wrong)


def test_the_momentum_of_a_cycle_created_before_swap_is_that_of_the_first_step() -> None:
    own = torch.optim.SGD([scalar()], lr=0.1, momentum=0.9)
    lr_scheduler.OneCycleLR(own, 0.1, total_steps=5, max_momentum=0.95)
    optimizer, _ = swapped_rates(own, "torch.optim:SGD(momentum=0.5)")
    assert optimizer.param_groups[0]["momentum"] == 0.95


@pytest.mark.parametrize(
    ("arm", "own_beta"),
    [
        ("torch.optim:SGD(momentum=0.5)", 0.5),
        ("nesterov(0.8)", 0.8),
        ("nesterov(0.9)", 0.9),
        ("torch.optim:AdamW", 0.9),
    ],
)
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("script", ["sgd", "adamw"])
def test_a_cycle_of_the_momentum_is_a_shape_on_the_arms_own(
    arm: str, own_beta: float, before: bool, script: str
) -> None:
    """1 − β of the arm is in proportion to 1 − β of the script, whose value is 0.9 where it creates its optimizer."""
    cycled, stepped = [], []
    for swap in (False, True):
        p = scalar()
        own: Any = torch.optim.SGD([p], lr=0.1, momentum=0.9) if script == "sgd" else torch.optim.AdamW([p], lr=0.1)
        made = lr_scheduler.OneCycleLR(own, 0.1, total_steps=7, max_momentum=0.95) if before or not swap else None
        optimizer = swapped_rates(own, arm)[0] if swap else own
        made = made or lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=7, max_momentum=0.95)
        seen = stepped if swap else cycled

        def record(optimizer: Any, *_: Any, seen: list[float] = seen) -> None:
            group = optimizer.param_groups[0]
            seen.append(float(group["betas"][0] if "betas" in group else group["momentum"]))

        optimizer.register_step_pre_hook(record)
        for _ in range(6):
            optimizer.step()
            made.step()
    assert len(set(cycled)) > 3
    assert stepped == pytest.approx([1 - (1 - own_beta) * (1 - beta) / 0.1 for beta in cycled], rel=1e-12)


def test_a_cycled_momentum_changes_how_long_gradients_count_and_not_the_step() -> None:
    """Against the recursion with a weighted mean; torch's buffer is a sum, whose steps grow as 1/(1 − β) at one lr."""
    curvature = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    w = torch.arange(1.0, 6.0, dtype=torch.float64).requires_grad_()
    v, expected = torch.zeros(5, dtype=torch.float64), w.detach().clone()
    own = torch.optim.SGD([w], lr=0.05, momentum=0.9, nesterov=True)
    optimizer, _ = swapped_rates(own, "nesterov(0.9)")  # at lr = 0.05 of its own
    cycle = lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=60)
    for _ in range(59):
        lr, beta = (optimizer.param_groups[0][key] for key in ("lr", "momentum"))
        g = curvature * expected
        v = beta * v + (1 - beta) * g
        expected = expected - lr * (beta * v + (1 - beta) * g)
        w.grad = curvature * w.detach()
        optimizer.step()
        cycle.step()
        assert w.detach() == pytest.approx(expected, rel=1e-12)


def test_check_names_the_arms_that_keep_their_momentum_under_a_cycle(python: str) -> None:
    command = str(Path(__file__).with_name("corpus") / "one_cycle.py")
    found = check(default_study(task=f"script:{python} {command}", baseline="script", candidates=["euler", "adamw"]))
    assert [(note.code, note.arm) for note in found.notes] == [("own-momentum", "euler")]
    assert "0.8503 to 0.95" in found.notes[0].detail
