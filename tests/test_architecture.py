"""The house keeps its shape: which layer may import which, and that importing stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sabun

ROOT = Path(sabun.__file__).parent

# module prefix → prefixes that it must never import, directly or lazily.
FORBIDDEN = {
    "sabun.schemes": (
        "torch", "scipy", "altair", "pydantic", "sabun.optim", "sabun.poc", "sabun.report", "sabun.rollout",
        "sabun.integrations", "sabun.cli",
    ),
    "sabun.optim": (
        "pydantic", "optuna", "altair", "sabun.poc", "sabun.report", "sabun.rollout", "sabun.integrations", "sabun.cli",
    ),
    "sabun.poc": ("altair", "jinja2", "rich", "typer", "sabun.report", "sabun.rollout", "sabun.integrations",
                  "sabun.cli"),
    "sabun.report": (
        "torch", "optuna", "sabun.optim", "sabun.poc.training.single", "sabun.poc.tuning", "sabun.poc.tasks.base",
        "sabun.poc.executors.base", "sabun.rollout", "sabun.integrations", "sabun.cli",
    ),
    "sabun.rollout": ("altair", "typer", "sabun.report", "sabun.integrations", "sabun.cli"),
    "sabun.integrations": ("sabun.cli",),
    "sabun.errors": ("sabun",),
}  # fmt: skip
# These judge evidence: pure functions of plain values.
PURE = ("sabun.poc.judgement.kpis", "sabun.poc.judgement.statistics", "sabun.poc.judgement.verdict", "sabun.poc.judgement.assess", "sabun.poc.judgement.calibrate",
        "sabun.poc.records", "sabun.poc.judgement.assessment")  # fmt: skip
for _module in PURE:
    FORBIDDEN[_module] = ("torch", "optuna", "sabun.optim", "sabun.poc.evidence.store", "sabun.poc.training.single", "sabun.poc.tuning",
                          "sabun.report", "sabun.cli", "os", "io", "pathlib", "tempfile", "shutil")  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path) -> set[str]:
    """Every module that the file names in an import statement, wherever it stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    named: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            named.add(base)
            named.update(f"{base}.{alias.name}" for alias in node.names)
    return named


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("layer", sorted(FORBIDDEN))
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    files = {name: path for name, path in modules().items() if within(name, layer)}
    for module, path in files.items():
        for named in imports(module, path):
            broken = [
                p for p in FORBIDDEN[layer] if within(named, p) and not (p == "sabun" and named == "sabun.errors")
            ]
            assert not broken, f"{module} imports {named}: {layer} must not depend on {broken[0]}"


def test_nothing_imports_the_command_line() -> None:
    for module, path in modules().items():
        if not within(module, "sabun.cli") and module != "sabun.__main__":  # python -m sabun, its other door
            assert not any(within(named, "sabun.cli") for named in imports(module, path)), module


def test_only_the_command_line_prints() -> None:
    for module, path in modules().items():
        if within(module, "sabun.cli"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        assert not any(call.func.id == "print" for call in calls if isinstance(call.func, ast.Name)), module


def test_the_test_of_directions_can_fail() -> None:
    tree = "import torch.nn\nfrom sabun.optim import x\ndef f():\n    from ..poc import spec\n"
    path = ROOT / "schemes" / "imaginary.py"
    probe = type("P", (), {"name": path.name, "read_text": lambda self, encoding: tree})()
    named = imports("sabun.schemes.imaginary", probe)
    assert {"torch.nn", "sabun.optim", "sabun.poc", "sabun.poc.spec"} <= named


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import sabun", ("torch", "numpy", "pydantic")),
        ("import sabun.schemes", ("torch", "scipy", "pydantic", "altair")),
        ("import sabun; sabun.Optimizer", ("pydantic", "optuna", "scipy", "altair", "typer")),
        ("import sabun.cli", ("torch", "optuna", "altair", "scipy")),
    ],
)
def test_an_import_brings_only_what_it_needs(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_public_names_exist_and_are_listed() -> None:
    for name in sabun.__all__:
        assert getattr(sabun, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        sabun.no_such_name  # noqa: B018
