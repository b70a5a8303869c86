"""``sabun poc check``: a short trial of every arm before a study is started."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from sabun.cli import console, options

if TYPE_CHECKING:
    from sabun.poc.check import CheckResult
    from sabun.poc.spec import Run, Study

__all__ = ["EPILOG", "check", "check_study"]

EPILOG = """**Reads** a study file, a task or a script, and trains each arm for one epoch. **Writes** nothing.

It checks that every arm trains, that a repeated run gives the same result, that all arms start from the same weights
and batches (so that the comparison is paired), and that the seed has an effect. For a script it shows, for each arm and
parameter group, the learning rate that was asked for and those that were stepped. Then it estimates the duration of the
study.

**Examples**

- `sabun poc check study.toml`

- `sabun poc check --script "python train.py" --candidate adamw --time-limit 600`

**Exit codes**

0 no problem found · 1 a problem was found · 2 bad input
"""

PROBLEMS = {
    "fails": ("fails", ""),
    "not-paired": (
        "does not start from the same state as the baseline with the same seed, so the comparison is not paired",
        "Draw weights and batches from the seed alone, before anything that depends on the optimizer.",
    ),
    "not-deterministic": (
        "gives a different result when the same run is repeated",
        "Look for random generators without a seed, and for kernels that add in varying order "
        "(torch.use_deterministic_algorithms). A study is possible without determinism; its report says so.",
    ),
    "rate-not-stepped": (
        "takes its steps at other learning rates than the study asks for",
        "Find what sets group['lr'] inside the optimizer's step, and let the study choose the rate.",
    ),
    "seed-ignored": (
        "ignores the seed, so the spread over seeds has no meaning",
        "Remove other calls that set the seed, such as the script's own manual_seed, or put {seed} into the command.",
    ),
    "constant": (
        "has a validation loss that training does not change",
        "Compute val_loss anew in every epoch, with the model that the swapped optimizer trains.",
    ),
    "not-positive": (
        "has a validation loss that is not positive, so no relative difference can be computed",
        "Log a positive loss, such as a mean error, or sabun.log(accuracy=…, higher_is_better='accuracy').",
    ),
    "writes-outside": (
        "writes files outside the directory of the run, which all runs share",
        "Write relative to the working directory, which each run has for itself, or put {run_dir} into the command.",
    ),
}
"""What is wrong, and how to correct it, for each code of a finding."""


def check(
    source: options.Source = None,
    task: options.Task = None,
    script: options.Script = None,
    baseline: options.Baseline = None,
    candidate: options.Candidates = None,
    time_limit: options.TimeLimit = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Try every arm for one epoch before hours are spent, and estimate the duration of the study."""
    from sabun.poc.torch_loading import uncollected

    with uncollected():
        from sabun.poc.study_options import study_from_options
    study = study_from_options(
        source, task=task, script=script, baseline=baseline, candidates=candidate or (), time_limit=time_limit
    )
    check_study(study, as_json=as_json, quiet=quiet)


def check_study(study: Study, *, as_json: bool, quiet: bool) -> None:
    """Check ``study`` and print what was found. Exits with 1 where something was."""
    from sabun.poc import check as checks

    def announce(run: Run) -> None:
        console.stderr().print(f"checking {run.arm}, seed {run.seed}")

    checked = checks.check(study, on_run=None if quiet or as_json else announce)
    if as_json:
        console.print_json(asdict(checked))
    else:
        for finding in checked.findings:
            problem, fix = PROBLEMS[finding.code]
            console.echo(f"{finding.arm} {problem}: {finding.detail}")
            if fix:
                console.echo(f"  {fix}")
        if checked.rates and not quiet:
            _print_rates(checked)
        if not checked.findings and not quiet:
            console.echo(
                "No problem found: every arm trains, all start from the same state, and results are repeatable."
            )
            console.echo(_duration(checked, study))
    if checked.findings:
        raise typer.Exit(1)


def _print_rates(checked: CheckResult) -> None:
    console.echo("Learning rates in the first epoch, at each arm's default:")
    for arm, groups in checked.rates.items():
        for group in groups:
            if group.first is None or group.last is None or group.largest is None:
                stepped = "has no learning rate"
            else:
                stepped = f"stepped {group.first:.3g} to {group.last:.3g}, at most {group.largest:.3g}"
            asked = "" if group.asked is None else f"asked {group.asked:.3g}, "
            name = "" if group.name is None else f" ({group.name})"
            count = f"{group.parameters} parameters, {group.steps} steps"
            console.echo(f"  {arm}, group {group.group}{name}: {asked}{stepped} ({count})")


def _duration(checked: CheckResult, study: Study) -> str:
    from sabun.messages.formatting import show

    epoch = show(max(checked.epoch_s.values()), "s", "en")
    if checked.seconds is None:
        return f"The study has {checked.runs} runs. An epoch takes up to {epoch}; the script sets the number of epochs."
    return (
        f"The study has {checked.runs} runs of {study.budget.epochs} epochs. An epoch takes up to {epoch}, the whole "
        f"study about {show(checked.seconds, 's', 'en')}, one run after the other."
    )
