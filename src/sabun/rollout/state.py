"""Where a roll-out stands: read from its audit log, changed only through it.

The log is the truth. Beside the plan ``NAME.toml`` lie ``NAME.audit.jsonl``, the log, and ``NAME.state.json``, a copy
of what the log says for dashboards and shell scripts. Every change is an event first and a new state file second, so a
process killed between the two leaves a state file that is one event late; whoever looks next renews it. Jobs read the
log itself and are never late.

What counts is the plan that the log holds, not the file: an edit of ``rollout.toml`` has no effect until ``apply``
writes it to the log. Special cases: ``promote`` asks the gate of the next stage, ``rollback`` asks nobody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sabun import audit
from sabun.audit import AuditEvent, AuditLog
from sabun.errors import OptionError, RolloutError, SabunWarning, StoreError
from sabun.journal import GENESIS, JournalVerification, Json
from sabun.rollout import gate as evidence
from sabun.rollout.gate import Finding
from sabun.rollout.plan import Plan, Stage

__all__ = ["PLAN_VARIABLE", "Rollout", "State"]

PLAN_VARIABLE = "SABUN_ROLLOUT"
STARTED, CHANGED = "rollout.started", "rollout.changed"
PROMOTED, ROLLED_BACK, REFUSED = "rollout.promoted", "rollout.rolled-back", "rollout.refused"
_MEND = "Correct that side of rollout.toml (options = { lr = 0.001 }), then run `sabun rollout apply --reason '…'`."
_MOVES = (STARTED, CHANGED, PROMOTED, ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class State:
    """What the log says: the plan in force, the stage, since when, by which event, and where the chain ends.

    ``override`` is the reason why the stage was entered without a passing gate; empty where the gate passed.
    """

    plan: Plan
    stage: Stage
    since: str
    seq: int
    override: str
    head: str

    def to_json(self) -> dict[str, Json]:
        """What the state file holds."""
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

    Opening reads nothing. ``actor`` is who asks, for the log; by default user@host.
    """

    def __init__(self, path: str | Path | None = None, *, actor: str | None = None) -> None:
        chosen = Path(path if path is not None else os.environ.get(PLAN_VARIABLE) or "rollout.toml")
        self.plan_path = chosen if chosen.suffix == ".toml" else chosen / "rollout.toml"
        self.log = AuditLog(self.plan_path.with_suffix(".audit.jsonl"), actor=actor)
        self.state_path = self.plan_path.with_suffix(".state.json")

    @property
    def folder(self) -> Path:
        """Where the plan lies; its studies and kill files are relative to it."""
        return self.plan_path.parent

    def plan(self) -> Plan:
        """The plan file as it is now, in force or not."""
        return Plan.load(self.plan_path)

    def state(self) -> State:
        """What the log says. Raises RolloutError where the roll-out was not started or the log does not hold."""
        state, problem = self.state_or_problem()
        if problem:
            raise RolloutError(
                f"{problem} Every new job trains with the champion.",
                fix="Keep the log and its head file as evidence, move them away, and start again with `rollout init`.",
            )
        if state is None:
            raise RolloutError(f"the roll-out at {self.plan_path} was not started.", fix="Run `sabun rollout init`.")
        return state

    def state_or_problem(self) -> tuple[State | None, str]:
        """The state (None before the start), and what is wrong with the log (empty when nothing is); never raises."""
        try:
            if not self.log.path.exists() and not self.log.head_path.exists():
                return None, ""
        except OSError as error:
            return None, f"cannot look at the audit log {self.log.path}: {error.strerror}."
        try:
            return _replay(self.log.read()), ""
        except (StoreError, RolloutError) as error:
            return None, error.cause if error.cause.endswith(".") else f"{error.cause}."

    def start(self, plan: Plan | None = None) -> State:
        """Write ``plan`` (by default the file that is there) and the first event. Killed in between, start again."""
        if self.state_or_problem() != (None, ""):
            self.state()  # says so if the log is broken
            raise RolloutError(
                f"the roll-out at {self.plan_path} was started already.",
                fix="Edit the plan and run `sabun rollout apply`, or choose another directory.",
            )
        if plan is not None:
            if self.plan_path.exists() and self.plan() != plan:
                raise RolloutError(f"there is another plan at {self.plan_path}.", fix="Move it away, or start with it.")
            _replace(self.plan_path, plan.to_toml())
        plan = self.plan()
        head = audit.verify(self.log.path).head if self.log.path.exists() else GENESIS
        return self._record(head, STARTED, {"stage": plan.stages[0].name, "plan": plan.to_json()})

    def promote(self, *, override: str | None = None, now: datetime | None = None) -> tuple[State, Finding]:
        """Enter the next stage if its gate passes, or with a reason in ``override``; both are logged.

        Raises RolloutError, after logging the refusal, when the gate does not pass or, override or not, when a side of
        the plan cannot be built; and without a trace when there is no next stage or the plan file was edited and not
        applied.
        """
        _check_reason(override)
        before = self._in_force()
        position = before.plan.index(before.stage.name) + 1
        if position == len(before.plan.stages):
            raise RolloutError(f"{before.stage.name!r} is the last stage.", fix="There is nothing left to promote to.")
        target = before.plan.stages[position]
        finding = self._ask(before, before.plan, target, override, now)
        moved = _moved(before.stage, target) | {"gate": finding.to_json()} | _reason(finding, override)
        return self._record(before.head, PROMOTED, moved), finding

    def rollback(self, *, reason: str, to: str | None = None) -> State:
        """Return to an earlier stage, by default the first: champion everywhere, from the next job on. Asks no gate."""
        _check_reason(reason)
        before = self.state()
        plan = before.plan
        target = plan.stages[0] if to is None else plan.stages[plan.index(to)]
        if plan.index(target.name) > plan.index(before.stage.name):
            raise RolloutError(
                f"{target.name!r} comes after {before.stage.name!r}.", fix="Use promote, which asks the gate."
            )
        return self._record(None, ROLLED_BACK, _moved(before.stage, target) | {"reason": reason})

    def apply(self, *, reason: str, override: str | None = None, now: datetime | None = None) -> State:
        """Put the edited plan file into force.

        A change of name, champion or challenger goes back to the first stage, because the evidence was for others. A
        larger share of the current stage needs its gate to pass, or an ``override``; everything else stays where it is.
        Raises RolloutError where a side of the plan cannot be built.
        """
        _check_reason(reason)
        _check_reason(override)
        before, plan = self.state(), self.plan()
        if plan == before.plan:
            raise RolloutError("the plan file is the plan in force.", fix="Nothing to apply.")
        names = [stage.name for stage in plan.stages]
        old = (before.plan.name, before.plan.champion, before.plan.challenger)
        same = old == (plan.name, plan.champion, plan.challenger) and before.stage.name in names
        target = plan.stages[plan.index(before.stage.name)] if same else plan.stages[0]
        wrong, _ = _unbuildable(plan)
        if wrong:
            raise RolloutError(f"the plan is not put into force: {' '.join(wrong)}", fix=_MEND)
        changed: dict[str, Json] = {"stage": target.name, "plan": plan.to_json(), "reason": reason}
        if target.share > before.stage.share:
            finding = self._ask(before, plan, target, override, now)
            changed |= {"gate": finding.to_json(), **_reason(finding, override)}
        return self._record(before.head, CHANGED, changed)

    def examine(self, stage: str, *, now: datetime | None = None) -> Finding:
        """What the gate of ``stage`` says now; asks only, changes nothing."""
        plan = self.state().plan
        return self._examined(plan, plan.stages[plan.index(stage)], now)[0]

    def verify(self, *, anchor: str | None = None) -> tuple[JournalVerification, list[str]]:
        """The chain (see :func:`sabun.audit.verify`), and in sentences whatever else does not fit it."""
        found, events = self.log.load(anchor=anchor)
        state, problem = self.state_or_problem()
        if not found.ok:
            return found, []
        if state is None:
            return found, [problem or "the roll-out was not started."]
        wrong = []
        try:
            if self.plan() != state.plan:
                wrong.append(f"{self.plan_path.name} was edited and not applied: the plan in the log is in force.")
        except RolloutError as error:
            wrong.append(error.cause)
        if (line := audit.clock_set_back(events)) is not None:
            wrong.append(f"the clock was set back before line {line}; the order of events is that of the log.")
        if _load(self.state_path) != state.to_json():
            wrong.append(f"{self.state_path.name} does not say what the log says.")
        return found, wrong

    def renew(self) -> bool:
        """Write the state file anew where it does not say what the log says; True if it was so."""
        state = self.state()
        if _load(self.state_path) == state.to_json():
            return False
        _replace(self.state_path, json.dumps(state.to_json(), indent=2, ensure_ascii=False) + "\n")
        return True

    def _in_force(self) -> State:
        state = self.state()
        if self.plan() != state.plan:
            raise RolloutError(
                f"{self.plan_path} was edited since it was put into force.",
                fix="Run `sabun rollout apply --reason '…'` first, or undo the edit.",
            )
        return state

    def _ask(self, before: State, plan: Plan, target: Stage, override: str | None, now: datetime | None) -> Finding:
        finding, wrong = self._examined(plan, target, now)
        if wrong:  # a reason does not make it trainable
            self.log.append(REFUSED, {"to": target.name, "gate": finding.to_json()}, after=before.head)
            raise RolloutError(f"{target.name!r} is refused: {' '.join(wrong)}", fix=_MEND)
        if not finding.passed and override is None:
            self.log.append(REFUSED, {"to": target.name, "gate": finding.to_json()}, after=before.head)
            raise RolloutError(
                f"the gate of {target.name!r} does not pass: {' '.join(finding.problems)}",
                fix="Mend that, or give a reason with --override; it is logged as an override.",
            )
        return finding

    def _examined(self, plan: Plan, target: Stage, now: datetime | None) -> tuple[Finding, list[str]]:
        """What the gate of ``target`` says, and why no job could build a side, which is among its problems."""
        finding = evidence.examine(target.gate, plan, self.folder, now=now)
        wrong, unjudged = _unbuildable(plan)
        problems = (*finding.problems, *wrong, *unjudged)
        return dataclasses.replace(finding, passed=not problems, problems=problems), wrong

    def _record(self, head: str | None, event: str, fields: Mapping[str, Json]) -> State:
        self.log.append(event, fields, after=head)
        state = self.state()
        try:
            self.renew()
        except RolloutError as error:  # the event stands; whoever looks next renews the copy
            warnings.warn(f"{event} is in the audit log and in force, but {error.cause}", SabunWarning, stacklevel=3)
        return state


def _unbuildable(plan: Plan) -> tuple[list[str], list[str]]:
    """See :func:`sabun.rollout.jobs.unbuildable`; imported here because choosing and looking need no torch."""
    from sabun.rollout.jobs import unbuildable

    return unbuildable(plan)


def _replay(records: list[AuditEvent]) -> State | None:
    """The state after all events; others than the roll-out's own (a guard's, a repair's) are passed over."""
    state: State | None = None
    for record in records:
        if record.event not in _MOVES:
            continue
        data = record.data
        try:
            plan = Plan.from_json(_mapping(data["plan"])) if "plan" in data else None
            if plan is None:
                if state is None:
                    raise KeyError("plan")
                plan = state.plan
            stage = plan.stages[plan.index(str(data["to" if "to" in data else "stage"]))]
        except (KeyError, TypeError) as error:
            raise RolloutError(f"event {record.seq} ({record.event}) lacks {error}.") from None
        override = str(data.get("override", ""))
        state = State(plan, stage, record.time, record.seq, override, record.hash)
    if state is None:
        return None
    return State(state.plan, state.stage, state.since, state.seq, state.override, records[-1].hash)


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise TypeError("a plan")
    return value


def _moved(before: Stage, after: Stage) -> dict[str, Json]:
    return {"from": before.name, "to": after.name, "share": after.share}


def _reason(finding: Finding, override: str | None) -> dict[str, Json]:
    """An override is logged as one only where it was needed."""
    return {} if finding.passed or override is None else {"override": override}


def _check_reason(reason: str | None) -> None:
    if reason is not None and not reason.strip():
        raise OptionError("the reason is empty.", fix="Say why, in a sentence: it stays in the audit log.")


def _load(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _replace(path: Path, text: str) -> None:
    """Write the whole file or nothing: draft, sync, rename."""
    draft = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise RolloutError(f"cannot write {path}: {error}.", fix="Check path, rights and space.") from None
