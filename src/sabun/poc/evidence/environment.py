"""The conditions of a run: machine, versions, repository. Stored with every study.

Two environments are of one *kind* if their runs may be compared: same processor, device, torch, sabun, C compiler,
packages of the arms, number of threads, and source of the task. A commit, a kernel or a host name may differ.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sabun.poc.spec import Study

__all__ = ["differences", "environment"]

_KIND = ("machine", "device", "threads", "torch", "sabun", "compiler", "packages", "task_source")
_PACKAGES = ("numpy", "optuna", "scipy", "scikit-learn")


def environment(study: Study) -> dict[str, Any]:
    """Return the present conditions, as plain JSON values."""
    # Comparing environments needs none of these.
    import torch

    import sabun
    from sabun.optim.compiled.c_compiler import compiler
    from sabun.poc.tasks import base as tasks

    return {
        "machine": {"cpu": _cpu(), "architecture": platform.machine(), "cores": os.cpu_count()},
        "device": str(study.task_options.get("device", "cpu")),
        "threads": 1,
        "torch": torch.__version__,
        "sabun": sabun.__version__,
        # A step may be compiled or not (fused="auto"), which changes its time and its rounding.
        "compiler": compiler(),
        "packages": _packages(study),
        "task_source": tasks.provenance(study.task, study.task_options),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "git": git(Path.cwd()),
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return what makes two environments differ in kind, in words; empty if nothing does."""
    found = []
    for key in _KIND:
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [
                f"{part}: {a.get(part)}, now {b.get(part)}" for part in sorted({*a, *b}) if a.get(part) != b.get(part)
            ]
        elif a != b:
            found.append(f"{key.replace('_', ' ')}: {a}, now {b}")
    return found


def git(directory: Path) -> dict[str, Any] | None:
    """Return the commit and whether tracked files were changed; None outside of a repository or without git."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        dirty = bool(_git(directory, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": dirty}


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def _packages(study: Study) -> dict[str, str]:
    """Return the versions of sabun's own dependencies, and of the packages that the arms' classes come from."""
    from sabun.optim.notation import parse

    sides = [parse(arm.optimizer) for arm in study.arms]
    modules = {side.name.split(".")[0].partition(":")[0] for side in sides if side.kind == "class"} - {"torch"}
    names = set(_PACKAGES)
    if modules:  # looking into every installed package takes half a second
        packages = importlib.metadata.packages_distributions()
        names.update(name for module in modules for name in packages.get(module, []))
    found = {}
    for name in sorted(names - {"torch"}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
