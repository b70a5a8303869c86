"""Step lengths that are found against the best fixed one: training loss at equal gradient evaluations.

    python benchmarks/step_control.py --quick      # digits, one batch size; under a minute
    python benchmarks/step_control.py              # all tasks; needs scikit-learn, and SABUN_DATA for charlm

For every task, batch size and scheme the fixed step is tuned on a grid of √2 around the best power of two, by the mean
final loss on all training data over the seeds; the best lies inside the grid. The control gets no learning rate and the
same gradients. Printed: loss with the found step over loss with the tuned one (1.05 is "within 5%"), and the worst
single seed over the tuned mean. Constants of ``balance`` were chosen on the tasks of the first group; the second group
was looked at afterwards only.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import sabun
from sabun.poc.tasks.builtin import BreastCancer, CharLM, Diabetes, Digits, DigitsCNN


class Tanh(Digits):
    """Another scale and another non-linearity: pixels in [0, 1], one hidden layer of tanh."""

    def data(self) -> dict[str, tuple[Tensor, Tensor]]:
        images, labels = load_digits(return_X_y=True)
        return {"train": (torch.tensor(images[:1024] / 16, dtype=torch.float32), torch.tensor(labels[:1024]))}

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


Case = tuple[str, Any, int, int]  # name, task, batch size, epochs
CHOSEN_ON: list[Case] = [
    ("digits", Digits(), 32, 20),
    ("digits", Digits(), 128, 20),
    ("breast-cancer", BreastCancer(), 16, 30),
    ("diabetes", Diabetes(), 16, 30),
]
KEPT_ASIDE: list[Case] = [
    ("digits, tanh, raw pixels", Tanh(), 32, 15),
    ("digits, wider", Digits(width=128), 64, 15),
    ("digits-cnn", DigitsCNN(), 32, 8),
    ("charlm", CharLM(layers=1, width=32, heads=2, context=32, chars=60_000), 16, 4),
]
SCHEMES = ("euler", "heavy-ball", "nesterov")


def final_loss(case: Case, seed: int, make: Callable[[Any], torch.optim.Optimizer]) -> float:
    """Loss on all training data after the case's epochs. The seed sets initial weights and batches."""
    _, task, size, epochs = case
    x, y = task.data()["train"]
    torch.manual_seed(1000 + seed)
    model = task.model()
    optimizer = make(model.parameters())
    generator = torch.Generator().manual_seed(5000 + seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator)[: len(x) // size * size].view(-1, size):
            optimizer.zero_grad()
            loss = task.loss(model, (x[rows], y[rows]))
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        parts = [(len(a), float(task.loss(model, (a, b)))) for a, b in zip(x.split(512), y.split(512), strict=True)]
    value = sum(n * v for n, v in parts) / len(x)
    return value if math.isfinite(value) else math.inf


def tuned(case: Case, scheme: str, seeds: Sequence[int]) -> tuple[float, float]:
    """(step, mean loss) of the best fixed step."""
    losses: dict[float, float] = {}

    def mean(exponent: float) -> float:
        if exponent not in losses:
            runs = [final_loss(case, s, lambda p: sabun.Optimizer(p, 2.0**exponent, scheme=scheme)) for s in seeds]
            losses[exponent] = sum(runs) / len(runs)
        return losses[exponent]

    best = min((-4.0, -2.0, 0.0, 2.0), key=mean)
    while True:
        near = min((best - 1, best - 0.5, best, best + 0.5, best + 1), key=mean)
        if near == best:
            return 2.0**best, losses[best]
        best = near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="digits with batches of 128 only")
    parser.add_argument("--only", help="cases whose name is this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--control", choices=["balance", "embedded-error"], default="balance")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.seeds)
    cases = CHOSEN_ON[1:2] if options.quick else [*CHOSEN_ON, *KEPT_ASIDE]
    cases = [case for case in cases if options.only in (None, case[0])]
    print("| task | batch | epochs | scheme | tuned h | tuned loss | found / tuned | worst seed / tuned |")
    print("|---|---:|---:|---|---:|---:|---:|---:|", flush=True)
    for case in cases:
        for scheme in SCHEMES:
            step, best = tuned(case, scheme, seeds)
            make = lambda p, scheme=scheme: sabun.Optimizer(p, scheme=scheme, step_control=options.control)  # noqa: E731
            found = [final_loss(case, seed, make) for seed in seeds]
            print(
                f"| {case[0]} | {case[2]} | {case[3]} | {scheme} | {step:.3g} | {best:.3g} "
                f"| {sum(found) / len(found) / best:.2f} | {max(found) / best:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    import piped

    piped.run(main)
