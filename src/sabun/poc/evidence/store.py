"""Where a study's evidence lives: a directory that survives crashes and refuses mixed evidence.

    study.json       the frozen specification and its hash, written before the first run
    records.jsonl    one line a session of work (its environment) and one line a finished run, in order of arrival; and
                     which results were taken back, to be had again (:meth:`Writer.withdraw`)
    audit.jsonl      who asked for what, and when; holds the hash of every line of records
                     (:mod:`sabun.poc.evidence.audit_trail`)
    live.json        what is running now, for ``status``; replaced at will, never evidence
    lock             held by the one process that writes

**Crash safety.** A run is one line, appended with one write and synced before anything else happens. Each line
carries the hash of the line before it. A kill can therefore cost the run in flight and nothing else: a torn last line
is cut off when the next writer opens the store (a reader ignores it), and a run that did not get its line is trained
again. A line that is damaged anywhere else is an edit or a failing disk; it is reported by number and never mended.

**Mixed evidence.** A run remembers its environment: machine, device, versions of torch, sabun and the arms' packages,
the task's source. Opening the store for writing in an environment of another kind raises MixedEvidenceError unless
that is allowed; then ``environments`` lists them all, for the report to say.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from sabun.errors import MixedEvidenceError, StoreError
from sabun.poc import tuning
from sabun.poc.codec import decode, encode
from sabun.poc.evidence import audit_trail as trail
from sabun.poc.evidence import environment as environments
from sabun.poc.evidence.timing import with_clock_of
from sabun.poc.judgement.assessment import Tuning
from sabun.poc.records import RunResult
from sabun.poc.spec import LogUniform, Study, hash_of

__all__ = ["Store", "Verification", "Writer"]

Spaces = Mapping[str, Mapping[str, LogUniform]]

GENESIS = "0" * 16
STUDY, RECORDS, LIVE, LOCK = "study.json", "records.jsonl", "live.json", "lock"


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` found: number of good lines, the hash of the last, and in ``problem`` what is wrong, if anything.

    ``torn``: the last line is incomplete, as after a crash; resuming the study mends it. ``events`` of the audit log
    hold, the last with hash ``audit_head``; ``cut_off`` of the runs that it saw start never ended, or have not yet.
    """

    ok: bool
    lines: int
    head: str
    problem: str = ""
    torn: bool = False
    events: int = 0
    audit_head: str = ""
    cut_off: int = 0


class Store:
    """A study's directory, read. ``Store.open`` reads it once; nothing is written and no lock is needed."""

    def __init__(self, path: Path, study: Study, created: str, spaces: Spaces) -> None:
        self.path = path
        self.study = study
        self.created = created
        self.spaces = spaces
        """Arm → what tuning may choose: the specification's spaces, and the defaults as they were at the start."""
        self.trials: dict[str, int] = {}
        """Run id → number of the tuning trial that it belongs to."""
        self.results: dict[str, RunResult] = {}
        """Finished runs by id, in the order in which they finished."""
        self.environments: list[dict[str, Any]] = []
        self.environment_of: dict[str, int] = {}
        """Run id → index in ``environments``."""
        self.exclusive: set[str] = set()
        """Ids of the runs that had the machine to themselves: their seconds can be trusted."""
        self.size = 0
        """Bytes of whole lines."""
        self.head = GENESIS
        self.lines = 0
        self.digests: list[str] = []
        """SHA-256 of every line."""
        self.run_at: dict[int, RunResult] = {}
        """Number of a line (from 1) → its run, where it is the record of one, also of one that was taken back."""
        self.withdrawn_at: dict[int, tuple[str, ...]] = {}
        """Number of a line → the runs whose results it takes back."""
        self.logged = False
        """Whether the study began with an audit log."""

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Read a store. Raises StoreError where there is none, or where it is damaged."""
        path = Path(path)
        try:
            raw = json.loads((path / STUDY).read_text(encoding="utf-8"))
            study = Study.build(raw["study"])
            intact = raw["hash"] == hash_of(raw["study"])  # as it was written: later versions may know more fields
            spaces = {
                arm: {name: LogUniform(**bounds) for name, bounds in space.items()}
                for arm, space in raw["spaces"].items()
            }
        except FileNotFoundError:
            raise StoreError(
                f"there is no study in {path}.", fix="Check the path, or run a study into it first."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path / STUDY} is damaged: {error}.", fix="Restore it, or start in another directory."
            ) from None
        if not intact:
            raise StoreError(
                f"{path / STUDY} was changed after the study began: its hash does not fit.",
                fix="Restore the file; a changed study needs a directory of its own.",
            )
        store = cls(path, study, str(raw.get("created", "")), spaces)
        store.logged = bool(raw.get("audit"))
        store._read()
        return store

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether there is a study in the directory."""
        return (Path(path) / STUDY).exists()

    @property
    def environment(self) -> dict[str, Any]:
        """The environment of the first session; empty before it."""
        return self.environments[0] if self.environments else {}

    @property
    def mixed(self) -> bool:
        """Whether runs come from environments of different kinds."""
        used = [self.environments[index] for index in sorted(set(self.environment_of.values()))]
        return any(environments.differences(used[0], other) for other in used[1:])

    @property
    def tuning(self) -> dict[str, Tuning]:
        """Arm → what tuning found, derived from the tuning runs."""
        found = {arm.name: self.tuning_of(arm.name) for arm in self.study.arms}
        return {name: value for name, value in found.items() if value is not None}

    def tuning_of(self, arm: str) -> Tuning | None:
        """What tuning found for one arm; None before its first complete trial."""
        runs: dict[int, list[RunResult]] = {}
        for run, trial in self.trials.items():
            if self.results[run].arm == arm:
                runs.setdefault(trial, []).append(self.results[run])
        return tuning.summarise(self.study, arm, self.spaces.get(arm, {}), runs)

    def runs(self) -> list[RunResult]:
        """All finished runs but those of phase ``time``, whose clock readings take the place of shared ones.

        Where a study ran several processes at a time, an evaluation run's seconds say little. A short run of the same
        arm and seed then had the machine to itself; its medians per epoch stand in ``train_s`` and ``optimizer_s`` of
        each epoch. Losses are never touched.
        """
        timed = {(r.arm, r.seed): r for r in self.results.values() if r.phase == "time"}
        return [
            with_clock_of(result, timed.get((result.arm, result.seed)))
            for result in self.results.values()
            if result.phase != "time"
        ]

    def live(self) -> dict[str, Any]:
        """What a running study last said of itself; empty where nothing is known. Never evidence."""
        try:
            return cast("dict[str, Any]", json.loads((self.path / LIVE).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def being_written(self) -> bool:
        """Whether a process is at work on this study now."""
        try:
            handle = os.open(self.path / LOCK, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    def verify(self, *, anchor: str | None = None) -> Verification:
        """Walk both chains again, from the files, and hold them against each other.

        Finds an edit, a deletion, also at the end, an addition or a reordering. Whoever can write all files can also
        write new chains; ``anchor``, a head hash of the audit log kept elsewhere, shows that.
        """
        try:
            again = Store.open(self.path)
            held = trail.check(again, anchor=anchor)
            cut_off = trail.unfinished(trail.read(again)) if held.ok else 0
        except StoreError as error:
            return Verification(False, 0, GENESIS, error.cause)
        torn = (self.path / RECORDS).exists() and (self.path / RECORDS).stat().st_size > again.size
        head = held.head if held.count else ""
        return Verification(held.ok, again.lines, again.head, held.problem, torn, held.count, head, cut_off)

    def _read(self) -> None:
        try:
            raw = (self.path / RECORDS).read_bytes()
        except FileNotFoundError:
            return
        start = 0
        while (end := raw.find(b"\n", start)) >= 0:
            line = raw[start:end]
            self._take(line, last=end + 1 == len(raw))
            if self._torn:
                return
            start = end + 1
            self.size = start

    _torn = False

    def _take(self, line: bytes, *, last: bool) -> None:
        number = self.lines + 1
        try:
            record = json.loads(line)
            chained = record["previous"] == self.head
            if chained and record["kind"] == "environment":
                self.environments.append(record["environment"])
            elif chained and record["kind"] == "run":
                result = decode(record["result"])
                self.results[result.run] = result
                self.environment_of[result.run] = int(record["environment"])
                self.run_at[number] = result
                if record["exclusive"]:
                    self.exclusive.add(result.run)
                if record["trial"] is not None:
                    self.trials[result.run] = int(record["trial"])
            elif chained and record["kind"] == "withdrawn":
                self._forget(number, record["runs"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if last:  # a line torn by a power cut may have its newline and miss its middle
                self._torn = True
                return
            raise self._damaged(number, f"cannot be read ({type(error).__name__}: {error})") from None
        if not chained:
            raise self._damaged(number, "does not follow from the line before it")
        self._count(line)

    def _forget(self, number: int, runs: Iterable[str]) -> None:
        self.withdrawn_at[number] = tuple(map(str, runs))
        for run in self.withdrawn_at[number]:
            for held in (self.results, self.environment_of, self.trials):
                held.pop(run, None)
            self.exclusive.discard(run)

    def _count(self, line: bytes) -> None:
        self.digests.append(hashlib.sha256(line).hexdigest())
        self.head = self.digests[-1][: len(GENESIS)]
        self.lines += 1

    def _damaged(self, number: int, what: str) -> StoreError:
        return StoreError(
            f"{self.path / RECORDS}, line {number} {what}: it was edited, or the disk failed.",
            fix="Restore the file from a copy, or run the study again in another directory.",
        )


class Writer(Store):
    """The one writer of a study's directory: ``with Writer.start(path, study, environment) as store``."""

    _file: int = -1
    _lock: int = -1
    _session: int = 0
    trail: trail.Trail
    _allow_mixed: bool = False

    @classmethod
    def start(
        cls,
        path: str | Path,
        study: Study,
        environment: Mapping[str, Any],
        *,
        spaces: Spaces | None = None,
        allow_mixed: bool = False,
    ) -> Writer:
        """Create the store, or resume it. Raises StoreError where another study or another writer has the directory,
        MixedEvidenceError where its records come from an environment of another kind.
        """
        path = Path(path)
        refuse_other(path, study)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(path)
        except OSError as error:
            raise _cannot_write(path, error) from None
        try:
            if not (path / STUDY).exists():
                content = {
                    "schema_version": 1,
                    "hash": study.hash,
                    "audit": trail.LOG,
                    "created": _now(),
                    "spaces": _plain_spaces(spaces or {}),
                    "study": study.model_dump(mode="json"),
                }
                try:
                    _replace(path / STUDY, content)
                except OSError as error:
                    raise _cannot_write(path, error) from None
            refuse_other(path, study)  # again, now that nobody else can write
            store = cls._open_checked(path)
            store._lock = lock
            store._allow_mixed = allow_mixed
            store._begin(dict(environment))
            store.trail = trail.Trail(store)
        except BaseException:
            os.close(lock)
            raise
        return store

    def admit(self, environment: Mapping[str, Any]) -> None:
        """Raise MixedEvidenceError where runs in ``environment`` would be of another kind than those that are there."""
        for known in self.environments:
            different = environments.differences(known, environment)
            if different and not self._allow_mixed:
                raise MixedEvidenceError(
                    f"{self.path} holds records of another environment: {'; '.join(different)}.",
                    fix="Resume where the study began, start in another directory, or allow mixed evidence: "
                    "the report will say so.",
                )

    @classmethod
    def _open_checked(cls, path: Path) -> Writer:
        """Open records and log that hold. What does not is logged, where that is possible, and never built upon."""
        store = cls.open(path)
        held = trail.check(store)
        if not held.ok:
            trail.report_tampering(path, held.problem)
            raise StoreError(
                f"the evidence in {path} does not hold: {held.problem}",
                fix="Restore the files from a copy, or run the study again in another directory.",
            )
        return store

    def _begin(self, environment: dict[str, Any]) -> None:
        self.admit(environment)
        try:
            self._file = os.open(self.path / RECORDS, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._file, self.size)
            os.lseek(self._file, self.size, os.SEEK_SET)
            os.fsync(self._file)
            _sync_directory(self.path)
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        self._session = self._enter(environment)

    def _enter(self, environment: Mapping[str, Any]) -> int:
        """The number of an environment among those of the store, where it is written down when it is new."""
        plain = dict(environment)
        if plain not in self.environments:
            self.admit(plain)
            self._append({"kind": "environment", "environment": plain})
            self.environments.append(plain)
        return self.environments.index(plain)

    def append(
        self,
        result: RunResult,
        *,
        trial: int | None = None,
        exclusive: bool = True,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a finished run part of the evidence; when this returns, it is on the disk.

        ``trial``: the tuning trial that it belongs to. ``exclusive``: no other run of the study ran beside it.
        ``environment``: where it took place, if that is not the environment in which the store was opened.
        Raises StoreError where it cannot be written (disk full); the store then holds what it held before.
        """
        if result.run in self.results:
            raise StoreError(f"run {result.run} has its record already.", fix="Each run is recorded once.")
        place = self._session if environment is None else self._enter(environment)
        facts = {"environment": place, "exclusive": exclusive, "trial": trial}
        self._append({"kind": "run", **facts, "result": encode(result)})
        self.results[result.run] = result
        if exclusive:
            self.exclusive.add(result.run)
        if trial is not None:
            self.trials[result.run] = trial
        self.environment_of[result.run] = place
        self.run_at[self.lines] = result
        self.trail.ended(self, result)

    def withdraw(self, runs: Iterable[str]) -> None:
        """Take back the results of ``runs``, so that they are done again. Their records stay where they are."""
        again = list(runs)
        self._append({"kind": "withdrawn", "runs": again})
        self._forget(self.lines, again)
        self.trail.withdrawn(self, self.lines)

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(
            {"previous": self.head, **record}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
        try:
            _write_all(self._file, line + b"\n")
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(
                OSError
            ):  # take back what was written of the line; if that fails, it is a torn tail
                os.ftruncate(self._file, self.size)
                os.lseek(self._file, self.size, os.SEEK_SET)
            raise _cannot_write(self.path, error) from None
        self.size += len(line) + 1
        self._count(line)

    def write_live(self, status: Mapping[str, Any]) -> None:
        """Say what is running, for ``status``. Best effort: a failure here must not cost the study."""
        with contextlib.suppress(OSError):
            _replace(self.path / LIVE, dict(status), sync=False)

    def close(self) -> None:
        """Release the directory for other writers."""
        for handle in (self._file, self._lock):
            if handle >= 0:
                os.close(handle)
        self._file = self._lock = -1

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.trail.close(self, reason="" if error is None else type(error).__name__)
        finally:
            self.close()

    @classmethod
    def open(cls, path: str | Path) -> Writer:
        return cast("Writer", super().open(path))


def _plain_spaces(spaces: Spaces) -> dict[str, Any]:
    return {arm: {name: bounds.model_dump() for name, bounds in space.items()} for arm, space in spaces.items()}


def refuse_other(path: Path, study: Study) -> None:
    """Raise StoreError where ``path`` is no place for ``study``: a file, another study, or other people's files."""
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file.", fix="Give a directory for the study's results.")
    if Store.exists(path):
        try:
            held = Store.open(path).study
        except StoreError as error:
            trail.report_tampering(path, error.cause)
            raise
        if held.hash != study.hash:
            raise StoreError(
                f"{path} holds another study ({held.name!r}: {_first_difference(held, study)}).",
                fix="Give another directory, or the same study to resume it.",
            )
    elif path.is_dir():
        strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in (LOCK, STUDY + ".new"))
        if strangers:
            raise StoreError(
                f"{path} is not empty ({strangers[0]}) and holds no study.", fix="Give a new or empty directory."
            )


def _first_difference(held: Study, other: Study) -> str:
    ours, theirs = held.model_dump(mode="json"), other.model_dump(mode="json")
    for key, value in ours.items():
        if value != theirs[key]:
            return (
                f"its {key} differs" if isinstance(value, dict | list) else f"{key} is {value!r}, not {theirs[key]!r}"
            )
    return "its hash differs"


def _take_lock(path: Path) -> int:
    handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    for patience in (0.05, 0.05, 0.0):  # whoever only looks whether it is held holds it for a moment
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(patience)
    else:
        owner = os.read(handle, 64).decode(errors="replace").strip()
        os.close(handle)
        raise StoreError(
            f"{path} is being written by another process{f' ({owner})' if owner else ''}.",
            fix="Wait until it is done, or stop it; what it finished is kept.",
        ) from None
    os.ftruncate(handle, 0)
    _write_all(handle, f"pid {os.getpid()}\n".encode())
    return handle


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _replace(path: Path, content: Mapping[str, Any], *, sync: bool = True) -> None:
    """Write a whole file or nothing."""
    temporary = path.with_name(path.name + ".new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _write_all(handle, json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")
        if sync:
            os.fsync(handle)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    temporary.replace(path)
    if sync:
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write to {path}: {error.strerror or error}.",
        fix="Make room or mend the permissions, then give the same command again: finished runs are kept.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records as they stand in the file, for other tools and tests. A torn last line is left out."""
    store = Store.open(path)
    for line in (path / RECORDS).read_bytes()[: store.size].splitlines():
        yield json.loads(line)
