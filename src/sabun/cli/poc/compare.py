"""``sabun poc compare``: two studies side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from sabun.cli import console, options
from sabun.cli.options import argument

__all__ = ["EPILOG", "compare"]

EPILOG = """**Reads** the records of both studies. **Writes** nothing. Runs of different studies are not paired, so the
table describes and does not test.

**Examples**

- `sabun poc compare runs/before runs/after`

- `sabun poc compare runs/before runs/after --json`

**Exit codes**

0 success · 2 bad input · 1 the evidence is damaged or was changed
"""


def compare(
    first: Annotated[Path, argument("Directory of a study.", "A")],
    second: Annotated[Path, argument("Directory of another study.", "B")],
    lang: options.Lang = None,
    as_json: options.Json = False,
) -> None:
    """Compare two studies: their settings, and their results for the candidates that both have."""
    from sabun.cli import tables
    from sabun.cli.poc.stored import evidence_of
    from sabun.poc.descriptions import describe_arms
    from sabun.report import report_json
    from sabun.report.compare import compare as differences
    from sabun.report.publish import judge

    shown_in = options.language_of(lang)
    found = differences(*(judge(evidence_of(directory), describe=describe_arms) for directory in (first, second)))
    if as_json:
        console.print_json(report_json.plain(found))
    else:
        console.stdout().print(tables.comparison(found, shown_in))
