"""``sabun rollout rollback``: return to an earlier stage."""

from __future__ import annotations

from typing import Annotated

from sabun.cli import options
from sabun.cli.options import option
from sabun.cli.rollout.output import print_state, update_aliases

__all__ = ["EPILOG", "rollback"]

EPILOG = """**Writes** the audit log and the state file. No gate is asked. Jobs that are running are not stopped. To act
without this command, create the file KILL next to the plan.

**Examples**

- `sabun rollout rollback --reason "loss spikes in the nightly job"`

- `sabun rollout rollback --to pilot --reason "the canary was too early"`

**Exit codes**

0 success · 1 the audit log cannot be verified, or the stage is not an earlier one · 2 bad input
"""


def rollback(
    reason: options.Reason,
    to: Annotated[str | None, option("Stage to return to. Default: the first.", "STAGE")] = None,
    mlflow: options.Mlflow = None,
    plan: options.Plan = None,
    as_json: options.Json = False,
) -> None:
    """Return to an earlier stage, by default the first: every new job trains with the champion."""
    from sabun.rollout.state import Rollout

    rollout = Rollout(plan)
    print_state(rollout.rollback(reason=reason, to=to), as_json=as_json)
    update_aliases(mlflow, rollout, quiet=as_json)
