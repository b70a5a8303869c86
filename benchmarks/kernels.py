"""Whether the certificate of a momentum predicts which one wins: predictions first, then runs and correlation.

    python benchmarks/kernels.py                      # development families
    python benchmarks/kernels.py --part check         # once, for the page: refused without stored predictions for it
    python benchmarks/kernels.py --predict --part check     # only writes the predictions

Each kernel is the scheme of the hidden matrices in the preset; its rate is found on a factor-2 lattice on every
task. Runs go to ``runs/kernels/``, predictions and results to ``benchmarks/results/kernels-PART.json``.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

import sealed  # noqa: E402
from comparison.contestants import ARMS, OURS  # noqa: E402
from comparison.families import CHECK, DEVELOPMENT, TASKS, part_of  # noqa: E402
from comparison.kernels import KERNELS, agreement, noise_share, predicted  # noqa: E402
from comparison.records import Book, Sizing  # noqa: E402
from comparison.search import bracket  # noqa: E402

KERNEL_OF_PRESET = "look-ahead 0.8"


def observed(book: Book, task: str, scheme: str) -> float:
    """Lowest score of a kernel at its best rate, seed 0."""
    chosen = {"scheme": scheme}
    best, _ = bracket(lambda n: book.run(task, OURS, ARMS[OURS].rate * 2.0**n, chosen, "linear", 0).best)
    return book.run(task, OURS, ARMS[OURS].rate * 2.0**best, chosen, "linear", 0).best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[DEVELOPMENT, CHECK], default=DEVELOPMENT)
    parser.add_argument("--share", type=float, default=0.5, help="share of each task's steps")
    parser.add_argument("--predict", action="store_true", help="only write the predictions")
    given = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    sizing = Sizing(given.share)
    path = Path(f"benchmarks/results/kernels-{given.part}.json")
    if path.exists():
        stored = sealed.read(path)
    elif given.part == CHECK and not given.predict:
        parser.error(f"{path} does not exist: write the predictions first (--predict), and commit them.")
    else:
        stored = {"share": given.share, "tasks": {}}
        for task in (name for name in TASKS if part_of(name) == given.part):
            steps = sizing.steps(TASKS[task].steps)
            noise = noise_share(task, steps)
            stored["tasks"][task] = {"noise": noise, "expected": predicted(noise, steps)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sealed.dumps(stored, indent=1) + "\n", encoding="utf-8")
    if given.predict:
        print(path)
        return 0
    if stored["share"] != given.share:
        parser.error(f"the stored predictions are for --share {stored['share']}")
    for task, row in stored["tasks"].items():
        if "observed" in row:
            continue
        book = Book(Path(f"runs/kernels/{task}.jsonl"), sizing)
        row["observed"] = {name: observed(book, task, scheme) for name, scheme in KERNELS.items()}
        print(f"{task:20} noise {row['noise']:.2f}  best: expected {min(row['expected'], key=row['expected'].get)}, "
              f"observed {min(row['observed'], key=row['observed'].get)}", flush=True)  # fmt: skip
    # Without hidden matrices all kernels give the same training: such a task says nothing.
    rows = [row for row in stored["tasks"].values() if len(set(row["observed"].values())) > 1]
    mean, p = agreement(*([list(row[key].values()) for row in rows] for key in ("expected", "observed")))
    kept, chosen = KERNEL_OF_PRESET, [min(row["expected"], key=row["expected"].get) for row in rows]
    logs = [math.log(row["observed"][name] / row["observed"][kept]) for row, name in zip(rows, chosen, strict=True)]
    gain = math.exp(math.fsum(logs) / len(logs))
    stored["agreement"] = {"spearman": mean, "p": p, "chosen_by_certificate": gain}
    path.write_text(sealed.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(f"mean rank correlation over {len(rows)} tasks: {mean:.2f} (permutation p = {p:.3f})")
    print(f"lowest loss with the kernel that the certificate chooses, of that with {kept}: {gain:.3f} (geometric mean)")
    return 0


if __name__ == "__main__":
    import piped

    piped.run(main)
