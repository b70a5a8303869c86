"""Data sets of the tabular optimizer study (Gorishniy et al. 2026, arXiv 2604.15297), run again with the arms.

What is the study's: the data and their splits, the transformation of the features, batches of 256, gradients clipped
to norm 1, a constant learning rate, the end after 16 epochs without a better validation score, and the test score at
the best epoch. What is not: one network for all arms, two hidden layers of 128 with dropout 0.1 (the study tunes depth,
width, dropout and weight decay with each optimizer, in 100 trials, on a GPU), a limit of epochs, and 3 seeds (10).
Every arm has the same search: rates by factors of 2 from its documented one until the best lies inside, on seed 0,
further hyperparameters at the benchmark's first values.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from comparison.contestants import ARMS
from comparison.search import bracket
from yardsticks.arms import ALL, UNTUNED, identity
from yardsticks.store import Book, machine, write

__all__ = ["PUBLISHED", "SETS", "DataError", "Table", "measure", "read", "train", "transformed"]

SETS = ("churn", "california", "house")
SOURCE = "https://huggingface.co/datasets/rototoHF/tabm-data/resolve/main/data.tar"
PUBLISHED: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "churn": {"SGD, Nesterov": (0.8530, 0.0024), "AdamW": (0.8591, 0.0021), "SOAP": (0.8562, 0.0050),
              "schedule-free AdamW": (0.8581, 0.0012), "Muon + AdamW": (0.8573, 0.0021)},
    "california": {"SGD, Nesterov": (0.5177, 0.0064), "AdamW": (0.4936, 0.0110), "SOAP": (0.4862, 0.0014),
                   "schedule-free AdamW": (0.4737, 0.0122), "Muon + AdamW": (0.4824, 0.0021)},
    "house": {"SGD, Nesterov": (31242, 150), "AdamW": (30966, 211), "SOAP": (30672, 192),
              "schedule-free AdamW": (30933, 297), "Muon + AdamW": (30612, 178)},
}  # fmt: skip
"""Test scores of the study's plain MLP, mean and standard deviation over 10 seeds (its table of all results). Its SGD
has momentum 0.9, not Nesterov's."""
SEEDS = (1, 2, 3)
WIDTH, LAYERS, DROPOUT, BATCH, PATIENCE, CLIP = 128, 2, 0.1, 256, 16, 1.0
PARTS = ("train", "val", "test")


class DataError(Exception):
    """A data set is missing or incomplete; the message says which file, and where it comes from."""


@dataclass(frozen=True)
class Table:
    """Features and targets of the three parts. ``scale``: standard deviation of a target that was standardized, None
    for two classes."""

    name: str
    x: Mapping[str, Tensor]
    y: Mapping[str, Tensor]
    scale: float | None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Squared error, or the cross entropy of two classes."""
        f = nn.functional.binary_cross_entropy_with_logits if self.scale is None else nn.functional.mse_loss
        return f(output, target)

    def score(self, output: Tensor, target: Tensor) -> float:
        """Accuracy, or the root mean squared error in the units of the target."""
        if self.scale is None:
            return float(((output > 0) == (target > 0.5)).double().mean())
        return self.scale * float((output.double() - target.double()).square().mean().sqrt())

    def cost(self, score: float) -> float:
        """What is lower for a better score."""
        return 1 - score if self.scale is None else score


def transformed(parts: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Columns mapped to normal quantiles of the training part, which has noise of 1e-5 for that; constant ones left
    out."""
    from sklearn.preprocessing import QuantileTransformer

    known = parts["train"]
    map_ = QuantileTransformer(
        n_quantiles=max(min(len(known) // 30, 1000), 10), output_distribution="normal", subsample=10**9,
        random_state=seed,
    )  # fmt: skip
    noise = np.random.RandomState(seed).normal(0.0, 1e-5, known.shape).astype(known.dtype)
    map_.fit(known + noise)
    varied = [n for n, column in enumerate(known.T) if len(np.unique(column)) > 1]
    return {part: np.nan_to_num(map_.transform(values))[:, varied].astype(np.float32) for part, values in parts.items()}


def _indicators(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One column for each category of the training part; an unknown one has none."""
    from sklearn.preprocessing import OneHotEncoder

    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32).fit(parts["train"])
    return {part: encoder.transform(values) for part, values in parts.items()}


def _parts(directory: Path, *stems: str) -> dict[str, np.ndarray] | None:
    """The arrays STEM_train.npy, STEM_val.npy, STEM_test.npy of the first stem that exists."""
    for stem in stems:
        files = {part: directory / f"{stem}_{part}.npy" for part in PARTS}
        there = [file.is_file() for file in files.values()]
        if all(there):
            return {part: np.load(file) for part, file in files.items()}
        if any(there):
            missing = next(file for file in files.values() if not file.is_file())
            raise DataError(f"{missing} is missing.")
    return None


def read(directory: Path, name: str) -> Table:
    """A data set in the study's format. Raises DataError."""
    place = directory / name
    hint = f"Unpack {SOURCE} (the study's archive), and give its folder data/ with --data."
    try:
        kind = json.loads((place / "info.json").read_text(encoding="utf-8"))["task_type"]
    except (OSError, ValueError, KeyError):
        raise DataError(f"{place} has no data set: info.json is missing or unreadable. {hint}") from None
    if kind not in ("regression", "binclass"):
        raise DataError(f"{place}: {kind} is neither regression nor binclass.")
    targets = _parts(place, "Y", "y")
    numbers, flags, names = _parts(place, "X_num"), _parts(place, "X_bin"), _parts(place, "X_cat")
    if targets is None or not (numbers or flags or names):
        raise DataError(f"{place} has no features or no targets (X_num_train.npy, Y_train.npy …). {hint}")
    blocks = [transformed(numbers)] if numbers else []
    blocks += [_indicators(part) for part in (flags, names) if part]
    x = {part: torch.from_numpy(np.concatenate([block[part] for block in blocks], axis=1)) for part in PARTS}
    y = {part: torch.from_numpy(np.asarray(targets[part], dtype=np.float32)) for part in PARTS}
    if kind == "binclass":
        return Table(name, x, y, None)
    mean, scale = float(y["train"].double().mean()), float(y["train"].double().std(correction=0))
    return Table(name, x, {part: ((values - mean) / scale).float() for part, values in y.items()}, scale)


def network(inputs: int) -> nn.Sequential:
    """The network of all arms."""
    sizes = [inputs] + [WIDTH] * LAYERS
    hidden = [
        module
        for before, after in itertools.pairwise(sizes)
        for module in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(DROPOUT))
    ]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 1), nn.Flatten(0))


def train(table: Table, arm: str, lr: float, chosen: Mapping[str, Any], seed: int, epochs: int) -> dict[str, Any]:
    """One run: validation and test score at the epoch with the best validation score, that epoch, and all epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(table.x["train"].shape[1])
        optimizer: Any = ARMS[arm].build(model, lr, chosen)
        order = torch.Generator().manual_seed(seed)
        best, kept, at, done = math.inf, copy.deepcopy(model.state_dict()), 0, 0
        while done < epochs and done - at < PATIENCE:
            model.train()
            if hasattr(optimizer, "train"):
                optimizer.train()
            for rows in torch.randperm(len(table.x["train"]), generator=order).split(BATCH):
                loss = table.loss(model(table.x["train"][rows]), table.y["train"][rows])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
            done += 1
            if hasattr(optimizer, "eval"):
                optimizer.eval()
            model.eval()
            with torch.no_grad():
                found = table.cost(table.score(model(table.x["val"]), table.y["val"]))
            if not math.isfinite(found):
                break
            if found < best:
                best, kept, at = found, copy.deepcopy(model.state_dict()), done
        model.load_state_dict(kept)
        model.eval()
        with torch.no_grad():
            val, test = (table.score(model(table.x[part]), table.y[part]) for part in ("val", "test"))
    return {"val": val, "test": test, "best_epoch": at, "epochs": done, "finite": math.isfinite(best)}


def result(book: Book, table: Table, arm: str, epochs: int) -> dict[str, Any]:
    """The search of an arm on a data set and its seeds, as a row of the records."""

    def run(lr: float, seed: int) -> dict[str, Any]:
        chosen = {} if arm in UNTUNED else ARMS[arm].defaults()
        key = [table.name, arm, identity(arm), f"{lr:.6g}", chosen, seed, epochs, WIDTH, LAYERS, DROPOUT]
        found: dict[str, Any] = book.get(key, lambda: train(table, arm, lr, chosen, seed, epochs))
        return found

    lr, edge = ARMS[arm].rate, False
    if arm not in UNTUNED:

        def cost(n: int) -> float:
            found = run(ARMS[arm].rate * 2.0**n, 0)
            return table.cost(found["val"]) if found["finite"] else math.inf

        best, edge = bracket(cost)
        lr *= 2.0**best
    runs = [run(lr, seed) for seed in SEEDS]
    return {
        "row": f"{table.name}, {arm}", "set": table.name, "arm": arm, "lr": lr, "at_edge": edge,
        "val": [float(f"{found['val']:.6g}") for found in runs],
        "test": [float(f"{found['test']:.6g}") for found in runs],
        "best_epoch": [found["best_epoch"] for found in runs],
        "epochs": [found["epochs"] for found in runs],
    }  # fmt: skip


def measure(directory: Path, work: Path, records: Path, sets: list[str], arms: list[str], epochs: int) -> None:
    """Everything that is not stored yet, then the records."""
    tables = [read(directory, name) for name in sets]
    book = Book(work / "tabular.jsonl")
    rows = []
    for table in tables:
        for arm in arms:
            rows.append(result(book, table, arm, epochs))
            mean, sd = fmean(rows[-1]["test"]), stdev(rows[-1]["test"])
            print(f"{table.name:12} {arm:22} rate {rows[-1]['lr']:<10.4g} test {mean:.6g} ± {sd:.2g}", flush=True)
        if set(sets) == set(SETS) and set(arms) == set(ALL):
            sizes = {one.name: [len(one.x[part]) for part in PARTS] for one in tables}
            write(records, {"yardstick": "tabular", "epochs": epochs, "sizes": sizes, "machine": machine()}, rows)
            print(records)
