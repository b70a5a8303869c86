"""The page says what the records say: on synthetic records with known ratios, wins and losses alike."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from contest import ARMS, BASELINE, OURS, PROFILES, UNTUNED
from evidence import Arm, Curve, Evidence, load
from page import ADAMW_TUNED, MUON_TUNED, charts, claims, page, reached

TASKS = ("digits", "digits-cnn", "breast-cancer", "diabetes", "cifar10", "charlm", "charlm, wider")


def arm(slope: float, *, cost: float = 1.0, objective: float = 1.0, wide: float = 1.0) -> Arm:
    """Straight curves whose steps to any loss are inverse to ``slope``; three seeds, a spread of 1% times ``wide``."""
    at = tuple(range(0, 101, 10))
    curves = tuple(
        Curve(seed, at, tuple(10.0 - slope * (1 + 0.01 * wide * (seed - 1)) * n for n in at)) for seed in range(3)
    )
    trials = ((1e-4, 2.0), (1e-3, 1.0), (1e-2, 1.0), (1e-1, 2.0))
    return Arm(curves, cost, 1.0, 0.1, 1000, trials, 1e-3, False, objective)


def synthetic(**slopes: float) -> Evidence:
    """Every arm at 0.04 but those named; sabun costs 1.2 of AdamW's step."""
    arms = {
        name: arm(slopes.get(name, 0.04), cost=1.2 if name in (OURS, UNTUNED) else 1.0, objective=1 / slope)
        for name in ARMS
        for slope in [slopes.get(name, 0.04)]
    }
    about = {"quiet": False, "environment": {"machine": {"cpu": "a CPU", "cores": 2}, "torch": "2.13.0"}, "studies": {}}
    return Evidence("quick", dict.fromkeys(TASKS, arms), about)


def test_claims_are_the_ratios_of_the_records() -> None:
    rows = claims(synthetic(**{OURS: 0.08, UNTUNED: 0.05, "SGD, Nesterov": 0.05, "Muon + AdamW, β = 0.9": 0.064}))
    values = {text: (value, steps.value if steps else None) for text, _, value, _, steps in rows}
    found = list(values.values())
    # Steps: twice as steep as AdamW; SGD-Nesterov at 5/8; Muon 1/2, with its best momentum 4/5. Seconds: × 1.2.
    for (seconds, steps), expected in zip(found, (5 / 8, 1 / 2, 4 / 5, 4 / 5, 4 / 5), strict=False):
        assert steps == pytest.approx(expected)
        assert seconds == pytest.approx(1.2 * expected)
    assert values["spread over seeds against AdamW's"][0] == pytest.approx(2.0)  # of final losses, twice as steep
    assert values["learning-rate tolerance in decades, AdamW's = 1 (at least)"][0] == pytest.approx(1.0)
    assert values["diverged runs of `sabun`"][0] == 0
    assert values["seconds a step on cifar10, AdamW's = 1"][0] == pytest.approx(1.2)


def test_a_missed_target_is_said_to_be_missed() -> None:
    assert reached("ratio", 0.6, 0.6) is True
    assert reached("ratio", 0.6, 0.61) is False
    assert reached("decades (at least)", 1.5, 1.4) is False
    assert reached("ratio", 0.6, None) is None
    text = page(synthetic(**{OURS: 0.03}))
    assert "| against Muon+AdamW, learning rate tuned | ≤ 0.85 | 1.6" in text
    line = next(line for line in text.splitlines() if line.startswith("| against Muon+AdamW, learning rate tuned"))
    assert line.endswith("**not reached** |")
    duel = next(line for line in text.splitlines() if line.startswith("| Lion | **1.33**"))
    assert duel.count("**1.33**") == 1 + len(TASKS)  # a loss is bold on every task


def test_what_was_not_measured_is_not_made_up() -> None:
    empty = Evidence("full", {}, {"quiet": True, "studies": {}})
    assert all(value in (None, 0.0) for _, _, value, _, _ in claims(empty))
    text = page(empty)
    assert text.count("not measured") >= 7
    assert charts(empty) == {}


def test_the_page_warns_of_a_shared_machine_and_of_the_quick_profile() -> None:
    text = page(synthetic())
    assert "The machine was shared" in text
    assert "quick profile" in text
    assert "The machine was shared" not in page(Evidence("full", {}, {"quiet": True, "studies": {}}))


def test_the_page_names_the_tasks_that_are_missing() -> None:
    e = synthetic()
    assert "Incomplete" not in page(e)
    some = {task: e.tasks[task] for task in TASKS if task not in ("cifar10", "charlm")}
    assert "Incomplete: cifar10, charlm have not been run to the end." in page(Evidence("quick", some, e.about))
    halves = {**e.about, "studies": {"charlm": {"ours": {"budget": {"trials": 8, "seeds": 3}}}}}
    assert "Incomplete: charlm (peers), charlm (defaults) have" in page(Evidence("quick", e.tasks, halves))


def test_the_page_names_arms_whose_tuning_ended_at_an_edge() -> None:
    e = synthetic()
    assert "Under-tuned" not in page(e)
    edge = {**e.tasks["digits"], "Lion": replace(e.tasks["digits"]["Lion"], at_edge=True)}
    assert "Under-tuned on at least one task: Lion." in page(Evidence("quick", {**e.tasks, "digits": edge}, e.about))


def test_the_committed_page_is_that_of_the_committed_records() -> None:
    root = Path(__file__).parents[2]
    written = (root / "docs" / "benchmark.md").read_text(encoding="utf-8")
    profile = next(name for name in PROFILES if f"Profile **{name}**" in written)
    assert page(load(root / "benchmarks" / "results" / f"{profile}.json")) == written


def test_pictures_show_all_peers_and_the_page_shows_all_pictures() -> None:
    made = charts(synthetic(**{OURS: 0.08}))
    assert set(made) == {"ratios-steps", "ratios-seconds", "profile"}
    spec = made["ratios-steps"].to_dict()
    names = {row["name"] for layer in spec["layer"] for row in layer["data"].get("values", []) if "name" in row}
    assert names == {
        f"sabun / {peer}"
        for peer in (
            "AdamW", "SGD, Nesterov", "NAdamW", "Muon + AdamW", ADAMW_TUNED, MUON_TUNED, "schedule-free AdamW",
            "SOAP", "MARS", "Lion",
        )
    } | {f"sabun, untuned / {BASELINE}"}  # fmt: skip
    text = page(synthetic())
    assert all(f"images/benchmark-quick-{name}.svg" in text for name in made)


def test_a_lost_run_shows_as_never() -> None:
    e = synthetic(**{OURS: 0.08})
    broken = Arm((Curve(0, (0, 10), (10.0, math.inf), finished=False),), 1.0, 1.0)
    tasks = {task: {**arms, OURS: broken} for task, arms in e.tasks.items()}
    text = page(Evidence("quick", tasks, e.about))
    assert "never" in text
    assert "| diverged runs of `sabun` | ≤ 0 | 7 |  | **not reached** |" in text
