"""What is trained: model, data, loss and metric, all from a seed. The arm is not in it, so arms cannot differ in it.

A task is a small class; nothing has to be imported from here::

    class Task:
        metric_name = "accuracy"                       # optional, with metric()
        batch_size = 32                                # optional (32)
        batchable = True                               # optional: seeds may train as one model
        def model(self): ...                           # an nn.Module, freshly initialised
        def data(self): ...                            # {"train": (x, y), "validation": (x, y), "test": (x, y)}
        def loss(self, model, batch): ...              # mean over the batch, a scalar tensor
        def metric(self, model, batch): ...            # optional: mean over the batch, higher is better

Splits are tuples of tensors, or :class:`torch.utils.data.Dataset` objects. Whoever needs other batches or another loop
over the data gives ``session(seeds)`` instead, which returns a :class:`Session`. Special cases: :mod:`digits
<sabun.poc.tasks.builtin>` is such a class; a file is named as ``mytask.py:Task``.

The split into training, validation and test data is the task's and does not depend on the seed: a seed varies what a
team's own retraining would vary (initial weights, order of batches) and nothing else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import random
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from sabun.errors import SabunError, StudyError, unknown
from sabun.poc.seeds import Seeds
from sabun.poc.spec import Scalar
from sabun.poc.user_errors import said

__all__ = [
    "PREFIX",
    "FunctionTask",
    "Scores",
    "Seeds",
    "Session",
    "Split",
    "Task",
    "Trained",
    "load",
    "provenance",
    "seeded",
    "theirs",
]

Split = Literal["validation", "test"]
"""The splits that a session is evaluated on."""
PREFIX = "script:"
"""Before the command of a user's own script, in the name of a task."""

SOURCES = (".py", ".sh", ".toml", ".yaml", ".yml", ".json", ".cfg", ".ini")
"""What counts as source among the files that a script's command names: a change there makes another task."""

_SPLITS = ("train", "validation", "test")


class Scores(NamedTuple):
    """Means over a whole split. ``metric`` is None for a task without one."""

    loss: float
    metric: float | None


@runtime_checkable
class Trained(Protocol):
    """What is trained: a freshly initialised model, on so many mini-batches an epoch."""

    model: nn.Module
    steps_per_epoch: int


class Session(Trained, Protocol):
    """One training: mini-batches are numbered 0, 1, …"""

    def loss(self, step: int) -> Tensor:
        """The mean loss on mini-batch number ``step``, a scalar with a graph. The same batch each time it is asked."""
        ...

    def evaluate(self, split: Split) -> Scores:
        """Loss and metric over a whole split, without a graph, in evaluation mode."""
        ...


@runtime_checkable
class Task(Protocol):
    """Gives sessions: equal seeds give equal sessions, whatever was trained before in the same process."""

    def session(self, seeds: Seeds) -> Session:
        """One training from these seeds."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators, and put them back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.current_accelerator() is None:
        # torch.manual_seed formats a traceback for devices that this build of torch does not have: 1 ms a run.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def theirs(what: str, fix: str) -> Iterator[None]:
    """The user's code runs inside: whatever it raises becomes a StudyError, SystemExit too (a script's ``sys.exit``
    would otherwise end the study without a word). What sabun itself raises passes.
    """
    try:
        yield
    except SabunError:
        raise
    except (Exception, SystemExit) as error:
        raise StudyError(f"{what}: {said(error)}.", fix=fix) from error


Batch = Any  # what the user's data give: (x, y) for most, anything that the user's loss understands


class _Tensors:
    """A split held as tensors of equal length."""

    def __init__(self, tensors: tuple[Tensor, ...], device: torch.device) -> None:
        self.tensors = tuple(tensor.to(device) for tensor in tensors)

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])

    def batch(self, indices: Tensor) -> Batch:
        return tuple(tensor[indices] for tensor in self.tensors)


class _Items:
    """A split held as a map-style dataset."""

    def __init__(self, dataset: torch.utils.data.Dataset[Any], device: torch.device) -> None:
        self.dataset = dataset
        self.device = device

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batch(self, indices: Tensor) -> Batch:
        items = torch.utils.data.default_collate([self.dataset[int(index)] for index in indices])
        return _to(items, self.device)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(part, device) for key, part in value.items()}
    return type(value)(_to(part, device) for part in value) if isinstance(value, list | tuple) else value


@dataclass
class FunctionSession:
    """Mini-batches without replacement, a fresh permutation an epoch; an incomplete last batch is dropped."""

    task: FunctionTask
    model: nn.Module
    seed: int
    steps_per_epoch: int

    def __post_init__(self) -> None:
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)
        self._rng = torch.default_generator

    def order(self, epoch: int) -> Tensor:
        """The permutation of the training examples in an epoch."""
        generator = torch.Generator().manual_seed((self.seed + epoch * 1_000_003) % 2**63)
        return torch.randperm(len(self.task.splits["train"]), generator=generator).to(self.task.device)

    def loss(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order, self._epoch = self.order(epoch), epoch
        size = self.task.batch_size
        batch = self.task.splits["train"].batch(self._order[position * size : (position + 1) * size])
        # Dropout and the like draw the same numbers in every arm, and in every stage of a Runge–Kutta step.
        self._rng.manual_seed(self.seed + step)
        if self.task.device.type == "cuda":
            torch.cuda.manual_seed(self.seed + step)
        return cast("Tensor", self.task.source.loss(self.model, batch))

    def evaluate(self, split: Split) -> Scores:
        data = self.task.splits[split]
        size = self.task.evaluation_batch_size
        loss = metric = 0.0
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            for start in range(0, len(data), size):
                indices = torch.arange(start, min(start + size, len(data)), device=self.task.device)
                batch = data.batch(indices)
                share = len(indices) / len(data)
                loss += share * float(self.task.source.loss(self.model, batch))
                if self.task.has_metric:
                    metric += share * float(self.task.source.metric(self.model, batch))
        self.model.train(was_training)
        return Scores(loss, metric if self.task.has_metric else None)


class FunctionTask:
    """A user's class with ``model``, ``data`` and ``loss`` (and ``metric``) as a :class:`Task`.

    Raises StudyError for data that are empty, of unequal lengths, or fewer than one batch.
    """

    def __init__(self, source: Any, name: str) -> None:
        self.source = source
        self.name = name
        self.batch_size = int(getattr(source, "batch_size", 32))
        self.evaluation_batch_size = int(getattr(source, "evaluation_batch_size", 4096))
        self.device = torch.device(getattr(source, "device", "cpu"))
        self.has_metric = callable(getattr(source, "metric", None))
        self._splits: dict[str, _Tensors | _Items] = {}

    @property
    def holds_tensors(self) -> bool:
        """Whether all splits are plain tensors, so that whole batches can be taken at once."""
        return all(isinstance(split, _Tensors) for split in self.splits.values())

    def prepare(self) -> None:
        """Load the data now, so that processes forked from this one share them; not where CUDA forbids a fork."""
        if self.device.type == "cpu":
            _ = self.splits

    @property
    def splits(self) -> dict[str, _Tensors | _Items]:
        """The data, loaded on first use and once a process. The seed of a run has no part in it."""
        if not self._splits:
            with seeded(0), theirs(f"task {self.name!r}: data() fails", "Mend the task's data()."):
                data = self.source.data()
            if not isinstance(data, Mapping) or any(split not in data for split in _SPLITS):
                raise StudyError(
                    f"task {self.name!r}: data() must return a dictionary with the splits {', '.join(_SPLITS)}.",
                    fix='Return {"train": (x, y), "validation": (x, y), "test": (x, y)}.',
                )
            self._splits = {split: self._split(split, data[split]) for split in _SPLITS}
            if len(self._splits["train"]) < self.batch_size:
                raise StudyError(
                    f"task {self.name!r}: {len(self._splits['train'])} training examples, "
                    f"fewer than one batch of {self.batch_size}.",
                    fix="Lower batch_size.",
                )
        return self._splits

    def _split(self, split: str, value: Any) -> _Tensors | _Items:
        found: _Tensors | _Items
        if isinstance(value, Tensor):
            value = (value,)
        if isinstance(value, tuple | list) and all(isinstance(part, Tensor) for part in value):
            if not value or len({part.shape[0] for part in value}) != 1:
                raise StudyError(
                    f"task {self.name!r}: the tensors of {split!r} differ in length.", fix="Give one row an example."
                )
            found = _Tensors(tuple(value), self.device)
        elif hasattr(value, "__getitem__") and hasattr(value, "__len__"):
            found = _Items(value, self.device)
        else:
            raise StudyError(
                f"task {self.name!r}: {split!r} is a {type(value).__name__}.",
                fix="Give a tuple of tensors or a map-style torch Dataset; for anything else write session().",
            )
        if len(found) == 0:
            raise StudyError(f"task {self.name!r}: {split!r} is empty.", fix="Give at least one example.")
        return found

    def session(self, seeds: Seeds) -> FunctionSession:
        """A freshly initialised model, and batches in the order of the seeds."""
        with seeded(seeds.init), theirs(f"task {self.name!r}: model() fails", "Mend the task's model()."):
            model = self.source.model()
        if not isinstance(model, nn.Module):
            raise StudyError(f"task {self.name!r}: model() must return a torch.nn.Module.", fix="Return the model.")
        model.to(self.device)
        steps = len(self.splits["train"]) // self.batch_size
        return FunctionSession(self, model, seeds.batches, steps)


def load(name: str, options: Mapping[str, Scalar] | None = None) -> Task:
    """The task called ``name``: built in, or ``path/to/file.py:Class``. Raises StudyError, with the nearest name."""
    from sabun.poc.tasks.builtin import TASKS

    if name in TASKS:
        return _as_task(_construct(TASKS[name], name, options or {}), name)
    path, colon, attribute = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise unknown(StudyError, "task", name, TASKS, see="A file of your own is named as mytask.py:Task.")
    module = _import_file(Path(path))
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(StudyError, f"task in {path}", attribute, known)
    return _as_task(_construct(getattr(module, attribute), name, options or {}), name)


def provenance(name: str, options: Mapping[str, Scalar]) -> str | None:
    """What the task's results rest on beside its name: the hash of a user's files, or of a built-in task's data."""
    from sabun.poc.tasks.builtin import TASKS

    if name.startswith(PREFIX):
        digest = hashlib.sha256()
        for part in shlex.split(name.removeprefix(PREFIX)):
            if Path(part).suffix in SOURCES and Path(part).is_file():
                digest.update(f"{part}|".encode() + Path(part).read_bytes())
        return digest.hexdigest()
    if name in TASKS:
        told = getattr(_construct(TASKS[name], name, options), "provenance", None)
        return str(told()) if told else None
    path = Path(name.rpartition(":")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _construct(kind: Callable[..., Any], name: str, options: Mapping[str, Scalar]) -> Any:
    parameters = inspect.signature(kind).parameters
    for key in options:
        if key not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise unknown(StudyError, f"option of task {name!r}", key, parameters)
    try:
        return kind(**options)
    except SabunError:
        raise
    except (Exception, SystemExit) as error:
        if options and isinstance(error, TypeError | ValueError):
            raise StudyError(f"task {name!r} refuses its options: {error}.", fix="Correct task_options.") from error
        raise StudyError(f"task {name!r} cannot be made: {said(error)}.", fix="Mend the file.") from error


def _as_task(source: Any, name: str) -> Task:
    if isinstance(source, Task):
        return source
    missing = [part for part in ("model", "data", "loss") if not callable(getattr(source, part, None))]
    if missing:
        raise StudyError(
            f"task {name!r} has no {missing[0]}().",
            fix="A task has model(), data() and loss(model, batch), or session(seeds); see sabun.poc.tasks.base.",
        )
    return FunctionTask(source, name)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise StudyError(
            f"there is no task file {path}.", fix="Check the path; it is relative to where you start sabun."
        )
    name = f"sabun_task_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StudyError(f"cannot import {path}.", fix="Give a Python file.")
    module = importlib.util.module_from_spec(spec)
    # Registered under a name of its own, so that dataclasses and pickling in the user's file find their module; its
    # folder is importable, as it is when the file is run as a script.
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        with theirs(
            f"{path} cannot be imported", "Mend the file; code under 'if __name__ == \"__main__\":' is not run."
        ):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
