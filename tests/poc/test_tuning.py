"""Tuning is equal for all arms and replayable. Oracles: closed-form quadratics with known best points."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sabun.poc import tuning
from sabun.poc.judgement.assessment import Tuning
from sabun.poc.judgement.trials import summarize
from sabun.poc.records import Epoch, RunResult
from sabun.poc.resolved import ResolvedArm, resolve
from sabun.poc.spec import Arm, LogUniform, Run, Study

from .helpers import SGD, tiny_study

Loss = Callable[[float, int], float]


def answer(run: Run, loss: Loss) -> RunResult:
    value = loss(float(run.hyperparameters["lr"]), run.seed)
    status = "finished" if math.isfinite(value) else "diverged"
    epochs = (Epoch(0, None, value, None, 1.0, 0.0, 0.0, 7),)
    return RunResult(run.id, run.arm, run.seed, run.phase, run.hyperparameters, status, epochs)  # type: ignore[arg-type]


def carry_out(tuner: tuning.Tuner, loss: Loss) -> dict[str, RunResult]:
    results: dict[str, RunResult] = {}
    while runs := tuner.pending(results):
        for run in runs:
            results[run.id] = answer(run, loss)
    return results


def tuner_of(study: Study, arm: str) -> tuning.Tuner:
    return tuning.Tuner(study, resolve(study).arms[arm])


def summary(arm: ResolvedArm, tuner: tuning.Tuner, results: dict[str, RunResult]) -> Tuning | None:
    """As the store does it: from the runs by trial, and the space."""
    runs: dict[int, list[RunResult]] = {}
    for trial, (values, _) in enumerate(tuner.seen):
        for run in tuning.trial_runs(tuner.study, arm.name, trial, values):
            runs.setdefault(trial, []).append(results[run.id])
    return summarize(arm.name, tuner.study.budget.tuning_seeds, arm.space, runs)


def tuned(arm: str, loss: Loss, **options: int) -> Tuning:
    tuner = tuner_of(tiny_study(**options), arm)
    found = summary(tuner.arm, tuner, carry_out(tuner, loss))
    assert found is not None
    return found


def bowl(best: float) -> Loss:
    return lambda lr, seed: 1.0 + math.log10(lr / best) ** 2 + 0.01 * seed


def test_the_same_number_of_trials_over_the_same_quantiles_for_every_arm() -> None:
    study = tiny_study("torch.optim:SGD", "torch.optim:AdamW", "torch.optim:Adagrad", trials=8)
    shares = []
    for arm in resolve(study).arms.values():
        (bounds,) = arm.space.values()
        assert math.log10(bounds.high / bounds.low) == pytest.approx(study.budget.decades)
        tuner = tuning.Tuner(study, arm)
        results = carry_out(tuner, bowl(bounds.center))
        assert len(results) == 8 * study.budget.tuning_seeds
        assert len(tuner.seen) == 8
        shares.append([math.log(t["lr"] / bounds.low) / math.log(bounds.high / bounds.low) for t, _ in tuner.seen])
    for other in shares[1:]:
        assert other == pytest.approx(shares[0])
    assert shares[0][0] == pytest.approx(0.5)  # the documented default comes first
    evenly = sorted(shares[0][1:5])
    assert max(b - a for a, b in zip([0.0, *evenly], [*evenly, 1.0], strict=True)) < 0.5  # no quarter left out twice


@pytest.mark.parametrize("best", [0.03, 0.003, 0.4])
def test_it_finds_the_bottom_of_a_bowl(best: float) -> None:
    """Within a factor of 1.8 over three decades in 12 trials: the even half alone guarantees some 3."""
    study = tiny_study(trials=12)
    tuner = tuner_of(study, SGD)
    carry_out(tuner, bowl(best))
    found = tuner.best()["lr"]
    assert abs(math.log10(found / best)) < math.log10(1.8)


def test_replaying_from_any_point_gives_the_same_trials() -> None:
    study = tiny_study(trials=10)
    whole = carry_out(tuner_of(study, SGD), bowl(0.01))
    for known in range(len(whole) + 1):
        results = dict(list(whole.items())[:known])
        tuner = tuner_of(study, SGD)  # a fresh process: nothing is remembered
        while runs := tuner.pending(results):
            for run in runs:
                results[run.id] = answer(run, bowl(0.01))
        assert results == whole


def test_another_study_seed_gives_other_trials() -> None:
    points = set()
    for seed in (0, 1):
        study = tiny_study(trials=3, seed=seed)
        tuner = tuner_of(study, SGD)
        carry_out(tuner, bowl(0.01))
        points.add(tuner.seen[1][0]["lr"])
    assert len(points) == 2


def test_a_trial_with_one_diverged_seed_never_wins_and_the_search_goes_on() -> None:
    def loss(lr: float, seed: int) -> float:
        return math.inf if lr > 0.02 and seed == 1 else bowl(0.02)(lr, seed)

    found = tuned(SGD, loss, trials=10)
    assert found.best["lr"] < 0.02
    assert math.isfinite(found.objective)
    assert any(math.isinf(value) for _, value in found.trials)


def test_all_diverged_leaves_the_default_and_an_infinite_objective() -> None:
    found = tuned(SGD, lambda lr, seed: math.nan, trials=5)
    assert found.objective == math.inf
    assert found.best["lr"] == pytest.approx(0.03)


@pytest.mark.parametrize(("best", "edge"), [(1e-9, ("lr",)), (0.03, ()), (1e9, ("lr",))])
def test_an_optimum_outside_is_reported_as_at_the_edge(best: float, edge: tuple[str, ...]) -> None:
    found = tuned(SGD, bowl(best), trials=16)
    assert found.at_edge == edge
    assert found.gradient_evaluations == 16 * 2 * 7
    assert found.seconds == 32.0


def test_several_hyperparameters() -> None:
    space = {"lr": LogUniform(center=0.1, decades=2), "weight_decay": LogUniform(center=1e-3, decades=4)}
    study = tiny_study(Arm(name="b", optimizer="torch.optim:SGD", space=space), trials=9)  # type: ignore[arg-type]
    tuner = tuner_of(study, "b")
    carry_out(tuner, bowl(0.05))
    assert len(tuner.seen) == 9
    for values, _ in tuner.seen:
        assert set(values) == {"lr", "weight_decay"}
        assert all(space[name].low <= value <= space[name].high for name, value in values.items())


def test_without_trials_the_baseline_has_its_default_and_a_candidate_the_equivalent_step() -> None:
    study = tiny_study(trials=0)
    for name, at_default in ((study.baseline.name, True), ("torch.optim:AdamW", False)):
        tuner = tuner_of(study, name)
        assert tuner.pending({}) == []
        assert summarize(name, 2, {}, {}) is None
        default = resolve(study).arms[name].recipe.step
        assert (tuner.best() == {"lr": pytest.approx(default)}) == at_default


def test_the_outermost_trial_brackets_no_optimum_even_far_from_the_edge_of_the_space() -> None:
    seen = set()
    for best in (0.004, 0.03, 0.2):
        found = tuned(SGD, bowl(best), trials=3)
        tried = [values["lr"] for values, _ in found.trials]
        (bounds,) = resolve(tiny_study()).arms[SGD].space.values()
        assert bounds.low * 1.5 < found.best["lr"] < bounds.high / 1.5  # not near the edge of the space
        outermost = found.best["lr"] in (min(tried), max(tried))
        assert found.at_edge == (("lr",) if outermost else ())
        seen.add(outermost)
    assert seen == {True, False}
