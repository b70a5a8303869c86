"""From a choice to an optimizer, and the choice into the checkpoint.

``optimizer(params, job_id="…")`` is all that a training script needs: it asks :func:`sabun.rollout.choose`, builds
what was chosen, and makes the optimizer's ``state_dict`` carry the choice under ``"sabun_rollout"``. A restarted job
passes that state dict as ``checkpoint`` and gets the same optimizer, whatever the stage is by then. Under
``torch.distributed`` rank 0 chooses for all, so that a file that one rank sees earlier cannot part them.

The notation is that of studies (:mod:`sabun.optim.notation`), so a job trains with what the study has judged.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sabun.errors import RolloutError, SabunError, StateError
from sabun.optim import notation
from sabun.rollout.choice import Choice, choose
from sabun.rollout.plan import Plan, Side

__all__ = ["KEY", "build", "champion", "choice_of", "optimizer", "unbuildable"]

KEY = "sabun_rollout"
"""Where an optimizer's state dict holds the choice."""

Params = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


def optimizer(
    params: Params,
    *,
    job_id: str,
    path: str | Path | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer that job ``job_id`` trains with. Call it on every rank.

    Pass the model itself where a side treats layers differently (``muon``), so that it can tell embeddings from hidden
    matrices as the study could.

    ``checkpoint`` is the optimizer state dict of a job that is restarted (None for a new job): its choice is kept; load
    the state itself as usual. Raises RolloutError where there is no plan, or where the optimizer cannot be built.
    """
    stored = None
    if checkpoint is not None:
        stored = checkpoint.get(KEY)
        if stored is None:
            raise StateError(
                f"the checkpoint holds no choice (no {KEY!r} in the optimizer's state dict).",
                fix="Pass the state dict of an optimizer made by sabun.rollout.optimizer, or none for a new job.",
            )
    choice = _agreed(lambda: choose(job_id, path=path, stored=stored))
    built = build(choice.side, params)
    _carry(built, choice)
    return built


def champion(choice: Choice) -> Callable[[Params], torch.optim.Optimizer]:
    """What a guard falls back to: ``sabun.Guard(model, optimizer, champion=sabun.rollout.champion(choice))``.

    It asks the guard for the model instead of bare parameters, so that a champion that treats layers differently can.
    """

    def make(params: Params) -> torch.optim.Optimizer:
        return build(choice.champion, params)

    make.takes_model = True  # type: ignore[attr-defined]
    return make


def choice_of(built: torch.optim.Optimizer) -> Choice:
    """The choice behind an optimizer made by :func:`optimizer`. Raises StateError for any other."""
    found = getattr(built, "_sabun_choice", None)
    if not isinstance(found, Choice):
        raise StateError("this optimizer was not made by sabun.rollout.optimizer.", fix="Use choose(job_id) instead.")
    return found


def build(side: Side, params: Params) -> torch.optim.Optimizer:
    """One side's optimizer over ``params``. Raises RolloutError where it is unknown or refuses its options."""
    try:
        return notation.resolve(side.optimizer).make(params, side.options)
    except (SabunError, TypeError, ValueError, ImportError) as error:
        raise RolloutError(
            f"cannot build {side.optimizer!r} with {dict(side.options)}: {error}",
            fix="Correct that side of rollout.toml and run `sabun rollout apply`.",
        ) from error


def unbuildable(plan: Plan) -> tuple[list[str], list[str]]:
    """Why jobs could not build the plan's two sides, and what cannot be judged here; both empty where all is well.

    Each side is built over a small model. A class whose package this machine lacks may well be there for the jobs: that
    cannot be judged here.
    """
    wrong, unknown = [], []
    for role, side in (("champion", plan.champion), ("challenger", plan.challenger)):
        package = side.optimizer.partition(":")[0].partition(".")[0].strip()
        if ":" in side.optimizer and package.isidentifier() and importlib.util.find_spec(package) is None:
            unknown.append(f"the {role}'s package {package!r} is not installed here, so it cannot be tried.")
            continue
        try:
            build(side, nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)))
        except SabunError as error:
            try:
                build(side, nn.Linear(4, 4, bias=False))  # one for matrices alone, such as torch.optim:Muon
            except SabunError:
                wrong.append(f"no job could build the {role}: {error.cause.rstrip('.')}.")
    return wrong, unknown


def _agreed(ask: Callable[[], Choice]) -> Choice:
    """Rank 0's choice, or its error, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return ask()
    box: list[object] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            box[0] = ask().state_dict()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks must not wait for ever
            box[0] = error
    torch.distributed.broadcast_object_list(box, src=0)
    if isinstance(box[0], Exception):
        raise box[0]
    if not isinstance(box[0], Mapping):
        raise RolloutError("rank 0 sent no choice.", fix="Call sabun.rollout.optimizer on every rank.")
    return Choice.from_state_dict(box[0])


def _carry(built: torch.optim.Optimizer, choice: Choice) -> None:
    """Make the state dict hold the choice, and refuse a state that was trained under the other one."""
    built._sabun_choice = choice  # type: ignore[attr-defined]

    def store(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, KEY: choice.state_dict()}

    def check(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
        held = state.get(KEY)
        if held is None:
            return None
        was = Choice.from_state_dict(held)
        if (was.role, was.side) != (choice.role, choice.side):
            raise StateError(
                f"this state was trained by the {was.role} ({was.side.optimizer}); the optimizer is the {choice.role}.",
                fix="Pass checkpoint=<that state dict> to sabun.rollout.optimizer when a job is restarted.",
            )
        return {key: value for key, value in state.items() if key != KEY}

    built.register_state_dict_post_hook(store)
    built.register_load_state_dict_pre_hook(check)
