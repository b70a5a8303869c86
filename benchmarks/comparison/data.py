"""Data of the tasks, read once a process: files of ``$SABUN_DATA`` and data sets of scikit-learn. Splits are fixed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from comparison.families import Session, Setting

__all__ = ["archive", "batches", "cifar", "digits", "held_out", "supervised", "table", "text", "words"]


def _path(name: str) -> Path:
    directory = os.environ.get("SABUN_DATA")
    path = Path(directory or ".") / name
    if directory is None or not path.is_file():
        raise SystemExit(f"{name} is missing. Put it into a directory and set SABUN_DATA to that.")
    return path


@cache
def archive(name: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file."""
    with np.load(_path(name)) as arrays:
        return {key: arrays[key] for key in arrays.files}


def held_out(count: int, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """Indices for training and validation; the same ones for the same count."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    cut = int(count * share)
    return order[cut:], order[:cut]


@cache
def cifar(pixels: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CIFAR-10, averaged to pixels × pixels, standardized: training images and labels, 400 of validation."""
    arrays = archive("cifar10_20k.npz")
    x = torch.from_numpy(arrays["x_train"]).permute(0, 3, 1, 2)
    mean, scale = (torch.tensor(values).view(3, 1, 1) for values in ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)))
    small = torch.cat([nn.functional.adaptive_avg_pool2d(part.float(), pixels) for part in x.split(2000)])
    x, y = (small - mean) / scale, torch.from_numpy(arrays["y_train"]).long()
    return x[1000:], y[1000:], x[:400], y[:400]


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits in [0, 1]: training images 8 × 8 and labels, a fifth of validation."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    x, y = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 16, torch.tensor(raw.target)
    train, other = held_out(len(x))
    return x[train], y[train], x[other], y[other]


def _standardized(x: Tensor, by: Tensor) -> Tensor:
    return (x - by.mean(0)) / by.std(0).clamp_min(1e-6)


@cache
def table(name: str, classes: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A table, standardized by its training rows. ``classes``: quantiles of the target as labels instead of it."""
    if name == "breast-cancer":
        from sklearn.datasets import load_breast_cancer

        raw = load_breast_cancer()
        x, y = torch.tensor(raw.data, dtype=torch.float32), torch.tensor(raw.target)
    else:
        raw = torch.from_numpy(archive("uci_small.npz")[name])
        x, y = raw[:, :-1], raw[:, -1:]
    train, other = held_out(len(x))
    x = _standardized(x, x[train])
    if classes:
        edges = torch.quantile(y[train, 0], torch.arange(1, classes) / classes)
        y = torch.bucketize(y[:, 0].contiguous(), edges)
    elif y.is_floating_point():
        y = _standardized(y, y[train])
    return x[train], y[train], x[other], y[other]


@cache
def text() -> tuple[Tensor, Tensor, int]:
    """Shakespeare as numbers of characters: training text, validation text, number of symbols."""
    raw = _path("tinyshakespeare.txt").read_text(encoding="utf-8")
    symbols = {symbol: n for n, symbol in enumerate(sorted(set(raw)))}
    whole = torch.tensor([symbols[symbol] for symbol in raw])
    cut = int(0.9 * len(whole))
    return whole[:cut], whole[cut:], len(symbols)


@cache
def words(vocabulary: int = 2000) -> tuple[Tensor, Tensor]:
    """Shakespeare as numbers of words, the frequent ones first, the rest left out: training and validation text."""
    raw = _path("tinyshakespeare.txt").read_text(encoding="utf-8").lower()
    every = "".join(c if c.isalpha() or c == "'" else " " for c in raw).split()
    kinds, counts = np.unique(every, return_counts=True)
    chosen = {str(kinds[n]): rank for rank, n in enumerate(np.argsort(-counts, kind="stable")[:vocabulary])}
    whole = torch.tensor([chosen[word] for word in every if word in chosen])
    cut = int(0.9 * len(whole))
    return whole[:cut], whole[cut:]


def batches(setting: Setting, count: int, size: int) -> Tensor:
    """Indices of the mini-batches, steps × size: passes over the data in a new order each."""
    generator, needed = setting.generator(1), setting.steps * size
    passes = [torch.randperm(count, generator=generator) for _ in range(-(-needed // count))]
    return torch.cat(passes)[:needed].view(setting.steps, size)


def supervised(
    setting: Setting,
    model: nn.Module,
    data: tuple[Tensor, Tensor, Tensor, Tensor],
    loss: Callable[[Any, Tensor], Tensor],
    *,
    size: int,
) -> Session:
    """Training of ``model(x)`` towards y on mini-batches of ``size``, scored by the same loss on validation data."""
    x, y, xv, yv = (part.to(setting.device) for part in data)
    order = batches(setting, len(x), size).to(setting.device)
    model.to(setting.device)

    def train(step: int) -> Tensor:
        rows = order[step % len(order)]
        return loss(model(x[rows]), y[rows])

    return Session(model, train, lambda: loss(model(xv), yv))
