"""``sabun poc run``: carry out a study, or resume it, and report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sabun.cli import console, options
from sabun.cli.options import BUDGET, OUTPUT, flag, option

if TYPE_CHECKING:
    from sabun.messages.languages import Language
    from sabun.poc.spec import Study

__all__ = ["EPILOG", "run"]

EPILOG = """**Reads** a study file, a task or a script. **Writes** the records of the runs, an audit log, and
report.html, report.json and report.md into the study's directory.

**Examples**

- `sabun poc run` — a complete study of the built-in task digits, in about two minutes

- `sabun poc run --baseline "torch.optim:AdamW" --candidate nesterov@adam --seeds 15 --out runs/adam`

- `sabun poc run mytask.py:Task --candidate look-ahead` — your own model and data

- `sabun poc run --script "python train.py" --candidate adamw` — your own script, with two lines added

- `sabun poc run --script "python train.py" --candidate adamw --name "Demand forecast" --note "Fewer GPU hours?"`

- `sabun poc run --script "python train.py --epochs {epochs}" --candidate adamw --budget 8h` — within a budget

- `sabun poc run study.toml --gate` — a study file under version control, as a step of a pipeline

**Exit codes**

0 success · with `--gate`: 0 go, 10 no-go, 11 undecided, 12 real but small, 13 promising
· 2 bad input · 1 failure · 130 interrupted
"""


def run(
    source: options.Source = None,
    task: options.Task = None,
    script: options.Script = None,
    baseline: options.Baseline = None,
    candidate: options.Candidates = None,
    name: options.Name = None,
    note: options.StudyNote = None,
    margin: options.Margin = None,
    limit: options.Within = None,
    seeds: options.Seeds = None,
    trials: options.Trials = None,
    no_tuning: options.NoTuning = False,
    epochs: options.Epochs = None,
    time_limit: options.TimeLimit = None,
    threads: options.Threads = None,
    no_isolation: options.NoIsolation = False,
    pruning: Annotated[
        str | None,
        option(
            "Whether a tuning run ends early when it is worse than others: than the median, or by successive halving. "
            "Same rule for every arm.",
            "none|median|halving",
            BUDGET,
        ),
    ] = None,
    batch_seeds: Annotated[
        bool,
        flag(
            "Train the seeds of an arm as one batched model where task and optimizer allow it.",
            "--batch-seeds",
            panel=BUDGET,
        ),
    ] = False,
    jobs: options.Jobs = None,
    executor: options.Executor = None,
    address: options.Address = None,
    allow_mixed: options.AllowMixed = False,
    track: options.Track = None,
    track_to: options.TrackTo = None,
    price_per_hour: options.PricePerHour = None,
    jobs_per_month: options.JobsPerMonth = None,
    currency: options.Currency = "JPY",
    hours_per_job: options.HoursPerJob = None,
    setup_cost: options.SetupCost = None,
    out: Annotated[
        Path | None, option("Directory of the study: records and reports. Default: runs/NAME.", "DIR", OUTPUT)
    ] = None,
    lang: options.Lang = None,
    gate: options.Gate = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Carry out a study, or resume it, and write its report.

    Every arm is tuned with the same number of trials, then all are compared on the same seeds, in alternating order.
    You can stop it at any time: the same command continues where it stopped, and so does `sabun poc resume`.
    """
    begin = time.monotonic()
    from sabun.cli.poc import prices
    from sabun.cli.poc.execution import executor_of, listener_of, show_report
    from sabun.errors import OptionError
    from sabun.poc.torch_loading import uncollected
    from sabun.report.money import Prices

    shown_in = options.language_of(lang)
    money = Prices.given(price_per_hour, jobs_per_month, currency, hours_per_job, setup_cost)
    if no_tuning and trials:
        raise OptionError(f"--no-tuning and --trials {trials} contradict each other.", fix="Give one of the two.")
    budget = {
        "seeds": seeds,
        "trials": 0 if no_tuning else trials,
        "epochs": epochs,
        "pruning": pruning,
        "batch_seeds": batch_seeds or None,
    }
    with executor_of(executor, jobs, address) as chosen:
        with uncollected():  # torch is loaded here, after the workers have been started
            from sabun.poc import study as studies
            from sabun.poc.evidence.specification import exists
            from sabun.poc.resolved import resolve
            from sabun.poc.study_options import default_directory, study_from_options
        study = study_from_options(
            source,
            task=task,
            script=script,
            baseline=baseline,
            candidates=candidate or (),
            budget=budget,
            margin=options.fraction("--margin", margin),
            time_limit=time_limit,
            threads=threads,
            isolated=False if no_isolation else None,
            name=name,
            note=note,
        )
        directory = out if out is not None else default_directory(study)
        planned_s = 0.0
        if limit is not None:
            study, new = _within(study, limit, budget, directory, jobs or 1, shown_in, quiet=quiet or as_json)
            planned_s = time.monotonic() - begin if new else 0.0
        resolved = resolve(study)
        if money is None and not (quiet or as_json or gate or exists(directory) or studies.is_demonstration(study)):
            money = prices.asked(shown_in)
        with listener_of(track, track_to, directory, shown_in, quiet=quiet or as_json) as listen:
            try:
                evidence = studies.run(
                    resolved, directory, executor=chosen, on_event=listen, allow_mixed=allow_mixed, planned_s=planned_s
                )
            finally:
                prices.remember(directory, money)
    show_report(evidence, lang, money, gate=gate, as_json=as_json, quiet=quiet, resolved=resolved)


def _within(
    study: Study,
    limit: str,
    given: dict[str, Any],
    directory: Path,
    jobs: int,
    lang: Language,
    *,
    quiet: bool,
) -> tuple[Study, bool]:
    """Return the study within ``limit``: the one that has begun in ``directory``, or a new one, and which it is."""
    from sabun.cli.poc.plan import lines, made
    from sabun.poc.evidence.specification import FrozenSpecification, exists
    from sabun.poc.limit import Limit

    text = Limit.parse(limit).text
    if exists(directory):
        held = FrozenSpecification.read(directory).study
        asked = {name: value for name, value in given.items() if value is not None} | {"limit": text}
        same = all(getattr(held.budget, name) == value for name, value in asked.items())
        if same and study.model_copy(update={"budget": held.budget}) == held:
            return held, False
    plan = made(study, limit, given, jobs=jobs, directory=directory, quiet=quiet)
    if not quiet:
        for line in lines(plan, lang):
            console.echo(line, err=True)
        console.echo("", err=True)
    return plan.study, True
