"""A small optimiser for functions of a few variables that have kinks: Nelder and Mead's simplex, from several starts.

The largest root of a polynomial and a stability interval are continuous but not smooth, and best where several roots
tie, so derivatives are of no use. Everything is deterministic: the starts come from a seeded generator. Source: Nelder
& Mead 1965; restarts from the best point undo a simplex that has collapsed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["Vector", "minimise"]

Vector = npt.NDArray[np.float64]


def minimise(
    f: Callable[[Vector], float],
    size: int,
    *,
    starts: int,
    seed: int = 0,
    spread: float = 1.0,
    rounds: int = 3,
    first: Vector | None = None,
) -> tuple[Vector, float]:
    """The best of ``starts`` local searches in ``size`` variables: (x, f(x)). The first starts from ``first``, or 0."""
    if size == 0:
        nothing = np.zeros(0)
        return nothing, f(nothing)
    generator = np.random.default_rng(seed)
    best: tuple[Vector, float] | None = None
    for start in range(starts):
        x = spread * generator.standard_normal(size)
        if start == 0:
            x = np.zeros(size) if first is None else first
        value = np.inf
        for turn in range(rounds):
            x, value = _simplex(f, x, edge=0.5 * spread * 0.2**turn)
        if best is None or value < best[1]:
            best = x, value
    if best is None:
        raise ValueError("starts must be at least 1")
    return best


def _simplex(f: Callable[[Vector], float], x: Vector, *, edge: float) -> tuple[Vector, float]:
    size = len(x)
    points = np.vstack([x, x + edge * np.eye(size)])
    values = np.array([f(p) for p in points])
    for _ in range(150 * size):
        ranked = np.argsort(values, kind="stable")
        points, values = points[ranked], values[ranked]
        if np.ptp(points, axis=0).max() < 1e-11:
            break
        centre = points[:-1].mean(axis=0)
        away = centre - points[-1]
        reflected = centre + away
        at_reflected = f(reflected)
        if values[0] <= at_reflected < values[-2]:
            points[-1], values[-1] = reflected, at_reflected
            continue
        trial = centre + (2.0 if at_reflected < values[0] else -0.5) * away
        at_trial = f(trial)
        if at_reflected < values[0]:
            better = (trial, at_trial) if at_trial < at_reflected else (reflected, at_reflected)
            points[-1], values[-1] = better
        elif at_trial < values[-1]:
            points[-1], values[-1] = trial, at_trial
        else:
            points[1:] = points[0] + 0.5 * (points[1:] - points[0])
            values[1:] = [f(p) for p in points[1:]]
    i = int(np.argmin(values))
    return points[i], float(values[i])
