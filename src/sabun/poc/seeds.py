"""The seeds of a run, hashed from named parts: study, phase and seed, never the arm. So every arm shares them."""

from __future__ import annotations

from typing import NamedTuple

from sabun.poc.spec import Run, Study, derive_seed

__all__ = ["Seeds", "seeds_of"]


class Seeds(NamedTuple):
    """``init`` for the initial weights, ``batches`` for the order of the data and randomness in the forward pass."""

    init: int
    batches: int


def seeds_of(study: Study, run: Run) -> Seeds:
    """The seeds of a run. Tuning has names of its own, so its seeds never meet the evaluation's."""
    group = "tune" if run.phase == "tune" else "evaluate"
    return Seeds(*(derive_seed(study.seed, group, part, run.seed) for part in ("init", "batches")))
