"""Tasks made from a user's class with ``model()``, ``data()`` and ``loss()``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sabun.errors import StudyError
from sabun.poc.seeds import Seeds
from sabun.poc.tasks.task import Scores, Split, seeded
from sabun.poc.user_errors import user_code

__all__ = ["DatasetSplit", "FunctionSession", "FunctionTask", "TensorSplit"]

_SPLITS = ("train", "validation", "test")

Batch = Any  # usually (x, y); anything that the user's loss accepts


class TensorSplit:
    """A split stored as tensors of equal length."""

    def __init__(self, tensors: tuple[Tensor, ...], device: torch.device) -> None:
        self.tensors = tuple(tensor.to(device) for tensor in tensors)

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])

    def batch(self, indices: Tensor) -> Batch:
        """Return the examples with these indices."""
        return tuple(tensor[indices] for tensor in self.tensors)


class DatasetSplit:
    """A split stored as a map-style dataset."""

    def __init__(self, dataset: torch.utils.data.Dataset[Any], device: torch.device) -> None:
        self.dataset = dataset
        self.device = device

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batch(self, indices: Tensor) -> Batch:
        """Return the examples with these indices, collated."""
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
    """Mini-batches without replacement, with a new permutation per epoch. An incomplete last batch is dropped."""

    task: FunctionTask
    model: nn.Module
    seed: int
    steps_per_epoch: int

    def __post_init__(self) -> None:
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)
        self._rng = torch.default_generator

    def order(self, epoch: int) -> Tensor:
        """Return the permutation of the training examples in an epoch."""
        generator = torch.Generator().manual_seed((self.seed + epoch * 1_000_003) % 2**63)
        return torch.randperm(len(self.task.splits["train"]), generator=generator).to(self.task.device)

    def loss(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order, self._epoch = self.order(epoch), epoch
        size = self.task.batch_size
        batch = self.task.splits["train"].batch(self._order[position * size : (position + 1) * size])
        # Dropout draws the same numbers in every arm, and in every stage of a Runge–Kutta step.
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
    """A :class:`~sabun.poc.tasks.task.Task` made from a user's class with ``model``, ``data`` and ``loss``.

    Raises StudyError for data that are empty, of unequal lengths, or fewer than one batch.
    """

    def __init__(self, source: Any, name: str) -> None:
        self.source = source
        self.name = name
        self.batch_size = int(getattr(source, "batch_size", 32))
        self.evaluation_batch_size = int(getattr(source, "evaluation_batch_size", 4096))
        self.device = torch.device(getattr(source, "device", "cpu"))
        self.has_metric = callable(getattr(source, "metric", None))
        self._splits: dict[str, TensorSplit | DatasetSplit] = {}

    @property
    def holds_tensors(self) -> bool:
        """Whether all splits are tensors, so that a batch is one indexing operation."""
        return all(isinstance(split, TensorSplit) for split in self.splits.values())

    def prepare(self) -> None:
        """Load the data, so that forked processes share them. Not on CUDA, which does not survive a fork."""
        if self.device.type == "cpu":
            _ = self.splits

    @property
    def splits(self) -> dict[str, TensorSplit | DatasetSplit]:
        """The data, loaded on first use and once per process, independently of the seed of a run."""
        if not self._splits:
            with seeded(0), user_code(f"task {self.name!r}: data() fails", "Correct the task's data()."):
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

    def _split(self, split: str, value: Any) -> TensorSplit | DatasetSplit:
        loaded: TensorSplit | DatasetSplit
        if isinstance(value, Tensor):
            value = (value,)
        if isinstance(value, tuple | list) and all(isinstance(part, Tensor) for part in value):
            if not value or len({part.shape[0] for part in value}) != 1:
                raise StudyError(
                    f"task {self.name!r}: the tensors of {split!r} differ in length.", fix="Give one row per example."
                )
            loaded = TensorSplit(tuple(value), self.device)
        elif hasattr(value, "__getitem__") and hasattr(value, "__len__"):
            loaded = DatasetSplit(value, self.device)
        else:
            raise StudyError(
                f"task {self.name!r}: {split!r} is a {type(value).__name__}.",
                fix="Return a tuple of tensors or a map-style torch Dataset; for other data define session(seeds).",
            )
        if len(loaded) == 0:
            raise StudyError(f"task {self.name!r}: {split!r} is empty.", fix="Give at least one example.")
        return loaded

    def session(self, seeds: Seeds) -> FunctionSession:
        """Return a freshly initialised model with mini-batches in the order given by the seeds."""
        with seeded(seeds.init), user_code(f"task {self.name!r}: model() fails", "Correct the task's model()."):
            model = self.source.model()
        if not isinstance(model, nn.Module):
            raise StudyError(f"task {self.name!r}: model() must return a torch.nn.Module.", fix="Return the model.")
        model.to(self.device)
        steps = len(self.splits["train"]) // self.batch_size
        return FunctionSession(self, model, seeds.batches, steps)
