"""What is searched of each arm besides its learning rate and schedule: two hyperparameters of four values each.

One of them is the weight decay, where the arm has the decoupled one: its centre, none, 0.3 and 3 times its centre. The
centre is the arm's own best over the development families, found by ``suite.py --decays`` for every arm alike.
A run is decided by the values and not by the space that they were drawn from, so this file is in no digest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sealed

__all__ = ["CENTRED", "FIRST", "centre_of", "decay_at", "space", "start_of"]

CENTRES = Path(__file__).resolve().parents[1] / "results" / "decays.json"
_PAIRS = ((0.9, 0.999), (0.9, 0.95), (0.8, 0.99), (0.95, 0.99))
_MOMENTA = (0.95, 0.9, 0.8, 0.7)
_BETAS = (0.8, 0.7, 0.9, 0.95)
_DECAY = "weight_decay"

FIRST: Mapping[str, float] = {
    "AdamW": 0.1, "NAdamW": 0.1, "Muon + AdamW": 0.1, "NorMuon + AdamW": 0.1, "AdaMuon + AdamW": 0.1, "SOAP": 0.1,
    "schedule-free AdamW": 0.1, "AdEMAMix": 0.1, "sabun": 1.0,
}  # fmt: skip
"""Arm → weight decay where the search of its centre begins. Of ours the factor of both decays of the preset."""

_OTHERS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "AdamW": {"betas": _PAIRS},
    "SGD, Nesterov": {"momentum": (0.9, 0.8, 0.95, 0.98), _DECAY: (0.0, 1e-4, 1e-3, 1e-2)},
    "NAdamW": {"betas": _PAIRS},
    "Muon + AdamW": {"momentum": _MOMENTA},
    "NorMuon + AdamW": {"momentum": _MOMENTA},
    "AdaMuon + AdamW": {"betas": ((0.95, 0.95), (0.9, 0.95), (0.8, 0.95), (0.7, 0.95))},
    "SOAP": {"betas": ((0.95, 0.95), (0.9, 0.95), (0.8, 0.95), (0.9, 0.99))},
    "schedule-free AdamW": {"betas": ((0.9, 0.999), (0.95, 0.99), (0.98, 0.99), (0.9, 0.95))},
    "AdEMAMix": {
        "alpha": (5.0, 1.0, 2.0, 8.0),
        "betas": ((0.9, 0.999, 0.99), (0.9, 0.999, 0.96), (0.8, 0.99, 0.96), (0.9, 0.999, 0.999)),
    },
}
"""Arm → the other hyperparameters. The first value of each is the package's default or the nearest to it."""


def decay_at(arm: str, n: int) -> float:
    """The n-th weight decay from where the search begins, by factors of √10, to one digit: 0.1, 0.3, 1, …"""
    value = FIRST[arm] * 10 ** (n / 2)
    return round(value, -math.floor(math.log10(value)))


def _centres() -> Mapping[str, Any]:
    return sealed.read(CENTRES)["arms"] if CENTRES.exists() else {}


CENTRED = _centres()
"""Arm → what ``suite.py --decays`` found: centre of the weight decay, and mean of the best rates with it."""


def centre_of(arm: str) -> float:
    """The centre of the weight decay; where it is not searched yet, the value where that search begins."""
    return CENTRED[arm]["decay"] if arm in CENTRED else FIRST[arm]


def start_of(arm: str, documented: float) -> float:
    """Where the search of the learning rate begins: where that of the weight decay ended, else as documented."""
    return CENTRED[arm]["rate"] if arm in CENTRED else documented


def space(arm: str, ours: str | None = None) -> Mapping[str, Sequence[Any]]:
    """Hyperparameter → values. ``ours``: the arm whose weight decay a candidate has."""
    if ours is not None:
        centre = centre_of(ours)
        return {"decay": (centre, 0.0, 0.3 * centre, 3 * centre), "beta": _BETAS}
    if arm not in FIRST:
        return _OTHERS[arm]
    centre = centre_of(arm)
    if "alpha" in _OTHERS[arm]:  # two hyperparameters of its own
        return {_DECAY: (centre,), **_OTHERS[arm]}
    return {_DECAY: tuple(float(f"{value:.3g}") for value in (centre, 0, 0.3 * centre, 3 * centre)), **_OTHERS[arm]}
