"""Small tables: regression with one output and classification."""

from __future__ import annotations

import itertools

from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from comparison.data import supervised, table
from comparison.families import Session, Setting, task


def _perceptron(inputs: int, width: int, outputs: int, layers: int = 2) -> nn.Sequential:
    widths = [inputs, *[width] * layers]
    inner = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*inner, nn.Linear(width, outputs))


def _regression(s: Setting, name: str, width: int, layers: int, size: int) -> Session:
    data = table(name)
    return supervised(s, _perceptron(data[0].shape[1], width * s.size, 1, layers), data, mse_loss, size=size)


@task("concrete", "table-regression", 400)
def concrete(s: Setting) -> Session:
    """Strength of concrete (1,030 rows, 8 columns), 8–64–64–1."""
    return _regression(s, "concrete", 64, 2, 64)


@task("wine-quality", "table-regression", 240)
def wine_quality(s: Setting) -> Session:
    """Quality of red wine (1,599 rows, 11 columns), 11–64–64–1."""
    return _regression(s, "wine_quality_red", 64, 2, 64)


@task("housing", "table-regression", 300)
def housing(s: Setting) -> Session:
    """Prices of houses (506 rows, 13 columns), 13–64–64–64–1."""
    return _regression(s, "bostonHousing", 64, 3, 32)


@task("breast-cancer", "table-classification", 200)
def breast_cancer(s: Setting) -> Session:
    """Tumours (569 rows, 30 columns), 30–64–64–2."""
    return supervised(s, _perceptron(30, 64 * s.size, 2), table("breast-cancer"), cross_entropy, size=32)


@task("energy-classes", "table-classification", 360)
def energy_classes(s: Setting) -> Session:
    """The load of buildings in eight classes of equal size (768 rows, 8 columns), 8–64–64–64–8."""
    return supervised(s, _perceptron(8, 64 * s.size, 8, 3), table("energy", 8), cross_entropy, size=32)
