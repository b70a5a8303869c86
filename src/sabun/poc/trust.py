"""Whose study it is: what code it names, and whether this user has run it before.

A study that was received names commands, files and packages that resuming it would execute. Studies that this user has
run are known by the hash of their audit log's first event, which is different for every study and holds the hash of
``study.json``. These hashes are lines of the file ``sabun/studies`` in the user's state directory (``$XDG_STATE_HOME``,
by default ``~/.local/state``). A study that was moved or copied stays known; one whose specification was changed does
not.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from sabun.audit import AuditEvent, AuditLog
from sabun.errors import StoreError
from sabun.poc.evidence.audit_trail import FROZEN
from sabun.poc.evidence.specification import AUDIT, FrozenSpecification
from sabun.poc.spec import Arm, Study
from sabun.poc.tasks.builtin import TASKS

__all__ = ["code_of", "is_known", "names_code", "remember"]


def code_of(study: Study) -> list[str]:
    """Return what a run of ``study`` executes or imports that is part neither of sabun nor of ``torch.optim``."""
    found = []
    if study.is_script:
        found.append(f"the command {study.task!r}")
    elif study.task not in TASKS:
        found.append(f"the task {study.task!r}")
    return found + [f"the optimizer {arm.optimizer!r}" for arm in study.arms if names_code(arm)]


def names_code(arm: Arm) -> bool:
    """Whether the notation or an option of the arm names a class (``module:Class``) outside ``torch.optim``."""
    texts = [arm.optimizer, *(value for value in arm.options.values() if isinstance(value, str))]
    modules = [module for text in texts for module in re.findall(r"([\w.]+)\s*:", text)]
    return any(module != "torch.optim" for module in modules)


def remember(study: Study, frozen: AuditEvent) -> None:
    """Note that this user runs ``study``, whose first event is ``frozen``; where that cannot be written, do nothing."""
    if not code_of(study) or frozen.hash in _known():
        return
    with contextlib.suppress(OSError, RuntimeError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="ascii") as marks:
            marks.write(frozen.hash + "\n")


def is_known(path: Path) -> bool:
    """Whether this user has run the study in the directory ``path``, as its files specify it now."""
    return _mark(path) in _known()


def _mark(path: Path) -> str | None:
    """Return the hash of the first event, where that freezes the specification in ``path``; None otherwise."""
    try:
        specification = FrozenSpecification.read(path)
    except StoreError:
        return None
    _, events = AuditLog(path / AUDIT, actor="").load()
    frozen = bool(events) and events[0].event == FROZEN
    return events[0].hash if frozen and events[0].data.get("file_hash") == specification.file_hash else None


def _known() -> set[str]:
    try:
        return set(_file().read_text(encoding="ascii", errors="replace").split())
    except (OSError, RuntimeError):  # RuntimeError: a user without a home directory
        return set()


def _file() -> Path:
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".local" / "state") / "sabun" / "studies"
