"""Costs and savings: machine hours times price, computed from the interval of the time to target.

A job that is stopped at the baseline's final loss takes ``ratio`` of its time, where ``ratio`` is the measured time to
target of the candidate relative to the baseline. Then

    saving per month = jobs · hours per job · price · (1 − ratio)
    break-even       = (cost of the PoC + cost of adoption) / saving per month

Without a time-to-target (never reached, or not computable) there is no saving. A saving whose interval contains values
below zero gives no upper bound on the break-even time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sabun.errors import OptionError
from sabun.poc.judgement.assessment import Comparison

__all__ = ["Effort", "Money", "Prices", "Saving", "appraise"]

BASIS = "time_to_target_s"


@dataclass(frozen=True, slots=True)
class Effort:
    """Computing time of the study in seconds: tuning, evaluation (with repeated runs), and both."""

    runs: int
    tuning_s: float
    evaluation_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices and workload of the reader.

    The price of a machine hour, training jobs per month, hours per job (None: as in the study), and the one-time cost
    of adoption besides computing (labour, review).
    """

    price_per_hour: float
    jobs_per_month: float
    currency: str = "JPY"
    hours_per_job: float | None = None
    setup_cost: float = 0.0

    def __post_init__(self) -> None:
        for name in ("price_per_hour", "jobs_per_month", "hours_per_job", "setup_cost"):
            value = getattr(self, name)
            if value is None:
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "setup_cost"):
                raise OptionError(f"{name} must be positive and finite (given: {value}).", fix="Give a plain number.")
        if not (len(self.currency) == 3 and self.currency.isascii() and self.currency.isalpha()):
            raise OptionError(
                f"{self.currency!r} is not a currency code.", fix="Use three letters, such as JPY, USD or EUR."
            )

    @classmethod
    def given(
        cls,
        price_per_hour: float | None,
        jobs_per_month: float | None,
        currency: str = "JPY",
        hours_per_job: float | None = None,
        setup_cost: float = 0.0,
    ) -> Prices | None:
        """Return the prices, or None where none are given. Raises OptionError where a part is missing."""
        if price_per_hour is not None and jobs_per_month is not None:
            return cls(price_per_hour, jobs_per_month, currency.upper(), hours_per_job, setup_cost)
        if price_per_hour is None and jobs_per_month is None and hours_per_job is None and not setup_cost:
            return None
        options = {"--price-per-hour": price_per_hour, "--jobs-per-month": jobs_per_month}
        missing = " and ".join(name for name, value in options.items() if value is None)
        raise OptionError(f"savings cannot be computed without {missing}.", fix=f"Add {missing}.")


@dataclass(frozen=True, slots=True)
class Saving:
    """Time ratio, saving per month and break-even in months of a candidate, with intervals (None: never, or unbounded).

    A negative saving is an extra cost.
    """

    arm: str
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    month: float | None
    month_low: float | None
    month_high: float | None
    break_even_months: float | None
    break_even_latest: float | None


@dataclass(frozen=True, slots=True)
class Money:
    """Prices, the current monthly cost, the cost of the PoC, and the saving of each candidate."""

    currency: str
    price_per_hour: float
    jobs_per_month: float
    hours_per_job: float
    hours_given: bool
    setup_cost: float
    basis: str
    today_month: float
    poc_cost: float
    savings: tuple[Saving, ...]


def appraise(
    prices: Prices, effort: Effort, job_s: float | None, kpis: Mapping[str, Mapping[str, Comparison]]
) -> Money | None:
    """Return costs and savings; None if the length of a job is neither given nor measured."""
    if prices.hours_per_job is not None:
        hours = prices.hours_per_job
    elif job_s is not None:
        hours = job_s / 3600
    else:
        return None
    today = prices.jobs_per_month * hours * prices.price_per_hour
    poc = effort.total_s / 3600 * prices.price_per_hour
    savings = tuple(_saving(arm, found.get(BASIS), today, poc + prices.setup_cost) for arm, found in kpis.items())
    return Money(
        prices.currency.upper(),
        prices.price_per_hour,
        prices.jobs_per_month,
        hours,
        prices.hours_per_job is not None,
        prices.setup_cost,
        BASIS,
        today,
        poc,
        savings,
    )


def _saving(arm: str, ratio: Comparison | None, today: float, invested: float) -> Saving:
    if ratio is None or ratio.effect is None or ratio.scale != "ratio":
        return Saving(arm, None, None, None, None, None, None, None, None)

    def month(r: float | None) -> float | None:
        return None if r is None or not math.isfinite(r) else today * (1 - r)

    def months(saving: float | None) -> float | None:
        return invested / saving if saving is not None and saving > 0 else None

    middle, worst, best = month(ratio.effect), month(ratio.high), month(ratio.low)
    return Saving(
        arm, ratio.effect, ratio.low, ratio.high, middle, worst, best, months(middle), months(worst)
    )  # fmt: skip
