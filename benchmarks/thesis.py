"""Does a smaller truncation error train better? The experiments behind docs/thesis.md.

    python benchmarks/thesis.py run                 # trainings, resumable; about half an hour on one core
    python benchmarks/thesis.py run --part plane    # one part of them
    python benchmarks/thesis.py time                # seconds a gradient evaluation: wants a quiet machine
    python benchmarks/thesis.py render              # tables and pictures of docs/thesis.md from the stored records

Every scheme gets the same number of gradient evaluations and a learning rate of its own, from a factor-2 grid that is
extended until the best value lies inside, by the mean over seeds. Records: ``benchmarks/results/thesis.jsonl``.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "research")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from lab import Key, Lab, read  # noqa: E402
from questions import Setting  # noqa: E402

import sealed  # noqa: E402
from sabun import schemes  # noqa: E402
from sabun.optim import Optimizer, RungeKutta  # noqa: E402
from sabun.poc.seeds import Seeds  # noqa: E402
from sabun.poc.spec import Arm  # noqa: E402
from sabun.poc.tasks import loading as tasks  # noqa: E402
from sabun.script import arms  # noqa: E402

RECORDS = Path("runs/thesis.jsonl")
PUBLISHED = Path("benchmarks/results/thesis.jsonl")
FLOW = Path("benchmarks/results/thesis-flow.json")
SECONDS = Path("benchmarks/results/thesis-seconds.json")
PAGE = Path("docs/thesis.md")
IMAGES = Path("docs/images")


def _setting(kind: str, points: int, interval: int, **options: Any) -> Setting:
    return Setting(f"benchmarks/paced.py:{kind}", {"interval": interval, **options}, points, 90_002)


REGIMES: Mapping[str, tuple[str, Setting]] = {
    "noise": ("small batches: digits, 16 of 1,077 images per step", _setting("Digits", 4, 60, batch_size=16)),
    "full": ("full batch: digits, all 1,077 images per step", _setting("Digits", 4, 60, batch_size=1077)),
    "small": ("small data: diabetes, 264 patients, 16 per step", _setting("Diabetes", 4, 60)),
}
"""All with 240 gradient evaluations: divisible by 1, 2, 3, 4 and 5, so that every method spends them all."""

SCHEMES = (
    "euler", "adams-bashforth-2", "taylor-4", "adams-bashforth-3", "difference-5", "wide-2-6", "wide-3-7",
    "heavy-ball", "nesterov", "look-ahead(0.9, 2.0)", "order-two", "heun", "kutta-3", "rk4", "chebyshev", "rkc2",
)  # fmt: skip
BETAS = (0.0, 0.5, 0.8, 0.9, 0.95)
GAMMAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SEEDS = 3


def plane_arm(beta: float, gamma: float) -> str:
    return "euler" if beta == gamma == 0 else f"look-ahead({beta}, {gamma})"


def training_loss(row: Mapping[str, Any]) -> float:
    """Mean loss on the training batches of the last quarter of the budget; infinite for a run that was lost."""
    value = row["train"][-1] if row["status"] == "finished" and row["train"] else math.inf
    return value if math.isfinite(value) else math.inf


def validation_loss(row: Mapping[str, Any]) -> float:
    """Validation loss at the end; infinite for a run that was lost."""
    return row["loss"][-1] if row["status"] == "finished" else math.inf


def bracket(lab: Lab, arm: str) -> None:
    """Train on a factor-2 grid until the best learning rate by mean training loss has worse neighbours."""
    centre = arms.recipe(Arm.named(arm)).step

    def loss(n: int) -> float:
        for seed in range(SEEDS):
            lab.loss(arm, centre * 2.0**n, seed)
        return statistics.mean(
            training_loss(lab.known[Key(lab.name, arm, centre * 2.0**n, seed)]) for seed in range(SEEDS)
        )

    grid = {n: loss(n) for n in (-1, 0, 1)}
    while True:
        best = min(grid, key=lambda n: grid[n])
        missing = [n for n in (best - 1, best + 1) if n not in grid]
        if not missing or abs(best) > 12:
            return
        grid |= {n: loss(n) for n in missing}


def run(part: str) -> None:
    for name, (_, setting) in REGIMES.items():
        lab = Lab(name, setting, RECORDS)
        lab.known |= read(PUBLISHED)
        chosen: list[str] = []
        if part in ("schemes", "all"):
            chosen += SCHEMES
        if part in ("plane", "all") and name != "small":
            chosen += [plane_arm(beta, gamma) for beta in BETAS for gamma in GAMMAS]
        for arm in dict.fromkeys(chosen):
            bracket(lab, arm)


# ------------------------------------------------------------------ how closely does a scheme follow the flow?


FLOW_SCHEMES = ("euler", "heavy-ball", "adams-bashforth-2", "taylor-4", "difference-5", "heun", "rk4")
FLOW_TIME = 12.8


def follow(scheme: str, steps: int, evaluations: int) -> tuple[torch.Tensor, float]:
    """Parameters and full-batch loss after the flow time FLOW_TIME in ``steps`` steps of ``scheme``, in float64."""
    task = tasks.load("digits", {"batch_size": 1077})
    session = task.session(Seeds(5, 5))
    model = session.model.double()
    x, y = (part.double() if part.is_floating_point() else part for part in task.splits["train"].tensors)
    kind = RungeKutta if evaluations > 1 else Optimizer
    options = {} if evaluations > 1 else {"start_up": "hold"}
    optimizer = kind(model.parameters(), lr=FLOW_TIME / steps, scheme=scheme, **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    with torch.no_grad():
        loss = float(torch.nn.functional.cross_entropy(model(x), y))
    return torch.cat([p.detach().flatten() for p in model.parameters()]), loss


def measure_flow() -> None:
    """Distance to the gradient flow at one flow time, against the step length. The flow: RK4 with 2,048 steps."""
    flow, loss = follow("rk4", 2048, 4)
    start, _ = follow("euler", 1, 1)
    length = float((flow - start).norm())
    rows = []
    for scheme in FLOW_SCHEMES:
        cost = int(getattr(schemes.get(scheme), "gradient_evaluations", 1))
        for power in range(4, 11):
            steps = 2**power
            at, value = follow(scheme, steps, cost)
            apart = float((at - flow).norm()) / length
            sound = math.isfinite(apart) and math.isfinite(value)
            rows.append(
                {
                    "scheme": scheme, "lr": FLOW_TIME / steps, "evaluations": cost * steps,
                    "distance": apart if sound else None, "loss": value if sound else None,
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    FLOW.parent.mkdir(parents=True, exist_ok=True)
    FLOW.write_text(sealed.dumps({"time": FLOW_TIME, "loss": loss, "rows": rows}, indent=0) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ seconds


def measure_seconds(rounds: int = 60) -> None:
    """Median seconds a gradient evaluation (forward, backward, and its share of the step), Euler's = 1, interleaved."""
    task = tasks.load("digits", {"batch_size": 16})
    made = []
    for name in SCHEMES:
        session = task.session(Seeds(1, 1))
        optimizer = arms.recipe(Arm.named(name)).build(session.model, {"lr": 1e-3})
        made.append((name, session, optimizer, [], int(getattr(optimizer, "gradient_evaluations", 1))))
    for n in range(rounds):
        for _, session, optimizer, laps, cost in made:

            def closure(session: Any = session, optimizer: Any = optimizer, n: int = n) -> torch.Tensor:
                optimizer.zero_grad()
                loss = session.loss(n % 60)
                loss.backward()
                return loss

            began = time.perf_counter()
            for _ in range(5):
                optimizer.step(closure)
            laps.append((time.perf_counter() - began) / 5 / cost)
    base = made[0][3]
    ratios = {
        name: statistics.median(a / b for a, b in zip(laps[5:], base[5:], strict=True)) for name, _, _, laps, _ in made
    }
    SECONDS.parent.mkdir(parents=True, exist_ok=True)
    rounded = {name: float(f"{ratio:.3g}") for name, ratio in ratios.items()}
    SECONDS.write_text(sealed.dumps(rounded, indent=0) + "\n", encoding="utf-8")
    print(rounded)


# ------------------------------------------------------------------ tables and pictures


Rows = Sequence[Mapping[str, Any]]


def chosen(rows: Rows, regime: str, arm: str, score: Callable[[Mapping[str, Any]], float]) -> tuple[float, list[Any]]:
    """The learning rate with the lowest mean score over all seeds, and its rows. (inf, []) where there is none."""
    by_lr: dict[float, list[Any]] = {}
    for row in rows:
        if row["task"] == regime and row["arm"] == arm:
            by_lr.setdefault(row["lr"], []).append(row)
    whole = {lr: found for lr, found in by_lr.items() if len(found) >= SEEDS}
    if not whole:
        return math.inf, []
    lr = min(whole, key=lambda lr: statistics.mean(map(score, whole[lr])))
    return lr, sorted(whole[lr], key=lambda row: row["seed"])


def scheme_table(rows: Rows, regime: str, seconds: Mapping[str, float]) -> list[str]:
    lines = [
        "| scheme | order | gradients per step | stable to hλ | best lr | training loss | validation loss | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    found = []
    for arm in SCHEMES:
        lr, best = chosen(rows, regime, arm, training_loss)
        if not best:
            continue
        scheme = schemes.get(arm)
        interval = schemes.certify(scheme).stability_interval
        training = [training_loss(row) for row in best]
        _, by_validation = chosen(rows, regime, arm, validation_loss)
        validation = [validation_loss(row) for row in by_validation]
        stages = scheme.gradient_evaluations
        found.append(
            (
                statistics.mean(training),
                f"| {arm} | {scheme.order} | {stages} | {float(interval):.3g} | {lr:.3g} | {_cell(training)} "
                f"| {_cell(validation)} | {seconds.get(arm, 'not measured')} |",
            )
        )
    return [*lines, *(line for _, line in sorted(found))]


def _cell(values: Sequence[float]) -> str:
    if not all(map(math.isfinite, values)):
        return "lost"
    return f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.1g}"


def plane_rows(rows: Rows, regime: str) -> list[dict[str, Any]]:
    made = []
    for beta in BETAS:
        for gamma in GAMMAS:
            lr, best = chosen(rows, regime, plane_arm(beta, gamma), training_loss)
            if best:
                loss = statistics.mean(map(training_loss, best))
                made.append({"beta": str(beta), "gamma": f"{gamma:g}", "loss": loss, "lr": lr})
    return made


def plane_chart(rows: Rows) -> Any:
    import altair as alt

    charts = []
    for regime in ("noise", "full"):
        cells = plane_rows(rows, regime)
        if not cells:
            continue
        best = min(cells, key=lambda cell: cell["loss"])
        for cell in cells:
            cell["times"] = cell["loss"] / best["loss"]
            cell["text"] = f"{cell['times']:.2f}" if cell["times"] < 10 else f"{cell['times']:.0f}"
            cell["order"] = _order_two(float(cell["beta"]), float(cell["gamma"]))
        base = alt.Chart(alt.Data(values=cells)).encode(
            x=alt.X("beta:N", title="β (memory)", sort=[str(b) for b in BETAS], axis=alt.Axis(labelAngle=0)),
            y=alt.Y("gamma:N", title="γ (look-ahead)", sort=[f"{g:g}" for g in reversed(GAMMAS)]),
        )
        heat = base.mark_rect(stroke="white").encode(
            color=alt.Color(
                "times:Q", title="loss / best", scale=alt.Scale(scheme="viridis", reverse=True, type="log")
            ),
            tooltip=["beta:N", "gamma:N", alt.Tooltip("loss:Q", format=".4g"), alt.Tooltip("lr:Q", format=".3g")],
        )
        text = base.mark_text(fontSize=11).encode(
            text="text:N", color=alt.condition("datum.times > 2", alt.value("white"), alt.value("black"))
        )
        near = base.transform_filter("datum.order").mark_rect(fill=None, stroke="#D55E00", strokeWidth=2.5)
        title = {"text": REGIMES[regime][0], "subtitle": "training loss at the best lr, times the best cell's"}
        charts.append(alt.layer(heat, text, near).properties(width=300, height=300, title=title))
    return alt.hconcat(*charts, spacing=40).resolve_scale(color="independent")


def _order_two(beta: float, gamma: float) -> bool:
    """Whether the cell is the one of its column nearest to second order, γ* = (1+β)/(2(1−β)) (on a log scale)."""
    exact = (1 + beta) / (2 * (1 - beta))
    nearest = min((g for g in GAMMAS if g > 0), key=lambda g: abs(math.log(g / exact)))
    return gamma == nearest and abs(math.log(gamma / exact)) < math.log(2)


def rate_chart(rows: Rows) -> Any:
    import altair as alt

    from pictures import lines

    charts = []
    shown = ("euler", "adams-bashforth-2", "heavy-ball", "nesterov", "order-two", "rk4", "chebyshev")
    for regime in ("noise", "full"):
        found: dict[tuple[str, float], list[float]] = {}
        for row in rows:
            if row["task"] == regime and row["arm"] in shown:
                found.setdefault((row["arm"], row["lr"]), []).append(training_loss(row))
        points = [
            {"scheme": arm, "lr": lr, "loss": statistics.mean(losses)}
            for (arm, lr), losses in sorted(found.items())
            if all(map(math.isfinite, losses)) and statistics.mean(losses) < 3
        ]
        if points:
            charts.append(
                lines(
                    points, x="lr", y="loss", colour="scheme", order=shown, log_y=True, width=330,
                    title=REGIMES[regime][0], subtitle="at 240 gradient evaluations, mean of 3 seeds",
                    x_title="learning rate = time step h of the flow", y_title="training loss",
                )
            )  # fmt: skip
    return alt.hconcat(*charts, spacing=40)


def flow_chart(flow: Mapping[str, Any]) -> Any:
    import altair as alt

    from pictures import lines

    rows = [row for row in flow["rows"] if row["distance"] is not None and row["distance"] < 3]
    left = lines(
        rows, x="lr", y="distance", colour="scheme", order=FLOW_SCHEMES, log_y=True, width=330,
        title="Accuracy: distance to the gradient flow", subtitle=f"at flow time {flow['time']}, full batch",
        x_title="learning rate = time step h", y_title="distance / length of the way",
    )  # fmt: skip
    right = lines(
        rows, x="lr", y="loss", colour="scheme", order=FLOW_SCHEMES, log_y=False, width=330,
        title="Loss at the same flow time", subtitle="whoever follows the flow arrives at the flow's own loss",
        x_title="learning rate = time step h", y_title="training loss",
    )  # fmt: skip
    return alt.hconcat(left, right, spacing=40)


MARKER = re.compile(r"<!-- table: (\S+) -->.*?<!-- end -->", re.DOTALL)


def filled(text: str, rows: Rows, seconds: Mapping[str, float]) -> str:
    """The page with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        regime = match.group(1)
        table = "\n".join(scheme_table(rows, regime, seconds))
        return f"<!-- table: {regime} -->\n\n*{REGIMES[regime][0]}; mean of {SEEDS} seeds*\n\n{table}\n\n<!-- end -->"

    return MARKER.sub(fill, text)


def render() -> None:
    from pictures import save

    rows = list({**read(PUBLISHED), **read(RECORDS)}.values())
    sealed.write_lines(PUBLISHED, rows)
    seconds = sealed.read(SECONDS) if SECONDS.exists() else {}
    save(plane_chart(rows), IMAGES / "thesis-plane.svg")
    save(rate_chart(rows), IMAGES / "thesis-rates.svg")
    if FLOW.exists():
        save(flow_chart(sealed.read(FLOW)), IMAGES / "thesis-flow.svg")

    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), rows, seconds), encoding="utf-8")
    print(PAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "flow", "time", "render"])
    parser.add_argument("--part", choices=["schemes", "plane", "all"], default="all")
    given = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    if given.what == "run":
        run(given.part)
    elif given.what == "flow":
        measure_flow()
    elif given.what == "time":
        measure_seconds()
    else:
        render()


if __name__ == "__main__":
    import piped

    piped.run(main)
