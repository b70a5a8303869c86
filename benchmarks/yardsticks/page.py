"""The tables of ``docs/research/external.md``, from the stored records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from comparison.contestants import OURS
from yardsticks.arms import ALL, TUNED
from yardsticks.store import read
from yardsticks.tabular import PUBLISHED

__all__ = ["EPOCHS", "STEPS", "TABLES", "TRIALS", "convergence_table", "fill", "lightbench_table", "tabular_table"]

STEPS, TRIALS, EPOCHS = 512, 6, 30
"""How much of each yardstick the commands run unless they are asked for more: what the records have."""
Record = Mapping[str, Any]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _bold(text: str, where: bool) -> str:
    return f"**{text}**" if where else text


def lightbench_table(record: Record) -> list[str]:
    """Solved tasks by arm and level, then every task with the trials that each arm needed."""
    rows, seeds = record["rows"], record["seeds"]
    lines = []
    counts = []
    for arm in ALL:
        solved = {level: [sum(s for s, _, _ in row["arms"][arm]) for row in rows if row["level"] == level]
                  for level in ("trivial", "easy")}  # fmt: skip
        both = [trials for row in rows for s, trials, _ in row["arms"][arm] if s]
        counts.append((arm, sum(solved["trivial"]), len(solved["trivial"]) * seeds, sum(solved["easy"]),
                       len(solved["easy"]) * seeds, fmean(both) if both else math.nan))  # fmt: skip
    most = max(count[1] + count[3] for count in counts)
    for arm, trivial, of, easy, of_easy, trials in counts:
        mean = "–" if math.isnan(trials) else f"{trials:.1f}"
        lines.append(
            [
                arm,
                f"{trivial} of {of}",
                f"{easy} of {of_easy}",
                _bold(str(trivial + easy), trivial + easy == most),
                mean,
            ]
        )
    tasks = len({row["task"] for row in rows})
    text = (
        [f"{tasks} of the {record['tasks']} tasks, those that all arms have run.", ""]
        if tasks < record["tasks"]
        else []
    )
    text += _table(["arm", "trivial", "easy", "solved in all", "trials, mean over the solved"], lines)
    text += ["", "Trials until a task was solved; –: not solved with all trials. Untuned arms have one trial.", ""]
    body = []
    for row in sorted(rows, key=lambda row: (row["task"], row["level"] != "trivial")):
        cells = []
        for arm in ALL:
            wins = [trials for s, trials, _ in row["arms"][arm] if s]
            cells.append(
                "–" if not wins else f"{fmean(wins):g}" + (f" ({len(wins)} of {seeds})" if len(wins) < seeds else "")
            )
        if any(cell != "–" for cell in cells):
            body.append([f"`{row['task']}`, {row['level']}", *cells])
    never = [
        f"`{row['task']}` ({row['level']})" for row in rows if not any(s for arm in ALL for s, _, _ in row["arms"][arm])
    ]
    text += _table(["task", *ALL], body)
    return [*text, "", f"Solved by none: {', '.join(sorted(never)) or 'no task'}."]


def tabular_table(record: Record) -> list[str]:
    """One table a data set: rate, scores, and what the study published."""
    text: list[str] = []
    for name in dict.fromkeys(row["set"] for row in record["rows"]):
        mine = {row["arm"]: row for row in record["rows"] if row["set"] == name}
        higher = name == "churn"
        means = {arm: fmean(row["test"]) for arm, row in mine.items()}
        best = (max if higher else min)(means.values())
        digits = 4 if best < 10 else 0
        sizes = "/".join(f"{size:,}" for size in record["sizes"][name])
        measure = "accuracy, higher is better" if higher else "root mean squared error, lower is better"
        text += [f"**{name}** ({measure}; {sizes} rows for training, validation, test)", ""]
        rows = []
        for arm in ALL:
            row = mine[arm]
            known = PUBLISHED[name].get(arm)
            rows.append([
                arm, f"{row['lr']:.3g}" + (" (at the edge)" if row["at_edge"] else ""),
                f"{fmean(row['val']):.{digits}f}",
                _bold(f"{means[arm]:.{digits}f} ± {stdev(row['test']):.{digits}f}", means[arm] == best),
                f"{fmean(row['best_epoch']):.0f}",
                "–" if known is None else f"{known[0]:.{digits}f} ± {known[1]:.{digits}f}",
            ])  # fmt: skip
        head = ["arm", "rate", "validation", "test", "best epoch", "published (tuned network, 10 seeds)"]
        text += [*_table(head, rows), "", _difference(mine, higher, digits), ""]
    return text[:-1]


def _difference(mine: Mapping[str, Record], higher: bool, digits: int) -> str:
    """Our test score against that of the best other arm, with the standard error of the difference over seeds."""
    others = {arm: fmean(row["test"]) for arm, row in mine.items() if not arm.startswith(OURS)}
    rival = (max if higher else min)(others, key=lambda arm: others[arm])
    ours, theirs = mine[OURS]["test"], mine[rival]["test"]
    error = math.sqrt(stdev(ours) ** 2 / len(ours) + stdev(theirs) ** 2 / len(theirs))
    gap = fmean(ours) - others[rival]
    better = "better" if (gap > 0) == higher else "worse"
    return (
        f"`{OURS}` is {abs(gap):.{digits}f} {better} than the best other arm ({rival}); "
        f"the standard error of that difference over seeds is {error:.{digits}f}."
    )


def convergence_table(record: Record) -> list[str]:
    """One row a preset: PyTorch's tests, and the fall of the loss in pytorch_optimizer's."""
    rows = []
    for row in record["rows"]:
        cells = [f"{row['torch']['passed']} of {row['torch']['of']}"]
        for kind in ("float32", "bfloat16", "complex64"):
            found = row[kind]
            if found is None or not found["best"]:
                cells.append("refused")
            else:
                edge = "" if found["inside"] else ", at the edge"
                cells.append(
                    f"{found['own']:g} {'✓' if found['own_passed'] else '✗'} · {found['best']:g} "
                    f"{'✓' if found['passed'] else '✗'} (rate {found['rate']:.3g}{edge})"
                )
        rows.append([f"`{row['row']}`", *cells])
    text = _table(["preset", "PyTorch, passed", "pytorch_optimizer, float32", "bfloat16", "complex64"], rows)
    failed = [f"`{row['row']}`, `{line}`" for row in record["rows"] for line in row["failed"]]
    return [*text, "", "Failed tests of PyTorch: " + ("; ".join(failed) if failed else "none") + "."]


TABLES = {"lightbench": lightbench_table, "tabular": tabular_table, "convergence": convergence_table}


def summary(records: Mapping[str, Record]) -> list[str]:
    """Where the arms stand in each yardstick that has records."""
    lines = []
    if "lightbench" in records:
        rows = records["lightbench"]["rows"]
        solved = {arm: sum(s for row in rows for s, _, _ in row["arms"][arm]) for arm in TUNED}
        some = f"{len({row['task'] for row in rows})} of {records['lightbench']['tasks']} tasks"
        lines.append(f"LightBench, {some}, solved at two levels: " + _ranked(solved, "{:.0f}", higher=True) + ".")
    for name in dict.fromkeys(row["set"] for row in records.get("tabular", {"rows": []})["rows"]):
        means = {row["arm"]: fmean(row["test"]) for row in records["tabular"]["rows"]
                 if row["set"] == name and row["arm"] in TUNED}  # fmt: skip
        form = "{:.4f}" if max(means.values()) < 10 else "{:,.0f}"
        lines.append(f"Tabular study, {name}, test: " + _ranked(means, form, higher=name == "churn") + ".")
    if "convergence" in records:
        row = next(row for row in records["convergence"]["rows"] if row["row"] == OURS)
        all_ = [row["torch"] for row in records["convergence"]["rows"]]
        lines.append(
            f"Convergence: {sum(r['passed'] for r in all_)} of {sum(r['of'] for r in all_)} of PyTorch's tests pass "
            f"over all presets, {row['torch']['passed']} of {row['torch']['of']} for `{OURS}`."
        )
    return [f"- {line}" for line in lines]


def _ranked(values: Mapping[str, float], form: str, *, higher: bool) -> str:
    ordered = sorted(values, key=lambda arm: -values[arm] if higher else values[arm])
    return ", ".join(f"{_bold(arm, arm == OURS)} {form.format(values[arm])}" for arm in ordered)


def fill(page: Path, results: Path) -> None:
    """Write the tables between their marks; a yardstick without records says that it was not run."""
    records = {name: read(path) for name in TABLES if (path := results / f"external-{name}.json").exists()}
    text = page.read_text(encoding="utf-8")
    made = {name: table(records[name]) if name in records else ["*Not run yet.*"] for name, table in TABLES.items()}
    made["summary"] = summary(records) or ["*Not run yet.*"]
    for name, lines in made.items():
        start, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        head, _, rest = text.partition(start)
        _, found, tail = rest.partition(end)
        if not found:
            raise ValueError(f"{page} has no marks for {name}")
        text = f"{head}{start}\n\n" + "\n".join(lines) + f"\n\n{end}{tail}"
    page.write_text(text, encoding="utf-8")
