"""The tables of docs/migration.md hold: both sides of every row marked equal are run, and give the same weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytorch_optimizer
import schedulefree
import torch

import sabun

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(.+?)` \| (?:`(.+?)`|–) \| (.*) \|$", PAGE, re.MULTILINE)
EQUAL = [(theirs, ours, "both points" in note) for theirs, ours, note in ROWS if note.startswith("**equal**")]


def path(code: str, steps: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Training points of a small network, one row a step, and the points that are handed out for evaluation."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2)).double()
    x, y = torch.randn(60, 5, dtype=torch.float64), torch.randn(60, 2, dtype=torch.float64)
    names = {"torch": torch, "sabun": sabun, "schedulefree": schedulefree, "pytorch_optimizer": pytorch_optimizer}
    optimizer = eval(code, names, {"params": list(model.parameters())})
    switched = hasattr(optimizer, "train")
    if switched:
        optimizer.train()

    def flat() -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    points, handed_out = [], []
    for step in range(steps):
        rows = slice(10 * (step % 6), 10 * (step % 6) + 10)
        optimizer.zero_grad()
        (model(x[rows]) - y[rows]).square().mean().backward()
        optimizer.step()
        points.append(flat())
        if switched:
            optimizer.eval()
            handed_out.append(flat())
            optimizer.train()
        elif isinstance(optimizer, sabun.Optimizer):
            with optimizer.averaged():
                handed_out.append(flat())
    return torch.stack(points), torch.stack(handed_out or points)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(("theirs", "ours", "both"), EQUAL, ids=[row[0] for row in EQUAL])
def test_rows_marked_equal_are(theirs: str, ours: str, both: bool) -> None:
    points, handed_out = path(theirs)
    mine, mine_out = path(ours)
    assert apart(mine, points) < 1e-11
    if both:
        assert apart(mine_out, handed_out) < 1e-11


def test_every_library_has_rows_and_the_check_can_fail() -> None:
    for library in ("torch.optim", "schedulefree", "pytorch_optimizer"):
        assert sum(theirs.startswith(library) for theirs, _, _ in EQUAL) >= 2
    # Counting time as torch does not is what goes wrong most often.
    same_number = path('sabun.Optimizer(params, lr=0.05, scheme="heavy-ball")')[0]
    assert apart(same_number, path("torch.optim.SGD(params, lr=0.05, momentum=0.9)")[0]) > 1e-2
