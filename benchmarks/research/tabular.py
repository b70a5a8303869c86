"""Two small made-up data sets for the research: tabular tasks that the benchmark does not have.

``Friedman``: a smooth function of 5 among 10 features, with noise (Friedman 1991, eq. 56). ``Classes``: 4 classes, each
of 2 Gaussian clusters, 5% of the labels wrong (scikit-learn's ``make_classification``). Both are fixed by a seed.
"""

from __future__ import annotations

from typing import Any

from paced import Paced
from sabun.poc.tasks.builtin import BreastCancer, Diabetes, Splits, mlp, split, standardised

__all__ = ["Classes", "Friedman"]


class _Friedman(Diabetes):
    def data(self) -> Splits:
        from sklearn.datasets import make_friedman1

        x, y = make_friedman1(n_samples=600, n_features=10, noise=1.0, random_state=0)
        return standardised(split(x, ((y - y.mean()) / y.std()).astype("float32")[:, None], stratify=False))


class _Classes(BreastCancer):
    def data(self) -> Splits:
        from sklearn.datasets import make_classification

        x, y = make_classification(
            n_samples=800, n_features=20, n_informative=8, n_classes=4, flip_y=0.05, random_state=0
        )
        return standardised(split(x, y, stratify=True))

    def model(self) -> Any:
        return mlp(20, self.width, self.width, 4)


class Friedman(Paced):
    source = _Friedman


class Classes(Paced):
    source = _Classes
