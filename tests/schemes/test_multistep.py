"""A scheme as data: what is accepted, what is refused and how, and its other forms."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import scipy.signal
from hypothesis import assume, given
from hypothesis import strategies as st

from sabun import schemes
from sabun.errors import SchemeError
from sabun.schemes import LinearMultistep, analysis

NAN, INF = math.nan, math.inf


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("alpha", "beta", "cause"),
    [
        ((), (1,), "alpha is empty"),
        ((1, -1), (), "beta is empty"),
        ((1,), (1,), "at least two"),
        ((0, 1, -1), (1,), "alpha[0] is 0"),
        ((1, -2), (1,), "sum to -1, not 0"),
        ((1, -1), (2,), "Σβ = 2"),
        ((1, -2, 1), (1, -1), "double root"),
        ((1, -1), (NAN,), "finite"),
        ((1, -INF), (1,), "finite"),
        ((1, "x"), (1,), "finite number"),
        ((1, None), (1,), "finite number"),
        ((1, True), (1,), "finite number"),
        ("1 -1", (1,), "sequence"),
        (7, (1,), "sequence"),
        ((1, -1), (0,), "Σβ = 0"),
        ((1, 1j), (1,), "finite number"),
    ],
)
def test_malformed_coefficients(alpha: object, beta: object, cause: str) -> None:
    with pytest.raises(SchemeError) as caught:
        LinearMultistep("broken", alpha, beta)
    assert cause in caught.value.cause
    assert "'broken'" in caught.value.cause
    assert caught.value.fix


@pytest.mark.parametrize("name", ["", "  ", None])
def test_a_scheme_needs_a_name(name: object) -> None:
    with pytest.raises(SchemeError, match="needs a name"):
        LinearMultistep(name, (1, -1), (1,))


def test_a_misspelt_start_up() -> None:
    with pytest.raises(SchemeError, match="Did you mean 'hold'"):
        schemes.get("euler").with_start_up("holt")


def test_the_fix_for_a_wrong_scale_of_beta_works() -> None:
    with pytest.raises(SchemeError) as caught:
        LinearMultistep("scaled", (1, -1), (3, -1))
    assert "1/2" in caught.value.fix
    assert LinearMultistep("scaled", (1, -1), (Fraction(3, 2), Fraction(-1, 2))).order == 2


# ---------------------------------------------------------------- what is accepted


def test_floats_mean_what_they_print() -> None:
    assert schemes.heavy_ball(0.9).alpha == (1, Fraction(-19, 10), Fraction(9, 10))
    assert schemes.heavy_ball(np.float32(0.5)).alpha[2] == Fraction(1, 2)
    assert schemes.heavy_ball(np.float64(0.9)) == schemes.heavy_ball(0.9)


def test_scaling_and_trailing_zeros_do_not_matter() -> None:
    scheme = LinearMultistep("ab2", (2, -2, 0), (3, -1, 0, 0))
    assert (scheme.alpha, scheme.beta) == ((1, -1), (Fraction(3, 2), Fraction(-1, 2)))


@st.composite
def valid(draw: st.DrawFn) -> LinearMultistep:
    """Any consistent scheme, stable or not."""
    inner = draw(st.lists(st.fractions(-3, 3, max_denominator=24), min_size=0, max_size=5))
    alpha = [Fraction(1), *inner]
    alpha.append(-sum(alpha, Fraction(0)))
    slope = sum((sum(alpha[: j + 1], Fraction(0)) for j in range(len(alpha))), Fraction(0))
    assume(slope != 0)
    beta = draw(st.lists(st.fractions(-3, 3, max_denominator=24), min_size=0, max_size=5))
    beta.append(slope - sum(beta, Fraction(0)))
    return LinearMultistep("random", tuple(alpha), tuple(beta))


@given(valid())
def test_the_analysis_never_crashes(scheme: LinearMultistep) -> None:
    assert scheme.order >= 1
    assert scheme.error_constant != 0
    edge = scheme.stability_interval
    assert math.isfinite(edge)
    assert edge >= 0
    if scheme.is_strongly_stable:
        assert scheme.is_zero_stable
        assert edge > 0
        assert scheme.noise_gain(edge * 0.5) >= 0
        schemes.require_usable(scheme)
    else:
        with pytest.raises(SchemeError) as caught:
            schemes.require_usable(scheme)
        assert caught.value.fix
    certificate = schemes.certify(scheme)
    for lang in ("en", "ja"):
        assert certificate.table(lang)
        assert certificate.sentence(lang, lr=0.1)
    assert certificate.to_dict()["order"] == scheme.order


@given(valid())
def test_the_interval_of_any_scheme(scheme: LinearMultistep) -> None:
    """Against eigenvalues: stable at every point before the edge, and unstable somewhere just beyond it."""
    edge = scheme.stability_interval
    if edge == 0:
        if scheme.is_zero_stable:
            return  # a root on the circle at 0: which way it goes, eigenvalues cannot tell
        assert analysis.amplification(scheme, [1e-6])[0] > 1 - 1e-3
        return
    inside = analysis.amplification(scheme, np.linspace(0, edge, 400)[1:-1])
    assert inside.max() < 1 + 1e-6
    assert analysis.amplification(scheme, edge * (1 + np.array([1e-4, 1e-3, 1e-2]))).max() > 1 - 1e-9


@given(valid())
def test_zero_stability_of_any_scheme(scheme: LinearMultistep) -> None:
    moduli = [abs(z) for z in scheme.parasitic_roots]
    if all(m < 1 - 1e-9 for m in moduli):
        assert scheme.is_strongly_stable
    if any(m > 1 + 1e-9 for m in moduli):
        assert not scheme.is_zero_stable


# ---------------------------------------------------------------- as a filter


def test_the_filter_is_that_of_scipy(multistep: LinearMultistep) -> None:
    """θ from the definition of the scheme at rest equals θ from v = −lfilter(b, a, g)."""
    f = multistep.to_filter()
    assert f.a[0] == 1
    assert sum(f.b) == sum(f.a)
    b, a = [float(c) for c in f.b], [float(c) for c in f.a]
    g = np.random.default_rng(0).standard_normal(25)
    velocity = -scipy.signal.lfilter(b, a, g)
    theta = [0.0] * (len(multistep.alpha) + len(multistep.beta))
    past = np.concatenate([np.zeros(len(multistep.beta)), g])
    for n in range(len(g)):
        now = -sum(float(c) * theta[-j] for j, c in enumerate(multistep.alpha) if j)
        now -= sum(float(c) * past[n + len(multistep.beta) - j] for j, c in enumerate(multistep.beta))
        theta.append(now)
    moved = np.cumsum(velocity)
    assert np.array(theta[-25:]) == pytest.approx(moved, rel=1e-11, abs=1e-13 * np.abs(moved).max())


def test_the_steady_state_is_that_of_scipy(usable: LinearMultistep) -> None:
    f = usable.to_filter()
    size = f.buffers
    b, a = (np.array([float(c) for c in v] + [0.0] * (size + 1 - len(v))) for v in (f.b, f.a))
    assert usable.state_copies == max(size, int("beta" in usable.parameters))
    if size:
        mine = np.array([float(z) for z in f.steady_state()])
        assert mine == pytest.approx(scipy.signal.lfilter_zi(b, a), rel=1e-10, abs=1e-13)
        held, _ = scipy.signal.lfilter(b, a, np.ones(50), zi=mine)
        assert held == pytest.approx(np.ones(50), abs=1e-13)
    else:
        assert f.steady_state() == ()


def test_state_space(multistep: LinearMultistep) -> None:
    s = multistep.to_state_space()
    f = multistep.to_filter()
    g = np.random.default_rng(1).standard_normal(20)
    expected = scipy.signal.lfilter([float(c) for c in f.b], [float(c) for c in f.a], g)
    state = np.zeros((f.buffers, 1))
    out = []
    for value in g:
        out.append((s.C @ state).item() + s.D * value if state.size else s.D * value)
        state = s.A @ state + s.B * value
    assert np.array(out) == pytest.approx(expected, rel=1e-11, abs=1e-13 * np.abs(expected).max())


# ---------------------------------------------------------------- as a value


def test_equal_hashable_and_copied(scheme: schemes.Scheme) -> None:
    for again in (
        copy.copy(scheme),
        copy.deepcopy(scheme),
        pickle.loads(pickle.dumps(scheme)),
        schemes.get(scheme.name),
    ):
        assert again == scheme
        assert hash(again) == hash(scheme)
        assert again.parameters == scheme.parameters
        assert again.source == scheme.source
        assert again.stability_interval == scheme.stability_interval


def test_parameters_are_read_only() -> None:
    with pytest.raises(TypeError):
        schemes.nesterov(0.9).parameters["beta"] = 0.5


def test_parameters_change_within_the_family() -> None:
    scheme = schemes.get(schemes.nesterov(0.9).with_start_up("unbiased"), beta=0.95)
    assert scheme == schemes.nesterov(0.95).with_start_up("unbiased")
    assert scheme.parameters == {"beta": 0.95}
    order_two = schemes.get(schemes.order_two(0.9), beta=Fraction(1, 3))
    assert order_two.order == 2
    assert order_two.name == "order-two(1/3)"
    assert schemes.get(schemes.look_ahead(0.9, Fraction(1, 3)), beta=0.8) == schemes.look_ahead(0.8, Fraction(1, 3))
    with pytest.raises(SchemeError, match="no parameters"):
        schemes.get(schemes.get("euler"), beta=0.9)
    with pytest.raises(SchemeError, match="no parameters"):
        schemes.get(LinearMultistep("mine", (1, -1), (1,)), beta=0.9)


@pytest.mark.parametrize(
    ("name", "says", "instead"),
    [
        ("lagrange-4", "2.686", "taylor-4"),
        ("lagrange-5", "4.703", "difference-5"),
        ("leap-frog", "−1", "adams-bashforth-2"),
    ],
)
def test_refusal_names_the_root_and_a_way_out(name: str, says: str, instead: str) -> None:
    with pytest.raises(SchemeError) as caught:
        schemes.require_usable(schemes.get(name))
    assert says in caught.value.cause
    assert instead in caught.value.fix
    schemes.require_usable(schemes.get(instead))


def test_refusal_of_a_scheme_of_ones_own() -> None:
    mine = LinearMultistep("mine", (1, Fraction(1, 2), Fraction(-3, 2)), (Fraction(5, 2),))
    with pytest.raises(SchemeError) as caught:
        schemes.require_usable(mine)
    assert "−1.5" in caught.value.cause
    schemes.require_usable(schemes.get(caught.value.fix.split("'")[1]))
