"""State in fewer bits against float32: how far trajectories part, what the loss becomes, and how many bytes it takes.

    python benchmarks/state_memory.py            # ten minutes on one core; resumes from runs/state-memory.jsonl
    python benchmarks/state_memory.py --quick    # one task, one seed, a tenth of the steps

Each task is trained by each preset at its default learning rate (linear schedule) with the state in float32 and in each
other way, from the same weights on the same batches. Printed as Markdown:

- **distance**: ‖θ − θ₃₂‖ / ‖θ₃₂ − θ₀‖ after the stated number of steps, with θ₃₂ from state in float32; geometric mean
  over seeds. Training amplifies every difference, so the yardstick is a run in float32 whose initial weights are
  changed by one part in a million.
- **loss**: final score over that with state in float32, geometric mean over seeds with its 95% interval (Student's t on
  logarithms).
- **bytes**: of the state, for each parameter of the model, scales included.

``nearest`` rounds to the nearest level in place of at random. It is no option, but the alternative that was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import scipy  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from comparison.families import TASKS, Setting  # noqa: E402
from comparison.training import factor  # noqa: E402
from sabun.optim import create, state_storage  # noqa: E402

CASES = {"housing": 300, "shakespeare-fused": 80, "skip-gram": 120}
"""Tasks of the comparison, and the number of steps."""
WAYS = ("float32", "perturbed", "bfloat16", "8bit", "bfloat16, nearest", "8bit, nearest")
PRESETS = {"adamw": WAYS, "sabun": WAYS[:4]}
SEEDS = range(5)
MARK = 10
RUNS = Path("runs/state-memory.jsonl")


def store_nearest(stored: Any, scales: Any, values: Any, *, signed: bool, **noise: Any) -> None:
    for i, (tensor, x) in enumerate(zip(stored, values, strict=True)):
        if scales is None:
            tensor.copy_(x)
        else:
            state_storage.encode(x, tensor, scales[i], None, signed=signed)


def train(case: str, preset: str, way: str, seed: int, share: float) -> tuple[dict[int, Tensor], float, float]:
    """The weights after some steps, the final score, and the bytes of state for each parameter."""
    steps = max(2, round(CASES[case] * share))
    session = TASKS[case].session(Setting(steps, seed))
    params = [*session.model.parameters()]
    if way == "perturbed":
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in params:
                p.mul_(1 + 1e-6 * torch.randn(p.shape, generator=noise))
    dtype, _, nearest = way.partition(", ")
    storing = state_storage.store
    state_storage.store = store_nearest if nearest else storing
    # The foreach step, whose rounding can be replaced by that to nearest.
    options = {"state_dtype": dtype, "fused": None} if dtype in ("bfloat16", "8bit") else {}
    optimizer = create(preset, session.model, **options)
    base = optimizer.param_groups[0]["lr"]
    weights = {0: flat(params)}
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = base * factor("linear", step, steps)
        optimizer.zero_grad()
        session.loss(step).backward()
        optimizer.step()
        if step + 1 in (MARK, steps):
            weights[step + 1] = flat(params)
    state_storage.store = storing
    held = sum(t.nbytes for one in optimizer.state.values() for t in one.values() if t.ndim)
    return weights, float(session.score().detach()), held / len(weights[0])


def flat(params: Iterable[Tensor]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in params]).double()


def measure(case: str, preset: str, seed: int, share: float) -> Iterable[dict[str, Any]]:
    """A row for each way."""
    exact: dict[int, Tensor] = {}
    for way in PRESETS[preset]:
        weights, score, size = train(case, preset, way, seed, share)
        exact = exact or weights
        apart = {
            n: float((w - exact[n]).norm() / (exact[n] - exact[0]).norm())
            for n, w in weights.items()
            if n and way != "float32"
        }
        yield {"case": case, "preset": preset, "way": way, "seed": seed, "share": share, "score": score, "bytes": size,
               "apart": apart}  # fmt: skip


def tables(rows: list[dict[str, Any]]) -> Iterable[str]:
    yield "| preset, task | state | bytes | distance after 10 steps | after all | loss, of float32 |"
    yield "|---|---|---|---|---|---|"
    for preset, ways in PRESETS.items():
        for case in dict.fromkeys(row["case"] for row in rows):
            of = {way: [r for r in rows if (r["preset"], r["case"], r["way"]) == (preset, case, way)] for way in ways}
            exact = {row["seed"]: row["score"] for row in of["float32"]}
            for way, found in of.items():
                if not found:
                    continue
                spots = [f"{found[0]['bytes']:.2f}"]
                if way == "float32":
                    yield f"| `{preset}`, {case} | float32 | {spots[0]} | | | 1 |"
                    continue
                for place in range(2):
                    apart = [[*row["apart"].values()][place] for row in found if len(row["apart"]) > place]
                    spots.append(f"{statistics.geometric_mean(apart):.1e}" if apart else "")
                logs = [math.log(row["score"] / exact[row["seed"]]) for row in found]
                spots.append(interval(logs))
                yield f"| | {way} | {' | '.join(spots)} |"


def interval(logs: list[float]) -> str:
    if len(logs) < 2:
        return f"{math.exp(logs[0]):.4f}"
    mean = statistics.fmean(logs)
    half = scipy.special.stdtrit(len(logs) - 1, 0.975) * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(mean):.4f} ({math.exp(mean - half):.4f}–{math.exp(mean + half):.4f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one task, one seed, a tenth of the steps")
    quick = parser.parse_args().quick
    os.chdir(ROOT)
    torch.set_num_threads(1)
    share = 0.1 if quick else 1.0
    rows: list[dict[str, Any]] = []
    if RUNS.exists() and not quick:
        rows = [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines()]
    for seed in SEEDS[:1] if quick else SEEDS:
        for case in [*CASES][:1] if quick else CASES:
            for preset, ways in PRESETS.items():
                known = [r for r in rows if (r["case"], r["preset"], r["seed"]) == (case, preset, seed)]
                if len(known) == len(ways):
                    continue
                made = [*measure(case, preset, seed, share)]
                rows = [row for row in rows if row not in known] + made
                if not quick:
                    RUNS.parent.mkdir(exist_ok=True)
                    RUNS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print("\n".join(tables(rows)))
    return 0


if __name__ == "__main__":
    import piped

    piped.run(main)
