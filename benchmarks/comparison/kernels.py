"""Which momentum should win at which noise and curvature, said in advance, and whether it does.

**Model.** Independent quadratics of curvature λ, log-uniform over ``spread``, gradients with white noise. A scheme is a
linear filter, so the second moments of (θ, filter state) follow an exact linear recursion; the expected loss at the end
of a run with a linear schedule is computed from it for every rate, and the best rate counts, as after tuning
(:func:`expected_loss`).

**Measured.** The noise: the share of a mini-batch gradient's squared norm that is not common to two mini-batches, in
the first steps (:func:`noise_share`). The model's noise level has the same share at the start.

**Test.** Rank correlation (Spearman) of expected and observed losses of the kernels, task by task; the mean over tasks
with a permutation p-value (:func:`agreement`). ``benchmarks/kernels.py`` writes the predictions before it trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from comparison.families import TASKS, Setting
from comparison.training import factor
from sabun import schemes

__all__ = ["KERNELS", "agreement", "expected_loss", "noise_share", "predicted"]

Array = npt.NDArray[np.float64]

KERNELS: Mapping[str, str] = {
    "none": "euler",
    "short": "look-ahead(0.7, 0.7)",
    "nesterov 0.9": "nesterov(0.9)",
    "nesterov 0.95": "nesterov(0.95)",
    "look-ahead 0.8": "look-ahead(0.8, 2)",
    "look-ahead 0.9": "look-ahead(0.9, 2)",
    "two memories": "memories(0.7, 0.8, 2, 0.3, 0.96)",
    "three memories": "memories(0.5, 0.7, 1, 0.3, 0.9, 1, 0.2, 0.98)",
}
RATES = 2.0 ** np.arange(-9.0, 7.0, 0.5)
CURVATURES = 13
DIVERGED = 1e6


def expected_loss(scheme: str, noise: float, steps: int, *, spread: float = 1e3, rates: Array = RATES) -> Array:
    """Expected mean loss Σ λθ²/2 at the end of a run, by rate; infinite where it is ever DIVERGED times the first.

    λ is log-uniform over [1/spread, 1], θ₀² = 1/λ (equal loss in all directions), and the gradients have the noise
    variance ``noise``/(1 − ``noise``) times their mean square at the start, so that ``noise`` is the share of noise in
    their squared norm.
    """
    system = schemes.get(scheme).to_state_space()  # type: ignore[union-attr]
    curvature = np.geomspace(1 / spread, 1, CURVATURES)
    level = noise / (1 - noise) * float(np.mean(curvature))  # of a gradient: mean of λ²θ₀² = mean of λ
    size = system.A.shape[0] + 1
    grid_h, grid_l = np.meshgrid(rates, curvature, indexing="ij")
    moments = np.zeros((*grid_h.shape, size, size))
    moments[..., 0, 0] = 1 / grid_l
    # s' = A s + B (λθ + ξ),  θ' = θ − h (C s + D (λθ + ξ))
    move, drive = np.zeros((*grid_h.shape, size, size)), np.zeros((*grid_h.shape, size, 1))
    move[..., 1:, 1:], move[..., 1:, 0] = system.A, system.B[:, 0] * grid_l[..., None]
    drive[..., 1:, :] = system.B
    lost = np.zeros(grid_h.shape, dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(steps):
            h = grid_h * factor("linear", n, steps)
            move[..., 0, 0] = 1 - h * system.D * grid_l
            move[..., 0, 1:] = -h[..., None] * system.C[0]
            drive[..., 0, 0] = -h * system.D
            moments = move @ moments @ np.swapaxes(move, -1, -2) + level * drive @ np.swapaxes(drive, -1, -2)
            lost |= ~(moments[..., 0, 0] * grid_l < DIVERGED)
            moments[lost] = 0
        loss = np.mean(curvature * moments[..., 0, 0], axis=-1) / 2
    return np.where(lost.any(-1), math.inf, loss)


def predicted(noise: float, steps: int, *, spread: float = 1e3) -> dict[str, float]:
    """Kernel → expected loss at its best rate."""
    return {
        name: float(expected_loss(scheme, noise, steps, spread=spread).min()) for name, scheme in KERNELS.items()
    }  # fmt: skip


def noise_share(task: str, steps: int, *, size: int = 1, device: str = "cpu", batches: int = 16) -> float:
    """Share of noise in the squared norm of a mini-batch gradient over the first steps, at the initial weights.

    With pairs of independent mini-batches, 1 − mean of g·g′ / mean of |g|², limited to [0, 0.99].
    """
    session = TASKS[task].session(Setting(max(steps, batches), 0, size, device))
    session.model.train()
    parameters = list(session.model.parameters())
    gradients = []
    for step in range(batches):
        found = torch.autograd.grad(session.loss(step), parameters, allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]).double())
    stack = torch.stack(gradients)
    products = stack @ stack.mT
    squares = float(products.diagonal().mean())
    common = float(products.sum() - products.diagonal().sum()) / (batches * (batches - 1))
    return min(max(1 - common / squares, 0.0), 0.99)


def agreement(
    expected: Sequence[Sequence[float]], observed: Sequence[Sequence[float]], draws: int = 2000
) -> tuple[float, float]:
    """(mean over tasks of Spearman's rank correlation, one-sided permutation p-value).

    A permutation draws a new order of the kernels for every task.
    """
    pairs = list(zip(expected, observed, strict=True))
    found = [float(spearmanr(a, b).statistic) for a, b in pairs]
    mean = math.fsum(found) / len(found)
    generator = np.random.default_rng(0)
    ranked = [(np.argsort(np.argsort(a)), np.argsort(np.argsort(b))) for a, b in pairs]
    more = 0
    for _ in range(draws):
        drawn = [np.corrcoef(a, generator.permutation(b))[0, 1] for a, b in ranked]
        more += float(np.mean(drawn)) >= mean - 1e-12
    return mean, (more + 1) / (draws + 1)
