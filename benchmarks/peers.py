"""Peers that are more than one class of a package: Muon with AdamW beside it, as its authors use it.

``torch.optim.Muon`` takes two-dimensional parameters only. Convolution kernels are hidden matrices all the same once
they are flattened to (out, in·height·width), as in the reference implementation (Jordan et al. 2024), so it gets views.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sabun.optim.hidden_matrices import split

__all__ = ["MuonAdamW"]


class MuonAdamW(torch.optim.Optimizer):
    """``torch.optim.Muon`` on the hidden matrices of a model, ``torch.optim.AdamW`` on the rest, one learning rate.

    One rate serves both because Muon's update is scaled to the root mean square of AdamW's (``match_rms_adamw``, Liu et
    al. 2025, arXiv 2502.16982); the weight decay of 0.1 is theirs, too.
    """

    takes_model = True

    def __init__(self, members: nn.Module | Any, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.1):
        hidden, rest = ([p for _, p in pairs] for pairs in split(members))
        super().__init__([*hidden, *rest], {"lr": lr})
        self.kernels = [(p, nn.Parameter(p.detach().view(len(p), -1))) for p in hidden if p.ndim > 2]
        flat = {id(p): view for p, view in self.kernels}
        self.parts: list[torch.optim.Optimizer] = []
        if hidden:
            matrices = [flat.get(id(p), p) for p in hidden]
            self.parts.append(
                torch.optim.Muon(
                    matrices, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay))
        # The parts' own groups and one common state: who sets a rate or measures the state sees all of it.
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        for part in self.parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:
        for p, view in self.kernels:
            view.grad = None if p.grad is None else p.grad.view(len(p), -1)
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)
        for p, _ in self.kernels:
            p.grad = None
