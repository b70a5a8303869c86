"""``sabun poc check``: a short trial of every arm before a study is started."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from sabun.cli import console, options

if TYPE_CHECKING:
    from sabun.poc.check import CheckFinding, CheckResult
    from sabun.poc.records import GroupRates
    from sabun.poc.spec import Run, Study

__all__ = ["EPILOG", "check", "check_study"]

EPILOG = """**Reads** a study file, a task or a script, and trains each arm: for an epoch of a task, or for at least an
epoch and ten seconds of a script. **Writes** nothing.

It checks that every arm trains, that a repeated run gives the same result, that all arms start from the same weights
and batches (so that the comparison is paired), and that the seed has an effect. For a script it also looks for
gradients, evaluations, schedulers and files that are not what they should be, and shows, for each arm and parameter
group, the learning rate that was asked for and those that were stepped. It says what it could not verify. Then it
estimates the duration of the study and the smallest effect that it can find.

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
    "peak": (
        "has a schedule whose largest rate is far from the rate of its optimizer, so the rate of an arm means little",
        "Give the largest rate of the schedule: sabun.swap(optimizer, peak_lr=…).",
    ),
    "overwritten": (
        "overwrites the rates of its scheduler with a constant",
        "Remove the scheduler, or the assignment to group['lr'].",
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
        "Log exp(val_loss), whose relative difference is about the difference of the losses; or a positive loss, such "
        "as a mean error; or sabun.log(accuracy=…, higher_is_better='accuracy').",
    ),
    "lagging": (
        "logs the same val_loss after its first epoch with and without training",
        "Log the loss that was evaluated after the steps of the epoch, not the one before.",
    ),
    "not-better": (
        "has no epoch of training whose validation loss is below that without training",
        "Correct the sign of the loss, or its learning rate; log a metric of which more is better with "
        "higher_is_better='…'.",
    ),
    "not-evaluated": (
        "logs a val_loss although the model was not evaluated after the last step",
        "Evaluate after the steps of the epoch, under model.eval() and torch.no_grad(), and log that loss.",
    ),
    "training-loss": (
        "logs a training loss as val_loss",
        "Log the loss on validation data, computed under torch.no_grad().",
    ),
    "metric": (
        "logs the same number as val_loss and as a metric of which more is better",
        "Log a loss as val_loss, or leave it out: sabun.log(accuracy=…, higher_is_better='accuracy').",
    ),
    "uneven": (
        "logs after different numbers of steps, so its epochs are not comparable",
        "Call sabun.log after every epoch, or after every fixed number of steps.",
    ),
    "unlogged": (
        "goes on training after the last log",
        "Evaluate and log once more at the end: the last point of the curve decides.",
    ),
    "epochs": (
        "does not train for the number of epochs that the study asks for",
        "Use the value of {epochs} as the number of epochs.",
    ),
    "no-gradient": (
        "has an optimizer whose parameters never get a gradient",
        "Create the optimizer from the model that is trained, after its last change.",
    ),
    "unused": (
        "has parameters in its optimizer that never get a gradient",
        "This is right for parts of the model that are not used.",
    ),
    "untrained": (
        "has parameters with gradients that no optimizer steps",
        "If they should be trained, add them to the optimizer; otherwise set requires_grad=False.",
    ),
    "not-cleared": (
        "adds the gradient of every step to those of all steps before",
        "Call optimizer.zero_grad() once for every step.",
    ),
    "repeated": (
        "takes steps without computing a new gradient",
        "Call backward() before every optimizer.step().",
    ),
    "not-scheduled": ("has a scheduler that is never stepped", "Call scheduler.step(), or remove it."),
    "own-momentum": (
        "keeps its own momentum, which the script's schedule does not change",
        "This is a comparison of schedules, too; cycle_momentum=False in OneCycleLR compares the rules alone.",
    ),
    "same-batches": (
        "has the same batches for every seed",
        "If the order of the data should vary, draw it from the seed of the run.",
    ),
    "same-weights": (
        "has the same initial weights for every seed",
        "This is right for a pretrained model; otherwise set the seed before the model is made.",
    ),
    "writes-outside": (
        "writes files outside the directory of the run, which all runs share",
        "Write relative to the working directory, which each run has for itself, or put {run_dir} into the command.",
    ),
}
"""What is wrong, and how to correct it, for each code of a finding or note."""

UNVERIFIED = {
    "end": "what the script does after epoch {} (runs are stopped after 10 s)",
    "epochs": "that all arms train equally long (the command has no {{epochs}})",
    "bare": "gradients, batches and evaluations (no nn.Module was seen)",
    "own-seed": "that nothing resets the seed (the command has no {{seed}})",
    "validation": "that val_loss is computed on data that are not trained on",
    "step-length": "that candidates train well (they ran at a rate of almost 0)",
    "files": "files that libraries in C write elsewhere",
}

GROUPS_SHOWN = 8


def check(
    source: options.Source = None,
    task: options.Task = None,
    script: options.Script = None,
    baseline: options.Baseline = None,
    candidate: options.Candidates = None,
    time_limit: options.TimeLimit = None,
    threads: options.Threads = None,
    no_isolation: options.NoIsolation = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Try every arm for one epoch before hours are spent, and estimate the duration of the study."""
    from sabun.poc.torch_loading import uncollected

    with uncollected():
        from sabun.poc.study_options import study_from_options
    study = study_from_options(
        source,
        task=task,
        script=script,
        baseline=baseline,
        candidates=candidate or (),
        time_limit=time_limit,
        threads=threads,
        isolated=False if no_isolation else None,
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
            _say(finding)
        if not quiet:
            for note in checked.notes:
                _say(note, "Note: ")
            _print_facts(checked, study)
        if not checked.findings and not quiet:
            console.echo("No problem found: every arm trains, from the same state, and repeatably.")
    if checked.findings:
        raise typer.Exit(1)


def _say(finding: CheckFinding, before: str = "") -> None:
    problem, fix = PROBLEMS[finding.code]
    console.echo(f"{before}{finding.arm} {problem}: {finding.detail}")
    if fix:
        console.echo(f"  {fix}")


def _print_facts(checked: CheckResult, study: Study) -> None:
    if any(checked.rates.values()):
        _print_rates(checked)
    if checked.unverified:
        found = [UNVERIFIED[name].format(detail) for name, detail in checked.unverified.items()]
        for number, line in enumerate(found):
            console.echo(_filled(line, "Not verified: " if number == 0 else " " * 14))
    if checked.epoch_s:
        console.echo(_filled(_duration(checked, study), "Study: "))
        console.echo(_filled(_effect(checked, study), "Effect: "))


def _print_rates(checked: CheckResult) -> None:
    seen = checked.seen
    if seen is not None:
        passes = 1 if seen.forward_passes is None else round(seen.forward_passes)
        end = "to its end" if seen.whole else "until it was stopped"
        extra = "" if passes < 2 else f", {passes} forward passes in training for each"
        console.echo(f"Observed: {seen.epochs} epochs of the script, {end}; {seen.steps} gradients{extra}")
    console.echo(f"{'Learning rates':<18}{'asked':>9}{'first':>9}{'last':>9}{'largest':>9}  {'schedule':<17}size")
    for arm, groups in checked.rates.items():
        console.echo(f"  {arm}")
        for group in groups[:GROUPS_SHOWN]:
            name = f"{group.group}" + ("" if group.name is None else f" {group.name}")
            rates = "".join(
                f"{'none' if rate is None else f'{rate:.3g}':>9}"
                for rate in (group.asked, group.first, group.last, group.largest)
            )
            console.echo(f"    {name[:14]:<14}{rates}  {_shape(group):<17}{_parameters(group)}")
        if len(groups) > GROUPS_SHOWN:
            console.echo(f"    and {len(groups) - GROUPS_SHOWN} more groups (all of them with --json)")


def _shape(group: GroupRates) -> str:
    """The schedule as factors on the rate that was asked for, in the first and in the last step."""
    if group.first is None or group.last is None or group.largest is None:
        return "unknown"
    if group.first == group.last == group.largest:
        return "constant"
    if not group.asked:
        return "varies"
    return f"{group.first / group.asked:.2g} → {group.last / group.asked:.2g}"


def _parameters(group: GroupRates) -> str:
    roles = getattr(group, "roles", None)
    shown = "" if not roles else f" ({', '.join(f'{count} {role}' for role, count in roles.items())})"
    return f"{group.parameters}{shown}"


def _filled(text: str, before: str) -> str:
    """Wrap to the width of the terminal, with ``before`` in front and the lines below indented."""
    width = min(120, shutil.get_terminal_size((120, 24)).columns)
    return textwrap.fill(text, width, initial_indent=before, subsequent_indent=" " * 14)


def _duration(checked: CheckResult, study: Study) -> str:
    from sabun.messages.formatting import show

    epoch = show(max(checked.epoch_s.values()), "s", "en")
    if checked.seconds is None:
        return f"{checked.runs} runs. An epoch takes up to {epoch}; the script sets the number of epochs."
    takes_epochs = not study.is_script or "{epochs}" in study.task
    length = f" of {study.budget.epochs} epochs" if takes_epochs else ""
    return (
        f"{checked.runs} runs{length}. An epoch takes up to {epoch}, the whole study about "
        f"{show(checked.seconds, 's', 'en')}, one run after the other."
    )


def _effect(checked: CheckResult, study: Study) -> str:
    from sabun.messages.formatting import show
    from sabun.poc.check import ASSUMED_SPREAD

    seeds = study.budget.seeds
    if checked.effect is None:
        return f"{seeds} seeds can decide nothing, however large the difference; give more."
    measured = checked.seen.spread if checked.seen is not None else None
    spread = measured or ASSUMED_SPREAD
    source = "that of two seeds of the baseline, a rough estimate" if measured else "an assumption"
    found = study.thresholds.margin + checked.effect * spread
    smallest, varies = (show(share, "pct", "en") for share in (found, spread))
    if found >= 1:
        return (
            f"{seeds} seeds can hardly decide: the differences of pairs have a standard deviation of {varies} "
            f"({source}). Give more seeds, or train longer."
        )
    return (
        f"{seeds} seeds find a loss that is {smallest} lower with probability 0.8, if the differences of pairs have a "
        f"standard deviation of {varies} ({source})."
    )
