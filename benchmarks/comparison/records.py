"""Records of runs: one JSON line each, appended as soon as a run has ended, so that a killed benchmark goes on.

A run is found again by everything that decides it: task, arm, hyperparameters, schedule, seed, length, size, device and
a digest of the code that it runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import sealed
from comparison.contestants import ARMS
from comparison.families import TASKS
from comparison.training import Run, train

__all__ = ["Book", "MissingRunError", "Sizing", "digest", "plain", "sources"]

_HERE = Path(__file__).parent
_OURS = _HERE.parents[1] / "src" / "sabun"


@dataclass(frozen=True)
class Sizing:
    """Share of each task's steps, factor of all widths, and device of a profile."""

    share: float = 1.0
    size: int = 1
    device: str = "cpu"

    def steps(self, full: int) -> int:
        """Steps of a task whose full length is ``full``."""
        return max(24, round(self.share * full))


def sources(arm: str) -> list[Path]:
    """The files that a run of an arm goes through: tasks, training, rivals or our arms, the division of a model into
    hidden matrices and the rest, and for our arms the optimizer."""
    ours = ARMS[arm].ours
    names = ("families", "data", "layers", "training", "arm", *(("ours",) if ours else ("rivals", "peers")))
    files = [*sorted((_HERE / "tasks").glob("*.py")), *(_HERE / f"{name}.py" for name in names)]
    files += [_OURS / "optim" / name for name in ("hidden_matrices.py", "layouts.py", "owners.py", "tensors.py")]
    if ours:
        files += sorted([*(_OURS / "optim").rglob("*.*"), *(_OURS / "schemes").rglob("*.py")])
    return [file for file in files if file.suffix in (".py", ".in")]


@cache
def digest(arm: str) -> str:
    """Of the contents of :func:`sources` and the arm's definition: a run of other code is not taken for one of this."""
    contents = [*(file.read_bytes() for file in sources(arm)), ARMS[arm].definition.encode()]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:12]


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))


class MissingRunError(LookupError):
    """A run that is not stored, asked of a book that holds stored runs only."""


@dataclass
class Book:
    """The stored runs of an arm on a task, in ``path``, which one process at a time writes.

    ``run`` takes one from there or carries it out and adds it; with ``only_stored`` it raises :class:`MissingRunError`
    instead. Raises StoreError for a file that was changed.
    """

    path: Path
    sizing: Sizing = field(default_factory=Sizing)
    only_stored: bool = False
    known: dict[str, Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in sealed.read_lines(self.path) if self.path.exists() else []:
            values = {
                **entry["run"],
                "steps": tuple(entry["run"]["steps"]),
                "scores": tuple(map(float, entry["run"]["scores"])),
            }
            self.known[entry["key"]] = Run(**values)

    def key(self, task: str, arm: str, lr: float, chosen: Mapping[str, Any], schedule: str, seed: int) -> str:
        """What decides a run, as text."""
        return json.dumps([task, arm, f"{lr:.6g}", plain(chosen), schedule, seed, asdict(self.sizing), digest(arm)],
                          sort_keys=True)  # fmt: skip

    def run(self, task: str, arm: str, lr: float, chosen: Mapping[str, Any], schedule: str, seed: int) -> Run:
        """The run of these arguments."""
        key = self.key(task, arm, lr, chosen, schedule, seed)
        if key not in self.known:
            if self.only_stored:
                raise MissingRunError(f"{task}, {arm}, {lr:g}, {schedule}, seed {seed}")
            made = train(task, arm, lr, chosen, schedule, seed, steps=self.sizing.steps(TASKS[task].steps),
                         size=self.sizing.size, device=self.sizing.device)  # fmt: skip
            entry = asdict(made)
            entry["scores"] = [repr(s) if s != s or abs(s) == float("inf") else s for s in made.scores]
            sealed.append(self.path, {"key": key, "run": entry})
            self.known[key] = made
        return self.known[key]
