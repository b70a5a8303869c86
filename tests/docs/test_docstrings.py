"""Code in docstrings runs, in the place of a reader who has a model, data and a trainer.

Code is an indented block that is announced by ``::`` and no formula, or that is Python and calls something. Blocks of
an integration run with stand-ins for its framework and its own public names: no other name can be used. The same
calls with the real packages are in ``tests/integrations`` and ``examples``.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

import sabun

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(::)?\n\n((?: {4}.*\n|\n(?= {4}))+)")
SECTIONS = re.compile(r"^(?:Args|Raises|Returns|Yields|Attributes):$", re.MULTILINE)
FORMULA = re.compile(r"[←′Σ]")


def calls(code: str) -> bool:
    """Whether it is Python that calls or imports something."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.Import | ast.ImportFrom) for node in ast.walk(tree))


def code_in(docstring: str) -> list[str]:
    """The blocks of code, without their indentation."""
    prose = SECTIONS.split(inspect.cleandoc(docstring) + "\n")[0]
    blocks = [(bool(announced), inspect.cleandoc("\n" + block)) for announced, block in BLOCK.findall(prose)]
    return [code for announced, code in blocks if (announced and not FORMULA.search(code)) or calls(code)]


def examples() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "src" / "sabun").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                where = f"{path.relative_to(ROOT / 'src')}:{getattr(node, 'name', '')}"
                for code in code_in(ast.get_docstring(node, clean=False) or ""):
                    yield where, code


def public(path: Path) -> list[str]:
    """``__all__`` of a module that is not imported for it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


FOUND = list(examples())


@pytest.mark.parametrize(("where", "code"), FOUND, ids=[f"{where}-{n}" for n, (where, _) in enumerate(FOUND)])
def test_code_in_a_docstring_runs(where: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    loader = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(2)]
    averaging = sabun.Optimizer(model.parameters(), lr=0.1, averaging="ema")
    closures = sabun.RungeKutta(model.parameters(), lr=0.1, scheme="heun")
    loss = nn.functional.mse_loss(model(loader[0][0]), loader[0][1])
    scope: dict[str, object] = {
        "sabun": sabun, "torch": torch, "model": model, "loader": loader, "inputs": [x for x, _ in loader],
        "loss_fn": nn.functional.mse_loss, "recalibrated": sabun.optim.recalibrated, "evaluate": nn.Module.eval,
        "optimizer": closures if "closure" in code else averaging,
        "loss": loss, "epoch": 1, "train_loss": 0.5, "val_loss": 0.5, "accuracy": 0.5,
    }  # fmt: skip
    path = ROOT / "src" / where.partition(":")[0]
    if path.parent.name == "integrations":
        names = ["Trainer", "trainer", "trial", "accelerator", *public(path)]
        scope |= {name: MagicMock() for name in names}
        monkeypatch.setattr(scope["accelerator"], "prepare", lambda *things: things)
    exec(compile(code, where, "exec"), scope)


def test_the_code_is_found_and_can_fail() -> None:
    places = {where for where, _ in FOUND}
    assert {
        f"sabun/integrations/{name}.py:" for name in ("accelerate", "lightning", "optuna", "transformers")
    } <= places
    assert {
        "sabun/optim/runge_kutta.py:RungeKutta",
        "sabun/poc/tasks/task.py:",
        "sabun/rollout/guard/guard.py:",
    } <= places
    assert code_in("A::\n\n        a = 1\n\n        b\n\n    c") == ["a = 1\n\nb"]
    assert code_in("A.\n\n    f(1)\n\nB::\n\n    θ ← θ − hg\n\n    C (D)\n") == ["f(1)"]
    with pytest.raises(NameError):
        exec(compile("nonsense(1)", "here", "exec"), {"sabun": sabun})
