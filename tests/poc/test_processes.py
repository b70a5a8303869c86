"""Worker processes: identical records, lost workers, and none left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sabun.poc import events
from sabun.poc import evidence as stored
from sabun.poc.study import run
from sabun.report.records_table import rows

from .helpers import SGD, tiny_study, untimed


def by_id(path: Path) -> list[dict[str, object]]:
    return sorted(
        untimed(r for r in stored.read(path).records.results.values() if r.phase != "time"), key=lambda r: str(r["run"])
    )


def test_two_processes_leave_the_same_records_and_clock_readings_taken_alone(tmp_path: Path) -> None:
    study = tiny_study("torch.optim:AdamW")
    alone = run(study, tmp_path / "1")
    heard: list[events.Event] = []
    shared = run(study, tmp_path / "2", jobs=2, on_event=heard.append)
    _no_slot_waits_for_a_record(heard)
    assert by_id(tmp_path / "1") == by_id(tmp_path / "2")
    held = stored.read(tmp_path / "2")
    phases = Counter(result.phase for result in held.records.results.values())
    assert phases == {"tune": 16, "evaluate": 6, "repeat": 2, "time": 6}
    assert held.records.exclusive == {result.run for result in held.records.results.values() if result.phase == "time"}
    # What is handed on for judgement: the same runs, with clocks read in runs that had the machine to themselves.
    assert len(shared.runs) == len(alone.runs)
    timed = {(r.arm, r.seed): {e.train_s for e in r.epochs} for r in held.records.results.values() if r.phase == "time"}
    for result in shared.runs:
        if result.phase == "evaluate":
            assert result.epochs[1].train_s in timed[result.arm, result.seed]
    # Their losses were never had, and nothing invents them.
    assert {row["val_loss"] for row in rows(list(held.records.results.values())) if row["phase"] == "time"} == {None}
    # A study begun in one process and finished in two times all of them alike.
    assert run(study, tmp_path / "1", jobs=2).runs == alone.runs


def _no_slot_waits_for_a_record(heard: list[events.Event]) -> None:
    """Once tuning is over: when a record is on the disk, the next run is in flight; timing runs are so one by one."""
    flying, tuned, begun, looked = 0, 0, 0, 0
    for event in heard:
        if isinstance(event, events.TuningFinished):
            tuned += 1
        elif isinstance(event, events.RunStarted):
            flying += 1
            begun += event.run.phase in ("evaluate", "repeat")
            assert flying == 1 or event.run.phase != "time"
        elif isinstance(event, events.RunFinished):
            flying -= 1
            if event.run.phase == "evaluate" and tuned == 2 and begun < 8:
                assert flying == 2
                looked += 1
    assert looked


def _orphans(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"sabun.poc.executors.worker" in command and marker.encode() in environment:
                found.append(int(entry.name))
    return found


def test_sigkill_of_a_parallel_study_leaves_no_worker_and_loses_nothing(tmp_path: Path) -> None:
    """A real process, killed while its workers train; then resumed."""
    study = tiny_study("torch.optim:AdamW", task_options={"sleep": 0.002}, trials=3)
    script = (
        "import sys; from pathlib import Path; from sabun.poc.spec import Study; from sabun.poc.study import run;"
        "run(Study.model_validate_json(Path(sys.argv[1]).read_text()), sys.argv[2], jobs=2)"
    )
    (tmp_path / "study.json").write_text(study.model_dump_json())
    environment = {**os.environ, "SABUN_TEST_MARK": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "study.json"), str(tmp_path / "out")], env=environment
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if stored.exists(tmp_path / "out") and len(stored.read(tmp_path / "out").records.results) >= 4:
            break
        time.sleep(0.02)
    assert len(_orphans(str(tmp_path))) == 3  # two workers, and the fork server
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline and _orphans(str(tmp_path)):
        time.sleep(0.05)
    assert _orphans(str(tmp_path)) == []
    run(study, tmp_path / "out", jobs=2)
    run(study, tmp_path / "quiet")
    assert by_id(tmp_path / "out") == by_id(tmp_path / "quiet")


@pytest.mark.parametrize("always", [False, True])
def test_a_worker_that_dies_costs_one_retry_and_then_its_run(
    always: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with workers that are forks, once where the task's threads forbid it."""
    monkeypatch.setenv("SABUN_TEST_PARENT", str(os.getpid()))
    options = {"marker": str(tmp_path / "died"), "always": always, "thread": not always}
    still = "torch.optim:SGD(lr=1e-9)"  # never goes far enough to die
    study = tiny_study(still, task_name="Dies", task_options=options, trials=0, seeds=1)
    heard: list[events.Event] = []
    forked: set[bool] = set()

    def hear(event: events.Event) -> None:
        heard.append(event)
        if isinstance(event, events.EpochDone):
            forked.update(_is_fork(pid) for pid in _children() if _is_worker(pid))

    evidence = run(study, tmp_path / "out", jobs=2, on_event=hear)
    assert forked == {True, always}  # the fork server has the command line of a fork, too
    retried = [event for event in heard if isinstance(event, events.RunRetried)]
    assert retried
    assert all("killed by signal 9" in event.reason for event in retried)
    failed = [result for result in evidence.runs if result.status == "failed"]
    if always:
        assert {result.arm for result in failed} == {SGD}
        assert all("died twice: killed by signal 9" in result.failure for result in failed)
    else:
        assert len(retried) == 1
        assert not failed


def _children() -> list[int]:
    """All processes that descend from this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, new = set(), {os.getpid()}
    while new := {pid for pid, parent in parents.items() if parent in new} - found:
        found |= new
    return sorted(found)


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def _is_worker(pid: int) -> bool:
    return "sabun.poc.executors.worker" in _command(pid)


def _is_fork(pid: int) -> bool:
    return _command(pid)[-1:] != ["sabun.poc.executors.worker"]
