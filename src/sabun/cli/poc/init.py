"""``sabun poc init``: write a study file to start from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sabun.cli import console, options
from sabun.cli.options import argument, flag

if TYPE_CHECKING:
    from sabun.poc.spec import Study

__all__ = ["EPILOG", "init"]

EPILOG = """**Writes** one new file; an existing file is never overwritten. At a terminal it asks for the
margin, the smallest improvement worth adopting, unless `--margin` gives it; elsewhere the margin is 1% of the loss.

**Examples**

- `sabun poc init study.toml --task digits --margin 2%`

- `sabun poc init study.toml --script "python train.py --epochs {epochs}" --check`

- `sabun poc init study.toml --script "python train.py --epochs {epochs}" --candidate adamw --budget 8h`

**Exit codes**

0 success · 2 bad input, or the file exists · with `--check`: 1 a problem was found
"""


def init(
    file: Annotated[Path, argument("The study file to write.", "STUDY.toml")] = Path("study.toml"),
    task: options.Task = None,
    script: options.Script = None,
    candidate: options.Candidates = None,
    name: options.Name = None,
    note: options.StudyNote = None,
    margin: options.Margin = None,
    budget: options.Within = None,
    time_limit: options.TimeLimit = None,
    threads: options.Threads = None,
    no_isolation: options.NoIsolation = False,
    check: Annotated[bool, flag("Then run `sabun poc check` on it.", "--check")] = False,
    lang: options.Lang = None,
    as_json: options.Json = False,
) -> None:
    """Write a commented study file to start from."""
    from sabun.cli.poc.check import check_study
    from sabun.cli.poc.plan import lines, made
    from sabun.messages.sentences import text
    from sabun.poc.study_template import SCRIPT_LINES, write_template

    shown_in = options.language_of(lang)
    if margin is None and not as_json and sys.stdin.isatty() and sys.stderr.isatty():
        margin = console.ask(text("ask.margin", shown_in)) or "1%"

    def planned(study: Study) -> Study:
        plan = made(study, budget, {}, quiet=as_json)
        if not as_json:
            for line in lines(plan, shown_in):
                console.echo(line)
            console.echo("")
        return plan.study

    own = {"time_limit": time_limit, "threads": threads, "isolated": False if no_isolation else None}
    study = write_template(
        file,
        task=task,
        script=script,
        candidates=candidate or (),
        margin=options.fraction("--margin", margin),
        name=name,
        note=note,
        options={key: value for key, value in own.items() if value is not None},
        plan=planned if budget else None,
    )
    if as_json:
        console.print_json({"file": str(file), "study": study.hash})
    else:
        console.echo(text("ask.written", shown_in, {"file": str(file)}))
        if script is not None:
            console.echo(SCRIPT_LINES, end="")
    if check:
        check_study(study, shown_in, as_json=as_json, quiet=False)
