"""The limit of a study's budget: runs (``14runs``), or working time (``90s``, ``10min``, ``8h``, ``2d``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sabun.errors import StudyError

__all__ = ["Limit"]

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
"""Unit of time → seconds."""

_WRITTEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``runs`` runs, or at most ``seconds`` of working time; the other one is None."""

    text: str
    runs: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read a limit. Raises StudyError for another notation, or a limit that is not positive."""
        found = _WRITTEN.fullmatch(text)
        number, unit = (float(found[1]), found[2].lower()) if found else (0.0, "")
        if unit in ("run", "runs") and number == int(number) > 0:
            return cls(f"{int(number)}runs", runs=int(number))
        if unit in UNITS and number > 0:
            return cls(f"{number:g}{unit}", seconds=number * UNITS[unit])
        raise StudyError(
            f"{text!r} is not a budget.", fix="Write a number of runs or a time: 14runs, 90s, 10min, 8h or 2d."
        )
