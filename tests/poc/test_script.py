"""Script mode on a user's own script: nothing happens outside of a study, and all that can go wrong inside."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sabun
from sabun.errors import StudyError, TrainingError
from sabun.poc import client
from sabun.poc.records import Epoch, RunResult
from sabun.poc.script import ScriptTrainer
from sabun.poc.spec import Run, Study
from sabun.poc.store import Store
from sabun.poc.study import default_study, run

from .helpers import untimed

PLAIN = Path(__file__).parent / "scripts" / "plain.py"


def script_study(*, command: str = str(PLAIN), limit: float = 120.0, **budget: int) -> Study:
    return default_study(
        task=f"script:{sys.executable} {command}",
        task_options={"time_limit": limit},
        baseline="script",
        candidates=["torch.optim:AdamW(weight_decay=0.1)"],
        **{"epochs": 3, "trials": 0, "seeds": 1, **budget},
    )


def one(study: Study, arm: str, tmp_path: Path, *, seed: int = 0, **values: float) -> tuple[RunResult, str]:
    trainer = ScriptTrainer(study, tmp_path)
    task = Run(arm=arm, seed=seed, phase="evaluate", hyperparameters=values)
    *epochs, last = trainer.run(task)
    assert isinstance(last, RunResult)
    assert tuple(epochs) == last.epochs
    return last, (tmp_path / f"{task.id}.txt").read_text()


def test_outside_of_a_study_both_lines_do_nothing() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    assert sabun.swap(optimizer) is optimizer
    assert sabun.log(epoch=1, val_loss=0.5) is None
    alone = {key: value for key, value in os.environ.items() if key != client.VARIABLE}
    done = subprocess.run([sys.executable, str(PLAIN)], env=alone, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("groups [(0.02, 0.01), (0.01, 0.0)]")


def test_a_script_is_trained_with_the_arms_optimizer_and_its_groups_keep_their_ratio(tmp_path: Path) -> None:
    study = script_study()
    own, printed = one(study, "script", tmp_path, lr_multiplier=0.5)
    assert own.status == "finished", own.failure
    assert printed.startswith("groups [(0.01, 0.01), (0.005, 0.0)]")
    other, printed = one(study, study.candidates[0].name, tmp_path, lr=0.004)
    assert other.status == "finished", other.failure
    assert printed.startswith("groups [(0.004, 0.1), (0.002, 0.0)]")
    for result in (own, other):
        assert [e.epoch for e in result.epochs] == [1, 2, 3]
        assert [e.gradient_evaluations for e in result.epochs] == [8, 16, 24]
        assert [e.lr for e in result.epochs] == pytest.approx([(1 - e / 3) * result_lr(result) for e in (1, 2, 3)])
        assert all(0 < e.optimizer_s < e.train_s for e in result.epochs)
        assert all(e.val_metric == pytest.approx(-(e.val_loss**0.5)) for e in result.epochs)
        assert result.weights_sha256
        assert result.peak_memory_bytes is not None
    assert own.optimizer_state_bytes == 4 * 4
    assert own.weights_sha256 != other.weights_sha256


def result_lr(result: RunResult) -> float:
    return float(result.hyperparameters.get("lr", 0.01))


def test_importing_sabun_seeds_the_script_alike_for_every_arm(tmp_path: Path) -> None:
    study = script_study()
    still = {"script": {"lr_multiplier": 1e-30}, study.candidates[0].name: {"lr": 1e-30}}
    first = {arm: one(study, arm, tmp_path, **values)[0] for arm, values in still.items()}
    curves = [[(e.train_loss, e.val_loss) for e in result.epochs] for result in first.values()]
    assert curves[0] == curves[1]
    other, _ = one(study, "script", tmp_path, seed=1, lr_multiplier=1e-30)
    assert other.epochs[0].val_loss != first["script"].epochs[0].val_loss


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("print('loading'); raise SystemExit('no data')", "ended with exit status 1.*printed last: loading | no data"),
        ("import os; os.abort()", "killed by signal 6"),
        ("pass", r"never called sabun.swap: put 'optimizer = sabun.swap\(optimizer\)'"),
        ("print('waiting', flush=True); import time; time.sleep(600)", "beyond its time limit of 5 s.*last: waiting"),
        (f"{PLAIN} --mode no-log", "never called sabun.log"),
        (f"{PLAIN} --mode disorder", "exit status 1.*told epoch 1 after epoch 1"),
    ],
    ids=["crash", "signal", "no swap", "hang", "no log", "disorder"],
)
def test_what_can_go_wrong_is_named_with_the_last_lines(script: str, words: str, tmp_path: Path) -> None:
    command = script if script.startswith(str(PLAIN)) else shlex.join(["-c", script])
    limit = 5.0 if "sleep" in script else 120.0
    result, _ = one(script_study(command=command, limit=limit), "script", tmp_path)
    assert result.status == "failed"
    assert re.search(words, result.failure), result.failure


def test_a_loss_that_is_not_a_number_is_divergence(tmp_path: Path) -> None:
    result, _ = one(script_study(command=f"{PLAIN} --mode nan"), "script", tmp_path)
    assert result.status == "diverged"
    assert result.epochs[0].val_loss != result.epochs[0].val_loss
    assert isinstance(result.epochs[0], Epoch)


def test_a_whole_study_of_a_script_and_its_logs(tmp_path: Path) -> None:
    study = script_study()
    evidence = run(study, tmp_path)
    assert {r.status for r in evidence.runs} == {"finished"}
    assert len(list((tmp_path / "logs").iterdir())) == len(evidence.runs) == 4
    for arm in study.arms:
        first, again = (
            next(r for r in evidence.runs if r.arm == arm.name and r.phase == p) for p in ("evaluate", "repeat")
        )
        assert untimed([first])[0]["epochs"] == untimed([again])[0]["epochs"]
        assert first.weights_sha256 == again.weights_sha256
    assert run(study, tmp_path).runs == tuple(Store.open(tmp_path).runs())


def test_a_training_environment_needs_the_core_only(tmp_path: Path) -> None:
    """The script's interpreter has no pydantic, optuna, scipy, scikit-learn or rich."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('pydantic', 'optuna', 'scipy', 'sklearn', 'rich', 'typer', 'jinja2', 'altair'):\n"
        "    sys.modules[name] = None\n"
    )
    study = script_study()
    trainer = ScriptTrainer(study, tmp_path / "logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        *_, last = trainer.run(Run(arm=study.candidates[0].name, seed=0, phase="tune", hyperparameters={"lr": 0.01}))
    assert isinstance(last, RunResult)
    assert last.status == "finished", last.failure


def test_mistakes_in_the_command_are_found_first(tmp_path: Path) -> None:
    for task, options, words in (
        ("script:no-such-command train.py", {}, "no command 'no-such-command'"),
        ("script:", {}, "no command ''"),
        (f"script:{sys.executable} x.py", {"time_limt": 3}, "Did you mean 'time_limit'"),
        (f"script:{sys.executable} x.py", {"time_limit": -3}, "positive number of seconds"),
    ):
        with pytest.raises(StudyError, match=words):
            run(
                default_study(task=task, task_options=options, baseline="script", candidates=["torch.optim:SGD"]),
                tmp_path / "x",
            )
    with pytest.raises(StudyError, match="the optimizer 'script' is the one"):
        run(default_study(task="digits", baseline="script", candidates=["torch.optim:SGD"]), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_swapping_twice_and_logging_first_are_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    file.write_text(
        '{"arm": {"optimizer": "script"}, "hyperparameters": {}, "seed": 1, "records": "%s"}' % (tmp_path / "r")
    )
    monkeypatch.setenv(client.VARIABLE, str(file))
    monkeypatch.setattr(client, "_session", None)
    monkeypatch.setattr(client.atexit, "register", lambda *_: None)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(TrainingError, match=r"before sabun\.swap"):
        client.log(val_loss=1.0)
    assert client.swap(optimizer) is optimizer
    client.log(val_loss=1.0)
    client.log(val_loss=0.5)
    with pytest.raises(TrainingError, match=r"swap was called twice"):
        client.swap(optimizer)
    with pytest.raises(TrainingError, match="told epoch 2 after epoch 2"):
        client.log(epoch=2, val_loss=0.5)
