"""What several commands of ``sabun rollout`` print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sabun.cli import console

if TYPE_CHECKING:
    from sabun.rollout.state import Rollout, RolloutState

__all__ = ["print_notes", "print_state", "update_aliases"]


def print_state(state: RolloutState, *, as_json: bool = False) -> None:
    """Print the stage, its share of new jobs and the two optimizers."""
    if as_json:
        console.print_json({**state.to_json(), "head": state.head}, indent=2)
        return
    entered = f"since {state.since}" + (f", by override: {state.override}" if state.override else "")
    console.echo(f"{state.plan.name}: stage {state.stage.name}, {state.stage.share:.0%} of new jobs, {entered}")
    for role, side in (("champion", state.plan.champion), ("challenger", state.plan.challenger)):
        options = ", ".join(f"{key}={value}" for key, value in side.options.items())
        console.echo(f"  {role:<10} {side.optimizer}  {options}".rstrip())


def print_notes(notes: Iterable[str]) -> None:
    """Print what the operator should know, one line each."""
    for note in notes:
        console.echo(f"note: {note}")


def update_aliases(model: str | None, rollout: Rollout, *, quiet: bool = False) -> None:
    """Set the aliases of a registered MLflow model to the versions that the stage calls for; do nothing for None."""
    if model is None:
        return
    from sabun.integrations.mlflow import sync

    found = sync(model, rollout)
    if not quiet:
        console.echo(f"MLflow {model}: champion is version {found.champion}, challenger {found.challenger or 'none'}")
