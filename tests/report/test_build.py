"""The Report: what it decides, what it admits, and what it refuses."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest

from sabun.errors import OptionError
from sabun.messages.languages import languages
from sabun.messages.sentences import text
from sabun.poc.judgement.assessment import Assessment
from sabun.poc.judgement.statistics import seeds_to_decide
from sabun.report import charts, html, markdown
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
    name = decision.replace("-", "_")
    assert r.phrases[0].key == f"phrase.open_{name}{'_one' if headline.endswith('_one') else ''}"
    assert r.phrases[-1].key == f"phrase.close_{name}{'_seeds' if decision == 'undecided' else ''}"


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
        for note in (r.headline, *r.phrases, *r.untested, *(step.say for step in r.steps), *r.why):
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


def _undecided(case: Make, *codes: tuple[str, dict[str, Any]], **changes: Any) -> Any:
    """The report of an undecided study with these reasons (K1, K2, K3; those left out pass)."""
    c = case(candidates=6, only=("nesterov",))
    verdict = c.assessment.verdicts[0]
    given = {f"K{code[1]}": (code, values) for code, values in codes}
    reasons = tuple(
        dataclasses.replace(r, code=given[r.kpi][0], outcome="unclear", values={**r.values, **given[r.kpi][1]})
        if r.kpi in given
        else dataclasses.replace(r, code={"K1": "k1_better", "K2": r.code, "K3": r.code}[r.kpi], outcome="pass")
        for r in verdict.reasons
    )
    verdict = dataclasses.replace(verdict, decision="undecided", reasons=reasons)
    comparisons = tuple(
        dataclasses.replace(x, **changes) if x.kpi == "final_loss" else x for x in c.assessment.comparisons
    )
    assessment = dataclasses.replace(c.assessment, verdicts=(verdict,), comparisons=comparisons)
    return report(dataclasses.replace(c, assessment=assessment))


@pytest.mark.parametrize(
    ("code", "values", "advice"),
    [
        ("k1_unclear_seeds", {"seeds": 24}, "seeds"),
        ("k1_too_few_seeds", {"needed": 24}, "seeds"),
        ("k3_unclear_seeds", {"seeds": 24}, "seeds"),
        ("k1_unclear", {}, "margin"),
        ("k1_below_margin", {}, "margin"),
        ("k3_unclear", {}, "margin"),
        ("k1_baseline_at_edge", {"hyperparameter": "lr", "value": 3.0}, "search"),
        ("k1_diverged", {"candidate": 2, "baseline": 0}, "diverged"),
        ("k2_diverged", {"candidate": 2, "baseline": 0}, "diverged"),
        ("k1_incomplete", {"needed": 12}, "unfinished"),
        ("k1_continue", {"planned": 12}, "unfinished"),
        ("k1_not_positive", {}, "data"),
        ("k2_suspect", {}, "again"),
    ],
)
def test_the_advice_on_an_undecided_study_follows_from_the_reason(
    case: Make, code: str, values: dict[str, Any], advice: str
) -> None:
    r = _undecided(case, (code, values))
    assert r.phrases[-1].key == f"phrase.close_undecided_{advice}"
    assert keys([step.say for step in r.steps])[:2] == ["step.undecided", f"step.undecided_{advice}"]
    assert ("step.undecided_before" in keys([step.say for step in r.steps])) == (advice == "seeds")
    if advice == "seeds":
        assert r.steps[1].say.values["needed"] == r.phrases[-1].values["needed"] == 24
    for note in (r.headline, *r.phrases, *(step.say for step in r.steps)):
        for lang in languages():
            assert "–" not in text(note.key, lang, note.values), note


def test_more_seeds_are_not_the_advice_where_another_reason_stands_in_the_way(case: Make) -> None:
    more = ("k3_unclear_seeds", {"seeds": 24})
    edge = ("k1_baseline_at_edge", {"hyperparameter": "lr", "value": 3.0})
    assert _undecided(case, edge, more).steps[1].say.key == "step.undecided_search"
    assert _undecided(case, ("k1_unclear", {}), more).steps[1].say.key == "step.undecided_margin"


def test_every_reason_for_being_undecided_has_an_advice() -> None:
    from sabun.poc.judgement.assessment import REMARKS
    from sabun.poc.judgement.verdict import REASONS
    from sabun.report.narrative import _ADVICE

    decided = {"k1_better", "k1_small", "k1_worse", "k1_diverged_more", "k2_not_worse", "k2_worse", "k2_diverged_more"}
    decided |= {"k3_within", "k3_time_to_target", "k3_beyond", "k3_busy", *REMARKS}
    assert sorted(code for codes in _ADVICE.values() for code in codes) == sorted(set(REASONS) - decided)


@pytest.mark.parametrize(
    ("code", "changes", "key"),
    [
        ("k1_unclear_seeds", {"threshold": 0.0}, "k1_seeds"),
        ("k1_unclear_seeds", {"threshold": -0.02, "low": -0.05, "high": -0.001}, "k1_margin_seeds"),
        ("k1_unclear", {"threshold": -0.02, "low": -0.05, "high": -0.001}, "k1_margin"),
        ("k1_below_margin", {"threshold": -0.02, "low": -0.01, "high": 0.02}, "below"),
        ("k1_baseline_at_edge", {"threshold": 0.0, "low": -0.05, "high": -0.01}, "edge"),
        ("k1_too_few_seeds", {}, "few"),
        ("k1_incomplete", {}, "incomplete"),
    ],
)
def test_the_headline_says_what_is_undecided(case: Make, code: str, changes: dict[str, Any], key: str) -> None:
    values = {"needed": 12, "seeds": 24, "hyperparameter": "lr", "value": 3.0}
    assert _undecided(case, (code, values), **changes).headline.key == f"headline.undecided_{key}"


def test_a_study_that_ended_early_gives_its_number_of_pairs(case: Make) -> None:
    c = case(only=("look-ahead",), seeds=6)
    planned = c.study.model_copy(update={"budget": c.study.budget.model_copy(update={"seeds": 12, "looks": (6,)})})
    r = report(dataclasses.replace(c, study=planned))
    assert (r.pairs, r.limits.seeds) == (6, 12)
    assert {note.key: note.values for note in r.untested}["untested.seeds"]["n"] == 6
    assert "6 paired seeds" in html.render(r)
    assert "6 paired seeds" in markdown.render(r)
    failed = tuple(
        dataclasses.replace(run, status="failed") if (run.arm, run.seed) == ("look-ahead", 2) else run for run in c.runs
    )
    assert report(dataclasses.replace(c, study=planned, runs=failed)).pairs == 5


def test_the_detectable_effect_includes_the_margin(case: Make) -> None:
    c = case(only=("look-ahead",))
    wider = c.study.model_copy(update={"thresholds": c.study.thresholds.model_copy(update={"margin": 0.02})})
    for study, effect in ((c.study, 0.06), (wider, 0.07)):
        notes = {note.key: note.values for note in report(dataclasses.replace(c, study=study)).untested}
        assert notes["untested.power"]["detectable"] == pytest.approx(effect)


def test_the_message_about_an_undecidable_study_has_the_number_of_seeds_that_was_searched() -> None:
    cap = inspect.signature(seeds_to_decide).parameters["cap"].default
    for lang in languages():
        assert str(cap) in text("reason.k1_unclear", lang, {"effect": 0.0, "low": -0.1, "high": 0.1, "limit": 0.0})


@pytest.mark.parametrize(
    ("kpi", "values", "labels"),
    [
        ("final_loss", (math.inf,), ["diverged"]),
        ("final_loss", (math.nan,), ["failed"]),
        ("final_loss", (math.inf, math.nan), ["diverged", "failed"]),
        ("time_to_target_s", (math.inf,), ["not reached"]),
        ("time_to_target_s", (math.nan,), ["not available"]),  # the baseline has no final loss with this seed
    ],
)
def test_a_dot_without_a_number_is_labelled_with_what_happened(
    case: Make, kpi: str, values: tuple[float, ...], labels: list[str]
) -> None:
    c = case(only=("look-ahead",))
    arms = {
        name: dataclasses.replace(arm, values={**arm.values, kpi: (*values, *(1.0 for _ in arm.seeds[len(values) :]))})
        for name, arm in c.assessment.arms.items()
    }
    r = report(dataclasses.replace(c, assessment=dataclasses.replace(c.assessment, arms=arms)))
    drawn = charts.dots(r, kpi, "chart")
    found = [label for label in ("diverged", "failed", "not reached", "not available") if label in drawn]
    assert found == labels
    assert ", ".join(labels) in drawn
