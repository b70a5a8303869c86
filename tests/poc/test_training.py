"""One run: pairing, budget, divergence, repeatability. Oracles: a training loop written out by hand, and arithmetic."""

from __future__ import annotations

import math
import random
import re
import sys
import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sabun.poc.records import Epoch, RunResult
from sabun.poc.resolved import resolve
from sabun.poc.seeds import Seeds, derive_seed, seeds_of
from sabun.poc.spec import Arm, Run, Study
from sabun.poc.training import loop
from sabun.poc.training.loop import schedule_factor
from sabun.poc.training.single import WARM_UP_STEPS
from sabun.poc.training.trainer import Trainer

from .helpers import SGD, tiny_study


def train(study: Study, arm: str, *, seed: int = 0, phase: str = "evaluate", lr: float = 0.02) -> RunResult:
    run = Run.model_validate({"arm": arm, "seed": seed, "phase": phase, "hyperparameters": {"lr": lr}})
    *_, last = Trainer(resolve(study)).run(run)
    assert isinstance(last, RunResult)
    return last


def by_hand(study: Study, seed: int, lr: float) -> tuple[list[float], list[float]]:
    """Momentum SGD on the tiny task with linear decay, as a user would write it: (train, validation) losses."""
    torch.manual_seed(derive_seed(study.seed, "evaluate", "init", seed))
    model = nn.Linear(3, 1)
    trainer = Trainer(resolve(study))
    session = trainer.task.session(seeds_of(study, Run(arm=SGD, seed=seed, phase="evaluate")))
    data = trainer.task.splits  # type: ignore[attr-defined]
    x, y = data["validation"].tensors
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    session.model = model  # the session's batches, our own loop
    train_losses, val_losses = [], [float(nn.functional.mse_loss(model(x), y).detach())]
    total = 16 * study.budget.epochs
    for epoch in range(study.budget.epochs):
        losses = []
        for step in range(16 * epoch, 16 * (epoch + 1)):
            loss = session.loss(step)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.9).add_(g)
                    p.sub_(v * (lr * (1 - step / total)))
            losses.append(float(loss.detach()))
        train_losses.append(sum(losses) / len(losses))
        val_losses.append(float(nn.functional.mse_loss(model(x), y).detach()))
    return train_losses, val_losses


def test_a_run_is_the_loop_that_one_would_write() -> None:
    study = tiny_study()
    result = train(study, SGD, seed=2)
    train_losses, val_losses = by_hand(study, 2, 0.02)
    assert [e.val_loss for e in result.epochs] == pytest.approx(val_losses, rel=1e-5)
    assert [e.train_loss for e in result.epochs[1:]] == pytest.approx(train_losses, rel=1e-5)
    assert result.epochs[0].train_loss is None
    assert result.status == "finished"


def test_arms_share_initial_weights_and_batches_and_seeds_do_not() -> None:
    """A step of length zero-to-rounding leaves each arm on the same trajectory: equal losses show equal batches."""
    study = tiny_study()
    first = {arm.name: train(study, arm.name, lr=1e-30) for arm in study.arms}
    curves = [[(e.train_loss, e.val_loss) for e in result.epochs] for result in first.values()]
    assert curves[0] == curves[1] == curves[2]
    assert len({result.weights_sha256 for result in first.values()}) == 1
    other = train(study, SGD, seed=1, lr=1e-30)
    assert other.epochs[0].val_loss != first[SGD].epochs[0].val_loss
    assert other.epochs[1].train_loss != first[SGD].epochs[1].train_loss


def test_dropout_is_paired_too() -> None:
    study = tiny_study(task_name="Dropout")
    a, b = (train(study, arm.name, lr=1e-30) for arm in study.arms[:2])
    assert [e.train_loss for e in a.epochs] == [e.train_loss for e in b.epochs]
    assert len({e.train_loss for e in a.epochs}) > 1  # the masks do change from step to step


def test_every_batch_is_seen_once_an_epoch() -> None:
    study = tiny_study()
    trainer = Trainer(resolve(study))
    seen: list[Tensor] = []
    trainer.task.source.loss = lambda model, batch: seen.append(batch[0]) or model(batch[0]).sum()  # type: ignore[attr-defined]
    session = trainer.task.session(seeds_of(study, Run(arm=SGD, seed=0, phase="evaluate")))
    for step in range(32):
        session.loss(step)
    everything = trainer.task.splits["train"].tensors[0]  # type: ignore[attr-defined]
    for epoch in (seen[:16], seen[16:]):
        assert torch.equal(torch.cat(epoch).sort(dim=0).values, everything.sort(dim=0).values)
    assert not torch.equal(torch.cat(seen[:16]), torch.cat(seen[16:]))


def test_tuning_and_evaluation_never_share_a_seed() -> None:
    study = tiny_study()
    groups = {
        phase: {
            seed
            for index in range(1000)
            for seed in seeds_of(study, Run.model_validate({"arm": "a", "seed": index, "phase": phase}))
        }
        for phase in ("tune", "evaluate", "repeat")
    }
    assert not groups["tune"] & groups["evaluate"]
    assert groups["repeat"] == groups["evaluate"]


def test_a_run_does_not_depend_on_what_ran_before_nor_change_the_callers_generators() -> None:
    study = tiny_study(task_name="Dropout")
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    alone = train(study, "torch.optim:AdamW")
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])
    trainer = Trainer(resolve(study))
    trainer.warm_up(SGD)
    for arm in study.arms:
        *_, last = trainer.run(Run(arm=arm.name, seed=0, phase="evaluate", hyperparameters={"lr": 0.02}))
    assert isinstance(last, RunResult)
    assert last.weights_sha256 == alone.weights_sha256


@pytest.mark.parametrize("optimizer", ["torch.optim:LBFGS(max_iter=3)", "tests_two:TwoEvaluations"])
def test_the_budget_counts_gradient_evaluations_not_steps(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tests_two")
    monkeypatch.setattr(module, "TwoEvaluations", Heun, raising=False)
    monkeypatch.setitem(sys.modules, "tests_two", module)
    study = tiny_study(optimizer, task_options={"noise": 0.0})
    result = train(study, optimizer, lr=0.05)
    assert result.status == "finished", result.failure
    spent = [e.gradient_evaluations for e in result.epochs]
    assert spent[0] == 0
    assert spent[-1] <= 16 * study.budget.epochs
    for epoch, evaluations in enumerate(spent[:-1]):
        assert 16 * epoch <= evaluations < 16 * epoch + 4
    if optimizer.startswith("tests_two"):
        assert spent == [0, 16, 32, 48]
    assert result.epochs[-1].val_loss < result.epochs[0].val_loss


class Heun(torch.optim.Optimizer):
    """Two evaluations a step on one mini-batch: θ ← θ − h (g(θ) + g(θ − h g(θ)))/2."""

    gradient_evaluations = 2

    def __init__(self, params: object, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        loss = closure()
        (group,) = self.param_groups
        first = [p.grad.clone() for p in group["params"]]
        for p, g in zip(group["params"], first, strict=True):
            p.sub_(group["lr"] * g)
        again = closure()
        assert float(again) <= float(loss) + 1.0
        for p, g in zip(group["params"], first, strict=True):
            p.add_(group["lr"] * g).sub_(group["lr"] * 0.5 * (g + p.grad))
        return loss


def test_schedules() -> None:
    assert [schedule_factor("constant", t) for t in (0.0, 0.5, 0.99)] == [1.0, 1.0, 1.0]
    assert [schedule_factor("linear", t) for t in (0.0, 0.25)] == [1.0, 0.75]
    assert schedule_factor("cosine", 0.0) == 1.0
    assert schedule_factor("cosine", 0.5) == pytest.approx(0.5)
    study = tiny_study()
    rates = [e.lr for e in train(study, SGD, lr=0.02).epochs]
    assert rates[-1] == pytest.approx(0.02 / 48)  # the last of 48 steps
    assert rates[0] == 0.02


def test_an_average_is_evaluated_and_training_does_not_notice() -> None:
    """sabun's averages are handed out for the evaluation only: same training losses, other validation losses."""
    study = tiny_study("nesterov")
    averaged = Arm(name="averaged", optimizer="nesterov", options={"averaging": "ema"})
    study = study.model_copy(update={"candidates": (*study.candidates, averaged)})
    first, second = train(study, "nesterov", lr=0.2), train(study, "averaged", lr=0.2)
    assert [e.train_loss for e in first.epochs] == [e.train_loss for e in second.epochs]
    assert first.epochs[-1].val_loss != second.epochs[-1].val_loss


def test_averaging_optimizers_are_evaluated_in_their_own_mode_and_without_decay() -> None:
    """schedulefree evaluates the average and raises when stepped in evaluation mode; its lr is never scaled."""
    study = tiny_study("schedulefree:AdamWScheduleFree")
    result = train(study, "schedulefree:AdamWScheduleFree", lr=0.05)
    assert result.status == "finished", result.failure
    assert {e.lr for e in result.epochs} == {0.05}
    assert result.epochs[-1].val_loss < result.epochs[0].val_loss


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_divergence_is_named_and_ends_the_run(lr: float) -> None:
    study = tiny_study(epochs=5)
    result = train(study, "torch.optim:SGD", lr=lr)
    assert result.status == "diverged"
    assert result.final_loss == math.inf
    assert len(result.epochs) <= 3


def test_a_loss_that_ends_above_its_start_is_divergence() -> None:
    study = tiny_study(epochs=1)
    result = train(study, "torch.optim:SGD", lr=1.1)
    assert all(math.isfinite(e.val_loss) for e in result.epochs)
    assert result.epochs[-1].val_loss > result.epochs[0].val_loss
    assert result.status == "diverged"


def test_nan_in_training_is_divergence_although_validation_is_finite() -> None:
    study = tiny_study(task_name="NanLater")
    result = train(study, SGD, lr=0.05)
    assert result.status == "diverged"


def test_an_error_in_the_users_code_costs_this_run_only() -> None:
    study = tiny_study(task_name="Raises")
    result = train(study, SGD, lr=0.05)
    assert result.status == "failed"
    assert re.fullmatch(r"RuntimeError: the data loader broke \(tiny.py, line \d+\)", result.failure)
    assert [e.epoch for e in result.epochs] == list(range(len(result.epochs)))
    assert result.final_loss == math.inf


def test_a_constant_loss_and_metric_are_recorded_as_they_are() -> None:
    result = train(tiny_study(task_name="Constant"), SGD)
    assert result.status == "finished"
    assert [e.val_loss for e in result.epochs] == [1.0] * 4
    assert result.test_metric == 0.5


def test_test_data_are_read_by_the_evaluation_alone() -> None:
    study = tiny_study()
    tuned = train(study, SGD, phase="tune")
    evaluated = train(study, SGD, phase="evaluate")
    assert tuned.test_loss is None
    assert tuned.test_metric is None
    assert evaluated.test_loss is not None
    assert evaluated.test_metric is not None


def test_bytes_of_state_and_weights() -> None:
    study = tiny_study()
    assert train(study, "torch.optim:SGD").optimizer_state_bytes == 0
    assert train(study, SGD).optimizer_state_bytes == 4 * 4  # one buffer for 3 weights and a bias, float32
    assert train(study, "torch.optim:AdamW").optimizer_state_bytes == 2 * 4 * 4 + 2 * 4  # two, and a step count each
    assert train(study, SGD).weights_sha256 == train(study, SGD, phase="repeat").weights_sha256
    assert train(study, SGD).weights_sha256 != train(study, SGD, lr=0.021).weights_sha256


def test_clock_readings_are_parts_of_a_whole() -> None:
    result = train(tiny_study(), "torch.optim:AdamW")
    for epoch in result.epochs[1:]:
        assert 0 < epoch.optimizer_s < epoch.train_s
    assert result.epochs[0].train_s == 0.0
    assert result.peak_memory_bytes is None or result.peak_memory_bytes > 10_000_000
    assert result.started <= result.ended
    assert isinstance(result.epochs[0], Epoch)


@pytest.mark.parametrize("optimizer", ["torch.optim:SGD", "torch.optim:LBFGS(max_iter=3)", "tests_two:TwoEvaluations"])
def test_a_timing_run_clocks_one_epoch_of_evaluations_after_its_first_steps_and_evaluates_nothing(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks with every gradient: an epoch then lasts as many ticks as it has mini-batches."""
    two = types.ModuleType("tests_two")
    monkeypatch.setattr(two, "TwoEvaluations", Heun, raising=False)
    monkeypatch.setitem(sys.modules, "tests_two", two)
    trainer = Trainer(resolve(tiny_study(optimizer, epochs=1)))
    session = trainer.task.session(Seeds(0, 0))
    ticks: list[int] = []

    def loss(step: int, compute: Callable[[int], Tensor] = session.loss) -> Tensor:
        ticks.append(step)
        return compute(step)

    monkeypatch.setattr(session, "loss", loss)
    monkeypatch.setattr(session, "evaluate", None)
    monkeypatch.setattr(trainer, "task", types.SimpleNamespace(session=lambda seeds: session))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(len(ticks)))
    run = Run(arm=optimizer, seed=0, phase="time", hyperparameters={"lr": 0.01})
    (epoch, result) = trainer.run(run)
    assert isinstance(epoch, Epoch)
    assert isinstance(result, RunResult)
    assert (result.status, result.epochs) == ("finished", (epoch,)), result.failure
    assert epoch.train_s == pytest.approx(16)
    assert epoch.gradient_evaluations == len(ticks)
    assert ticks[0] == 0
    assert ticks.index(WARM_UP_STEPS) == epoch.gradient_evaluations - len([t for t in ticks if t >= 4])
    assert 16 <= len([t for t in ticks if t >= WARM_UP_STEPS]) < 16 + 4
    assert math.isnan(epoch.val_loss)
    assert epoch.lr == 0.01
