"""What a running study is doing now, for ``status``. Never evidence: replaced at will, and lost without harm."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sabun import _files
from sabun.poc.evidence.specification import LIVE, LOCK
from sabun.poc.records import Phase

__all__ = ["being_written", "read_live", "write_live"]


class _RunStatus(BaseModel):
    """A run in flight: its last epoch, of how many (None: only its script knows), and the loss there."""

    run: str
    arm: str
    seed: int
    phase: Phase
    epoch: int
    epochs: int | None
    val_loss: str | None


class _LiveStatus(BaseModel):
    """The state of a study, how many runs are done of how many, and those in flight."""

    state: str = ""
    done: int = 0
    total: int = 0
    runs: list[_RunStatus] = []


def write_live(path: Path, status: Mapping[str, Any]) -> None:
    """Write the status of the study in the directory ``path``. A failure must not stop the study and is ignored."""
    with contextlib.suppress(OSError):
        content = json.dumps(dict(status), ensure_ascii=False, indent=1).encode() + b"\n"
        _files.replace(path / LIVE, content, sync=False)


def read_live(path: Path) -> dict[str, Any]:
    """Return the status last written; empty where there is none, or something else."""
    try:
        return _LiveStatus.model_validate_json(_files.read(path / LIVE)).model_dump(exclude_unset=True)
    except (OSError, ValueError):
        return {}


def being_written(path: Path) -> bool:
    """Whether a process is working on the study in the directory ``path``."""
    try:
        handle = os.open(path / LOCK, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        _files.lock(handle, shared=True, wait=False)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
