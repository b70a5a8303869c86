"""The guard on healthy trainings, where it must do nothing, and on planted faults, which it must find.

    python benchmarks/guard_corpus.py                        # minutes; both halves of the kinds, and the faults
    python benchmarks/guard_corpus.py --half development --seeds 5
    python benchmarks/guard_corpus.py --seeds 0 --fault-seeds 0 --slow-seeds 2    # faults with a slow onset
    python benchmarks/guard_corpus.py --half independent --seeds 1 --first-seed 4

A kind of training is a tiny model or a simulated stream of losses (:mod:`guard_kinds`). A **false alarm** is a healthy
training that the guard changes: it skips a step because of an anomaly, rolls back, shortens the step, falls back or
gives up. A training is **compared only** if the guard found that losses rose, compared the present state with one of
before, and went on with the present one: a warning, and 4 to 18 batches without a step. The thresholds of the guard
were chosen on development kinds (those that the test suite runs are among them), and on a grid of simulated extremes
(``--half grid``). Some development kinds were check kinds once, and have been looked at. The check kinds
(:mod:`guard_check_kinds`) were written before the guard's last change but one and run once, after it. Intervals are 95%
(Clopper-Pearson), with the trainings taken as independent.

The kinds of ``--half independent`` (:mod:`guard_independent_kinds`) were written by somebody who did not know how the
guard decides. Each is trained without a guard first; a training that does not reach its goal so is not healthy, and is
left out and named. Their false alarms are counted in three ways, each of which includes those before it: the state is
rolled back, the step shortened, or the guard falls back or ends the training; a step is skipped because of an anomaly;
a batch makes no step for any reason but an overflow that the scaler skips. A second interval is a bootstrap over kinds.

A planted fault is **caught** if the guard acts on it and the model is finite afterwards; **told**, which is among them,
if it compared only, and warned that the data are to be checked. It is **harmless** if the guard does neither, and the
losses at the end are at most 10% above those before the fault. The steps lost are the calls whose updates the final
model does not contain; a fault that lasts to the end of the training loses the rest, and the guard may end it.

A fault with a slow onset grows from step 300 of 1,000 on. It is harmless if the guard does nothing and the loss on data
without the fault is at most 10% above that of the same training without the fault, of which the table gives multiples.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sabun
from guard_kinds import KINDS, Training, classification, easy, falling, forever, mlp, regression, sgd, student
from sabun.errors import SabunError, SabunWarning, TrainingError

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
    for step in range(training.steps):
        if step in training.phases:
            guard.new_phase()
        if training.optimizer is None:
            loss: Any = training.loss(step)
        elif not training.closure:
            loss = training.backward(step)
        if losses is not None:
            losses.append(float(loss))
        try:
            if fault is not None and step >= at:
                found = fault(training, step - at)
                loss = loss if found is None else found
            if training.closure:
                guard.step(closure=partial(training.backward, step))
            else:
                guard.step(loss, scaler=training.scaler)
        except TrainingError as error:
            return guard, str(error)
        training.advance()
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


# ---------------------------------------------------------------------- faults with a slow onset


def _drifting_rate(factor: float) -> Callable[[Training, int], None]:
    def plant(training: Training, since: int) -> None:
        for group in training.optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] *= factor

    return plant


def _wrong_targets(training: Training, since: int) -> None:
    def spoil(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        wrong = torch.rand(len(y)) < min(1.0, since / 300)
        return x, torch.where(wrong.view(-1, *[1] * (y.dim() - 1)), y[torch.randperm(len(y))], y)

    training.data = spoil


def _momentum(training: Training, since: int) -> None:
    for group in training.optimizer.param_groups:  # type: ignore[union-attr]
        kept = 1 - 0.1 * 0.99**since
        group.update({"betas": (kept, group["betas"][1])} if "betas" in group else {"momentum": kept})


@torch.no_grad()
def _growing_weights(training: Training, since: int) -> None:
    for parameter in training.model.parameters():
        parameter.mul_(1.01)


SLOW: dict[str, Callable[[Training, int], Any]] = {
    "rate times 1.02 a step": _drifting_rate(1.02),
    "rate times 1.005 a step": _drifting_rate(1.005),
    "share of wrong targets grows to all in 300 steps": _wrong_targets,
    "momentum of 0.9 tends to 1": _momentum,
    "weights times 1.01 a step": _growing_weights,
}
SLOW_BASES: dict[str, Callable[[], Training]] = {
    **BASES,
    "dropout, AdamW": lambda: classification(mlp(4, drop=nn.Dropout(0.5))),
    "batch norm, SGD": lambda: classification(mlp(4, norm=nn.BatchNorm1d(16)), optimizer=sgd(0.1)),
    "absolute loss, AdamW": lambda: regression(measure=functional.l1_loss),
    "batch 4, SGD": lambda: classification(size=4, optimizer=sgd(0.02)),
}
SLOW_AT, SLOW_STEPS = 300, 1000


@cache
def end_without_guard(fault: str, base: str, seed: int) -> float:
    """The loss at the end of a training without a guard, and without a fault where that is empty."""
    torch.manual_seed(seed)
    training = SLOW_BASES[base]()
    for step in range(SLOW_STEPS):
        training.backward(step)
        if fault and step >= SLOW_AT:
            SLOW[fault](training, step - SLOW_AT)
        training.optimizer.step()  # type: ignore[union-attr]
    return final_loss(training)


@torch.no_grad()
def final_loss(training: Training) -> float:
    """The loss of the model on a hundred batches without a fault."""
    training.data = None
    training.model.eval()
    torch.manual_seed(0)
    found = statistics.fmean(float(training.loss(SLOW_STEPS)) for _ in range(100))
    return found if math.isfinite(found) else math.inf


def onset(fault: str, base: str, seed: int) -> tuple[str, int, int, float]:
    """Plant one fault with a slow onset.

    Return "caught", "told", "harmless" or "missed" as of :func:`planted`, where harmless is an end at most 10% above
    that of the same training without the fault; the calls until the guard acted, or -1; the steps lost; and the loss at
    the end over that of the training without the fault.
    """
    torch.manual_seed(seed)
    training = SLOW_BASES[base]()
    training.steps = SLOW_STEPS
    guard, _ = run(training, SLOW[fault], SLOW_AT)
    ratio = final_loss(training) / end_without_guard("", base, seed)
    done = actions(guard)
    acted = [data["step"] for event, data in guard.events if event in ALARMS or "compared_with" in data]
    silent = "harmless" if ratio <= 1.1 else "missed"
    outcome = silent if not done else "told" if {*done} == {COMPARED} else "caught"
    return outcome, int(str(acted[0])) - SLOW_AT if acted else -1, guard.steps - guard.updates, ratio


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


# ---------------------------------------------------------------------- kinds of an independent author


def compared(name: str, seed: int) -> dict[str, Any]:
    """Run one training without a guard and, if it is healthy, with one."""
    from guard_independent_kinds import INDEPENDENT, train

    torch.manual_seed(seed)
    fine, score, overflows = train(INDEPENDENT[name](seed))
    record: dict[str, Any] = {"kind": name, "seed": seed, "healthy": fine, "score": score, "overflows": overflows}
    if not fine:
        return record
    torch.manual_seed(seed)
    training = INDEPENDENT[name](seed)
    try:
        guard, ended = run(training)
    except SabunError as error:
        return {**record, "refused": str(error)}
    lost = training.steps - guard.updates - overflows
    return {**record, "actions": actions(guard), "lost": lost, "guarded": training.score(), "ended": ended}


WAYS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "rolled back or worse": lambda record: any(action in WORSE for action in record["actions"]),
    "or a step skipped": lambda record: any(action in ALARMS for action in record["actions"]),
    "or a batch without a step": lambda record: bool(record["actions"]) or record["lost"] > 0,
}


def by_kind(records: list[dict[str, Any]], alarm: Callable[[dict[str, Any]], bool]) -> str:
    """The 95% interval of a share by a bootstrap over kinds."""
    kinds = [
        [alarm(record) for record in records if record["kind"] == name]
        for name in dict.fromkeys(r["kind"] for r in records)
    ]
    pick, shares = random.Random(0), []
    for _ in range(4000):
        drawn = pick.choices(kinds, k=len(kinds))
        shares.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    shares.sort()
    return f"{shares[100]:.1%}–{shares[3899]:.1%}"


def independent(seeds: range, begins: str) -> list[dict[str, Any]]:
    """The records of the independent kinds."""
    from guard_independent_kinds import INDEPENDENT

    return [compared(name, seed) for name in INDEPENDENT if name.startswith(begins) for seed in seeds]


def judged(records: list[dict[str, Any]]) -> None:
    """Print the table of the independent kinds, and each training that was changed or left out."""
    guarded = [record for record in records if "actions" in record]
    print(f"{len({record['kind'] for record in guarded})} kinds, {len(guarded)} trainings of {len(records)}")
    print("| counted | false alarms | by kind | kinds with one |\n|---|---:|---:|---:|")
    for way, alarm in WAYS.items():
        found = [record for record in guarded if alarm(record)]
        share = interval(len(found), len(guarded))
        print(f"| {way} | {share} | {by_kind(guarded, alarm)} | {len({record['kind'] for record in found})} |")
    for record in records:
        title = f"{record['kind']}, seed {record['seed']}:"
        if not record["healthy"]:
            print(f"{title} not healthy without a guard: score {record['score']:.4g}")
        elif "refused" in record:
            print(f"{title} refused: {record['refused']}")
        elif WAYS["or a batch without a step"](record) or record["guarded"] != record["score"]:
            done = ", ".join(dict.fromkeys(record["actions"])) or "none"
            scores = f"score {record['score']:.4g} without, {record['guarded']:.4g} with"
            print(f"{title} {done}; {record['lost']} steps lost; {scores} {record['ended'][:80]}")


# ---------------------------------------------------------------------- tables


def interval(found: int, of: int) -> str:
    """A share with its 95% interval."""
    from scipy.stats import binomtest

    low, high = binomtest(found, of).proportion_ci(method="exact")
    return f"{found} of {of} ({found / of:.1%}; {low:.1%}–{high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=["development", "check", "both", "grid", "independent"], default="both")
    parser.add_argument("--seeds", type=int, default=20, help="trainings of each healthy kind")
    parser.add_argument("--fault-seeds", type=int, default=10, help="trainings of each fault and base")
    parser.add_argument("--kind", default="", help="kinds whose name begins so")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--slow-seeds", type=int, default=0, help="trainings of each slow fault and base")
    parser.add_argument("--records", default="", help="a file for the records of the independent kinds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", SabunWarning)
    if given.half == "independent":
        records = independent(range(given.first_seed, given.first_seed + given.seeds), given.kind)
        if given.records:
            Path(given.records).write_text("".join(json.dumps(record) + "\n" for record in records))
        judged(records)
        return
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
    if given.fault_seeds > 0:
        sudden(given.fault_seeds)
    if given.slow_seeds > 0:
        slow(given.slow_seeds)


def sudden(seeds: int) -> None:
    """Print the table of faults that set in at once."""
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
        found = [planted(fault, base, seed) for base in BASES for seed in range(seeds)]
        lost = sorted(steps for _, steps, _ in found)
        last = statistics.mode(action for _, _, action in found).removeprefix("guard.")
        outcomes = [outcome for outcome, _, _ in found]
        told = outcomes.count("told")
        caught = f"{interval(outcomes.count('caught') + told, len(found))} | {told} | {outcomes.count('harmless')}"
        print(
            f"| {fault} | {caught} | {outcomes.count('missed')} | {statistics.median(lost):.0f}, {lost[-1]} | {last} |",
            flush=True,
        )


def slow(seeds: int) -> None:
    """Print the table of faults with a slow onset."""
    columns = [
        "fault with a slow onset",
        "caught",
        "of these reported",
        "harmless",
        "missed",
        "steps to the first action",
    ]
    columns += ["steps lost", "loss at the end, if rolled back", "the same without a guard"]
    print(f"\n| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}")
    for fault in SLOW:
        found = [(*onset(fault, base, seed), base, seed) for base in SLOW_BASES for seed in range(seeds)]
        outcomes = [one[0] for one in found]
        told, acted = outcomes.count("told"), [one for one in found if one[0] in ("caught", "told")]
        row = [fault, f"{outcomes.count('caught') + told} of {len(found)}", told, outcomes.count("harmless")]
        row += [outcomes.count("missed"), *(_spread([float(one[at]) for one in acted]) for at in (1, 2))]
        rescued = [one for one in found if one[0] == "caught"]
        alone = [end_without_guard(fault, *one[4:]) / end_without_guard("", *one[4:]) for one in rescued]
        print(f"| {' | '.join(map(str, [*row, _spread([one[3] for one in rescued]), _spread(alone)]))} |", flush=True)


def _spread(values: list[float]) -> str:
    """The median and the largest."""
    return f"{statistics.median(values):.3g}, {max(values):.3g}" if values else ""


if __name__ == "__main__":
    import piped

    piped.run(main)
