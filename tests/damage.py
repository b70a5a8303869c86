"""Damaged files: bytes flipped, lines cut, doubled, moved or swapped in, values replaced; chains that fit again."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sabun.journal import GENESIS

Record = dict[str, Any]
T = TypeVar("T")
E = TypeVar("E", bound=Exception)

EXAMPLES = int(os.environ.get("SABUN_FUZZ_EXAMPLES", "150"))
"""Damaged files per reader; 10,000 by hand."""
SLOW_EXAMPLES = EXAMPLES if "SABUN_FUZZ_EXAMPLES" in os.environ else EXAMPLES // 5
"""The same where a case takes whole commands: fewer unless a number was asked for."""
KINDS = ("flip", "cut", "remove", "double", "move", "swap")
STRANGE = (None, True, -1, 0, 10**30, 0.5, "", "x", "NaN", "\x1b[31m\udcff", [], {}, [[]], {"a": 1}, "9" * 400)
"""Values that a reader does not expect."""


def damage(raw: bytes, other: bytes, kind: str, rng: random.Random) -> bytes:
    """``raw`` with bytes flipped, or lines cut, doubled, moved or swapped in from ``other``."""
    lines = raw.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    if kind == "flip":
        changed = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == "cut":
        return raw[: rng.randrange(len(raw))]
    if kind == "remove":
        return b"".join(lines[:at] + lines[at + rng.choice((1, 1, 3)) :])
    if kind == "double":
        return b"".join([*lines[: at + 1], *lines[at:]])
    if kind == "move":
        line = lines.pop(at)
        lines.insert(rng.randrange(len(lines) + 1), line)
        return b"".join(lines)
    foreign = other.splitlines(keepends=True)
    lines[at : at + rng.randrange(2)] = [rng.choice(foreign)]
    return b"".join(lines)


def damaged(raw: bytes, other: bytes, check: Callable[[bytes], None]) -> None:
    """Call ``check`` with EXAMPLES damaged versions of ``raw``, ten for each example of hypothesis."""

    @settings(max_examples=max(1, EXAMPLES // 10), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(KINDS), st.integers(0, 2**32))
    def run(kind: str, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(10):
            check(damage(raw, other, kind, rng))

    run()


def attempt(call: Callable[[], T], error: type[E]) -> tuple[T | None, E | None]:
    """The result of ``call``, or the ``error`` that it raised."""
    try:
        return call(), None
    except error as raised:
        return None, raised


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in ``tree``, of those that hold others too."""
    if path:
        yield path
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places(tree[key], (*path, key))


def strange(tree: Any, rng: random.Random) -> Any:
    """``tree`` with a value replaced by an unexpected one, or removed, or with a key that is not known."""
    changed = copy.deepcopy(tree)
    path = rng.choice(list(places(tree)))
    at = changed
    for key in path[:-1]:
        at = at[key]
    what = rng.randrange(8)
    if what == 0:
        del at[path[-1]]
    elif what == 1 and isinstance(at, dict):
        at["unknown"] = rng.choice(STRANGE)
    else:
        at[path[-1]] = copy.deepcopy(rng.choice(STRANGE))
    return changed


def chained(records: list[Record]) -> bytes:
    """The records with a chain that fits, as somebody would write them who knows how."""
    head, out = GENESIS, b""
    for seq, record in enumerate(records):
        body = {key: value for key, value in record.items() if key not in ("seq", "prev", "hash")}
        text = json.dumps({"seq": seq, **body, "prev": head}, ensure_ascii=False, separators=(",", ":"))
        raw = text.encode("utf-8", "backslashreplace")[:-1]
        head = hashlib.sha256(raw).hexdigest()
        out += raw + b',"hash":"%s"}\n' % head.encode()
    return out


def sealed(journal: bytes) -> bytes:
    """The head file that fits a journal."""
    lines = journal.splitlines()
    last = json.loads(lines[-1])["hash"] if lines else GENESIS
    return b'{"count":%d,"size":%d,"hash":"%s"}\n' % (len(lines), len(journal), last.encode())
