"""Rivals that are more than one class of a package: optimizers of hidden matrices with AdamW for the rest.

The division into hidden matrices and the rest is the project's own, the same for every arm. One learning rate serves
both parts, because the update of a matrix is scaled to the root mean square of AdamW's, 0.2 (Liu et al. 2025, arXiv
2502.16982). AdamW is the compiled one of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_optimizer
import torch
from torch import Tensor, nn

from sabun.optim.hidden_matrices import split

__all__ = ["AdaMuonAdamW", "MuonAdamW", "fastest_type", "orthogonalized"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024


def fastest_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies matrices of it in hardware, else float32."""
    fast = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def orthogonalized(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Five Newton–Schulz iterations of Muon on a stack of matrices, as ``torch.optim.Muon`` makes them."""
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) on hidden matrices, AdamW on the rest; with ``beta2`` NorMuon (Li et al. 2025).

    NorMuon divides each row of the orthogonalized matrix by the root of the running mean of its squares, arXiv
    2510.05491. Matrices of one shape are orthogonalized as one stack.
    """

    def __init__(
        self, model: nn.Module, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.1,
        beta2: float | None = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        hidden, rest = ([p for _, p in pairs] for pairs in split(model))
        groups = [{"params": hidden}] if hidden else []
        super().__init__(
            groups or [{"params": rest}], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "beta2": beta2}
        )
        self.rest = torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, fused=True) if rest else None
        own = self.param_groups if hidden else []
        self.param_groups = [*own, *(self.rest.param_groups if self.rest else [])]
        if self.rest is not None:
            self.rest.state = self.state
        self.matrices = own
        self.dtype = dtype
        stacks: dict[torch.Size, list[Tensor]] = {}
        for p in hidden:
            stacks.setdefault(p.shape, []).append(p)
        self.stacks: Sequence[Sequence[Tensor]] = list(stacks.values())

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.matrices:
            lr, momentum, beta2 = group["lr"], group["momentum"], group["beta2"]
            for params in self.stacks:
                used = [p for p in params if p.grad is not None]
                if not used:
                    continue
                gradients = [p.grad for p in used if p.grad is not None]
                buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in used]
                torch._foreach_lerp_(buffers, gradients, 1 - momentum)
                stack = torch.stack(torch._foreach_lerp(gradients, buffers, momentum)).flatten(2)
                update = orthogonalized(stack, self.dtype or fastest_type(stack.device))
                if beta2 is not None:
                    rows = [
                        self.state[p].setdefault("rows", p.new_zeros(p.shape[0], 1)) for p in used
                    ]  # fmt: skip
                    torch._foreach_lerp_(rows, list(update.square().mean(-1, keepdim=True)), 1 - beta2)
                    update = update / (torch.stack(rows).sqrt() + 1e-10)
                    update = update * (0.2 * update[0].numel() ** 0.5 / update.norm(dim=(-2, -1), keepdim=True))
                else:
                    update = update * (0.2 * max(update.shape[-2:]) ** 0.5)
                torch._foreach_mul_(used, 1 - lr * group["weight_decay"])
                torch._foreach_add_(used, list(update.view(len(used), *used[0].shape)), alpha=-lr)
        if self.rest is not None:
            self.rest.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


class AdaMuonAdamW(pytorch_optimizer.AdaMuon):
    """``pytorch_optimizer.AdaMuon`` (Si et al. 2025, arXiv 2507.11005) on hidden matrices, AdamW on the rest."""

    def __init__(self, model: nn.Module, lr: float = 1e-3, **options: Any) -> None:
        hidden, rest = ([p for _, p in pairs] for pairs in split(model))
        groups = [{"params": part, "use_muon": own} for part, own in ((hidden, True), (rest, False)) if part]
        super().__init__(groups, lr=lr, **options)
        for group in self.param_groups:
            group["lr"] = lr  # one rate: the package gives the rest another one
            if not group["use_muon"]:
                group["betas"], group["weight_decay"] = (0.9, 0.999), options.get("weight_decay", 0.0)
