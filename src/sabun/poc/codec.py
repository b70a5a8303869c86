"""Epochs and results as strict JSON and back, exact to the bit: in the records, and between worker and parent.

NaN and the infinities, for which JSON has no number, become the texts NaN, Infinity and -Infinity.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from sabun.poc.records import Epoch, GroupRates, RunResult

__all__ = ["decode", "decode_epoch", "decode_float", "decode_rates", "encode", "encode_epoch", "to_json"]

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

T = TypeVar("T")
_RESULT, _EPOCH, _RATES = TypeAdapter(RunResult), TypeAdapter(Epoch), TypeAdapter(tuple[GroupRates, ...])


def encode(result: RunResult) -> dict[str, Any]:
    """Return a run's result as strict JSON."""
    fields = cast("dict[str, Any]", to_json(dataclasses.asdict(result)))
    return {key: value for key, value in fields.items() if value or key not in ("rates", "optimizer")}


def encode_epoch(epoch: Epoch) -> dict[str, Any]:
    """Return an epoch as strict JSON."""
    return cast("dict[str, Any]", to_json(dataclasses.asdict(epoch)))


def decode(fields: Mapping[str, Any]) -> RunResult:
    """Return the run that ``encode`` wrote. Raises ValueError for missing or unknown fields and other types."""
    return _read(_RESULT, fields)


def decode_epoch(fields: Mapping[str, Any]) -> Epoch:
    """Return the epoch that ``encode_epoch`` wrote. Raises ValueError as :func:`decode` does."""
    return _read(_EPOCH, fields)


def decode_rates(groups: Iterable[Mapping[str, Any]]) -> tuple[GroupRates, ...]:
    """Return the rates of parameter groups. Raises ValueError as :func:`decode` does."""
    return _read(_RATES, groups)


def _read(kind: TypeAdapter[T], value: object) -> T:
    """Return ``value`` as ``kind``. A number may be the text of NaN or an infinity."""
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None


def decode_float(value: Any) -> Any:
    """Return NaN or an infinity from its text, and any other value unchanged."""
    return _SPECIAL.get(value, value) if isinstance(value, str) else value


def to_json(value: Any) -> Any:
    """Return ``value`` with NaN and infinities as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, number in _SPECIAL.items() if number == value or math.isnan(value))
    if isinstance(value, Mapping):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    return value
