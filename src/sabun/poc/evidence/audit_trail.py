"""The audit log of a study: who asked for what, and when, in a chain of hashes; and whether the records agree with it.

It lies in the study's directory as ``audit.jsonl`` (:mod:`sabun.audit`):

    study.frozen        the specification's hash, before the first run
    study.opened        a session of work begins; the newest record at that time
    run.started         before a run; a start without an end was cut off
    run.retried         its worker died, it starts again
    run.ended           after its record is on the disk: the number of its line and the SHA-256 of that line
    runs.withdrawn      results were taken back, to be had again; they stay among the records
    look.taken          a sequential study was judged in the middle
    study.ended, study.interrupted
    verdict             what a report said, of which records
    tampering.found     what a check of the records found

So records and log hold each other: a record that was edited, removed (at the end too) or added does not fit the log.
Special cases: killed between a record and its event, the study writes the event when it is resumed, marked ``late``;
a study begun before there were such logs gets its events then. Events are in the chain at once and sealed every
``SEAL_EVERY`` seconds, at the end of a session, and with a verdict, so that a short run is not held up.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sabun import audit
from sabun.audit import AuditLog, Json, Record
from sabun.errors import StoreError

if TYPE_CHECKING:
    from sabun.poc.evidence.store import Store
    from sabun.poc.records import RunResult
    from sabun.poc.spec import Run

__all__ = ["LOG", "Trail", "check", "disagreement", "read", "report_tampering", "unfinished", "write_verdict"]

LOG = "audit.jsonl"
"""The file of the trail, in the directory of the study."""
SEAL_EVERY = 2.0
"""Seconds of a running study that a power cut may take from the end of its log; a kill takes nothing."""

FROZEN, OPENED, STARTED, ENDED = "study.frozen", "study.opened", "run.started", "run.ended"
WITHDRAWN = "runs.withdrawn"
VERDICT, TAMPERING = "verdict", "tampering.found"


class Trail:
    """The writer's side, one for a session of work on ``store``. Raises StoreError where the log cannot be written."""

    def __init__(self, store: Store) -> None:
        """Take up the log of ``store``, which :func:`check` found in order, and bring it up to date."""
        self._log = AuditLog(store.path / LOG)
        self._sealed = time.monotonic()
        events = read(store)
        study = store.study
        if not any(event.event == FROZEN for event in events):
            arms: dict[str, Json] = {arm.name: arm.optimizer for arm in study.arms}
            self._log.append(FROZEN, study=study.name, hash=study.hash, task=study.task, arms=arms)
        known = _logged(events)
        for number in sorted({*store.run_at, *store.withdrawn_at} - known):
            if number in store.run_at:
                self._ended(store, store.run_at[number], number, late=True)
            else:
                self.withdrawn(store, number, late=True)
        self._log.append(OPENED, runs=len(store.results), **_newest(store))

    def started(self, run: Run) -> None:
        """``run`` is about to start."""
        self._write(STARTED, run=run.id, arm=run.arm, seed=run.seed, phase=run.phase)

    def retried(self, run: Run, reason: str) -> None:
        """The worker of ``run`` died; it is about to start again."""
        self._write("run.retried", run=run.id, arm=run.arm, seed=run.seed, phase=run.phase, reason=reason)

    def ended(self, store: Store, result: RunResult) -> None:
        """``result`` is the newest record of ``store``."""
        self._ended(store, result, store.lines)

    def withdrawn(self, store: Store, number: int, **more: Json) -> None:
        """Line ``number`` of ``store`` takes results back."""
        record: dict[str, Json] = {"record": number, "sha256": store.digests[number - 1]}
        self._write(WITHDRAWN, runs=store.withdrawn_at[number], **record, **more)

    def looked(self, seeds: int, *, decided: bool) -> None:
        """A sequential study was judged at ``seeds`` seeds."""
        self._write("look.taken", seeds=seeds, decided=decided)

    def close(self, store: Store, *, reason: str = "") -> None:
        """The session ends: the study is done, or ``reason`` says what stopped it."""
        if reason:
            with contextlib.suppress(StoreError):  # what stopped it matters more
                self._log.append("study.interrupted", reason=reason, runs=len(store.results))
        else:
            self._log.append("study.ended", runs=len(store.results), **_newest(store))

    def _ended(self, store: Store, result: RunResult, number: int, **more: Json) -> None:
        facts: dict[str, Json] = {"run": result.run, "arm": result.arm, "seed": result.seed, "phase": result.phase}
        record: dict[str, Json] = {"record": number, "sha256": store.digests[number - 1]}
        self._write(ENDED, **facts, status=result.status, **record, **more)

    def _write(self, event: str, **fields: Json) -> None:
        self._log.append_unsealed(event, **fields)
        now = time.monotonic()
        if now - self._sealed > SEAL_EVERY:
            self._log.seal()
            self._sealed = now


def read(store: Store) -> list[Record]:
    """The events of a study's log, oldest first. Raises StoreError where the log does not hold, or is gone."""
    path = store.path / LOG
    if path.exists() or AuditLog(path).head_path.exists():
        return audit.read(path)
    if store.logged and store.results:
        raise StoreError(f"the audit log {path} is gone.", fix="Restore it from a copy; do not rely on the records.")
    return []


def check(store: Store, *, anchor: str | None = None) -> audit.Verification:
    """Whether the log holds and the records of ``store`` are those that it saw written; says what was found.

    ``anchor`` is a head hash kept elsewhere. Read ``store`` after the log where both may be growing: here it is read
    anew. A study without a log (of an earlier version) has nothing to disagree with: 0 events.
    """
    path = store.path / LOG
    try:
        events = read(store)
    except StoreError as error:
        found = audit.verify(path)
        return found if not found.ok else audit.Verification(False, 0, audit.GENESIS, None, error.cause)
    if not events:
        problem = "" if anchor is None else f"there is no audit log that could contain the anchor {anchor}."
        return audit.Verification(not problem, 0, audit.GENESIS, None, problem)
    found = audit.verify(path, anchor=anchor)
    if found.ok and (problem := disagreement(events, type(store).open(store.path))):
        return audit.Verification(False, found.count, found.head, None, problem)
    return found


def disagreement(events: Iterable[Record], store: Store) -> str:
    """What in the records is not as the log saw it written, in a sentence; empty where they agree."""
    name = f"{store.path.name}/records.jsonl"
    known = set()
    for event in events:
        try:
            if event.event == FROZEN and event.data["hash"] != store.study.hash:
                return f"the log is that of study {str(event.data['hash'])[:12]}…, not of {store.study.hash[:12]}…."
            if event.event not in (OPENED, ENDED, WITHDRAWN, "study.ended"):
                continue
            number, digest = int(str(event.data["record"])), event.data["sha256"]
        except (KeyError, ValueError):
            return f"event {event.seq} ({event.event}) of the log is not of this version."
        if number > store.lines:
            return f"{name} ends after line {store.lines}, but line {number} was written: lines were cut off."
        if number and store.digests[number - 1] != digest:
            return f"{name}, line {number} is not the line that was written: it was changed."
        if event.event in (ENDED, WITHDRAWN):
            known.add(number)
    latest = max(known, default=0)
    for number in sorted({*store.run_at, *store.withdrawn_at} - known):
        if number < latest:
            return f"{name}, line {number} was never logged: it was added."
    return ""


def unfinished(events: Iterable[Record]) -> int:
    """How many starts of runs were cut off, or are under way: starts without an end."""
    open_: Counter[str] = Counter()
    for event in events:
        run = str(event.data.get("run", ""))
        if event.event == STARTED:
            open_[run] += 1
        elif event.event == ENDED and open_[run]:
            open_[run] -= 1
    return open_.total()


def write_verdict(store: Store, verdicts: Mapping[str, str]) -> str:
    """Log what was said of the records of ``store``, once, and return the head hash of the log.

    ``verdicts``: candidate → decision. Returns "" for a study without a log, and where the log cannot be written
    (a copy that is read only) the hash that it has.
    """
    if not (store.path / LOG).exists():
        return ""
    events = read(store)
    said: dict[str, Json] = {"verdicts": dict(verdicts), "runs": len(store.results), **_newest(store)}
    before = [event for event in events if event.event == VERDICT]
    if before and before[-1].data == said:
        return events[-1].hash
    try:
        return AuditLog(store.path / LOG).append(VERDICT, **said).hash
    except StoreError:
        return events[-1].hash


def report_tampering(path: Path, problem: str) -> None:
    """Log what a check of the records in ``path`` found, once, where there is a log that holds and can be written."""
    with contextlib.suppress(StoreError, OSError):
        if (path / LOG).exists():
            last = audit.read(path / LOG)[-1:]
            if not last or (last[0].event, last[0].data.get("problem")) != (TAMPERING, problem):
                AuditLog(path / LOG).append(TAMPERING, problem=problem)


def _logged(events: Iterable[Record]) -> set[int]:
    return {int(str(event.data["record"])) for event in events if event.event in (ENDED, WITHDRAWN)}


def _newest(store: Store) -> dict[str, Json]:
    """The newest record: number of its line (0: none) and SHA-256."""
    return {"record": store.lines, "sha256": store.digests[-1] if store.digests else audit.GENESIS}
