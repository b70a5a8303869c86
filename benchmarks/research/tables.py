"""Tables of the research pages, from ``results.jsonl``: written between the markers ``<!-- table: NAME TASK -->``.

    python benchmarks/research/tables.py            # brings docs/research/*.md up to date
    python benchmarks/research/tables.py --show gamma charlm

A cell is the mean loss at the end over the seeds that a variant got, at the learning rate that is best in that mean
among those with the most seeds; the number of seeds stands beside it. Differences are paired with the reference, seed
by seed, at each side's own best learning rate.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lab import PUBLISHED, RESULTS, VALLEYS, Key, final, read  # noqa: E402
from questions import MIDDLE, PRESET, QUESTIONS, TASKS, Question  # noqa: E402

import sealed  # noqa: E402
from comparison.scores import Curve, steps_to  # noqa: E402
from sabun.poc.judgement.kpis import lr_tolerance_decades  # noqa: E402

PAGES = HERE.parent.parent / "docs" / "research"
MARKER = re.compile(r"<!-- table: (\S+) (\S+) -->.*?<!-- end -->", re.DOTALL)


@dataclass(frozen=True)
class Best:
    """A variant at its best learning rate: loss by seed."""

    lr: float
    losses: dict[int, float]

    @property
    def mean(self) -> float:
        return math.fsum(self.losses.values()) / len(self.losses)


def best(rows: Iterable[dict], task: str, arm: str) -> Best | None:
    """The learning rate with the lowest mean among those with the most seeds."""
    by_lr: dict[float, dict[int, float]] = {}
    for row in rows:
        if row["task"] == task and row["arm"] == arm:
            by_lr.setdefault(row["lr"], {})[row["seed"]] = final(row)
    if not by_lr:
        return None
    most = max(map(len, by_lr.values()))
    lr = min((lr for lr in by_lr if len(by_lr[lr]) == most), key=lambda lr: sum(by_lr[lr].values()))
    return Best(lr, by_lr[lr])


def table(rows: list[dict], question: Question, task: str) -> str:
    """One question on one task as Markdown, best first."""
    found = {label: best(rows, task, arm) for label, arm in question.arms.items()}
    known = {label: value for label, value in found.items() if value is not None}
    reference = known.get(question.reference)
    lines = ["| variant | loss | seeds | best lr | against the reference |", "|---|---:|---:|---:|---:|"]
    for label, value in sorted(known.items(), key=lambda item: (-len(item[1].losses), item[1].mean)):
        against = ""
        if label == question.reference:
            against = "reference"
        elif reference is not None:
            both = sorted(set(value.losses) & set(reference.losses))
            gaps = [value.losses[seed] - reference.losses[seed] for seed in both]
            if gaps and all(map(math.isfinite, gaps)):
                against = f"{statistics.mean(gaps):+.4f}" + (
                    f" ± {statistics.stdev(gaps):.4f}" if len(gaps) > 1 else ""
                )
        lines.append(f"| {label} | {value.mean:.4f} | {len(value.losses)} | {value.lr:.2g} | {against} |")
    return "\n".join(lines)


def defaults(rows: list[dict], arm: str, tasks: Iterable[str]) -> str:
    """Mean loss at each learning rate of the grid, one line a task, over the seeds that all those rates have; last the
    geometric mean over tasks of loss / best."""
    tasks = list(tasks)
    by_task: dict[str, dict[float, dict[int, float]]] = {}
    for row in rows:
        if row["arm"] == arm and row["task"] in tasks:
            by_task.setdefault(row["task"], {}).setdefault(row["lr"], {})[row["seed"]] = final(row)
    common = sorted(set.intersection(*(set(found) for found in by_task.values()))) if len(by_task) == len(tasks) else []
    lines = ["| task | " + " | ".join(f"lr {lr:.2g}" for lr in common) + " |", "|---|" + "---:|" * len(common)]
    totals = dict.fromkeys(common, 0.0)
    for task, found in by_task.items():
        seeds = set.intersection(*(set(found[lr]) for lr in common)) if common else set()
        means = {lr: statistics.mean(found[lr][seed] for seed in seeds) for lr in common}
        for lr in common:
            totals[lr] += math.log(means[lr] / min(means.values())) / len(by_task)
        lines.append(f"| {task} ({len(seeds)} seeds) | " + " | ".join(f"{means[lr]:.4f}" for lr in common) + " |")
    lines.append(
        "| geometric mean of loss / best | " + " | ".join(f"{math.exp(totals[lr]):.4f}" for lr in common) + " |"
    )
    return "\n".join(lines)


def duel(ours: Iterable[Curve], theirs: Iterable[Curve]) -> list[float]:
    """log(steps of ours / steps of theirs) for each common seed to the last loss of the worse run: both reach it. ±inf
    where only one of them diverged, nothing where both did."""
    others = {curve.seed: curve for curve in theirs}
    logs = []
    for mine in ours:
        other = others.get(mine.seed)
        if other is None or not (mine.finished or other.finished):
            continue
        if not (mine.finished and other.finished):
            logs.append(-math.inf if mine.finished else math.inf)
            continue
        goal = max(mine.final, other.final)
        left, right = (steps_to(curve.steps, curve.scores, goal) for curve in (mine, other))
        if left > 0 and right > 0:
            logs.append(math.log(left / right))
    return logs


def pace(rows: list[dict], arm: str, against: str, tasks: Iterable[str]) -> str:
    """Steps to target of ``arm`` at each learning rate over those of ``against`` at its best one (:func:`duel`), the
    geometric mean over common seeds; last that over tasks."""
    rows = [row for row in rows if row["arm"] in (arm, against)]
    logs: dict[str, dict[float, list[float]]] = {}
    for task in tasks:
        peer = best(rows, task, against)
        curves: dict[tuple[str, float], list[Curve]] = {}
        for row in (row for row in rows if row["task"] == task):
            steps = tuple(range(0, TASKS[task].steps + 1, TASKS[task].steps // TASKS[task].points))
            curve = Curve(row["seed"], steps, tuple(row["loss"]), finished=row["status"] == "finished")
            curves.setdefault((row["arm"], row["lr"]), []).append(curve)
        if peer is not None:
            logs[task] = {
                lr: found
                for (name, lr), mine in curves.items()
                if name == arm and (found := duel(mine, curves[against, peer.lr]))
            }
    common = sorted(set.intersection(*map(set, logs.values()))) if logs else []
    lines = ["| task | " + " | ".join(f"lr {lr:.2g}" for lr in common) + " |", "|---|" + "---:|" * len(common)]
    for task, found in logs.items():
        cells = [f"{math.exp(statistics.mean(found[lr])):.2f}" for lr in common]
        lines.append(f"| {task} ({min(len(found[lr]) for lr in common)} seeds) | " + " | ".join(cells) + " |")
    means = [math.exp(statistics.mean(statistics.mean(found[lr]) for found in logs.values())) for lr in common]
    return "\n".join([*lines, "| geometric mean | " + " | ".join(f"{mean:.2f}" for mean in means) + " |"])


def curve_of(rows: list[dict], question: Question, label: str, task: str) -> tuple[int, dict[float, float]]:
    """Number of seeds, and mean loss by learning rate over the seeds that all rates of the question have."""
    by_lr: dict[float, dict[int, float]] = {lr: {} for lr in question.rates[label]}
    for row in rows:
        if row["task"] == task and row["arm"] == question.arms[label] and row["lr"] in by_lr:
            by_lr[row["lr"]][row["seed"]] = final(row)
    seeds = set.intersection(*map(set, by_lr.values()))
    return len(seeds), {lr: statistics.mean(found[seed] for seed in seeds) for lr, found in by_lr.items() if seeds}


def width(curve: dict[float, float]) -> float | None:
    return lr_tolerance_decades([({"lr": lr}, loss) for lr, loss in curve.items()])


def valley(rows: list[dict], question: Question, task: str) -> str:
    """Width and depth of every label's valley, and its loss at multiples of the middle rate."""
    every = [[round(math.log2(lr / MIDDLE[label])) for lr in rates] for label, rates in question.rates.items()]
    shown = [n for n in sorted(set.intersection(*map(set, every))) if n >= -2]
    heads = " | ".join(f"× {2.0**n:g}" for n in shown)
    lines = [f"| variant | seeds | decades | best | {heads} |", "|---|---:|---:|---:|" + "---:|" * len(shown)]
    for label in question.arms:
        seeds, curve = curve_of(rows, question, label, task)
        if seeds:
            cells = " | ".join(f"{curve[MIDDLE[label] * 2.0**n]:.4g}" for n in shown)
            lines.append(f"| {label} | {seeds} | {width(curve) or 0:.2f} | {min(curve.values()):.4f} | {cells} |")
    return "\n".join(lines)


def widths(rows: list[dict], question: Question, tasks: Iterable[str]) -> str:
    """Width of the valley and its lowest loss on each task, the mean width, and that over AdamW's; for the labels that
    were run on all of the tasks."""
    tasks = list(tasks)
    found: dict[str, list[dict[float, float]]] = {}
    for label in question.arms:
        curves = [curve_of(rows, question, label, task)[1] for task in tasks]
        if all(curves):
            found[label] = curves
    means = {label: statistics.mean(width(curve) or 0.0 for curve in curves) for label, curves in found.items()}
    lines = ["| variant | " + " | ".join(tasks) + " | mean | AdamW's = 1 |", "|---|" + "---:|" * (len(tasks) + 2)]
    for label, curves in found.items():
        cells = " | ".join(f"{width(curve) or 0:.2f} ({min(curve.values()):.4f})" for curve in curves)
        against = f"{means[label] / means['AdamW']:.2f}" if "AdamW" in means else ""
        lines.append(f"| {label} | {cells} | {means[label]:.2f} | {against} |")
    return "\n".join(lines)


def caption(task: str) -> str:
    setting = TASKS[task]
    return f"{task}: validation loss after {setting.steps} steps (± standard deviation of the paired differences)"


def valley_caption(task: str) -> str:
    return (
        f"{task}: decades of learning rate within 10% of the best, the best loss, and the loss after "
        f"{TASKS[task].steps} steps at multiples of 0.03 (AdamW: of 0.003)"
    )


def is_swept(row: dict) -> bool:
    """Whether a run belongs to a question that names its rates."""
    return any(
        row["task"] in question.tasks and row["arm"] == arm and row["lr"] in question.rates[label]
        for question in QUESTIONS.values()
        for label, arm in (question.arms.items() if question.rates else ())
    )


def filled(text: str, rows: list[dict]) -> str:
    """A page with its tables made anew. Those of the valleys have their own runs beside ``rows``."""
    every = [*rows, *read(VALLEYS, RESULTS).values()]

    def fill(match: re.Match[str]) -> str:
        name, task = match.groups()
        if name == "defaults":
            made = defaults(rows, PRESET, task.split(","))
            return f"<!-- table: {name} {task} -->\n\n{made}\n\n<!-- end -->"
        if name == "pace":
            made = pace(rows, PRESET, "torch.optim:AdamW", task.split(","))
            return f"<!-- table: {name} {task} -->\n\n{made}\n\n<!-- end -->"
        if name.startswith("widths:"):
            made = widths(every, QUESTIONS[name.removeprefix("widths:")], task.split(","))
            return f"<!-- table: {name} {task} -->\n\n{made}\n\n<!-- end -->"
        if QUESTIONS[name].rates:
            made = valley(every, QUESTIONS[name], task)
            return f"<!-- table: {name} {task} -->\n\n*{valley_caption(task)}*\n\n{made}\n\n<!-- end -->"
        made = table(rows, QUESTIONS[name], task)
        return f"<!-- table: {name} {task} -->\n\n*{caption(task)}*\n\n{made}\n\n<!-- end -->"

    return MARKER.sub(fill, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", nargs=2, metavar=("QUESTION", "TASK"), help="print one table and change nothing")
    parser.add_argument("--publish", action="store_true", help="put new runs into results.jsonl first")
    given = parser.parse_args()
    apart = [row for row in read(VALLEYS, RESULTS).values() if is_swept(row)]
    rows = list(read(PUBLISHED).values())
    known = {Key.of(row) for row in (*rows, *apart)}
    rows += [row for row in read(RESULTS).values() if Key.of(row) not in known]
    if given.publish:
        for path, found in ((PUBLISHED, rows), (VALLEYS, apart)):
            sealed.write_lines(path, found)
    if given.show:
        name, task = given.show
        print(
            valley([*rows, *apart], QUESTIONS[name], task)
            if QUESTIONS[name].rates
            else table(rows, QUESTIONS[name], task)
        )
        return
    for page in sorted(PAGES.glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8"), rows), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    import piped

    piped.run(main)
