"""The measure of false alarms on kinds whose author did not know how the guard decides."""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
corpus = importlib.import_module("guard_corpus")
kinds = importlib.import_module("guard_independent_kinds")

FAST = "hinge loss, separable, averaged SGD, batch 2"


def record(kind: str, lost: int = 0, *actions: str) -> dict[str, Any]:
    return {"kind": kind, "seed": 0, "healthy": True, "score": 1.0, "guarded": 1.0, "ended": "", "lost": lost} | {
        "actions": list(actions)
    }


def test_the_independent_kinds_are_many_and_none_is_one_of_the_author_of_the_guard() -> None:
    assert len(kinds.INDEPENDENT) >= 50
    assert not {*kinds.INDEPENDENT} & {*corpus.KINDS}
    assert all(math.isfinite(kinds.INDEPENDENT[name](0).goal) for name in (FAST, "digits: preset sabun"))


def test_a_training_is_healthy_only_if_it_reaches_its_goal() -> None:
    training = kinds.INDEPENDENT[FAST](0)
    fine, score, overflows = kinds.train(training)
    assert (fine, overflows) == (True, 0)
    assert score == training.score() <= training.goal
    worse = kinds.INDEPENDENT[FAST](0)
    worse.goal = score / 2
    assert not kinds.train(worse)[0]
    broken = kinds.INDEPENDENT[FAST](0)
    broken.loss = lambda step, loss=broken.loss: loss(step) * (math.nan if step == 100 else 1)
    assert not kinds.train(broken)[0]


def test_a_guard_that_does_nothing_changes_no_score() -> None:
    found = corpus.compared(FAST, 0)
    assert (found["actions"], found["lost"], found["ended"]) == ([], 0, "")
    assert found["guarded"] == found["score"]


def test_the_three_counts_include_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    clean = [record(kind) for kind in "abcd"]
    corpus.judged(
        [
            *clean,
            record("e", 40, "guard.skipped", "guard.rolled-back"),
            record("f", 1, "guard.skipped"),
            record("g", 5, corpus.COMPARED),
            record("h", 1),
            {"kind": "i", "seed": 3, "healthy": False, "score": 9.0},
            {"kind": "j", "seed": 4, "healthy": True, "score": 9.0, "refused": "no"},
        ]
    )
    said = capsys.readouterr().out
    rows = [line.split("|")[1:] for line in said.splitlines() if line.startswith("| ")][1:]
    assert [row[1].split("(")[0].strip() for row in rows] == ["1 of 8", "2 of 8", "4 of 8"]
    assert "(12.5%; 0.3%–52.7%)" in rows[0][1]  # Clopper and Pearson's tables
    assert [row[3].strip() for row in rows] == ["1", "2", "4"]
    assert "i, seed 3: not healthy" in said
    assert "j, seed 4: refused: no" in said


def test_the_interval_by_kind_takes_trainings_of_a_kind_together() -> None:
    alike = [record("a", 1)] * 20 + [record(kind) for kind in "bcd" for _ in range(20)]
    assert corpus.by_kind(alike, corpus.WAYS["or a batch without a step"]) == "0.0%–75.0%"
    apart = [record(kind, int(i < 5)) for kind in "abcd" for i in range(20)]
    assert corpus.by_kind(apart, corpus.WAYS["or a batch without a step"]) == "25.0%–25.0%"
