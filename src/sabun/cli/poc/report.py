"""``sabun poc report``: judge a study's records again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from sabun.cli import options
from sabun.cli.options import OUTPUT, option

__all__ = ["EPILOG", "report"]

EPILOG = """**Reads** the records of a study and verifies them against its audit log. **Writes** report.html,
report.json and report.md beside them, and the verdict into the audit log. Nothing is trained.

**Examples**

- `sabun poc report runs/digits --lang ja` — the report, with Japanese shown first

- `sabun poc report runs/digits --price-per-hour 3.5 --jobs-per-month 40 --currency USD` — with savings

- `sabun poc report runs/digits --pptx verdict.pptx --lang ja` — slides for a meeting, too, in Japanese

- `sabun poc report runs/digits --quiet --gate` — only the decision, as the exit code

**Exit codes**

0 success · with `--gate`: 0 go, 10 no-go, 11 undecided, 12 real but small, 13 promising
· 2 bad input, or python-pptx is missing · 1 the evidence is damaged or was changed
"""


def report(
    directory: options.Directory,
    lang: options.Lang = None,
    price_per_hour: options.PricePerHour = None,
    jobs_per_month: options.JobsPerMonth = None,
    currency: options.Currency = "JPY",
    hours_per_job: options.HoursPerJob = None,
    setup_cost: options.SetupCost = None,
    pptx: Annotated[
        Path | None,
        option("PowerPoint file with the report as slides, in one language (needs python-pptx).", "FILE", OUTPUT),
    ] = None,
    gate: options.Gate = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge the records of a study again and write its report."""
    from sabun.cli.poc.execution import show_report
    from sabun.cli.poc.stored import evidence_of
    from sabun.report.money import Prices

    options.language_of(lang)  # refused before the records are read
    money = Prices.given(price_per_hour, jobs_per_month, currency, hours_per_job, setup_cost)
    show_report(evidence_of(directory), lang, money, gate=gate, as_json=as_json, quiet=quiet, pptx=pptx)
