"""The scheme as a filter: both realizations against scipy, and no more memory than declared."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch

import sabun
from sabun.errors import OptionError
from sabun.optim.filters import advance, begin, finish, realize
from sabun.optim.scheme_codec import decode, encode
from sabun.optim.terms import accumulate

MULTISTEP = [n for n in sabun.schemes.SCHEMES if isinstance(sabun.schemes.get(n), sabun.schemes.LinearMultistep)]


def usable(name: str) -> bool:
    try:
        sabun.schemes.require_usable(sabun.schemes.get(name))
    except sabun.errors.SchemeError:
        return False
    return True


USABLE = [name for name in MULTISTEP if usable(name)]


def correctable(name: str) -> bool:
    """Whether the response to a constant gradient stays positive, by scipy: else no start-up can be corrected by it."""
    coefficients = sabun.schemes.get(name).to_filter()
    b, a = np.array(coefficients.b, dtype=float), np.array(coefficients.a, dtype=float)
    return bool(scipy.signal.lfilter(b, a, np.ones(200)).min() > 1e-12)


@pytest.mark.parametrize("start_up", ["rest", "hold", "unbiased"])
@pytest.mark.parametrize(
    "name",
    [
        *USABLE,
        "look-ahead(0, 3)",
        "nesterov(0)",
        "look-ahead(0.001, 0.5)",
        "look-ahead(0.9, 9.5)",
        "look-ahead(0.5, 40)",
    ],
)
def test_the_direction_is_that_of_lfilter(name: str, start_up: str) -> None:
    """d = lfilter(b, a, g) over 60 steps; hold starts from lfilter_zi, unbiased divides by the step response."""
    if start_up == "unbiased" and not correctable(name):
        with pytest.raises(OptionError, match="cannot start 'unbiased'") as caught:
            sabun.Optimizer([torch.zeros(2, requires_grad=True)], 0.1, scheme=name, start_up=start_up)
        assert "hold" in caught.value.fix
        return
    scheme = sabun.schemes.get(name)
    coefficients = scheme.to_filter()
    b, a = np.array(coefficients.b, dtype=float), np.array(coefficients.a, dtype=float)
    signal = np.random.default_rng(0).normal(size=(60, 4))
    if start_up == "hold" and max(len(a), len(b)) > 1:
        zi = scipy.signal.lfilter_zi(b, a)[:, None] * signal[0]
        expected, _ = scipy.signal.lfilter(b, a, signal, axis=0, zi=zi)
    else:
        expected = scipy.signal.lfilter(b, a, signal, axis=0)
    if start_up == "unbiased":
        expected = expected / scipy.signal.lfilter(b, a, np.ones(60))[:, None]
    filter_ = realize(scheme, None, start_up)
    assert filter_.buffer_count == scheme.state_copies
    buffers = [[torch.zeros(4, dtype=torch.float64)] for _ in range(filter_.buffer_count)]
    for n, row in enumerate(signal):
        grads = [torch.tensor(row)]
        if n == 0:
            begin(filter_, buffers, grads)
        terms = advance(filter_, buffers, grads)
        direction = accumulate(terms)[0]
        if start_up == "unbiased":
            direction = direction / filter_.mass(n + 1)
        finish(filter_, buffers, grads)
        np.testing.assert_allclose(direction.cpu().numpy(), expected[n], rtol=1e-10, atol=1e-12)


def test_the_look_ahead_plane_runs_in_pole_form_and_nothing_is_copied() -> None:
    for name, weight in [
        ("heavy-ball", 0.0),
        ("nesterov", 0.1),
        ("look-ahead(0.9, 2)", 0.2 / 0.9),
        ("lion", 0.09 / 0.99),
    ]:
        filter_ = realize(sabun.schemes.get(name), None, "rest")
        assert filter_.kind == "pole"
        assert filter_.weights == pytest.approx((weight, 1 - weight))
    buffers, grads = [[torch.zeros(3)]], [torch.ones(3)]
    terms = advance(realize(sabun.nesterov(), None, "rest"), buffers, grads)
    assert terms[0][1] is grads
    assert terms[1][1] is buffers[0]
    assert realize(sabun.schemes.get("adams-bashforth-2"), None, "hold").kind == "direct"
    assert realize(sabun.look_ahead(0.5, 40), None, "rest").kind == "lagged"  # its weight would lose digits


def test_buffers_change_places_instead_of_being_copied() -> None:
    filter_ = realize(sabun.schemes.get("taylor-4"), None, "hold")
    buffers, grads = [[torch.zeros(3)], [torch.zeros(3)]], [torch.ones(3)]
    first, second = buffers[0][0], buffers[1][0]
    advance(filter_, buffers, grads)
    assert finish(filter_, buffers, grads)
    assert buffers[0][0] is second
    assert buffers[1][0] is first


@pytest.mark.parametrize("name", USABLE)
def test_a_scheme_survives_being_written_down(name: str) -> None:
    scheme = sabun.schemes.get(name)
    assert decode(encode(scheme)) == scheme


@pytest.mark.parametrize("name", [n for n in MULTISTEP if n not in USABLE])
def test_a_scheme_that_cannot_train_is_refused(name: str) -> None:
    with pytest.raises(sabun.errors.SchemeError) as caught:
        sabun.Optimizer([torch.zeros(2, requires_grad=True)], 0.1, scheme=name)
    assert caught.value.fix
