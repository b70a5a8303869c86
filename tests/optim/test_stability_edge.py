"""A stability interval is a promise about the real optimizer: 1% inside it converges, 1% beyond it diverges."""

from __future__ import annotations

import math

import pytest
import torch

import sabun
from sabun import schemes
from sabun.schemes import LinearMultistep, analysis, runge_kutta

SHORT_OF_THE_EDGE, BEYOND_IT = 0.99, 1.01
USABLE = [s for s in (entry.build() for entry in schemes.SCHEMES.values()) if s.is_usable]


def farthest(scheme: schemes.Scheme, folds: float = 15) -> list[float]:
    """max |θ| over the last tenth of a run on L = λθ²/2 from θ = 1, for lr·λ just inside the interval and just beyond.

    The run is as long as the slower of the two dominant roots takes for e^{±folds}.
    """
    reach = torch.tensor([SHORT_OF_THE_EDGE, BEYOND_IT], dtype=torch.float64) * scheme.stability_interval
    multistep = isinstance(scheme, LinearMultistep)
    roots = (analysis.amplification if multistep else runge_kutta.amplification)(scheme, reach.tolist())
    steps = max(math.ceil(folds / abs(math.log(root))) for root in roots) + 20
    lr = 0.1
    curvature = reach / lr
    theta = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    kind = sabun.Optimizer if multistep else sabun.optim.RungeKutta
    optimizer = kind([theta], lr=lr, scheme=scheme)

    def closure() -> torch.Tensor:
        theta.grad = curvature * theta.detach()
        return (curvature * theta.detach().square()).sum() / 2

    largest = torch.zeros(2, dtype=torch.float64)
    for step in range(steps):
        if multistep:
            closure()
            optimizer.step()
        else:
            optimizer.step(closure)
        if step >= 0.9 * steps:
            largest = torch.maximum(largest, theta.detach().abs().nan_to_num(math.inf))  # NaN is ∞ - ∞
    return largest.tolist()


@pytest.mark.parametrize("scheme", USABLE, ids=[s.name for s in USABLE])
def test_the_edge_is_sharp(scheme: schemes.Scheme) -> None:
    inside, beyond = farthest(scheme)
    assert inside < 1e-2
    assert beyond > 1e2


@pytest.mark.parametrize("start_up", ["rest", "unbiased", "hold"])
@pytest.mark.parametrize("name", ["nesterov(0.9)", "taylor-4", "wide-2-5"])
def test_the_edge_does_not_hang_on_the_start_up(name: str, start_up: schemes.StartUp) -> None:
    # "unbiased" begins with whole Euler steps, far beyond Euler's own interval: a long way back.
    inside, beyond = farthest(schemes.get(name).with_start_up(start_up), folds=60)
    assert inside < 1e-2
    assert beyond > 1e2


@pytest.mark.parametrize("name", ["lagrange-4", "lagrange-5", "leap-frog"])
def test_schemes_without_an_interval_are_refused(name: str) -> None:
    theta = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(sabun.errors.SchemeError, match="cannot be used for training"):
        sabun.Optimizer([theta], lr=0.1, scheme=name)
