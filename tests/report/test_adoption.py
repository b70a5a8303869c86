"""How difficult adopting is, the final accuracy, and how fast the loss falls: values against independent formulas."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sabun.messages.languages import languages
from sabun.report import html, markdown, report_json
from sabun.report.learning import learning
from sabun.report.money import Interval

from .cases import Case, report
from .test_renderings import Page

Make = Callable[..., Case]


def ends(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    assert interval is not None
    return interval.value, interval.low, interval.high


def values(c: Case, arm: str, epoch: int, name: str = "val_loss") -> np.ndarray:
    runs = [run for run in c.runs if run.arm == arm and run.phase == "evaluate"]
    return np.array([getattr(run.epochs[epoch], name) for run in sorted(runs, key=lambda run: run.seed)])


def test_accuracy_and_loss_have_the_intervals_of_scipy(case: Make) -> None:
    c = case(only=("look-ahead",), seeds=8, epochs=20)
    found = learning(c.runs, "momentum", {"momentum": 0.95, "look-ahead": 0.9})
    ours, base = found["look-ahead"], found["momentum"]
    new, old = values(c, "look-ahead", -1, "val_metric"), values(c, "momentum", -1, "val_metric")
    mean, difference = stats.ttest_1samp(new, 0.0), stats.ttest_rel(new, old)
    (metric, test) = ours.metrics
    assert (metric.kind, test.kind) == ("val_metric", "test_metric")
    assert ends(metric.mean) == pytest.approx((new.mean(), *mean.confidence_interval(0.9)))
    assert ends(metric.difference) == pytest.approx(((new - old).mean(), *difference.confidence_interval(0.9)))
    assert base.metrics[0].difference is None
    assert [(point.share, point.epoch) for point in ours.losses] == [(0.25, 5), (0.5, 10), (1.0, 20)]
    for point in ours.losses:
        a, b = values(c, "look-ahead", point.epoch), values(c, "momentum", point.epoch)
        ratio, cov = a.mean() / b.mean(), np.cov(a, b)
        # The delta method for a ratio of means.
        variance = (cov[0, 0] + ratio**2 * cov[1, 1] - 2 * ratio * cov[0, 1]) / (len(a) * b.mean() ** 2)
        half = stats.t.ppf(0.95, len(a) - 1) * math.sqrt(variance)
        assert ends(point.change) == pytest.approx((ratio - 1, ratio - 1 - half, ratio - 1 + half))


def test_what_was_not_logged_or_did_not_finish_is_not_shown(case: Make) -> None:
    c = case(only=("look-ahead",), seeds=8)

    def plain(run: Any) -> Any:
        bare = tuple(dataclasses.replace(epoch, val_metric=None) for epoch in run.epochs)
        failed = {"status": "failed", "epochs": ()} if run.seed == 3 and run.arm == "look-ahead" else {}
        return dataclasses.replace(run, **{"epochs": bare, "test_metric": None, **failed})

    found = learning(map(plain, c.runs), "momentum", {"momentum": 0.95, "look-ahead": 0.95})
    assert found["look-ahead"].metrics == ()
    kept = [seed for seed in range(8) if seed != 3]
    assert found["look-ahead"].losses[-1].mean.value == pytest.approx(values(c, "look-ahead", -1)[kept].mean())
    bare = dataclasses.replace(c, runs=tuple(map(plain, c.runs)))
    source = Page(html.render(report(bare), "ja"), "ja").said
    assert "最終精度（検証データ）" not in source
    assert "予算の25%での損失" in source


@pytest.mark.parametrize("lang", languages())
def test_the_page_shows_accuracy_by_arm(case: Make, lang: str) -> None:
    c = case(only=("look-ahead",), seeds=8)
    said = Page(html.render(report(c), lang), lang).said
    for arm in ("momentum", "look-ahead"):
        assert f"{100 * values(c, arm, -1, 'val_metric').mean():.1f}%" in said


def slower(c: Case, **changes: Any) -> Case:
    """The case with other results of the candidate: memory, cost, diverged runs, width of the learning rate."""
    a = c.assessment
    (verdict,) = a.verdicts
    comparisons = list(a.comparisons)
    if "memory" in changes:
        k3 = next(found for found in comparisons if found.kpi == "epoch_s")
        comparisons.append(dataclasses.replace(k3, kpi="peak_memory_bytes", effect=changes["memory"]))
    if changes.get("costly"):
        reasons = tuple(
            dataclasses.replace(r, outcome="unclear", code="k3_unclear") if r.kpi == "K3" else r
            for r in verdict.reasons
        )
        verdict = dataclasses.replace(verdict, reasons=reasons)
    arms = dict(a.arms)
    own = {name: changes[name] for name in ("diverged", "lr_tolerance_decades") if name in changes}
    arms[verdict.arm] = dataclasses.replace(arms[verdict.arm], **own)
    return dataclasses.replace(
        c, assessment=dataclasses.replace(a, comparisons=tuple(comparisons), verdicts=(verdict,), arms=arms)
    )


@pytest.mark.parametrize(
    ("changes", "level", "burdens"),
    [
        ({"memory": 1.0, "lr_tolerance_decades": 9.0}, "low", []),
        ({"memory": 1.2, "lr_tolerance_decades": 9.0}, "medium", ["memory"]),
        ({"costly": True, "lr_tolerance_decades": 0.01}, "medium", ["time_open", "rate_narrow"]),
        (
            {"memory": 2.0, "costly": True, "diverged": 1, "lr_tolerance_decades": 0.01},
            "high",
            ["memory", "time_open", "diverged", "rate_narrow"],
        ),
    ],
)
def test_the_level_counts_what_is_a_burden(case: Make, changes: dict[str, Any], level: str, burdens: list[str]) -> None:
    r = report(slower(case(only=("look-ahead",)), **changes))
    assert r.adoption is not None
    assert r.adoption.level == level
    assert [note.key for note in r.adoption.burdens] == [f"adopt.{name}" for name in burdens]
    for lang in languages():
        said = Page(html.render(r, lang), lang).said
        for note in (r.adoption.lines, r.adoption.needs, *r.adoption.burdens, *r.adoption.watch):
            assert r.sentence(note, lang) in said
        assert r.sentence(r.adoption.lines, lang) in markdown.render(r, lang).replace("\\", "")
    assert json.loads(report_json.render(r))["adoption"]["level"] == level


def test_lines_and_dependencies_are_those_of_the_study(case: Make) -> None:
    c = case(only=("look-ahead",))
    r = report(c, environment={**c.environment, "sabun": "0.2.0", "changed_lines": {"train.py": 3, "data.py": 1}})
    assert r.adoption is not None
    assert (r.adoption.lines.values["lines"], r.adoption.lines.values["files"]) == (4, ("train.py", "data.py"))
    assert r.adoption.needs.key == "adopt.needs_sabun"
    assert set(r.adoption.needs.values["there"]) == {"torch 2.13.0", "numpy 2.4.6"}  # type: ignore[arg-type]
    bare = report(c, environment={})
    assert bare.adoption is not None
    assert bare.adoption.needs.key == "adopt.needs_more"
    assert "sabun.create('look-ahead(0.9, 2)', model)" in bare.sentence(bare.adoption.lines, "ja")
    adamw = c.study.candidates[0].model_copy(update={"optimizer": "torch.optim:AdamW"})
    own = dataclasses.replace(c, study=c.study.model_copy(update={"candidates": (adamw,)}))
    assert report(own).adoption.needs.key == "adopt.needs_nothing"  # type: ignore[union-attr]
