"""Executors and budgets of ``sabun poc run``, ``resume`` and ``status``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sabun.cli import app
from sabun.poc import events
from sabun.poc import evidence as stored
from sabun.poc.evidence.live_status import read_live
from sabun.poc.spec import Study
from sabun.poc.study import run

from ..poc.helpers import SGD, task, tiny_study, untimed

Capture = pytest.CaptureFixture[str]


def interrupted(study: Study, out: Path, after: int) -> None:
    def hear(event: events.Event) -> None:
        if isinstance(event, events.RunFinished) and event.done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, out, on_event=hear)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[dict[str, object]]]:
    study = tiny_study(trials=2)
    return study, untimed(run(study, tmp_path_factory.mktemp("whole")).runs)


def test_resume_continues_from_the_directory_alone(
    whole: tuple[Study, list[dict[str, object]]], tmp_path: Path, capsys: Capture
) -> None:
    study, records = whole
    interrupted(study, tmp_path, 7)
    assert app.run(["poc", "status", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "7 of 24 runs, stopped" in output
    assert f"sabun poc resume {tmp_path}" in output
    assert app.run(["poc", "resume", str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert "24 runs, 7 of them already done" in output.err
    assert str(tmp_path / "report.html") in output.out
    assert untimed(stored.read(tmp_path).runs) == records
    assert app.run(["poc", "status", str(tmp_path), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["state"], value["done"], value["total"], value["runs"]) == ("finished", 24, 24, [])


def test_resume_with_more_jobs_gives_the_same_records(
    whole: tuple[Study, list[dict[str, object]]], tmp_path: Path, capsys: Capture
) -> None:
    study, records = whole
    interrupted(study, tmp_path, 7)
    assert app.run(["poc", "resume", str(tmp_path), "--jobs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audit"]["study_hash"] == study.hash
    resumed = sorted(untimed(stored.read(tmp_path).runs), key=lambda r: str(r["run"]))
    assert resumed == sorted(records, key=lambda r: str(r["run"]))


def test_the_exit_codes_of_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study(trials=0, seeds=1)
    interrupted(study, tmp_path, 2)
    monkeypatch.setattr("torch.__version__", "0.0")
    assert app.run(["poc", "resume", str(tmp_path), "--quiet"]) == 1  # another version: a failure, not a bad command
    assert len(stored.read(tmp_path).records.results) == 2
    assert app.run(["poc", "resume", str(tmp_path), "--quiet", "--allow-mixed", "--gate"]) == 11  # one seed: undecided
    assert stored.read(tmp_path).mixed
    assert app.run(["poc", "resume", str(tmp_path / "nowhere")]) == 2


def test_status_of_a_study_that_runs_and_of_one_that_was_killed(tmp_path: Path, capsys: Capture) -> None:
    study = tiny_study(task_options={"sleep": 0.01})
    child = os.fork()
    if child == 0:
        try:
            run(study, tmp_path / "out")
        finally:
            os._exit(0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if stored.exists(tmp_path / "out") and read_live(tmp_path / "out").get("runs"):
            break
        time.sleep(0.01)
    assert app.run(["poc", "status", str(tmp_path / "out"), "--json"]) == 0
    running = json.loads(capsys.readouterr().out)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert app.run(["poc", "status", str(tmp_path / "out"), "--json"]) == 0
    killed = json.loads(capsys.readouterr().out)
    assert (running["state"], killed["state"]) == ("running", "stopped")
    assert [one["arm"] for one in running["runs"]] == [SGD]
    assert killed["runs"] == []


def test_no_tuning_uses_every_arm_as_given_or_at_the_equivalent_step(tmp_path: Path) -> None:
    arms = ["--baseline", "torch.optim:SGD(lr=0.02)", "--candidate", "torch.optim:SGD(momentum=0.9)"]
    small = ["--seeds", "1", "--epochs", "1", "--quiet"]
    assert app.run(["poc", "run", task(), *arms, *small, "--no-tuning", "--out", str(tmp_path)]) == 0
    held = stored.read(tmp_path)
    assert held.study.budget.trials == 0
    chosen = {result.arm: result.hyperparameters["lr"] for result in held.runs}
    assert chosen == {"SGD(lr=0.02)": 0.02, "SGD(momentum=0.9)": pytest.approx(0.02 * (1 - 0.9))}


BAD = [
    (["--no-tuning", "--trials", "3"], "--no-tuning and --trials 3", "one of the two"),
    (["--jobs", "0"], "--jobs must be at least 1", ""),
    (["--executor", "rya"], "unknown executor 'rya'", "Did you mean 'ray'"),
    (["--address", "auto"], "--address", "--executor ray"),
    (["--jobs", "2", "--candidate", "eulre"], "unknown optimizer 'eulre'", "Did you mean 'euler'"),
]


@pytest.mark.parametrize(("arguments", "cause", "fix"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_reported_and_nothing_is_written(
    arguments: list[str], cause: str, fix: str, tmp_path: Path, capsys: Capture
) -> None:
    assert app.run(["poc", "run", *arguments, "--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert cause in output.err
    assert fix in output.err
    assert list(tmp_path.iterdir()) == []


def test_workers_start_before_torch_is_loaded(tmp_path: Path) -> None:
    """Their imports then take place while the command itself imports torch."""
    code = (
        "import sys\nfrom sabun.poc.executors import processes\n"
        "def here(jobs): print(jobs, 'torch' in sys.modules, flush=True); raise SystemExit(0)\n"
        "processes.Processes = here\n"
        "from sabun.cli import main\nmain(['poc', 'run', '--jobs', '2', '--out', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.stdout == "2 False\n", done.stderr
