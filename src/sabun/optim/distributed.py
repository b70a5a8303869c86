"""Division of matrices among the processes that train one model.

Each update is computed by one process, its owner. Without a team each process computes all updates.

- Sharded (FSDP2, tensor parallelism, both): an all-to-all brings the shards of a matrix to its owner, another one
  brings back those of its update. A rank sends as many bytes as its shards have, twice, whatever the number of ranks
  (:class:`Route`). Shards along two dimensions of a mesh go along one and then along the other. Where they are
  replicated over further dimensions (HSDP), each replica does this for a part of the matrices, and an all-gather among
  the replicas brings the updates to all. Stacked experts that are divided among ranks stay where they are.
- Whole on each process, as under DDP: parameters are plain tensors, so the option ``divide`` has to state that all
  processes hold the same gradients. They are then replicas along one dimension of a mesh of all processes
  (:func:`replicated`). An all-gather brings the updates from their owners to all (:meth:`Team.gather`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from sabun.optim import torch_internals as internals

__all__ = ["Placement", "Route", "Team", "is_shared", "placement_of", "replicated", "team_of"]


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that share the matrices, and the rank of this one."""

    group: dist.ProcessGroup | None
    rank: int
    size: int

    def gather(
        self, owned: Sequence[Tensor], shapes: Sequence[Sequence[int]], owners: Sequence[int], like: Tensor
    ) -> list[Tensor]:
        """All tensors on each rank, of which each has those that it owns; ``like`` has their dtype and device.

        One all-gather of shares that are padded to the largest. Where that moves more than twice the bytes of the
        tensors, which is what an all-reduce moves, each owner broadcasts its share.
        """
        sizes = [math.prod(shape) for shape in shapes]
        lengths = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == r) for r in range(self.size)]
        longest, total = max(lengths), sum(lengths)
        is_even = self.size * longest <= 2 * total
        room = [like.new_empty(longest - lengths[self.rank])] if is_even else []
        mine = torch.cat([*(t.reshape(-1) for t in owned), *room]) if owned or room else like.new_empty(0)
        if not is_even:
            shares = [mine if r == self.rank else like.new_empty(length) for r, length in enumerate(lengths)]
            for r, share in enumerate(shares):
                if len(share):
                    dist.broadcast(share, dist.get_global_rank(cast("Any", self.group), r), group=self.group)
        else:
            flat = like.new_empty(self.size * longest)
            if total:
                dist.all_gather_into_tensor(flat, mine, group=self.group)
            shares = [*flat.view(self.size, longest)]
        out, begins = [], [0] * self.size
        for shape, size, owner in zip(shapes, sizes, owners, strict=True):
            out.append(shares[owner].narrow(0, begins[owner], size).view(tuple(shape)))
            begins[owner] += size
        return out


def team_of(mesh: Any, i: int) -> Team:
    """The ranks along a dimension of a mesh that this one is among."""
    return Team(mesh.get_group(i), mesh.get_local_rank(i), mesh.size(i))


@dataclass(frozen=True, slots=True)
class Placement:
    """How the matrices of a parameter are placed on a device mesh.

    - ``cuts``: (dimension of the mesh, dimension of the tensor) of each division through matrices, in the order in
      which they are undone.
    - ``replicas``: dimensions of the mesh along which all ranks hold the same.
    - ``shape``: that of the parameter without the cuts: the whole one, or of stacked experts those of this rank.
    - ``local``: the parameter is equal parts of stacked experts along the first dimension, one on each rank.
    """

    mesh: Any
    cuts: tuple[tuple[int, int], ...]
    replicas: tuple[int, ...]
    shape: torch.Size
    local: bool

    @property
    def kind(self) -> tuple[object, ...]:
        """What parameters have in common that are exchanged together."""
        return self.mesh, tuple(i for i, _ in self.cuts), self.replicas

    def part(self, length: int) -> tuple[int, int]:
        """First index and length of this rank's part of a side of a ``local`` parameter."""
        (i,) = (i for i in range(self.mesh.ndim) if self.mesh.size(i) > 1)
        return _piece(length, self.mesh.size(i), self.mesh.get_local_rank(i))

    def owners(self, costs: Sequence[float], loads: dict[Any, list[float]]) -> list[dict[int, int]]:
        """The coordinates of the owner of each tensor, in the dimensions of the mesh that share the tensors.

        ``loads`` are those of the ranks so far, by kind: the largest share goes to the least loaded rank.
        """
        dims = (*self.replicas, *(i for i, _ in self.cuts))
        sizes = [self.mesh.size(i) for i in dims]
        found: list[dict[int, int]] = [{} for _ in costs]
        load = loads.setdefault(self.kind, [0.0] * math.prod(sizes))
        shares = sorted(_shares(costs, len(load)), key=lambda share: -sum(costs[i] for i in share))
        for number, share in zip(sorted(range(len(load)), key=lambda rank: load[rank]), shares, strict=True):
            load[number] += sum(costs[i] for i in share)
            rank, at = number, {}
            for i, size in zip(reversed(dims), reversed(sizes), strict=True):
                rank, at[i] = divmod(rank, size)
            for place in share:
                found[place] = at
        return found


def placement_of(p: Tensor, *, stacked: bool) -> Placement | None:
    """The placement of a parameter; None for one that is no DTensor, and where shards are no chunks of dimensions.

    ``stacked``: it is one matrix for each index of all but the last two dimensions.
    """
    ways = internals.ways_of(p) if internals.is_dtensor(p) else None
    if ways is None:
        return None
    mesh: Any = p.device_mesh  # type: ignore[attr-defined]
    shape, cuts, apart = list(p.shape), [], []
    for i, dim in ways.items():
        if stacked and dim < p.ndim - 2:
            shape[dim] = _piece(shape[dim], mesh.size(i), mesh.get_local_rank(i))[1]
            apart += [dim] if mesh.size(i) > 1 else []
        elif mesh.size(i) > 1:
            cuts.append((i, dim))
    replicas = tuple(i for i in range(mesh.ndim) if i not in ways and mesh.size(i) > 1)
    local = apart == [0] and not cuts and not replicas and p.shape[0] % mesh.size() == 0
    return Placement(mesh, tuple(cuts), replicas, torch.Size(shape), local)


class Route:
    """The way of tensors of one dtype to their owners and back: an all-to-all for each cut, the last cut first.

    A rank sends as many bytes as its shards have, in each direction and for each cut, whatever the number of ranks.
    ``shapes`` are those without the cuts, ``cuts`` those of each tensor, ``owners`` the coordinates of its owner.
    ``places`` are the tensors that this rank owns.
    """

    def __init__(
        self,
        mesh: Any,
        shapes: Sequence[Sequence[int]],
        cuts: Sequence[Sequence[tuple[int, int]]],
        owners: Sequence[Mapping[int, int]],
    ) -> None:
        self.places = list(range(len(shapes)))
        self._stages: list[_Stage] = []
        for number, (i, _) in enumerate(cuts[0] if cuts else ()):
            before = []
            for place in self.places:
                shape = list(shapes[place])
                for j, dim in reversed(cuts[place][number + 1 :]):
                    shape[dim] = _piece(shape[dim], mesh.size(j), mesh.get_local_rank(j))[1]
                before.append(shape)
            team = team_of(mesh, i)
            dims = [cuts[place][number][1] for place in self.places]
            self._stages.append(_Stage(team, before, dims, [owners[place][i] for place in self.places]))
            self.places = [place for place in self.places if owners[place][i] == team.rank]

    def there(self, shards: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """The tensors that this rank owns. ``like`` has the dtype and the device of all."""
        tensors = list(shards)
        for stage in self._stages:
            tensors = stage.there(tensors, like)
        return tensors

    def back(self, owned: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """This rank's shards of all tensors, of which each rank has those that it owns."""
        tensors = list(owned)
        for stage in reversed(self._stages):
            tensors = stage.back(tensors, like)
        return tensors


class _Stage:
    """One cut of tensors among a team."""

    def __init__(self, team: Team, shapes: Sequence[list[int]], dims: Sequence[int], owners: Sequence[int]) -> None:
        def shape(i: int, rank: int) -> list[int]:
            size = list(shapes[i])
            size[dims[i]] = _piece(size[dims[i]], team.size, rank)[1]
            return size

        ranks = range(team.size)
        self._team, self._shapes, self._dims = team, shapes, dims
        self._mine = [i for i, owner in enumerate(owners) if owner == team.rank]
        away = sorted(range(len(shapes)), key=lambda i: owners[i])  # in the order of a buffer
        self._away = [(i, shape(i, team.rank)) for i in away]
        self._here = [(i, rank, shape(i, rank)) for rank in ranks for i in self._mine]
        self._sent = [sum(math.prod(size) for i, size in self._away if owners[i] == rank) for rank in ranks]
        self._received = [sum(math.prod(size) for _, at, size in self._here if at == rank) for rank in ranks]

    def there(self, shards: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        flat = self._exchange([shards[i] for i, _ in self._away], self._sent, self._received, like)
        parts: dict[int, list[Tensor]] = {i: [] for i in self._mine}
        for (i, *_), part in zip(self._here, _cut(flat, [size for *_, size in self._here]), strict=True):
            parts[i].append(part)
        return [torch.cat(parts[i], self._dims[i]) for i in self._mine]

    def back(self, owned: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        done = dict(zip(self._mine, owned, strict=True))
        parts = []
        for i, rank, _ in self._here:
            dim = self._dims[i]
            parts.append(done[i].narrow(dim, *_piece(self._shapes[i][dim], self._team.size, rank)))
        flat = self._exchange(parts, self._received, self._sent, like)
        found = dict(zip([i for i, _ in self._away], _cut(flat, [size for _, size in self._away]), strict=True))
        return [found[i] for i in range(len(self._shapes))]

    def _exchange(self, parts: list[Tensor], sent: list[int], received: list[int], like: Tensor) -> Tensor:
        flat = torch.cat([part.reshape(-1) for part in parts]) if parts else like.new_empty(0)
        out = flat.new_empty(sum(received))
        if self._shapes:  # else no rank of the team has anything
            dist.all_to_all_single(out, flat, received, sent, group=self._team.group)
        return out


def _cut(flat: Tensor, sizes: Sequence[list[int]]) -> list[Tensor]:
    """The tensors of these sizes that follow one another in a buffer."""
    parts = torch.split(flat, [math.prod(size) for size in sizes])
    return [part.view(size) for part, size in zip(parts, sizes, strict=True)]


def _piece(length: int, ranks: int, rank: int) -> tuple[int, int]:
    """First index and length of a rank's chunk of a side, as ``torch.chunk`` divides it."""
    size = -(-length // ranks)
    begin = min(rank * size, length)
    return begin, min(size, length - begin)


def _shares(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Indices of each rank's share: the next most expensive piece goes to the least loaded rank."""
    loads = [(0.0, rank) for rank in range(ranks)]
    shares: list[list[int]] = [[] for _ in loads]
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + costs[i], rank))
        shares[rank].append(i)
    return [sorted(share) for share in shares]


def is_shared() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def replicated(p: Tensor) -> Placement:
    """The placement of a plain tensor that all processes hold."""
    return Placement(_everyone(p.device.type, dist.group.WORLD), (), (0,), p.shape, False)


@lru_cache(maxsize=1)
def _everyone(kind: str, world: Any) -> Any:
    """The mesh of all processes of a process group, which is the default one."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(kind, (dist.get_world_size(),))
