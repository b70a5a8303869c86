"""``sabun rollout apply``: put an edited plan into force."""

from __future__ import annotations

from sabun.cli import options
from sabun.cli.rollout.output import print_state

__all__ = ["EPILOG", "apply"]

EPILOG = """**Reads** rollout.toml. **Writes** the audit log and the state file. Until then, the plan in the log is in
force. A new name, champion or challenger returns the roll-out to its first stage; a larger share of the current stage
needs an open gate.

**Examples**

- `sabun rollout apply --reason "20 seeds required for the canary"`

**Exit codes**

0 success · 1 refused, or nothing to apply · 2 bad input
"""


def apply(
    reason: options.Reason, override: options.Override = None, plan: options.Plan = None, as_json: options.Json = False
) -> None:
    """Put an edited plan into force and record why."""
    from sabun.rollout.state import Rollout

    print_state(Rollout(plan).apply(reason=reason, override=override), as_json=as_json)
