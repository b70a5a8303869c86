"""The matrices of parameters: their state, and the ranks that compute them.

A sharded matrix is computed by its owner (:mod:`sabun.optim.distributed`). Where a matrix preconditioner has state, the
owner has all of it, and ``optimizer.state`` has an empty tensor in its place on the other ranks. Such an owner stays
the same for the life of a parameter group, because it depends on nothing but the shapes of the group's parameters; each
rank has about as much state as any other. In a checkpoint the same tensor is a DTensor that is sharded along its first
dimension, so ``torch.distributed.checkpoint`` saves it, gathers it, and loads it into any number of ranks. The state of
stacked experts that are divided among ranks is such a DTensor in training, too.

Plain tensors that all ranks hold (DDP) have owners where the option ``divide`` asks for it. A checkpoint has their
state whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.distributed import Placement, Route, Team, is_shared, placement_of, replicated, team_of
from sabun.optim.layouts import Layout
from sabun.optim.parts import is_rest, layout_at, preconditioner_at, views
from sabun.optim.preconditioners.preconditioner import MatrixWork, Preconditioner
from sabun.optim.tensors import real_view
from sabun.optim.terms import Tensors

__all__ = ["Owner", "Shared", "owners_of", "place", "settle", "state_shapes", "stored"]


def state_shapes(
    preconditioner: Preconditioner, layout: Layout | None, shape: torch.Size
) -> Mapping[str, tuple[int, ...]]:
    """The state of a preconditioner that is not shaped as the parameter; of several matrices one after the other."""
    if layout is None or layout.is_whole or not preconditioner.needs_matrix:
        return preconditioner.matrix_state(shape)
    entries: dict[str, int] = {}
    for matrix in layout.shapes(shape):
        for name, size in preconditioner.matrix_state(matrix).items():
            entries[name] = entries.get(name, 0) + math.prod(size)
    return {name: (number,) for name, number in entries.items()}


def place(p: Tensor, layout: Layout | None, preconditioner: Preconditioner) -> Placement | None:
    """How the matrices of a parameter are placed; None where every rank that has it computes them all."""
    if layout is None or not preconditioner.needs_matrix:
        return None
    if not internals.is_dtensor(p):
        return replicated(p) if preconditioner.divided and is_shared() else None
    placement = placement_of(p, stacked=layout.stacked)
    if placement is None or placement.shape == p.shape or placement.local:
        return placement
    return None if state_shapes(preconditioner, layout, p.shape) else placement


@dataclass(slots=True)
class Shared:
    """The matrices of the parameters of a bucket.

    All of them have a layout where the preconditioner needs matrices. ``owners`` are those of their state, where it is
    not whole on each rank. ``loads`` are those of the ranks by the buckets before, where there is no state.
    """

    preconditioner: Preconditioner
    params: Tensors = field(default_factory=list)
    layouts: list[Layout | None] = field(default_factory=list)
    owners: list[Owner | None] = field(default_factory=list)
    several: bool = False
    loads: dict[Any, list[float]] = field(default_factory=dict)
    _routes: _Routes | None = None

    def add(self, p: Tensor, layout: Layout | None, owner: Owner | None) -> None:
        self.params.append(p)
        self.layouts.append(layout)
        self.owners.append(owner)
        self.several |= self.preconditioner.needs_matrix and layout is not None and not layout.is_whole

    def share(self, lists: list[Tensors], state: Mapping[str, list[Any]], work: MatrixWork) -> Tensors:
        """The local parts of ``work(matrices, state)``, see :class:`sabun.optim.preconditioners.preconditioner.Work`.

        The lists are emptied, so that their memory is free while the work is done.
        """
        if self._routes is None:
            pairs = zip(self.params, self.layouts, strict=True)
            found = [place(p, layout, self.preconditioner) for p, layout in pairs]
            self._routes = _Routes.of(self.preconditioner, self.layouts, found, self.owners, self.loads)
        if self._routes.placements:
            return self._by_owner(self._routes, lists, state, work)
        if not internals.is_dtensor(self.params[0]) and not self.several:
            return work(lists, state)
        return self._everywhere(lists, state, work)

    def _everywhere(self, lists: list[Tensors], state: Mapping[str, list[Any]], work: MatrixWork) -> Tensors:
        positions, shapes = range(len(self.params)), [p.shape for p in self.params]
        matrices = []
        short = self.preconditioner.exchanged_in
        for tensors in lists:
            pairs = zip(tensors, self.params, strict=True)
            whole = [internals.gathered(t, p, short) if internals.is_dtensor(p) else t for t, p in pairs]
            tensors.clear()
            matrices.append(self._matrices(whole, positions))
            del whole
        made = self._joined(work(matrices, self.state_of_matrices(state, positions, shapes)), positions, shapes)
        pairs = zip(made, self.params, strict=True)
        return [internals.shard(t, p) if internals.is_dtensor(p) else t for t, p in pairs]

    def _by_owner(
        self, routes: _Routes, lists: list[Tensors], state: Mapping[str, list[Any]], work: MatrixWork
    ) -> Tensors:
        shapes = [placement.shape for placement in routes.placements]
        arithmetic = lists[0][0].dtype
        first = routes.placements[0]
        # What does not leave the rank is not rounded: without cuts directions stay, without replicas updates, too.
        short = self.preconditioner.exchanged_in or arithmetic
        given = lists[0][0].new_empty(0, dtype=short if first.cuts else arithmetic)
        like = given.to(short if first.cuts or first.replicas else arithmetic)
        shards = [tensors[i].to(given.dtype) for tensors in lists for i in routes.positions]
        for tensors in lists:
            tensors.clear()
        way = routes.of_lists(1)
        whole = routes.of_lists(len(lists)).there(shards, given)
        del shards
        owned = [routes.positions[i] for i in way.places]
        number = len(owned)
        matrices = [
            self._matrices([whole.pop(0).to(arithmetic) for _ in range(number)], owned) for _ in range(len(lists))
        ]
        made = self._joined(work(matrices, self.state_of_matrices(state, owned, shapes)), owned, shapes)
        done = dict(zip(routes.positions, way.back([t.to(like.dtype) for t in made], like), strict=True))
        for team, positions, at in routes.replicas:
            parts = [real_view(self.params[i]).shape for i in positions]
            found = team.gather([done[i] for i in positions if i in done], parts, at, like)
            done = dict(zip(positions, found, strict=True))
        return [
            done[i].to(arithmetic) if i in done else torch.zeros_like(real_view(p), dtype=arithmetic)
            for i, p in enumerate(self.params)
        ]

    def _matrices(self, whole: Tensors, positions: Sequence[int]) -> Tensors:
        """Every matrix of the whole parameters at these positions."""
        if not self.several:
            return list(whole)
        pairs = zip([self.layouts[i] for i in positions], whole, strict=True)
        return [matrix for layout, t in pairs if layout for matrix in layout.matrices(t)]

    def _joined(self, matrices: Tensors, positions: Sequence[int], shapes: Sequence[torch.Size]) -> Tensors:
        """The reverse of :meth:`_matrices`; ``shapes`` are those of all parameters."""
        if not self.several:
            return matrices
        given, whole = iter(matrices), []
        for i in positions:
            layout = self.layouts[i]
            if layout is not None:
                whole.append(layout.join([next(given) for _ in layout.shapes(shapes[i])], shapes[i]))
        return whole

    def state_of_matrices(
        self, state: Mapping[str, list[Any]], positions: Sequence[int], shapes: Sequence[torch.Size]
    ) -> Mapping[str, list[Any]]:
        """One entry per matrix for the names in ``matrix_keys``: views into the tensors of state.

        ``shapes`` are those of all whole parameters.
        """
        return {
            name: [
                piece
                for i in positions
                for piece in _pieces(state[name][i], name, self.preconditioner, self.layouts[i], shapes[i])
            ]
            for name in self.preconditioner.matrix_keys
        }


@dataclass(slots=True)
class _Routes:
    """The placements of the parameters of a bucket, and their way to their owners and back.

    There are no placements where every rank computes all matrices. ``positions`` are those of the parameters that the
    replica of this rank computes, ``owners`` the coordinates of the owners of all. ``replicas`` are the exchanges that
    bring updates to all replicas, one for each dimension of the mesh: ranks, positions, and their owners among them.
    """

    placements: list[Placement]
    owners: list[Mapping[int, int]]
    positions: list[int]
    replicas: list[tuple[Team, list[int], list[int]]] = field(default_factory=list)
    _made: dict[int, Route] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        preconditioner: Preconditioner,
        layouts: Sequence[Layout | None],
        found: Sequence[Placement | None],
        owners: Sequence[Owner | None],
        loads: dict[Any, list[float]],
    ) -> _Routes:
        placements = [placement for placement in found if placement is not None]
        if len(placements) < len(found):
            return cls([], [], [])
        first = placements[0]
        at: list[Mapping[int, int]] = [owner.at for owner in owners if owner is not None]
        if not at:  # there is no state: the matrices of this bucket are shared evenly
            pairs = zip(layouts, placements, strict=True)
            at = [*first.owners([_cost(preconditioner, layout, one.shape) for layout, one in pairs], loads)]
        every = [i for i, placement in enumerate(placements) if placement.shape.numel()]

        def here(dims: Sequence[int]) -> list[int]:
            return [i for i in every if all(at[i][j] == first.mesh.get_local_rank(j) for j in dims)]

        replicas = []
        for number, j in enumerate(first.replicas):
            positions = here(first.replicas[number + 1 :])
            replicas.append((team_of(first.mesh, j), positions, [at[i][j] for i in positions]))
        return cls(placements, at, here(first.replicas), replicas)

    def of_lists(self, number: int) -> Route:
        """The route of so many lists of tensors, one after the other."""
        if number not in self._made:
            placements = [self.placements[i] for i in self.positions] * number
            self._made[number] = Route(
                self.placements[0].mesh,
                [placement.shape for placement in placements],
                [placement.cuts for placement in placements],
                [self.owners[i] for i in self.positions] * number,
            )
        return self._made[number]


def _pieces(
    tensor: Tensor | None, name: str, preconditioner: Preconditioner, layout: Layout | None, shape: torch.Size
) -> list[Tensor | None]:
    if layout is None or layout.is_whole:
        return [tensor]
    if tensor is None:
        return [None] * len(layout.shapes(shape))
    pieces: list[Tensor | None] = []
    begin = 0
    for matrix in layout.shapes(shape):
        size = preconditioner.matrix_state(matrix).get(name)
        if size is None:
            pieces.append(None)
            continue
        end = begin + math.prod(size)
        pieces.append(tensor[begin:end].view(size))
        begin = end
    return pieces


def _cost(preconditioner: Preconditioner, layout: Layout | None, shape: torch.Size) -> float:
    return sum(map(preconditioner.cost, [shape] if layout is None else layout.shapes(shape)))


# ---------------------------------------------------------------------- state


@dataclass(frozen=True, slots=True)
class Owner:
    """The rank that has the state of a parameter; ``at`` are its coordinates on the mesh.

    ``plain``: the parameter is a plain tensor, and so is its state in a checkpoint.
    """

    placement: Placement
    at: Mapping[int, int]
    plain: bool = False

    @property
    def is_here(self) -> bool:
        """Whether it is this rank."""
        return all(self.placement.mesh.get_local_rank(i) == coordinate for i, coordinate in self.at.items())

    def make(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of state, of zeros where this rank has it."""
        if self.placement.local:
            return self._shards(
                torch.zeros((self.placement.part(shape[0])[1], *shape[1:]), dtype=dtype, device=device), shape
            )
        return torch.zeros(shape if self.is_here else 0, dtype=dtype, device=device)

    def take(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """A tensor of state as it is in training, from how a checkpoint has it: a DTensor, or whole on each rank.

        Ranks take part together where it is a DTensor.
        """
        if internals.is_dtensor(tensor):
            if internals.is_in_rows(tensor, self.placement.mesh):
                if self.placement.local:
                    return cast("Tensor", tensor)
                shard = real_view(tensor)
                return next(iter(self._route(shape).there([shard], shard)), shard.new_empty(0))
            tensor = internals.whole(tensor)
        if self.placement.local:
            return self._shards(tensor.narrow(0, *self.placement.part(shape[0])).clone(), shape)
        return tensor if self.is_here else tensor.new_empty(0)

    def give(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """A tensor of state for a checkpoint, from how it is in training. Ranks take part together."""
        if internals.is_dtensor(tensor) or not self.at:
            return tensor
        if self.plain:
            (coordinate,), mesh = self.at.values(), self.placement.mesh
            whole = tensor if self.is_here else tensor.new_empty(tuple(shape))
            dist.broadcast(whole, dist.get_global_rank(mesh.get_group(0), coordinate), group=mesh.get_group(0))
            return whole
        return self._shards(self._route(shape).back([tensor] if self.is_here else [], tensor)[0], shape)

    def _shards(self, part: Tensor, shape: Sequence[int]) -> Tensor:
        return internals.in_rows(part, self.placement.mesh, shape)

    def _route(self, shape: Sequence[int]) -> Route:
        mesh = self.placement.mesh
        cuts = [(i, 0) for i in reversed(range(mesh.ndim))]
        return Route(mesh, [shape], [cuts], [{i: self.at.get(i, 0) for i, _ in cuts}])


def owners_of(group: dict[str, Any]) -> dict[int, Owner]:
    """The owners of the state of matrices, by the index of the parameter in the group; none of state that is whole."""
    kinds: dict[tuple[object, ...], list[tuple[int, Placement, float]]] = {}
    options = dict(views(group))
    for index, p in enumerate(group["params"]):
        if _may_have_owner(p, options.values()):
            layout = layout_at(group, index, p)
            preconditioner = preconditioner_at(options[is_rest(group, index)], layout)
            placement = place(p, layout, preconditioner)
            if placement is not None and state_shapes(preconditioner, layout, p.shape):
                cost = _cost(preconditioner, layout, placement.shape)
                kinds.setdefault(placement.kind, []).append((index, placement, cost))
    found: dict[int, Owner] = {}
    for members in kinds.values():
        at = members[0][1].owners([cost for *_, cost in members], {})
        found |= {
            index: Owner(placement, one, plain=not internals.is_dtensor(group["params"][index]))
            for (index, placement, _), one in zip(members, at, strict=True)
        }
    return found


def _may_have_owner(p: Tensor, views: Iterable[Mapping[str, Any]]) -> bool:
    return internals.is_dtensor(p) or any(view["preconditioner"].divided for view in views)


def settle(optimizer: torch.optim.Optimizer) -> None:
    """Leave state that was loaded whole on each rank to its owners. DTensors are moved when ranks step together."""
    for owner, held, shapes, _ in _owned(optimizer):
        for name, shape in shapes.items():
            if name in held and not internals.is_dtensor(held[name]):
                held[name] = owner.take(held[name], shape)


def stored(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[Any, Any]:
    """The state of a checkpoint: that of matrices that have owners as DTensors. Ranks take part together."""
    state = dict(state_dict["state"])
    for owner, held, shapes, (number, place_) in _owned(optimizer):
        given = {name: owner.give(held[name], shape) for name, shape in shapes.items() if name in held}
        key = state_dict["param_groups"][number]["params"][place_]
        state[key] = {**state[key], **given}
    return state


def _owned(
    optimizer: torch.optim.Optimizer,
) -> Iterator[tuple[Owner, dict[str, Any], Mapping[str, tuple[int, ...]], tuple[int, int]]]:
    """(owner, state, shapes of its tensors, (number of the group, index in it)) of parameters with owners and state."""
    for number, group in enumerate(optimizer.param_groups):
        if "preconditioner" not in group:
            continue
        options = dict(views(group))
        if not any(_may_have_owner(p, options.values()) for p in group["params"]):
            continue
        for index, owner in owners_of(group).items():
            p = group["params"][index]
            if optimizer.state.get(p):
                layout = layout_at(group, index, p)
                shapes = state_shapes(preconditioner_at(options[is_rest(group, index)], layout), layout, p.shape)
                yield owner, optimizer.state[p], shapes, (number, index)
