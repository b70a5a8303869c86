"""The options that commands share: each is declared once, with the help text that ``--help`` shows.

Options of a single command are declared with that command.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sabun.messages.languages import languages

STUDY, BUDGET, EXECUTION, MONEY, OUTPUT = "What to compare", "Budget", "Execution", "Money", "Output"
"""Headings of the groups of options in ``--help``."""


class LogFormat(StrEnum):
    """Formats in which an audit log is exported."""

    markdown = "markdown"
    csv = "csv"
    json = "json"


# Output
Lang = Annotated[
    str,
    typer.Option(
        help="Language of the output. HTML reports hold every language.",
        metavar="|".join(languages()),
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON value to standard output, nothing else.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print no progress and no table, only errors.", rich_help_panel=OUTPUT)
]
Gate = Annotated[
    bool,
    typer.Option(
        "--gate", help="Exit with 0 for go, 10 for no-go and 11 for undecided: for pipelines.", rich_help_panel=OUTPUT
    ),
]
Format = Annotated[
    LogFormat,
    typer.Option("--format", help="Format of the export.", metavar="markdown|csv|json", rich_help_panel=OUTPUT),
]
Anchor = Annotated[
    str | None,
    typer.Option(
        help="Head of the log that you kept elsewhere, which it must contain. Reports and `verify` print it.",
        metavar="HASH",
    ),
]

# A study that exists
Directory = Annotated[Path, typer.Argument(help="Directory of a study.", metavar="DIR")]

# A study to be made
Source = Annotated[
    str | None,
    typer.Argument(
        help="A study file, or a task of your own: a Python file and the class in it.",
        metavar="STUDY.toml|FILE.py:CLASS",
    ),
]
Task = Annotated[
    str | None,
    typer.Option(help="Built-in task, such as digits (the default).", metavar="NAME", rich_help_panel=STUDY),
]
Script = Annotated[
    str | None,
    typer.Option(
        help="Your own training command. The script calls sabun.swap(optimizer) and sabun.log(...).",
        metavar="COMMAND",
        rich_help_panel=STUDY,
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        help="The optimizer you use today: torch.optim:CLASS, a preset, or scheme@preconditioner. "
        "Default: SGD with momentum 0.9; with --script, the script's own.",
        metavar="OPTIMIZER",
        rich_help_panel=STUDY,
    ),
]
Candidates = Annotated[
    list[str] | None,
    typer.Option(
        "--candidate",
        help="An optimizer to compare with the baseline, such as nesterov@adam. Repeatable.",
        metavar="OPTIMIZER",
        rich_help_panel=STUDY,
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        help="With --script: stop a run that takes longer and record it as failed.",
        metavar="SECONDS",
        rich_help_panel=BUDGET,
    ),
]

# How a study is carried out
Jobs = Annotated[
    int | None,
    typer.Option(
        help="Runs that train at the same time. Default: 1; with --executor ray, every CPU of the cluster.",
        metavar="N",
        rich_help_panel=EXECUTION,
    ),
]
Executor = Annotated[
    str | None,
    typer.Option(
        help="Where runs train: in processes on this machine, or on a Ray cluster.",
        metavar="processes|ray",
        rich_help_panel=EXECUTION,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="With --executor ray: address of the cluster. Default: $RAY_ADDRESS, else a local cluster.",
        metavar="ADDRESS",
        rich_help_panel=EXECUTION,
    ),
]
AllowMixed = Annotated[
    bool,
    typer.Option(
        "--allow-mixed",
        help="Resume on another machine or with other versions. The report says so.",
        rich_help_panel=EXECUTION,
    ),
]
Track = Annotated[
    str | None,
    typer.Option(
        help="Also send the records to a tracker while the study runs.",
        metavar="tensorboard|mlflow",
        rich_help_panel=EXECUTION,
    ),
]
TrackTo = Annotated[
    str | None,
    typer.Option(
        help="Directory for TensorBoard (default: in the study's), tracking URI for MLflow.",
        metavar="DIR|URI",
        rich_help_panel=EXECUTION,
    ),
]

# Money in the report
PricePerHour = Annotated[
    float | None,
    typer.Option(help="Price of one machine hour.", metavar="AMOUNT", rich_help_panel=MONEY),
]
JobsPerMonth = Annotated[
    float | None,
    typer.Option(
        help="Training jobs per month. With --price-per-hour, the report computes savings.",
        metavar="N",
        rich_help_panel=MONEY,
    ),
]
Currency = Annotated[
    str, typer.Option(help="Three-letter code: JPY, USD, EUR …", metavar="CODE", rich_help_panel=MONEY)
]
HoursPerJob = Annotated[
    float | None,
    typer.Option(
        help="Hours that a job takes today. Default: the time of a run of the study.",
        metavar="HOURS",
        rich_help_panel=MONEY,
    ),
]
SetupCost = Annotated[
    float,
    typer.Option(
        help="One-time cost of adopting the candidate, labour included.", metavar="AMOUNT", rich_help_panel=MONEY
    ),
]

# Roll-outs
Plan = Annotated[
    Path | None,
    typer.Option(help="The plan file, or its directory. Default: $SABUN_ROLLOUT, else ./rollout.toml.", metavar="PATH"),
]
Reason = Annotated[
    str, typer.Option(help="The reason, in one sentence. It is recorded in the audit log.", metavar="TEXT")
]
Override = Annotated[
    str | None,
    typer.Option(help="Proceed although the gate is closed, for this recorded reason.", metavar="REASON"),
]
Mlflow = Annotated[
    str | None,
    typer.Option(help="Afterwards, update the aliases of this registered MLflow model.", metavar="MODEL"),
]
