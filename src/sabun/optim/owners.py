"""The modules that own parameters, found among those that are alive.

An optimizer gets parameters, often in groups, and not the model. But the model is what tells a convolution kernel from
the weights of experts, and an embedding from a linear layer. So the modules are looked for among the objects that
Python's garbage collector tracks. The result does not depend on the order of the parameters or on their groups.

The *scope* of an optimizer is the network that it trains: the largest module whose trainable parameters it has all
got. So a network with frozen parts is seen whole, and of a generator and a discriminator in one module each is seen by
itself. Wrappers (DDP, a LightningModule) that add no parameter are left out, and their names with them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sabun.errors import OptionError
from sabun.optim import torch_internals as internals

__all__ = ["Member", "Scope", "scopes"]


@dataclass(frozen=True, slots=True)
class Member:
    """A parameter of a scope under one of its names, with the module that owns it."""

    name: str
    parameter: Tensor
    owner: nn.Module


Scope = Sequence[Member]
"""The parameters of a network in order, frozen and shared ones under each of their names."""


def scopes(parameters: Sequence[Tensor], given: Iterable[nn.Module] = ()) -> list[Scope]:
    """The networks that the parameters belong to, mostly one; none for parameters that no module owns.

    Where the modules in ``given`` own all parameters, no others are looked for, which takes time in
    proportion to the number of objects. Raises OptionError for parameters that FSDP1 has flattened.
    """
    ids = {id(p) for p in parameters}
    known = list(given)
    whole_known = ids <= {id(p) for module in known for p in module.parameters()}
    found = _Graph(known if whole_known else [*known, *_alive()], parameters)
    _refuse_flattened(parameters, found.modules)
    left = {id(p) for p in parameters} & set(found.owned)
    if not left:
        return []
    whole = [module for module in found.above if left <= found.everything(module)]
    if whole:
        return [found.scope(left, whole)]
    made = []
    for top in found.tops():
        share = left & found.everything(top)
        if share:
            left -= share
            inside = [module for module in found.above if share <= found.everything(module)]
            made.append(found.scope(share, inside))
    return made


def _alive() -> list[nn.Module]:
    return [item for item in gc.get_objects() if issubclass(type(item), nn.Module)]


class _Graph:
    """The modules above the parameters of an optimizer: who owns what, and who contains whom."""

    def __init__(self, modules: Iterable[nn.Module], parameters: Sequence[Tensor]) -> None:
        self.modules = {id(module): module for module in modules}
        for root in list(self.modules.values()):
            if internals.is_made(root):
                self.modules |= {id(module): module for module in root.modules()}
        self.ids = {id(p) for p in parameters}
        self.owned: set[int] = set()
        parents: dict[int, list[nn.Module]] = {}
        owners = []
        for module in self.modules.values():
            own = {id(p) for p in internals.parameters_of(module).values()} & self.ids
            if own:
                self.owned |= own
                owners.append(module)
            for child in internals.children_of(module):
                parents.setdefault(id(child), []).append(module)
        self._parents = parents
        above: dict[int, nn.Module] = {}
        waiting = owners
        while waiting:
            module = waiting.pop()
            if id(module) not in above:
                above[id(module)] = module
                waiting.extend(parents.get(id(module), ()))
        self.above = list(above.values())
        self._everything: dict[int, frozenset[int]] = {}

    def everything(self, module: nn.Module) -> frozenset[int]:
        """The ids of all parameters of a module."""
        known = self._everything.get(id(module))
        if known is None:
            own = frozenset(id(p) for p in internals.parameters_of(module).values())
            known = own.union(*map(self.everything, internals.children_of(module)))
            self._everything[id(module)] = known
        return known

    def tops(self) -> list[nn.Module]:
        """The modules above the parameters that no other module contains."""
        return [module for module in self.above if not self._parents.get(id(module))]

    def scope(self, share: set[int], candidates: list[nn.Module]) -> Scope:
        """The scope of some parameters among the modules that contain them all."""
        alone = [module for module in candidates if self._foreign(module) == 0]
        if alone:
            size = max(len(self.everything(module)) for module in alone)
        else:
            alone = candidates
            size = min(len(self.everything(module)) for module in alone)
        same = [module for module in alone if len(self.everything(module)) == size]
        network = min(same, key=lambda module: sum(1 for _ in module.modules()))
        return [
            Member(f"{prefix}.{name}" if prefix else name, parameter, module)
            for prefix, module in network.named_modules(remove_duplicate=False)
            for name, parameter in internals.parameters_of(module).items()
        ]

    def _foreign(self, module: nn.Module) -> int:
        """Number of trainable parameters of a module that the optimizer has not got."""
        return sum(p.requires_grad and id(p) not in self.ids for p in module.parameters())


def _refuse_flattened(parameters: Sequence[Tensor], modules: Mapping[int, nn.Module]) -> None:
    """Raise OptionError for parameters that FullyShardedDataParallel (FSDP1) has flattened."""
    if internals.has_flattened(parameters, modules.values()):
        raise OptionError(
            "FullyShardedDataParallel (FSDP1) has flattened the parameters, so their matrices cannot be seen.",
            fix="Shard with torch.distributed.fsdp.fully_shard (FSDP2), which keeps the shapes, or use an optimizer "
            "without a matrix preconditioner (adamw).",
        )
