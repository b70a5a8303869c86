"""``sabun poc check``: a short trial of every arm before a study is started."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from sabun.cli import console, options

if TYPE_CHECKING:
    from sabun.messages.languages import Language
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
    lang: options.Lang = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Try every arm for one epoch before hours are spent, and estimate the duration of the study."""
    from sabun.poc.torch_loading import uncollected

    shown_in = options.language_of(lang)
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
    check_study(study, shown_in, as_json=as_json, quiet=quiet)


def check_study(study: Study, lang: Language, *, as_json: bool, quiet: bool) -> None:
    """Check ``study`` and print what was found. Exits with 1 where something was."""
    from sabun.messages.sentences import text
    from sabun.poc import check as checks

    def announce(run: Run) -> None:
        console.stderr().print(text("check.running", lang, {"arm": run.arm, "seed": run.seed}))

    checked = checks.check(study, on_run=None if quiet or as_json else announce)
    if as_json:
        found = {kind: [_plain(item) for item in getattr(checked, kind)] for kind in ("findings", "notes")}
        console.print_json({**asdict(checked), **found})
    else:
        for finding in checked.findings:
            _say(finding, lang)
        if not quiet:
            for note in checked.notes:
                _say(note, lang, note=True)
            for line in _facts(checked, study, lang):
                console.echo(line)
        if not checked.findings and not quiet:
            console.echo(text("check.none", lang))
    if checked.findings:
        raise typer.Exit(1)


def _plain(finding: CheckFinding) -> dict[str, str]:
    return {"code": finding.code, "arm": finding.arm, "detail": finding.detail}


def _say(finding: CheckFinding, lang: Language, *, note: bool = False) -> None:
    from sabun.messages.sentences import has, text

    said = text(f"fault.{finding.code}", lang, {"arm": finding.arm, "detail": finding.observed(lang)})
    console.echo(text("check.note", lang, {"said": said}) if note else said)
    if has(f"fix.{finding.code}", lang):
        console.echo(f"  {text(f'fix.{finding.code}', lang)}")


def _facts(checked: CheckResult, study: Study, lang: Language) -> Iterator[str]:
    """What was seen and not seen, and what the study will take and find."""
    from sabun.messages.sentences import text

    if any(checked.rates.values()):
        yield from _rates(checked, lang)
    for name, detail in checked.unverified.items():
        what = text(f"check.open_{name}", lang, {"epoch": detail})
        yield from _filled(text("check.not_verified", lang, {"what": what}))
    if checked.epoch_s:
        yield from _filled(text("check.study", lang, {"what": _duration(checked, study, lang)}))
        yield from _filled(text("check.effect", lang, {"what": _effect(checked, study, lang)}))


def _rates(checked: CheckResult, lang: Language) -> Iterator[str]:
    from sabun.messages.sentences import text

    seen = checked.seen
    if seen is not None:
        passes = 1 if seen.forward_passes is None else round(seen.forward_passes)
        key = "check.observed_whole" if seen.whole else "check.observed_stopped"
        more = "" if passes < 2 else text("check.passes", lang, {"passes": passes})
        yield text(key, lang, {"epochs": seen.epochs, "steps": seen.steps}) + more
    head = "".join(_right(text(f"check.{name}", lang), 9) for name in ("asked", "first", "last", "largest"))
    schedule = set_cell_size(text("check.schedule", lang), 17)
    yield f"{set_cell_size(text('check.rates', lang), 18)}{head}  {schedule}{text('check.size', lang)}"
    for arm, groups in checked.rates.items():
        yield f"  {arm}"
        for group in groups[:GROUPS_SHOWN]:
            name = f"{group.group}" + ("" if group.name is None else f" {group.name}")
            rates = "".join(
                _right(text("check.no_rate", lang) if rate is None else f"{rate:.3g}", 9)
                for rate in (group.asked, group.first, group.last, group.largest)
            )
            yield f"    {name[:14]:<14}{rates}  {set_cell_size(_shape(group, lang), 17)}{_parameters(group)}"
        if len(groups) > GROUPS_SHOWN:
            yield f"    {text('check.more_groups', lang, {'count': len(groups) - GROUPS_SHOWN})}"


def _right(word: str, width: int) -> str:
    return " " * max(0, width - cell_len(word)) + word


def _shape(group: GroupRates, lang: Language) -> str:
    """The schedule as factors on the rate that was asked for, in the first and in the last step."""
    from sabun.messages.sentences import text

    if group.first is None or group.last is None or group.largest is None:
        return text("check.unknown", lang)
    if group.first == group.last == group.largest:
        return text("check.constant", lang)
    if not group.asked:
        return text("check.varies", lang)
    return f"{group.first / group.asked:.2g} → {group.last / group.asked:.2g}"


def _parameters(group: GroupRates) -> str:
    roles = getattr(group, "roles", None)
    shown = "" if not roles else f" ({', '.join(f'{count} {role}' for role, count in roles.items())})"
    return f"{group.parameters}{shown}"


def _filled(line: str) -> list[str]:
    """Wrap to the width of the terminal, with the lines below the first indented."""
    width = min(120, shutil.get_terminal_size((120, 24)).columns)
    lines = Text(line).wrap(console.stdout(), width - 2)
    return [f"{'  ' if number else ''}{part.plain.rstrip()}" for number, part in enumerate(lines)]


def _duration(checked: CheckResult, study: Study, lang: Language) -> str:
    from sabun.messages.sentences import Value, text

    values: dict[str, Value] = {"runs": checked.runs, "epoch": max(checked.epoch_s.values())}
    if checked.seconds is None:
        return text("check.open_length", lang, values)
    values |= {"seconds": checked.seconds, "epochs": study.budget.epochs}
    takes_epochs = not study.is_script or "{epochs}" in study.task
    return text("check.duration_epochs" if takes_epochs else "check.duration", lang, values)


def _effect(checked: CheckResult, study: Study, lang: Language) -> str:
    from sabun.messages.sentences import Value, text
    from sabun.poc.check import ASSUMED_SPREAD

    values: dict[str, Value] = {"seeds": study.budget.seeds}
    if checked.effect is None:
        return text("check.no_power", lang, values)
    measured = checked.seen.spread if checked.seen is not None else None
    spread = measured or ASSUMED_SPREAD
    found = study.thresholds.margin + checked.effect * spread
    basis = text("check.basis_seen" if measured else "check.basis_assumed", lang)
    values |= {"spread": spread, "smallest": found, "basis": basis}
    return text("check.hardly" if found >= 1 else "check.finds", lang, values)
