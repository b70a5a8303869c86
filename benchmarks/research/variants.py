"""One optimizer with everything that the preset ``sabun`` could be made of as an option, for the research runs.

Special cases: ``Variant()`` with ``beta=0.9, gamma=2.0, rest_lr=0.5`` is the preset as a first prototype left it;
``Variant(beta=0.95, gamma=0.95, rest="heavy-ball(0.9)", rest_lr=1.0)`` is Muon with AdamW beside it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

import sabun
from sabun.optim import Adam, Preconditioner
from sabun.optim.parts import is_rest, view_at
from sabun.optim.resolve_groups import ROLES
from sabun.optim.role_registry import route

__all__ = ["Limited", "Variant"]

_GRID = 16  # values that a scheduled γ takes: each change of a scheme costs the optimizer a new plan


class Variant(sabun.Optimizer):
    """Look-ahead(β, γ) in a matrix preconditioner for hidden matrices; another scheme with ``adam`` for the rest.

    ``beta_end``, ``gamma_end``: the values that β and γ reach as the learning rate falls from its start to zero, in
    proportion to it; ``momentum_end`` is the optimizer's own way to the same. ``rest``, ``rest_lr``, ``rest_beta2``:
    scheme, share of the learning rate and decay of the second moment for what is no hidden matrix;
    ``rest_weight_decay``: its weight decay, where it is not the common one. ``head``: whether
    the last matrix and embeddings are hidden matrices too.
    """

    takes_model = True

    def __init__(
        self,
        members: Any,
        lr: float = 2e-2,
        *,
        beta: float = 0.9,
        gamma: float = 2.0,
        beta_end: float | None = None,
        gamma_end: float | None = None,
        preconditioner: str | Preconditioner = "spectral",
        rest: str = "nesterov(0.9)",
        rest_lr: float = 0.5,
        rest_beta2: float = 0.999,
        rest_momentum_end: float | None = None,
        rest_weight_decay: float | None = None,
        head: bool = False,
        **options: Any,
    ) -> None:
        decay = options.get("weight_decay", 0.0) if rest_weight_decay is None else rest_weight_decay
        options["rest"] = {
            "scheme": rest,
            "lr_factor": rest_lr,
            "preconditioner": Adam(beta2=rest_beta2),
            "momentum_end": rest_momentum_end,
            "weight_decay": decay,
        }
        if head:
            options["matrices"] = {"*": "matrix"}
        groups = members.named_parameters() if isinstance(members, torch.nn.Module) else members
        chosen = {
            role: table.make({"preconditioner": preconditioner, **options}.get(role)) for role, table in ROLES.items()
        }
        roles, rest_of_it = route(chosen, {key: value for key, value in options.items() if key not in ROLES})
        super().__init__(groups, lr, scheme=sabun.schemes.look_ahead(beta, gamma), **roles, **rest_of_it)
        self.start = [group["lr"] for group in self.param_groups]
        self.path = (beta, beta if beta_end is None else beta_end), (gamma, gamma if gamma_end is None else gamma_end)

    def step(self, closure: Any = None) -> Any:
        (beta, beta_end), (gamma, gamma_end) = self.path
        for group, start in zip(self.param_groups, self.start, strict=True):
            if beta == beta_end and gamma == gamma_end:
                continue
            spent = round(_GRID * (1 - float(group["lr"]) / start)) / _GRID
            now = beta + spent * (beta_end - beta), gamma + spent * (gamma_end - gamma)
            group["scheme"] = sabun.schemes.look_ahead(*(round(value, 6) for value in now))
            group["momentum"] = round(now[0], 6)
        return super().step(closure)


class Limited(Variant):
    """``Variant`` with a limiter: no parameter tensor moves by more than the share ``limit`` of its own size a step.

    With u the update per unit rate, a tensor W is stepped at min(lr, limit · max(rms(W), floor) / rms(u)); its weight
    decay goes at that rate, too. The floor lets what starts at zero move: 1/√(3·fan_in) for matrices (the size that
    torch gives a linear layer at its start), ``floor`` for vectors. ``falling``: the limit falls with the learning
    rate, in proportion to lr over its largest value so far. ``common``: one factor for all tensors, the smallest of
    theirs. ``growth``: what counts as the size is start^(1 − growth) · now^growth, the size before the first step at 0
    and the present one at 1. ``rest_limit``: the limit of what is no hidden matrix, where it is another.
    ``by_shape``: the floor is the size, whatever the tensor holds. Special case: a limit of infinity is ``Variant``.

    The step is taken at lr first and shortened afterwards, which is the same: no state depends on lr, except β where it
    follows the schedule, and it should go by that.
    """

    def __init__(
        self,
        members: Any,
        lr: float = 3e-2,
        *,
        limit: float = math.inf,
        floor: float = 0.05,
        falling: bool = False,
        common: bool = False,
        growth: float = 1.0,
        rest_limit: float | None = None,
        by_shape: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(members, lr, **options)
        self.limit, self.floor, self.falling, self.common, self.growth = limit, floor, falling, common, growth
        self.rest_limit = limit if rest_limit is None else rest_limit
        self.by_shape = by_shape
        self.first: dict[torch.Tensor, float] = {}

    def _size(self, p: torch.Tensor) -> float:
        least = (3 * p[0].numel()) ** -0.5 if p.dim() > 1 else self.floor
        if self.by_shape:
            return least
        return max(float(torch.linalg.vector_norm(p)) / math.sqrt(p.numel()), least)

    def _reference(self, p: torch.Tensor, start: torch.Tensor) -> float:
        now = self._size(start)
        return float(self.first.setdefault(p, now) ** (1 - self.growth) * now**self.growth)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        before = [[p.clone() for p in group["params"]] for group in self.param_groups]
        loss = super().step(closure)
        found = []
        for group, starts in zip(self.param_groups, before, strict=True):
            for i, (p, start) in enumerate(zip(group["params"], starts, strict=True)):
                options = view_at(group, i)
                lr = float(options["lr"])
                limit = self.rest_limit if is_rest(group, i) else self.limit
                limit *= lr / options["lr_peak"] if self.falling and lr else 1.0
                moved = torch.linalg.vector_norm(start * (1 - lr * options["weight_decay"]) - p) / math.sqrt(p.numel())
                allowed = limit * self._reference(p, start)
                found.append((p, start, allowed / float(moved) if float(moved) > allowed else 1.0))
        smallest = min(factor for _, _, factor in found)
        for p, start, own in found:
            factor = smallest if self.common else own
            if factor < 1:
                p.copy_(torch.lerp(start, p, factor))
        return loss
