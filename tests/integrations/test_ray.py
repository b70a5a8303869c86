"""A study on a Ray cluster of two workers on this machine: the same records, and a worker that is killed. Ray Train."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sabun
from sabun.cli import app
from sabun.errors import MissingExtraError, MixedEvidenceError, OptionError, StudyError
from sabun.integrations import ray as integration
from sabun.integrations.ray import Ray
from sabun.poc import events
from sabun.poc import evidence as stored
from sabun.poc.executors.processes import Processes
from sabun.poc.executors.runtime_environment import runtime_environment
from sabun.poc.resolved import ResolvedStudy, resolve
from sabun.poc.spec import Study
from sabun.poc.study import run

from ..poc.helpers import task, tiny_study, untimed

SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Ray's workers have niceness 15 by default, so that on a busy machine they hardly run."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    os.environ.update(SETTINGS)
    ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study, out = tiny_study(trials=3, task_options={"sleep": 0.001}), tmp_path_factory.mktemp("alone")
    run(study, out)
    return study, out


def evidence(path: Path) -> list[dict[str, object]]:
    """All records but those of the clock, whatever the order in which they came."""
    results = [result for result in stored.read(path).records.results.values() if result.phase != "time"]
    return sorted(untimed(results), key=lambda record: str(record["run"]))


def test_one_process_four_processes_and_two_ray_workers_leave_the_same_records(
    cluster: Any, alone: tuple[Study, Path], tmp_path: Path
) -> None:
    study, out = alone
    run(study, tmp_path / "processes", executor=Processes(4))
    run(study, tmp_path / "ray", executor=Ray(2))
    assert len(evidence(out)) == 3 * (3 * 2 + 3 + 1)
    for other in ("processes", "ray"):
        assert evidence(tmp_path / other) == evidence(out)
        held = stored.read(tmp_path / other)
        assert Counter(r.phase for r in held.records.results.values())["time"] == 9
        assert {held.records.results[name].phase for name in held.records.exclusive} == {"time"}
        assert {arm: tuning.best for arm, tuning in held.tuning.items()} == {
            arm: tuning.best for arm, tuning in stored.read(out).tuning.items()
        }
        assert held.environment == runtime_environment(resolve(study))
        assert not held.mixed


def test_a_ray_worker_killed_midway_costs_one_retry(cluster: Any, alone: tuple[Study, Path], tmp_path: Path) -> None:
    study, out = alone
    executor, killed, heard = Ray(), [], []  # as many workers as the cluster has CPUs

    def hear(event: events.Event) -> None:
        heard.append(event)
        if isinstance(event, events.StudyStarted):
            assert executor.slots == 2
            killed.append(executor.process_ids()[0])
        if isinstance(event, events.EpochDone) and event.epoch.epoch == 1 and len(killed) == 1:
            os.kill(killed[0], signal.SIGKILL)
            killed.append(0)

    run(study, tmp_path, executor=executor, on_event=hear)
    (retried,) = [event for event in heard if isinstance(event, events.RunRetried)]
    assert "Ray worker died" in retried.reason
    assert evidence(tmp_path) == evidence(out)


def test_the_command_line_hands_on_workers_and_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int | None, str | None]] = []

    class Recorded(Processes):
        def __init__(self, workers: int | None = None, address: str | None = None) -> None:
            asked.append((workers, address))
            super().__init__(workers or 1)

    monkeypatch.setattr(integration, "Ray", Recorded)
    small = ["--candidate", "euler", "--task", "nonsense", "--executor", "ray", "--out", str(tmp_path / "out")]
    assert app.run(["poc", "run", *small]) == 2
    assert app.run(["poc", "run", *small, "--jobs", "3", "--address", "auto"]) == 2
    assert asked == [(None, None), (3, "auto")]


SCRIPT = """
import json, os
from pathlib import Path
order = Path(os.environ["SABUN_RUN"])
assert json.loads(order.read_text())["arm"]
print("in", os.getcwd())
epoch = {"train_loss": None, "val_metric": None, "train_s": 1.0, "eval_s": 0.0, "optimizer_s": 0.1, "lr": None,
         "test_loss": 1.0, "test_metric": None, "gradient_evaluations": 1}
with order.with_name("records.jsonl").open("a") as file:
    for line in ({"kind": "swap"}, *({"kind": "log", "epoch": e, "val_loss": 2.0 - e, **epoch} for e in (0, 1))):
        print(json.dumps(line), file=file)
"""


def test_a_script_is_started_where_the_study_was(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its side of the conversation is written out here, so that it takes no seconds to load torch."""
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(SCRIPT)
    study = tiny_study("torch.optim:SGD", trials=0, seeds=1).model_copy(
        update={"task": f"script:{sys.executable} train.py", "task_options": {}}
    )
    found = run(study, "out", executor=Ray(1))
    assert {result.status for result in found.runs} == {"finished"}, found.runs[0].failure
    started = {log.read_text().splitlines()[0] for log in Path("out/logs").iterdir()}
    # Every run has a copy of the project, entered at the same place.
    assert len(started) == len(found.runs)
    assert {Path(line.removeprefix("in ")).name for line in started} == {tmp_path.name}


def test_ray_train_goes_on_after_a_crash_and_ends_where_one_process_ends() -> None:
    pytest.importorskip("ray.train", reason="Ray Train is not installed: pip install 'sabun[ray-train]'")
    example = Path(__file__).parents[2] / "examples" / "ray_train.py"
    quick = {"HEALTH_CHECK_INTERVAL_S": "0.2", "METRICS_ENABLED": "0", "WORKER_GROUP_START_TIMEOUT_S": "240"}
    settings = {**SETTINGS, **{f"RAY_TRAIN_{name}": value for name, value in quick.items()}}
    done = subprocess.run(
        [sys.executable, str(example)], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"loss (\S+) after 8 epochs, the last (\d) since the crash", done.stdout)
    assert found
    assert int(found[2]) < 8  # some epochs lie before it
    torch.manual_seed(0)
    x = torch.randn(128, 8)
    y = x.sum(1, keepdim=True).sin()
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = sabun.create("nadamw", model, lr=0.01)
    for _ in range(8):
        for rows in torch.arange(128).split(32):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    assert float(found[1]) == pytest.approx(float(nn.functional.mse_loss(model(x), y).detach()), rel=1e-5)


# --------------------------------------------------------------------------------- what needs no cluster to be seen


def test_the_file_of_a_task_travels_with_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(task().rpartition(":")[0]).read_text()
    (tmp_path / "mine.py").write_text(source)
    study = tiny_study().model_copy(update={"task": f"{tmp_path / 'mine.py'}:Tiny"})
    packed = integration._pack(study, tmp_path)
    assert integration._unpack(packed).task == study.task
    (tmp_path / "mine.py").unlink()  # a machine that has no such file
    elsewhere = integration._unpack(packed)
    path, _, name = elsewhere.task.rpartition(":")
    assert (name, Path(path).read_text()) == ("Tiny", source)
    assert resolve(elsewhere).task_source == resolve(tiny_study()).task_source


def test_a_script_whose_directory_is_missing_is_refused(tmp_path: Path) -> None:
    study = tiny_study().model_copy(update={"task": "script:python train.py"})
    packed = {**integration._pack(study, tmp_path), "directory": str(tmp_path / "nowhere")}
    with pytest.raises(StudyError, match=r"nowhere does not exist.*that all machines of the cluster share"):
        integration._unpack(packed)


def test_an_address_without_a_cluster_is_told(cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cluster, "is_initialized", lambda: False)

    def init(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nMore.")

    monkeypatch.setattr(cluster, "init", init)
    with pytest.raises(OptionError, match=r"no Ray cluster at 10\.0\.0\.1:6379: Could not find any"):
        Ray(2, "10.0.0.1:6379").begin(resolve(tiny_study()), tmp_path)


def test_workers_of_two_kinds_are_refused_unless_allowed_and_then_told_apart(tmp_path: Path) -> None:
    """Two imaginary workers in turn, on machines that differ in their torch."""
    study = tiny_study(trials=0, seeds=1)
    here = runtime_environment(resolve(study))
    there = {**here, "torch": "0.0"}

    class TwoKinds(Processes):
        def begin(self, resolved: ResolvedStudy, logs: Path) -> tuple[dict[str, Any], ...]:  # type: ignore[override]
            super().begin(resolved, logs)
            return here, there

        def environment_of(self, run: Any) -> dict[str, Any]:  # type: ignore[override]
            return there if run.arm == study.baseline.name else here

    with pytest.raises(MixedEvidenceError, match=re.escape(f"torch: {here['torch']}, now 0.0")):
        run(study, tmp_path / "refused", executor=TwoKinds(1))
    assert stored.read(tmp_path / "refused").records.results == {}
    found = run(study, tmp_path / "allowed", executor=TwoKinds(1), allow_mixed=True)
    held = stored.read(tmp_path / "allowed")
    assert found.mixed
    assert {
        held.records.results[run].arm
        for run, at in held.records.environment_of.items()
        if held.records.environments[at] == there
    } == {study.baseline.name}


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "sabun\[ray\]"'):
        Ray(2)
