"""Return on investment: machine hours times price, computed from the interval of the time to target.

A job that is stopped at the baseline's final loss takes ``ratio`` of its time, where ``ratio`` is the measured time to
target of the candidate relative to the baseline. Then

    saving per month   = jobs · hours per job · price · (1 − ratio)
    payback in months  = invested / saving per month
    return over a year = (12 · saving per month − invested) / invested
    equal to hardware  = machines in use · (1/ratio − 1), in machines of the same kind

where *invested* is the cost of the PoC, as measured, and that of adoption, where it is given; *machines in use* is
jobs · hours per job / 730 h, as if they trained day and night. The bounds of the ratio give those of the results. A
saving whose interval contains values below zero gives no upper bound of the payback.

Nothing is claimed of a candidate whose verdict is neither go nor promising, nor without a time to target (never
reached, or not computable).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sabun.errors import OptionError
from sabun.poc.judgement.assessment import Comparison, Decision

__all__ = [
    "CLAIMING", "EXAMPLE", "Effort", "Interval", "Money", "Prices", "Saving", "appraise", "gain", "more_machines",
]  # fmt: skip

BASIS: Final = "time_to_target_s"
HOURS_PER_MONTH: Final = 730.0
"""Hours of an average month."""
CLAIMING: Final[tuple[Decision, ...]] = ("go", "promising")
"""The decisions on a candidate of which a saving is stated."""


@dataclass(frozen=True, slots=True)
class Effort:
    """Computing time of the study in seconds: tuning, evaluation (with repeated runs), and both."""

    runs: int
    tuning_s: float
    evaluation_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval; an end that is not bounded is None."""

    value: float
    low: float | None
    high: float | None


LARGEST = 1e15
"""Largest amount, so that no product of amounts overflows."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices and workload of the reader.

    The price of a machine hour, training jobs per month, hours per job (None: as in the study), and the one-time cost
    of adoption besides computing (labour, review; None: not given). ``example``: the amounts are an example's.
    """

    price_per_hour: float
    jobs_per_month: float
    currency: str = "JPY"
    hours_per_job: float | None = None
    setup_cost: float | None = None
    example: bool = False

    def __post_init__(self) -> None:
        for name in ("price_per_hour", "jobs_per_month", "hours_per_job", "setup_cost"):
            value = getattr(self, name)
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= LARGEST or (value == 0 and name != "setup_cost"):
                given = f" (given: {value:g})" if isinstance(value, float) else ""
                raise OptionError(
                    f"{name} must be a positive number up to {LARGEST:g}{given}.", fix="Give a plain number."
                )
        if not (isinstance(self.currency, str) and re.fullmatch("[A-Za-z]{3}", self.currency)):
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
        setup_cost: float | None = None,
    ) -> Prices | None:
        """Return the prices, or None where none are given. Raises OptionError where a part is missing."""
        if price_per_hour is not None and jobs_per_month is not None:
            return cls(price_per_hour, jobs_per_month, currency.upper(), hours_per_job, setup_cost)
        if price_per_hour is None and jobs_per_month is None and hours_per_job is None and setup_cost is None:
            return None
        options = {"--price-per-hour": price_per_hour, "--jobs-per-month": jobs_per_month}
        missing = " and ".join(name for name, value in options.items() if value is None)
        raise OptionError(f"savings cannot be computed without {missing}.", fix=f"Add {missing}.")


EXAMPLE: Final = Prices(600.0, 200.0, "JPY", 3.0, 300_000.0, example=True)
"""Prices for the demonstration, whose report shows amounts as an example."""


@dataclass(frozen=True, slots=True)
class Saving:
    """What a candidate saves. A negative saving is an extra cost.

    ``ratio`` is that of the time to target. ``month`` is the saving per month, ``payback_months`` with its latest
    (None: never, or no bound), ``roi_year`` the return over 12 months as a share of what was invested, ``machines`` the
    machines of the same kind to which the gain is equal. All but ``arm`` are None where nothing is claimed.
    """

    arm: str
    ratio: Interval | None = None
    month: Interval | None = None
    payback_months: float | None = None
    payback_latest: float | None = None
    roi_year: Interval | None = None
    machines: Interval | None = None


@dataclass(frozen=True, slots=True)
class Money:
    """Prices, the current monthly cost, the cost of the PoC and of both, and the saving of each candidate."""

    currency: str
    example: bool
    price_per_hour: float
    jobs_per_month: float
    hours_per_job: float
    hours_given: bool
    setup_cost: float | None
    basis: str
    today_month: float
    machines_today: float
    poc_cost: float
    invested: float
    savings: tuple[Saving, ...]


def gain(kpis: Mapping[str, Comparison], decision: Decision) -> Interval | None:
    """Return the time to the baseline's final loss as a ratio; None where no gain is claimed of the candidate."""
    found = kpis.get(BASIS)
    if decision not in CLAIMING or found is None or found.effect is None or found.scale != "ratio":
        return None
    if not (math.isfinite(found.effect) and found.effect > 0):
        return None
    low = found.low if found.low is not None and found.low > 0 else None
    high = found.high if found.high is not None and math.isfinite(found.high) else None
    return Interval(found.effect, low, high)


def more_machines(ratio: Interval, machines: float = 1.0) -> Interval:
    """Return the machines that would have to be added to ``machines`` for the throughput at this time ratio."""

    def more(r: float) -> float:
        return machines * (1 / r - 1)

    low = more(ratio.high) if ratio.high is not None else None
    return Interval(more(ratio.value), low, more(ratio.low) if ratio.low is not None else None)


def appraise(
    prices: Prices, effort: Effort, job_s: float | None, ratios: Mapping[str, Interval | None]
) -> Money | None:
    """Return costs and savings; None if the length of a job is neither given nor measured.

    ``job_s`` is the training time of a run of the baseline, ``ratios`` holds what :func:`gain` returns, by candidate.
    """
    if prices.hours_per_job is not None:
        hours = prices.hours_per_job
    elif job_s is not None:
        hours = job_s / 3600
    else:
        return None
    today = prices.jobs_per_month * hours * prices.price_per_hour
    machines = prices.jobs_per_month * hours / HOURS_PER_MONTH
    poc = effort.total_s / 3600 * prices.price_per_hour
    invested = poc + (prices.setup_cost or 0.0)
    return Money(
        currency=prices.currency.upper(),
        example=prices.example,
        price_per_hour=prices.price_per_hour,
        jobs_per_month=prices.jobs_per_month,
        hours_per_job=hours,
        hours_given=prices.hours_per_job is not None,
        setup_cost=prices.setup_cost,
        basis=BASIS,
        today_month=today,
        machines_today=machines,
        poc_cost=poc,
        invested=invested,
        savings=tuple(_saving(arm, ratio, today, machines, invested) for arm, ratio in ratios.items()),
    )


def _saving(arm: str, ratio: Interval | None, today: float, machines: float, invested: float) -> Saving:
    if ratio is None:
        return Saving(arm)

    def of(value: float | None, each: float, rest: float) -> float | None:
        return None if value is None else each * value + rest

    month = Interval(today * (1 - ratio.value), of(ratio.high, -today, today), of(ratio.low, -today, today))

    def payback(saving: float | None) -> float | None:
        return invested / saving if saving is not None and saving > 0 else None

    def year(saving: float | None) -> float | None:
        return None if saving is None else (12 * saving - invested) / invested

    value = year(month.value) if invested > 0 else None
    return Saving(
        arm,
        ratio,
        month,
        payback(month.value),
        payback(month.low),
        None if value is None else Interval(value, year(month.low), year(month.high)),
        more_machines(ratio, machines),
    )
