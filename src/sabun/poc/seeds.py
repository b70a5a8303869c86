"""Seeds of a run, hashed from the study's seed, the phase and the seed number. All arms share them."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from sabun.poc.spec import Run, Study

__all__ = ["Seeds", "derive_seed", "seeds_of"]


def derive_seed(root: int, *parts: str | int) -> int:
    """Hash named parts to a seed in [0, 2³¹). Adding an arm or a phase does not change the other seeds."""
    text = json.dumps([root, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (2**31)


class Seeds(NamedTuple):
    """``init`` for the initial weights, ``batches`` for the order of the data and randomness in the forward pass."""

    init: int
    batches: int


def seeds_of(study: Study, run: Run) -> Seeds:
    """Return the seeds of a run. The arm does not enter, and tuning seeds differ from evaluation seeds."""
    group = "tune" if run.phase == "tune" else "evaluate"
    return Seeds(*(derive_seed(study.seed, group, part, run.seed) for part in ("init", "batches")))
