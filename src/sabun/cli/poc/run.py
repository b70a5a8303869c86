"""``sabun poc run``: carry out a study, or resume it, and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from sabun.cli import options
from sabun.cli.options import BUDGET, OUTPUT, flag, option

__all__ = ["EPILOG", "run"]

EPILOG = """**Reads** a study file, a task or a script. **Writes** the records of the runs, an audit log, and
report.html, report.json and report.md into the study's directory.

**Examples**

- `sabun poc run` — a complete study of the built-in task digits, in about two minutes

- `sabun poc run --baseline "torch.optim:AdamW" --candidate nesterov@adam --seeds 15 --out runs/adam`

- `sabun poc run mytask.py:Task --candidate look-ahead` — your own model and data

- `sabun poc run --script "python train.py" --candidate adamw` — your own script, with two lines added

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
    margin: options.Margin = None,
    seeds: Annotated[int | None, option("Paired evaluation runs of every arm.", "N", BUDGET)] = None,
    trials: Annotated[int | None, option("Tuning trials of every arm.", "N", BUDGET)] = None,
    no_tuning: Annotated[bool, flag("Run no trials; use every arm as given.", "--no-tuning", panel=BUDGET)] = False,
    epochs: Annotated[
        int | None, option("Epochs of every run. For a script, put {epochs} into its command.", "N", BUDGET)
    ] = None,
    time_limit: options.TimeLimit = None,
    threads: options.Threads = None,
    no_isolation: options.NoIsolation = False,
    pruning: Annotated[
        str | None,
        option(
            "Whether a tuning run ends early when it is worse than the median. Same rule for every arm.",
            "none|median",
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
    setup_cost: options.SetupCost = 0.0,
    out: Annotated[
        Path | None, option("Directory of the study: records and reports. Default: runs/NAME.", "DIR", OUTPUT)
    ] = None,
    lang: options.Lang = "en",
    gate: options.Gate = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Carry out a study, or resume it, and write its report.

    Every arm is tuned with the same number of trials, then all are compared on the same seeds, in alternating order.
    You can stop it at any time: the same command continues where it stopped, and so does `sabun poc resume`.
    """
    from sabun.cli.poc.execution import executor_of, listener_of, show_report
    from sabun.errors import OptionError
    from sabun.messages.languages import language
    from sabun.poc.torch_loading import uncollected
    from sabun.report.money import Prices

    shown_in = language(lang)
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
        )
        directory = out if out is not None else default_directory(study)
        resolved = resolve(study)
        with listener_of(track, track_to, directory, quiet=quiet or as_json) as listen:
            evidence = studies.run(resolved, directory, executor=chosen, on_event=listen, allow_mixed=allow_mixed)
    show_report(evidence, shown_in, money, gate=gate, as_json=as_json, quiet=quiet, resolved=resolved)
