"""The page says what the records say: on synthetic records with known ratios, wins and losses alike."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from contest import ARMS, BASELINE, COMPILED, OURS, PROFILES, UNTUNED
from evidence import Arm, Curve, Evidence, load
from page import ADAMW_TUNED, FUSED, MUON_TUNED, charts, claims, page, reached

TASKS = ("digits", "digits-cnn", "breast-cancer", "diabetes", "cifar10", "charlm", "charlm, wider")


def arm(slope: float, *, cost: float = 1.0, objective: float = 1.0, wide: float = 1.0) -> Arm:
    """Straight curves whose steps to any loss are inverse to ``slope``; three seeds, a spread of 1% times ``wide``."""
    at = tuple(range(0, 101, 10))
    curves = tuple(
        Curve(seed, at, tuple(10.0 - slope * (1 + 0.01 * wide * (seed - 1)) * n for n in at)) for seed in range(3)
    )
    trials = ((1e-4, 2.0), (1e-3, 1.0), (1e-2, 1.0), (1e-1, 2.0))
    return Arm(curves, cost, 1.0, 0.1, 1000, trials, 1e-3, False, objective)


COSTS = {OURS: 1.2, UNTUNED: 1.2, "AdamW, compiled step": 0.8, "SGD, compiled step": 0.6}


def synthetic(**slopes: float) -> Evidence:
    """Every arm at 0.04 but those named, at the cost of AdamW's step but those of ``COSTS``."""
    arms = {
        name: arm(slopes.get(name, 0.04), cost=COSTS.get(name, 1.0), objective=1 / slope)
        for name in ARMS
        for slope in [slopes.get(name, 0.04)]
    }
    about = {"quiet": False, "environment": {"machine": {"cpu": "a CPU", "cores": 2}, "torch": "2.13.0"}, "studies": {}}
    return Evidence("quick", dict.fromkeys(TASKS, arms), about)


def test_claims_are_the_ratios_of_the_records() -> None:
    rows = claims(synthetic(**{OURS: 0.08, UNTUNED: 0.05, "SGD, Nesterov": 0.05, "Muon + AdamW, β = 0.9": 0.064}))
    values = {row.text: (row.value, row.steps.value if row.steps else None) for row in rows}
    found = list(values.values())
    # Steps: twice as steep as AdamW; SGD-Nesterov at 5/8; Muon 1/2, with its best momentum 4/5. Seconds: × 1.2.
    for (seconds, steps), expected in zip(found, (5 / 8, 1 / 2, 4 / 5, 4 / 5, 4 / 5), strict=False):
        assert steps == pytest.approx(expected)
        assert seconds == pytest.approx(1.2 * expected)
    assert values["spread over seeds against AdamW's"][0] == pytest.approx(2.0)  # of final losses, twice as steep
    assert values["learning-rate tolerance in decades, AdamW's = 1 (at least)"][0] == pytest.approx(1.0)
    assert values["diverged runs of `sabun`"][0] == 0
    assert values["seconds per step on cifar10, AdamW's = 1"][0] == pytest.approx(1.2)
    # With torch's compiled step AdamW costs 4/5 and SGD 3/5: 5/8 · 6/5 · 5/3 against SGD, which is then the best peer,
    # 4/5 · 6/5 · 5/4 untuned against AdamW; Muon is the same as before.
    compiled = [row.compiled for row in rows]
    assert [compiled[n] for n in (0, 3, 4)] == pytest.approx([1.25, 1.25, 1.2])
    assert compiled[1:3] == [None, None]
    assert compiled[5:8] == [None] * 3
    assert compiled[8:] == pytest.approx([1.5] * 3)
    assert all(row.in_compiled.value == row.compiled for row in rows[:1] + rows[3:5])


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
    assert all(row.value in (None, 0.0) for row in claims(empty))
    text = page(empty)
    assert text.count("not measured") >= 7
    assert charts(empty) == {}


def without(e: Evidence, *tasks: str) -> Evidence:
    """As records were before the compiled steps were clocked, on some tasks."""
    old = {name: found for name, found in e.tasks[TASKS[0]].items() if name not in COMPILED.values()}
    return Evidence(e.profile, {task: old if task in tasks else arms for task, arms in e.tasks.items()}, e.about)


def test_the_column_of_compiled_steps_has_what_was_clocked() -> None:
    # Half as many steps as AdamW at 1.2 of its seconds: 0.6, and 0.75 of its compiled step; 1 with that of SGD.
    e = synthetic(**{OURS: 0.08})
    text = page(e)
    assert f"| claim | target | in seconds | in seconds, {FUSED} | in steps | |" in text
    row = next(line for line in text.splitlines() if line.startswith("| `sabun` against the better of tuned"))
    _, _, plain, compiled, steps, outcome = (cell.strip() for cell in row.strip("|").split("|"))
    assert (plain[:4], compiled[:2], steps[:4]) == ("0.6 ", "1 ", "0.5 ")
    assert outcome == f"reached, **not with {FUSED}**"
    assert "It excludes" not in text
    row = next(line for line in text.splitlines() if line.startswith("| against Muon+AdamW, momentum tuned too"))
    assert row.split("|")[4].strip() == ""
    some = page(without(e, "digits", "charlm"))
    assert "It excludes digits, charlm, where that step was not timed." in some
    row = next(line for line in some.splitlines() if line.startswith("| `sabun` against the better of tuned"))
    assert row.endswith("| reached |")  # a mean over some of the tasks overrules nothing
    row = next(line for line in some.splitlines() if line.startswith("| seconds per step on charlm, AdamW's"))
    assert row.split("|")[3:5] == [" 1.2 ", "  "]
    none = page(without(e, *TASKS))
    assert "| claim | target | in seconds | in steps | |" in none
    assert "fused" not in none
    assert "compiled" not in none


def test_arms_that_were_clocked_only_stand_beside_step_times_and_nowhere_else() -> None:
    text = page(synthetic(**{OURS: 0.08, "AdamW, compiled step": 0.09}))  # the lowest loss, if it were a contestant
    for name, cost in (("AdamW, compiled step", "0.8"), ("SGD, compiled step", "0.6")):
        assert [line for line in text.splitlines() if line.startswith(f"| {name} |")] == [
            f"| {name} | | | {cost} | | |"
        ]
    losses = text.split("## Final validation loss")[1].split("##")[0]
    assert next(line for line in losses.splitlines() if line.startswith("| sabun |")).count("**") == 2 * len(TASKS)
    made = str([chart.to_dict() for chart in charts(synthetic()).values()])
    assert "compiled" not in made


def test_the_page_says_with_what_sabun_compiled_its_own_step() -> None:
    e = synthetic()
    assert "`sabun` compiles" not in page(e)
    for noted, said in (("gcc 12.2", "(here: gcc 12.2)"), (None, "(here: none, so it did not)")):
        about = {**e.about, "environment": {**e.about["environment"], "compiler": noted}}
        assert f"`sabun` compiles its step if it finds a C compiler {said}." in page(replace(e, about=about))


def test_the_page_says_how_far_the_two_steps_are_apart() -> None:
    assert "equal with both, to the six digits stored" in page(synthetic())
    off = page(synthetic(**{"AdamW, compiled step": 0.0400004}))
    # 0.0000004 · 101% · 100 steps, of a loss of 10 − 4.04
    assert "differ by at most 7e-06 of the loss" in off


def test_every_arm_is_asked_what_is_asked_of_sabun() -> None:
    e = synthetic(**{OURS: 0.08, "SOAP": 0.064, "Lion": 0.02})
    text = page(e).split("## Every arm against the best of the others")[1].split("##")[0]
    assert "the best of the other 11" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    # sabun against SOAP: 4/5, and 6/5 of its seconds; SOAP against sabun the inverse; others 2 against sabun, at 5/6 of
    # its seconds, 1.6 · 1 against SOAP; Lion 4 and 3.33.
    assert rows[0] == "| sabun | 0.8 | 0.96 |"
    assert rows[1] == "| SOAP | 1.25 | 1.04 |"
    assert rows[-1] == "| Lion | 4 | 3.33 |"
    assert set(rows[2:-1]) == {
        f"| {name} | 2 | 1.67 |"
        for name in ARMS
        if name not in (OURS, UNTUNED, "AdamW, untuned", "SOAP", "Lion", *COMPILED.values())
    }
    best = next(row for row in claims(e) if row.text == "against the best peer of each task")
    assert (best.steps.value, best.value) == pytest.approx((0.8, 0.96))
    assert "Every arm" not in page(Evidence("full", {}, {"quiet": True, "studies": {}}))


def test_the_page_warns_of_a_shared_machine_and_of_the_quick_profile() -> None:
    text = page(synthetic())
    assert "The machine was shared" in text
    assert "quick profile" in text
    assert "The machine was shared" not in page(Evidence("full", {}, {"quiet": True, "studies": {}}))


def test_the_page_names_the_tasks_that_are_missing() -> None:
    e = synthetic()
    assert "Incomplete" not in page(e)
    some = {task: e.tasks[task] for task in TASKS if task not in ("cifar10", "charlm")}
    assert "Incomplete: cifar10, charlm are not complete." in page(Evidence("quick", some, e.about))
    halves = {**e.about, "studies": {"charlm": {"ours": {"budget": {"trials": 8, "seeds": 3}}}}}
    assert "Incomplete: charlm (peers), charlm (defaults) are" in page(Evidence("quick", e.tasks, halves))


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
    assert "| diverged runs of `sabun` | ≤ 0 | 7 |  |  | **not reached** |" in text
