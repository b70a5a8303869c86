"""All arms by name: rivals, ours, and the candidates for our preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from comparison.arm import Arm
from comparison.candidates import CANDIDATE_ARMS, CONFIRMED
from comparison.ours import OUR_ARMS, OURS
from comparison.rivals import BASELINE, RIVAL_ARMS
from comparison.spaces import space

__all__ = ["ARMS", "BASELINE", "CANDIDATES", "CONFIRMED", "OURS", "RIVALS", "TUNED", "UNTUNED", "untuned"]

ARMS: Mapping[str, Arm] = {
    arm.name: arm if arm.fixed else replace(arm, choices={**space(arm.name, OURS if arm.ours else None), **arm.choices})
    for arm in (*RIVAL_ARMS, *OUR_ARMS, *CANDIDATE_ARMS)
}
CANDIDATES = tuple(arm.name for arm in CANDIDATE_ARMS)
UNTUNED = tuple(name for name, arm in ARMS.items() if arm.fixed)
TUNED = tuple(name for name in ARMS if name not in (*UNTUNED, *CANDIDATES))
RIVALS = tuple(name for name in TUNED if name != OURS)


def untuned(name: str) -> str:
    """The arm of an optimizer at its defaults. Raises KeyError if there is none."""
    return ARMS[f"{name}, untuned"].name
