"""JSON objects in one line whose last key is the SHA-256 of all that precedes it.

    {"seed":7,…,"sha256":"5d41…"}

The instructions of a run and the records of a script are such lines, so that damage makes the run fail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["is_whole", "seal"]


def seal(fields: Mapping[str, Any]) -> bytes:
    """Return ``fields`` as a sealed line, without a newline."""
    text = json.dumps(fields).encode()[:-1]
    return text + _end(text)


def is_whole(line: bytes) -> bool:
    """Return whether ``line`` is as ``seal`` wrote it."""
    text = line.rpartition(b',"sha256":"')[0]
    return text + _end(text) == line


def _end(text: bytes) -> bytes:
    return b',"sha256":"%s"}' % hashlib.sha256(text).hexdigest().encode()
