"""How often the demonstration (``make poc``) gives the same verdicts when everything random in it is drawn again.

    python benchmarks/demo_stability.py [--repeats 20] [--first 200] [--out runs/demo-stability]

Each repeat is the whole study with another root seed: other initial weights, mini-batches and tuning trials.
Prints, for each candidate, in how many of the repeats it had each verdict, and the range of the effects. A repeat is
one line of ``repeats.jsonl``; an interrupted command continues. The demonstration was chosen on the seeds 100 and 101
and its tuning on 200 to 215, which are not among those of the repeats, nor is its own. ``--busy N`` keeps N processes
busy meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sealed
from sabun.poc.judgement.assess import assess
from sabun.poc.judgement.kpis import GROUPS
from sabun.poc.spec import Study
from sabun.poc.study import DEFAULT_SEED, demonstration, run

SHOWN = {"final_loss": "{:+.1%}", "spread": "{:.2f}×", "epoch_s": "{:.2f}×"}
"""The KPIs that decide, in the order of their groups, and how their effects are written."""
ENDS = ("effect", "low", "high")


def one(seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run the demonstration with the root seed ``seed`` and return its verdicts."""
    study = Study.build({**demonstration().model_dump(mode="json"), "seed": seed})
    place = given.out / f"study-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    evidence = run(study, place)
    found = assess(study, evidence.runs, evidence.tuning)
    shutil.rmtree(place)
    rows = {(row.arm, row.kpi): row for row in found.comparisons}
    return {
        "seed": seed,
        "arms": {
            verdict.arm: {
                "decision": verdict.decision,
                "reasons": {reason.kpi: [reason.outcome, reason.code] for reason in verdict.reasons},
                "effects": {kpi: [getattr(rows[verdict.arm, kpi], end) for end in ENDS] for kpi in SHOWN},
            }
            for verdict in found.verdicts
        },
    }  # fmt: skip


def table(repeats: list[dict[str, Any]]) -> str:
    """Return the table of verdicts, in Markdown."""
    n = len(repeats)
    lines = [
        f"| candidate ({n} repeats) | verdicts | learning curve | reproducibility | computing cost |",
        "|---|---|---|---|---|",
    ]
    for arm in repeats[0]["arms"]:
        own = [repeat["arms"][arm] for repeat in repeats]
        decisions = Counter(found["decision"] for found in own)
        said = ", ".join(f"{name} {count}" for name, count in decisions.most_common())
        cells = []
        for group, (kpi, style) in zip(GROUPS, SHOWN.items(), strict=True):
            outcomes = Counter(found["reasons"][group][0] for found in own)
            effects = sorted(found["effects"][kpi][0] for found in own if found["effects"][kpi][0] is not None)
            span = f"{style.format(effects[0])} to {style.format(effects[-1])}" if effects else "–"
            cells.append(f"{', '.join(f'{name} {count}' for name, count in outcomes.most_common())} ({span})")
        lines.append(f"| {arm} | {said} | {' | '.join(cells)} |")
    return "\n".join(lines)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep ``count`` processes busy."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--first", type=int, default=300, help="root seed of the first repeat")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-stability"))
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="number of processes that load the machine")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "repeats.jsonl"
    done = sealed.read_lines(file) if file.exists() else []
    with busy(given.busy):
        for seed in range(given.first, given.first + given.repeats):
            if seed == DEFAULT_SEED or any(repeat["seed"] == seed for repeat in done):
                continue
            done.append(one(seed, given))
            sealed.append(file, done[-1])
            print(f"repeat {len(done)} of {given.repeats}", file=sys.stderr)
    print(table(done))


if __name__ == "__main__":
    import piped

    piped.run(main)
