"""The guard on healthy trainings, where it must do nothing, and on planted faults, which it must find.

    python benchmarks/guard_corpus.py                        # minutes; both halves of the kinds, and the faults
    python benchmarks/guard_corpus.py --half development --seeds 5

A kind of training is a tiny model or a simulated stream of losses (:mod:`guard_kinds`). A **false alarm** is a healthy
training that the guard changes: it skips a step because of an anomaly, rolls back, shortens the step, falls back or
gives up. A training is **compared only** if the guard found that losses rose, compared the present state with one of
before, and went on with the present one: a warning, and 4 to 18 batches without a step. The thresholds of the guard
were chosen on development kinds (those that the test suite runs are among them), and on a grid of simulated extremes
(``--half grid``). Some development kinds were check kinds once, and have been looked at. The check kinds
(:mod:`guard_check_kinds`) were written before the guard's last change and run once, after it. Intervals are 95%
(Clopper-Pearson), with the trainings taken as independent.

A planted fault is **caught** if the guard acts on it and the model is finite afterwards; **told**, which is among them,
if it compared only, and warned that the data are to be checked. It is **harmless** if the guard does neither, and the
losses at the end are at most 10% above those before the fault. The steps lost are the calls whose updates the final
model does not contain; a fault that lasts to the end of the training loses the rest, and the guard may end it.
"""

from __future__ import annotations

import argparse
import importlib
import math
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import sabun
from guard_kinds import KINDS, Training, classification, easy, falling, forever, regression, sgd, student
from sabun.errors import SabunWarning, TrainingError

ALARMS = ("guard.skipped", "guard.rolled-back", "guard.cut", "guard.fell-back", "guard.gave-up")
WORSE = ALARMS[1:]
COMPARED = "compared"
"""In place of an event: the guard compared two states, and went on with the present one."""


DEVELOPED = frozenset(KINDS)
"""The kinds on which the thresholds were chosen: all of ``guard_kinds``."""
importlib.import_module("guard_check_kinds")


def halves() -> dict[str, list[str]]:
    """The kinds of each half."""
    return {"development": sorted(DEVELOPED), "check": sorted({*KINDS} - DEVELOPED)}


TESTED = (
    "regression, batch 1",
    "regression, batch 1, larger targets",
    "mixed precision, clipped",
    "mixed precision, overflows",
    "accumulation of 8, batch 1",
    "curriculum, harder data, announced",
    "annealed weight of a second term",
    "likelihood that falls below zero",
    "two players, oscillating",
    "generator against a discriminator",
    "rare hard batch, 40 times the loss",
    "hinge, satisfied and not",
    "warm restarts of the schedule",
    "noise of Student's t with 2 degrees",
    "t losses around zero, as of policy gradients",
    "spikes that recover in 5 to 20 steps",
    "zero, then now and then not",
    "linear ramp of a weight",
)
"""The kinds that the test suite runs."""


# ---------------------------------------------------------------------- a grid of simulated extremes

GRID: dict[str, Callable[[int], Training]] = {}
Tail = Callable[[random.Random], float]
TAILS: dict[str, Tail] = {
    "Cauchy": lambda pick: student(pick, 1),
    "absolute Cauchy": lambda pick: abs(student(pick, 1)),
    "t, 1.5 degrees": lambda pick: student(pick, 1.5),
    "lognormal, 1.5": lambda pick: pick.lognormvariate(0, 1.5),
    "lognormal, 2.5": lambda pick: pick.lognormvariate(0, 2.5),
    "lognormal, 3": lambda pick: pick.lognormvariate(0, 3),
    "Pareto, 1.1": lambda pick: pick.paretovariate(1.1),
    "Pareto, 2": lambda pick: pick.paretovariate(2),
    "Weibull, 0.5": lambda pick: pick.weibullvariate(1, 0.5),
    "Weibull, 0.3": lambda pick: pick.weibullvariate(1, 0.3),
    "exponential": lambda pick: pick.expovariate(1),
    "normal to the 4th": lambda pick: pick.gauss(0, 1) ** 4,
    "normal to the 8th": lambda pick: pick.gauss(0, 1) ** 8,
}


def cell(name: str, losses: Callable[[random.Random], Iterator[float]]) -> None:
    """Register a stream of 1,500 losses of the grid."""

    def make(seed: int) -> Training:
        values = losses(random.Random(seed))
        return Training(lambda step: next(values), steps=1500)

    GRID[name] = make


def tails(name: str, draw: Tail) -> None:
    cell(f"{name}: added", lambda pick: (falling(s) + 0.1 * draw(pick) for s in forever()))
    cell(f"{name}: added, small", lambda pick: (falling(s) + 0.01 * draw(pick) for s in forever()))
    cell(f"{name}: factor", lambda pick: (falling(s) * abs(draw(pick)) for s in forever()))
    cell(f"{name}: mean of 8", lambda pick: (falling(s) + sum(draw(pick) for _ in range(8)) / 80 for s in forever()))
    late = lambda pick, s: draw(pick) if s > 400 else pick.gauss(0, 1)  # noqa: E731
    cell(f"{name}: from step 400 on", lambda pick: (falling(s) + 0.05 * late(pick, s) for s in forever()))


def levels(step: int, high: bool, ratio: float, own: bool) -> float:
    """One of two levels that fall together, or each at its own rate."""
    if not own:
        return falling(step) * (ratio if high else 1)
    return ratio * falling(step, 1.0, 0.5) if high else falling(step, 1.0, 0.1, 80)


def mixture(share: float, ratio: float, own: bool) -> None:
    cell(
        f"one in {1 / share:.0f} is {ratio:g} times as large{', which falls less' * own}",
        lambda pick: (levels(s, pick.random() < share, ratio, own) * (1 + 0.1 * pick.gauss(0, 1)) for s in forever()),
    )


def alternating(length: int, ratio: float, drawn: bool, own: bool) -> None:
    def losses(pick: random.Random) -> Iterator[float]:
        high, left = False, pick.randrange(1, 2 * length) if drawn else length
        for step in forever():
            if left == 0:
                high, left = (pick.random() < 0.5, pick.randrange(1, 2 * length)) if drawn else (not high, length)
            left -= 1
            yield levels(step, high, ratio, own) * (1 + 0.1 * pick.gauss(0, 1))

    kinds = ", drawn" * drawn + ", which falls less" * own
    cell(f"blocks of {length}{kinds}: {ratio:g} times as large", losses)


for name, draw in TAILS.items():
    tails(name, draw)
for own in (False, True):
    for ratio in (2, 5, 10, 30, 100):
        for share in (0.5, 0.3, 0.1, 0.03, 0.01, 0.003):
            mixture(share, ratio, own)
    for ratio in (1.5, 3, 6, 15):
        for length in (8, 15, 25, 50, 100, 200):
            for drawn in (False, True):
                alternating(length, ratio, drawn, own)


# ---------------------------------------------------------------------- runs


def run(
    training: Training,
    fault: Callable[[Training, int], Any] | None = None,
    at: int = -1,
    losses: list[float] | None = None,
) -> tuple[sabun.Guard, str]:
    """Train under a guard; plant ``fault`` from step ``at`` on. Return the guard, and why it ended the training."""
    model = training.model
    optimizer = training.optimizer or torch.optim.SGD(model.parameters(), lr=0.0)
    champion = lambda params: torch.optim.AdamW(params, lr=1e-3)  # noqa: E731
    guard = sabun.Guard(model, optimizer, champion=champion)
    scaler = training.scaler
    for step in range(training.steps):
        if step in training.phases:
            guard.new_phase()
        if training.optimizer is None:
            loss: Any = training.loss(step)
        elif not training.closure:
            optimizer.zero_grad()
            total = torch.zeros(())
            for _ in range(training.parts):
                part = training.loss(step) / training.parts
                (part if scaler is None else scaler.scale(part)).backward()
                total += part.detach()
            loss = total
            if training.clip is not None:
                if scaler is not None:
                    scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        if losses is not None:
            losses.append(float(loss))
        try:
            if fault is not None and step >= at:
                found = fault(training, step - at)
                loss = loss if found is None else found
            if training.closure:

                def closure(step: int = step) -> Tensor:
                    optimizer.zero_grad()
                    made = training.loss(step)
                    made.backward()
                    return made

                guard.step(closure=closure)
            else:
                guard.step(loss, scaler=scaler)
        except TrainingError as error:
            return guard, str(error)
        if scaler is not None:
            scaler.update()
        if training.scheduler is not None:
            training.scheduler.step()
    return guard, ""


def actions(guard: sabun.Guard) -> list[str]:
    """What the guard did to the training."""
    named = [COMPARED if "compared_with" in data else event for event, data in guard.events]
    return [event for event in named if event in (*ALARMS, COMPARED)]


def healthy(name: str, seed: int) -> list[str]:
    """Run one healthy training and return the guard's actions."""
    torch.manual_seed(seed)
    return actions(run((KINDS[name] if name in KINDS else GRID[name])(seed))[0])


# ---------------------------------------------------------------------- faults


def _gradient(value: float) -> Callable[[Training, int], None]:
    def plant(training: Training, since: int) -> None:
        if since == 0:
            next(training.model.parameters()).grad.view(-1)[0] = value  # type: ignore[union-attr]

    return plant


def _loss(value: float) -> Callable[[Training, int], Any]:
    return lambda training, since: torch.tensor(value) if since == 0 else None


def _rate(training: Training, since: int) -> None:
    if since == 0:
        for group in training.optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] *= 300


@torch.no_grad()
def _weights(training: Training, since: int) -> None:
    if since == 0:
        first = next(training.model.parameters())
        first.copy_(torch.randn_like(first) * 30)


@torch.no_grad()
def _bit(training: Training, since: int) -> None:
    if since == 0:
        list(training.model.parameters())[-2].view(-1)[0] = 2.0**60


@torch.no_grad()
def _weights_not_finite(training: Training, since: int) -> None:
    if since == 0:
        next(training.model.parameters()).view(-1)[0] = math.nan


def _sign(training: Training, since: int) -> None:
    for parameter in training.model.parameters():
        if parameter.grad is not None:
            parameter.grad.neg_()


def _corrupt(training: Training, since: int) -> None:
    training.data = (lambda x, y: (1e3 * x, 1e3 * y if y.is_floating_point() else (y + 1) % 4)) if since == 0 else None


def _dead(training: Training, since: int) -> None:
    if since == 0:
        training.data = lambda x, y: (torch.zeros_like(x), y)


FAULTS: dict[str, Callable[[Training, int], Any]] = {
    "NaN in a gradient": _gradient(math.nan),
    "infinity in a gradient": _gradient(math.inf),
    "NaN as loss": _loss(math.nan),
    "rate times 300, for good": _rate,
    "random weights in a layer": _weights,
    "a weight of 2^60": _bit,
    "NaN in the weights before a state is kept": _weights_not_finite,
    "one corrupted batch": _corrupt,
    "wrong sign of the gradient, for good": _sign,
    "dead inputs, for good": _dead,
}


def rectified(out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, out))


BASES: dict[str, Callable[[], Training]] = {
    "regression, AdamW": lambda: regression(rectified(2), steps=800, target=lambda x: 3 * easy(x)),
    "regression, SGD": lambda: regression(rectified(2), steps=800, optimizer=sgd(0.003), target=lambda x: 3 * easy(x)),
    "classification, AdamW": lambda: classification(rectified(4), steps=800),
    "classification, SGD": lambda: classification(rectified(4), steps=800, optimizer=sgd(0.1)),
}
AT = 450
"""The step of a fault: one at which a good state is kept."""


def planted(fault: str, base: str, seed: int) -> tuple[str, int, str]:
    """Plant one fault. Return "caught", "told", "harmless" or "missed", the steps lost, and the guard's last action."""
    torch.manual_seed(seed)
    training = BASES[base]()
    losses: list[float] = []
    guard, ended = run(training, FAULTS[fault], AT, losses)
    finite = all(bool(parameter.isfinite().all()) for parameter in training.model.parameters())
    done = actions(guard)
    harmless = finite and statistics.median(losses[-64:]) <= 1.1 * statistics.median(losses[AT - 64 : AT])
    return (
        ("told" if {*done} == {COMPARED} else "caught") if done and finite else "harmless" if harmless else "missed",
        guard.steps - guard.updates,
        "guard.gave-up" if ended else (done or ["none"])[-1],
    )


# ---------------------------------------------------------------------- tables


def interval(found: int, of: int) -> str:
    """A share with its 95% interval."""
    from scipy.stats import binomtest

    low, high = binomtest(found, of).proportion_ci(method="exact")
    return f"{found} of {of} ({found / of:.1%}; {low:.1%}–{high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=["development", "check", "both", "grid"], default="both")
    parser.add_argument("--seeds", type=int, default=20, help="trainings of each healthy kind")
    parser.add_argument("--fault-seeds", type=int, default=10, help="trainings of each fault and base")
    parser.add_argument("--kind", default="", help="kinds whose name begins so")
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", SabunWarning)
    columns = ["half", "kinds", "false alarms", "rolled back or worse", "compared only", "seconds"]
    print(f"| {' | '.join(columns)} |\n|---|---:|---:|---:|---:|---:|")
    details = []
    for half, names in {**halves(), "grid": list(GRID)}.items():
        if (given.half != half and (given.half != "both" or half == "grid")) or given.seeds == 0:
            continue
        chosen = [name for name in names if name.startswith(given.kind)]
        started, acted, worse, compared = time.perf_counter(), 0, 0, 0
        for name in chosen:
            found = [healthy(name, seed) for seed in range(given.first_seed, given.first_seed + given.seeds)]
            acted += sum(any(action in ALARMS for action in done) for done in found)
            worse += sum(any(action in WORSE for action in done) for done in found)
            compared += sum({*done} == {COMPARED} for done in found)
            if any(found):
                details.append((half, name, sum(map(bool, found)), sorted({one for done in found for one in done})))
        of = len(chosen) * given.seeds
        spent = time.perf_counter() - started
        shares = " | ".join(interval(count, of) for count in (acted, worse, compared))
        print(f"| {half} | {len(chosen)} | {shares} | {spent:.0f} |", flush=True)
    for half, name, count, done in details:
        print(f"{half}: {name}: {count} of {given.seeds}: {', '.join(done)}")
    if given.fault_seeds == 0:
        return
    columns = [
        "fault",
        "caught",
        "of these reported",
        "harmless",
        "missed",
        "steps lost: median, largest",
        "last action",
    ]
    print(f"\n| {' | '.join(columns)} |\n|---|---:|---:|---:|---:|---:|---|")
    for fault in FAULTS:
        found = [planted(fault, base, seed) for base in BASES for seed in range(given.fault_seeds)]
        lost = sorted(steps for _, steps, _ in found)
        last = statistics.mode(action for _, _, action in found).removeprefix("guard.")
        outcomes = [outcome for outcome, _, _ in found]
        told = outcomes.count("told")
        caught = f"{interval(outcomes.count('caught') + told, len(found))} | {told} | {outcomes.count('harmless')}"
        print(
            f"| {fault} | {caught} | {outcomes.count('missed')} | {statistics.median(lost):.0f}, {lost[-1]} | {last} |",
            flush=True,
        )


if __name__ == "__main__":
    import piped

    piped.run(main)
