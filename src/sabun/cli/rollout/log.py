"""``sabun rollout log``: export the audit log of a roll-out."""

from __future__ import annotations

from sabun.cli import options
from sabun.cli.options import LogFormat

__all__ = ["EPILOG", "log"]

EPILOG = """**Reads** the audit log. **Writes** nothing.

**Examples**

- `sabun rollout log` — a Markdown table

- `sabun rollout log --format csv > rollout.csv`

**Exit codes**

0 success · 1 the log cannot be verified · 2 bad input
"""


def log(form: options.Format = LogFormat.markdown, plan: options.Plan = None) -> None:
    """Export the audit log of a roll-out: stages, refusals and overrides, with who, when and why."""
    from sabun.cli.tables import print_log
    from sabun.rollout.state import Rollout

    rollout = Rollout(plan)
    rollout.state()  # refuses a log that cannot be verified
    print_log(rollout.log.read(), form)
