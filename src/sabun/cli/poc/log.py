"""``sabun poc log``: export a study's audit log."""

from __future__ import annotations

from sabun.cli import options
from sabun.cli.options import LogFormat

__all__ = ["EPILOG", "log"]

EPILOG = """**Reads** the audit log of a study. **Writes** nothing.

**Examples**

- `sabun poc log runs/digits` — a Markdown table

- `sabun poc log runs/digits --format csv > audit.csv`

**Exit codes**

0 success · 2 no study there · 1 the log is damaged
"""


def log(directory: options.Directory, form: options.Format = LogFormat.markdown) -> None:
    """Export the audit log of a study: sessions, runs, interim looks and verdicts, with who and when."""
    from sabun import audit
    from sabun.cli.poc.stored import require_study
    from sabun.cli.tables import print_log
    from sabun.poc.evidence.specification import AUDIT

    require_study(directory)
    print_log(audit.read(directory / AUDIT), form)
