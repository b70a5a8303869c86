"""Runge–Kutta methods on the gradient flow: several gradients per step, all on the same mini-batch.

    k_i = g(θ − h Σ_j a_ij k_j),   θ ← θ − h Σ_i b_i k_i

With one stage this is gradient descent; ``heun`` and ``rk4`` are the classical methods; ``chebyshev(s)`` has a
stability interval that grows as s², so that its s gradients reach as far as about s² of Euler's on a stiff problem. A
closure recomputes loss and gradient. The unit of cost is the gradient evaluation, which this class counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from sabun.errors import OptionError, TrainingError, unknown
from sabun.optim import torch_internals as internals
from sabun.optim.capture import is_capturing
from sabun.optim.checkpoints import VERSION, checking, encoding, restore_lr_found
from sabun.optim.control import STEP_CONTROLS, EmbeddedError, Fixed, StepControl
from sabun.optim.control.embedded_error import PI
from sabun.optim.control.same_batch import SameBatch
from sabun.optim.opaque import opaque
from sabun.optim.options import (
    FOREIGN,
    OPTIONS,
    REFUSED,
    check,
    check_learning_rate,
    is_note,
    plain,
    refuse,
)
from sabun.optim.scheme_codec import tableau as tableau_of
from sabun.optim.tensors import norm, refuse_sparse
from sabun.optim.terms import Tensors
from sabun.schemes import ButcherTableau

__all__ = ["RungeKutta"]

_OWN = ("weight_decay", "decoupled", "maximize")
_RUNNING: dict[str, object] = {
    "version": VERSION,
    "control_step": 0.0,
    "control_last": 0.0,
    "control_error": 1.0,
    "control_rejected": 0,
    "evaluations_total": 0,
}
_MOST_REJECTIONS = 10


class RungeKutta(torch.optim.Optimizer):
    r"""Explicit Runge–Kutta methods; ``step`` needs a closure::

        for x, y in loader:
            def closure():
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)      # the same x, y for every stage
                loss.backward()
                return loss
            optimizer.step(closure)

    Dropout draws the same numbers in every stage; batch-norm statistics see every stage.

    Args:
        params: parameters, named parameters, or groups (which may set lr, weight_decay, decoupled, maximize).
        lr: the time step h > 0, as in :class:`sabun.Optimizer`; may be left out with "embedded-error".
        scheme: "heun", "rk4", "chebyshev(5)", "bogacki-shampine", … or a ``ButcherTableau``.
        step_control: None (fixed; any scheduler), or "embedded-error(tolerance=0.003)" for a tableau with an embedded
            pair: a step whose error exceeds tolerance·‖θ‖ is rejected and retaken shorter on the same batch; lr is then
            the upper bound.
        weight_decay: the decay rate λ of the weights.
        decoupled: True: θ ← θ(1 − lr·λ) before the step; False: λθ is part of every stage's gradient.
        maximize: ascend.

    It keeps no state of the size of θ between steps; during a step one copy per stage, and one of θ.

    Raises:
        SchemeError: an unknown scheme, or one that is not a Runge–Kutta tableau.
        OptionError: an option that is misspelt or out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        scheme: str | ButcherTableau = "heun",
        step_control: str | StepControl | None = None,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        **unknown_options: object,
    ) -> None:
        for name, value in unknown_options.items():
            if name not in REFUSED:
                raise unknown(OptionError, "option of RungeKutta", name, ["lr", "scheme", "step_control", *_OWN])
            refuse(name, value)
        tableau = tableau_of(scheme)
        control = STEP_CONTROLS.make(step_control)
        if not isinstance(control, Fixed | EmbeddedError):
            known = [Fixed.name, EmbeddedError.name]
            raise unknown(OptionError, "step control of RungeKutta", control.name, known)
        if control.finds_step and tableau.b_embedded is None:
            raise OptionError(
                f"{tableau.name!r} has no embedded pair to measure its error with.",
                fix="Use 'bogacki-shampine' or 'heun-euler', or give lr and drop step_control.",
            )
        if lr is None and not control.finds_step:
            raise OptionError("no learning rate given.", fix="Pass lr, or step_control='embedded-error'.")
        if lr is not None:
            check_learning_rate(lr, zero=True)
        options = {"weight_decay": weight_decay, "decoupled": decoupled, "maximize": maximize}
        for name, value in options.items():
            check(name, value)
        defaults: dict[str, Any] = {
            "lr": 0.0 if lr is None else plain(lr),
            "scheme": tableau,
            "step_control": control,
            **options,
            **_RUNNING,
        }
        if lr is None:
            defaults["lr_found"] = True
        self._error = math.nan
        super().__init__(params, defaults)
        self._evaluations = len(self._used)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. Nothing is changed when one of its options is wrong."""
        if isinstance(param_group, dict):
            for name in REFUSED:
                refuse(name, param_group.get(name))
                param_group.pop(name, None)
            for key, value in param_group.items():
                if key in OPTIONS and key in _OWN:
                    check(key, value)
                elif key == "lr":
                    check_learning_rate(value, zero=True)
                elif key in ("scheme", "step_control"):
                    raise OptionError(f"{key} belongs to the whole optimizer.", fix="Pass it to the constructor.")
                elif key not in FOREIGN and key not in self.defaults and not is_note(str(key), ["lr", *_OWN]):
                    raise unknown(OptionError, "option in a parameter group", str(key), ["lr", *_OWN])
            if "lr" not in param_group and "lr_found" not in self.defaults:
                check_learning_rate(self.defaults["lr"])
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._error = math.nan
        for group in self.param_groups:
            for name in _OWN:
                group.setdefault(name, OPTIONS[name].default)
            group["scheme"] = tableau_of(group["scheme"])
            group["step_control"] = STEP_CONTROLS.make(group["step_control"])
        self._evaluations = len(self._used)

    def state_dict(self) -> dict[str, Any]:
        """Return the groups, with scheme and step control as text; there is no state of the size of θ."""
        with encoding(self):
            return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of :meth:`state_dict`, as :meth:`sabun.Optimizer.load_state_dict` does.

        Raises StateError, and changes nothing, for a checkpoint of another kind or step control.
        """
        with checking(self, ButcherTableau, state_dict, _RUNNING):
            super().load_state_dict(state_dict)
        restore_lr_found(self)

    @property
    def tableau(self) -> ButcherTableau:
        """The scheme."""
        tableau: ButcherTableau = self.param_groups[0]["scheme"]
        return tableau

    @property
    def gradient_evaluations(self) -> int:
        """Number of gradients that the last step evaluated, with rejected attempts (before the first: one attempt)."""
        return self._evaluations

    def stats(self) -> dict[str, float]:
        """``step_length`` h, ``gradient_evaluations`` in all, and with error control ``error`` and ``rejected``."""
        lead = self.param_groups[0]
        figures = {"step_length": float(lead["lr"]), "gradient_evaluations": float(lead["evaluations_total"])}
        if isinstance(lead["step_control"], EmbeddedError):
            figures |= {
                "step_length": lead["control_last"], "error": self._error, "rejected": float(lead["control_rejected"]),
            }  # fmt: skip
        return figures

    @torch.no_grad()
    @opaque
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step and return the loss at its beginning.

        Raises OptionError without a closure, and TrainingError if error control rejects every attempt. After any error
        the parameters are those before the step.
        """
        if closure is None:
            raise OptionError(
                "a Runge–Kutta step needs a closure: it evaluates the gradient several times.",
                fix="Call optimizer.step(closure); closure clears the gradients, computes the loss and calls backward.",
            )
        if is_capturing():
            refuse("capturable", True)
        batch = SameBatch(closure)
        loss = batch.loss()
        # As in torch, a parameter without a gradient does not move, not even by decay.
        places = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        start = [p.clone() for p, _ in places]
        first = self._gradients(places)
        self._evaluations = 1
        try:
            if isinstance(self.param_groups[0]["step_control"], EmbeddedError):
                self._adaptive(places, start, first, batch)
            else:
                lengths = [float(group["lr"]) for _, group in places]
                stages = self._stages(places, start, first, lengths, batch)
                self._move(places, start, stages, self.tableau.b, lengths)
        except BaseException:
            # A closure that fails between stages must not leave the model at an intermediate point.
            for (p, _), origin in zip(places, start, strict=True):
                p.copy_(origin)
            raise
        for group in self.param_groups:
            group["evaluations_total"] += self._evaluations
        return loss

    def _gradients(self, places: Sequence[tuple[Tensor, dict[str, Any]]]) -> Tensors:
        """k at the present parameters: copies of the gradients, with the sign of ``maximize`` and coupled decay."""
        ks = []
        for p, group in places:
            g = p.grad
            if g is not None:
                refuse_sparse(g)
            k = torch.zeros_like(p) if g is None else g.clone()
            if group["maximize"]:
                k.neg_()
            if group["weight_decay"] and not group["decoupled"]:
                k.add_(p, alpha=group["weight_decay"])
            ks.append(k)
        return ks

    def _stages(
        self,
        places: Sequence[tuple[Tensor, dict[str, Any]]],
        start: Tensors,
        first: Tensors,
        lengths: Sequence[float],
        batch: SameBatch,
    ) -> list[Tensors]:
        """k_1 … k_s; a stage with no use in the result is left empty and not evaluated."""
        tableau = self.tableau
        stages = [first]
        for i in range(1, tableau.stages):
            if i not in self._used:
                stages.append([])
                continue
            self._move(places, start, stages, tableau.A[i], lengths, decay=False)
            batch.loss()
            self._evaluations += 1
            stages.append(self._gradients(places))
        return stages

    @property
    def _used(self) -> tuple[int, ...]:
        return self.tableau.used_stages(error_control=isinstance(self.defaults["step_control"], EmbeddedError))

    @staticmethod
    def _move(
        places: Sequence[tuple[Tensor, dict[str, Any]]],
        start: Tensors,
        stages: Sequence[Tensors],
        weights: Sequence[Any],
        lengths: Sequence[float],
        *,
        decay: bool = True,
    ) -> None:
        """θ = start − h Σ w_i k_i, with decoupled decay of the start at the end of a step."""
        for i, (p, group) in enumerate(places):
            p.copy_(start[i])
            if decay and group["weight_decay"] and group["decoupled"]:
                p.mul_(1 - lengths[i] * group["weight_decay"])
            for w, ks in zip(weights, stages, strict=False):
                if w:
                    p.add_(ks[i], alpha=-lengths[i] * float(w))

    def _adaptive(
        self, places: Sequence[tuple[Tensor, dict[str, Any]]], start: Tensors, first: Tensors, batch: SameBatch
    ) -> None:
        lead, pi = self.param_groups[0], PI()
        if any(internals.is_dtensor(p) for p in start):
            raise OptionError("embedded-error control does not work on sharded parameters.", fix="Give lr instead.")
        found = "lr_found" in self.defaults
        size, slope = norm(start), norm(first)
        unit = float(lead["step_control"].tolerance) * (size or slope or 1.0)
        h = lead["control_step"] or (0.01 * (size or 1.0) / slope if slope else 0.0)
        limit = math.inf if found else min(float(group["lr"]) for group in self.param_groups)
        h = min(h, limit)
        tableau = self.tableau
        embedded = tableau.b_embedded or tableau.b
        difference = [float(b - e) for b, e in zip(tableau.b, embedded, strict=True)]
        for _ in range(_MOST_REJECTIONS):
            lengths = [h] * len(places)
            stages = self._stages(places, start, first, lengths, batch)
            parts = [
                sum((w * ks[i] for w, ks in zip(difference, stages, strict=True) if w), torch.zeros_like(start[i]))
                for i in range(len(places))
            ]
            error = h * norm(parts) / unit
            if error <= 1 or h == 0:
                break
            lead["control_rejected"] += 1
            h *= pi.shorter(error)
        else:
            raise TrainingError(
                f"no step was accepted in {_MOST_REJECTIONS} attempts; the last error was {error:g} × tolerance.",
                fix="The parameters were not changed. Check the loss for nan, or allow a larger tolerance.",
            )
        self._move(places, start, stages, tableau.b, lengths)
        self._error = error
        lead["control_last"] = lengths[0] if lengths else h
        lead["control_step"] = h * pi.next(error, lead["control_error"]) if math.isfinite(error) else h
        lead["control_error"] = min(max(error, 1e-4), 1.0) if math.isfinite(error) else 1.0
        for group in self.param_groups:
            group |= {key: lead[key] for key in _RUNNING if key.startswith("control_")}
            if found:
                group["lr"] = lead["control_last"]
