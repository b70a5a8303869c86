"""Hugging Face's Trainer: an optimizer by its name, and a Trainer in a study. One line each.

    Trainer(..., optimizer_cls_and_kwargs=optimizer("nesterov@adam", lr=3e-3, weight_decay=0.01))

    attach(trainer)              # before trainer.train(); does nothing outside a study

Tested with transformers 5.23. Needs ``pip install 'sabun[transformers]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, set_seed

from sabun.errors import OptionError, TrainingError, unknown
from sabun.optim import notation
from sabun.optim.options import translate
from sabun.script import client

__all__ = ["attach", "optimizer"]

_SPEED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def optimizer(name: str, **options: Any) -> tuple[Callable[[], Callable[..., Any]], dict[str, Any]]:
    """Return the argument of ``Trainer(optimizer_cls_and_kwargs=...)`` for a preset or scheme by its notation.

    ``options`` are those of the optimizer, such as ``lr`` and ``weight_decay``. The optimizer gets the Trainer's own
    two groups: biases and norms get no weight decay. For an unknown name or option, the Trainer raises OptionError
    when it creates the optimizer.
    """

    def factory() -> Callable[..., Any]:
        def over(model: nn.Module, **given: Any) -> Any:
            maker = notation.resolve(name)
            for key in given:
                if maker.accepts is not None and key not in (*maker.accepts, *maker.shape):
                    if maker.kind != "class" and (foreign := translate(key)) is not None:
                        raise foreign
                    raise unknown(OptionError, f"option of {name}", key, [*maker.accepts, *maker.shape])
            decaying = set(Trainer.get_decay_parameter_names(None, model))
            groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
            for parameter, p in model.named_parameters():
                if p.requires_grad:
                    groups[parameter not in decaying]["params"].append((parameter, p))
            return maker.make([group for group in groups if group["params"]], given)

        return over

    return factory, options


def attach(trainer: Trainer) -> Trainer:
    """In a study, use the arm's optimizer and the seed of the run, and log each evaluation. Return ``trainer``.

    The Trainer must evaluate (``eval_strategy="epoch"``), and raises TrainingError otherwise. An optimizer and a
    scheduler passed to it (``optimizers=``) are accepted: the schedule multiplies the arm's learning rate. Outside a
    study nothing is done.
    """
    seed = client.seed()
    if seed is None:
        return trainer
    if trainer.args.eval_strategy == "no":
        raise TrainingError(
            "this Trainer does not evaluate, so there is no learning curve.",
            fix='Give TrainingArguments(eval_strategy="epoch") and an eval_dataset.',
        )
    if trainer.optimizer is None:
        own = trainer.create_optimizer

        def create_optimizer(*arguments: Any, **options: Any) -> Any:
            fresh = trainer.optimizer is None
            made = own(*arguments, **options)
            if fresh:
                trainer.optimizer = made = client.swap(made)
            return made

        trainer.create_optimizer = create_optimizer
    elif not client.swapped(trainer.optimizer):
        trainer.optimizer = client.swap(trainer.optimizer)
    trainer.args.seed = seed
    set_seed(seed)  # the Trainer has set its own when it was made, from which it would draw the order of the batches
    trainer.add_callback(_EvaluationLog())
    return trainer


class _EvaluationLog(TrainerCallback):  # type: ignore[misc]
    """Logs each evaluation of the Trainer."""

    def __init__(self) -> None:
        self.step = 0

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        if state.global_step == self.step:
            return  # before training, or once more after it
        self.step = state.global_step
        found = {key.removeprefix("eval_"): value for key, value in (metrics or {}).items() if key.startswith("eval_")}
        if "loss" not in found:
            raise TrainingError("the evaluation of this Trainer has no eval_loss.", fix="Provide labels, or a loss.")
        trained = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
        shown: dict[str, Any] = {
            key: value for key, value in found.items() if key != "loss" and key not in _SPEED and _is_number(value)
        }
        client.log(val_loss=found["loss"], train_loss=trained, **shown)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
