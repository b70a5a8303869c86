"""Examples in docstrings run: every block that ``::`` announces, in the place of a reader who has a model and data."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import sabun

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"::\n\n((?:    .*\n|\n)+)")
FORMULA = re.compile(r"[←′Σ]")


def literal(text: str) -> list[str]:
    """The indented blocks that ``::`` announces, without their indentation."""
    return [inspect.cleandoc("\n" + block) for block in BLOCK.findall(inspect.cleandoc(text) + "\n")]


def examples() -> Iterator[tuple[str, str]]:
    """(where, code): whatever is announced in a docstring of the package and is no formula."""
    for path in sorted((ROOT / "src" / "sabun").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                name = f"{path.relative_to(ROOT / 'src')}:{getattr(node, 'name', '')}"
                for block in literal(ast.get_docstring(node, clean=False) or ""):
                    if not FORMULA.search(block):
                        yield name, block


FOUND = list(examples())


@pytest.mark.parametrize(("where", "code"), FOUND, ids=[where for where, _ in FOUND])
def test_an_example_in_a_docstring_runs(where: str, code: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    loader = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(2)]
    averaging = sabun.Optimizer(model.parameters(), lr=0.1, averaging="ema")
    closures = sabun.RungeKutta(model.parameters(), lr=0.1, scheme="heun")
    scope = {
        "sabun": sabun, "model": model, "loader": loader, "inputs": [x for x, _ in loader], "evaluate": nn.Module.eval,
        "loss_fn": nn.functional.mse_loss, "recalibrated": sabun.optim.recalibrated,
        "optimizer": closures if "closure" in code else averaging,
    }  # fmt: skip
    exec(compile(code, where, "exec"), scope)


def test_the_examples_are_found() -> None:
    assert {where.rpartition(":")[2] for where, _ in FOUND} >= {"RungeKutta", "param_groups", "recalibrated", ""}
    assert literal("A::\n\n        a = 1\n\n        b\n\n    c") == ["a = 1\n\nb"]
