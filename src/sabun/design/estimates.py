"""Floating-point versions of the analysis, fast enough for a search.

The functions take α_0 = 1 … α_k and β_0 … β_m as arrays, newest first. The tests compare them with the exact functions
of :mod:`sabun.schemes.analysis`, which verify the results of a search.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sabun.design.optimise import Vector
from sabun.schemes import analysis
from sabun.schemes import polynomials as poly
from sabun.schemes.linear_multistep import LinearMultistep

__all__ = ["damped_interval", "interval", "largest_root", "noise", "slowest", "slowest_root"]


def largest_root(alpha: Vector) -> float:
    """Largest modulus among the roots of ρ(z)/(z − 1)."""
    reduced = np.cumsum(alpha)[:-1]
    return float(np.abs(np.roots(reduced)).max(initial=0.0)) if np.all(np.isfinite(reduced)) else np.inf


@lru_cache
def _basis(size: int) -> tuple[Vector, Vector]:
    """Rows: U_0 … U_{size−1} and T_0 … T_size in powers of y, lowest first."""

    def table(polynomials: list[poly.Polynomial], width: int) -> Vector:
        return np.array([[float(c) for c in reversed(p)] + [0.0] * (width - len(p)) for p in polynomials])

    return (
        table([poly.chebyshev_u(d) for d in range(size)], size),
        table([poly.chebyshev_t(d) for d in range(size + 1)], size + 1),
    )


def _polynomials(alpha: Vector, beta: Vector) -> tuple[Vector, Vector]:
    size = max(len(alpha) - 1, len(beta))
    r, s = np.zeros(size + 1), np.zeros(size + 1)
    r[: len(alpha)] = alpha
    s[1 : 1 + len(beta)] = beta
    return r, s


def interval(alpha: Vector, beta: Vector) -> float:
    """The stability interval: :func:`sabun.schemes.analysis.stability_interval` to about eight digits."""
    r, s = _polynomials(alpha, beta)
    k = len(r) - 1
    odd_basis, even_basis = _basis(k)
    lags = np.convolve(r, s[::-1])
    ahead, behind = lags[k - 1 :: -1], lags[k + 1 :]
    imaginary = (ahead - behind) @ odd_basis
    real = np.concatenate([[lags[k]], ahead + behind]) @ even_basis
    own = np.convolve(s, s[::-1])
    modulus = np.concatenate([[own[k]], 2 * own[k + 1 :]]) @ even_basis
    y = np.roots(imaginary[::-1])
    y = np.append(y.real[(np.abs(y.imag) < 1e-9) & (np.abs(y.real) < 1)], -1.0)
    below = np.polyval(modulus[::-1], y)
    x = np.divide(-np.polyval(real[::-1], y), below, out=np.zeros_like(y), where=below > 1e-13)
    stable = 0.0
    for candidate in np.sort(x[x > 1e-12]):
        if np.abs(np.roots(r + (stable + candidate) / 2 * s)).max() >= 1:
            break
        stable = float(candidate)
    return stable


def damped_interval(alpha: Vector, beta: Vector, damping: float) -> float:
    """The stability interval X, with a penalty if a root has modulus above 1 − ``damping`` on [0.15 X, 0.9 X].

    Without it, the longest interval is one in which a pair of roots touches the circle halfway. Near 0 and X a root is
    near the circle in any case.
    """
    reach = interval(alpha, beta)
    if reach == 0 or damping == 0:
        return reach
    # A small margin keeps the bound after rounding.
    return reach * max(1 - 50 * max(slowest(alpha, beta, reach) - (1 - damping) + 2e-5, 0.0), 0.0)


def slowest_root(scheme: LinearMultistep) -> float:
    """The largest |ζ| on [0.15 X, 0.9 X] of a scheme's interval X, on a fine grid."""
    return float(analysis.amplification(scheme, scheme.stability_interval * np.linspace(0.15, 0.9, 301)).max())


def slowest(alpha: Vector, beta: Vector, reach: float) -> float:
    """The largest |ζ| on [0.15, 0.9] · ``reach``."""
    r, s = _polynomials(alpha, beta)
    x = reach * np.linspace(0.15, 0.9, 31)
    size = len(r) - 1
    companion = np.zeros((len(x), size, size))
    companion[:, np.arange(1, size), np.arange(size - 1)] = 1
    companion[:, 0, :] = -(r[1:] + x[:, None] * s[1:])
    return float(np.abs(np.linalg.eigvals(companion)).max())


def noise(alpha: Vector, beta: Vector, x: float) -> float:
    """The noise gain at x = hλ: :func:`sabun.schemes.analysis.noise_gain`."""
    a, b = _polynomials(alpha, beta)
    a = a + x * b
    total, first = 0.0, a[0]
    while len(a):
        total += b[-1] ** 2 / a[0]
        ratio, weight = a[-1] / a[0], b[-1] / a[0]
        if len(a) > 1 and abs(ratio) >= 1:
            return np.inf
        a, b = a[:-1] - ratio * a[:0:-1], b[:-1] - weight * a[:0:-1]
    return float(total / first * max(2 * x - x * x, 0.0))
