"""A simulated accelerator with numbers: the device ``sim``.

Its tensors are plain tensors of torch's private-use device, with torch's autograd. The numbers of each storage lie in
CPU memory beside it, and every kernel of the device is that of the CPU on them. What differs from a CPU is what differs
on CUDA: operands on different devices are refused, but for numbers (tensors of no dimension) on the CPU; so is a
generator of the CPU; and whatever makes the program wait for the device is an error inside :func:`waits`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["DeviceWaitError", "is_possible", "set_up", "waited", "waits"]

# The results depend on values (their shapes, or whether there is an error), so CUDA's kernels fetch them.
_WAITING = {
    "_linalg_eigh", "_linalg_svd", "_unique2", "bincount", "equal", "masked_select", "nonzero", "unique_consecutive",
    "unique_dim",
}  # fmt: skip
_library: torch.library.Library | None = None
_aten: torch.library.Library | None = None
_generators: dict[int, torch.Generator] = {}
_refusing = False
waited: list[str] = []
"""What the program has waited for the device for."""


class DeviceWaitError(AssertionError):
    """The program waits for the device where it must not."""


class _Module:
    """``torch.sim``."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """The numbers are drawn on the CPU."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def synchronize(self, device: Any = None) -> None:
        _wait("synchronize")

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def is_possible() -> bool:
    """Whether this torch has devices that are written in Python."""
    return hasattr(getattr(torch._C, "_acc", None), "create_empty_tensor")


def set_up() -> torch.device:
    """Register the device, once in a process."""
    global _library, _aten
    if _library is None:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

        _setup_privateuseone_for_python_backend("sim", backend_module=_Module())
        _library = torch.library.Library("_", "IMPL")
        _library.fallback(_kernel, "PrivateUse1")
        _aten = torch.library.Library("aten", "IMPL")
        for bit in ("Conjugate", "Negative"):  # a copy resolves them
            _aten.impl("_copy_from", torch.library.fallthrough_kernel, bit)
        for name, ours in _CONVOLUTIONS.items():  # torch has operations for such devices that it leaves open
            _aten.impl(name, ours, "PrivateUse1")
        torch.Generator = _Generator  # type: ignore[misc]
        torch.serialization.register_package(0, lambda storage: None, _loaded)
        for name, ours in _OF_STORAGES.items():
            setattr(torch.UntypedStorage, name, _for_ours(ours, getattr(torch.UntypedStorage, name)))
    return torch.device("sim:0")


@contextlib.contextmanager
def waits(allowed: bool) -> Iterator[None]:
    """Inside, what waits for the device is an error, or is not."""
    global _refusing
    before, _refusing = _refusing, not allowed
    try:
        yield
    finally:
        _refusing = before


class _OfAnyDevice(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        if torch.device(device).type != "sim":
            return torch._C.Generator(device)
        made = torch._C.Generator("cpu")
        _generators[made._cdata] = made
        return made


class _Generator(metaclass=_OfAnyDevice):
    """``torch.Generator``, of this device, too: torch makes none for a device that is written in Python."""


def _convolved(*args: Any) -> Any:
    return _kernel(torch.ops.aten.convolution.default, *args)


def _convolved_back(grad: Tensor, x: Tensor, weight: Tensor, *args: Any) -> Any:
    return _kernel(torch.ops.aten.convolution_backward.default, grad, x, weight, [weight.shape[0]], *args)


_CONVOLUTIONS = {"convolution_overrideable": _convolved, "convolution_backward_overrideable": _convolved_back}


def _wait(what: str) -> None:
    waited.append(what)
    if _refusing:
        raise DeviceWaitError(f"{what} waits for the device")


def _on_device(t: object) -> bool:
    return isinstance(t, Tensor) and t.device.type == "sim"


def _numbers(t: Tensor) -> Tensor:
    """The tensor on the CPU that has the numbers of a tensor of the device as its memory."""
    place = (t.storage_offset(), t.shape, t.stride())
    return torch.empty(0, dtype=t.dtype, device="cpu").set_(t.untyped_storage().numbers, *place)


def _kernel(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Every operation of the device that torch does not compose of others."""
    with torch._C._AutoDispatchBelowAutograd(), torch._C.DisableTorchFunction():
        return _run(op, args, kwargs)


def _run(op: Any, args: Any, kwargs: Any) -> Any:
    name = op._schema.name.removeprefix("aten::")
    if name == "_copy_from":
        return _copy(*args, **kwargs)
    if name == "set_":
        return _set(*args)
    if name == "_local_scalar_dense":
        _wait("reading a value")
    if name in _WAITING or (name.startswith("index") and _has_masks(args)):
        _wait(name)
    if name.startswith("bitwise"):  # torch hands over a number where the kernel takes a tensor
        args = tuple(torch.tensor(x, dtype=args[0].dtype, device="cpu") if isinstance(x, int) else x for x in args)
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if any(t.dim() and not _on_device(t) for t in given) and not name.startswith("index"):
        raise RuntimeError(f"expected all tensors on one device, but {op} got {[str(t.device) for t in given]}")
    generator = kwargs.get("generator")
    if generator is not None and generator._cdata not in _generators:
        raise RuntimeError(f"expected a 'sim' device type for generator, but {op} got one of the CPU")
    held: list[tuple[Tensor, Tensor]] = []

    def lower(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if not _on_device(value):
            return value
        held.append((value, _numbers(value)))
        return held[-1][1]

    out = op(*tree_map(lower, args), **tree_map(lower, kwargs))
    for t, numbers in held:
        if t.shape != numbers.shape or t.stride() != numbers.stride():  # an operand that its kernel has resized
            _place(t, t.untyped_storage(), numbers)
    same = {id(numbers): t for t, numbers in held}
    bases = {numbers.untyped_storage()._cdata: t for t, numbers in held}

    def lift(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return same[id(value)] if id(value) in same else _tensor(value, bases.get(value.untyped_storage()._cdata))

    return tree_map(lift, out)


def _tensor(numbers: Tensor, base: Tensor | None = None) -> Tensor:
    """The tensor of the device with these numbers: a view of ``base``, or of new memory."""
    made: Tensor = torch._C._acc.create_empty_tensor((0,), numbers.dtype)
    if base is None:
        made.untyped_storage().numbers = numbers.untyped_storage()
        return _place(made, made.untyped_storage(), numbers)
    _place(made, base.untyped_storage(), numbers)
    torch._C._set_conj(made, base.is_conj())
    torch._C._set_neg(made, base.is_neg())
    return made


def _place(t: Tensor, storage: torch.UntypedStorage, like: Tensor) -> Tensor:
    """Make a tensor of the device one of this storage, with the place of ``like`` in it."""
    place = (like.storage_offset(), like.shape, like.stride())
    op: Any = torch.ops.aten.set_.source_Storage_storage_offset
    op.redispatch(DispatchKeySet(DispatchKey.Meta), t, storage, *place)
    return t


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if _on_device(source) != _on_device(target) and (_on_device(source) or not non_blocking):
        _wait(f"a copy from {source.device} to {target.device}")
    a, b = (_numbers(t) if _on_device(t) else t for t in (source, target))
    for t in filter(_on_device, (source, target)):  # bits of a tensor that its numbers do not have
        a = a.conj() if t.is_conj() else a
        a = a.neg() if t.is_neg() else a
    b.copy_(a)
    return target


def _set(t: Tensor, source: Any, *place: Any) -> Tensor:
    if isinstance(source, Tensor):
        return _place(t, source.untyped_storage(), source)
    like = torch.empty(0, dtype=t.dtype, device="cpu").set_(source.numbers, *place)
    return _place(t, source, like)


def _loaded(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
    """What ``torch.load`` asks for."""
    return _storage(storage) if location.startswith("sim") else None


def _storage(numbers: torch.UntypedStorage) -> torch.UntypedStorage:
    """The storage of the device with these numbers."""
    return _tensor(torch.empty(0, dtype=torch.uint8, device="cpu").set_(numbers)).untyped_storage()


_OF_STORAGES: dict[str, Callable[..., Any]] = {
    "_set_from_file": lambda storage, *args: storage.numbers._set_from_file(*args),
    "_write_file": lambda storage, *args: storage.numbers._write_file(*args),
    "clone": lambda storage: _storage(storage.numbers.clone()),
    "cpu": lambda storage: storage.numbers.clone(),
    "data_ptr": lambda storage: storage.numbers.data_ptr(),
    "nbytes": lambda storage: storage.numbers.nbytes(),
    "resize_": lambda storage, size: storage.numbers.resize_(size),
}
"""What ``torch.save``, ``copy.deepcopy`` and tests ask of a storage."""


def _for_ours(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
    return lambda storage, *args: (ours if storage.device.type == "sim" else theirs)(storage, *args)


def _has_masks(args: Any) -> bool:
    return any(isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in tree_leaves(args[1:2]))
