"""From a choice to an optimizer, and the choice into the checkpoint.

``optimizer(params, job_id="…")`` is all that a training script needs: it asks :func:`sabun.rollout.choose`, builds
what was chosen, and makes the optimizer's ``state_dict`` carry the choice under ``"sabun_rollout"``. A restarted job
passes that state dict as ``checkpoint`` and gets the same optimizer, whatever the stage is by then. Under
``torch.distributed`` rank 0 chooses for all, so that a file that one rank sees earlier cannot part them.

Special cases of the notation, as in studies: ``torch.optim:AdamW`` (a class), ``nadamw`` (a preset of sabun.optim),
``look-ahead(0.9, 2)@adam`` (a scheme, with a metric after ``@``).
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sabun.errors import RolloutError, StateError
from sabun.rollout.choice import Choice, choose
from sabun.rollout.plan import Side

__all__ = ["KEY", "build", "champion", "choice_of", "optimizer"]

KEY = "sabun_rollout"
"""Where an optimizer's state dict holds the choice."""

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


def optimizer(
    params: Params,
    *,
    job_id: str,
    path: str | Path | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer that job ``job_id`` trains with. Call it on every rank.

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


def champion(choice: Choice) -> Callable[[Iterable[Tensor]], torch.optim.Optimizer]:
    """What a guard falls back to: ``sabun.Guard(model, optimizer, champion=sabun.rollout.champion(choice))``."""
    return lambda params: build(choice.champion, params)


def choice_of(built: torch.optim.Optimizer) -> Choice:
    """The choice behind an optimizer made by :func:`optimizer`. Raises StateError for any other."""
    found = getattr(built, "_sabun_choice", None)
    if not isinstance(found, Choice):
        raise StateError("this optimizer was not made by sabun.rollout.optimizer.", fix="Use choose(job_id) instead.")
    return found


def build(side: Side, params: Params) -> torch.optim.Optimizer:
    """One side's optimizer over ``params``. Raises RolloutError where it is unknown or refuses its options."""
    name, options = _notation(side)
    try:
        if ":" in name:
            module, _, kind = name.partition(":")
            made = getattr(importlib.import_module(module), kind)(params, **options)
        else:
            made = _sabun(name, params, options)
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        raise RolloutError(
            f"cannot build {side.optimizer!r} with {dict(side.options)}: {error}",
            fix="Correct that side of rollout.toml and run `sabun rollout apply`.",
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise RolloutError(f"{side.optimizer!r} is not a torch.optim.Optimizer.", fix="Name an optimizer class.")
    return made


def _sabun(name: str, params: Params, options: dict[str, Any]) -> torch.optim.Optimizer:
    from sabun import optim, schemes

    scheme, _, metric = name.partition("@")
    bare = scheme.partition("(")[0].strip()
    if not metric and bare in optim.presets() and bare not in schemes.SCHEMES:
        return optim.create(bare, params, **options)
    found = schemes.get(scheme.strip())
    if metric.strip():
        options = {"preconditioner": metric.strip(), **options}
    if isinstance(found, schemes.ButcherTableau):
        return optim.RungeKutta(params, scheme=found, **options)
    return optim.Optimizer(params, scheme=found, **options)


def _notation(side: Side) -> tuple[str, dict[str, Any]]:
    """Name and options; a class's or preset's own parentheses come first, the plan's options on top."""
    text = side.optimizer.strip()
    name, _, inner = text.partition("(")
    options: dict[str, Any] = dict(side.options)
    if not inner or (":" not in name and not _is_preset(name)):
        return text, options
    try:
        call = ast.parse(f"f({inner}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("options need names")
        given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise RolloutError(f"cannot read {text!r}: {error}.", fix="Write torch.optim:SGD(momentum=0.9).") from None
    return name.strip(), {**given, **options}


def _is_preset(name: str) -> bool:
    from sabun import optim, schemes

    return name.strip() in optim.presets() and name.strip() not in schemes.SCHEMES


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
