"""What ``sabun poc`` says of a study's records: ``report``, ``verify``, ``log``, ``compare``, ``export``.

The same judgement ends every ``run``: records in, reports out, and the decision as the exit code where it is asked for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sabun import _files
from sabun.cli.logs import Form, Format, show
from sabun.cli.poc import (
    Currency,
    Folder,
    Gate,
    Hours,
    Jobs,
    Json,
    Lang,
    Price,
    Quiet,
    Setup,
    evidence_of,
    poc,
    require_study,
)

if TYPE_CHECKING:
    from sabun.poc.evidence import StudyEvidence
    from sabun.poc.judgement.assessment import Tuning
    from sabun.poc.spec import Study
    from sabun.report.facts import Report
    from sabun.report.money import Prices
    from sabun.report.records_table import Cell

__all__ = ["EXIT", "judged", "language_of", "prices_of", "register"]

EXIT = {"go": 0, "no-go": 10, "undecided": 11}
"""Exit code by decision, with ``--gate``."""


def register(app: typer.Typer) -> None:
    """The commands join ``poc`` when this module is imported."""


@poc.command()
def report(
    directory: Folder,
    lang: Lang = "en",
    price_per_hour: Price = None,
    jobs_per_month: Jobs = None,
    currency: Currency = "JPY",
    hours_per_job: Hours = None,
    setup_cost: Setup = 0.0,
    gate: Gate = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge the records of a study again and write report.html, report.json and report.md beside them."""
    language_of(lang)
    prices = prices_of(price_per_hour, jobs_per_month, currency, hours_per_job, setup_cost)
    judged(evidence_of(directory), lang, prices, gate=gate, as_json=as_json, quiet=quiet)


@poc.command()
def verify(
    directory: Folder,
    anchor: Annotated[
        str | None,
        typer.Option(help="A head hash kept elsewhere (a report prints it), which the audit log must contain."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that no record or event was edited, removed, reordered or added. Exit code 1 where one was."""
    from sabun.cli import console
    from sabun.poc import evidence

    require_study(directory)
    found = evidence.verify(directory, anchor)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
    elif found.ok:
        torn = " The last line is incomplete; resuming the study removes it." if found.torn else ""
        out = console.stdout()
        out.print(f"{found.records} records verified. Head: {found.head}.{torn}", soft_wrap=True)
        out.print(f"{found.events} events of the audit log agree with them. Head: {found.audit_head}", soft_wrap=True)
        if found.runs_without_result:
            out.print(f"Runs without a result (interrupted, or under way): {found.runs_without_result}.")
    else:
        console.stderr().print(f"error: {found.problem}", soft_wrap=True, markup=False)
    if not found.ok:
        raise typer.Exit(1)


@poc.command()
def log(directory: Folder, form: Form = Format.markdown) -> None:
    """Export the audit log of a study: who asked for what, when; runs, looks, verdicts."""
    from sabun import audit
    from sabun.poc.evidence.specification import AUDIT

    require_study(directory)
    show(audit.read(directory / AUDIT), form)


@poc.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Directory of a study.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Directory of another.", metavar="B")],
    lang: Lang = "en",
    as_json: Json = False,
) -> None:
    """Put two studies side by side: what differs between them, and what each says of the same candidates."""
    from sabun.cli import console, tables
    from sabun.messages.languages import language
    from sabun.report import json as as_data
    from sabun.report.compare import compare as put_beside

    shown = language(lang)
    found = put_beside(_judge(evidence_of(first), None), _judge(evidence_of(second), None))
    if as_json:
        print(json.dumps(as_data.plain(found), ensure_ascii=False, allow_nan=False))
    else:
        console.stdout().print(tables.comparison(found, shown))


@poc.command()
def export(
    directory: Folder,
    csv: Annotated[Path | None, typer.Option(help="Write a CSV file; - is standard output.", metavar="FILE|-")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write a Parquet file (needs pyarrow).", metavar="FILE")] = None,
    as_json: Json = False,
) -> None:
    """Write every epoch of every run as one flat table."""
    from sabun.errors import OptionError
    from sabun.report import json as as_data
    from sabun.report import records_table

    if sum((csv is not None, parquet is not None, as_json)) != 1:
        raise OptionError("export needs one format.", fix="Give --csv FILE, --parquet FILE or --json.")
    runs = list(evidence_of(directory).records.results.values())
    if as_json:
        print(json.dumps(as_data.plain(records_table.rows(runs)), ensure_ascii=False, allow_nan=False))
    elif csv is not None and str(csv) == "-":
        print(records_table.to_csv(runs), end="")
    elif csv is not None:
        _save(csv, records_table.to_csv(runs).encode())
    elif parquet is not None:
        _save(parquet, _parquet(records_table.rows(runs)))


def _parquet(rows: list[dict[str, Cell]]) -> bytes:
    import importlib
    import io

    from sabun.errors import MissingExtraError

    try:
        pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise MissingExtraError("Parquet needs pyarrow, which is not installed.", fix="pip install pyarrow") from None
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def _save(path: Path, content: bytes) -> None:
    """Write a whole file or nothing. Raises OptionError where it cannot be written."""
    from sabun.errors import OptionError

    try:
        _files.replace(path, content)
    except OSError as error:
        raise OptionError(
            f"cannot write {path}: {error.strerror}.", fix="Check the path and its permissions."
        ) from None


def language_of(lang: str) -> None:
    from sabun.messages.languages import language

    language(lang)


def prices_of(
    price: float | None, jobs: float | None, currency: str, hours: float | None, setup: float
) -> Prices | None:
    from sabun.errors import OptionError
    from sabun.report.money import Prices

    if price is None and jobs is None:
        if hours is not None or setup:
            raise OptionError(
                "money needs a price and a number of jobs.", fix="Give --price-per-hour and --jobs-per-month."
            )
        return None
    if price is None or jobs is None:
        missing = "--price-per-hour" if price is None else "--jobs-per-month"
        raise OptionError(f"money needs {missing} too.", fix="Give --price-per-hour and --jobs-per-month together.")
    return Prices(price, jobs, currency.upper(), hours, setup)


def judged(
    evidence: StudyEvidence, lang: str, prices: Prices | None, *, gate: bool, as_json: bool, quiet: bool
) -> None:
    from sabun.cli import console
    from sabun.messages.languages import language
    from sabun.messages.sentences import text
    from sabun.report import json as as_data
    from sabun.report import terminal

    found = _logged(_judge(evidence, prices), evidence)
    files = _write(found, evidence.path, lang)
    if as_json:
        print(json.dumps({**as_data.to_dict(found), "files": files}, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        out = console.stdout()
        out.print(terminal.render(found, language(lang)))
        out.print(f"{text('ui.report_path', language(lang))}: {files['html']}", soft_wrap=True, highlight=False)
    if gate:
        raise typer.Exit(EXIT[found.decision])


def _judge(evidence: StudyEvidence, prices: Prices | None) -> Report:
    """From the evidence to the report."""
    from sabun.poc.judgement.assess import assess
    from sabun.report.build import build

    return build(
        evidence,
        assess(evidence.study, evidence.runs, evidence.tuning),
        descriptions=_descriptions(evidence.study, evidence.tuning),
        prices=prices,
    )


def _logged(found: Report, evidence: StudyEvidence) -> Report:
    """The report with the head of the study's audit log, in which its verdict is an event."""
    from sabun.poc.evidence import log_verdicts

    head = log_verdicts(evidence, {candidate.arm: candidate.verdict.decision for candidate in found.candidates})
    return dataclasses.replace(found, audit=dataclasses.replace(found.audit, log_head=head))


def _descriptions(study: Study, tuning: Mapping[str, Tuning]) -> dict[str, Mapping[str, object] | None]:
    """Arm → what ``sabun.optim`` knows of its numerical method; None for a class that it does not know."""
    import torch

    from sabun import optim
    from sabun.errors import SabunError
    from sabun.poc import arms

    found: dict[str, Mapping[str, object] | None] = {}
    for arm in study.arms:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        best = tuning[arm.name].best if arm.name in tuning else {}
        try:
            found[arm.name] = optim.describe(arms.recipe(arm).build(model, best))
        except (SabunError, ImportError):
            found[arm.name] = None
    return found


def _write(found: Report, directory: Path, lang: str) -> dict[str, str]:
    """The three files, each whole or not at all."""
    from sabun.messages.languages import language
    from sabun.report import html, markdown
    from sabun.report import json as as_data

    shown = language(lang)
    contents = {
        "html": html.render(found, shown),
        "json": as_data.render(found),
        "md": markdown.render(found, shown),
    }
    files = {}
    for kind, content in contents.items():
        path = directory / f"report.{kind}"
        _save(path, content.encode())
        files[kind] = str(path)
    return files
