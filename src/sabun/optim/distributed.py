"""Division of matrices among the processes that train one model.

Every process needs every update, but each update is computed by one process. Under FSDP2 the processes are the ranks of
the parameters' device mesh. Under DDP parameters are plain tensors, so the option ``divide`` has to state that all
processes hold the same gradients. Without a team each process computes all updates.

A matrix is computed by one rank and added to zeros from the others. x + 0 is exact, so all ranks end with equal bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sabun.optim import torch_internals as internals

__all__ = ["Team", "team_of"]


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that share the matrices, and the rank of this one."""

    group: dist.ProcessGroup | None
    rank: int
    size: int

    def own(self, costs: Sequence[float]) -> list[int]:
        """Indices of this rank's share: the next most expensive piece goes to the least loaded rank."""
        loads = [0.0] * self.size
        share = []
        for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
            rank = loads.index(min(loads))
            loads[rank] += costs[i]
            if rank == self.rank:
                share.append(i)
        return sorted(share)

    def exchange(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sum each tensor over the team, in one all-reduce per dtype."""
        out = list(tensors)
        for dtype in {t.dtype for t in tensors}:
            places = [i for i, t in enumerate(tensors) if t.dtype is dtype]
            flat = torch.cat([tensors[i].reshape(-1) for i in places])
            dist.all_reduce(flat, group=self.group)
            for i, part in zip(places, torch.split(flat, [tensors[i].numel() for i in places]), strict=True):
                out[i] = part.view(tensors[i].shape)
        return out

    def divide(
        self, tensors: list[Tensor], cost: Callable[[Tensor], float], work: Callable[[list[Tensor]], list[Tensor]]
    ) -> list[Tensor]:
        """``work(tensors)``, of which each rank computes its share."""
        mine = self.own([cost(t) for t in tensors])
        done = dict(zip(mine, work([tensors[i] for i in mine]), strict=True))
        return self.exchange([done[i] if i in done else torch.zeros_like(t) for i, t in enumerate(tensors)])


def team_of(params: Sequence[Tensor], *, divide: bool) -> Team | None:
    """The team of these parameters; None if every process computes all of them."""
    meshes = {p.device_mesh if internals.is_dtensor(p) else None for p in params}
    mesh = meshes.pop()
    if meshes:
        return None
    if mesh is not None:
        # On a mesh of several dimensions the shards of one parameter are not those of all ranks.
        return (
            Team(mesh.get_group(), mesh.get_local_rank(), mesh.size()) if mesh.ndim == 1 and mesh.size() > 1 else None
        )
    if not divide or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return Team(None, dist.get_rank(), dist.get_world_size())
