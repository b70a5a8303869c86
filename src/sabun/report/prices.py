"""Prices from separate values, all or none of which must be given."""

from __future__ import annotations

from sabun.errors import OptionError
from sabun.report.money import Prices

__all__ = ["prices"]


def prices(
    price_per_hour: float | None,
    jobs_per_month: float | None,
    currency: str = "JPY",
    hours_per_job: float | None = None,
    setup_cost: float = 0.0,
) -> Prices | None:
    """Return the prices for a report, or None where none are given. Raises OptionError where a part is missing."""
    if price_per_hour is None and jobs_per_month is None:
        if hours_per_job is not None or setup_cost:
            raise OptionError(
                "savings cannot be computed without a price and a number of jobs.",
                fix="Give --price-per-hour and --jobs-per-month.",
            )
        return None
    if price_per_hour is None or jobs_per_month is None:
        missing = "--price-per-hour" if price_per_hour is None else "--jobs-per-month"
        raise OptionError(
            f"savings cannot be computed without {missing}.",
            fix="Give --price-per-hour and --jobs-per-month together.",
        )
    return Prices(price_per_hour, jobs_per_month, currency.upper(), hours_per_job, setup_cost)
