"""``sabun poc judge``: a verdict from runs that exist already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sabun.cli import console, options
from sabun.cli.options import OUTPUT, argument, flag, option

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EPILOG", "judge"]

COLUMNS = "Columns of the log"

EPILOG = """**Reads** a CSV or JSON file, an MLflow experiment, or a directory of TensorBoard. **Writes** nothing,
or report.html, report.json and report.md into `--out`.

What the logs do not support stands first. A comparison whose tuning is not stated is promising at best. Nothing attests
these runs: for evidence with an audit trail, run a study.

**Examples**

- `sabun poc judge runs.csv --by optimizer --baseline adamw`

- `sabun poc judge mlflow:my-experiment --tracking-uri sqlite:///mlflow.db --baseline adamw --tuned-alike`

- `sabun poc judge tensorboard:runs --by folder --loss-column loss/validation --baseline sgd --out judged`

- `sabun poc judge wandb-export.json --baseline adamw --lang ja`

**Exit codes**

0 success · with `--gate`: 0 go, 10 no-go, 11 undecided, 12 real but small, 13 promising
· 2 bad input
"""


def judge(
    source: Annotated[
        str,
        argument("The runs: a file, or the name of a tracker and what it holds.", "FILE|mlflow:NAME|tensorboard:DIR"),
    ],
    baseline: Annotated[
        str | None, option("The configuration that you use today, as the log calls it.", "NAME", options.STUDY)
    ] = None,
    margin: options.Margin = None,
    tuned_alike: Annotated[
        bool,
        flag("State that all configurations were tuned with the same budget.", "--tuned-alike", panel=options.STUDY),
    ] = False,
    by: Annotated[str | None, option("Column that names the configuration.", "COLUMN", COLUMNS)] = None,
    seed_column: Annotated[str | None, option("Column of the seed.", "COLUMN", COLUMNS)] = None,
    run_column: Annotated[str | None, option("Column of the run.", "COLUMN", COLUMNS)] = None,
    epoch_column: Annotated[str | None, option("Column of the epoch, or step.", "COLUMN", COLUMNS)] = None,
    loss_column: Annotated[str | None, option("Column of the validation loss.", "COLUMN", COLUMNS)] = None,
    seconds_column: Annotated[
        str | None, option("Column of the training seconds of an epoch.", "COLUMN", COLUMNS)
    ] = None,
    test_column: Annotated[str | None, option("Column of the test loss.", "COLUMN", COLUMNS)] = None,
    tracking_uri: Annotated[
        str | None, option("With mlflow: address of the server or database. Default: MLflow's own.", "URI", COLUMNS)
    ] = None,
    out: Annotated[Path | None, option("Directory for the report files.", "DIR", OUTPUT)] = None,
    lang: options.Lang = None,
    gate: options.Gate = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge runs that exist: two or more configurations in a log, paired by seed where seeds match."""
    from sabun.errors import OptionError
    from sabun.poc.logged_runs import judge_logs
    from sabun.report import report_json, terminal
    from sabun.report.publish import EXIT_CODES, report_of_logs, write

    shown_in = options.language_of(lang)
    least = options.fraction("--margin", margin)
    kind, _, name = source.partition(":")
    if tracking_uri is not None and kind != "mlflow":
        raise OptionError("--tracking-uri is the address of MLflow.", fix="Name the runs as mlflow:EXPERIMENT.")
    columns = {
        "by": by, "seed": seed_column, "run": run_column, "epoch": epoch_column, "loss": loss_column,
        "seconds": seconds_column, "test": test_column,
    }  # fmt: skip
    judged = judge_logs(
        _rows(kind, name, source, tracking_uri), source, baseline=baseline, columns=columns, tuned_alike=tuned_alike,
        margin=least,
    )  # fmt: skip
    report = report_of_logs(judged)
    files = {} if out is None else write(report, out, lang)
    if as_json:
        console.print_json({**report_json.to_dict(report), "columns": dict(judged.columns), "files": files})
    elif not quiet:
        console.stdout().print(terminal.render(report, shown_in))
        for path in files.values():
            console.echo(path)
    if gate:
        raise typer.Exit(EXIT_CODES[report.decision])


def _rows(kind: str, name: str, source: str, uri: str | None) -> Sequence[dict[str, Any]]:
    if kind == "mlflow" and name:
        from sabun.integrations.logged import mlflow_rows

        return mlflow_rows(name, uri)
    if kind == "tensorboard" and name:
        from sabun.integrations.logged import tensorboard_rows

        return tensorboard_rows(name)
    from sabun.poc.logged_runs import read_file

    return [dict(row) for row in read_file(Path(source))]
