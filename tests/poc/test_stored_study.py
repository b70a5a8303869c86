"""Studies that an earlier version wrote are read, verified, judged and continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sabun.cli import app
from sabun.poc import evidence
from sabun.poc.judgement.assess import assess
from sabun.poc.study import run

from ..fixtures.make_study import FINISHED, HERE, INTERRUPTED, stored_study
from .helpers import untimed


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FINISHED, tmp_path / "finished")
    shutil.copytree(INTERRUPTED, tmp_path / "interrupted")
    monkeypatch.chdir(HERE)  # where the task is
    return tmp_path


def records(path: Path) -> list[dict[str, Any]]:
    """Without the curvature, whose norms another machine may round differently."""
    found = sorted(untimed(evidence.read(path).runs), key=lambda fields: str(fields["run"]))
    for fields in found:
        for epoch in fields["epochs"]:
            del epoch["extra"]
    return found


def test_the_finished_study_is_verified_and_judged(copied: Path) -> None:
    found = evidence.read(copied / "finished")
    assert found.study == stored_study()
    assert found.verification.ok
    assert (found.verification.torn, found.verification.runs_without_result) == (False, 0)
    assert found.verification.events == len(found.events) == 3 + 2 * len(found.runs)
    assert evidence.read(copied / "finished", anchor=found.events[3].hash).verification.ok
    judged = assess(found.study, found.runs, found.tuning)
    assert [verdict.arm for verdict in judged.verdicts] == ["nesterov", "torch.optim:AdamW"]
    assert set(found.tuning) == {arm.name for arm in found.study.arms}
    for arm in judged.arms.values():
        assert arm.bit_exact
        assert len(arm.seeds) == 3


def test_the_command_line_reports_it_and_logs_the_verdict(copied: Path) -> None:
    path = copied / "finished"
    before = evidence.read(path)
    assert app.run(["poc", "verify", str(path), "--anchor", before.verification.audit_head]) == 0
    assert app.run(["poc", "report", str(path)]) == 0
    after = evidence.read(path)
    assert after.events[: len(before.events)] == before.events
    assert after.events[-1].event == "verdict"
    report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    assert report["audit"]["records_sha256"] == before.records_sha256


def test_the_interrupted_study_continues_to_the_records_of_the_undisturbed_one(copied: Path) -> None:
    before = evidence.read(copied / "interrupted")
    assert before.verification.ok
    assert 0 < len(before.runs) < len(evidence.read(copied / "finished").runs)
    # Another machine may run this test: that mixes environments, and changes no bit of these runs.
    run(stored_study(), copied / "interrupted", allow_mixed=True)
    assert records(copied / "interrupted") == records(copied / "finished")
    events = [event.event for event in evidence.read(copied / "interrupted").events]
    assert "audit.recovered" in events
    assert events.count("study.opened") == 2


def test_the_finished_study_has_nothing_left_to_run(copied: Path) -> None:
    before = (copied / "finished" / "records.jsonl").read_bytes()
    run(stored_study(), copied / "finished", allow_mixed=True)
    after = (copied / "finished" / "records.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b'"kind":"run"') == before.count(b'"kind":"run"')


def test_no_path_of_a_machine_is_stored() -> None:
    for path in (*FINISHED.iterdir(), *INTERRUPTED.iterdir()):
        assert str(Path.home()) + "/" not in path.read_text()
        assert str(HERE.parents[1]) not in path.read_text()
