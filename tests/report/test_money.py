"""Money in closed form: what is saved, what it cost, when it pays back, and when nothing may be claimed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from sabun.errors import OptionError
from sabun.poc.judgement.assessment import Comparison, Decision
from sabun.report.money import Effort, Interval, Money, Prices, Saving, appraise, gain, more_machines

from .cases import report


def ratio(effect: float | None, low: float | None = None, high: float | None = None) -> Comparison:
    return Comparison(
        "time_to_target_s", "new", "ratio", effect, low, high, 0.95, 0.01, 0.02, 10, (), (), (), 1.0, "test"
    )  # fmt: skip


def money(found: Comparison | None, *, decision: Decision = "go", **more: Any) -> Money:
    prices = Prices(**{"price_per_hour": 5.0, "jobs_per_month": 100, "currency": "USD", "hours_per_job": 2.0, **more})
    ratios = {"new": gain({found.kpi: found} if found else {}, decision)}
    got = appraise(prices, Effort(10, 3600.0, 3600.0, 7200.0), 60.0, ratios)
    assert got is not None
    return got


def ends(found: Interval | None) -> tuple[float | None, float | None, float | None]:
    assert found is not None
    return found.value, found.low, found.high


def test_saving_payback_and_return_in_closed_form() -> None:
    m = money(ratio(0.8, 0.7, 0.9), setup_cost=90.0)
    s = m.savings[0]
    assert m.today_month == 1000.0  # 100 jobs × 2 h × 5
    assert m.poc_cost == 10.0  # 2 h × 5
    assert m.invested == 100.0
    assert ends(s.month) == pytest.approx((200.0, 100.0, 300.0))
    assert s.payback_months == pytest.approx(0.5)  # 100 / 200
    assert s.payback_latest == pytest.approx(1.0)  # 100 / 100
    assert ends(s.roi_year) == pytest.approx((23.0, 11.0, 35.0))  # (12 · 200 − 100) / 100, …


def test_the_gain_as_hardware_in_closed_form() -> None:
    """Ten machines that train day and night, with jobs in 0.8 of the time, do the work of 12.5."""
    m = money(ratio(0.8, 0.5, 1.25), jobs_per_month=3650.0)
    assert m.machines_today == 10.0  # 3650 jobs × 2 h / 730 h
    assert ends(m.savings[0].machines) == pytest.approx((2.5, -2.0, 10.0))
    assert ends(more_machines(Interval(0.8, 0.5, None))) == pytest.approx((0.25, None, 1.0))


def test_a_cost_of_adoption_that_is_not_given_is_not_nothing() -> None:
    assert money(ratio(0.8, 0.7, 0.9)).setup_cost is None
    assert money(ratio(0.8, 0.7, 0.9)).invested == 10.0
    assert money(ratio(0.8, 0.7, 0.9), setup_cost=0.0).setup_cost == 0.0


def test_an_uncertain_saving_has_no_latest_payback() -> None:
    s = money(ratio(0.9, 0.7, 1.1)).savings[0]
    assert ends(s.month) == pytest.approx((100.0, -100.0, 300.0))
    assert s.payback_months == pytest.approx(0.1)
    assert s.payback_latest is None
    assert ends(s.roi_year) == pytest.approx((119.0, -121.0, 359.0))


def test_an_extra_cost_never_pays_back() -> None:
    s = money(ratio(1.2, 1.1, 1.3)).savings[0]
    assert ends(s.month) == pytest.approx((-200.0, -300.0, -100.0))
    assert (s.payback_months, s.payback_latest) == (None, None)
    assert ends(s.roi_year) == pytest.approx((-241.0, -361.0, -121.0))


@pytest.mark.parametrize("decision", ["undecided", "small", "no-go"])
def test_a_verdict_that_supports_no_adoption_claims_no_saving(decision: Decision) -> None:
    assert money(ratio(0.5, 0.4, 0.6), decision=decision).savings == (Saving("new"),)
    assert money(ratio(0.5, 0.4, 0.6), decision="promising").savings != (Saving("new"),)


@pytest.mark.parametrize("found", [None, ratio(None), dataclasses.replace(ratio(0.8), scale="relative")])
def test_without_a_time_ratio_nothing_is_claimed(found: Comparison | None) -> None:
    assert money(found).savings == (Saving("new"),)


def test_an_unbounded_ratio_has_no_worst_case() -> None:
    s = money(ratio(0.9, 0.7, math.inf)).savings[0]
    assert ends(s.month) == pytest.approx((100.0, None, 300.0))
    assert s.payback_latest is None


def test_without_hours_the_study_itself_is_the_job(case: Callable[..., Any]) -> None:
    c = case(epochs=20)
    r = report(c, prices=Prices(3600.0, 1.0))
    assert r.money is not None
    assert not r.money.hours_given
    per_epoch = c.assessment.arms["momentum"].medians["epoch_s"]
    assert r.money.today_month == pytest.approx(20 * per_epoch)


@pytest.mark.parametrize(
    ("field", "value"),
    [("price_per_hour", 0.0), ("price_per_hour", -1.0), ("jobs_per_month", math.nan), ("hours_per_job", math.inf),
     ("setup_cost", -5.0), ("currency", "dollars"), ("currency", "J1Y")],
)  # fmt: skip
def test_prices_that_make_no_sense_are_refused(field: str, value: Any) -> None:
    with pytest.raises(OptionError):
        Prices(**{"price_per_hour": 1.0, "jobs_per_month": 1.0, field: value})
