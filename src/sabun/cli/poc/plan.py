"""``sabun poc plan``: what a study within a budget does, when it is done, and what it can find."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sabun.cli import console, options
from sabun.cli.options import BUDGET, flag, option

if TYPE_CHECKING:
    from sabun.messages.languages import Language
    from sabun.poc.planning import Plan
    from sabun.poc.spec import Run, Study

__all__ = ["EPILOG", "lines", "made", "plan"]

EPILOG = """**Reads** a study file, a task or a script, and times a run of every arm. **Writes** nothing.

The chance to find an effect needs the spread: how much the relative difference of two runs of one seed varies. It is an
assumption, or that of a study with runs (`--spread-of`).

**Examples**

- `sabun poc plan --script "python train.py --epochs {epochs}" --candidate nesterov@adam --budget 8h`

- `sabun poc plan study.toml --budget 14runs --spread-of runs/pilot`

**Exit codes**

0 success · 2 bad input, or the budget can decide nothing: the message names the least one that can
"""


def plan(
    source: options.Source = None,
    task: options.Task = None,
    script: options.Script = None,
    baseline: options.Baseline = None,
    candidate: options.Candidates = None,
    margin: options.Margin = None,
    budget: options.Within = None,
    seeds: options.Seeds = None,
    trials: options.Trials = None,
    no_tuning: options.NoTuning = False,
    epochs: options.Epochs = None,
    time_limit: options.TimeLimit = None,
    jobs: options.Jobs = None,
    spread_of: Annotated[
        Path | None, option("A study whose pairs of runs show the spread. Default: an assumption.", "DIR", BUDGET)
    ] = None,
    lang: options.Lang = None,
    as_json: options.Json = False,
    quiet: Annotated[bool, flag("Print no progress, only the plan.", "--quiet", "-q", panel=options.OUTPUT)] = False,
) -> None:
    """Show the plan of a study: arms, trials, pairs of runs, looks, duration, and what it can find. Runs no study."""
    from sabun.poc.torch_loading import uncollected

    shown_in = options.language_of(lang)
    with uncollected():
        from sabun.poc.study_options import default_directory, study_from_options
    given = {"seeds": seeds, "trials": 0 if no_tuning else trials, "epochs": epochs}
    study = study_from_options(
        source, task=task, script=script, baseline=baseline, candidates=candidate or (), budget=given,
        margin=options.fraction("--margin", margin), time_limit=time_limit,
    )  # fmt: skip
    planned = made(
        study,
        budget,
        given,
        jobs=jobs or 1,
        spread_of=spread_of,
        directory=default_directory(study),
        quiet=quiet or as_json,
    )
    if as_json:
        console.print_json(
            {
                **{key: value for key, value in asdict(planned).items() if key != "study"},
                "sd": planned.sd,
                "budget": planned.study.budget.model_dump(mode="json"),
                "runs": planned.runs,
                "seconds": planned.seconds,
                "chances": planned.curve,
                "detectable": planned.detectable,
            }
        )
        return
    for line in lines(planned, shown_in):
        console.echo(line)


def made(
    study: Study,
    budget: str | None,
    given: dict[str, int | None],
    *,
    jobs: int = 1,
    spread_of: Path | None = None,
    directory: Path | None = None,
    quiet: bool = False,
) -> Plan:
    """Return the plan of ``study`` within ``budget``, with the seeds and trials that are ``given``.

    Studies of the same arms and task beside ``directory`` share its error.
    """
    from sabun.poc import planning
    from sabun.poc.evidence.siblings import earlier_studies
    from sabun.poc.judgement.simulation import observed, study_arrays
    from sabun.poc.limit import Limit

    limit = Limit.parse(budget) if budget else None
    scenario = None
    if spread_of is not None:
        from sabun.cli.poc.stored import evidence_of

        evidence = evidence_of(spread_of)
        scenario = observed(study_arrays(evidence.study, evidence.runs))

    def announce(run: Run) -> None:
        console.echo(f"timing a run of {run.arm}", err=True)

    beside = directory is not None and directory.parent.is_dir()
    earlier = len(earlier_studies(directory, study)) if directory is not None and beside else 0
    fixed = {key: value for key in ("seeds", "trials") if (value := given.get(key)) is not None}
    return planning.plan(
        study, limit, fixed=fixed, slots=jobs, scenario=scenario, earlier=earlier, on_run=None if quiet else announce
    )


def lines(plan: Plan, lang: Language, *, now: datetime | None = None) -> list[str]:
    """Return the plan as lines of at most 80 columns."""
    from sabun.messages.formatting import show
    from sabun.messages.sentences import text
    from sabun.text_safety import shorten, visible

    study, design, timing = plan.study, plan.design, plan.timing
    arms, budget = len(study.arms), study.budget
    name = shorten(visible(study.name), 24)
    title: dict[str, str | int] = {"name": name, "limit": budget.limit, "arms": arms, "runs": plan.runs}
    whole = design.trials * design.tuning_seeds * arms
    rows = [
        (
            "plan.tuning",
            text("plan.trials" if design.trials else "plan.untuned", lang, {"trials": design.trials}),
            whole,
            timing.durations.tuning_s(design) if timing else None,
        ),
        (
            "plan.comparison",
            text("plan.pairs", lang, {"pairs": design.seeds}),
            arms * design.seeds,
            timing.durations.pairs_s(design.seeds) if timing else None,
        ),
        (
            "plan.repetition",
            text("plan.repeats", lang),
            arms,
            timing.durations.pairs_s(1) if timing else None,
        ),
    ]
    out = [text("plan.title" if budget.limit else "plan.title_free", lang, title), ""]
    for key, what, runs, seconds in rows:
        took = "" if not seconds else show(seconds, "s", lang)
        label = text(key, lang)
        out.append("  " + _row([(label, 12), (what, 32), (text("plan.runs", lang, {"runs": runs}), -9), (took, -13)]))
    out.append("")
    if design.trials and design.fraction < 1:
        by_data = "{fraction}" in study.task
        key = "plan.fidelity_data" if by_data else "plan.fidelity_epochs"
        out.append(text(key, lang, {"fraction": design.fraction, "epochs": budget.tuning_epochs, "of": budget.epochs}))
    if design.looks:
        out.append(text("plan.look", lang, {"looks": ", ".join(map(str, design.looks))}))
    if timing is None or plan.seconds is None:
        out.append(text("plan.unknown_time", lang))
    else:
        timed = shorten(visible(study.baseline.name), 30)
        out.append(text("plan.run_takes", lang, {"arm": timed, "seconds": timing.run_s[study.baseline.name]}))
        end = (datetime.now().astimezone() if now is None else now) + timedelta(seconds=plan.seconds)
        out.append(text("plan.done", lang, {"when": f"{end:%Y-%m-%d %H:%M %Z}", "seconds": plan.seconds}))
    out.append("")
    found = plan.detectable
    if found is not None:
        out.append(text("plan.finds", lang, {"effect": found, "margin": study.thresholds.margin}))
    effects = [(text("plan.effect", lang), 30), *((show(effect, "pct", lang), -8) for effect, _ in plan.curve)]
    chances = [(text("plan.chance", lang), 30), *((show(share, "pct", lang), -8) for _, share in plan.curve)]
    out += ["  " + _row(effects), "  " + _row(chances)]
    out.append(text("plan.assumed" if plan.assumed else "plan.estimated", lang, {"sd": plan.sd}))
    if plan.assumed and found is not None:
        looks = f" --looks {','.join(map(str, design.looks))}" if design.looks else ""
        many = f" --candidates {arms - 1}" if arms > 2 else ""
        command = f"sabun poc calibrate --scenario normal --seeds {design.seeds}{looks}{many} --effect {found:.3f}"
        out += [text("plan.confirm", lang), f"  {command}"]
    return [part for line in out for part in _wrapped(line)]


def _row(cells: list[tuple[str, int]]) -> str:
    """Cells of given widths in columns, a negative one aligned to the right."""
    from rich.cells import cell_len

    filled = []
    for content, width in cells:
        gap = " " * max(0, abs(width) - cell_len(content))
        filled.append(content + gap if width > 0 else gap + content)
    return " ".join(filled).rstrip()


def _wrapped(line: str, width: int = 80) -> list[str]:
    from rich.text import Text

    if line.startswith("  ") or not line:
        return [line]
    return [part.plain.rstrip() for part in Text(line).wrap(console.stdout(), width)]
