"""Seeds of a run, hashed from the study's seed, the phase and the seed number. All arms share them."""

from __future__ import annotations

from typing import NamedTuple

from sabun.poc.spec import Run, Study, derive_seed

__all__ = ["Seeds", "seeds_of"]


class Seeds(NamedTuple):
    """``init`` for the initial weights, ``batches`` for the order of the data and randomness in the forward pass."""

    init: int
    batches: int


def seeds_of(study: Study, run: Run) -> Seeds:
    """Return the seeds of a run. The arm does not enter, and tuning seeds differ from evaluation seeds."""
    group = "tune" if run.phase == "tune" else "evaluate"
    return Seeds(*(derive_seed(study.seed, group, part, run.seed) for part in ("init", "batches")))
