"""Two built-in tasks in small, and the faults to inject into their training.

``digits-cnn`` and ``charlm`` as in sabun.poc, the latter on the first 200,000 characters of tinyshakespeare.txt where
SABUN_DATA has it, else on the texts that come with Python and its packages. Both train with SGD and momentum, the
optimizer that a bad step really hurts, under a cosine schedule.
"""

from __future__ import annotations

import math
import os
import site
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sabun.poc.tasks.builtin import CharLM, DigitsCNN
from sabun.rollout.guard.guard import Guard

FAULTS = ("nan-gradient", "loss-times-1000", "corrupted-batch", "corrupted-shard", "lr-times-100")
SHARD = 5
"""Number of corrupted batches in a row."""
AT = 170
"""The step at which a fault strikes."""


def text() -> str:
    root = Path(__file__).parents[2]
    for folder in (os.environ.get("SABUN_DATA"), root.parent / "shared" / "data"):
        if folder and (Path(folder) / "tinyshakespeare.txt").exists():
            return (Path(folder) / "tinyshakespeare.txt").read_text()[:200_000]
    # Without the data: any long text that comes with Python will do for a test of faults.
    found = sorted(Path(sys.prefix).rglob("LICENSE*")) + sorted(Path(site.getsitepackages()[0]).rglob("*.md"))
    return "".join(path.read_text(errors="ignore") for path in found if path.is_file())[:200_000]


Corrupt = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass
class Workload:
    task: Any
    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    corrupt: Corrupt
    lr: float
    champion_lr: float
    steps: int

    def model(self) -> nn.Module:
        """The task's model with torch's default initial weights, from which plain SGD learns faster."""
        made: nn.Module = self.task.model()
        for module in made.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.reset_parameters()
        return made

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(
            0, len(self.train[0]), (self.task.batch_size,), generator=torch.Generator().manual_seed(step)
        )
        return self.train[0][rows], self.train[1][rows]


@cache
def charlm() -> Workload:
    task = CharLM(layers=2, width=32, heads=2, context=32)
    characters = text()
    common = [c for c, _ in Counter(characters).most_common(65)]
    number = {c: i for i, c in enumerate(common)}
    ids = torch.tensor([number.get(c, 0) for c in characters])
    windows = ids[: (len(ids) - 1) // 32 * 32].view(-1, 32), ids[1 : (len(ids) - 1) // 32 * 32 + 1].view(-1, 32)
    cut = len(windows[0]) * 9 // 10

    def corrupt(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.full_like(y, 20)  # every target one character

    held_out = windows[0][cut:][:400], windows[1][cut:][:400]
    return Workload(task, (windows[0][:cut], windows[1][:cut]), held_out, corrupt, 0.6, 3e-3, 300)


@cache
def digits_cnn() -> Workload:
    task = DigitsCNN()
    splits = task.data()
    held_out = tuple(torch.cat(parts) for parts in zip(splits["validation"], splits["test"], strict=True))

    def corrupt(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * 1e4, (y + 1) % 10

    return Workload(task, splits["train"], (held_out[0], held_out[1]), corrupt, 0.015, 3e-3, 400)


def train(work: Workload, *, fault: str = "", guarded: bool = True, **options: object) -> tuple[float, Guard | None]:
    """Train with one fault at step AT and return the loss on held-out data, infinite or nan where it diverged."""
    torch.manual_seed(0)
    model = work.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=work.lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, work.steps)
    guard = None
    if guarded:
        # In runs this short a roll-back by the default of up to 50 steps would itself cost a tenth of the training.
        champion = lambda params: torch.optim.AdamW(params, lr=work.champion_lr)  # noqa: E731
        guard = Guard(model, optimizer, champion=champion, every=20, **options)  # type: ignore[arg-type]
    for step in range(work.steps):
        x, y = work.batch(step)
        if (step == AT and fault == "corrupted-batch") or (AT <= step < AT + SHARD and fault == "corrupted-shard"):
            x, y = work.corrupt(x, y)
        optimizer.zero_grad()
        loss = work.task.loss(model, (x, y))
        if step == AT and fault == "loss-times-1000":
            loss = 1000 * loss
        loss.backward()
        if step == AT and fault == "nan-gradient":
            next(iter(model.parameters())).grad.view(-1)[0] = math.nan
        if step == AT and fault == "lr-times-100":
            optimizer.param_groups[0]["lr"] *= 100  # and a chained schedule carries it on
        if guard is None:
            optimizer.step()
        else:
            guard.step(loss)
        scheduler.step()
    return evaluate(work, model), guard


@torch.no_grad()
def evaluate(work: Workload, model: nn.Module) -> float:
    model.eval()
    return float(work.task.loss(model, work.held_out))
