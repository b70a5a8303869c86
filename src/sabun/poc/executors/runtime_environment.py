"""The runtime environment of a study: machine, versions and repository. Stored with its records."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import sabun
from sabun.optim.compiled.c_compiler import compiler
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.tasks.script_command import ScriptCommand

__all__ = ["runtime_environment"]

_PACKAGES = ("numpy", "optuna", "scipy", "scikit-learn")


def runtime_environment(resolved: ResolvedStudy) -> dict[str, Any]:
    """Return the environment of this process for a study, as plain JSON values.

    :func:`sabun.poc.evidence.environment.differences` compares two of them.
    """
    return {
        "machine": {"cpu": _cpu(), "architecture": platform.machine(), "cores": os.cpu_count()},
        "device": str(resolved.study.task_options.get("device", "cpu")),
        "threads": resolved.task.threads if isinstance(resolved.task, ScriptCommand) else 1,
        "torch": torch.__version__,
        "sabun": sabun.__version__,
        # A step may be compiled or not (fused="auto"), which changes its time and its rounding.
        "compiler": compiler(),
        "packages": _versions(resolved.packages),
        "task_source": resolved.task_source,
        **({"changed_lines": resolved.task.changed_lines()} if isinstance(resolved.task, ScriptCommand) else {}),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "git": _repository(Path.cwd()),
    }


def _repository(directory: Path) -> dict[str, Any] | None:
    """Return the commit and whether tracked files were changed; None outside of a repository or without git."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        dirty = _changed(Path(_git(directory, "rev-parse", "--show-toplevel")).resolve())
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": dirty}


def _changed(root: Path) -> bool:
    """Return whether tracked files of a repository or its submodules were changed."""
    own = _without_filters(root)
    if _git(root, *own, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty"):
        return True
    if not (root / ".gitmodules").exists():
        return False
    tracked = _git(root, "ls-files", "-z", "--stage").split("\0")
    inner = [(root / line.partition("\t")[2]).resolve() for line in tracked if line.startswith("160000 ")]
    return any(_changed(one) for one in inner if root in one.parents and (one / ".git").exists())


def _without_filters(directory: Path) -> list[str]:
    """Return the options that turn off the commands by which the repository's configuration filters files."""
    listed = _git(directory, "config", "--show-scope", "--name-only", "-z", "--list").split("\0")
    names = {
        name.rpartition(".")[0]
        for scope, name in zip(listed[::2], listed[1::2], strict=False)
        if scope in ("local", "worktree") and name.startswith("filter.")
    }
    if any("=" in name for name in names):  # which no option can name
        raise subprocess.SubprocessError
    off = [f"{name}.{what}" for name in sorted(names) for what in ("clean=", "process=", "required=false")]
    return [part for option in off for part in ("-c", option)]


def _git(directory: Path, *arguments: str) -> str:
    # A repository's own configuration may name a command that `status` runs, or a remote that it fetches from.
    # `status` would otherwise lock the index to refresh it.
    safe = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    done = subprocess.run(
        ["git", "-C", str(directory), *safe, *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=10,
        check=True,
        env={**os.environ, "GIT_ALLOW_PROTOCOL": "none"},
    )
    return done.stdout.strip()


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of sabun's own requirements and of the distributions that provide ``packages``."""
    modules = set(packages) - {"torch"}
    names = set(_PACKAGES)
    if modules:  # scanning every installed distribution takes half a second
        distributions = importlib.metadata.packages_distributions()
        names.update(name for module in modules for name in distributions.get(module, []))
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
