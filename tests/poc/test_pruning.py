"""Pruning is the median rule, the same for every arm, for any number of slots and after any kill."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import optuna
import pytest

from sabun.cli import app
from sabun.errors import StudyError
from sabun.poc import evidence as stored
from sabun.poc import pruning
from sabun.poc.records import Epoch, RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Run, Study
from sabun.poc.study import default_study, run
from sabun.poc.training.script import ScriptTrainer
from sabun.poc.training.trainer import Trainer

from .helpers import task, tiny_study, untimed

PLAIN = Path(__file__).parent / "scripts" / "plain.py"


def result(losses: list[float], status: str = "finished") -> RunResult:
    epochs = tuple(Epoch(e, None, loss, None, 0.0, 0.0, 0.0, e) for e, loss in enumerate(losses))
    return RunResult("r", "arm", 0, "tune", {"lr": 0.1}, status, epochs)  # type: ignore[arg-type]


def test_it_is_optunas_median_pruner() -> None:
    """The same decisions on random curves, epoch by epoch, with the same warm-up."""
    rng = random.Random(3)
    epochs, answers = 8, Counter[bool]()
    for _ in range(60):
        earlier = [[rng.random() for _ in range(epochs + 1)] for _ in range(rng.randint(1, 7))]
        pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=2)
        study = optuna.create_study(pruner=pruner)
        for curve in earlier:
            steps = dict(enumerate(curve))
            study.add_trial(optuna.trial.create_trial(value=curve[-1], intermediate_values=steps))
        trial = study.ask()
        limits = pruning.ceilings([result(curve) for curve in earlier])
        seen: list[float] = []
        for epoch in range(epochs):  # the last one is the end of the run, and no matter of pruning
            seen.append(rng.random())
            trial.report(seen[-1], epoch)
            ours = pruning.exceeded(limits, result(seen).epochs)
            assert ours == trial.should_prune()
            answers[ours] += 1
    assert min(answers.values()) > 30  # both answers, and not by accident


def test_halving_is_optunas_successive_halving_pruner() -> None:
    """The same decisions on random curves, trial after trial; the curves of pruned trials end where they were cut."""
    rng, answers = random.Random(5), Counter[bool]()
    last = 8
    for _ in range(12):
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)
        study = optuna.create_study(pruner=pruner)
        earlier: list[RunResult] = []
        for number in range(12):
            trial, seen = study.ask(), [rng.random()]
            limits = pruning.ceilings(earlier, "halving") if number >= pruning.first_prunable(12, "halving") else ()
            for epoch in range(1, last + 1):
                seen.append(rng.random())
                if epoch == last:
                    break
                trial.report(min(seen), epoch)
                theirs = trial.should_prune() and number > 0
                ours = pruning.exceeded(limits, result(seen).epochs)
                if epoch in (2, 4):
                    answers[ours] += 1
                assert ours == theirs
                if ours:
                    break
            state = optuna.trial.TrialState.PRUNED if len(seen) <= last else None
            study.tell(trial, None if state else seen[-1], state=state)
            earlier.append(result(seen, "pruned" if state else "finished"))
    assert min(answers.values()) > 50


def test_what_has_not_finished_sets_no_ceiling_and_nothing_asks_at_the_ends() -> None:
    good = result([4.0, 3.0, 2.0, 1.0, 0.5])
    assert pruning.ceilings([]) == ()
    assert pruning.ceilings([result([1.0, float("nan")], "diverged"), result([1.0, 1.0], "pruned")]) == ()
    limits = pruning.ceilings([good, result([1.0, 0.1], "pruned")])
    assert limits == (None, 3.0, 2.0, 1.0)
    assert not pruning.exceeded(limits, result([9.0]).epochs)
    assert not pruning.exceeded(limits, result([9.0, 9.0, 1.0, 9.0]).epochs)  # its best so far is not above
    assert pruning.exceeded(limits, result([9.0, 3.1]).epochs)
    assert not pruning.exceeded(limits, result([9.0, 9.0, 9.0, 9.0, 9.0]).epochs)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study, out = tiny_study(epochs=4, trials=8, pruning="median"), tmp_path_factory.mktemp("pruned")
    run(study, out)
    return study, out


def by_id(path: Path) -> list[dict[str, object]]:
    records = untimed(r for r in stored.read(path).records.results.values() if r.phase != "time")
    return sorted(records, key=lambda record: str(record["run"]))


def test_only_late_trials_are_cut_short_and_none_of_them_wins(pruned: tuple[Study, Path]) -> None:
    study, out = pruned
    held = stored.read(out)
    cut = [result for result in held.records.results.values() if result.status == "pruned"]
    assert cut
    assert {result.phase for result in cut} == {"tune"}
    assert min(held.records.trials[result.run] for result in cut) >= pruning.first_prunable(8) == 5
    assert all(1 <= len(result.epochs) - 1 < 4 for result in cut)
    assert {arm.name: len(held.tuning[arm.name].trials) for arm in study.arms} == dict.fromkeys(
        (arm.name for arm in study.arms), 8
    )
    for result in cut:
        assert dict(held.tuning[result.arm].best) != dict(result.hyperparameters)
    whole = 8 * 2 * 64
    assert all(found.gradient_evaluations <= whole for found in held.tuning.values())
    assert sum(found.gradient_evaluations for found in held.tuning.values()) < 3 * whole


def test_the_same_with_two_processes(pruned: tuple[Study, Path], tmp_path: Path) -> None:
    study, out = pruned
    run(study, tmp_path, jobs=2)
    assert by_id(tmp_path) == by_id(out)


def test_a_pruned_run_is_the_beginning_of_the_whole_one_alone_and_batched() -> None:
    study = tiny_study("euler", task_name="Batchable", epochs=4, batch_seeds=True)
    trainer = Trainer(resolve(study))
    whole = Run(arm="euler", seed=0, phase="tune", hyperparameters={"lr": 0.01})
    limited = whole.model_copy(update={"ceilings": (None, None, 1e-9, None)})
    assert Run.model_validate(limited.model_dump()).id != whole.id
    first, second = (list(trainer.run(one)) for one in (whole, limited))
    assert isinstance(second[-1], RunResult)
    assert second[-1].status == "pruned"
    assert [e.val_loss for e in second[-1].epochs] == [e.val_loss for e in first[:3] if isinstance(e, Epoch)]
    unit = (limited, whole.model_copy(update={"seed": 1}))
    joined = [item for _, item in trainer.run_batched(unit) if isinstance(item, RunResult)]
    assert [(r.status, len(r.epochs)) for r in joined] == [("pruned", 3), ("finished", 5)]


def test_runs_of_a_script_are_cut_short(python: str, tmp_path: Path) -> None:
    """The process ends, what it logged until then is the beginning of the whole run, and the winner is a whole run."""
    study = default_study(
        task=f"script:{python} {PLAIN} --epochs {{epochs}}", baseline="script", candidates=["euler"],
        epochs=4, trials=6, tuning_seeds=1, seeds=1, pruning="halving",
    )  # fmt: skip
    held = run(study, tmp_path / "out")
    cut = [result for result in held.records.results.values() if result.status == "pruned"]
    assert cut
    assert {result.phase for result in cut} == {"tune"}
    for result in cut:
        assert result.epochs[-1].epoch < 4
        assert dict(held.tuning[result.arm].best) != dict(result.hyperparameters)
    shortest = min(cut, key=lambda result: len(result.epochs))
    whole = Run(arm=shortest.arm, seed=shortest.seed, phase="tune", hyperparameters=shortest.hyperparameters)
    *_, last = ScriptTrainer(resolve(study)).run(whole)
    assert isinstance(last, RunResult)
    assert last.status == "finished"
    assert [e.val_loss for e in shortest.epochs] == [e.val_loss for e in last.epochs[: len(shortest.epochs)]]


def test_where_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tiny_study(tuning_fraction=0.5).model_copy(update={"task": "script:python -c pass", "task_options": {}})
    with pytest.raises(StudyError, match=r"fraction of 0\.5 has no effect: the command sets its own length"):
        run(script, tmp_path / "out")
    assert app.run(["poc", "run", task(), "--pruning", "hyperband", "--out", str(tmp_path / "out")]) == 2
    assert "pruning" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
