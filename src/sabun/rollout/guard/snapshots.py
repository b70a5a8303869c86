"""The last good states of a guarded training: in memory, and on disk, where they also survive a kill.

Of ``keep`` states the newest stays, and of the others those with the lowest loss level. A roll-back restores the newest
after a sudden anomaly, and the best after a slow one; those since the best are dropped then, since they were kept while
the losses rose. A state is the parameters, the buffers, and the optimizer's state dict.

On disk each is one file, replaced atomically, so that a kill leaves whole files only. Writing takes milliseconds to
minutes, so the time for it is bounded: with t₀ the start and W the time spent on writing since, a state is written if
W ≤ share·(t − t₀), else it stays in memory alone. The first is always written; share 1 writes each. A roll-back loses
nothing by that, and a kill costs at most the time of one write over that share (or ``every`` steps, if those take
longer).

A file names the states that were kept beside its own, with their levels: those that are on disk are kept again on
resuming, and no other one is. So a training that writes each state does after a kill at any moment what it would have
done without it, a later roll-back included.

A folder belongs to one training. Every file names the job and a fingerprint of model and optimizer, and a lock on
``.lock`` keeps a second process out. The file of a state before step S is ``good-S.pt``, for ranks after the first
``good-S-rankR.pt``:

    torch.save({"format": 1, "identity": {"job_id", "fingerprint"}, "step", "updates", "level", "champion",
                "tensors", "optimizer", "extra", "beside": {step: level}})
    sabun-guard-1 SHA-256 of the bytes before this line, in hexadecimal

A file whose hash, step or identity does not fit is never restored.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import io
import math
import os
import re
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sabun import _files
from sabun._ranks import agree, gathered
from sabun.errors import StateError

__all__ = ["DiskSnapshots", "MemorySnapshots", "Snapshot"]

FORMAT = 1
_SEAL = b"\nsabun-guard-1 "
_SEALED = len(_SEAL) + 64 + 1
LOCK_SECONDS = 5.0
"""How long to wait for the lock of a folder: the process that held it may be ending."""
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A good state, taken before step ``step`` with recent losses at ``level``. ``extra``: the guard's own state.

    ``champion``: the optimizer's state is the champion's. ``updates``: number of updates that the state contains.
    ``beside``: step → level of the states that were kept beside it when it was written.
    """

    step: int
    level: float
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    champion: bool = False
    updates: int = 0
    beside: Mapping[int, float] = field(default_factory=dict)


class MemorySnapshots:
    """Copies on the devices of the tensors."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._held: list[Snapshot] = []

    def open(self, *, resuming: bool = False) -> None:
        """Do nothing: there is no folder."""

    def close(self) -> None:
        """Do nothing: there is no folder."""

    def put(self, snapshot: Snapshot, *, replace_all: bool = False) -> None:
        """Keep a copy of ``snapshot`` and drop one if there are too many, or with ``replace_all`` all others.

        Where there is no memory for it on one rank, all raise.
        """
        agree(lambda: self.hold(snapshot, replace_all=replace_all))

    def hold(self, snapshot: Snapshot, *, replace_all: bool = False) -> None:
        """As :meth:`put`, on this rank by itself."""
        tensors = {name: tensor.detach().clone() for name, tensor in snapshot.tensors.items()}
        copied = replace(snapshot, tensors=tensors, optimizer=clone(dict(snapshot.optimizer)))
        held = [] if replace_all else [held for held in self._held if held.step != snapshot.step]
        if len(held) == self.keep:
            held.pop(_surplus([(held.step, held.level) for held in held]))
        self._held = [*held, copied]  # at once: an interruption leaves the former states

    def drop_before(self, updates: int) -> None:
        """Drop states with fewer updates, except the newest."""
        last = max((held.step for held in self._held), default=0)
        self._held = [held for held in self._held if held.updates >= updates or held.step == last]

    def drop_after(self, step: int) -> None:
        """Drop states after ``step``, which were kept while the losses rose."""
        self._held = [held for held in self._held if held.step <= step]

    def forget_levels(self) -> None:
        """Make the states kept so far the worst ones: their losses are of another phase."""
        self._held = [replace(held, level=math.inf) for held in self._held]

    def get(self, step: int) -> Snapshot | None:
        """Return the state taken before step ``step``, if it is kept."""
        return next((held for held in self._held if held.step == step), None)

    def levels(self) -> dict[int, float]:
        """Return step → level of the states kept."""
        return {held.step: held.level for held in self._held}

    def __len__(self) -> int:
        return len(self._held)


class DiskSnapshots:
    """Files in ``folder`` (see the module), and copies in memory.

    ``identity`` names the training. ``report`` is called with an event: once when states are first written less often
    than they are kept, and whenever one could not be written, read or locked: training continues with the others.
    Rank 0 decides whether all write. ``put`` raises StateError only where not even the first can be written, on all
    ranks if on one.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        rank: int = 0,
        *,
        identity: Mapping[str, str] | None = None,
        share: float = 1.0,
        report: Callable[[str, dict[str, float | str]], None] = lambda event, facts: None,
    ) -> None:
        self.folder, self.keep, self.rank, self.share = folder, keep, rank, share
        self.identity = dict(identity or {})
        self._report = report
        self._memory = MemorySnapshots(keep)
        self._whole: set[int] = set()  # steps of the files that may be read
        self._superseded: set[int] = set()  # on disk, to be removed after the next write, and never read
        self._lock: _FolderLock | None = None
        self._since, self._spent, self._spaced = time.monotonic(), 0.0, False

    def open(self, *, resuming: bool = False) -> None:
        """Lock the folder and read what it holds. Raise StateError where it is in use, or another training's.

        Without ``resuming`` raise StateError where it holds a state: nothing is ever loaded unasked.
        """
        if self._lock is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._take_lock()
                self._scan()
            except OSError as error:
                self.close()
                raise StateError(
                    f"cannot keep a good state in {self.folder}: {_first_line(error)}.",
                    fix="Give Guard a folder of its own, and check path and space.",
                ) from None
            except BaseException:
                self.close()
                raise
        if self._whole and not resuming:
            last = max(self._whole)
            self.close()
            raise StateError(
                f"{self.folder} holds states of this training, the last one before step {last}.",
                fix="Call guard.resume() before the first step to continue it, or give Guard another folder.",
            )

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._whole.clear()

    def supersede(self) -> None:
        """Never read what the folder holds; remove it after the next write."""
        self._drop(self._whole)

    def _drop(self, steps: set[int]) -> None:
        self._superseded |= steps
        self._whole = self._whole - steps

    def _remove_dropped(self) -> None:
        for gone in sorted(self._superseded):
            with contextlib.suppress(OSError):
                self._path(gone).unlink(missing_ok=True)
                self._superseded.discard(gone)

    def put(self, snapshot: Snapshot, *, replace_all: bool = False) -> None:
        """As :meth:`MemorySnapshots.put`, and on disk if there is time for it."""
        self._memory.put(snapshot, replace_all=replace_all)
        if replace_all:  # the states on disk are another optimizer's, whether or not this one can be written
            self.supersede()
        elapsed = time.monotonic() - self._since
        if not gathered(replace_all or self._spent <= self.share * elapsed)[0]:
            if not self._spaced:
                self._spaced = True
                self._report("guard.writes-spaced", {"share": self.share, "written_s": self._spent, "of_s": elapsed})
            return
        try:
            written = agree(lambda: self._write_or_report(snapshot))
            if all(gathered(written)):  # a kill before leaves what every rank has
                self._whole.add(snapshot.step)
                self._superseded.discard(snapshot.step)
                while len(self._whole) > self.keep:  # one of them is not in memory any more
                    self._drop({min(self._whole - self.levels().keys())})
                self._remove_dropped()
            elif written:  # what another rank lacks is of no use
                with contextlib.suppress(OSError):
                    self._path(snapshot.step).unlink(missing_ok=True)
        finally:
            self._spent += time.monotonic() - self._since - elapsed

    def _write_or_report(self, snapshot: Snapshot) -> bool:
        """Whether this rank could write it."""
        try:
            self._write(snapshot)
        except (OSError, RuntimeError) as error:  # torch's writer turns an OSError into a RuntimeError
            if not self._whole and not self._superseded:
                raise StateError(
                    f"cannot keep a good state in {self.folder}: {_first_line(error)}.", fix="Check path and space."
                ) from None
            self._report("guard.not-written", {"reason": _first_line(error)})
            return False
        return True

    def forget_levels(self) -> None:
        """As :meth:`MemorySnapshots.forget_levels`."""
        self._memory.forget_levels()

    def get(self, step: int) -> Snapshot | None:
        """Return the state taken before step ``step``: its copy in memory, else its file; None if it is damaged."""
        found = self._memory.get(step)
        if found is not None or step not in self._whole:
            return found
        try:
            return self._read(step)
        except (OSError, StateError) as error:
            self._whole.discard(step)
            self._report("guard.unreadable", {"file": self._path(step).name, "reason": _first_line(error)})
            return None

    def levels(self) -> dict[int, float]:
        """Return step → level of the states in memory: those from which a roll-back chooses."""
        return self._memory.levels()

    def drop_before(self, updates: int) -> None:
        """As :meth:`MemorySnapshots.drop_before`; a file is replaced in time."""
        self._memory.drop_before(updates)

    def drop_after(self, step: int) -> None:
        """As :meth:`MemorySnapshots.drop_after`; the files are removed after the next write."""
        self._memory.drop_after(step)
        self._drop({late for late in self._whole if late > step})

    def steps(self) -> list[int]:
        """Return the steps of the states on disk."""
        return sorted(self._whole)

    def continue_from(self, found: Snapshot, shared: Collection[int]) -> None:
        """Keep ``found`` and, of the states that every rank has (``shared``), those that were kept beside it."""
        for late in [known for known in self._whole if known > found.step]:  # not every rank has it
            self._whole.discard(late)
            self._path(late).unlink(missing_ok=True)
        beside = [self.get(step) for step in sorted(found.beside) if step in shared]
        self._memory = MemorySnapshots(self.keep)
        for held in beside:
            if held is not None:
                self._memory.hold(replace(held, level=found.beside[held.step]))
        self._memory.hold(found)
        self._drop(self._whole - self.levels().keys())
        self._remove_dropped()

    def __len__(self) -> int:
        return len(self._whole)

    # ------------------------------------------------------------------ files

    def _take_lock(self) -> None:
        path = self.folder / (f".lock-rank{self.rank}" if self.rank else ".lock")
        try:
            self._lock = _FolderLock(path)
        except BlockingIOError:
            holder = _holder(path)
            raise StateError(
                f"{self.folder} is in use by another guard{holder}.",
                fix="Wait until it ends (in the same process call close() on it), or give Guard another folder.",
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._report("guard.not-locked", {"reason": _first_line(error)})

    def _scan(self) -> None:
        own = re.compile(
            rf"good-(0|[1-9]\d*){f'-rank{self.rank}' if self.rank else ''}\.pt(\{_files.DRAFT})?", re.ASCII
        )
        damaged: list[str] = []
        self._whole.clear()
        for path in sorted(self.folder.iterdir()):
            found = own.fullmatch(path.name)
            if found is None:
                continue
            if found[2]:
                path.unlink()  # a kill came before it was complete
                continue
            try:
                held = self._read(int(found[1]))
            except (OSError, StateError) as error:
                if isinstance(error, _ForeignError):
                    raise
                damaged.append(path.name)
                self._report("guard.unreadable", {"file": path.name, "reason": _first_line(error)})
                continue
            self._whole.add(held.step)
        if damaged and not self._whole:
            raise StateError(
                f"no state in {self.folder} is whole: {', '.join(damaged)}.",
                fix="Move the files away to start anew, or restore them from a backup.",
            )

    def _write(self, snapshot: Snapshot) -> None:
        path = self._path(snapshot.step)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _files.replacing(path) as file:
            sealed = _Hashed(file)
            torch.save(
                {
                    "format": FORMAT,
                    "identity": self.identity,
                    "step": snapshot.step,
                    "updates": snapshot.updates,
                    "level": snapshot.level,
                    "champion": snapshot.champion,
                    "tensors": {name: tensor.detach() for name, tensor in snapshot.tensors.items()},
                    "optimizer": dict(snapshot.optimizer),
                    "extra": dict(snapshot.extra),
                    "beside": {step: level for step, level in self.levels().items() if step != snapshot.step},
                },
                sealed,  # type: ignore[arg-type]
            )
            file.write(_SEAL + sealed.hash.hexdigest().encode() + b"\n")

    def _path(self, step: int) -> Path:
        return self.folder / (f"good-{step}-rank{self.rank}.pt" if self.rank else f"good-{step}.pt")

    def _read(self, step: int) -> Snapshot:
        path = self._path(step)
        with os.fdopen(_files.open_own(path, os.O_RDONLY), "rb") as file:
            if not _is_sealed(file):
                raise StateError(f"{path} is not a whole state of a guard.", fix="Move the file away.")
            file.seek(0)
            try:
                held = torch.load(file, map_location="cpu", weights_only=True)
                found = Snapshot(
                    held["step"],
                    held["level"],
                    held["tensors"],
                    held["optimizer"],
                    held["extra"],
                    held["champion"],
                    held["updates"],
                    {int(at): float(level) for at, level in held.get("beside", {}).items()},  # lacking in earlier ones
                )
                identity, version = held["identity"], held["format"]
            except Exception as error:
                raise StateError(
                    f"{path} is not a state that a guard kept: {type(error).__name__}.", fix="Move the file away."
                ) from error
        if version != FORMAT or found.step != step:
            raise StateError(f"{path} is not the state before step {step}.", fix="Move the file away.")
        if identity != self.identity:
            raise _ForeignError(
                f"{self.folder} belongs to another training: {path.name} is of {_named(identity)}, "
                f"this is {_named(self.identity)}.",
                fix="Give Guard another folder; to continue that training, the same job_id, model and optimizer.",
            )
        return found


class _ForeignError(StateError):
    """A file of another training."""


class _Hashed(io.RawIOBase):
    """Passes what is written to ``file`` and hashes it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self.file.write(data)


def _is_sealed(file: BinaryIO) -> bool:
    """Return whether a file ends with the hash of what precedes it."""
    left = file.seek(0, os.SEEK_END) - _SEALED
    if left <= 0:
        return False
    file.seek(0)
    found = hashlib.sha256()
    while left and (block := file.read(min(left, 1 << 20))):
        found.update(block)
        left -= len(block)
    return file.read() == _SEAL + found.hexdigest().encode() + b"\n"


class _FolderLock:
    """The exclusive lock of a file, until it is released or the process ends. A forked process does not inherit it."""

    def __init__(self, path: Path) -> None:
        self._handle = _files.open_own(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                _files.lock(self._handle, wait=False)
            except BlockingIOError:
                gc.collect()  # a guard of this process that nothing refers to any more
                _files.lock(self._handle, seconds=LOCK_SECONDS)
            os.ftruncate(self._handle, 0)
            with contextlib.suppress(OSError):  # the disk is full: the number is for messages alone
                os.write(self._handle, str(os.getpid()).encode())
        except BaseException:
            os.close(self._handle)
            raise
        self._released = weakref.finalize(self, os.close, self._handle)
        _LOCKS.add(self)

    def release(self) -> None:
        """Release the lock."""
        self._released()


_LOCKS: weakref.WeakSet[_FolderLock] = weakref.WeakSet()


def _leave_locks() -> None:
    for held in list(_LOCKS):
        held.release()


if hasattr(os, "register_at_fork"):
    # A data loader's worker would hold the lock of a training that was killed.
    os.register_at_fork(after_in_child=_leave_locks)


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        number = int(path.read_text(encoding="ascii"))
        return " of this process" if number == os.getpid() else f" (process {number})"
    return ""


def _named(identity: Any) -> str:
    """Return the words for a training in a message."""
    if not isinstance(identity, dict):
        return "an unknown training"
    job = identity.get("job_id")
    return f"{f'job {job!r}' if job else 'a training without job_id'} ({str(identity.get('fingerprint'))[:8]})"


def clone(value: Any) -> Any:
    """Return a copy of a state dict that shares no tensor with it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(clone(item) for item in value)
    return value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _surplus(held: list[tuple[int, float]]) -> int:
    """Return which of (step, level) to drop for a newer one: the one with the highest level, of equals the oldest."""
    return max(range(len(held)), key=lambda index: (held[index][1], -held[index][0]))
