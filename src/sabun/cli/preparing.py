"""Before a study and beside it: ``sabun poc init``, ``check`` and ``calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sabun.cli.poc import Json, Quiet, opened, poc, study_of
from sabun.errors import StudyError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """The commands join ``poc`` when this module is imported."""


TEMPLATE = """\
# A study: everything that decides the outcome, fixed before the first run. Run it with: sabun poc run {file}
name = {name}
note = ""                                   # why this study; appears in the report

# What is trained: a built-in task ("digits", "cifar10", …), a file of yours ("mytask.py:Task"), or your own script
# ("script:python train.py --seed {{seed}}"), in which two lines are changed: sabun.swap(optimizer) and sabun.log(...).
task = {task}
# task_options = {{ batch_size = 64 }}        # arguments of the task; for scripts: time_limit, in seconds

# What you use today. `optimizer` is a preset ("adamw"), a scheme with an optional metric ("nesterov@adam"), or any
# class ("torch.optim:AdamW"). `options` are fixed; `space` is searched (log-uniform), by default the learning rate.
[baseline]
name = "SGD(momentum=0.9)"
optimizer = "torch.optim:SGD"
options = {{ momentum = 0.9 }}
# space = {{ lr = {{ center = 0.03, decades = 3 }} }}

[[candidates]]
name = "nesterov@adam"
optimizer = "nesterov@adam"

[[candidates]]
name = "look-ahead"
optimizer = "look-ahead(0.9, 2)"

# The same for every arm.
[budget]
epochs = 20
trials = 12         # tuning runs are trials × tuning_seeds for every arm; 0 takes the defaults
tuning_seeds = 2
seeds = 10          # paired evaluation runs: fewer than 6 (8 with five candidates) can decide nothing
# looks = [6, 8]    # decide early after so many seeds; the error is shared among the looks

# When a "go" is honest.
[thresholds]
margin = 0.0              # K1: validation loss lower by at least this share, the whole interval clear of it
max_time_ratio = 1.10     # K3: seconds per epoch at most this multiple of today's
max_spread_ratio = 1.0    # K2: spread over seeds not significantly beyond this multiple
level = 0.95
"""


@poc.command()
def init(
    file: Annotated[Path, typer.Argument(help="The study file to write.")] = Path("study.toml"),
    task: Annotated[str, typer.Option(help="A built-in task, mytask.py:Task, or script:COMMAND.")] = "digits",
    as_json: Json = False,
) -> None:
    """Write a commented study file to start from."""
    from sabun.poc.spec import Study

    content = TEMPLATE.format(file=file, name=json.dumps(file.stem), task=json.dumps(task, ensure_ascii=False))
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(content)
    except FileExistsError:
        raise StudyError(f"{file} exists already.", fix="Give another name, or delete it first.") from None
    except OSError as error:
        raise StudyError(f"cannot write {file}: {error.strerror}.", fix="Give a path that can be written.") from None
    study = Study.load(file)
    if as_json:
        typer.echo(json.dumps({"file": str(file), "study": study.hash}))
        return
    typer.echo(f"{file} written. Next: sabun poc check {file}, then sabun poc run {file}")


SAID = {
    "fails": "fails",
    "not-paired": "does not start as the baseline does from the same seed, so the comparison would not be paired",
    "not-deterministic": "ends differently when the same run is repeated",
    "seed-ignored": "does not heed the seed, so the spread over seeds would mean nothing",
}


@poc.command()
def check(
    source: Annotated[
        str | None, typer.Argument(metavar="[STUDY.toml | mytask.py:Task]", help="What to check.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="A built-in task, such as digits.")] = None,
    script: Annotated[str | None, typer.Option(help="Your own command, such as 'python train.py'.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Today's optimizer.")] = None,
    candidate: Annotated[list[str] | None, typer.Option(help="An optimizer to compare. Repeatable.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run every arm once, shortly, before hours are spent: does it train, repeat itself, pair the arms, heed the seed?

    Writes nothing. Exit code 1 when something was found.
    """
    from sabun.cli.console import stderr
    from sabun.poc.check import check as look

    study = study_of(source, task, script, baseline, candidate, {})
    told = stderr()
    findings = look(
        study, on_run=None if quiet or as_json else lambda run: told.print(f"checking {run.arm}, seed {run.seed}")
    )
    if as_json:
        typer.echo(
            json.dumps([{"code": f.code, "arm": f.arm, "detail": f.detail} for f in findings], ensure_ascii=False)
        )
    elif findings:
        for finding in findings:
            typer.echo(f"{finding.arm} {SAID[finding.code]}: {finding.detail}")
    elif not quiet:
        typer.echo("Nothing found: every arm trains, starts as the baseline does, and repeats itself.")
    if findings:
        raise typer.Exit(1)


@poc.command()
def calibrate(
    directory: Annotated[
        Path | None, typer.Argument(help="A study whose records are resampled. Default: simulated records.")
    ] = None,
    studies: Annotated[int, typer.Option(help="Studies to judge.")] = 1000,
    candidates: Annotated[int, typer.Option(help="Candidates a study (simulated records).")] = 1,
    seeds: Annotated[int, typer.Option(help="Paired seeds a study.")] = 10,
    looks: Annotated[str, typer.Option(help="Seeds at which to look early, such as 6,8.")] = "",
    effect: Annotated[float, typer.Option(help="A planted effect: 0.03 makes candidates 3% better. 0: A/A.")] = 0.0,
    scenario: Annotated[str, typer.Option(help="normal, heavy-tailed, skewed, two-basins, or mixed.")] = "mixed",
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    as_json: Json = False,
) -> None:
    """Judge studies whose truth is known: how often does the verdict err, and how often does it find an effect?

    Without an effect both arms are the same, so every go is false: at most 5% may be. Exit code 1 where more are.
    """
    from dataclasses import asdict

    from sabun.poc import calibrate as calibration

    try:
        early = [int(part) for part in looks.split(",") if part.strip()]
    except ValueError:
        raise StudyError(f"--looks {looks!r} is no list of numbers.", fix="Write it as 6,8.") from None
    source = None
    if directory is not None:
        store = opened(directory)
        source = calibration.records_of(store.study, store.runs())
    found = calibration.calibrate(
        studies, candidates=candidates, seeds=seeds, looks=early, effect=effect, scenario=scenario, source=source,
        seed=seed,
    )  # fmt: skip
    low, high = found.go_interval
    if as_json:
        typer.echo(json.dumps({**asdict(found), "go_rate": found.go_rate, "power": found.power}))
    else:
        typer.echo(
            f"{found.studies} studies on {found.scenario} records, {found.candidates} candidate(s), {found.seeds} seeds"
            + (f", looks at {', '.join(map(str, found.looks))}" if found.looks else "")
        )
        if effect == 0:
            typer.echo(f"false go        {found.go_rate:.1%} ({low:.1%} to {high:.1%}); promised: at most 5%")
            typer.echo(f"false no-go     {found.no_go_rate:.1%}")
        else:
            low, high = found.power_interval
            promised = "" if found.promised is None else f"; promised: {found.promised:.1%}"
            typer.echo(
                f"go              {found.power:.1%} ({low:.1%} to {high:.1%}) for an effect of {effect:.1%}{promised}"
            )
        if found.coverage is not None:
            typer.echo(f"K1 intervals    hold the truth in {found.coverage:.1%}")
        typer.echo(f"seeds used      {found.mean_seeds:.1f} on average")
    if effect == 0 and not found.kept:
        raise typer.Exit(1)
