"""Before a study and beside it: ``sabun poc init``, ``check`` and ``calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sabun.cli.poc import Json, Quiet, evidence_of, poc, study_of
from sabun.errors import StudyError

if TYPE_CHECKING:
    from sabun.poc.check import Checked
    from sabun.poc.spec import Study

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """The commands join ``poc`` when this module is imported."""


TEMPLATE = """\
# A study: everything that decides the outcome, fixed before the first run. Run it with: sabun poc run {file}
name = {name}
note = ""                                   # why this study; appears in the report

# What is trained: a built-in task ({tasks}), a file of yours ("mytask.py:Task"), or your
# own script ("script:python train.py"), in which two lines are changed: sabun.swap(optimizer) and sabun.log(...).
task = {task}
{options}
# What you use today. `optimizer` is a preset ("adamw"), a scheme with an optional metric ("nesterov@adam"), any class
# ("torch.optim:AdamW"), or "script": what your script makes itself. `options` are fixed; `space` is searched
# (log-uniform), by default the learning rate (for "script": lr_multiplier, a factor on all of its learning rates).
[baseline]
{baseline}

[[candidates]]
name = "nesterov@adam"
optimizer = "nesterov@adam"

[[candidates]]
name = "look-ahead"
optimizer = "look-ahead(0.9, 2)"

# The same for every arm, which is run trials × tuning_seeds + seeds + 1 times.
[budget]
epochs = {epochs}         {epochs_note}
trials = 12         # of tuning; 0 takes the defaults
tuning_seeds = 2    # each trial is run from so many seeds
seeds = {seeds}          # paired runs that decide: fewer than 6 (8 with five candidates) can decide nothing
# looks = [8, 12]   # decide early after so many seeds; the error is shared among the looks

# When a "go" is honest.
[thresholds]
margin = 0.0              # K1: validation loss lower by at least this share, the whole interval clear of it
max_time_ratio = 1.10     # K3: seconds per epoch at most this multiple of today's
max_spread_ratio = 1.0    # K2: spread over seeds not significantly beyond this multiple
level = 0.95              # of every interval
"""

TASK_OPTIONS = "# task_options = { batch_size = 64 }        # arguments of the task\n"
SCRIPT_OPTIONS = """\
# In the command, {seed} becomes the run's seed (sabun seeds a script that seeds nothing), {epochs} the number below.
# task_options = { time_limit = 3600 }      # seconds after which a run counts as hanging
"""
TASK_BASELINE = """\
name = "SGD(momentum=0.9)"
optimizer = "torch.optim:SGD"
options = { momentum = 0.9 }
# space = { lr = { center = 0.03, decades = 3 } }"""
SCRIPT_BASELINE = """\
name = "today"
optimizer = "script"
# space = { lr_multiplier = { center = 1.0, decades = 3 } }"""
LINES = """\
In the script, where the optimizer has been made (before its scheduler), and where an epoch has been evaluated:

    import sabun
    optimizer = sabun.swap(optimizer)
    sabun.log(epoch=epoch, val_loss=val_loss, accuracy=accuracy)     # only val_loss is needed
"""


@poc.command()
def init(
    file: Annotated[Path, typer.Argument(help="The study file to write.")] = Path("study.toml"),
    task: Annotated[str | None, typer.Option(help="A built-in task, or mytask.py:Task.")] = None,
    script: Annotated[str | None, typer.Option(help="Your own command, such as 'python train.py'.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check it at once: see 'sabun poc check'.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented study file to start from."""
    from sabun.poc.spec import Study
    from sabun.poc.study import DEFAULT_BUDGET
    from sabun.poc.tasks.base import PREFIX
    from sabun.poc.tasks.builtin import TASKS

    if task is not None and script is not None:
        raise StudyError("both --task and --script are given.", fix="Give one of the two.")
    what = f"{PREFIX}{script}" if script is not None else task or "digits"
    is_script = what.startswith(PREFIX)
    own = is_script and "{epochs}" not in what
    content = TEMPLATE.format(
        file=file,
        name=json.dumps(file.stem, ensure_ascii=False),
        task=json.dumps(what, ensure_ascii=False),
        tasks=", ".join(f'"{name}"' for name in TASKS),
        options=SCRIPT_OPTIONS if is_script else TASK_OPTIONS,
        baseline=SCRIPT_BASELINE if is_script else TASK_BASELINE,
        epochs=DEFAULT_BUDGET["epochs"],
        epochs_note="# not used: the command has no {epochs}, so its own number counts" if own else "# of every run",
        seeds=DEFAULT_BUDGET["seeds"],
    )
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
    else:
        typer.echo(f"{file} written. Next: sabun poc check {file}, then sabun poc run {file}")
        if is_script:
            typer.echo(LINES)
    if check:
        _check(study, as_json=as_json, quiet=False)


SAID = {
    "fails": ("fails", ""),
    "not-paired": (
        "does not start as the baseline does from the same seed, so the comparison would not be paired",
        "Draw weights and batches from the seed alone, before and apart from anything that depends on the optimizer.",
    ),
    "not-deterministic": (
        "ends differently when the same run is repeated",
        "Look for generators without a seed, and for kernels that add in changing order "
        "(torch.use_deterministic_algorithms). A study can do without: its report then says so.",
    ),
    "seed-ignored": (
        "does not heed the seed, so the spread over seeds would mean nothing",
        "Let nothing else seed: drop the script's own manual_seed, or pass {seed} to it in the command.",
    ),
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
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which a run of --script counts as hanging.", metavar="SECONDS")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run every arm once, shortly, before hours are spent: does it train, repeat itself, pair the arms, heed the seed?

    Says what the whole study would cost. Writes nothing. Exit code 1 when something was found.
    """
    study = study_of(source, task, script, baseline, candidate, {}, time_limit=time_limit)
    _check(study, as_json=as_json, quiet=quiet)


def _check(study: Study, *, as_json: bool, quiet: bool) -> None:
    from dataclasses import asdict

    from sabun.cli.console import stderr
    from sabun.poc.check import check as look
    from sabun.text_safety import visible

    told = stderr()
    checked = look(
        study,
        on_run=None
        if quiet or as_json
        else lambda run: told.print(f"checking {visible(run.arm)}, seed {run.seed}", markup=False, highlight=False),
    )
    if as_json:
        typer.echo(json.dumps(asdict(checked), ensure_ascii=False))
    else:
        for finding in checked.findings:
            said, fix = SAID[finding.code]
            typer.echo(f"{visible(finding.arm)} {said}: {visible(finding.detail)}")
            if fix:
                typer.echo(f"  {fix}")
        if not checked.findings and not quiet:
            typer.echo("Nothing found: every arm trains, starts as the baseline does, and repeats itself.")
            typer.echo(_cost(checked, study))
    if checked.findings:
        raise typer.Exit(1)


def _cost(checked: Checked, study: Study) -> str:
    from sabun.messages.formatting import show

    epoch = show(max(checked.epoch_s.values()), "s", "en")
    said = f"The study: {checked.runs} runs; an epoch takes up to {epoch}"
    if checked.seconds is None:
        return f"{said}, and how many there are in a run is the script's own affair."
    return f"{said}, {study.budget.epochs} of them a run: about {show(checked.seconds, 's', 'en')} one after the other."


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

    from sabun.poc.judgement import calibrate as calibration

    try:
        early = [int(part) for part in looks.split(",") if part.strip()]
    except ValueError:
        raise StudyError(f"--looks {looks!r} is no list of numbers.", fix="Write it as 6,8.") from None
    source = None
    if directory is not None:
        evidence = evidence_of(directory)
        source = calibration.records_of(evidence.study, evidence.runs)
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
