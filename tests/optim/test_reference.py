"""The fast path is the textbook: every scheme × preconditioner × average, over shapes, options and dtypes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_filters import USABLE, correctable
from torch import Tensor

import sabun
from sabun.optim import AVERAGING, PRECONDITIONERS
from sabun.optim.reference import Reference

OPTIONS = {"tail": "tail(start=3)", "ema": "ema(decay=0.8)", "kronecker": "kronecker(refresh_every=4)"}
SHAPES = [(4, 6), (5,), (3, 2, 2), (), (1, 7), (2, 3, 2, 2), (6, 6)]


def both(options, shapes, dtype, steps: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    out = []
    for kind in (sabun.Optimizer, Reference):
        generator = torch.Generator().manual_seed(seed)
        params = [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]
        optimizer = kind(params, 0.01, **options)
        for _ in range(steps):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator, dtype=dtype) + p.detach()
            optimizer.step()
        found = [p.detach().clone() for p in params]
        if isinstance(optimizer, Reference):
            found += [optimizer.averaged(p) for p in params]
        else:
            with optimizer.averaged():
                found += [p.detach().clone() for p in params]
        out.append(found)
    return out[0], out[1]


@pytest.mark.parametrize("averaging", AVERAGING)
@pytest.mark.parametrize("preconditioner", PRECONDITIONERS)
@pytest.mark.parametrize("scheme", USABLE)
def test_every_combination_follows_the_textbook(scheme: str, preconditioner: str, averaging: str) -> None:
    options = {"scheme": scheme, "preconditioner": OPTIONS.get(preconditioner, preconditioner),
               "averaging": OPTIONS.get(averaging, averaging), "weight_decay": 0.1}  # fmt: skip
    fast, slow = both(options, SHAPES, torch.float64, 12, 0)
    # After four gradients of 2 × 12 a refresh turns the directions without a gradient by (machine ε)/δ = 1e-8.
    tolerance = 1e-8 if preconditioner == "kronecker" else 1e-11
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheme=st.sampled_from(USABLE),
    preconditioner=st.sampled_from(["none", "adam", "sign", "spectral"]),
    averaging=st.sampled_from(list(AVERAGING)),
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=4).map(tuple), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    steps=st.integers(1, 9),
    seed=st.integers(0, 2**20),
    decoupled=st.booleans(),
    maximize=st.booleans(),
    start_up=st.sampled_from([None, "rest", "unbiased", "hold"]),
    weight_decay=st.sampled_from([0.0, 0.3]),
    power=st.sampled_from([0.0, 2.0]),
    foreach=st.booleans(),
)
def test_any_shapes_and_options_follow_the_textbook(
    scheme,
    preconditioner,
    averaging,
    shapes,
    dtype,
    steps,
    seed,
    decoupled,
    maximize,
    start_up,
    weight_decay,
    power,
    foreach,
) -> None:
    averaging = {"schedule-free": f"schedule-free(power={power})", "tail": "tail(start=2)"}.get(averaging, averaging)
    options = {"scheme": scheme, "preconditioner": preconditioner, "averaging": averaging, "decoupled": decoupled,
               "maximize": maximize, "start_up": start_up, "weight_decay": weight_decay,
               "foreach": foreach}  # fmt: skip
    assume(start_up != "unbiased" or correctable(scheme))
    fast, slow = both(options, shapes, dtype, steps, seed)
    # Five Newton–Schulz products enlarge a small singular value, and the rounding in it, up to 3.4445⁵ ≈ 485 times.
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype] * (485 if preconditioner == "spectral" else 10)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("foreach", [True, False])
def test_even_rows_follow_the_textbook(foreach: bool) -> None:
    options = {"scheme": "look-ahead(0.9, 2)", "foreach": foreach,
               "preconditioner": "spectral(row_normalization=True, beta2=0.8)"}  # fmt: skip
    shapes = [shape for shape in SHAPES if len(shape) > 1]
    for a, b in zip(*both(options, shapes, torch.float64, 12, 0), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_a_batch_of_one_does_not_count_as_a_dimension_for_the_step_limit() -> None:
    options = {"scheme": "nesterov", "preconditioner": "adam", "step_limit": 0.01}
    for a, b in zip(*both(options, [(1, 3, 64), (1, 1, 5, 7), (1, 64)], torch.float64, 6, 0), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [3, 8])
def test_polar_express_follows_the_textbook(steps: int) -> None:
    options = {"scheme": "nesterov", "preconditioner": f"spectral(iteration='polar-express', steps={steps})"}
    for a, b in zip(*both(options, [(4, 6), (6, 6)], torch.float64, 6, 0), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
