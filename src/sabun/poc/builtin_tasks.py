"""The built-in tasks, in the same form as a user's own. Real data, from scikit-learn.

``TASKS`` is the table: a name and a class; an entry is all that a new task needs.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sabun.errors import MissingExtraError

__all__ = ["TASKS", "Digits"]

Splits = dict[str, tuple[Tensor, Tensor]]


def _split(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], *, stratify: bool) -> dict[str, tuple[Any, Any]]:
    """60% training, 20% validation (read by tuning and curves), 20% test (read once, at the end). Fixed."""
    from sklearn.model_selection import train_test_split

    rest_x, test_x, rest_y, test_y = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=y if stratify else None
    )
    train_x, val_x, train_y, val_y = train_test_split(
        rest_x, rest_y, test_size=0.25, random_state=0, stratify=rest_y if stratify else None
    )
    return {"train": (train_x, train_y), "validation": (val_x, val_y), "test": (test_x, test_y)}


def _standardised(splits: dict[str, tuple[Any, Any]]) -> Splits:
    """Zero mean and unit variance a feature, by the training data's statistics; constant features become zero."""
    mean = splits["train"][0].mean(axis=0)
    scale = splits["train"][0].std(axis=0)
    scale[scale == 0] = 1.0
    return {
        name: (torch.tensor((x - mean) / scale, dtype=torch.float32), torch.tensor(y))
        for name, (x, y) in splits.items()
    }


def _datasets() -> Any:
    try:
        from sklearn import datasets
    except ImportError:
        raise MissingExtraError(
            "this task's data come with scikit-learn, which is not installed.", fix="pip install 'sabun[poc]'"
        ) from None
    return datasets


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _Classification:
    metric_name = "accuracy"

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss: Tensor = functional.cross_entropy(model(batch[0]), batch[1])
        return loss

    def metric(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        hits: Tensor = model(batch[0]).argmax(dim=1) == batch[1]
        return hits.float().mean()


class Digits(_Classification):
    """1,797 images of handwritten digits, 8×8 (scikit-learn's ``load_digits``); an MLP 64-64-64-10."""

    def __init__(self, width: int = 64, batch_size: int = 32) -> None:
        self.width = width
        self.batch_size = batch_size

    def data(self) -> Splits:
        x, y = _datasets().load_digits(return_X_y=True)
        return _standardised(_split(x, y, stratify=True))

    def model(self) -> nn.Module:
        return _mlp(64, self.width, self.width, 10)


TASKS: dict[str, Any] = {
    "digits": Digits,
}
