"""``sabun rollout choose``: the optimizer of one job."""

from __future__ import annotations

from typing import Annotated

from sabun.cli import console, options
from sabun.cli.options import argument

__all__ = ["EPILOG", "choose"]

EPILOG = """**Reads** the audit log and the kill switches. **Writes** nothing. At one stage, a job always gets the same
answer.

**Examples**

- `sabun rollout choose "$JOB_ID"`

- `sabun rollout choose nightly-42 --json` — also the optimizer, its options and the reason

**Exit codes**

0 success · 1 the roll-out was not started, or its log cannot be verified · 2 bad input
"""


def choose(
    job: Annotated[str, argument("Identifier of the training job.", "JOB_ID")],
    plan: options.Plan = None,
    as_json: options.Json = False,
) -> None:
    """Print champion or challenger for a job: what the job itself would choose."""
    from sabun.rollout import choice

    chosen = choice.choose(job, path=plan)
    if as_json:
        console.print_json(chosen.state_dict(), indent=2)
    else:
        console.echo(chosen.role)
