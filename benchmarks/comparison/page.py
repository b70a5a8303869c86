"""The benchmark's page in the docs: protocol and, where there are records, results. No figure is typed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from comparison.contestants import ARMS, BASELINE, CANDIDATES, OURS, RIVALS, TUNED, UNTUNED, untuned
from comparison.families import CHECK, DEVELOPMENT, FAMILIES, TASKS, parts
from comparison.scores import (
    Estimate,
    Repeat,
    Results,
    Unit,
    each_against_the_rest,
    final_losses,
    loss_ratio,
    lost,
    profile,
    ratio,
    repeated,
    spread_ratio,
    step_cost,
    tolerance_ratio,
    worst_of,
)
from comparison.spaces import CENTRED

__all__ = [
    "Claim", "against", "candidates_by_task", "candidates_table", "charts", "claims", "page", "reached", "resolution",
]  # fmt: skip

PARTS = (DEVELOPMENT, CHECK)


class Claim(NamedTuple):
    """One line of the table of targets: what is claimed, the targets of both parts, and value and estimate of a part.
    ``at_least``: whether the value is to be at least the target."""

    text: str
    targets: tuple[float, float]
    of: Callable[[Results], tuple[float | None, Estimate | None]]
    at_least: bool = False


def _value(estimate: Estimate | None) -> tuple[float | None, Estimate | None]:
    return (estimate.value if estimate else None), estimate


def _rank(results: Results) -> tuple[float | None, Estimate | None]:
    order = list(each_against_the_rest(results, [name for name in TUNED if _has(results, name)]))
    return (float(order.index(OURS) + 1) if OURS in order else None), None


def _worst(results: Results) -> tuple[float | None, Estimate | None]:
    estimate = worst_of(results, OURS, _rivals(results))
    return (max(estimate.by_task.values()) if estimate else None), None


def _has(results: Results, name: str) -> bool:
    return any(name in task.arms for task in results.tasks.values())


def _rivals(results: Results) -> list[str]:
    return [name for name in RIVALS if _has(results, name)]


def _untuned_worst(results: Results) -> tuple[float | None, Estimate | None]:
    estimate = ratio(results, untuned(OURS), BASELINE)
    return (max(estimate.by_task.values()) if estimate else None), None


CLAIMS = (
    Claim("against the better of tuned AdamW and SGD", (0.42, 0.45),
          lambda r: _value(worst_of(r, OURS, (BASELINE, "SGD, Nesterov")))),
    Claim("the same in seconds, against `fused=True`", (0.42, 0.45),
          lambda r: _value(worst_of(r, OURS, (BASELINE, "SGD, Nesterov"), "seconds"))),
    Claim("against Muon + AdamW, β tuned", (0.75, 0.82), lambda r: _value(ratio(r, OURS, "Muon + AdamW"))),
    Claim("against NorMuon + AdamW, β tuned", (0.78, 0.85), lambda r: _value(ratio(r, OURS, "NorMuon + AdamW"))),
    Claim("against SOAP", (0.60, 0.65), lambda r: _value(ratio(r, OURS, "SOAP"))),
    Claim("against the best of all others of each task", (0.85, 0.95),
          lambda r: _value(worst_of(r, OURS, _rivals(r)))),
    Claim("rank among all arms, each against the best of the others", (1, 1), _rank),
    Claim("worst task against its best rival", (1.2, 1.3), _worst),
    Claim("untuned against tuned AdamW", (0.45, 0.50), lambda r: _value(ratio(r, untuned(OURS), BASELINE))),
    Claim("worst task of that", (1.2, 1.4), _untuned_worst),
    Claim("tolerance in effective steps, of AdamW's", (1.5, 1.3),
          lambda r: (tolerance_ratio(r, OURS, BASELINE), None), at_least=True),
    Claim("diverged runs", (0, 0), lambda r: (float(lost(r, OURS)[0]) if lost(r, OURS)[1] else None, None)),
    Claim("spread over seeds, of AdamW's", (0.7, 0.7), lambda r: _value(spread_ratio(r, OURS, BASELINE))),
    Claim("seconds a step, of fused AdamW, tasks of at least 2 ms", (1.03, 1.03),
          lambda r: _value(step_cost(r, OURS, BASELINE, 2e-3))),
)  # fmt: skip


def claims(results: Results) -> list[tuple[Claim, list[tuple[float | None, Estimate | None]]]]:
    """Every claim with its values on development and on check families."""
    return [(claim, [claim.of(results.only(part)) for part in PARTS]) for claim in CLAIMS]


def reached(claim: Claim, part: int, value: float | None) -> bool | None:
    """Whether a claim holds; None where nothing was measured."""
    if value is None or math.isnan(value):
        return None
    return value >= claim.targets[part] if claim.at_least else value <= claim.targets[part]


def number(value: float | None) -> str:
    """A figure of the page."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "never"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    spans = [
        f"{name} {number(span[0])}–{number(span[1])}"
        for name, span in (("tasks", estimate.over_tasks), ("families", estimate.over_families))
        if span
    ]
    return number(estimate.value) + (f" ({'; '.join(spans)})" if spans else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with an empty line after it."""
    right = "|---|" + "---:|" * (len(head) - 1)
    return ["| " + " | ".join(head) + " |", right, *("| " + " | ".join(row) + " |" for row in rows), ""]


def charts(results: Results) -> dict[str, Any]:
    """File name → chart: ratios and performance profile of each part."""
    from pictures import profile_chart, ratio_chart

    made = {}
    for part in PARTS:
        of = results.only(part)
        rows = {f"sabun / {peer}": ratio(of, OURS, peer) for peer in RIVALS}
        rows[f"sabun, untuned / {BASELINE}"] = ratio(of, untuned(OURS), BASELINE)
        known = {name: estimate for name, estimate in rows.items() if estimate is not None}
        if known:
            made[f"{part}-ratios"] = ratio_chart(
                known, title=f"Steps to target, {part} families: left of 1 sabun is faster",
                subtitle="dots: tasks; point: geometric mean; thin: interval over tasks, thick: over families",
                axis="ratio of steps to target",
            )  # fmt: skip
        arms = [name for name in (*TUNED, *UNTUNED) if _has(of, name)]
        multiples = profile(of, arms)
        if any(multiples.values()):
            made[f"{part}-profile"] = profile_chart(
                multiples, ours=(OURS, untuned(OURS)), title=f"Performance profile, {part} families",
                subtitle="height at τ = 1: how often the fastest; right end: how often the target is reached",
            )  # fmt: skip
    return made


def page(results: Results, repeats: Sequence[Results] = (), images: str = "images/benchmark") -> str:
    """The page as Markdown. ``repeats``: results of further searches."""
    lines = ["# The benchmark: sabun and other optimizers, each searched where its optimum is", "", *_head(results)]
    if results.tasks:
        lines += [*_targets(results), *resolution(results, repeats), *_pictures(results, images)]
        for part in PARTS:
            if results.only(part).tasks:
                lines += _of_part(results.only(part), part)
    return "\n".join([*lines, *_protocol()])


def _head(results: Results) -> list[str]:
    if not results.tasks:
        return [
            "> **No records are stored yet.** This page describes the protocol; `make benchmark` runs it, writes the "
            "records to `benchmarks/results/` and this page with its tables.",
            "",
        ]
    about = results.about
    machine = about.get("machine", {})
    lines = [
        f"`make benchmark{' QUICK=1' if results.profile == 'quick' else ''}` generates this page from stored records. "
        f"Profile **{results.profile}**: "
        f"{len(results.tasks)} tasks in {len({task.family for task in results.tasks.values()})} families; "
        f"{about.get('trials', '?')} trials inside the valley of each arm, {about.get('seeds', '?')} further seeds. "
        f"Machine: {machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores, device "
        f"{machine.get('device', '?')}, one thread a run; torch {about.get('torch', '?')}.",
        "",
    ]  # fmt: skip
    if not about.get("quiet", True):
        lines += ["> **The machine was shared.** Steps and losses do not depend on that; seconds do.", ""]
    if results.profile == "quick":
        lines += [
            "> **Quick profile**: one task a family, 40% of its steps, half of the trials and seeds. It tests the "
            "benchmark; cite the [full profile](benchmark.md).",
            "",
        ]
    return lines


def _targets(results: Results) -> list[str]:
    marks = {None: "", True: " ✓", False: " ✗"}
    rows = []
    for claim, values in claims(results):
        cells = [claim.text]
        for n, (value, estimate) in enumerate(values):
            shown = _estimate(estimate) if estimate is not None else number(value)
            cells += [f"{'≥' if claim.at_least else '≤'} {claim.targets[n]:g}", shown + marks[reached(claim, n, value)]]
        rows.append(cells)
    return [
        "## Targets and results",
        "",
        "Ratios of steps to target unless the line says otherwise; below 1 `sabun` is better. In parentheses: 95% "
        "intervals over tasks and over families. ✓ reached, ✗ missed.",
        "",
        *table(["claim", "target", "development", "target", "check"], rows),
    ]


def _pictures(results: Results, images: str) -> list[str]:
    return [
        line
        for name in charts(results)
        for line in (f"![{name.replace('-', ' ')}]({images}-{results.profile}-{name}.svg)", "")
    ]


def _of_part(r: Results, part: str) -> list[str]:
    tasks = list(r.tasks)
    lines = [f"## {part.capitalize()} families", "", "### Against each optimizer", ""]
    rows = []
    for peer in [*_rivals(r)]:
        found = ratio(r, OURS, peer)
        seconds, both = ratio(r, OURS, peer, "seconds"), ratio(r, OURS, peer, goal="both")
        if found or both:
            rows.append([peer, _estimate(found), number(both.value if both else None),
                         number(seconds.value if seconds else None), _span(found)])  # fmt: skip
    for label, ours, peer in (("untuned against tuned AdamW", untuned(OURS), BASELINE),
                              ("Prodigy, untuned, against tuned AdamW", untuned("Prodigy"), BASELINE),
                              ("untuned against untuned AdamW", untuned(OURS), untuned(BASELINE))):  # fmt: skip
        found, seconds = ratio(r, ours, peer), ratio(r, ours, peer, "seconds")
        both = ratio(r, ours, peer, goal="both")
        if found or both:
            rows.append([label, _estimate(found), number(both.value if both else None),
                         number(seconds.value if seconds else None), _span(found)])  # fmt: skip
    lines += table(["optimizer", "steps to target", "steps to the loss that both reach", "seconds to target",
                    "with one family left out"], rows)  # fmt: skip
    lines += ["### By task", "", "Steps to target of `sabun` relative to those of the other; **bold**: slower.", ""]
    rows = [
        [peer, *(_bold(found.by_task.get(task)) for task in tasks)]
        for peer in [*_rivals(r)]
        if (found := ratio(r, OURS, peer)) is not None
    ]
    lines += table(["optimizer", *tasks], rows)
    names = [name for name in TUNED if _has(r, name)]
    units: list[Unit] = ["steps", "seconds"]
    steps, seconds_ = (each_against_the_rest(r, names, unit) for unit in units)
    lines += ["### Every arm against the best of the others", ""]
    rows = [
        [name, number(e.value), number(max(e.by_task.values())),
         number(seconds_[name].value if name in seconds_ else None)]
        for name, e in steps.items()
    ]  # fmt: skip
    lines += table(["arm", "steps", "worst task", "seconds"], rows)
    lines += ["### Last score", "", "Median over seeds ± standard deviation; **bold**: the lowest.", ""]
    best = {task: min((final_losses(r.tasks[task], name)[0] for name in r.tasks[task].arms), default=math.nan)
            for task in tasks}  # fmt: skip
    rows = []
    for name in (name for name in ARMS if _has(r, name)):
        cells = [name]
        for task in tasks:
            middle, spread, _ = final_losses(r.tasks[task], name)
            text = f"{number(middle)}" + (f" ± {spread:.2g}" if math.isfinite(spread) else "")
            cells.append(f"**{text}**" if middle == best[task] else text)
        rows.append(cells)
    lines += table(["arm", *tasks], rows)
    lines += ["### Spread, tolerance, seconds a step", "", "Relative to AdamW (`fused=True`).", ""]
    rows = []
    for name in (name for name in ARMS if _has(r, name)):
        spread_, cost = spread_ratio(r, name, BASELINE), step_cost(r, name, BASELINE)
        bad, runs = lost(r, name)
        edges = sum(task.arms[name].at_edge for task in r.tasks.values() if name in task.arms)
        rows.append([name, number(spread_.value if spread_ else None), number(tolerance_ratio(r, name, BASELINE)),
                     number(cost.value if cost else None), f"{bad} of {runs}", str(edges)])  # fmt: skip
    head = ["arm", "spread", "tolerance", "seconds a step", "lost runs", "tasks with the optimum at an edge"]
    lines += table(head, rows)
    lines += ["### Chosen", "", "Rate and schedule of each arm.", ""]
    rows = [
        [name, *(f"{a.lr:.2g} {a.schedule}" if (a := r.tasks[t].arms.get(name)) and a.lr else "" for t in tasks)]
        for name in names
    ]
    return [*lines, *table(["arm", *tasks], rows)]


def _span(estimate: Estimate | None) -> str:
    if estimate is None or not estimate.without_family:
        return "–"
    low, high = min(estimate.without_family.values()), max(estimate.without_family.values())
    return f"{number(low)}–{number(high)}"


def _bold(value: float | None) -> str:
    if value is None:
        return "–"
    return f"**{number(value)}**" if value > 1 else number(value)


def _protocol() -> list[str]:
    split = parts()
    rows = [
        [name, FAMILIES[name].structure, part, ", ".join(f"`{t}`" for t in TASKS if TASKS[t].family == name)]
        for part in PARTS
        for name in sorted(FAMILIES)
        if split[name] == part
    ]
    arms = [
        [name, f"{arm.rate:g}", "; ".join(f"{key}: {', '.join(map(str, values))}"
                                          for key, values in arm.choices.items()) or "none"]
        for name, arm in ARMS.items()
        if name in (*TUNED, *UNTUNED)
    ]  # fmt: skip
    return [
        "## Protocol",
        "",
        f"**Families, not tasks.** {len(TASKS)} tasks in {len(FAMILIES)} families. A family as a whole is for "
        "*development* or for *check*: presets, defaults and the centres of search spaces are chosen on development "
        "families only, and the code that chooses refuses the others. Families whose tasks had been looked at while "
        "the preset was made are for development. The others, in alphabetical order within each structure, go to the "
        "part that has fewer families of that structure so far; a tie goes to development. The parts differ in what is "
        "trained and how, not always in the data: CIFAR-10 and scikit-learn's digits, on which the preset was chosen, "
        "occur in both.",
        "",
        *table(["family", "structure", "part", "tasks"], rows),
        "**Search.** Every arm is searched where its own optimum is, with the same number of trials:",
        "",
        "1. Rates on a factor-2 lattice, extended until the best one has a worse neighbour on either side. The lattice "
        "begins at the geometric mean of the arm's best rates over the development families, rivals included.",
        "2. Trials inside the valley: Sobol points, the same for every arm, over schedule, two further hyperparameters "
        "of four values each, and the rate within a factor of 2 of the best. Only these count. They leave no gap of "
        "more than a factor of 2 between rates, and every schedule occurs.",
        "3. The winner's rate is halved and doubled until the best is inside.",
        "",
        "The objective is the lowest validation loss of a run, seed 0; further seeds are evaluated once. Schedules, "
        "the same for all, each with a warm-up of 5%: linear; 1 − √t after 60%; constant with averaged weights (the "
        "schedule-free arm has its own average).",
        "",
        *table(["arm", "documented rate", "further hyperparameters"], arms),
        "**Weight decay.** The same for every arm that has the decoupled one, rivals and ours: the centre is the decay "
        "with the lowest loss over the development families, each at its best learning rate, in factors of √10 until "
        "the best has a worse neighbour on either side (`python benchmarks/suite.py --decays`). The space is that "
        "centre, none, 0.3 and 3 times it; AdEMAMix, which has two hyperparameters of its own, keeps the centre. Ours "
        "is a factor of the preset's two decays. Mean over families of the natural logarithm of the lowest loss, "
        "less that of the centre:",
        "",
        *decays_table(),
        "torch's AdamW and SGD are the compiled ones (`fused=True`), also beside Muon. Muon and NorMuon orthogonalise "
        "in the float type that is fast on the machine. SOAP's factors have at most 512 rows. PSGD Kron of "
        "pytorch_optimizer is not among the rivals: a step on a perceptron with two hidden layers of 64 takes about "
        "half a second.",
        "",
        "**Score.** The target of a task is the highest of the lowest losses of tuned AdamW's evaluation runs. Time to "
        "target is the number of steps until a run first is as low; in seconds, times the median seconds of a step, "
        "measured in turn in one process. A run that does not reach it is censored as in AlgoPerf: infinite in a "
        "performance profile; in a ratio to a run that does, four times that one's time, or the whole budget if that "
        "is more; two censored runs say nothing. *Steps to the loss that both reach* is the score of pairs: the higher "
        "of their two lowest losses.",
        "",
        "**Tolerance** is measured in *effective* steps, the root mean square of what all parameters move: the decades "
        "over which the loss stays within 10% of the best of the lattice. A limit that keeps steps from growing cannot "
        "widen it.",
        "",
        "**Intervals**: over tasks (Hartigan's typical values) and over families (bootstrap of families as clusters). "
        "Each table has the range of the figure with one family left out.",
        "",
        "**Commands**: `make benchmark` (at most 100 minutes on two quiet cores; a killed run goes on), "
        "`make benchmark QUICK=1` (at most 12 minutes; [its page](benchmark-quick.md)), "
        "`python benchmarks/suite.py --plan` (what would run, and how "
        "long it would take here), `--part development` (only what may be chosen on), `--candidates` (the preset "
        "with one ingredient changed, on development families), `--confirm` (one of them on check families), "
        "`--repeat 1` (four arms searched again).",
        "",
    ]  # fmt: skip


def decays_table() -> list[str]:
    """Markdown: what each weight decay loses against the centre of its arm."""
    rows = []
    for arm, found in CENTRED.items():
        lowest = min(found["losses"].values())
        tried = ", ".join(f"{decay}: {loss - lowest:.3f}" for decay, loss in found["losses"].items())
        rows.append([arm, f"{found['decay']:g}", tried])
    return table(["arm", "centre", "tried"], rows)


def candidates_table(results: Results) -> list[str]:
    """Markdown: the lowest loss of each candidate relative to the preset's, and the steps that it takes."""
    rows = []
    for arm in (name for name in CANDIDATES if _has(results, name)):
        loss = loss_ratio(results, arm, OURS)
        found, both = (ratio(results, arm, OURS, goal=goal) for goal in ("target", "both"))
        rows.append([arm, *map(_estimate, (loss, both, found)), _span(loss)])
    head = ["the preset with", "lowest loss", "steps to the loss that both reach", "steps to target",
            "lowest loss, one family left out"]  # fmt: skip
    return table(head, rows)


def candidates_by_task(results: Results) -> list[str]:
    """Markdown: lowest loss of each candidate relative to the preset's, by task; the lower ones in bold."""
    rows = []
    for arm in (name for name in CANDIDATES if _has(results, name)):
        by_task = found.by_task if (found := loss_ratio(results, arm, OURS)) else {}
        rows.append([arm, *(_lower(by_task.get(task)) for task in results.tasks)])
    return table(["the preset with", *results.tasks], rows)


def _lower(value: float | None) -> str:
    if value is None:
        return "–"
    return f"**{number(value)}**" if value < 1 else number(value)


def resolution(results: Results, repeats: Sequence[Results]) -> list[str]:
    """Markdown: how much of a figure another search changes."""
    rows: list[list[str]] = []
    of_pair: dict[str, list[Repeat]] = {}
    tasks = [len(results.only(part).tasks) for part in PARTS]
    for again in repeats:
        peers = [name for name in RIVALS if _has(again, name)]
        figures: list[tuple[str, str | None]] = [(name, None) for name in (OURS, *peers)]
        for ours, theirs in [*figures, *((OURS, name) for name in peers)]:
            found = repeated(results, again, ours, theirs)
            if found is None:
                continue
            factors = [found.resolution(count) for count in tasks]
            if theirs is not None:
                of_pair.setdefault(theirs, []).append(found)
            by_task = found.moved.by_task.values()
            rows.append([
                str(again.about.get("search", again.profile)), f"steps of {ours}" + (f" / {theirs}" if theirs else ""),
                str(len(by_task)), number(found.moved.value), f"{number(min(by_task))}–{number(max(by_task))}",
                number(found.spread), *map(number, factors),
            ])  # fmt: skip
    if not of_pair:
        return []
    pooled = [Repeat.pooled(found) for found in of_pair.values()]
    single, *widest = (max(one.resolution(count) for one in pooled) for count in (1, *tasks))
    head = ["other search", "figure", "tasks", "it / this one", "by task", "spread", "resolution, development",
            "resolution, check"]  # fmt: skip
    spans = [f"{number(1 / factor)} and {number(factor)}" for factor in widest]
    return [
        "## Resolution",
        "",
        "Targets, evaluation seeds and the preset are the same in another search; only its choices differ. "
        "*again*: around the same centre, with other trials and another seed, on eleven quicker development "
        "tasks (`python benchmarks/suite.py --repeat 1`). *former*: the whole search before each "
        "arm's weight decay had a centre of its own (`git show 8363f50:benchmarks/results/full.json`; "
        "`repeat-former.json` was cut out of it by hand and holds its evaluation runs of these four arms): the same "
        "but for the decays tried, so its mean holds what that rule changed, too. *Spread*: the factor by which one "
        "search moves the figure of one task (standard deviation of the logarithm). *Resolution*: the factor within "
        "which the mean over all tasks of a part lies around that of many searches, 95%.",
        "",
        *table(head, rows),
        f"**One search does not distinguish a ratio of two arms between {spans[0]} (development) or {spans[1]} (check) "
        f"from 1**, nor on a single task one between {number(1 / single)} and {number(single)}: 95%, all searches of "
        f"the noisiest pair, spread {number(max(one.spread for one in pooled))}. The intervals over tasks and families "
        "contain this noise. Arms not in the table are taken to be as noisy.",
        "",
    ]


def against(results: Results, name: str) -> Mapping[str, str]:
    """Optimizer → steps to target of an arm relative to it, with intervals; for candidates, in the terminal."""
    found = {peer: ratio(results, name, peer) for peer in (OURS, *_rivals(results)) if peer != name}
    best = worst_of(results, name, _rivals(results))
    return {peer: _estimate(one) for peer, one in {**found, "the best rival of each task": best}.items() if one}


def lines_of(results: Results) -> Mapping[str, str]:
    """Claim → one line, for the terminal."""
    return {
        claim.text: "; ".join(
            f"{part} {number(value)} (target {'≥' if claim.at_least else '≤'} {claim.targets[n]:g})"
            for n, (part, (value, _)) in enumerate(zip(PARTS, values, strict=True))
            if value is not None
        )
        for claim, values in claims(results)
    }
