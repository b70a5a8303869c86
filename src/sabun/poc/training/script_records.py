"""The records that a script writes: lines of JSON, checked as they arrive.

    {"kind":"swap","optimizer":"AdamW"}                                        the arm's optimizer is in place
    {"kind":"log","epoch":1,"val_loss":0.5,"train_s":1.2,…}                    one point of the learning curve
    {"kind":"fault","reason":"…"}                                              the run has failed
    {"kind":"end","enough":false,"peak_memory_bytes":…,"weights_sha256":…}     the script ends, or has logged enough

:mod:`sabun.script.session` writes them, numbered by ``line`` and with a hash (:mod:`sabun.script.sealed`), but a
script may write to the same file, and a crash or a full disk may cut a line. A line that is not such a record, does not
have its hash, or is missing makes the run fail; it never enters the study's records.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from sabun.poc.codec import decode_float
from sabun.script.sealed import is_whole

__all__ = ["LONGEST", "MalformedLineError", "quoted", "read_record"]

LONGEST = 1 << 22
"""Maximum length of a line in bytes."""
LONGEST_TEXT = 10_000
SHOWN = 120
"""Number of characters of a malformed line that are quoted."""


class MalformedLineError(ValueError):
    """A line is not a record of the protocol; the message quotes it."""


def read_record(line: bytes, last_epoch: int) -> dict[str, Any]:
    """Return the record in ``line``, with NaN and infinities as numbers. Raises MalformedLineError.

    ``last_epoch`` is the last epoch logged before, which a further one must exceed.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise MalformedLineError(f"it wrote a line that is not a record: {quoted(line)}") from None
    kind = record.get("kind") if isinstance(record, dict) else None
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise MalformedLineError(f"it wrote a line of an unknown kind: {quoted(line)}")
    if "sha256" in record and not is_whole(line.removesuffix(b"\n")):
        raise MalformedLineError(f"it wrote a line that is damaged: {quoted(line)}")
    record = {key: decode_float(value) for key, value in record.items() if key != "sha256"}
    fields = {**fields, "line": (_count, False)}
    if {*record} - {"kind", *fields}:
        unknown = sorted({*record} - {"kind", *fields})[0]
        raise MalformedLineError(f"it wrote a line with an unknown field {quoted(unknown.encode())}: {quoted(line)}")
    for name, (valid, required) in fields.items():
        value = record.setdefault(name, None)
        if not (valid(value) if value is not None else not required):
            raise MalformedLineError(f"it wrote a line with an invalid {name}: {quoted(line)}")
    if kind == "log" and record["epoch"] <= last_epoch:
        raise MalformedLineError(f"it logged epoch {record['epoch']} after epoch {last_epoch}: {quoted(line)}")
    return record


def quoted(line: bytes) -> str:
    """Return the start of a line as one printable text in quotation marks."""
    text = line[: 4 * SHOWN].decode(errors="replace").rstrip("\r\n")
    return ascii(text[:SHOWN] + ("…" if len(text) > SHOWN else "")).replace("\\u2026", "…")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and (isinstance(value, float) or _fits(value))


def _seconds(value: object) -> bool:
    return _number(value) and math.isfinite(value) and value >= 0  # type: ignore[arg-type,operator]


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _fits(value: int) -> bool:
    return abs(value) < 2**63


def _digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{1,128}", value) is not None


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def _rates(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(group, dict) and _group(group) for group in value)


def _paths(value: object) -> bool:
    return isinstance(value, list) and all(_text(path) for path in value)


def _group(group: Mapping[str, object]) -> bool:
    numbers = ("asked", "first", "last", "largest")
    return (
        {*group} == {"group", "name", "parameters", "roles", "steps", "momentum", *numbers}
        and all(_count(group[key]) for key in ("group", "parameters", "steps"))
        and (group["name"] is None or _text(group["name"]))
        and (group["roles"] is None or _roles(group["roles"]))
        and (group["momentum"] is None or _range(group["momentum"]))
        and all(group[key] is None or _number(decode_float(group[key])) for key in numbers)
    )


def _range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_number, value))


def _load(value: object) -> bool:
    counts = ("preempted",)
    seconds = ("cpu_s", "waited_s", "lost_s", "average")
    return (
        isinstance(value, dict)
        and {*value} == {*counts, *seconds}
        and _seconds(value["cpu_s"])
        and all(value[key] is None or _seconds(value[key]) for key in seconds)
        and all(value[key] is None or _count(value[key]) for key in counts)
    )


def _roles(value: object) -> bool:
    return isinstance(value, dict) and {*value} == {"hidden", "rest"} and all(map(_count, value.values()))


Field = tuple[Callable[[object], bool], bool]
"""A test of a value, and whether the field must be there."""
_FIELDS: Mapping[str, Mapping[str, Field]] = {
    "swap": {"optimizer": (_text, False)},
    "fault": {"reason": (_text, True)},
    "log": {
        "epoch": (_count, True),
        "train_loss": (_number, False),
        "val_loss": (_number, True),
        "val_metric": (_number, False),
        "test_loss": (_number, False),
        "test_metric": (_number, False),
        "train_s": (_seconds, True),
        "eval_s": (_seconds, True),
        "optimizer_s": (_seconds, True),
        "gradient_evaluations": (_count, True),
        "lr": (_number, False),
        "load": (_load, False),
    },
    "end": {
        "enough": (lambda value: isinstance(value, bool), False),
        "peak_memory_bytes": (_count, False),
        "optimizer_state_bytes": (_count, False),
        "weights_sha256": (_digest, False),
        "rates": (_rates, False),
        "continued": (_paths, False),
        "outside": (_paths, False),
        "observed": (lambda value: isinstance(value, dict), False),
    },
}
