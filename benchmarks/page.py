"""The benchmark's page in the docs: a pure function of the stored records. No figure in it is typed by hand."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from contest import ADAMWS, ARMS, BASELINE, COMPILED, CONTESTANTS, MUONS, OURS, PROFILES, STUDIES, UNTUNED
from evidence import Arm, Evidence
from scores import (
    Estimate,
    Unit,
    apart,
    at_the_cost_of,
    better_by_tuning,
    diverged,
    each_against_the_rest,
    mean_ratio,
    profile,
    spread_ratio,
    tolerance,
    worst_of,
)

__all__ = ["ADAMW_TUNED", "MUON_TUNED", "Claim", "charts", "claims", "page", "with_tuned"]

MUON_TUNED = "Muon + AdamW, β tuned"
ADAMW_TUNED = "AdamW, λ tuned"
FUSED = "AdamW and SGD with `fused=True`"
PEERS = (*ADAMWS, "SGD, Nesterov", "NAdamW", *MUONS, "schedule-free AdamW", "SOAP", "MARS", "Lion")


def with_tuned(evidence: Evidence) -> Evidence:
    """With the arms that are the best of several settings by tuning."""
    return better_by_tuning(better_by_tuning(evidence, MUONS, MUON_TUNED), ADAMWS, ADAMW_TUNED)


class Claim(NamedTuple):
    """One claim, from the records. ``value`` is held against ``target``; ``compiled`` is the value with torch's
    compiled step for AdamW and SGD, ``in_compiled`` its estimate; both are None where that makes no difference or was
    not clocked."""

    text: str
    target: float
    value: float | None
    seconds: Estimate | None = None
    steps: Estimate | None = None
    compiled: float | None = None
    in_compiled: Estimate | None = None


def claims(evidence: Evidence) -> list[Claim]:
    """All that was to be shown."""
    e = with_tuned(evidence)
    compiled = with_tuned(at_the_cost_of(evidence, COMPILED))

    def ratio(text: str, target: float, of: Callable[[Evidence, Unit], Estimate | None], *, torchs: bool) -> Claim:
        seconds, steps = of(e, "seconds"), of(e, "steps")
        other = of(compiled, "seconds") if torchs else None
        return Claim(
            text, target, seconds.value if seconds else None, seconds, steps, other.value if other else None, other
        )

    rows = [
        ratio(
            "`sabun` against the better of tuned AdamW and SGD-Nesterov on each task", 0.60,
            lambda e, unit: worst_of(e, OURS, (BASELINE, "SGD, Nesterov"), unit), torchs=True,
        ),
        ratio(
            "against Muon+AdamW, learning rate tuned", 0.85,
            lambda e, unit: mean_ratio(e, OURS, MUONS[0], unit), torchs=False,
        ),
        ratio(
            "against Muon+AdamW, momentum tuned too", 0.95,
            lambda e, unit: mean_ratio(e, OURS, MUON_TUNED, unit), torchs=False,
        ),
        ratio(
            "against the best peer of each task", 1.00, lambda e, unit: worst_of(e, OURS, PEERS, unit), torchs=True
        ),
        ratio(
            "`sabun`, untuned, against tuned AdamW", 0.85,
            lambda e, unit: mean_ratio(e, UNTUNED, BASELINE, unit), torchs=True,
        ),
    ]  # fmt: skip
    spread = spread_ratio(e, OURS, BASELINE)
    rows.append(Claim("spread over seeds against AdamW's", 0.90, spread.value if spread else None, spread))
    mine, theirs = tolerance(e, OURS), tolerance(e, BASELINE)
    wider = mine / theirs if mine is not None and theirs else None
    rows.append(Claim("learning-rate tolerance in decades, AdamW's = 1 (at least)", 1.5, wider))
    lost = diverged(e, OURS)[0] + diverged(e, UNTUNED)[0]
    rows.append(Claim("diverged runs of `sabun`", 0.0, float(lost)))
    rows += [
        Claim(
            f"seconds per step on {task}, AdamW's = 1", 1.10, arms[OURS].cost,
            compiled=_over(arms[OURS].cost, compiled.tasks.get(task, {}).get(BASELINE)),
        )
        for task, arms in e.tasks.items()
        if task.startswith(("cifar10", "charlm")) and OURS in arms
    ]  # fmt: skip
    return rows


def _over(cost: float | None, other: Arm | None) -> float | None:
    return cost / other.cost if cost and other is not None and other.cost else None


def reached(text: str, target: float, value: float | None) -> bool | None:
    """Whether a claim holds; None where nothing was measured."""
    if value is None or math.isnan(value):
        return None
    return value >= target if "at least" in text else value <= target


def charts(evidence: Evidence) -> dict[str, Any]:
    """File name → chart."""
    from pictures import profile_chart, ratio_chart

    e = with_tuned(evidence)
    peers = [*[peer for peer in PEERS if peer not in (*MUONS[1:], *ADAMWS[1:])], ADAMW_TUNED, MUON_TUNED]
    made = {}
    for unit in ("steps", "seconds"):
        rows = {f"sabun / {peer}": mean_ratio(e, OURS, peer, unit) for peer in peers}
        rows |= {f"sabun, untuned / {BASELINE}": mean_ratio(e, UNTUNED, BASELINE, unit)}
        known = {name: estimate for name, estimate in rows.items() if estimate is not None}
        if known:
            made[f"ratios-{unit}"] = ratio_chart(
                known, title=f"Time to target in {unit}: left of 1 sabun is faster",
                subtitle="dots: tasks; point: geometric mean; thin: interval over tasks, thick: over seeds",
                axis=f"ratio of {unit} to the loss that both reach",
            )  # fmt: skip
    arms = [*peers, OURS, UNTUNED]
    multiples = profile(e, arms, BASELINE)
    if any(multiples.values()):
        made["profile"] = profile_chart(
            multiples, ours=(OURS, UNTUNED), title="Performance profile: steps to tuned AdamW's final loss",
            subtitle="height at τ = 1: how often the fastest; right end: how often the target is reached at all",
        )  # fmt: skip
    return made


def page(evidence: Evidence, images: str = "images/benchmark") -> str:
    """The page as Markdown. ``images``: folder of the pictures, as seen from the page."""
    e = with_tuned(evidence)
    return "\n".join(
        [
            *_head(evidence),
            *_claims(evidence),
            *_pictures(evidence, images),
            *_losses(e),
            *_duels(e),
            *_every(evidence),
            *_rest(e),
            *_tuning(evidence),
            *_reading(evidence),
        ]
    )


def _head(evidence: Evidence) -> list[str]:
    about = evidence.about
    environment = about.get("environment", {})
    machine = environment.get("machine", {})
    versions = {"torch": environment.get("torch"), **environment.get("packages", {})}
    budgets = [study["budget"] for studies in about.get("studies", {}).values() for study in studies.values()]
    trials, seeds = max((b["trials"] for b in budgets), default=0), max((b["seeds"] for b in budgets), default=0)
    lines = [
        "# The benchmark: sabun and other optimizers with equal tuning",
        "",
        "`make benchmark` generates this page from stored records. "
        f"Profile **{evidence.profile}**: {len(evidence.tasks)} tasks; every tuned arm has {trials} trials in "
        f"a search space of equal width around its documented default, then {seeds} paired seeds. Command: "
        f"`make benchmark{' QUICK=1' if evidence.profile == 'quick' else ''}`.",
        "",
        f"Machine: {machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores, device "
        f"{environment.get('device', '?')}, one thread per run. Versions: "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        + ".",
        "",
    ]  # fmt: skip
    if not about.get("quiet", True):
        lines += [
            "> **The machine was shared during the benchmark.** Losses and steps do not depend on the clock and are "
            "exact. "
            "Seconds are medians of runs without another run of the benchmark in parallel, but not on an idle machine, "
            "so the columns in seconds are approximate.",
            "",
        ]  # fmt: skip
    studies = about.get("studies", {})
    missing = [task for task in PROFILES[evidence.profile].tasks if task not in evidence.tasks]
    missing += [
        f"{task} ({name})" for task, found in studies.items() for name in STUDIES if found and name not in found
    ]
    if missing:
        lines += [
            f"> **Incomplete: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not complete.** "
            "Means are over the rows below only, and the best of several optimizers is omitted if one of them is "
            "missing. The same command continues the benchmark.",
            "",
        ]
    if evidence.profile == "quick":
        lines += [
            "> **This is the quick profile**: small models and short runs, to test the benchmark. "
            "The results apply to such runs only.",
            "",
        ]
    return lines


def _claims(evidence: Evidence) -> list[str]:
    clocked = at_the_cost_of(evidence, COMPILED).tasks
    beside = [f"in seconds, {FUSED}"] if clocked else []
    lines = [
        "## Targets and results",
        "",
        "Ratios of time to target (below 1: `sabun` is faster). In parentheses: the 95% interval over tasks, if "
        "there are "
        "enough tasks, and the 95% interval over seeds.",
        "",
        *_compiled(evidence, list(clocked)),
        "| " + " | ".join(["claim", "target", "in seconds", *beside, "in steps", ""]) + "|",
        "|---|" + "---:|" * (3 + len(beside)) + "---|",
    ]  # fmt: skip
    outcomes = {None: "not measured", True: "reached", False: "**not reached**"}
    for claim in claims(evidence):
        holds = reached(claim.text, claim.target, claim.value)
        outcome = outcomes[holds]
        whole = claim.in_compiled is None or len(clocked) == len(evidence.tasks)  # else a mean over other tasks
        if holds and whole and reached(claim.text, claim.target, claim.compiled) is False:
            outcome += f", **not with {FUSED}**"
        cells = [
            claim.text,
            f"{'≥' if 'at least' in claim.text else '≤'} {claim.target:g}",
            _shown(claim.seconds, claim.value),
            *([_shown(claim.in_compiled, claim.compiled, "")] if beside else []),
            _shown(claim.steps, None, ""),
            outcome,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _compiled(evidence: Evidence, clocked: Sequence[str]) -> list[str]:
    """The explanation of the column with torch's compiled step; empty if no task has it."""
    if not clocked:
        return []
    missing = [task for task in evidence.tasks if task not in clocked]
    text = (
        f"*{FUSED}*: torch has an optional compiled step for these two. The column uses the same curves with the "
        "seconds "
        "per step of the compiled step. The result refers to torch's default step first."
    )
    if missing:
        text += f" It excludes {', '.join(missing)}, where that step was not timed."
    return [text, ""]


def _shown(estimate: Estimate | None, value: float | None, absent: str | None = None) -> str:
    """An estimate with its intervals, or a bare value; ``absent`` where there is neither."""
    if estimate is not None:
        return _estimate(estimate)
    return absent if value is None and absent is not None else _number(value)


def _pictures(evidence: Evidence, images: str) -> list[str]:
    alts = {
        "ratios-steps": "Ratios of steps to target of sabun to each peer",
        "ratios-seconds": "Ratios of seconds to target of sabun to each peer",
        "profile": "Performance profile of all arms",
    }
    return [
        line for name in charts(evidence) for line in (f"![{alts[name]}]({images}-{evidence.profile}-{name}.svg)", "")
    ]


def _losses(e: Evidence) -> list[str]:
    tasks = list(e.tasks)
    lines = [
        "## Final validation loss",
        "",
        "Median over seeds, with the standard deviation over seeds; **bold**: the lowest of the task.",
        "",
        "| arm | " + " | ".join(tasks) + " |",
        "|---|" + "---:|" * len(tasks),
    ]
    best = {
        task: min((_median(arm) for name, arm in arms.items() if name in CONTESTANTS), default=math.inf)
        for task, arms in e.tasks.items()
    }
    for name in CONTESTANTS:
        cells = []
        for task in tasks:
            arm = e.tasks[task].get(name)
            if arm is None:
                cells.append("")
                continue
            middle = _median(arm)
            finals = [curve.final for curve in arm.curves]
            spread = statistics.stdev(finals) if len(finals) > 1 and all(map(math.isfinite, finals)) else math.nan
            text = f"{middle:.4g} ± {spread:.2g}" if math.isfinite(spread) else f"{_number(middle)} (a run was lost)"
            cells.append(f"**{text}**" if middle == best[task] else text)
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _median(arm: Arm) -> float:
    return statistics.median(curve.final for curve in arm.curves) if arm.curves else math.inf


def _duels(e: Evidence) -> list[str]:
    tasks = list(e.tasks)
    lines = [
        "## Against each optimizer, by task",
        "",
        "Steps to target of `sabun` relative to those of the other optimizer; **above 1 `sabun` is slower**.",
        "",
        "| optimizer | mean | " + " | ".join(tasks) + " |",
        "|---|---:|" + "---:|" * len(tasks),
    ]
    rows: list[tuple[str, str, str]] = [(OURS, peer, peer) for peer in (*PEERS, ADAMW_TUNED, MUON_TUNED)]
    rows += [(UNTUNED, BASELINE, f"untuned against {BASELINE}"), (UNTUNED, "AdamW, untuned", "both untuned: AdamW")]
    for ours, peer, label in rows:
        estimate = mean_ratio(e, ours, peer)
        if estimate is not None:
            cells = [_bold(estimate.by_task.get(task)) for task in tasks]
            lines.append(f"| {label} | {_bold(estimate.value)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _every(evidence: Evidence) -> list[str]:
    """The question of the best peer asked of every tuned arm."""
    names = (*PEERS, OURS)
    steps, seconds = (each_against_the_rest(evidence, names, unit) for unit in ("steps", "seconds"))
    if not steps:
        return []
    lines = [
        "## Every arm against the best of the others",
        "",
        f"Time to target of each tuned arm relative to the best of the other {len(names) - 1} on each task. The "
        "best is the "
        "maximum over noisy ratios and chosen after the result, so a value above 1 is expected even for an arm as good "
        "as the best. Compare the row of `sabun` with the other rows. Arms that differ in momentum or weight decay "
        "only "
        "are counted separately.",
        "",
        "| arm | in steps | in seconds |",
        "|---|---:|---:|",
    ]  # fmt: skip
    for name, estimate in steps.items():
        clock = seconds.get(name)
        lines.append(f"| {name} | {_number(estimate.value)} | {_number(clock.value if clock else None)} |")
    return [*lines, ""]


def _bold(value: float | None) -> str:
    if value is None:
        return ""
    return f"**{_number(value)}**" if value > 1 else _number(value)


def _rest(e: Evidence) -> list[str]:
    lines = [
        "## Spread, tolerance, step time and memory",
        "",
        "Spread: standard deviation over seeds of the final loss. Tolerance: decades of learning rate within 10% of "
        "the best trial. Step time: seconds of a whole training step (forward, backward, optimizer) on each task, "
        "AdamW's = 1, geometric mean. State: bytes that the optimizer keeps, AdamW's = 1, geometric mean.",
        *(
            ["", "*Compiled step*: torch's AdamW and SGD with `fused=True`, untuned, for their seconds alone."]
            if any(name in arms for arms in e.tasks.values() for name in COMPILED.values())
            else []
        ),
        "",
        "| arm | spread, AdamW's = 1 | tolerance, decades | step time | state | lost runs |",
        "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for name in ARMS:
        if not any(name in arms for arms in e.tasks.values()):
            continue
        costs = [arms[name].cost for arms in e.tasks.values() if name in arms]
        if name not in CONTESTANTS:
            lines.append(f"| {name} | | | {_mean(costs)} | | |")
            continue
        spread = spread_ratio(e, name, BASELINE)
        wide = tolerance(e, name)
        sizes = [
            arms[name].state_bytes / arms[BASELINE].state_bytes
            for arms in e.tasks.values()
            if name in arms and BASELINE in arms and arms[name].state_bytes and arms[BASELINE].state_bytes
        ]
        lost, runs = diverged(e, name)
        cells = [
            _number(spread.value if spread else None),
            _number(wide),
            _mean(costs),
            _mean(sizes),
            f"{lost} of {runs}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value]
    return _number(math.exp(math.fsum(map(math.log, known)) / len(known))) if known else "not measured"


def _tuning(evidence: Evidence) -> list[str]:
    tasks = list(evidence.tasks)
    lines = [
        "## Tuned learning rates",
        "",
        "† the best trial is at the edge of the search range: the optimum may be outside.",
        "",
        "| arm | " + " | ".join(tasks) + " |",
        "|---|" + "---:|" * len(tasks),
    ]
    for name in CONTESTANTS:
        cells = []
        for task in tasks:
            arm = evidence.tasks[task].get(name)
            cells.append(f"{arm.lr:.2g}{' †' if arm.at_edge else ''}" if arm is not None and arm.lr else "")
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    starved = sorted({name for arms in evidence.tasks.values() for name, arm in arms.items() if arm.at_edge})
    if starved:
        lines += [
            "",
            f"> **Under-tuned on at least one task: {'; '.join(starved)}.** An advantage over such an arm is "
            "not conclusive; a disadvantage is.",
        ]
    return [*lines, ""]


def _reading(evidence: Evidence) -> list[str]:
    far = apart(evidence, COMPILED[BASELINE], "AdamW, untuned")
    fused = [
        "- Each optimizer uses its package's default step. "
        + _compiler(evidence.about.get("environment", {}))
        + "torch's AdamW and SGD have an optional compiled step (`fused=True`): the same method with different "
        "rounding. "
        + (
            "In these records AdamW's losses are equal with both, to the six digits stored. "
            if far == 0
            else f"In these records AdamW's losses with the two differ by at most {far:.1g} of the loss. "
        )
        + "The column for it therefore uses the curves of the tuned arms and the seconds of an untuned one, because "
        "the "
        "time of a step does not depend on the learning rate. The AdamW next to Muon, NAdamW and the packages' "
        "optimizers "
        "use their defaults.",
    ] if far is not None else []  # fmt: skip
    return [
        "## How to read it",
        "",
        "- Two runs of a seed are compared by the time to reach the final loss of the worse run. All arms except the "
        "schedule-free one decay their learning rate linearly to zero, so an early target is reached with a larger "
        "rate, "
        "and the ratios understate the better arm.",
        "- Seconds are steps times the median seconds per step, relative to AdamW with torch's default step in the "
        "same "
        "study.",
        *fused,
        "- `torch.optim.Muon` orthogonalises in bfloat16, which many CPUs do not support in hardware; the columns "
        "in steps do "
        "not depend on this.",
        "- *Muon, β tuned* is the best of three momenta, so it had three times as many trials as other arms. "
        "*AdamW, λ tuned* is the better of two weight decays, 0.01 and 1, with twice as many trials. `sabun` uses its "
        "default decay.",
        "- Records: `benchmarks/results/`. Definitions: `benchmarks/scores.py`. How the preset was chosen, and on "
        "which tasks: [research](research/index.md).",
        "",
    ]


def _compiler(environment: Mapping[str, Any]) -> str:
    """With what ``sabun`` compiled its step; nothing of records that do not say."""
    if "compiler" not in environment:
        return ""
    here = environment["compiler"]
    return f"`sabun` compiles its step if it finds a C compiler (here: {here or 'none, so it did not'}). "


def _estimate(estimate: Estimate) -> str:
    spans = [f"{_number(span[0])} to {_number(span[1])}" for span in (estimate.over_tasks, estimate.over_seeds) if span]
    return _number(estimate.value) + (f" ({'; '.join(spans)})" if spans else "")


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "not measured"
    if math.isinf(value):
        return "never"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def text_of(claimed: Sequence[Claim]) -> Mapping[str, str]:
    """Claim → one line, for the terminal."""
    return {
        claim.text: f"{_number(claim.value)} (target {'≥' if 'at least' in claim.text else '≤'} {claim.target:g})"
        + (f", with {FUSED}: {_number(claim.compiled)}" if claim.compiled is not None else "")
        for claim in claimed
    }
