"""Epochs and results as strict JSON and back, with exact floats, for records and for reports of workers.

JSON has no NaN and no infinities; they become the texts NaN, Infinity and -Infinity.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

from sabun.poc.records import Epoch, RunResult

__all__ = ["decode", "decode_epoch", "encode", "encode_epoch", "special", "to_json"]

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_FLOATS = ("train_loss", "val_loss", "val_metric", "test_loss", "test_metric", "train_s", "eval_s", "optimizer_s", "lr")


def encode(result: RunResult) -> dict[str, Any]:
    """Return a run's result as strict JSON."""
    return cast("dict[str, Any]", to_json(dataclasses.asdict(result)))


def encode_epoch(epoch: Epoch) -> dict[str, Any]:
    """Return an epoch as strict JSON."""
    return cast("dict[str, Any]", to_json(dataclasses.asdict(epoch)))


def decode(fields: Mapping[str, Any]) -> RunResult:
    """Return the result that :func:`encode` encoded, with exact floats."""
    return RunResult(**{**_floats(fields), "epochs": tuple(decode_epoch(epoch) for epoch in fields["epochs"])})


def decode_epoch(fields: Mapping[str, Any]) -> Epoch:
    """Return the epoch that :func:`encode_epoch` encoded, with exact floats."""
    return Epoch(**{**_floats(fields), "extra": {key: _SPECIAL.get(v, v) for key, v in fields["extra"].items()}})


def special(value: Any) -> Any:
    """Return NaN or an infinity for its text, and any other value unchanged."""
    return _SPECIAL.get(value, value) if isinstance(value, str) else value


def _floats(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: special(value) if key in _FLOATS else value for key, value in fields.items()}


def to_json(value: Any) -> Any:
    """Return ``value`` with NaN and infinities as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, special in _SPECIAL.items() if special == value or math.isnan(value))
    if isinstance(value, Mapping):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    return value
