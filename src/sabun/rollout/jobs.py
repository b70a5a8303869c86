"""From a choice to an optimizer, and the choice into the checkpoint.

``optimizer(params, job_id="…")`` is all that a training script needs: it calls :func:`sabun.rollout.choose`, builds the
chosen side, and makes the optimizer's ``state_dict`` carry the choice under ``"sabun_rollout"``. A restarted job passes
that state dict as ``checkpoint`` and gets the same optimizer, whatever the stage is by then. Under
``torch.distributed`` rank 0 chooses for all, so that ranks that see a file at different times still agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from sabun._ranks import agree, gathered, rank
from sabun.errors import RolloutError, StateError
from sabun.rollout.choice import Choice, choose
from sabun.rollout.sides import Params, build

__all__ = ["KEY", "champion", "choice_of", "optimizer"]

KEY = "sabun_rollout"
"""Key of the choice in an optimizer's state dict."""


def optimizer(
    params: Params, *, job_id: str, path: str | Path | None = None, checkpoint: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer that job ``job_id`` trains with. Call it on every rank.

    Pass the model itself where a side treats layers differently (``muon``), so that it can distinguish embeddings from
    hidden matrices as the study did.

    ``checkpoint`` is the optimizer state dict of a restarted job (None for a new one): its choice is kept; load the
    state itself as usual. Raises RolloutError where there is no plan, or where the optimizer cannot be built.
    """

    def ask() -> Choice | None:
        stored = None
        if checkpoint is not None:
            stored = checkpoint.get(KEY)
            if stored is None:
                raise StateError(
                    f"the checkpoint holds no choice (no {KEY!r} in the optimizer's state dict).",
                    fix="Pass the state dict of an optimizer made by sabun.rollout.optimizer, or none for a new job.",
                )
        return None if rank() else choose(job_id, path=path, stored=stored)

    choice = cast("Choice", gathered(agree(ask, RolloutError))[0])
    built = agree(lambda: build(choice.side, params), RolloutError)
    _carry(built, choice)
    return built


def champion(choice: Choice) -> Callable[[Params], torch.optim.Optimizer]:
    """Return the factory for a guard: ``sabun.Guard(model, optimizer, champion=sabun.rollout.champion(choice))``.

    It asks the guard for the model instead of bare parameters, for a champion that treats layers differently.
    """

    def make(params: Params) -> torch.optim.Optimizer:
        return build(choice.champion, params)

    make.takes_model = True  # type: ignore[attr-defined]
    return make


def choice_of(built: torch.optim.Optimizer) -> Choice:
    """Return the choice behind an optimizer made by :func:`optimizer`. Raises StateError for any other."""
    found = getattr(built, "_sabun_choice", None)
    if not isinstance(found, Choice):
        raise StateError("this optimizer was not made by sabun.rollout.optimizer.", fix="Use choose(job_id) instead.")
    return found


def _carry(built: torch.optim.Optimizer, choice: Choice) -> None:
    """Put the choice into the state dict, and refuse a state that was trained under the other choice."""
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
