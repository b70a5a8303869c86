"""The instructions of a run of a script: a JSON file with the arm, its hyperparameters and the seed.

    {"arm":{…},"hyperparameters":{…},"seed":7,…,"sha256":"5d41…"}

The hash is that of all that precedes it, so that a damaged file makes the run fail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sabun.errors import TrainingError

__all__ = ["encode", "read"]


def encode(task: Mapping[str, Any]) -> bytes:
    """Return the content of the file."""
    text = json.dumps(task).encode()[:-1]
    return text + _end(text)


def read(path: Path) -> dict[str, Any]:
    """Return the instructions in ``path``. Raises TrainingError for a file that is not as it was written."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(
            f"the instructions of this run cannot be read: {error}.",
            fix="A study sets SABUN_RUN; unset it to run the script by itself.",
        ) from None
    text = content.rpartition(b',"sha256":"')[0]
    if text + _end(text) != content:
        raise TrainingError(f"the instructions of this run in {path} are damaged.", fix="Run the study again.")
    task: dict[str, Any] = json.loads(text + b"}")
    return task


def _end(text: bytes) -> bytes:
    return b',"sha256":"%s"}' % hashlib.sha256(text).hexdigest().encode()
