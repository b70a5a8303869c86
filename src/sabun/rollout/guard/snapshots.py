"""The last good states of a guarded training: in memory, and on disk, where they also survive a kill.

Of ``keep`` states the newest stays, and of the others those with the lowest loss level. A roll-back restores the newest
after a sudden anomaly, and the best after a slow one. A state is the parameters, the buffers, and the optimizer's state
dict.

On disk each is one file, replaced atomically, so that a kill leaves whole files only. Writing takes milliseconds to
minutes, so the time for it is bounded: with t₀ the start and W the time spent on writing since, a state is written if
W ≤ share·(t − t₀), else it stays in memory alone. The first is always written; share 1 writes each. A roll-back loses
nothing by that, and a kill costs at most the time of one write over that share (or ``every`` steps, if those take
longer).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sabun import _files
from sabun.errors import StateError

__all__ = ["DiskSnapshots", "MemorySnapshots", "Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A good state, taken before step ``step`` with recent losses at ``level``. ``extra``: the guard's own state."""

    step: int
    level: float
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


class MemorySnapshots:
    """Copies on the devices of the tensors."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._held: list[Snapshot] = []

    def put(self, snapshot: Snapshot, *, replace_all: bool = False) -> None:
        """Keep a copy of ``snapshot`` and drop one if there are too many, or with ``replace_all`` all others."""
        if replace_all:
            self._held.clear()
        elif len(self._held) == self.keep:
            self._held.pop(_surplus([(held.step, held.level) for held in self._held]))
        tensors = {name: tensor.detach().clone() for name, tensor in snapshot.tensors.items()}
        self._held.append(Snapshot(snapshot.step, snapshot.level, tensors, clone(dict(snapshot.optimizer))))

    def newest(self) -> Snapshot | None:
        """Return the state with the largest step."""
        return max(self._held, key=lambda held: held.step, default=None)

    def best(self) -> Snapshot | None:
        """Return the state with the lowest level, of equals the newest."""
        return min(self._held, key=lambda held: (held.level, -held.step), default=None)

    def get(self, step: int) -> Snapshot | None:
        """Return the state taken before step ``step``, if it is kept."""
        return next((held for held in self._held if held.step == step), None)

    def levels(self) -> dict[int, float]:
        """Return step → level of the states kept."""
        return {held.step: held.level for held in self._held}

    def __len__(self) -> int:
        return len(self._held)


class DiskSnapshots:
    """Files ``good-STEP.pt`` in ``folder``, for ranks after the first ``good-STEP-rankR.pt``, and copies in memory.

    ``agree`` makes all ranks decide alike whether to write. ``report`` is called with an event, once when states are
    first written less often than they are kept, and whenever one could not be written: training continues with the
    states in memory. ``put`` raises StateError only where not even the first can be written.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        rank: int = 0,
        *,
        share: float = 1.0,
        agree: Callable[[bool], bool] = bool,
        report: Callable[[str, dict[str, float | str]], None] = lambda event, facts: None,
    ) -> None:
        self.folder, self.keep, self.rank, self.share = folder, keep, rank, share
        self._agree, self._report = agree, report
        self._memory = MemorySnapshots(keep)
        self._levels: dict[int, float] = {}
        self._since, self._spent, self._spaced = time.monotonic(), 0.0, False
        own = re.compile(rf"good-(\d+){f'-rank{rank}' if rank else ''}\.pt(\.new)?")
        try:
            for path in sorted(folder.iterdir()) if folder.exists() else ():
                found = own.fullmatch(path.name)
                if found and found[2]:
                    path.unlink()  # a kill came before it was complete
                elif found:
                    self._levels[int(found[1])] = self._read(int(found[1])).level
        except OSError as error:
            raise StateError(f"cannot read {folder}: {error}.", fix="Give Guard a folder of its own.") from None

    def put(self, snapshot: Snapshot, *, replace_all: bool = False) -> None:
        """As :meth:`MemorySnapshots.put`, and on disk if there is time for it."""
        self._memory.put(snapshot, replace_all=replace_all)
        elapsed = time.monotonic() - self._since
        # With replace_all, the states on disk are another optimizer's and must go.
        if not self._agree(replace_all or self._spent <= self.share * elapsed):
            if not self._spaced:
                self._spaced = True
                self._report("guard.writes-spaced", {"share": self.share, "written_s": self._spent, "of_s": elapsed})
            return
        try:
            self._write(snapshot)
        except (OSError, RuntimeError) as error:  # torch's writer turns an OSError into a RuntimeError
            if not self._levels:
                raise StateError(
                    f"cannot keep a good state in {self.folder}: {_first_line(error)}.", fix="Check path and space."
                ) from None
            self._report("guard.not-written", {"reason": _first_line(error)})
        else:
            self._levels[snapshot.step] = snapshot.level
            # An old one is removed only when the new one is on disk.
            while len(self._levels) > (1 if replace_all else self.keep):
                older = sorted(step for step in self._levels if step != snapshot.step)
                gone = older[_surplus([(step, self._levels[step]) for step in older])]
                del self._levels[gone]
                with contextlib.suppress(OSError):
                    self._path(gone).unlink()
        finally:
            self._spent += time.monotonic() - self._since - elapsed

    def newest(self) -> Snapshot | None:
        """Return the state with the largest step."""
        known = self._known()
        return self.get(max(known)) if known else None

    def best(self) -> Snapshot | None:
        """Return the state with the lowest level, of equals the newest."""
        known = self._known()
        return self.get(min(known, key=lambda step: (known[step], -step))) if known else None

    def get(self, step: int) -> Snapshot:
        """Return the state taken before step ``step``: its copy in memory, else its file."""
        return self._memory.get(step) or self._read(step)

    def steps(self) -> list[int]:
        """Return the steps of the states on disk."""
        return sorted(self._levels)

    def forget_after(self, step: int) -> None:
        """Drop states later than that of ``step``, which not every rank has."""
        for late in [known for known in self._levels if known > step]:
            del self._levels[late]
            self._path(late).unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._levels)

    def _known(self) -> dict[int, float]:
        return {**self._levels, **self._memory.levels()}

    def _write(self, snapshot: Snapshot) -> None:
        path = self._path(snapshot.step)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _files.replacing(path) as file:
            torch.save(
                {
                    "step": snapshot.step,
                    "level": snapshot.level,
                    "tensors": {name: tensor.detach() for name, tensor in snapshot.tensors.items()},
                    "optimizer": dict(snapshot.optimizer),
                    "extra": dict(snapshot.extra),
                },
                file,
            )

    def _path(self, step: int) -> Path:
        return self.folder / (f"good-{step}-rank{self.rank}.pt" if self.rank else f"good-{step}.pt")

    def _read(self, step: int) -> Snapshot:
        path = self._path(step)
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
            return Snapshot(held["step"], held["level"], held["tensors"], held["optimizer"], held["extra"])
        except Exception as error:
            raise StateError(
                f"{path} is not a state that a guard kept: {type(error).__name__}.", fix="Move the file away."
            ) from error


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
