"""``sabun rollout init``: write a plan and start its audit log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sabun.cli import console, options
from sabun.cli.options import option
from sabun.cli.rollout.output import print_notes
from sabun.errors import OptionError

if TYPE_CHECKING:
    from sabun.rollout.rollout_plan import Side

__all__ = ["EPILOG", "init"]

EPILOG = """**Reads** a study, two optimizers, or a plan that exists. **Writes** rollout.toml (unless it exists), its
audit log and its state file. After an edit of the plan: `sabun rollout apply`.

**Examples**

- `sabun rollout init --study runs/digits --candidate nesterov@adam`

- `sabun rollout init --champion torch.optim:AdamW --champion-lr 0.001 --challenger nesterov@adam --challenger-lr 0.003`

**Exit codes**

0 success · 1 a roll-out exists there, or the study cannot be used · 2 bad input
"""


def init(
    study: Annotated[
        Path | None, option("A study. Its baseline and its candidate become champion and challenger.", "DIR")
    ] = None,
    candidate: Annotated[str, option("The candidate of the study to use, if it has several.", "NAME")] = "",
    champion: Annotated[
        str,
        option(
            "Today's optimizer, such as torch.optim:AdamW. Needed without a study, and if the study's baseline is "
            "a script.",
            "OPTIMIZER",
        ),
    ] = "",
    challenger: Annotated[
        str, option("The new optimizer, such as nesterov@adam. Only without a study.", "OPTIMIZER")
    ] = "",
    champion_lr: Annotated[float | None, option("Learning rate of the champion.", "LR")] = None,
    challenger_lr: Annotated[float | None, option("Learning rate of the challenger.", "LR")] = None,
    name: Annotated[str, option("Name of the roll-out. The assignment of jobs depends on it.", "NAME")] = "",
    plan: options.Plan = None,
    as_json: options.Json = False,
) -> None:
    """Write a plan, or take an existing one, and start its audit log at the first stage."""
    from sabun.rollout.proposal import propose, template
    from sabun.rollout.sides import advice
    from sabun.rollout.state import Rollout

    rollout = Rollout(plan)
    proposed = None
    today, new = _side(champion, champion_lr, "champion"), _side(challenger, challenger_lr, "challenger")
    if study is not None:
        if new is not None:
            raise OptionError("--challenger cannot be combined with --study.", fix="Name a candidate with --candidate.")
        proposed = propose(study, rollout.folder, name=name, candidate=candidate, champion=today)
    elif today is not None and new is not None:
        proposed = template(name or challenger, today, new)
    elif today is not None or new is not None or not rollout.plan_path.exists():
        raise OptionError(
            "there is no plan to start from.", fix="Give --study DIR, or both --champion and --challenger."
        )
    elif name:
        raise OptionError(f"{rollout.plan_path} already has a name.", fix="Leave out --name, or edit the plan.")
    if candidate and study is None:
        raise OptionError("--candidate needs a study.", fix="Add --study DIR.")
    state = rollout.start(proposed)
    notes = advice(state.plan)
    if as_json:
        console.print_json({**state.to_json(), "head": state.head, "notes": notes}, indent=2)
        return
    console.echo(f"{rollout.plan_path}: roll-out {state.plan.name!r} starts at stage {state.stage.name!r}.")
    print_notes(notes)
    console.echo("Next: read the plan and adjust its gates. After an edit, run: sabun rollout apply --reason TEXT")


def _side(notation: str, lr: float | None, role: str) -> Side | None:
    from sabun.rollout.rollout_plan import Side

    if not notation:
        if lr is not None:
            raise OptionError(f"--{role}-lr needs --{role}.", fix=f"Add --{role} OPTIMIZER, or edit rollout.toml.")
        return None
    return Side(notation, {} if lr is None else {"lr": lr})
