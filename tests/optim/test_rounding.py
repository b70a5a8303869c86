"""16-bit parameters: state in float32, and rounding that is right on average."""

from __future__ import annotations

import copy

import pytest
import torch

import sabun
from sabun.errors import OptionError
from sabun.optim.stochastic_rounding import round_to_dtype


def test_rounding_at_random_is_right_on_average_and_only_ever_to_a_neighbour() -> None:
    values = torch.tensor([1.0 + 1 / 1024, -3.0 - 1 / 64, 1e-3, 0.0, 1e38, -1e-40])
    low = values.bfloat16()
    total = torch.zeros(len(values), dtype=torch.float64)
    seen: list[set[float]] = [set() for _ in values]
    draws = 4000
    for step in range(draws):
        out = torch.zeros_like(low)
        round_to_dtype([out], [values], at_random=True, step=step, places=[0])
        total += out.double()
        for place, value in zip(seen, out.tolist(), strict=True):
            place.add(value)
    spacing = 2.0 ** (values.abs().clamp(min=1e-37).log2().floor() - 7)
    # Standard error of the mean of a two-point variable is at most spacing/2/√draws; five of them.
    assert bool(((total / draws - values.double()).abs() <= 2.5 * spacing.double() / draws**0.5).all())
    assert all(len(place) <= 2 for place in seen)


def test_infinities_and_nans_are_handed_through() -> None:
    wide = torch.tensor([torch.inf, -torch.inf, torch.nan])
    out = torch.zeros(3, dtype=torch.bfloat16)
    round_to_dtype([out], [wide], at_random=True, step=1, places=[0])
    assert out[0] == torch.inf
    assert out[1] == -torch.inf
    assert out[2].isnan()


def test_parameters_of_different_groups_are_rounded_independently() -> None:
    same = [torch.ones(512, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    groups = [{"params": same[:1]}, {"params": same[1:]}]
    optimizer = sabun.Optimizer(groups, 2**-10, stochastic_rounding=True)
    for _ in range(3):
        for p in same:
            p.grad = torch.ones_like(p)
        optimizer.step()
    a, b, c = (p.detach() for p in same)
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(b, c)


def drift(**options) -> float:
    """A thousand steps of a thousandth of the spacing at 1: what is left of the way they should have gone, 0.0078."""
    p = torch.ones(4096, dtype=torch.bfloat16, requires_grad=True)
    optimizer = sabun.Optimizer([p], 2**-7 / 1000, **options)
    for _ in range(1000):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return float((1 - p.detach().float()).mean()) / 2**-7


def test_small_updates_survive_stochastic_rounding_only() -> None:
    assert drift() == 0
    assert drift(state_dtype="float32") == 0
    assert drift(stochastic_rounding=True) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("preconditioner", [None, "adam", "sign", "spectral", "kronecker(refresh_every=3)"])
@pytest.mark.parametrize("options", [{}, {"state_dtype": "float32"}, {"stochastic_rounding": True}], ids=str)
def test_bfloat16_trains_and_resumes_to_the_bit(preconditioner, options) -> None:
    def setup():
        p = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
        return p, sabun.Optimizer(
            [p], 0.01, scheme="nesterov", preconditioner=preconditioner, averaging="ema", **options
        )

    def go(p, optimizer, steps) -> None:
        for _ in range(steps):
            p.grad = p.detach() - 1
            optimizer.step()

    p, optimizer = setup()
    start = float((p.detach().float() - 1).square().mean())
    go(p, optimizer, 20)
    q, resumed = setup()
    with torch.no_grad():
        q.copy_(p)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    wanted = torch.float32 if options else torch.bfloat16
    for held in (optimizer.state[p], resumed.state[q]):
        assert held["velocity_0"].dtype == wanted
        assert {t.dtype for k, t in held.items() if k not in ("step", "velocity_0")} == {torch.float32}
    go(p, optimizer, 20)
    go(q, resumed, 20)
    assert p.dtype == torch.bfloat16
    assert torch.equal(p, q)
    assert float((p.detach().float() - 1).square().mean()) < start


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, "float32"])
@pytest.mark.parametrize("scheme", ["look-ahead(0.9, 2)", "taylor-4"])
@pytest.mark.parametrize("averaging", [None, "ema", "schedule-free"])
def test_arithmetic_is_in_float32_and_what_is_stored_is_rounded_once(scheme, averaging, state_dtype, dtype) -> None:
    """Parameter and state are the roundings of what float32 would have given, step by step."""
    p = torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    wide = p.detach().float().requires_grad_()
    options = {"scheme": scheme, "preconditioner": "adam", "averaging": averaging, "weight_decay": 0.1}
    a, b = sabun.Optimizer([p], 0.1, state_dtype=state_dtype, **options), sabun.Optimizer([wide], 0.1, **options)
    for n in range(5):
        g = torch.randn(50, generator=torch.Generator().manual_seed(n)).to(dtype)
        p.grad, wide.grad = g, g.float()
        a.step()
        b.step()
        held, exact = ({"p": q.detach(), **optimizer.state[q]} for q, optimizer in ((p, a), (wide, b)))
        assert held.keys() == exact.keys()
        for name, value in held.items():
            assert torch.equal(value, exact[name].to(value.dtype)), name
            exact[name].copy_(value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_second_moments_and_averages_decay_whatever_the_parameters_are(dtype: torch.dtype) -> None:
    """After a large gradient and 700 of zero: β₂ⁿ of its square is left, and of its step in the average the rest."""
    p = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    optimizer = sabun.Optimizer([p], 0.5, preconditioner="adam(beta2=0.999)", averaging="ema(decay=0.999)")
    for n in range(701):
        p.grad = torch.full_like(p, 1.0 if n == 0 else 0.0)
        optimizer.step()
        if n == 0:
            optimizer.state[p]["average"].zero_()
    held = optimizer.state[p]
    torch.testing.assert_close(held["second_moment"], torch.full((3, 4), 0.001 * 0.999**700), rtol=1e-4, atol=0)
    torch.testing.assert_close(held["average"], torch.full((3, 4), -0.5 * (1 - 0.999**700)), rtol=1e-4, atol=0)


def test_float16_cannot_be_rounded_at_random() -> None:
    p = torch.ones(3, dtype=torch.float16, requires_grad=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(OptionError, match="bfloat16"):
        sabun.Optimizer([p], 0.1, stochastic_rounding=True).step()
