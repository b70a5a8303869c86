"""What the benchmark of killed studies compares."""

from __future__ import annotations

from pathlib import Path

from kills import records

FINISHED = Path(__file__).parents[1] / "fixtures" / "study" / "finished"


def test_what_depends_on_the_machine_is_not_compared() -> None:
    """A further field of an epoch needs a decision: two studies agree in it, or it is left out."""
    found = records(FINISHED)
    assert found
    for run in found:
        assert not {"started", "ended", "peak_memory_bytes"} & set(run)
        for epoch in run["epochs"]:
            assert set(epoch) == {
                "epoch", "train_loss", "val_loss", "val_metric", "gradient_evaluations", "lr", "extra"
            }  # fmt: skip
