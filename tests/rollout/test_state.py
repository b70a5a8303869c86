"""Stages move only with evidence or a reason, and every move survives a kill between any two writes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from sabun import audit
from sabun.errors import OptionError, RolloutError, StoreError
from sabun.rollout.choice import choose
from sabun.rollout.rollout_plan import RolloutPlan
from sabun.rollout.state import Rollout

from ..kills import KILLED, killed

WHY = "this test is not about gates"
WriteStudy = Callable[..., Path]


def events(rollout: Rollout) -> list[str]:
    return [record.event for record in rollout.log.read()]


def test_a_roll_out_with_evidence_at_every_stage(tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy) -> None:
    rollout = Rollout(tmp_path, actor="operator")
    assert rollout.start(plan).stage.name == "poc"
    for study, stage in (("poc", "pilot"), ("pilot", "canary"), ("canary", "production")):
        write_study(tmp_path / "studies" / study)
        state, finding = rollout.promote()
        assert (state.stage.name, state.override, finding.passed) == (stage, "", True)
    with pytest.raises(RolloutError, match="last stage"):
        rollout.promote()
    assert events(rollout) == ["rollout.started", *["rollout.promoted"] * 3]
    gate = rollout.log.read()[1].data["gate"]
    assert (gate["verdict"], gate["seeds"], gate["passed"], gate["problems"]) == ("go", 10, True, [])
    assert {record.actor for record in rollout.log.read()} == {"operator"}
    assert rollout.verify()[1] == []


def test_a_promotion_without_a_passing_gate_is_refused_and_logged(
    tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy
) -> None:
    rollout = Rollout(tmp_path)
    rollout.start(plan)
    with pytest.raises(RolloutError, match=r"gate of 'pilot' does not pass.*no study in") as caught:
        rollout.promote()
    assert "--override" in caught.value.fix
    write_study(tmp_path / "studies" / "poc", gain=0.0)
    with pytest.raises(RolloutError, match="asks for 'go', the study's verdict"):
        rollout.promote()
    assert rollout.state().stage.name == "poc"
    assert events(rollout) == ["rollout.started", "rollout.refused", "rollout.refused"]


def test_an_override_needs_a_reason_and_is_logged_as_one(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout = Rollout(tmp_path)
    rollout.start(plan)
    for empty in ("", "  "):
        with pytest.raises(OptionError, match="reason is empty"):
            rollout.promote(override=empty)
    state, finding = rollout.promote(override="vendor deadline, risk accepted by N. N.")
    assert (state.stage.name, finding.passed) == ("pilot", False)
    assert state.override == "vendor deadline, risk accepted by N. N."
    data = rollout.log.read()[-1].data
    assert data["override"] == state.override
    assert data["gate"]["problems"]


def test_an_override_that_was_not_needed_is_not_logged_as_one(
    tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy
) -> None:
    write_study(tmp_path / "studies" / "poc")
    rollout = Rollout(tmp_path)
    rollout.start(plan)
    state, _ = rollout.promote(override="to be sure")
    assert state.override == ""
    assert "override" not in rollout.log.read()[-1].data


def test_rolling_back_asks_nobody_but_needs_a_reason(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout = Rollout(tmp_path)
    rollout.start(plan)
    for _ in range(3):
        rollout.promote(override=WHY)
    with pytest.raises(OptionError, match="reason is empty"):
        rollout.rollback(reason="")
    assert rollout.rollback(reason="loss spikes", to="canary").stage.name == "canary"
    with pytest.raises(RolloutError, match="comes after"):
        rollout.rollback(reason="x", to="production")
    with pytest.raises(RolloutError, match="Did you mean 'pilot'"):
        rollout.rollback(reason="x", to="pilott")
    (tmp_path / "rollout.toml").unlink()  # the way back does not depend on the plan file
    assert rollout.rollback(reason="incident 42").stage.share == 0.0
    assert rollout.log.read()[-1].data == {"from": "canary", "to": "poc", "share": 0.0, "reason": "incident 42"}


def test_of_two_operators_who_decide_at_once_the_later_is_refused(
    tmp_path: Path, plan: RolloutPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, other = Rollout(tmp_path), Rollout(tmp_path)
    rollout.start(plan)
    real = Rollout._ask

    def slow(self: Rollout, *args: object) -> object:
        finding = real(self, *args)  # type: ignore[arg-type]
        monkeypatch.setattr(Rollout, "_ask", real)
        other.rollback(reason="stop everything")
        return finding

    monkeypatch.setattr(Rollout, "_ask", slow)
    with pytest.raises(StoreError, match="in the meantime"):
        rollout.promote(override=WHY)
    assert rollout.state().stage.name == "poc"


def test_starting_twice_is_refused(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout = Rollout(tmp_path)
    with pytest.raises(RolloutError, match="not started"):
        rollout.state()
    rollout.start(plan)
    with pytest.raises(RolloutError, match="started already"):
        rollout.start()
    rollout.log.path.write_bytes(b"x\n")
    with pytest.raises(RolloutError, match="could not be verified"):
        rollout.start()


def test_a_plan_that_is_there_is_not_overwritten(tmp_path: Path, plan: RolloutPlan) -> None:
    path = tmp_path / "rollout.toml"
    path.write_text(plan.to_toml().replace('"trial"', '"mine"'))
    before = path.read_text()
    with pytest.raises(RolloutError, match="another plan"):
        Rollout(path).start(plan)
    assert path.read_text() == before
    assert Rollout(path).start().plan.name == "mine"


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "rollout.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_edited_plan_must_be_applied_and_the_gate_cannot_be_edited_away(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout = Rollout(tmp_path)
    rollout.start(plan)
    rollout.promote(override=WHY)
    with pytest.raises(RolloutError, match="already in force"):
        rollout.apply(reason="x")
    edit(tmp_path, "share = 0.05", "share = 0.2")
    assert any("not applied" in note for note in rollout.verify()[1])
    with pytest.raises(RolloutError, match="edited since"):
        rollout.promote(override=WHY)
    with pytest.raises(RolloutError, match="gate of 'pilot' does not pass"):
        rollout.apply(reason="more jobs")
    assert rollout.state().stage.share == 0.05
    state = rollout.apply(reason="more jobs", override="agreed in the review")
    assert (state.stage.name, state.stage.share, state.override) == ("pilot", 0.2, "agreed in the review")
    edit(tmp_path, "share = 0.2", "share = 0.1")
    assert rollout.apply(reason="fewer jobs").stage.share == 0.1


@pytest.mark.parametrize(
    ("old", "new"), [('name = "trial"', 'name = "trial-2"'), ("lr = 0.1", "lr = 0.2"), ('"pilot"', '"first"')]
)
def test_new_sides_start_over(tmp_path: Path, plan: RolloutPlan, old: str, new: str) -> None:
    # The evidence was for other optimizers, or the stage is gone.
    rollout = Rollout(tmp_path)
    rollout.start(plan)
    rollout.promote(override=WHY)
    edit(tmp_path, old, new)
    assert rollout.apply(reason="changed").stage.name == "poc"


def test_the_state_file_is_a_copy_that_the_log_renews(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout = Rollout(tmp_path)
    rollout.start(plan)
    rollout.promote(override=WHY)
    path = tmp_path / "rollout.state.json"
    assert json.loads(path.read_text())["stage"] == "pilot"
    for damage in ('{"stage": "production"}', "", "{"):
        path.write_text(damage)
        assert rollout.state().stage.name == "pilot"
        assert any("state.json" in note for note in rollout.verify()[1])
        assert rollout.renew()
        assert json.loads(path.read_text())["stage"] == "pilot"
        assert not rollout.renew()


def test_events_of_others_in_the_same_log_change_nothing(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout = Rollout(tmp_path)
    rollout.start(plan)
    rollout.log.append("guard.rolled-back", {"step": 3, "stage": "production"})
    assert rollout.state().stage.name == "poc"
    assert rollout.promote(override=WHY)[0].stage.name == "pilot"


def test_a_log_of_nonsense_events_is_a_problem_and_no_crash(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout = Rollout(tmp_path)
    rollout.log.append("rollout.promoted", {"to": "production"})
    state, problem = rollout.state_or_problem()
    assert state is None
    assert "lacks" in problem
    with pytest.raises(RolloutError, match="Every new job trains with the champion"):
        rollout.state()


# Each command, killed for real at its n-th call that changes a file.
MOVES = {
    "start": (None, "poc", "rollout.started"),
    "promote": ("pilot", "canary", "rollout.promoted"),
    "refused": ("pilot", "pilot", "rollout.refused"),
    "rollback": ("pilot", "poc", "rollout.rolled-back"),
    "apply": ("pilot", "pilot", "rollout.changed"),
}


@pytest.mark.parametrize("command", MOVES)
def test_a_kill_between_any_two_writes_leaves_the_old_state_or_the_new(
    tmp_path: Path, plan: RolloutPlan, command: str
) -> None:
    before, after, event = MOVES[command]

    def move(folder: Path, acknowledge: Callable[[], None]) -> None:
        rollout = Rollout(folder, actor="x")
        match command:
            case "start":
                rollout.start()
            case "promote":
                rollout.promote(override="drill")
            case "refused":
                with contextlib.suppress(RolloutError):
                    rollout.promote()
            case "rollback":
                rollout.rollback(reason="drill")
            case "apply":
                rollout.apply(reason="drill")
        acknowledge()

    code, at, seen = KILLED, 0, set()
    while code:
        at += 1
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "rollout.toml").write_text(plan.to_toml())
        rollout = Rollout(folder)
        if command != "start":
            rollout.start()
            rollout.promote(override=WHY)
        if command == "apply":
            edit(folder, "min_seeds = 10", "min_seeds = 12")
        known = events(rollout) if command != "start" else []
        code, acknowledged = killed(at, partial(move, folder), torn=True)
        assert (code, acknowledged) in ((KILLED, 0), (0, 1))
        # What a job sees, at once and without repair: the log's state, whatever the state file says.
        assert audit.verify(rollout.log.path).ok or not rollout.log.path.exists()
        state, problem = rollout.state_or_problem()
        assert not problem
        stage = None if state is None else state.stage.name
        happened = rollout.log.path.exists() and event in events(rollout)[len(known) :]
        assert stage == (after if happened else before)
        assert choose("job", path=folder).stage == (stage or "poc")
        seen.add((code, happened))
        # Then the operator looks again, and goes on.
        if state is None:
            rollout.start()
        rollout.renew()
        assert json.loads(rollout.state_path.read_text()) == rollout.state().to_json()
        rollout.rollback(reason="going on")
        assert rollout.verify()[0].ok
        assert "interrupted" not in rollout.verify()[0].problem
    assert at > 5
    assert seen == {(KILLED, False), (KILLED, True), (0, True)}


def test_age_is_measured_at_the_time_of_asking(tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy) -> None:
    write_study(tmp_path / "studies" / "poc", age_days=29)
    rollout = Rollout(tmp_path)
    rollout.start(plan)
    assert rollout.examine("pilot").passed
    late = rollout.examine("pilot", now=datetime.now(UTC) + timedelta(days=2))
    assert "31.0 days ago" in late.problems[0]
