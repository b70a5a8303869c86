"""The registry of families and tasks. A decorated function in a file of ``tasks/`` is a task; no other edit is needed.

**Development and check.** A family as a whole is for development (everything may be chosen on it: a preset, a default,
the centre of a search space) or for check (nothing may). The families whose tasks were looked at while the preset was
made are for development. Of the others, in alphabetical order within each structure, each goes to the part that has
fewer families of its structure so far; a tie goes to development. The rule was fixed before any of these tasks was
trained with a preset of this project, and :func:`development_only` refuses check families.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = [
    "CHECK", "DEVELOPMENT", "FAMILIES", "TASKS", "Family", "Session", "Setting", "Task", "development_only", "part_of",
    "parts", "task",
]  # fmt: skip

Part = Literal["development", "check"]
DEVELOPMENT: Part = "development"
CHECK: Part = "check"


@dataclass(frozen=True)
class Family:
    """Tasks of one kind. ``structure`` is what the network computes with; ``looked_at``: see the module."""

    name: str
    structure: Literal["dense", "convolution", "attention", "recurrence", "sparse", "function"]
    looked_at: bool = False


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("autoencoder", "dense", looked_at=True),
        Family("image-mlp", "dense"),
        Family("table-classification", "dense"),
        Family("table-regression", "dense", looked_at=True),
        Family("cnn-batch-norm", "convolution", looked_at=True),
        Family("cnn-plain", "convolution"),
        Family("transformer", "attention"),
        Family("vit", "attention"),
        Family("recurrent-signal", "recurrence"),
        Family("recurrent-text", "recurrence", looked_at=True),
        Family("graph", "sparse", looked_at=True),
        Family("recommender", "sparse"),
        Family("word-vectors", "sparse"),
        Family("diffusion", "function"),
        Family("physics", "function"),
    )
}


def parts(families: Iterable[Family] = tuple(FAMILIES.values())) -> dict[str, Part]:
    """Family → part, by the rule of the module."""
    families = sorted(families, key=lambda family: family.name)
    found: dict[str, Part] = {family.name: DEVELOPMENT for family in families if family.looked_at}
    for family in families:
        if family.name not in found:
            of_structure = [found.get(other.name) for other in families if other.structure == family.structure]
            fewer = of_structure.count(CHECK) < of_structure.count(DEVELOPMENT)
            found[family.name] = CHECK if fewer else DEVELOPMENT
    return found


@dataclass(frozen=True)
class Setting:
    """How a task is made: number of steps, seed, ``size`` (a factor of all widths) and device."""

    steps: int
    seed: int = 0
    size: int = 1
    device: str = "cpu"

    def generator(self, purpose: int) -> torch.Generator:
        """A generator of its own for each purpose, on the CPU: equal draws for every arm and device."""
        return torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + purpose)


@dataclass(frozen=True)
class Session:
    """A model to train. ``loss(step)`` is the loss of the mini-batch of a step, ``score()`` the fixed loss that is
    judged, in evaluation mode: on validation data, or of the training objective where there is nothing to generalize.
    """

    model: nn.Module
    loss: Callable[[int], Tensor]
    score: Callable[[], Tensor]


@dataclass(frozen=True)
class Task:
    """One task. ``steps`` are those of the full profile; ``judged`` is what its score is."""

    name: str
    family: str
    steps: int
    make: Callable[[Setting], Session] = field(compare=False)
    judged: Literal["validation", "training"] = "validation"

    def session(self, setting: Setting) -> Session:
        """A session with its own initial weights; the generators of torch are as before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed + 17)
            return self.make(setting)


TASKS: dict[str, Task] = {}


def task(
    name: str, family: str, steps: int, judged: Literal["validation", "training"] = "validation"
) -> Callable[[Callable[[Setting], Session]], Callable[[Setting], Session]]:
    """Enter the decorated function as a task. Raises ValueError for a second one of a name and an unknown family."""

    def enter(make: Callable[[Setting], Session]) -> Callable[[Setting], Session]:
        if name in TASKS or family not in FAMILIES:
            raise ValueError(f"task {name!r} exists already" if name in TASKS else f"no family {family!r}")
        TASKS[name] = Task(name, family, steps, make, judged)
        return make

    return enter


_PARTS = parts()


def part_of(name: str) -> Part:
    """Part of a task, by name."""
    return _PARTS[TASKS[name].family]


def development_only(tasks: Iterable[str]) -> list[str]:
    """The names as they are. Raises PermissionError if one is of a check family: nothing is chosen on those."""
    names = list(tasks)
    forbidden = [name for name in names if part_of(name) == CHECK]
    if forbidden:
        raise PermissionError(f"{', '.join(forbidden)}: of a check family. Choose on development families only.")
    return names


for _file in sorted((Path(__file__).parent / "tasks").glob("[a-z]*.py")):
    importlib.import_module(f"comparison.tasks.{_file.stem}")
TASKS.update(sorted(TASKS.items(), key=lambda item: (_PARTS[item[1].family] == CHECK, item[1].family)))
