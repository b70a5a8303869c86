"""The options that commands share: each is declared once, with the help text that ``--help`` shows.

Options of a single command are declared with that command, by the same three helpers.
"""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sabun.errors import OptionError
from sabun.messages.languages import DEFAULT, Language, language, languages

STUDY, BUDGET, EXECUTION, MONEY, OUTPUT = "What to compare", "Budget", "Execution", "Money", "Output"
"""Headings of the groups of options in ``--help``."""


def option(
    help: str, metavar: str, panel: str | None = None, *, name: str | None = None, least: int | None = None
) -> Any:
    """Declare an option with a value, as in ``Annotated[int, option("Number of studies.", "N")]``.

    Its name is that of the parameter unless ``name`` is given; ``panel`` is the heading of its group in ``--help``,
    ``least`` its smallest value.
    """
    names = () if name is None else (name,)
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, min=least)


def flag(help: str, *names: str, panel: str | None = None) -> Any:
    """Declare an option without a value, false unless given; it has no ``--no-`` form."""
    return typer.Option(*names, help=help, rich_help_panel=panel)


def argument(help: str, metavar: str) -> Any:
    """Declare a positional argument."""
    return typer.Argument(help=help, metavar=metavar)


def fraction(name: str, text: str | None) -> float | None:
    """Return what an option of a share says: 0.01 for "1%" and for "0.01". Raises OptionError for anything else."""
    if text is None:
        return None
    digits, percent, rest = text.strip().partition("%")
    try:
        value = float(digits) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if rest or not 0 <= value < 1:
        raise OptionError(f"{name} must be at least 0% and below 100% (given: {text!r}).", fix="Write 1%, or 0.01.")
    return value


def language_of(lang: str | None) -> Language:
    """Return the language of a command's output. Raises OptionError for an unknown one."""
    return DEFAULT if lang is None else language(lang)


class LogFormat(StrEnum):
    """Formats in which an audit log is exported."""

    markdown = "markdown"
    csv = "csv"
    json = "json"


# Output
Lang = Annotated[
    str | None,
    option(
        "Language of the command's output, and the one that the report opens in. Default: English, and for the report "
        "that of the reader's browser. Reports hold every language.",
        "|".join(languages()),
        OUTPUT,
    ),
]
Json = Annotated[bool, flag("Print one JSON value to standard output, nothing else.", "--json", panel=OUTPUT)]
Quiet = Annotated[bool, flag("Print no progress and no table, only errors.", "--quiet", "-q", panel=OUTPUT)]
Gate = Annotated[
    bool,
    flag("Exit with 0 for go, 10 no-go, 11 undecided, 12 real but small, 13 promising.", "--gate", panel=OUTPUT),
]
Format = Annotated[LogFormat, option("Format of the export.", "markdown|csv|json", OUTPUT, name="--format")]
Anchor = Annotated[
    str | None,
    option("Head of the log that you kept elsewhere, which it must contain. Reports and `verify` print it.", "HASH"),
]

# A study that exists
Directory = Annotated[Path, argument("Directory of a study.", "DIR")]

# A study to be made
Source = Annotated[
    str | None,
    argument("A study file, or a task of your own: a Python file and the class in it.", "STUDY.toml|FILE.py:CLASS"),
]
Task = Annotated[
    str | None, option("Built-in task, such as digits. Without a task and arms: the demonstration.", "NAME", STUDY)
]
Script = Annotated[
    str | None,
    option("Your own training command. The script calls sabun.swap(optimizer) and sabun.log(...).", "COMMAND", STUDY),
]
Baseline = Annotated[
    str | None,
    option(
        "The optimizer you use today: torch.optim:CLASS, a preset, or scheme@preconditioner. "
        "Default: SGD with momentum 0.9; with --script, the script's own.",
        "OPTIMIZER",
        STUDY,
    ),
]
Candidates = Annotated[
    list[str] | None,
    option(
        "An optimizer to compare with the baseline, such as nesterov@adam. Repeatable.",
        "OPTIMIZER",
        STUDY,
        name="--candidate",
    ),
]
Name = Annotated[
    str | None,
    option("Name of the study: title of the report, and of its directory. Default: that of task or script.", "NAME",
           STUDY),
]  # fmt: skip
StudyNote = Annotated[
    str | None,
    option("Why the study is made, in a sentence. It stands in the report.", "TEXT", STUDY, name="--note"),
]
Margin = Annotated[
    str | None,
    option("Smallest improvement of the loss worth adopting, as 1% (the default) or 0.01.", "PERCENT", STUDY),
]
Within = Annotated[
    str | None,
    option(
        "What the whole study may take: 14runs, 10min, 8h or 2d. Trials, pairs and looks are planned for it.",
        "LIMIT",
        BUDGET,
        name="--budget",
    ),
]
Seeds = Annotated[int | None, option("Paired evaluation runs of every arm.", "N", BUDGET)]
Trials = Annotated[int | None, option("Tuning trials of every arm.", "N", BUDGET)]
NoTuning = Annotated[bool, flag("Run no trials; use every arm as given.", "--no-tuning", panel=BUDGET)]
Epochs = Annotated[int | None, option("Epochs of every run. For a script, put {epochs} into its command.", "N", BUDGET)]
TimeLimit = Annotated[
    float | None, option("With --script: stop a run that takes longer and record it as failed.", "SECONDS", BUDGET)
]
Threads = Annotated[
    int | None,
    option("With --script: threads of every run. Default: OMP_NUM_THREADS in front of the command, else 1.", "N",
           STUDY, least=1),
]  # fmt: skip
NoIsolation = Annotated[
    bool,
    flag("With --script: run in the project itself instead of a copy for each run.", "--no-isolation", panel=STUDY),
]

# How a study is carried out
Jobs = Annotated[
    int | None,
    option("Runs that train at the same time. Default: 1; with --executor ray, every CPU of the cluster.", "N",
           EXECUTION),
]  # fmt: skip
Executor = Annotated[
    str | None,
    option("Where runs train: in processes on this machine, or on a Ray cluster.", "processes|ray", EXECUTION),
]
Address = Annotated[
    str | None,
    option("With --executor ray: address of the cluster. Default: $RAY_ADDRESS, else a local cluster.", "ADDRESS",
           EXECUTION),
]  # fmt: skip
AllowMixed = Annotated[
    bool,
    flag("Resume on another machine or with other versions. The report says so.", "--allow-mixed", panel=EXECUTION),
]
Track = Annotated[
    str | None, option("Also send the records to a tracker while the study runs.", "tensorboard|mlflow", EXECUTION)
]
TrackTo = Annotated[
    str | None,
    option("Directory for TensorBoard (default: in the study's), tracking URI for MLflow.", "DIR|URI", EXECUTION),
]

# Money in the report
PricePerHour = Annotated[float | None, option("Price of one machine hour.", "AMOUNT", MONEY)]
JobsPerMonth = Annotated[
    float | None, option("Training jobs per month. With --price-per-hour, the report computes savings.", "N", MONEY)
]
Currency = Annotated[str, option("Three-letter code: JPY, USD, EUR …", "CODE", MONEY)]
HoursPerJob = Annotated[
    float | None, option("Hours that a job takes today. Default: the time of a run of the study.", "HOURS", MONEY)
]
SetupCost = Annotated[
    float | None, option("One-time cost of adopting the candidate, labour included.", "AMOUNT", MONEY)
]

# Roll-outs
Plan = Annotated[
    Path | None, option("The plan file, or its directory. Default: $SABUN_ROLLOUT, else ./rollout.toml.", "PATH")
]
Reason = Annotated[str, option("The reason, in one sentence. It is recorded in the audit log.", "TEXT")]
Override = Annotated[str | None, option("Proceed although the gate is closed, for this recorded reason.", "REASON")]
Mlflow = Annotated[str | None, option("Afterwards, update the aliases of this registered MLflow model.", "MODEL")]
