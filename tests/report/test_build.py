"""The Report: what it decides, what it admits, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from sabun.errors import OptionError
from sabun.messages.languages import languages
from sabun.messages.sentences import text
from sabun.poc.judgement.assessment import Assessment
from sabun.report import html
from sabun.report.build import build
from sabun.report.money import Prices

from .cases import evidence, report

Make = Callable[..., Any]


def keys(notes: tuple[Any, ...]) -> list[str]:
    return [note.key for note in notes]


def test_the_best_go_leads(case: Make) -> None:
    r = report(case())
    assert (r.decision, r.leading, r.headline.key) == ("go", "look-ahead", "headline.go")
    assert [c.arm for c in r.candidates if c.verdict.decision == "go"] == ["look-ahead", "nesterov-adam"]


@pytest.mark.parametrize(
    ("only", "decision", "leading", "headline"),
    [
        (("euler", "taylor-4"), "no-go", "euler", "headline.no_go_many"),
        (("taylor-4",), "no-go", "taylor-4", "headline.no_go_one"),
        (("nesterov", "euler"), "undecided", "nesterov", "headline.undecided_k1_seeds"),
    ],
)
def test_the_overall_decision(case: Make, only: tuple[str, ...], decision: str, leading: str, headline: str) -> None:
    r = report(case(candidates=6, only=only))
    assert (r.decision, r.leading, r.headline.key) == (decision, leading, headline)
    assert r.phrases[0].key == f"phrase.open_{decision.replace('-', '_')}"
    assert r.phrases[-1].key == f"phrase.close_{decision.replace('-', '_')}"


def test_the_epochs_are_those_of_the_runs_which_a_script_sets_itself(case: Make) -> None:
    c = case()
    planned = c.study.budget.epochs
    assert report(c).limits.epochs == planned
    own = c.study.model_copy(update={"budget": c.study.budget.model_copy(update={"epochs": planned + 7})})
    assert report(dataclasses.replace(c, study=own)).limits.epochs == planned


def test_what_was_not_tested_names_what_limits_the_evidence(case: Make) -> None:
    c = case()
    said = keys(report(c, mixed=True).untested)
    for wanted in ("task", "machine", "seeds", "power", "budget", "edge", "best_of", "dirty", "production", "mixed"):
        assert f"untested.{wanted}" in said
    clean = dataclasses.replace(c, environment={**c.environment, "git": {"dirty": False}})
    said = keys(report(clean).untested)
    assert "untested.dirty" not in said
    assert "untested.mixed" not in said


def test_failures_of_an_arm_are_admitted(case: Make) -> None:
    c = case()
    bad = dataclasses.replace(c.assessment.arms["euler"], diverged=2, failed=1, bit_exact=False)
    assessment = dataclasses.replace(c.assessment, arms={**c.assessment.arms, "euler": bad})
    r = report(dataclasses.replace(c, assessment=assessment))
    notes = {note.key: note.values for note in r.untested}
    assert notes["untested.diverged"] == {"arm": "euler", "diverged": 2, "failed": 1}
    assert notes["untested.not_exact"] == {"arm": "euler"}


@pytest.mark.parametrize(("batched", "key"), [(1, "no_repeat"), (8, "no_repeat_batched")])
def test_why_nothing_was_repeated_is_said(batched: int, key: str, case: Make) -> None:
    c = case()
    arms = {
        name: dataclasses.replace(arm, bit_exact=None, batched_seeds=batched) for name, arm in c.assessment.arms.items()
    }
    r = report(dataclasses.replace(c, assessment=dataclasses.replace(c.assessment, arms=arms)))
    assert {"untested.no_repeat", "untested.no_repeat_batched"} & set(keys(r.untested)) == {f"untested.{key}"}
    assert ("the repeated run alone" in html.render(r)) == (batched > 1)


def test_a_number_that_could_not_be_computed_is_not_claimed(case: Make) -> None:
    c = case(only=("look-ahead",))
    none = dict.fromkeys(("effect", "low", "high", "p_value", "p_adjusted"))
    broken = tuple(dataclasses.replace(x, **none, problem="too_few_seeds") for x in c.assessment.comparisons)
    r = report(dataclasses.replace(c, assessment=dataclasses.replace(c.assessment, comparisons=broken)))
    assert not [key for key in keys(r.phrases) if key.startswith("phrase.k")]
    assert r.headline.key == "headline.go_plain"


def test_every_note_has_a_sentence_in_every_language(case: Make) -> None:
    for only in (None, ("euler",), ("nesterov",)):
        r = report(case(candidates=6, only=only), prices=Prices(4, 100, "USD"), mixed=True)
        for note in (r.headline, *r.phrases, *r.untested, *r.steps, *r.why):
            for lang in languages():
                said = text(note.key, lang, note.values, currency="USD")
                assert said
                assert "–" not in said, (note, said)


def test_effort_counts_every_run_and_splits_off_tuning(case: Make) -> None:
    c = case(seeds=3)
    tuned = tuple(dataclasses.replace(run, phase="tune") for run in c.runs[:4])
    r = report(dataclasses.replace(c, runs=tuned + c.runs[4:]))
    each = [sum(e.train_s + e.eval_s for e in run.epochs) for run in c.runs]
    assert r.effort.runs == len(c.runs)
    assert r.effort.tuning_s == pytest.approx(math.fsum(each[:4]))
    assert r.effort.total_s == pytest.approx(math.fsum(each))
    assert (r.audit.started, r.audit.ended) == ("2026-11-24T01:00:00+00:00", "2026-11-24T01:02:09+00:00")


def test_where_training_sat_is_read_from_the_repeated_run(case: Make) -> None:
    c = case()
    r = report(c)
    arm = r.arm("euler")  # its loss is 1.09 times the baseline's; the share used grows to 0.9 times that
    assert arm.margin == pytest.approx(1 - 0.9 * 1.09)
    assert [epoch for epoch, _ in arm.interval_used] == list(range(21))
    assert arm.interval_used[10][1] == pytest.approx(0.45 * 1.09)
    assert {value for _, value in arm.curvature} == {4.0 * 1.09}
    other = r.arm("nesterov-adam")
    assert (other.margin, other.interval_used, other.curvature) == (None, (), ())
    runs = [run for run in c.runs if run.phase != "repeat"]
    assert report(dataclasses.replace(c, runs=tuple(runs))).arm("euler").margin is None


def test_a_method_beyond_its_edge_is_said_to_be(case: Make) -> None:
    c = case(only=("taylor-4",))
    notes = {n.values["arm"]: n for n in report(c).why if "margin" in n.key}
    assert notes["momentum"].key == "why.margin"
    assert notes["momentum"].values["used"] == pytest.approx(0.9)
    assert notes["taylor-4"].key == "why.margin_beyond"
    assert notes["taylor-4"].values["used"] == pytest.approx(1.17)


def test_certificates_come_from_the_catalogue(case: Make) -> None:
    c = case()
    r = report(c)
    euler = r.arm("euler").method
    assert euler is not None
    assert (euler.order, euler.error_constant, euler.stability_interval) == (1, 0.5, pytest.approx(2.0, rel=1e-6))
    assert keys(r.why)[:3] == ["why.error_less", "why.interval_less", "why.noise_less"]
    c = dataclasses.replace(c, runs=tuple(run for run in c.runs if run.phase == "evaluate"))
    unknown = report(
        dataclasses.replace(c, descriptions={"momentum": None, "look-ahead": {"scheme": "no-such-scheme"}})
    )
    assert keys(unknown.why) == ["why.unknown", "why.unknown"]


def test_equal_methods_with_other_options_are_the_same_method(case: Make) -> None:
    c = case()
    described = {
        arm: dict(c.descriptions["momentum"] or {}, preconditioner=text)
        for arm, text in (("momentum", "adam"), ("euler", "adam(beta2=0.99)"), ("look-ahead", "adam(beta2=0.9)"))
    }
    assert keys(report(dataclasses.replace(c, descriptions={**c.descriptions, **described})).why)[0] == "why.same"


def test_environment_is_flattened_line_by_line(case: Make) -> None:
    r = report(case())
    assert r.audit.environment["packages.torch"] == "2.13.0"
    assert r.audit.environment["machine.cores"] == "2"


def test_an_assessment_of_another_study_is_refused(case: Make) -> None:
    one, other = case(), case(only=("euler",))
    with pytest.raises(OptionError, match="other candidates"):
        build(evidence(one), other.assessment)


def test_a_report_is_the_same_each_time(case: Make) -> None:
    assert report(case()) == report(case())


def test_the_model_never_holds_what_it_did_not_get(case: Make) -> None:
    c = case()
    r = report(c, environment={}, runs=(), records_sha256="")
    assert (r.money, r.effort.runs, r.audit.started, r.audit.records_sha256) == (None, 0, "", "")
    assert isinstance(c.assessment, Assessment)


@pytest.mark.parametrize(
    ("low", "effect", "high", "key"),
    [
        (0.7, 0.8, 0.9, "money_sure"),
        (0.7, 0.9, 1.1, "money_unsure"),
        (1.1, 1.2, 1.3, "money_loss"),
        (0.7, 0.9, math.inf, "money_open"),
    ],
)
def test_money_is_said_as_surely_as_it_is_known(case: Make, low: float, effect: float, high: float, key: str) -> None:
    c = case(only=("look-ahead",))
    changed = tuple(
        dataclasses.replace(x, low=low, effect=effect, high=high) if x.kpi == "time_to_target_s" else x
        for x in c.assessment.comparisons
    )
    c = dataclasses.replace(c, assessment=dataclasses.replace(c.assessment, comparisons=changed))
    note = next(n for n in report(c, prices=Prices(5, 100, "USD", 2.0)).phrases if n.key.startswith("phrase.money"))
    assert note.key == f"phrase.{key}"
    if key == "money_loss":
        assert (note.values["low"], note.values["month"], note.values["high"]) == pytest.approx((100.0, 200.0, 300.0))
