"""``sabun poc``: run a study, look at it, report it, verify it.

Every command takes ``--json`` (one JSON value on standard output) and prints its progress to standard error, so output
can be piped. Special case: ``run`` on a directory that already holds the same study resumes it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sabun.poc.events import Event, Listener
    from sabun.poc.results import Tuning
    from sabun.poc.spec import Arm, Study
    from sabun.poc.store import Store
    from sabun.report.facts import Report
    from sabun.report.money import Prices
    from sabun.report.table import Cell

__all__ = ["EXIT", "register"]

EXIT = {"go": 0, "no-go": 10, "undecided": 11}
"""Exit code by decision, with ``--gate``."""

poc = typer.Typer(
    no_args_is_help=True,
    help="The proof of concept: today's optimizer against candidates, on three KPIs, with a verdict.",
)

Lang = Annotated[str, typer.Option(help="Language shown first: en or ja. The report holds both.", metavar="en|ja")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table; errors still show.")]
Folder = Annotated[Path, typer.Argument(help="Directory of a study.", metavar="DIR")]
Price = Annotated[
    float | None, typer.Option(help="Price of a machine hour; with --jobs-per-month the report shows money.")
]
Jobs = Annotated[float | None, typer.Option(help="Training jobs a month.")]
Currency = Annotated[str, typer.Option(help="Three letters: JPY, USD, EUR …")]
Hours = Annotated[float | None, typer.Option(help="Hours a job takes today. Default: a run of this study.")]
Setup = Annotated[float, typer.Option(help="One-time cost of adopting, people included.")]
Gate = Annotated[bool, typer.Option("--gate", help="Exit with 0 for go, 10 for no-go, 11 for undecided.")]


def register(app: typer.Typer) -> None:
    """Add ``poc`` to the command line."""
    app.add_typer(poc, name="poc")


@poc.command(
    epilog="""**Examples**

`sabun poc run` — the whole proof of concept on real data, in about two minutes

`sabun poc run --baseline "torch.optim:AdamW" --candidate nesterov@adam --seeds 15 --out runs/adam`

`sabun poc run mytask.py:Task --candidate look-ahead --lang ja` — your own model and data

`sabun poc run --script "python train.py" --candidate adamw` — your own script, unchanged but for two lines

`sabun poc run --track tensorboard` — the same records in TensorBoard, while it runs

`sabun poc run study.toml --gate` — a study kept in version control, as a step of a pipeline
"""
)
def run(
    source: Annotated[
        str | None,
        typer.Argument(help="A study file, or a task of your own.", metavar="[STUDY.toml | mytask.py:Task]"),
    ] = None,
    task: Annotated[str | None, typer.Option(help="A built-in task, such as digits.")] = None,
    script: Annotated[
        str | None, typer.Option(help="Your own training command, with two lines changed: sabun.swap and sabun.log.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help='Today\'s optimizer, such as "torch.optim:SGD(momentum=0.9)".')
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="An optimizer to compare, such as nesterov@adam. Repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Paired evaluation runs for every arm.")] = None,
    trials: Annotated[int | None, typer.Option(help="Tuning trials for every arm.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where records and report go. Default: runs/NAME.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes that train at a time.")] = 1,
    lang: Lang = "en",
    price_per_hour: Price = None,
    jobs_per_month: Jobs = None,
    currency: Currency = "JPY",
    hours_per_job: Hours = None,
    setup_cost: Setup = 0.0,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Resume on another machine or version; the report says so.")
    ] = False,
    tracker: Annotated[
        str | None,
        typer.Option("--track", help="Send the records there too, while it runs.", metavar="tensorboard|mlflow"),
    ] = None,
    track_to: Annotated[
        str | None,
        typer.Option(help="A directory for TensorBoard (default: in --out), an address for MLflow.", metavar="DIR|URI"),
    ] = None,
    gate: Gate = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a study, or resume it, and report it.

    Every arm is tuned with the same number of trials, then compared on the same seeds, in alternating order. Kill it
    whenever you like: the same command continues where it stopped.
    """
    from sabun.cli import progress
    from sabun.errors import StoreError, StudyError
    from sabun.poc import store
    from sabun.poc import study as studies

    _language(lang)
    prices = _prices(price_per_hour, jobs_per_month, currency, hours_per_job, setup_cost)
    study = study_of(source, task, script, baseline, candidate, {"seeds": seeds, "trials": trials, "epochs": epochs})
    where = out if out is not None else Path("runs") / _slug(study.name)
    try:
        store.refuse_other(where, study)
    except StoreError as error:
        raise StudyError(error.cause, fix=error.fix) from None
    with progress.listener(quiet=quiet or as_json) as tell, _tracking(tracker, track_to, where) as send:

        def hear(event: Event) -> None:
            tell(event)
            send(event)

        studies.run(study, where, jobs=jobs, on_event=hear, allow_mixed=allow_mixed)
    _report(where, lang, prices, gate=gate, as_json=as_json, quiet=quiet)


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
    _language(lang)
    prices = _prices(price_per_hour, jobs_per_month, currency, hours_per_job, setup_cost)
    _report(directory, lang, prices, gate=gate, as_json=as_json, quiet=quiet)


@poc.command()
def status(directory: Folder, as_json: Json = False) -> None:
    """How far a study is. Works from another terminal while it runs."""
    from sabun.cli import console
    from sabun.cli.progress import bar

    store = opened(directory)
    live = store.live()
    done = len(store.results)
    total = live.get("total")
    if as_json:
        counts: dict[str, int] = {}
        for result in store.results.values():
            counts[result.phase] = counts.get(result.phase, 0) + 1
        value = {"study": store.study.name, "hash": store.study.hash, "done": done, "total": total, "phases": counts}
        print(json.dumps({**value, "state": live.get("state", "unknown"), "runs": live.get("runs", [])}, indent=1))
        return
    out = console.stdout()
    out.print(f"{store.study.name}: {done}{f' of {total}' if total else ''} runs, {live.get('state', 'not running')}")
    if isinstance(total, int) and total > 0:
        out.print(bar(done / total))
    for run in live.get("runs", []):
        out.print(f"  {run['phase']} {run['arm']} seed {run['seed']}: epoch {run['epoch']} of {run['epochs']}")


@poc.command()
def verify(directory: Folder, as_json: Json = False) -> None:
    """Check that no record was edited, removed or reordered. Exit code 1 where one was."""
    from sabun.cli import console

    found = opened(directory).verify()
    if as_json:
        value = {"ok": found.ok, "lines": found.lines, "head": found.head, "problem": found.problem, "torn": found.torn}
        print(json.dumps(value))
    elif found.ok:
        torn = " The last line is incomplete; resuming mends it." if found.torn else ""
        console.stdout().print(f"{found.lines} records hold; the last one's hash is {found.head}.{torn}")
    else:
        console.stderr().print(f"error: {found.problem}")
    if not found.ok:
        raise typer.Exit(1)


@poc.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Directory of a study.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Directory of another.", metavar="B")],
    lang: Lang = "en",
    as_json: Json = False,
) -> None:
    """Put two studies side by side: what differs between them, and what each says of the same candidates."""
    from sabun.cli import console, tables
    from sabun.report import json as as_data
    from sabun.report.compare import compare as put_beside
    from sabun.report.text import language

    shown = language(lang)
    found = put_beside(_judge(first, None), _judge(second, None))
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
    from sabun.report import table

    if sum((csv is not None, parquet is not None, as_json)) != 1:
        raise OptionError("export needs one format.", fix="Give --csv FILE, --parquet FILE or --json.")
    runs = list(opened(directory).results.values())
    if as_json:
        print(json.dumps(as_data.plain(table.rows(runs)), ensure_ascii=False, allow_nan=False))
    elif csv is not None and str(csv) == "-":
        print(table.to_csv(runs), end="")
    elif csv is not None:
        _save(csv, table.to_csv(runs).encode())
    elif parquet is not None:
        _save(parquet, _parquet(table.rows(runs)))


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

    new = path.with_name(path.name + ".new")
    try:
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        raise OptionError(
            f"cannot write {path}: {error.strerror}.", fix="Check the path and its permissions."
        ) from None


def _language(lang: str) -> None:
    from sabun.report.text import language

    language(lang)


def _prices(price: float | None, jobs: float | None, currency: str, hours: float | None, setup: float) -> Prices | None:
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


def study_of(
    source: str | None,
    task: str | None,
    script: str | None,
    baseline: str | None,
    candidates: list[str] | None,
    budget: dict[str, int | None],
) -> Study:
    """The study that the options describe. Raises StudyError for options that contradict one another."""
    from sabun.errors import StudyError
    from sabun.poc import study as studies
    from sabun.poc.spec import Study

    given = {key: value for key, value in budget.items() if value is not None}
    if script is not None:
        task = f"script:{script}" if task is None else f"{task} and --script {script}"
    if source is not None and task is not None:
        raise StudyError(f"both {source!r} and --task {task!r} are given.", fix="Give one of the two.")
    if source is not None and ":" not in Path(source).name:
        if baseline is not None or candidates:
            raise StudyError(
                "a study file names its own arms; --baseline and --candidate would change them.",
                fix="Edit the file, or leave it out and give the arms as options.",
            )
        study = Study.load(source)
    else:
        named = _arms([studies.BASELINE if baseline is None else baseline, *(candidates or studies.CANDIDATES)])
        study = studies.default_study(
            task=source or task or "digits",
            baseline=named[0],
            candidates=named[1:],
        )
    if not given:
        return study
    fields = study.model_dump(mode="json")
    return Study.build({**fields, "budget": {**fields["budget"], **given}})


def _arms(notations: list[str]) -> list[Arm]:
    """Arms called by their notation; a class without its module (SGD, not torch.optim:SGD) where that is clear."""
    import re

    from sabun.poc import arms

    short = [re.sub(r"^\s*[\w.]+:(?=\w)", "", notation).strip() for notation in notations]
    names = short if len(set(short)) == len(short) else [None] * len(short)
    return [arms.arm(notation, name=name) for notation, name in zip(notations, names, strict=True)]


@contextlib.contextmanager
def _tracking(name: str | None, to: str | None, out: Path) -> Iterator[Listener]:
    """A listener that sends a study's records to a tracker; one that fails is said once, and the study goes on."""
    from sabun.cli import console
    from sabun.errors import OptionError
    from sabun.report.svg import visible

    if name is None:
        if to is not None:
            raise OptionError("--track-to needs a tracker.", fix="Add --track tensorboard or --track mlflow.")
        yield lambda event: None
        return
    from sabun.integrations.trackers import track

    def failed(error: Exception) -> None:
        said = f"tracking in {name} stopped: {type(error).__name__}: {error}. The study goes on; its records are safe."
        console.stderr().print(visible(said), markup=False, highlight=False)

    tracker = track(name, out, to=to, on_failure=failed)
    try:
        yield tracker
    finally:
        with contextlib.suppress(Exception):  # whatever it says now, the study's own error matters more
            tracker.close()


def _slug(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(name).name)
    return kept.strip("-.")[:60] or "study"


def opened(directory: Path) -> Store:
    from sabun.errors import StudyError
    from sabun.poc.store import Store

    if not Store.exists(directory):
        raise StudyError(f"there is no study in {directory}.", fix="Check the path, or run a study into it first.")
    return Store.open(directory)


def _report(directory: Path, lang: str, prices: Prices | None, *, gate: bool, as_json: bool, quiet: bool) -> None:
    from sabun.cli import console
    from sabun.report import json as as_data
    from sabun.report import terminal
    from sabun.report.text import language, text

    found = _judge(directory, prices)
    files = _write(found, directory, lang)
    if as_json:
        print(json.dumps({**as_data.to_dict(found), "files": files}, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        out = console.stdout()
        out.print(terminal.render(found, language(lang)))
        out.print(f"{text('ui.report_path', language(lang))}: {files['html']}", soft_wrap=True, highlight=False)
    if gate:
        raise typer.Exit(EXIT[found.decision])


def _judge(directory: Path, prices: Prices | None) -> Report:
    """From the records on disk to the report."""
    import hashlib

    from sabun.poc import store as stores
    from sabun.poc.assess import assess
    from sabun.report import model

    store = opened(directory)
    runs, tuning = store.runs(), store.tuning
    records = directory / stores.RECORDS
    digest = hashlib.sha256(records.read_bytes()).hexdigest() if records.exists() else ""
    environment = {**store.environment, "records_head": store.head}
    return model.build(
        store.study,
        assess(store.study, runs, tuning),
        environment,
        runs=runs,
        descriptions=_descriptions(store.study, tuning),
        records_sha256=digest,
        prices=prices,
        mixed=store.mixed,
    )


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
    from sabun.report import html, markdown
    from sabun.report import json as as_data
    from sabun.report.text import language

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
