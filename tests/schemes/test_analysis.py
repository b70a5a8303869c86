"""The analysis against closed forms, and against SciPy, SymPy, nodepy and plain linear algebra."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import sympy
from hypothesis import given
from hypothesis import strategies as st

from sabun import schemes
from sabun.errors import SchemeError
from sabun.schemes import LinearMultistep, analysis


def companion(scheme: LinearMultistep, x: float) -> np.ndarray:
    """The matrix that takes (θ_n, …) to (θ_{n+1}, …) on θ′ = −λθ: an independent road to the roots."""
    size = max(len(scheme.alpha) - 1, len(scheme.beta))
    row = np.zeros(size)
    row[: len(scheme.alpha) - 1] -= [float(a) for a in scheme.alpha[1:]]
    row[: len(scheme.beta)] -= [x * float(b) for b in scheme.beta]
    matrix = np.eye(size, k=-1)
    matrix[0] = row
    return matrix


def radius(scheme: LinearMultistep, x: float) -> float:
    return float(np.abs(np.linalg.eigvals(companion(scheme, x))).max())


# ---------------------------------------------------------------- the look-ahead plane, symbolically


class TestPlane:
    b, g, x, z = sympy.symbols("beta gamma x z", real=True)
    alpha = (1, -(1 + b), b)
    weights = ((1 - b) * (1 + g), -(1 - b) * g)

    def constant(self, q: int) -> sympy.Expr:
        """C_q of Hairer–Nørsett–Wanner III.2, typed again."""
        left = sum(a * sympy.Integer(-j) ** q for j, a in enumerate(self.alpha))
        right = sum(w * sympy.Integer(-j - 1) ** (q - 1) for j, w in enumerate(self.weights))
        return sympy.expand(left / sympy.factorial(q) - right / sympy.factorial(q - 1))

    def test_order_one_everywhere(self) -> None:
        assert sympy.simplify(sum(self.alpha)) == 0
        assert sympy.simplify(self.constant(1)) == 0

    def test_error_constant(self) -> None:
        ratio = self.constant(2) / sum(self.weights)
        closed = sympy.Rational(1, 2) + self.b / (1 - self.b) - self.g
        assert sympy.simplify(ratio - closed) == 0
        (optimum,) = sympy.solve(closed, self.g)
        assert sympy.simplify(optimum - (1 + self.b) / (2 * (1 - self.b))) == 0

    def test_interval(self) -> None:
        """Jury's conditions for z² + (xb₀ − 1 − β)z + (β + xb₁): p(−1) = 0 is the edge, and |β + xb₁| < 1 there."""
        p = self.z**2 + (self.x * self.weights[0] - 1 - self.b) * self.z + self.b + self.x * self.weights[1]
        (edge,) = sympy.solve(p.subs(self.z, -1), self.x)
        closed = 2 * (1 + self.b) / ((1 - self.b) * (1 + 2 * self.g))
        assert sympy.simplify(edge - closed) == 0
        product = sympy.simplify((self.b + self.x * self.weights[1]).subs(self.x, closed))
        beta, gamma = sympy.symbols("B G", positive=True)
        inside = sympy.simplify(1 - product.subs({self.b: beta / (1 + beta), self.g: gamma}) ** 2)
        assert sympy.factor(inside).is_positive

    @given(st.integers(0, 98), st.fractions(0, 50, max_denominator=20))
    def test_exact_everywhere(self, percent: int, gamma: Fraction) -> None:
        beta = Fraction(percent, 100)
        scheme = schemes.look_ahead(beta, gamma)
        constant = Fraction(1, 2) + beta / (1 - beta) - gamma
        if constant:
            assert scheme.order == 1
            assert scheme.error_constant == constant
        else:
            assert scheme.order >= 2
        assert scheme.stability_interval == float(2 * (1 + beta) / ((1 - beta) * (1 + 2 * gamma)))

    @given(st.integers(1, 98), st.fractions(0, 1, max_denominator=30))
    def test_below_zero_a_pair_leaves_first(self, percent: int, share: Fraction) -> None:
        beta = Fraction(percent, 100)
        gamma = -(1 - beta) / 4 - share * (Fraction(1, 2) - (1 - beta) / 4) * Fraction(9, 10)
        scheme = schemes.look_ahead(beta, gamma)
        assert scheme.stability_interval == pytest.approx(float(-1 / gamma), rel=1e-13)

    def test_named_points(self) -> None:
        assert schemes.heavy_ball(0.9).beta == schemes.look_ahead(0.9, 0).beta
        assert schemes.nesterov(0.9).beta == schemes.look_ahead(0.9, 0.9).beta
        assert schemes.order_two(0.9).beta == schemes.look_ahead(0.9, 9.5).beta
        assert schemes.order_two(Fraction(3, 10)).order == 2
        assert schemes.quasi_hyperbolic(0.7, 0.9).beta == schemes.look_ahead(0.9, 2.7).beta
        assert schemes.lion(0.9, 0.99).beta == schemes.look_ahead(0.99, 9).beta
        assert schemes.get("adams-bashforth-2").beta == schemes.look_ahead(0, 0.5).beta
        assert schemes.look_ahead(0, 0.5).alpha == (1, -1)

    def test_some_points_are_other_schemes_in_disguise(self) -> None:
        euler = schemes.get("euler")
        assert analysis.equivalent(schemes.look_ahead(0.9, 9), euler)
        assert analysis.equivalent(schemes.quasi_hyperbolic(0, 0.9), euler)
        assert analysis.equivalent(schemes.heavy_ball(0), euler)
        assert not analysis.equivalent(schemes.look_ahead(0.9, 8), euler)
        # The cancelled mode decays, so stability is Euler's.
        assert schemes.look_ahead(0.9, 9).stability_interval == 2


# ---------------------------------------------------------------- stability


def test_the_interval_is_where_a_root_leaves(usable: LinearMultistep) -> None:
    """On a fine grid all roots are inside before the edge, and just beyond it one is outside."""
    edge = usable.stability_interval
    inside = analysis.amplification(usable, np.linspace(0, edge, 4001)[1:-1])
    assert inside.max() < 1
    assert radius(usable, edge * (1 - 1e-9)) < 1
    assert radius(usable, edge * (1 + 1e-9)) > 1


def test_unusable_schemes_are_unstable_at_once(multistep: LinearMultistep) -> None:
    if not multistep.is_usable:
        assert multistep.stability_interval == 0
        assert radius(multistep, 1e-3) > 1


def test_amplification_is_the_spectral_radius(multistep: LinearMultistep) -> None:
    for x in (0.0, 0.01, 0.3, 2.5):
        assert analysis.amplification(multistep, [x])[0] == pytest.approx(radius(multistep, x), rel=1e-7)


def test_characteristic_roots(multistep: LinearMultistep) -> None:
    for x in (0.01, 0.5):
        roots = np.array(analysis.characteristic_roots(multistep, x))
        again = np.poly(roots)
        assert again == pytest.approx(np.poly(companion(multistep, x))[: len(again)], abs=1e-9)


def test_a_complex_pair_can_bind() -> None:
    scheme = schemes.get("adams-bashforth-5")
    assert not any(abs(z + 1) < 1e-6 for z in analysis.characteristic_roots(scheme, 0.16333))
    # lowest pair on the circle, by bisection on the spectral radius
    low, high = 0.1, 0.3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if radius(scheme, middle) < 1 else (low, middle)
    assert scheme.stability_interval == pytest.approx(low, rel=1e-9)


def test_a_root_shared_by_both_polynomials_stays_where_it_is() -> None:
    """Euler times (z − 1/2) is Euler; times (z + 1) it keeps a mode that never decays, and is refused."""
    doubled = LinearMultistep("doubled", (1, Fraction(-3, 2), Fraction(1, 2)), (1, Fraction(-1, 2)))
    assert analysis.equivalent(doubled, schemes.get("euler"))
    assert doubled.stability_interval == 2
    weak = LinearMultistep("weak", (1, 0, -1), (1, 1))
    assert weak.is_zero_stable
    assert not weak.is_usable
    bad = LinearMultistep("bad", (1, 1, -2), (1, 2))
    assert not bad.is_zero_stable
    assert bad.stability_interval == 0


def test_multiple_roots_on_the_circle_break_the_root_condition() -> None:
    # ρ = (z − 1)(z + 1)²
    double = LinearMultistep("double", (1, 1, -1, -1), (4,))
    assert not double.is_zero_stable
    assert [abs(z) for z in double.parasitic_roots] == pytest.approx([1, 1], abs=1e-15)
    with pytest.raises(SchemeError, match="multiple"):
        schemes.require_usable(double)


def test_boundary_locus_lies_on_the_boundary(usable: LinearMultistep) -> None:
    locus = analysis.boundary_locus(usable, 101)
    locus = locus[np.isfinite(locus)]
    r = np.array([float(c) for c in analysis.rho(usable)])
    s = np.array([float(c) for c in analysis.sigma(usable)])
    for x in locus[::10]:
        polynomial = r.astype(complex)
        polynomial[len(r) - len(s) :] += x * s
        assert np.abs(np.abs(np.roots(polynomial)) - 1).min() < 1e-6


def test_dissipation() -> None:
    euler = schemes.get("euler")
    assert analysis.dissipation(euler, 0.1) == pytest.approx(-math.log(0.9) / 0.1, rel=1e-14)
    assert analysis.dissipation(euler, 1) == math.inf
    assert analysis.dissipation(euler, 2.5) < 0
    for name in ("taylor-4", "wide-2-5", "nesterov(0.9)"):
        # every consistent scheme damps as the flow does for small steps
        assert analysis.dissipation(schemes.get(name), 1e-5) == pytest.approx(1, abs=2e-4)


# ---------------------------------------------------------------- noise


def lyapunov(scheme: LinearMultistep, x: float) -> float:
    """Var θ / h² from the discrete Lyapunov equation of the joint state of θ and noise, by SciPy."""
    alpha, beta = [float(a) for a in scheme.alpha], [float(b) for b in scheme.beta]
    m, n = len(beta) - 1, max(len(alpha) - 1, len(beta))
    size = n + m
    A = np.zeros((size, size))
    A[:n, :n] = companion(scheme, x)
    A[0, n:] = beta[1:]
    A[n + 1 :, n : size - 1] += np.eye(max(m - 1, 0))
    B = np.zeros((size, 1))
    B[0] = beta[0]
    if m:
        B[n] = 1
    return float(scipy.linalg.solve_discrete_lyapunov(A, B @ B.T, method="bilinear" if size > 9 else "direct")[0, 0])


@pytest.mark.parametrize("x", [0.001, 0.05, 0.7])
def test_noise_gain_solves_the_lyapunov_equation(usable: LinearMultistep, x: float) -> None:
    if x >= usable.stability_interval:
        assert usable.noise_gain(x) == math.inf
        assert analysis.stationary_variance(usable, x) == math.inf
        return
    expected = lyapunov(usable, x)
    # SciPy's solver is in floating point, and loses digits where a pole is near the circle.
    tolerance = 1e-9 + 1e-14 / (1 - radius(usable, x)) ** 3
    assert tolerance < 1e-3
    assert analysis.stationary_variance(usable, x) == pytest.approx(expected, rel=tolerance)
    assert usable.noise_gain(x) == pytest.approx(expected * (2 * x - x * x), rel=tolerance)


def test_noise_gain_is_the_energy_of_the_impulse_response() -> None:
    scheme, x = schemes.get("nesterov(0.9)"), 0.05
    alpha, beta = np.array(scheme.alpha, dtype=float), np.array(scheme.beta, dtype=float)
    loop = alpha.copy()
    loop[1:] += x * beta
    impulse = np.zeros(4000)
    impulse[0] = 1
    response = scipy.signal.lfilter(beta, loop, impulse)
    assert scheme.noise_gain(x) == pytest.approx((2 * x - x * x) * float(response @ response), rel=1e-12)


def test_noise_gain_beyond_euler() -> None:
    scheme = schemes.heavy_ball(0.9)
    assert scheme.noise_gain(10) == 0
    assert scheme.noise_gain(38.1) == math.inf
    assert schemes.get("euler").noise_gain(1.9) == pytest.approx(1, rel=1e-14)


def test_noise_gain_tends_to_one(usable: LinearMultistep) -> None:
    memory = 1 / (1 - abs(next(iter(usable.parasitic_roots), 0)))
    assert usable.noise_gain(1e-6 / memory**2) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("x", [0, -1, math.nan, math.inf])
def test_noise_gain_needs_a_positive_step(x: float) -> None:
    for name in ("euler", "rk4"):
        with pytest.raises(SchemeError, match="hλ"):
            schemes.get(name).noise_gain(x)


# ---------------------------------------------------------------- nodepy


def nodepy_scheme(scheme: LinearMultistep) -> object:
    from nodepy.linear_multistep_method import LinearMultistepMethod

    size = max(len(scheme.alpha) - 1, len(scheme.beta))
    alpha = [*scheme.alpha, *[0] * (size + 1 - len(scheme.alpha))]
    beta = [0, *scheme.beta, *[0] * (size - len(scheme.beta))]

    def oldest_first(values: list[Fraction | int]) -> np.ndarray:
        return np.array([sympy.Rational(Fraction(v).numerator, Fraction(v).denominator) for v in reversed(values)])

    return LinearMultistepMethod(oldest_first(alpha), oldest_first(beta))


def test_nodepy_agrees_on_order_and_zero_stability(multistep: LinearMultistep) -> None:
    other = nodepy_scheme(multistep)
    assert other.order() == multistep.order
    if multistep.name != "quasi-hyperbolic(0.7, 0.999)":
        # nodepy calls a root on the circle when it is within 1e-5 of it, and this one is.
        assert bool(other.is_zero_stable()) == multistep.is_zero_stable


def test_nodepy_does_not_test_the_first_condition() -> None:
    """Its known gap: a scheme whose alphas do not sum to 0 gets an order all the same. Here it cannot even be made."""
    from nodepy.linear_multistep_method import LinearMultistepMethod

    assert LinearMultistepMethod(np.array([-2, 1]), np.array([1, 0])).order() == 1
    with pytest.raises(SchemeError, match="sum to -1, not 0"):
        LinearMultistep("moves on its own", (1, -2), (1,))
