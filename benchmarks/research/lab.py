"""Research runs: many variants of an optimizer, each at its best learning rate, on small tasks, by equal steps.

    python benchmarks/research/lab.py gamma             # one question of questions.py; a second call resumes
    python benchmarks/research/lab.py gamma --task charlm

Each variant's learning rate is searched on a factor-2 grid that is extended until its best value lies inside, on one
seed. Successive halving: the better half by that seed (and whatever the question always keeps) then gets the other
seeds, at the best value and its two neighbours. Runs go to ``results.jsonl``, one line each; questions share runs.
Loss is compared at equal steps: seconds of a busy machine are not evidence, and none are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch  # noqa: E402
from questions import QUESTIONS, TASKS, Question, Setting  # noqa: E402

import sealed  # noqa: E402
from sabun.poc.records import RunResult  # noqa: E402
from sabun.poc.resolved import resolve  # noqa: E402
from sabun.poc.spec import Arm, Run  # noqa: E402
from sabun.poc.study import default_study  # noqa: E402
from sabun.poc.tasks import loading as tasks  # noqa: E402
from sabun.poc.training.trainer import Trainer  # noqa: E402
from sabun.script import arms  # noqa: E402

PUBLISHED = HERE / "results.jsonl"
VALLEYS = HERE / "valleys.jsonl"
"""Runs of the questions that name their rates. They stand apart, since a table of best rates would otherwise change
with the number of rates and seeds that one of its variants got for another question."""
RESULTS = Path("runs/research.jsonl")
_UNUSED = Arm.named("euler", "(a study has two sides; this one never runs)")


@dataclass(frozen=True)
class Key:
    """What makes two runs the same: the task as sized, the optimizer's notation, its learning rate, the seed."""

    task: str
    arm: str
    lr: float
    seed: int

    @classmethod
    def of(cls, row: dict[str, Any]) -> Key:
        return cls(row["task"], row["arm"], row["lr"], row["seed"])


def read(*paths: Path) -> dict[Key, dict[str, Any]]:
    """All stored runs, by default the published ones and those that are not yet; a torn last line is left out."""
    chosen = [path for path in paths or (PUBLISHED, VALLEYS, RESULTS) if path.exists()]
    return {Key.of(row): row for path in chosen for row in sealed.read_lines(path)}


def final(row: dict[str, Any]) -> float:
    """Loss at the end; infinite for a run that did not finish."""
    return row["loss"][-1] if row["status"] == "finished" else math.inf


class Lab:
    """Carries out runs of one task, and remembers them."""

    def __init__(self, name: str, setting: Setting, path: Path = RESULTS) -> None:
        self.name = name
        self.setting = setting
        self.path = path
        self.known = read() if path == RESULTS else read(path)
        self.data = None
        self.version = hashlib.sha256(json.dumps(setting.fields(), sort_keys=True).encode()).hexdigest()[:8]

    def loss(self, arm: str, lr: float, seed: int) -> float:
        key = Key(self.name, arm, lr, seed)
        row = self.known.get(key)
        if row is None or row["setting"] != self.version:
            row = self._train(key)
            self.known[key] = row
            sealed.append(self.path, row)
            print(f"{self.name:12} {arm:70} lr {lr:.2e} seed {seed}: {final(row):.4f}", flush=True)
        return final(row)

    def _train(self, key: Key) -> dict[str, Any]:
        study = default_study(
            task=self.setting.task, task_options=self.setting.options, baseline=key.arm, candidates=[_UNUSED],
            epochs=self.setting.points, seed=self.setting.root,
        ).model_copy(update={"schedule": self.setting.schedule})  # fmt: skip
        if self.data is None:
            self.data = tasks.load(study.task, study.task_options)
        run = Run(arm=study.baseline.name, seed=key.seed, phase="tune", trial=0, hyperparameters={"lr": key.lr})
        *_, result = Trainer(resolve(study, self.data)).run(run)
        assert isinstance(result, RunResult)
        if result.status == "failed":
            raise SystemExit(f"{key}: {result.failure}")
        return {
            "task": key.task, "arm": key.arm, "lr": key.lr, "seed": key.seed, "setting": self.version,
            "status": result.status, "loss": [float(f"{epoch.val_loss:.6g}") for epoch in result.epochs],
            "train": [float(f"{epoch.train_loss or math.nan:.6g}") for epoch in result.epochs[1:]],
            "torch": torch.__version__,
        }  # fmt: skip

    def bracket(self, arm: str, seed: int = 0) -> tuple[float, float]:
        """(learning rate, loss) of the best point on a factor-2 grid, extended until its neighbours are worse."""
        centre = arms.recipe(Arm.named(arm)).step
        grid = {n: self.loss(arm, centre * 2.0**n, seed) for n in (-1, 0, 1)}
        while True:
            best = min(grid, key=lambda n: grid[n])
            missing = [n for n in (best - 1, best + 1) if n not in grid]
            if not missing or abs(best) > 9:
                return centre * 2.0**best, grid[best]
            grid |= {n: self.loss(arm, centre * 2.0**n, seed) for n in missing}


def answer(lab: Lab, question: Question) -> None:
    """Bracket every variant on one seed; give the better half the other seeds. Where the question names the rates,
    all of them are run instead."""
    if question.rates:
        for seed in range(question.seeds):
            for label, rates in question.rates.items():
                if seed == 0 or question.arms[label] in question.kept():
                    for lr in rates:
                        lab.loss(question.arms[label], lr, seed)
        return
    first = {arm: lab.bracket(arm) for arm in question.arms.values()}
    ranked = sorted(first, key=lambda arm: first[arm][1])
    chosen = [arm for arm in ranked if arm in ranked[: math.ceil(len(ranked) / 2)] or arm in question.kept()]
    for seed in range(1, question.seeds):
        for arm in chosen:
            for factor in (1.0, 0.5, 2.0):
                lab.loss(arm, first[arm][0] * factor, seed)


def main(argv: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="+", choices=[*QUESTIONS], help="which question of questions.py")
    parser.add_argument("--task", action="append", choices=[*TASKS], help="only this task (repeatable)")
    given = parser.parse_args(None if argv is None else list(argv))
    torch.set_num_threads(1)
    for name in given.question:
        question = QUESTIONS[name]
        for task in given.task or question.tasks:
            answer(Lab(task, TASKS[task]), question)


if __name__ == "__main__":
    import piped

    piped.run(main)
