"""A roll-out that an earlier version wrote is read, verified and continued; its guarded job resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sabun import audit
from sabun.rollout import Rollout, choose

from ..fixtures.make_rollout import HERE, JOB, KILLED_AT, ROLLOUT, STEPS, day_after, stored_plan, train


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(ROLLOUT, tmp_path / "rollout")
    shutil.copytree(HERE / "study", tmp_path / "study")
    return tmp_path / "rollout"


def test_the_state_is_read_and_verified(copied: Path) -> None:
    rollout = Rollout(copied)
    found, notes = rollout.verify()
    assert (found.ok, notes) == (True, [])
    assert rollout.plan() == rollout.state().plan == stored_plan()
    assert rollout.state().stage.name == "pilot"
    assert rollout.state().override == ""
    assert choose(JOB, path=copied).role == "challenger"


def test_its_gate_judges_the_stored_study_and_the_next_stage_is_entered(copied: Path) -> None:
    rollout = Rollout(copied)
    now = day_after(copied.parent / "study" / "finished")
    assert rollout.examine("production", now=now).passed
    state, finding = rollout.promote(now=now)
    assert state.stage.name == "production"
    logged = [event.data["gate"] for event in rollout.log.read() if "gate" in event.data]
    assert [gate["study_hash"] for gate in logged] == [finding.facts["study_hash"]] * 2  # type: ignore[index, call-overload]


def test_the_killed_job_ends_with_the_weights_of_the_undisturbed_one(copied: Path) -> None:
    assert train(copied, STEPS) == json.loads((copied / "weights.json").read_text())
    events = audit.read(copied / f"{JOB}.audit.jsonl")
    assert [event.event for event in events] == ["guard.started", "guard.skipped", "guard.resumed", "guard.skipped"]
    assert events[2].data["to_step"] == KILLED_AT // 5 * 5
