"""``sabun rollout promote``: enter the next stage."""

from __future__ import annotations

from sabun.cli import console, options
from sabun.cli.rollout.output import print_state, update_aliases

__all__ = ["EPILOG", "promote"]

EPILOG = """**Reads** the plan, and the study of the next gate, whose records are judged again. **Writes** the audit log
(a refusal too) and the state file.

**Examples**

- `sabun rollout promote`

- `sabun rollout promote --override "approved in the review of 3 March" --mlflow forecast`

**Exit codes**

0 promoted · 1 refused, or the audit log cannot be verified · 2 bad input
"""


def promote(
    override: options.Override = None,
    mlflow: options.Mlflow = None,
    plan: options.Plan = None,
    as_json: options.Json = False,
) -> None:
    """Enter the next stage if its gate is open: a larger share of new jobs trains with the challenger."""
    from sabun.rollout.state import Rollout

    rollout = Rollout(plan)
    state, finding = rollout.promote(override=override)
    if not finding.passed and not as_json:
        for problem in finding.problems:
            console.echo(f"overridden: {problem}")
    print_state(state, as_json=as_json)
    update_aliases(mlflow, rollout, quiet=as_json)
