"""Rules of the package's structure that the import contracts of pyproject.toml (lint-imports) cannot express."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

import sabun

PACKAGE = Path(sabun.__file__).parent
ROOT = Path(__file__).parent.parent
MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def repeated(names: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, path in names:
        found[name].append(str(path.relative_to(PACKAGE)))
    return {name: places for name, places in found.items() if len(places) > 1}


def test_module_names_are_unique_among_ideas() -> None:
    """No two modules of the package called plan, spec, results, figures, catalogue or base."""
    ideas = {"plan", "spec", "results", "figures", "catalogue", "base"}
    assert not repeated((path.stem, path) for path in MODULES if path.stem in ideas)


def test_class_names_are_unique() -> None:
    nodes = ((node, path) for path, tree in MODULES.items() for node in ast.walk(tree))
    classes = ((node.name, path) for node, path in nodes if isinstance(node, ast.ClassDef))
    assert not repeated(classes)


def test_only_the_command_line_prints_and_only_through_its_console() -> None:
    """Where the console's packages may be missing, ``sabun.cli`` and ``sabun doctor`` print for themselves."""
    for path, tree in MODULES.items():
        if path in {PACKAGE / "cli" / name for name in ("console.py", "__init__.py", "doctor.py")}:
            continue
        calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
        assert not any(isinstance(f, ast.Name) and f.id in ("print", "Console") for f in calls), path
        assert not any(isinstance(f, ast.Attribute) and f.attr in ("echo", "secho") and ast.unparse(f) != "console.echo"
                       for f in calls), path  # fmt: skip


def contracts(folder: Path) -> subprocess.CompletedProcess[str]:
    """``lint-imports`` with the contracts of pyproject.toml, over the package ``sabun`` in ``folder``."""
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); from importlinter.cli import lint_imports_command as c; c()"
    )
    command = [sys.executable, "-c", code, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_contracts_hold() -> None:
    done = contracts(PACKAGE.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "statement", "broken"),
    [
        ("schemes/numbers.py", "import torch", "Schemes need"),
        ("schemes/analysis.py", "def f():\n    import sabun.schemes.linear_multistep", "import circle"),
        ("schemes/analysis.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sabun.optim",
         "Packages import only"),
        ("poc/judgement/verdict.py", "def f():\n    import shutil", "Judgement is pure"),
        ("report/records_table.py", "import sabun.rollout.gate", "Packages import only"),
        ("errors.py", "import sabun.messages", "Packages import only"),
    ],
)  # fmt: skip
def test_the_contracts_can_fail(tmp_path: Path, module: str, statement: str, broken: str) -> None:
    """Imports inside functions and for type checking count."""
    for path in MODULES:
        copy = tmp_path / path.relative_to(PACKAGE.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    target = tmp_path / "sabun" / module
    target.write_text(target.read_text(encoding="utf-8") + f"\n{statement}\n", encoding="utf-8")
    done = contracts(tmp_path)
    assert done.returncode != 0
    assert re.search(rf"{broken}.* BROKEN", done.stdout), done.stdout


def test_the_contracts_ignore_no_circle() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    ignored = {c["id"]: c["ignore_imports"] for c in config["contracts"] if "ignore_imports" in c}
    shown = [f"sabun.poc.{name} -> sabun.messages.*" for name in ("spec", "judgement.assessment")]
    assert ignored == {"judgement": ["sabun.poc.spec -> pathlib", *shown]}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import sabun", ("torch", "numpy", "pydantic")),
        ("import sabun.schemes", ("torch", "scipy", "pydantic", "altair")),
        (
            "import sabun; sabun.Optimizer, sabun.swap, sabun.Guard",
            ("pydantic", "optuna", "scipy", "altair", "typer", "sympy", "torch.distributed.tensor", "torch._dynamo"),
        ),
        ("import sabun.cli", ("torch", "optuna", "altair", "scipy")),
    ],
)
def test_an_import_brings_only_what_it_needs(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_optimizers_import_no_package_but_torch_and_numpy() -> None:
    """So ``import sabun; sabun.Optimizer`` takes little longer than ``import torch``."""
    code = """
import sys, torch
before = set(sys.modules)
import sabun; sabun.Optimizer
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names - {"numpy", "sabun"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("loaded", [False, True])
def test_the_collector_has_nothing_left_at_exit_but_the_objects_of_triton(loaded: bool) -> None:
    """triton prints each of its objects that is not collected at exit, after the output of every command."""
    code = f"""
import atexit, gc, sys, types
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # runs last
from sabun.poc.torch_loading import own_process
own_process()
gc.freeze()
if {loaded}:
    sys.modules["triton"] = types.ModuleType("triton")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{not loaded}\n", done.stderr


INTERNALS = PACKAGE / "optim" / "torch_internals.py"
PRIVATE = set(re.findall(r"\b_[a-z]\w+", INTERNALS.read_text(encoding="utf-8")))


def private_uses(tree: ast.AST) -> list[str]:
    """What a module asks of torch beyond its public API: private names, private modules, private attributes."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            found += [name for a in node.names for name in f"{node.module}.{a.name}".split(".") if name[0] == "_"]
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.startswith("torch.") and "._" in a.name]
        elif isinstance(node, ast.Attribute) and node.attr[0] == "_" and node.attr[1] != "_":
            owner = ast.unparse(node.value)
            own = owner in ("self", "cls")
            found += [f"{owner}.{node.attr}"] if owner.startswith("torch.") or owner == "torch" else []
            found += [f"{owner}.{node.attr}"] if node.attr in PRIVATE and not own else []
        elif isinstance(node, ast.Constant) and node.value in PRIVATE:
            found.append(node.value)
    return found


def test_what_is_private_to_torch_is_asked_for_in_one_module() -> None:
    assert {str(p): uses for p, tree in MODULES.items() if p != INTERNALS and (uses := private_uses(tree))} == {}
    assert len(set(private_uses(MODULES[INTERNALS]))) > 20
    for statement in (
        "torch._foreach_add_(x, y)", "from torch.nn.modules.conv import _ConvNd", "import torch._dynamo",
        "getattr(s, '_step_count', 1)", "p._version", "torch.ops.aten._unsafe_view",
    ):  # fmt: skip
        assert private_uses(ast.parse(statement)), statement


def test_public_names_exist_and_are_listed() -> None:
    for name in sabun.__all__:
        assert getattr(sabun, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        sabun.no_such_name  # noqa: B018
