"""``sabun poc export``: every epoch of every run as one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from sabun.cli import console, options
from sabun.cli.options import OUTPUT, option

__all__ = ["EPILOG", "export"]

EPILOG = """**Reads** the records of a study. **Writes** one file, or standard output.

**Examples**

- `sabun poc export runs/digits --csv epochs.csv`

- `sabun poc export runs/digits --csv - | head`

- `sabun poc export runs/digits --parquet epochs.parquet`

**Exit codes**

0 success · 2 bad input, or pyarrow is missing · 1 the study is damaged
"""


def export(
    directory: options.Directory,
    csv: Annotated[Path | None, option("CSV file; - for standard output.", "FILE|-", OUTPUT)] = None,
    parquet: Annotated[Path | None, option("Parquet file (needs pyarrow).", "FILE", OUTPUT)] = None,
    as_json: options.Json = False,
) -> None:
    """Export every epoch of every run as one flat table."""
    from sabun.cli.poc.stored import evidence_of
    from sabun.errors import OptionError
    from sabun.report import records_table, report_json
    from sabun.report.publish import save

    if sum((csv is not None, parquet is not None, as_json)) != 1:
        raise OptionError("export writes exactly one format.", fix="Give --csv FILE, --parquet FILE or --json.")
    runs = list(evidence_of(directory).records.results.values())
    if as_json:
        console.print_json(report_json.plain(records_table.rows(runs)))
    elif parquet is not None:
        save(parquet, records_table.to_parquet(runs))
    elif str(csv) == "-":
        console.echo(records_table.to_csv(runs), end="")
    elif csv is not None:
        save(csv, records_table.to_csv(runs).encode("utf-8", "backslashreplace"))
