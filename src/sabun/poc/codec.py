"""Epochs and results as strict JSON and back, exact to the bit: in the records, and between worker and parent.

NaN and the infinities, for which JSON has no number, become the texts NaN, Infinity and -Infinity.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from sabun.poc.records import Epoch, GroupRates, Load, RunResult

__all__ = ["decode", "decode_epoch", "decode_float", "decode_rates", "encode", "encode_epoch", "to_json"]

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_FLOATS = ("train_loss", "val_loss", "val_metric", "test_loss", "test_metric", "train_s", "eval_s", "optimizer_s", "lr")

_RATES = ("asked", "first", "last", "largest")


def encode(result: RunResult) -> dict[str, Any]:
    """Return a run's result as strict JSON."""
    fields = cast("dict[str, Any]", to_json(dataclasses.asdict(result)))
    return fields if result.rates else {key: value for key, value in fields.items() if key != "rates"}


def encode_epoch(epoch: Epoch) -> dict[str, Any]:
    """Return an epoch as strict JSON."""
    return cast("dict[str, Any]", to_json(dataclasses.asdict(epoch)))


def decode(fields: Mapping[str, Any]) -> RunResult:
    """Return the run that ``encode`` wrote."""
    epochs = tuple(decode_epoch(epoch) for epoch in fields["epochs"])
    return RunResult(**{**_floats(fields), "epochs": epochs, "rates": decode_rates(fields.get("rates", ()))})


def decode_epoch(fields: Mapping[str, Any]) -> Epoch:
    """Return the epoch that ``encode_epoch`` wrote."""
    extra = {key: _SPECIAL.get(v, v) for key, v in fields["extra"].items()}
    load = None if fields.get("load") is None else Load(**fields["load"])
    return Epoch(**{**_floats(fields), "extra": extra, "load": load})


def decode_rates(groups: Iterable[Mapping[str, Any]]) -> tuple[GroupRates, ...]:
    """Return the rates of parameter groups."""
    return tuple(
        GroupRates(**{key: decode_float(value) if key in _RATES else value for key, value in group.items()})
        for group in groups
    )


def decode_float(value: Any) -> Any:
    """Return NaN or an infinity from its text, and any other value unchanged."""
    return _SPECIAL.get(value, value) if isinstance(value, str) else value


def _floats(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: decode_float(value) if key in _FLOATS else value for key, value in fields.items()}


def to_json(value: Any) -> Any:
    """Return ``value`` with NaN and infinities as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, number in _SPECIAL.items() if number == value or math.isnan(value))
    if isinstance(value, Mapping):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    return value
