"""How much the effect in a study depends on its tuning: by the number of trials and of tuning seeds.

    python benchmarks/tuning_seeds.py [--studies 40] [--seeds 12] [--out runs/tuning-seeds]

First trains every arm of the demonstration over a grid of learning rates and seeds, on five tasks (about an hour in
all; a table is one file, an interrupted command continues). Then simulates the tuning of many studies on each table,
with other trials and other tuning seeds, the losses interpolated between rates. Prints the regret (how much higher the
loss at the chosen rate is than at the best one, mean over arms) and the standard deviation between studies of the
effect of a candidate, which the interval of a study does not contain.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sabun.poc.executors.in_process import one_thread
from sabun.poc.records import RunResult
from sabun.poc.resolved import ResolvedArm, ResolvedStudy, resolve
from sabun.poc.spec import Run, Study
from sabun.poc.study import demonstration
from sabun.poc.training.trainer import Trainer
from sabun.poc.tuning import best, suggest

TABLES = (("digits-cnn", 4), ("digits-cnn", 8), ("digits", 10), ("breast-cancer", 10), ("diabetes", 10))
"""Tasks and epochs."""
DESIGNS = ((12, 1), (12, 2), (8, 3), (6, 4), (12, 4), (16, 4))
"""Trials and tuning seeds."""
RATES = 14
WORST = 50.0
"""What stands for the loss of a run that diverged."""


def study_of(task: str, epochs: int, seed: int = 100, **budget: int) -> Study:
    """The arms of the demonstration on another task."""
    fields = demonstration().model_dump(mode="json")
    options = fields["task_options"] if task == fields["task"] else {}
    fields |= {"task": task, "task_options": options, "seed": seed}
    return Study.build({**fields, "budget": {**fields["budget"], "epochs": epochs, **budget}})


def fill(path: Path, study: ResolvedStudy, seeds: int) -> None:
    """Train what is missing: a line of the table is [arm, learning rate, seed, loss or null]."""
    known = {tuple(json.loads(line)[:3]) for line in path.read_text().splitlines()} if path.exists() else set()
    trainer = Trainer(study)
    with one_thread(), path.open("a", encoding="utf-8") as stream:
        for seed in range(seeds):
            for name, arm in study.arms.items():
                space = arm.space["lr"]
                for i in range(RATES):
                    lr = space.low * (space.high / space.low) ** (i / (RATES - 1))
                    if (name, lr, seed) in known:
                        continue
                    run = Run(arm=name, seed=seed, phase="evaluate", hyperparameters={"lr": lr})
                    last = [item for item in trainer.run(run) if isinstance(item, RunResult)][-1]
                    loss = last.final_loss if last.status == "finished" else None
                    stream.write(json.dumps([name, lr, seed, loss]) + "\n")
                    stream.flush()


class Curves:
    """The losses of an arm by learning rate and seed, interpolated between rates."""

    def __init__(self, rows: Sequence[tuple[str, float, int, float | None]], arm: str, seeds: Sequence[int]) -> None:
        own = {(lr, seed): WORST if loss is None else max(loss, 1e-6) for name, lr, seed, loss in rows if name == arm}
        rates = sorted({lr for lr, _ in own})
        self.x = np.log(rates)
        self.y = np.log([[own[lr, seed] for seed in seeds] for lr in rates])
        every = range(len(seeds))
        self.best = min(self.loss(math.exp(x), every) for x in np.linspace(self.x[0], self.x[-1], 300))

    def loss(self, lr: float, seeds: Sequence[int]) -> float:
        """The mean over seeds; outside of the table it rises as lr²."""
        x = math.log(lr)
        beyond = 2 * (max(0.0, self.x[0] - x) + max(0.0, x - self.x[-1]))
        return float(np.mean([math.exp(np.interp(x, self.x, self.y[:, seed]) + beyond) for seed in seeds]))


def tuned(arm: ResolvedArm, study: Study, curves: Curves, seeds: Sequence[int]) -> float:
    """The learning rate that the tuning of one study finds."""
    seen: list[tuple[dict[str, float], float]] = []
    for _ in range(study.budget.trials):
        values = suggest(study, arm, seen)
        seen.append((values, curves.loss(values["lr"], seeds)))
    return best(arm, seen)["lr"]


def simulate(path: Path, task: str, epochs: int, studies: int) -> None:
    """Print a line for each design on one table."""
    rows = [tuple(json.loads(line)) for line in path.read_text().splitlines()]
    resolved = resolve(study_of(task, epochs))
    count = {seed: sum(row[2] == seed for row in rows) for seed in {row[2] for row in rows}}
    seeds = sorted(seed for seed, found in count.items() if found == max(count.values()))
    curves = {name: Curves(rows, name, seeds) for name in resolved.arms}
    every = range(len(seeds))
    for trials, tuning_seeds in DESIGNS:
        losses = []
        for number in range(studies):
            study = study_of(task, epochs, seed=1000 + number, trials=trials)
            drawn = [int(seed) for seed in np.random.default_rng(number).permutation(len(seeds))[:tuning_seeds]]
            used = {name: tuned(arm, study, curves[name], drawn) for name, arm in resolved.arms.items()}
            losses.append([curves[name].loss(lr, every) for name, lr in used.items()])
        values = np.array(losses)
        regret = np.log(values / np.array([curve.best for curve in curves.values()]))
        spread = (values[:, 1:] / values[:, :1]).std(axis=0)
        print(f"| {task}, {epochs} epochs ({len(seeds)} seeds) | {trials} × {tuning_seeds} | {regret.mean():.1%} "
              f"| {spread.mean():.1%} | {spread.max():.1%} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning-seeds"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print("| task | trials × tuning seeds | regret | sd of the effect, mean | largest |")
    print("|---|---|---|---|---|")
    for task, epochs in TABLES:
        path = given.out / f"{task}-{epochs}.jsonl"
        fill(path, resolve(study_of(task, epochs)), given.seeds)
        simulate(path, task, epochs, given.studies)


if __name__ == "__main__":
    import piped

    piped.run(main)
