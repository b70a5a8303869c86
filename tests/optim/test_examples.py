"""The example runs, and trains."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_the_example_trains_in_all_its_ways() -> None:
    names = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "optimizers.py"))
    for name in ("drop_in", "no_learning_rate", "several_gradients_per_step"):
        assert names[name]() < 0.8, name  # untrained: about 1.1
