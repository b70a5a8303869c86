"""Symmetric products: refused where they cannot be made, and what a step with them asks of an accelerator.

Their numbers are tested in Triton's interpreter (``symmetric_interpreted.py``), the binary in ``test_triton.py``.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from accelerator import Count, gpt2_small, parameters
from torch import Tensor, nn

from sabun import Optimizer
from sabun.errors import OptionError
from sabun.optim import create
from sabun.optim import torch_internals as internals
from sabun.optim.preconditioners import spectral, stacks, symmetric_products


def optimizer_of(dtype: torch.dtype = torch.float32) -> Optimizer:
    p = nn.Parameter(torch.ones(4, 4, dtype=dtype))
    p.grad = torch.ones_like(p)
    return Optimizer([p], 0.1, preconditioner="spectral(symmetric_products=True)")


@pytest.mark.cpu_only("a CPU is what is refused")
def test_a_cpu_is_refused_before_anything_changes() -> None:
    optimizer = optimizer_of()
    with pytest.raises(OptionError, match=r"for CUDA, and the parameters are on 'cpu'. Move .* whole products"):
        optimizer.step()
    (group,) = optimizer.param_groups
    assert not optimizer.state
    assert torch.equal(group["params"][0], torch.ones(4, 4))
    group["preconditioner"] = "spectral"
    optimizer.step()


def test_vectors_and_parts_with_another_preconditioner_need_no_kernel() -> None:
    p = nn.Parameter(torch.ones(4))
    p.grad = torch.ones_like(p)
    Optimizer([p], 0.1, preconditioner="spectral(symmetric_products=True)").step()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_devices_without_triton_are_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetric_products, "takes", lambda device: False)
    symmetric_products._reason.cache_clear()
    expected = "Triton is not installed. Install it" if device == "cuda" else "the parameters are on 'mps'"
    with pytest.raises(OptionError, match=expected):
        symmetric_products.require(torch.device(device), torch.bfloat16)
    symmetric_products._reason.cache_clear()


def test_a_kernel_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")

    def fails(*given: Any) -> None:
        raise RuntimeError("no C compiler\nsecond line")

    monkeypatch.setattr(symmetric_products, "takes", lambda device: True)
    monkeypatch.setattr(symmetric_products, "symmetric_product", fails)
    symmetric_products._reason.cache_clear()
    with pytest.raises(OptionError, match=r"on this device \(no C compiler\)\. Without the option"):
        symmetric_products.require(torch.device("cpu"), torch.bfloat16)
    symmetric_products._reason.cache_clear()


@pytest.mark.cpu_only("counted on the meta device")
def test_a_step_of_gpt2_small_has_fewer_launches_and_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is one launch and takes memory for its result only; here a whole product is in its place."""

    def product(X: Tensor, Y: Tensor | None = None, plus: Any = None, *, out: Any = None, **numbers: float) -> Tensor:
        return torch.bmm(X, (X if Y is None else Y).mT, out=out)

    monkeypatch.setattr(internals, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(spectral, "require_symmetric_products", lambda device, dtype: None)
    monkeypatch.setattr(stacks, "symmetric_product", product)
    counts = []
    for on in (False, True):
        optimizer = create("sabun", parameters(gpt2_small()), symmetric_products=on)
        optimizer.step()
        with Count() as count:
            optimizer.step()
        counts.append(count)
    whole, ours = counts
    assert ours.transient <= whole.transient
    for version, launches in ours.launches.items():
        assert launches < whole.launches[version]


@pytest.mark.parametrize(("rows", "dtype", "share"), [(768, torch.bfloat16, (21, 36)), (768, torch.float32, (78, 144))])
def test_shares_of_gpt2_small(rows: int, dtype: torch.dtype, share: tuple[int, int]) -> None:
    """The numbers of the page on large models."""
    assert symmetric_products.blocks_of(rows, dtype) == share
    side = symmetric_products.launch_of(rows, dtype)["BLOCK"]
    assert share[0] / share[1] == pytest.approx((1 + side / rows) / 2)
