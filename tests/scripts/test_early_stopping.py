"""Arms that stop after different numbers of epochs are compared at equal epochs, and the report says so."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sabun.poc.judgement.assess import assess
from sabun.poc.judgement.trials import objectives, summarize
from sabun.poc.records import Epoch, RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Run, Study
from sabun.poc.study import default_study, run
from sabun.poc.tuning import Tuner, trial_runs
from sabun.report.build import build
from sabun.report.markdown import render

SCRIPTS = Path(__file__).parent / "isolation"
STUDY = default_study(task="script:python x.py", baseline="script", candidates=["adamw"], epochs=30, trials=0, seeds=8)


def finished(arm: str, seed: int, losses: list[float]) -> RunResult:
    epochs = [Epoch(number, 1.0, loss, None, 2.0, 0.1, 0.5, 10 * number) for number, loss in enumerate(losses, 1)]
    return Run(arm=arm, seed=seed, phase="evaluate").result("finished", epochs)


curves = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=8)


@given(pairs=st.lists(st.tuples(curves, curves), min_size=1, max_size=8))
def test_pairs_are_compared_by_the_best_loss_within_the_epochs_of_both(
    pairs: list[tuple[list[float], list[float]]],
) -> None:
    runs = [
        finished(arm, seed, losses)
        for seed, pair in enumerate(pairs)
        for arm, losses in zip(["script", "adamw"], pair, strict=True)
    ]
    assessment = assess(STUDY, runs, {})
    (k1,) = [row for row in assessment.comparisons if row.kpi == "final_loss"]
    if len({len(curve) for pair in pairs for curve in pair}) == 1:
        expected = [(b[-1], c[-1]) for b, c in pairs]
    else:
        common = [min(len(b), len(c)) for b, c in pairs]
        expected = [(min(b[:n]), min(c[:n])) for (b, c), n in zip(pairs, common, strict=True)]
    assert list(zip(k1.baseline, k1.candidate, strict=True)) == expected
    for arm, losses in (("script", [b for b, _ in pairs]), ("adamw", [c for _, c in pairs])):
        assert assessment.arms[arm].ends == (min(map(len, losses)), max(map(len, losses)))
        curve = assessment.arms[arm].loss_median
        if len({len(loss) for pair in pairs for loss in pair}) > 1:
            assert all(right <= left for left, right in itertools.pairwise(curve))  # the best so far


def test_stopping_later_is_no_advantage() -> None:
    """The candidate is the baseline's training, continued: at equal epochs both are equal."""
    whole = [[3.0, 2.0 + seed / 10, 1.5, 1.6, 1.0, 0.5] for seed in range(8)]
    runs = [finished("script", seed, losses[:4]) for seed, losses in enumerate(whole)]
    runs += [finished("adamw", seed, losses) for seed, losses in enumerate(whole)]
    assessment = assess(STUDY, runs, {})
    k1 = next(row for row in assessment.comparisons if row.kpi == "final_loss")
    assert k1.effect == 0.0
    assert assessment.verdicts[0].decision != "go"


@given(trials=st.lists(st.lists(curves, min_size=1, max_size=3), min_size=1, max_size=5))
def test_trials_are_ranked_as_arms_are_compared(trials: list[list[list[float]]]) -> None:
    """By the best loss within the epochs that a run was allowed where runs stop early, otherwise by the last one."""
    runs = [[finished("adamw", seed, losses) for seed, losses in enumerate(trial)] for trial in trials]
    early = len({len(losses) for trial in trials for losses in trial}) > 1
    expected = [sum(min(losses) if early else losses[-1] for losses in trial) / len(trial) for trial in trials]
    assert objectives(runs) == pytest.approx(expected)


def test_tuning_keeps_the_rate_with_the_best_loss_of_a_run_that_stopped_early() -> None:
    """Its last loss, two epochs after the best one, is worse than that of a run that did not stop."""
    study = STUDY.model_copy(update={"budget": STUDY.budget.model_copy(update={"trials": 3, "tuning_seeds": 1})})
    curves_of = [[3.0, 1.0, 2.0, 2.5], [3.0, 2.0, 1.8, 1.6, 1.5], [3.0, 2.9, 2.8]]
    tuner = Tuner(study, resolve(study).arms["adamw"])
    results: dict[str, RunResult] = {}
    while pending := tuner.pending(results):
        (task,) = pending
        epochs = finished("adamw", 0, curves_of[task.trial or 0]).epochs
        results[task.id] = task.result("finished", list(epochs))
    assert [loss for _, loss in tuner.seen] == [1.0, 1.5, 2.8]
    assert tuner.best() == tuner.seen[0][0]
    found = summarize("adamw", 1, tuner.arm.space, {run.trial or 0: [results[run.id]] for run in _tasks(tuner, study)})
    assert found is not None
    assert (found.best, found.objective) == (tuner.seen[0][0], 1.0)


def _tasks(tuner: Tuner, study: Study) -> list[Run]:
    return [task for trial, (values, _) in enumerate(tuner.seen) for task in trial_runs(study, "adamw", trial, values)]


def test_the_report_of_an_early_stopping_script_says_how_it_was_compared(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    study: Study = default_study(
        task=f"script:{python} early_stopping.py", baseline="script", candidates=["nesterov@adam"],
        epochs=30, trials=0, seeds=2,
    )  # fmt: skip
    evidence = run(study, tmp_path / "study")
    assert {result.status for result in evidence.runs} == {"finished"}, evidence.runs
    ends = {result.epochs[-1].epoch for result in evidence.runs if result.phase == "evaluate"}
    assert len(ends) > 1
    assessment = assess(study, evidence.runs, evidence.tuning)
    text = render(build(evidence, assessment))
    assert f"runs stopped after {min(ends)} to {max(ends)} epochs" in text
    assert "best validation loss within the number of epochs that both completed" in text
