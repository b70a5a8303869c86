"""Division of matrices among the processes that train one model.

Each update is computed by one process, its owner. Without a team each process computes all updates.

- Sharded over one dimension of a device mesh (FSDP2, tensor parallelism): an all-to-all brings the shards of a matrix
  to its owner, another one brings back those of its update. A rank sends as many bytes as its shards have, twice,
  whatever the number of ranks (:meth:`Team.by_owner`). Where the shards are replicated over other dimensions (HSDP),
  each replica does this for a part of the matrices, and a sum over the replicas brings the updates to all.
- Whole on each process, as under DDP: parameters are plain tensors, so the option ``divide`` has to state that all
  processes hold the same gradients. A matrix is added to zeros from the others. x + 0 is exact, so all ranks end with
  equal bits (:meth:`Team.divide`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sabun.optim import torch_internals as internals

__all__ = ["Team", "owners_of", "sharded_along", "team_of"]


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that share the matrices, and the rank of this one."""

    group: dist.ProcessGroup | None
    rank: int
    size: int

    def shares(self, costs: Sequence[float]) -> list[list[int]]:
        """Indices of each rank's share: the next most expensive piece goes to the least loaded rank."""
        loads = [0.0] * self.size
        shares: list[list[int]] = [[] for _ in loads]
        for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
            rank = loads.index(min(loads))
            loads[rank] += costs[i]
            shares[rank].append(i)
        return [sorted(share) for share in shares]

    def own(self, costs: Sequence[float]) -> list[int]:
        """Indices of this rank's share."""
        return self.shares(costs)[self.rank]

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

    def by_owner(
        self,
        shards: Sequence[Tensor],
        shapes: Sequence[torch.Size],
        dims: Sequence[int],
        costs: Sequence[float],
        work: Callable[[list[int], list[Tensor]], list[Tensor]],
    ) -> list[Tensor]:
        """The shards of ``work(indices, tensors)``, which each rank computes for the whole tensors that it owns.

        ``shards`` are this rank's, of one dtype; ``shapes`` are those of the whole tensors, which are sharded along
        ``dims`` as ``torch.chunk`` divides them.
        """
        shares, ranks = self.shares(costs), range(self.size)
        mine = shares[self.rank]

        def piece(i: int, rank: int) -> tuple[int, int]:
            """First index and length of a rank's shard of tensor i."""
            length = shapes[i][dims[i]]
            size = -(-length // self.size)
            begin = min(rank * size, length)
            return begin, min(size, length - begin)

        def shape(i: int, rank: int) -> list[int]:
            size = list(shapes[i])
            size[dims[i]] = piece(i, rank)[1]
            return size

        def cut(flat: Tensor, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Tensor]:
            """The shards (tensor, rank) that follow one another in a buffer."""
            sizes = [shape(*place) for place in places]
            parts = torch.split(flat, [math.prod(size) for size in sizes])
            return {place: part.view(size) for place, part, size in zip(places, parts, sizes, strict=True)}

        away = [(i, self.rank) for share in shares for i in share]  # to the owners, and back from them
        here = [(i, rank) for rank in ranks for i in mine]
        send = [sum(math.prod(shape(i, self.rank)) for i in share) for share in shares]
        receive = [sum(math.prod(shape(i, rank)) for i in mine) for rank in ranks]

        def exchange(parts: list[Tensor], sent: list[int], received: list[int]) -> Tensor:
            flat = torch.cat([part.reshape(-1) for part in parts]) if parts else shards[0].new_empty(0)
            out = flat.new_empty(sum(received))
            dist.all_to_all_single(out, flat, received, sent, group=self.group)
            return out

        arrived = cut(exchange([shards[i] for i, _ in away], send, receive), here)
        done = dict(
            zip(mine, work(mine, [torch.cat([arrived[i, r] for r in ranks], dims[i]) for i in mine]), strict=True)
        )
        back = [done[i].narrow(dims[i], *piece(i, rank)) for i, rank in here]
        returned = cut(exchange(back, receive, send), away)
        return [returned[i, self.rank] for i in range(len(shards))]


def sharded_along(p: Tensor) -> tuple[object, int, int] | None:
    """(mesh, its dimension, dimension of the tensor) of a DTensor that is sharded along one dimension, else None."""
    found = internals.shard_dimensions(p) if internals.is_dtensor(p) else []
    if len(found) != 1 or found[0] is None:
        return None
    of_mesh, of_tensor = found[0]
    mesh: object = p.device_mesh  # type: ignore[attr-defined]
    return mesh, of_mesh, of_tensor


def owners_of(params: Sequence[Tensor]) -> tuple[Team, list[Team], list[int]] | None:
    """Who holds these parameters, if they are placed alike.

    The team whose ranks hold their shards; the teams whose ranks hold the same shard, one for each dimension of the
    mesh that they are replicated over; and the dimension that each parameter is sharded along.
    """
    found = [sharded_along(p) for p in params]
    if None in found or len({one[:2] for one in found if one}) != 1 or found[0] is None:
        return None
    mesh: Any = found[0][0]
    of_mesh = found[0][1]
    teams = [Team(mesh.get_group(i), mesh.get_local_rank(i), mesh.size(i)) for i in range(mesh.ndim)]
    team = teams.pop(of_mesh)
    return (team, [one for one in teams if one.size > 1], [one[2] for one in found if one]) if team.size > 1 else None


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
