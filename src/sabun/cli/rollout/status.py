"""``sabun rollout status``: the current stage, and what the next gate requires."""

from __future__ import annotations

import contextlib

from sabun.cli import console, options
from sabun.cli.rollout.output import print_notes, print_state
from sabun.errors import RolloutError

__all__ = ["EPILOG", "status"]

EPILOG = """**Reads** the audit log, the plan, the kill switches and the study of the next gate. **Writes** nothing,
except an outdated state file that an interrupted command left.

**Examples**

- `sabun rollout status`

- `sabun rollout status --plan /shared/rollout --json`

**Exit codes**

0 success, whether the gate is open or closed · 1 the audit log cannot be verified · 2 bad input
"""


def status(plan: options.Plan = None, as_json: options.Json = False) -> None:
    """Show the stage of a roll-out, whether its next gate is open, and which kill switches are on."""
    from sabun.rollout.choice import KILL_VARIABLE, killed
    from sabun.rollout.state import Rollout

    rollout = Rollout(plan)
    state = rollout.state()
    renewed = False
    with contextlib.suppress(RolloutError):  # status must work without write permission; the notes say what differs
        renewed = rollout.renew()
    switch = killed(rollout.folder, state.stage)
    position = state.plan.index(state.stage.name) + 1
    following = state.plan.stages[position] if position < len(state.plan.stages) else None
    finding = rollout.examine(following.name) if following else None
    notes = rollout.verify()[1]
    if as_json:
        facts = {**state.to_json(), "killed": switch, "head": state.head, "notes": notes}
        if following and finding:
            facts["next"] = {"stage": following.name, "share": following.share, **finding.to_json()}
        console.print_json(facts, indent=2)
        return
    print_state(state)
    if switch:
        where = f"${KILL_VARIABLE}" if switch == "kill-variable" else str(rollout.folder / state.stage.kill_file)
        console.echo(f"KILLED by {where}: every new job trains with the champion.")
    if following and finding:
        console.echo(f"next: {following.name} ({following.share:.0%}), gate {'open' if finding.passed else 'closed'}")
        for problem in finding.problems:
            console.echo(f"  - {problem}")
    if renewed:
        console.echo("note: the state file was older than the log (a command was interrupted); it was updated.")
    print_notes(notes)
