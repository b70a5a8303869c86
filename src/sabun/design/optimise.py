"""Global minimisation of functions of a few variables with kinks, and exact linear systems.

The largest root of a polynomial and a stability interval are continuous but not smooth, and several roots tie at the
optimum, so gradients are of no use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from sabun.errors import MissingExtraError

__all__ = ["Vector", "minimise", "solve"]

Vector = npt.NDArray[np.float64]


def minimise(
    f: Callable[[Vector], float], bounds: Sequence[tuple[float, float]], *, seed: int, generations: int = 200
) -> tuple[Vector, float]:
    """Minimise ``f`` by differential evolution, then by simplex searches from the best point: (x, f(x)).

    Deterministic for a given ``seed``. ``bounds`` limit the first population and the evolution, not the simplex.
    Raises MissingExtraError without SciPy.
    """
    if not bounds:
        nothing = np.zeros(0)
        return nothing, f(nothing)
    try:
        from scipy.optimize import differential_evolution, minimize
    except ModuleNotFoundError as error:
        raise MissingExtraError("the design of schemes needs SciPy.", fix="pip install 'sabun[design]'") from error
    found = differential_evolution(
        f, bounds, seed=seed, maxiter=generations, popsize=12, tol=1e-8, atol=1e-10, polish=False, init="sobol"
    )
    x, value = found.x, float(found.fun)
    for edge in (0.1, 0.01, 0.001, 0.1, 0.01, 0.001):
        simplex = np.vstack([x, x + edge * np.diag(np.maximum(np.abs(x), 0.1))])
        options = {"initial_simplex": simplex, "xatol": 1e-12, "fatol": 1e-12, "maxiter": 400 * len(x)}
        polished = minimize(f, x, method="Nelder-Mead", options=options)
        if polished.fun < value:
            x, value = polished.x, float(polished.fun)
    return x, value


def solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction]:
    """Solve a square linear system in fractions (Gauss–Jordan). Raises ZeroDivisionError if it is singular."""
    rows = [[*row, r] for row, r in zip(matrix, right, strict=True)]
    size = len(rows)
    for i in range(size):
        pivot = next((j for j in range(i, size) if rows[j][i] != 0), i)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        factor = 1 / rows[i][i]
        rows[i] = [c * factor for c in rows[i]]
        for j in range(size):
            if j != i and rows[j][i] != 0:
                weight = rows[j][i]
                rows[j] = [c - weight * d for c, d in zip(rows[j], rows[i], strict=True)]
    return [row[-1] for row in rows]
