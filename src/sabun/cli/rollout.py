"""``sabun rollout``: the stages of a roll-out from the command line.

Exit codes are the house's: 0 for success, 1 for a promotion that was refused and for an audit log that does not hold, 2
for input that makes no sense.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from sabun.cli.logs import Form, Format, show
from sabun.errors import OptionError, RolloutError
from sabun.rollout.choice import KILL_VARIABLE, choose, killed
from sabun.rollout.proposal import propose, template
from sabun.rollout.rollout_plan import Side
from sabun.rollout.state import Rollout, RolloutState

__all__ = ["register"]

app = typer.Typer(no_args_is_help=True, help="Introduce an optimizer in stages, with a gate and a way back.")

PlanOption = Annotated[
    Path | None, typer.Option("--plan", help="The plan or its directory. Default: $SABUN_ROLLOUT, else ./rollout.toml.")
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in a sentence: it stays in the audit log.")]
Override = Annotated[
    str | None, typer.Option("--override", metavar="REASON", help="Go on without a passing gate; logged with REASON.")
]
Mlflow = Annotated[
    str | None, typer.Option("--mlflow", metavar="MODEL", help="Then move the aliases of this registered MLflow model.")
]


def register(parent: typer.Typer) -> None:
    """Add ``rollout`` to the command line."""
    parent.add_typer(app, name="rollout")


@app.command()
def init(
    study: Annotated[
        Path | None, typer.Option(help="A study: its baseline and candidate become the two sides.")
    ] = None,
    candidate: Annotated[str, typer.Option(help="Which candidate of the study, if it has several.")] = "",
    champion: Annotated[
        str, typer.Option(help="Today's optimizer, e.g. torch.optim:AdamW: without a study, or where it has a script.")
    ] = "",
    challenger: Annotated[str, typer.Option(help="Without a study: the new one, e.g. nesterov@adam.")] = "",
    champion_lr: Annotated[float | None, typer.Option(help="The champion's learning rate.")] = None,
    challenger_lr: Annotated[float | None, typer.Option(help="The challenger's learning rate.")] = None,
    name: Annotated[str, typer.Option(help="Name of the roll-out; the draw of jobs depends on it.")] = "",
    plan: PlanOption = None,
    as_json: Json = False,
) -> None:
    """Write the plan (or take the one that is there) and start the audit log at the first stage."""
    rollout = Rollout(plan)
    proposed = None
    today, new = _side(champion, champion_lr, "champion"), _side(challenger, challenger_lr, "challenger")
    if study is not None:
        if new is not None:
            raise OptionError("a study has its own candidates.", fix="Name one with --candidate instead.")
        proposed = propose(study, rollout.folder, name=name, candidate=candidate, champion=today)
    elif today is not None and new is not None:
        proposed = template(name or challenger, today, new)
    elif today is not None or new is not None or not rollout.plan_path.exists():
        raise OptionError("nothing to start from.", fix="Give --study DIR, or both --champion and --challenger.")
    elif name:
        raise OptionError(f"{rollout.plan_path} has its own name.", fix="Leave --name out, or edit the plan.")
    if candidate and study is None:
        raise OptionError("--candidate needs a study.", fix="Add --study DIR.")
    state = rollout.start(proposed)
    notes = _notes(state)
    if as_json:
        typer.echo(json.dumps({**state.to_json(), "head": state.head, "notes": notes}, ensure_ascii=False, indent=2))
        return
    typer.echo(f"{rollout.plan_path}: {state.plan.name!r} starts at stage {state.stage.name!r}.")
    for note in notes:
        typer.echo(f"note: {note}")
    typer.echo("Read the plan and set its gates; after an edit: sabun rollout apply --reason '…'.")


@app.command()
def status(plan: PlanOption = None, as_json: Json = False) -> None:
    """Where the roll-out stands, what the next gate says, and which kill switches are on."""
    rollout = Rollout(plan)
    state = rollout.state()
    renewed = False
    with contextlib.suppress(RolloutError):  # looking must work where nobody may write; the notes tell
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
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    _show(state)
    if switch:
        where = f"${KILL_VARIABLE}" if switch == "kill-variable" else str(rollout.folder / state.stage.kill_file)
        typer.echo(f"KILLED by {where}: every new job trains with the champion.")
    if following and finding:
        typer.echo(f"next: {following.name} ({following.share:.0%}), gate {'open' if finding.passed else 'closed'}")
        for problem in finding.problems:
            typer.echo(f"  - {problem}")
    if renewed:
        typer.echo("note: the state file was behind the log (a command was interrupted); it was renewed.")
    for note in notes:
        typer.echo(f"note: {note}")


@app.command()
def promote(override: Override = None, mlflow: Mlflow = None, plan: PlanOption = None, as_json: Json = False) -> None:
    """Enter the next stage, if its gate passes."""
    rollout = Rollout(plan)
    state, finding = rollout.promote(override=override)
    if not finding.passed and not as_json:
        for problem in finding.problems:
            typer.echo(f"overridden: {problem}")
    _show(state, as_json=as_json)
    _move(mlflow, rollout, quiet=as_json)


@app.command()
def rollback(
    reason: Reason,
    to: Annotated[str | None, typer.Option(help="A stage; by default the first.")] = None,
    mlflow: Mlflow = None,
    plan: PlanOption = None,
    as_json: Json = False,
) -> None:
    """Go back, by default to the first stage: champion everywhere, from the next job on."""
    rollout = Rollout(plan)
    _show(rollout.rollback(reason=reason, to=to), as_json=as_json)
    _move(mlflow, rollout, quiet=as_json)


@app.command()
def apply(reason: Reason, override: Override = None, plan: PlanOption = None, as_json: Json = False) -> None:
    """Put an edited plan into force."""
    _show(Rollout(plan).apply(reason=reason, override=override), as_json=as_json)


@app.command()
def verify(
    anchor: Annotated[str | None, typer.Option(help="A head hash kept elsewhere, which the log must contain.")] = None,
    plan: PlanOption = None,
    as_json: Json = False,
) -> None:
    """Check every link of the audit log, and that plan and state file say what it says."""
    rollout = Rollout(plan)
    found, notes = rollout.verify(anchor=anchor)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(found), "notes": list(notes)}, ensure_ascii=False, indent=2))
        if not found.ok:
            raise typer.Exit(1)
        return
    if not found.ok:
        typer.echo(f"BROKEN: {found.problem}")
        typer.echo(f"{found.count} events hold. New jobs train with the champion until this is settled.")
        raise typer.Exit(1)
    typer.echo(f"{found.count} events hold. Head: {found.head}")
    if found.torn:
        typer.echo("note: the last write was interrupted by a crash; the next event mends it.")
    for note in notes:
        typer.echo(f"note: {note}")


@app.command()
def log(form: Form = Format.markdown, plan: PlanOption = None) -> None:
    """Export the audit log for people."""
    rollout = Rollout(plan)
    rollout.state()
    show(rollout.log.read(), form)


@app.command("choose")
def choose_(job_id: str, plan: PlanOption = None, as_json: Json = False) -> None:
    """Print champion or challenger for a job, as the job itself would choose."""
    choice = choose(job_id, path=plan)
    typer.echo(json.dumps(choice.state_dict(), ensure_ascii=False, indent=2) if as_json else choice.role)


@app.command("mlflow")
def mlflow_(model: str, plan: PlanOption = None) -> None:
    """Point the aliases of a registered MLflow model to what the stage wants."""
    _move(model, Rollout(plan))


def _side(notation: str, lr: float | None, role: str) -> Side | None:
    if not notation:
        if lr is not None:
            raise OptionError(f"--{role}-lr needs the optimizer.", fix=f"Add --{role}, or edit rollout.toml.")
        return None
    return Side(notation, {} if lr is None else {"lr": lr})


def _notes(state: RolloutState) -> list[str]:
    """What the operator should know of a plan before any job meets it."""
    from sabun.rollout.sides import check_sides

    wrong, unjudged = check_sides(state.plan)
    notes = [f"{problem} Correct rollout.toml, then run `sabun rollout apply`." for problem in wrong]
    for role, side in (("champion", state.plan.champion), ("challenger", state.plan.challenger)):
        if not wrong and "lr" not in side.options and "lr=" not in "".join(side.optimizer.split()):
            notes.append(f"the {role} names no lr: the default of {side.optimizer} counts.")
    return notes + unjudged


def _move(model: str | None, rollout: Rollout, *, quiet: bool = False) -> None:
    if model is not None:
        from sabun.integrations.mlflow import sync

        found = sync(model, rollout)
        if quiet:
            return
        typer.echo(f"MLflow {model}: champion is version {found.champion}, challenger {found.challenger or 'none'}")


def _show(state: RolloutState, *, as_json: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps({**state.to_json(), "head": state.head}, ensure_ascii=False, indent=2))
        return
    entered = f"since {state.since}" + (f", by override: {state.override}" if state.override else "")
    typer.echo(f"{state.plan.name}: stage {state.stage.name}, {state.stage.share:.0%} of new jobs, {entered}")
    typer.echo(f"  champion   {state.plan.champion.optimizer}  {dict(state.plan.champion.options)}")
    typer.echo(f"  challenger {state.plan.challenger.optimizer}  {dict(state.plan.challenger.options)}")
