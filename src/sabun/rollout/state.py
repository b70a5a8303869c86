"""The state of a roll-out: read from its audit log, changed only through it.

Beside the plan ``NAME.toml`` are ``NAME.audit.jsonl``, the log, which is authoritative, and ``NAME.state.json``, a copy
of the state for dashboards and shell scripts. Every change is an event first and a new state file second, so a process
killed between the two leaves a state file that is one event late; the next command renews it. Jobs read the log.

The plan in the log is in force, not the file: an edit of ``rollout.toml`` has no effect until ``apply`` writes it to
the log. ``promote`` needs the gate of the next stage to pass; ``rollback`` needs nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sabun import _files, audit
from sabun.audit import AuditEvent, AuditLog
from sabun.errors import OptionError, RolloutError, SabunWarning, StoreError
from sabun.journal import GENESIS, JournalVerification, Json
from sabun.rollout.gate import GateFinding, examine
from sabun.rollout.rollout_plan import RolloutPlan, Stage

__all__ = ["PLAN_VARIABLE", "Rollout", "RolloutState"]

PLAN_VARIABLE = "SABUN_ROLLOUT"
STARTED, CHANGED = "rollout.started", "rollout.changed"
PROMOTED, ROLLED_BACK, REFUSED = "rollout.promoted", "rollout.rolled-back", "rollout.refused"
_CORRECT = "Correct that side of rollout.toml (options = { lr = 0.001 }), then run `sabun rollout apply --reason '…'`."
_MOVES = (STARTED, CHANGED, PROMOTED, ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class RolloutState:
    """The plan in force, the stage, since when, by which event, and the head hash of the log.

    ``override`` is the reason for entering the stage without a passing gate; empty if the gate passed.
    """

    plan: RolloutPlan
    stage: Stage
    since: str
    seq: int
    override: str
    head: str

    def to_json(self) -> dict[str, Json]:
        """Return the content of the state file."""
        return {
            "rollout": self.plan.name,
            "plan_hash": self.plan.hash,
            "stage": self.stage.name,
            "share": self.stage.share,
            "since": self.since,
            "event": self.seq,
            "override": self.override,
        }


class Rollout:
    """One roll-out on disk. ``path`` is the plan or its directory; by default $SABUN_ROLLOUT, else ./rollout.toml.

    Opening reads nothing. ``actor`` is named in the log; by default user@host.
    """

    def __init__(self, path: str | Path | None = None, *, actor: str | None = None) -> None:
        chosen = Path(path if path is not None else os.environ.get(PLAN_VARIABLE) or "rollout.toml")
        self.plan_path = chosen if chosen.suffix == ".toml" else chosen / "rollout.toml"
        self.log = AuditLog(self.plan_path.with_suffix(".audit.jsonl"), actor=actor)
        self.state_path = self.plan_path.with_suffix(".state.json")

    @property
    def folder(self) -> Path:
        """The directory of the plan; its studies and kill files are relative to it."""
        return self.plan_path.parent

    def plan(self) -> RolloutPlan:
        """Return the plan in the file, in force or not."""
        return RolloutPlan.load(self.plan_path)

    def state(self) -> RolloutState:
        """Return the state. Raises RolloutError where the roll-out was not started, or its log is not valid."""
        state, problem = self.state_or_problem()
        if problem:
            raise RolloutError(
                f"{problem} Every new job trains with the champion.",
                fix="Keep the log and its head file as evidence, move them away, and start again with `rollout init`.",
            )
        if state is None:
            raise RolloutError(f"the roll-out at {self.plan_path} was not started.", fix="Run `sabun rollout init`.")
        return state

    def state_or_problem(self) -> tuple[RolloutState | None, str]:
        """Return the state (None before the start), and what is wrong with the log (empty: nothing). Never raises."""
        try:
            if not self.log.journal.exists():
                return None, ""
        except OSError as error:
            return None, f"cannot look at the audit log {self.log.path}: {error.strerror}."
        try:
            return _replay(self.log.read()), ""
        except (StoreError, RolloutError) as error:
            return None, error.cause if error.cause.endswith(".") else f"{error.cause}."

    def start(self, plan: RolloutPlan | None = None) -> RolloutState:
        """Write ``plan`` (by default, use the existing file) and the first event. After a kill in between, repeat."""
        if self.state_or_problem() != (None, ""):
            self.state()  # raises if the log is not valid
            raise RolloutError(
                f"the roll-out at {self.plan_path} was started already.",
                fix="Edit the plan and run `sabun rollout apply`, or choose another directory.",
            )
        if plan is not None:
            if self.plan_path.exists() and self.plan() != plan:
                raise RolloutError(f"there is another plan at {self.plan_path}.", fix="Move it away, or start with it.")
            _write(self.plan_path, plan.to_toml())
        plan = self.plan()
        head = audit.verify(self.log.path).head if self.log.path.exists() else GENESIS
        return self._record(head, STARTED, {"stage": plan.stages[0].name, "plan": plan.to_json()})

    def promote(self, *, override: str | None = None, now: datetime | None = None) -> tuple[RolloutState, GateFinding]:
        """Enter the next stage if its gate passes, or with a reason in ``override``; both are logged.

        Raises RolloutError, after logging the refusal, where the gate does not pass or, override or not, a side of the
        plan cannot be built; and without logging where there is no next stage, or the plan file was edited and not
        applied.
        """
        _check_reason(override)
        before = self._in_force()
        position = before.plan.index(before.stage.name) + 1
        if position == len(before.plan.stages):
            raise RolloutError(f"{before.stage.name!r} is the last stage.", fix="The roll-out is complete.")
        target = before.plan.stages[position]
        finding = self._ask(before, before.plan, target, override, now)
        moved = _moved(before.stage, target) | {"gate": finding.to_json()} | _reason(finding, override)
        return self._record(before.head, PROMOTED, moved), finding

    def rollback(self, *, reason: str, to: str | None = None) -> RolloutState:
        """Return to an earlier stage, by default the first, where new jobs train with the champion. Needs no gate."""
        _check_reason(reason)
        before = self.state()
        plan = before.plan
        target = plan.stages[0] if to is None else plan.stages[plan.index(to)]
        if plan.index(target.name) > plan.index(before.stage.name):
            raise RolloutError(
                f"{target.name!r} comes after {before.stage.name!r}.", fix="Use promote, which examines the gate."
            )
        # The way back is never refused because of another operator's event.
        return self._record(None, ROLLED_BACK, _moved(before.stage, target) | {"reason": reason})

    def apply(self, *, reason: str, override: str | None = None, now: datetime | None = None) -> RolloutState:
        """Put the edited plan file into force.

        A change of name, champion or challenger returns to the first stage, because the evidence was for others. A
        larger share of the current stage needs its gate to pass, or an ``override``. Otherwise the stage stays.
        Raises RolloutError where a side of the plan cannot be built.
        """
        _check_reason(reason)
        _check_reason(override)
        before, plan = self.state(), self.plan()
        if plan == before.plan:
            raise RolloutError("the plan file is already in force.", fix="Edit it first.")
        names = [stage.name for stage in plan.stages]
        old = (before.plan.name, before.plan.champion, before.plan.challenger)
        same = old == (plan.name, plan.champion, plan.challenger) and before.stage.name in names
        target = plan.stages[plan.index(before.stage.name)] if same else plan.stages[0]
        wrong, _ = _check_sides(plan)
        if wrong:
            raise RolloutError(f"the plan cannot be applied: {' '.join(wrong)}", fix=_CORRECT)
        changed: dict[str, Json] = {"stage": target.name, "plan": plan.to_json(), "reason": reason}
        if target.share > before.stage.share:
            finding = self._ask(before, plan, target, override, now)
            changed |= {"gate": finding.to_json(), **_reason(finding, override)}
        return self._record(before.head, CHANGED, changed)

    def examine(self, stage: str, *, now: datetime | None = None) -> GateFinding:
        """Return what the gate of ``stage`` says now; changes nothing."""
        plan = self.state().plan
        return self._examined(plan, plan.stages[plan.index(stage)], now)[0]

    def verify(self, *, anchor: str | None = None) -> tuple[JournalVerification, list[str]]:
        """Verify the log; return the result, and in sentences what else does not agree with the log."""
        found, events = self.log.load(anchor=anchor)
        if not found.ok:
            return found, []
        try:
            state = _replay(events)
        except RolloutError as error:
            return found, [error.cause]
        if state is None:
            return found, ["the roll-out was not started."]
        wrong = []
        try:
            if self.plan() != state.plan:
                wrong.append(f"{self.plan_path.name} was edited and not applied: the plan in the log is in force.")
        except RolloutError as error:
            wrong.append(error.cause)
        if (line := audit.clock_set_back(events)) is not None:
            wrong.append(f"the clock was set back before line {line}; the order of events is that of the log.")
        if _load(self.state_path) != state.to_json():
            wrong.append(f"{self.state_path.name} does not agree with the log.")
        return found, wrong

    def renew(self) -> bool:
        """Renew the state file if it does not agree with the log; return whether that was so."""
        state = self.state()
        if _load(self.state_path) == state.to_json():
            return False
        _write(self.state_path, json.dumps(state.to_json(), indent=2, ensure_ascii=False) + "\n")
        return True

    def _in_force(self) -> RolloutState:
        state = self.state()
        if self.plan() != state.plan:
            raise RolloutError(
                f"{self.plan_path} was edited since it was put into force.",
                fix="Run `sabun rollout apply --reason '…'` first, or undo the edit.",
            )
        return state

    def _ask(
        self, before: RolloutState, plan: RolloutPlan, target: Stage, override: str | None, now: datetime | None
    ) -> GateFinding:
        finding, wrong = self._examined(plan, target, now)
        if finding.passed or (override is not None and not wrong):
            return finding
        self.log.append(REFUSED, {"to": target.name, "gate": finding.to_json()}, after=before.head)
        if wrong:  # an override does not make it trainable
            raise RolloutError(f"{target.name!r} is refused: {' '.join(wrong)}", fix=_CORRECT)
        raise RolloutError(
            f"the gate of {target.name!r} does not pass: {' '.join(finding.problems)}",
            fix="Correct that, or give a reason with --override; it is logged as an override.",
        )

    def _examined(self, plan: RolloutPlan, target: Stage, now: datetime | None) -> tuple[GateFinding, list[str]]:
        """Return the finding of the gate of ``target``, and which of its problems are sides that no job could build."""
        finding = examine(target.gate, plan, self.folder, now=now)
        wrong, unjudged = _check_sides(plan)
        problems = (*finding.problems, *wrong, *unjudged)
        return dataclasses.replace(finding, passed=not problems, problems=problems), wrong

    def _record(self, head: str | None, event: str, fields: Mapping[str, Json]) -> RolloutState:
        self.log.append(event, fields, after=head)
        state = self.state()
        try:
            self.renew()
        except RolloutError as error:  # the event stands; the next command renews the copy
            warnings.warn(f"{event} is in the audit log and in force, but {error.cause}", SabunWarning, stacklevel=3)
        return state


def _check_sides(plan: RolloutPlan) -> tuple[list[str], list[str]]:
    """See :func:`sabun.rollout.sides.check_sides`; imported here because choosing and looking need no torch."""
    from sabun.rollout.sides import check_sides

    return check_sides(plan)


def _replay(records: list[AuditEvent]) -> RolloutState | None:
    """Return the state after all events. Those of others, such as a guard's, are ignored."""
    state: RolloutState | None = None
    for record in records:
        if record.event not in _MOVES:
            continue
        data = record.data
        try:
            plan = RolloutPlan.from_json(_mapping(data["plan"])) if "plan" in data else None
            if plan is None:
                if state is None:
                    raise KeyError("plan")
                plan = state.plan
            stage = plan.stages[plan.index(str(data["to" if "to" in data else "stage"]))]
        except (KeyError, TypeError) as error:
            raise RolloutError(f"event {record.seq} ({record.event}) lacks {error}.") from None
        override = str(data.get("override", ""))
        state = RolloutState(plan, stage, record.time, record.seq, override, record.hash)
    return None if state is None else dataclasses.replace(state, head=records[-1].hash)


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise TypeError("a plan")
    return value


def _moved(before: Stage, after: Stage) -> dict[str, Json]:
    return {"from": before.name, "to": after.name, "share": after.share}


def _reason(finding: GateFinding, override: str | None) -> dict[str, Json]:
    """Return the override, which is logged only where it was needed."""
    return {} if finding.passed or override is None else {"override": override}


def _check_reason(reason: str | None) -> None:
    if reason is not None and not reason.strip():
        raise OptionError("the reason is empty.", fix="Give the reason in a sentence: it stays in the audit log.")


def _load(path: Path) -> object:
    try:
        return json.loads(_files.read(path))
    except (OSError, ValueError, RecursionError):
        return None


def _write(path: Path, text: str) -> None:
    """Write the whole file or nothing. Raises RolloutError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _files.replace(path, text.encode())
    except OSError as error:
        raise RolloutError(f"cannot write {path}: {error}.", fix="Check path, permissions and space.") from None
