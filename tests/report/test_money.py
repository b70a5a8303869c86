"""Money in closed form: what is saved, what it cost, when it pays back, and when nothing may be claimed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from sabun.errors import OptionError
from sabun.poc.judgement.assessment import Comparison
from sabun.report.money import Effort, Money, Prices, appraise

from .cases import report


def ratio(effect: float | None, low: float | None = None, high: float | None = None) -> Comparison:
    return Comparison(
        "time_to_target_s", "new", "ratio", effect, low, high, 0.95, 0.01, 0.02, 10, (), (), (), 1.0, "test"
    )  # fmt: skip


def money(found: Comparison | None, **more: Any) -> Money:
    prices = Prices(**{"price_per_hour": 5.0, "jobs_per_month": 100, "currency": "USD", "hours_per_job": 2.0, **more})
    got = appraise(prices, Effort(10, 3600.0, 3600.0, 7200.0), 60.0, {"new": {found.kpi: found} if found else {}})
    assert got is not None
    return got


def test_saving_and_break_even_in_closed_form() -> None:
    m = money(ratio(0.8, 0.7, 0.9), setup_cost=90.0)
    s = m.savings[0]
    assert m.today_month == 1000.0  # 100 jobs × 2 h × 5
    assert m.poc_cost == 10.0  # 2 h × 5
    assert (s.month, s.month_low, s.month_high) == pytest.approx((200.0, 100.0, 300.0))
    assert s.break_even_months == pytest.approx(0.5)  # (10 + 90) / 200
    assert s.break_even_latest == pytest.approx(1.0)  # (10 + 90) / 100


def test_an_uncertain_saving_has_no_latest_break_even() -> None:
    s = money(ratio(0.9, 0.7, 1.1)).savings[0]
    assert s.month_low == pytest.approx(-100.0)
    assert s.break_even_months == pytest.approx(0.1)
    assert s.break_even_latest is None


def test_an_extra_cost_never_pays_back() -> None:
    s = money(ratio(1.2, 1.1, 1.3)).savings[0]
    assert s.month == pytest.approx(-200.0)
    assert (s.break_even_months, s.break_even_latest) == (None, None)


@pytest.mark.parametrize("found", [None, ratio(None), dataclasses.replace(ratio(0.8), scale="relative")])
def test_without_a_time_ratio_nothing_is_claimed(found: Comparison | None) -> None:
    s = money(found).savings[0]
    assert (s.ratio, s.month, s.break_even_months) == (None, None, None)


def test_an_unbounded_ratio_has_no_worst_case() -> None:
    s = money(ratio(0.9, 0.7, math.inf)).savings[0]
    assert s.month is not None
    assert (s.month_low, s.break_even_latest) == (None, None)


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
