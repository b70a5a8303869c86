"""What scripts log and how they make optimizers: the right record, or one sentence with the way out."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sabun.poc.check import check
from sabun.poc.judgement.assess import assess
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Run, Study
from sabun.poc.study import default_study
from sabun.poc.study import run as study_run
from sabun.poc.training.script import ScriptTrainer

SCRIPTS = Path(__file__).parent / "isolation"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path / "project")


def script(command: str, candidate: str = "nesterov@adam") -> Study:
    return default_study(
        task=f"script:{command}",
        task_options={"time_limit": 120.0},
        baseline="script",
        candidates=[candidate],
        epochs=3,
        trials=0,
        seeds=1,
    )


def one(command: str, tmp_path: Path, arm: str = "script") -> tuple[RunResult, str]:
    task = Run(arm=arm, seed=0, phase="evaluate")
    study = script(command, "nesterov@adam" if arm == "script" else arm)
    *_, last = ScriptTrainer(resolve(study), tmp_path / "logs").run(task)
    assert isinstance(last, RunResult)
    return last, (tmp_path / "logs" / f"{task.id}.txt").read_text()


@pytest.mark.parametrize("arm", ["schedule-free-adamw", "schedulefree:AdamWScheduleFree", "nesterov"])
@pytest.mark.parametrize(
    "mode",
    ["deepcopy", "save-model", "state-dict", "state-dict-after-steps", "script", "script-same", "trace", "export"],
)
def test_a_kept_model_of_an_averaging_arm_is_the_one_that_was_evaluated(
    mode: str, arm: str, python: str, tmp_path: Path
) -> None:
    result, printed = one(f"{python} average.py {mode}", tmp_path, arm)
    assert result.status == "finished", result.failure
    assert [epoch.val_loss for epoch in result.epochs] == [
        epoch.val_loss for epoch in one(f"{python} average.py plain", tmp_path, arm)[0].epochs
    ]
    if mode != "script-same":
        best, again = (float(x) for x in re.search(r"AGAIN (\S+) (\S+)", printed).groups())  # type: ignore[union-attr]
        assert best == min(epoch.val_loss for epoch in result.epochs)
        assert again == pytest.approx(best, rel=1e-6)


def test_an_averaging_arm_whose_evaluation_is_not_seen_is_refused(python: str, tmp_path: Path) -> None:
    assert one(f"{python} average.py raw", tmp_path)[0].status == "finished"
    result, _ = one(f"{python} average.py raw", tmp_path, "schedule-free-adamw")
    assert result.status == "failed"
    assert "averages its weights, and sabun saw no evaluation of them" in result.failure.replace("\n", " ")
    findings = check(script(f"{python} average.py raw", "schedule-free-adamw")).findings
    assert [(finding.code, finding.arm) for finding in findings] == [("fails", "schedule-free-adamw")]


@pytest.mark.parametrize("mode", ["plain", "from-zero", "float-epochs", "accuracy"])
def test_epochs_are_counted_from_one_and_a_loss_with_its_graph_does_not_warn(
    mode: str, python: str, tmp_path: Path
) -> None:
    result, _ = one(f"{python} values.py {mode}", tmp_path)
    assert result.status == "finished", result.failure
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3]
    if mode == "accuracy":
        assert [epoch.val_loss for epoch in result.epochs] == [1 - epoch.val_metric for epoch in result.epochs]  # type: ignore[operator]
    else:
        assert check(script(f"{python} values.py {mode}")).findings == []


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("list", "got a list of optimizers, and a run compares one. Swap the optimizer of the model whose val_loss"),
        ("model", "got Sequential, which is not a torch optimizer"),
        ("k-fold", "called again after training, and a run compares one training. Train one fold or one model per run"),
        ("two", "called twice in one run. Call it once, on the optimizer of the model whose val_loss you log"),
        ("fractions", "got epoch=0.5, which is not a whole number. Leave epoch out"),
        ("percent", "a metric that is compared must be between 0 and 1. Give it as a fraction"),
        ("no-loss", "needs a val_loss. Give val_loss=…, or a metric"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_way_out(
    mode: str, words: str, python: str, tmp_path: Path
) -> None:
    result, printed = one(f"{python} values.py {mode}", tmp_path)
    assert result.status == "failed"
    assert words in printed


@pytest.mark.parametrize(
    ("mode", "codes"), [("negative", ["not-positive"]), ("constant", ["constant"]), ("nan", ["fails"])]
)
def test_check_names_losses_that_cannot_be_compared(mode: str, codes: list[str], python: str) -> None:
    findings = check(script(f"{python} values.py {mode}")).findings
    assert [finding.code for finding in findings] == codes
    if mode == "nan":
        assert "losses nan, nan, nan with lr_multiplier = 1e-30" in findings[0].detail


@pytest.mark.parametrize("arm", ["schedule-free-adamw", "script"])
def test_lightning_validates_the_best_checkpoint_of_an_arm(arm: str, python: str, tmp_path: Path) -> None:
    result, printed = one(f"{python} lightning_best.py study", tmp_path, arm)
    assert result.status == "finished", printed
    least, last, best = (float(x) for x in re.findall(r"^(?:LEAST|LAST|BEST) (\S+)", printed, re.M))
    assert best == pytest.approx(least, rel=1e-6)
    assert last > 1.01 * least
    assert [epoch.epoch for epoch in result.epochs] == list(range(1, 9))


@pytest.mark.parametrize("name", ["schedule-free-adamw", "adamw"])
def test_lightning_validates_the_average_in_the_best_checkpoint(name: str, python: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*python.split(), "lightning_best.py", name], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    least, last, best, fresh = (float(x) for x in re.findall(r"^[A-Z]+ (\d\S+)$", done.stdout, re.M))
    assert best == pytest.approx(least, rel=1e-6)
    assert fresh == pytest.approx(least, rel=1e-6)
    assert last > 1.01 * least


@pytest.mark.parametrize("learns", [True, False])
def test_arms_are_decided_by_an_accuracy_in_its_direction(learns: bool, python: str, tmp_path: Path) -> None:
    """Of an arm that learns and an arm whose rate is too small, the one that learns wins, as candidate and baseline."""
    arms = ["torch.optim:SGD(lr=1e-09)", "torch.optim:SGD(lr=0.05, momentum=0.9)"]
    baseline, candidate = arms if learns else reversed(arms)
    study = default_study(
        task=f"script:{python} {Path(__file__).parent / 'corpus' / 'accuracy.py'}",
        baseline=baseline,
        candidates=[candidate],
        epochs=3,
        trials=0,
        seeds=6,
    )
    evidence = study_run(study, tmp_path / "study")
    assert {result.status for result in evidence.runs} == {"finished"}, evidence.runs
    assessment = assess(study, evidence.runs, evidence.tuning)
    k1 = next(row for row in assessment.comparisons if row.kpi == "final_loss")
    assert k1.low is not None
    assert k1.high is not None
    if learns:  # a verdict also needs the time, which a busy machine may leave open
        assert k1.high < -0.1
    else:
        assert k1.low > 0.1
        assert assessment.verdicts[0].decision == "no-go"
