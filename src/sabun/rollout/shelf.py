"""Where a guard keeps the last good states: in memory, or on disk where they also survive a kill. Always bounded.

Of ``keep`` states the newest stays, and of the others those with the lowest loss level: the newest is what a sudden
trouble goes back to, the best what a slow one does. A state is the parameters, the buffers, and the optimizer's state
dict. On disk each is one file, written beside its place, synced and renamed, so that a kill leaves whole files only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sabun.errors import StateError

__all__ = ["Disk", "Memory", "Shelf", "Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A good state: taken before step ``step``, when the recent losses stood at ``level``. ``extra``: what the guard
    needs to go on in another process."""

    step: int
    level: float
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


class Shelf(Protocol):
    """A bounded store of snapshots."""

    def put(self, snapshot: Snapshot, *, alone: bool = False) -> None:
        """Keep a copy of ``snapshot``; then drop one if there are too many, or all others for ``alone``."""

    def newest(self) -> Snapshot | None:
        """The one with the largest step."""

    def best(self) -> Snapshot | None:
        """The one with the lowest level; of equals the newest."""

    def __len__(self) -> int: ...


class Memory:
    """Copies on the devices where the tensors live."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._held: list[Snapshot] = []

    def put(self, snapshot: Snapshot, *, alone: bool = False) -> None:
        if alone:
            self._held.clear()
        elif len(self._held) == self.keep:
            self._held.pop(_surplus([(held.step, held.level) for held in self._held]))
        copy = Snapshot(
            snapshot.step,
            snapshot.level,
            {name: tensor.detach().clone() for name, tensor in snapshot.tensors.items()},
            clone(snapshot.optimizer),
        )
        self._held.append(copy)

    def newest(self) -> Snapshot | None:
        return max(self._held, key=lambda held: held.step, default=None)

    def best(self) -> Snapshot | None:
        return min(self._held, key=lambda held: (held.level, -held.step), default=None)

    def __len__(self) -> int:
        return len(self._held)


class Disk:
    """Files ``good-STEP.pt`` in ``folder``, for ranks after the first ``good-STEP-rankR.pt``."""

    def __init__(self, folder: Path, keep: int, rank: int = 0) -> None:
        self.folder, self.keep, self.rank = folder, keep, rank
        self._levels: dict[int, float] = {}
        if folder.is_dir():
            for step in self._steps():
                self._levels[step] = self._read(step).level

    def put(self, snapshot: Snapshot, *, alone: bool = False) -> None:
        path = self._path(snapshot.step)
        draft = path.with_suffix(".new")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
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
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise StateError(
                f"cannot keep a good state in {self.folder}: {error}.", fix="Check path and space."
            ) from None
        self._levels[snapshot.step] = snapshot.level
        # Only when the new one is safe does an old one go.
        while len(self._levels) > (1 if alone else self.keep):
            older = sorted(step for step in self._levels if step != snapshot.step)
            gone = older[_surplus([(step, self._levels[step]) for step in older])]
            del self._levels[gone]
            self._path(gone).unlink(missing_ok=True)

    def newest(self) -> Snapshot | None:
        return self._read(max(self._levels)) if self._levels else None

    def best(self) -> Snapshot | None:
        return self._read(min(self._levels, key=lambda step: (self._levels[step], -step))) if self._levels else None

    def __len__(self) -> int:
        return len(self._levels)

    def _path(self, step: int) -> Path:
        return self.folder / (f"good-{step}-rank{self.rank}.pt" if self.rank else f"good-{step}.pt")

    def _steps(self) -> list[int]:
        own = re.compile(rf"good-(\d+)-rank{self.rank}\.pt" if self.rank else r"good-(\d+)\.pt")
        return sorted(int(found[1]) for path in self.folder.iterdir() if (found := own.fullmatch(path.name)))

    def _read(self, step: int) -> Snapshot:
        path = self._path(step)
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
            return Snapshot(held["step"], held["level"], held["tensors"], held["optimizer"], held["extra"])
        except Exception as error:
            raise StateError(
                f"{path} is no good state that a guard kept: {type(error).__name__}.", fix="Move the file away."
            ) from error


def clone(value: Any) -> Any:
    """A copy of a state dict that shares no tensor with it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(clone(item) for item in value)
    return value


def _surplus(held: list[tuple[int, float]]) -> int:
    """Which of (step, level) to drop when a newer one comes: the one with the highest level, of equals the oldest."""
    return max(range(len(held)), key=lambda index: (held[index][1], -held[index][0]))
