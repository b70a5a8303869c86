"""``sabun poc``: run a study, resume it, see how far it is. What its records say: :mod:`sabun.cli.judging`.

Every command takes ``--json`` (one JSON value on standard output) and prints its progress to standard error, so output
can be piped. Special case: ``run`` on a directory that already holds the same study resumes it, as ``resume`` does from
the directory alone.
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
    from sabun.poc.evidence import StudyEvidence
    from sabun.poc.executors.base import Executor
    from sabun.poc.spec import Arm, Study

__all__ = ["evidence_of", "frozen", "register", "study_of"]

EXECUTORS = ("processes", "ray")

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


Workers = Annotated[
    int | None,
    typer.Option(help="Runs that train at a time. Default: 1; with --executor ray, all of the cluster's CPUs."),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help="Where runs are carried out: on this machine, or on a Ray cluster.",
        metavar="|".join(EXECUTORS),
    ),
]
Address = Annotated[
    str | None, typer.Option(help="Ray: the cluster's address. Default: $RAY_ADDRESS, or a cluster on this machine.")
]
Mixed = Annotated[bool, typer.Option("--allow-mixed", help="Resume on another machine or version; the report says so.")]
Track = Annotated[
    str | None, typer.Option("--track", help="Send the records there too, while it runs.", metavar="tensorboard|mlflow")
]
TrackTo = Annotated[
    str | None,
    typer.Option(help="A directory for TensorBoard (default: in --out), an address for MLflow.", metavar="DIR|URI"),
]


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
    no_tuning: Annotated[bool, typer.Option("--no-tuning", help="Every arm as it is: no trials.")] = False,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of every run. A script takes them by {epochs} in its command.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which a run of --script counts as hanging.", metavar="SECONDS")
    ] = None,
    pruning: Annotated[
        str | None, typer.Option(help="Whether tuning runs may end early, in every arm alike.", metavar="none|median")
    ] = None,
    batch_seeds: Annotated[
        bool,
        typer.Option("--batch-seeds", help="Train the seeds of an arm as one model, where task and arm allow it."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Where records and report go. Default: runs/NAME.")] = None,
    jobs: Workers = None,
    executor: Where = None,
    address: Address = None,
    lang: Lang = "en",
    price_per_hour: Price = None,
    jobs_per_month: Jobs = None,
    currency: Currency = "JPY",
    hours_per_job: Hours = None,
    setup_cost: Setup = 0.0,
    allow_mixed: Mixed = False,
    tracker: Track = None,
    track_to: TrackTo = None,
    gate: Gate = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a study, or resume it, and report it.

    Every arm is tuned with the same number of trials, then compared on the same seeds, in alternating order. Kill it
    whenever you like: the same command continues where it stopped, and so does `sabun poc resume`.
    """
    from sabun.cli.judging import judged, language_of, prices_of
    from sabun.errors import OptionError, StoreError, StudyError

    language_of(lang)
    prices = prices_of(price_per_hour, jobs_per_month, currency, hours_per_job, setup_cost)
    if no_tuning and trials:
        raise OptionError(f"--no-tuning and --trials {trials} contradict one another.", fix="Give one of the two.")
    budget: dict[str, int | str | None] = {
        "seeds": seeds,
        "trials": 0 if no_tuning else trials,
        "epochs": epochs,
        "pruning": pruning,
    }
    if batch_seeds:
        budget["batch_seeds"] = True
    with _executing(executor, jobs, address) as chosen:
        study = study_of(source, task, script, baseline, candidate, budget, time_limit=time_limit)
        where = out if out is not None else Path("runs") / _slug(study.name)
        from sabun.poc.evidence.specification import refuse_other

        try:
            refuse_other(where, study)
        except StoreError as error:
            raise StudyError(error.cause, fix=error.fix) from None
        found = _carry_out(study, where, chosen, tracker, track_to, allow_mixed=allow_mixed, quiet=quiet or as_json)
    judged(found, lang, prices, gate=gate, as_json=as_json, quiet=quiet)


@poc.command()
def resume(
    directory: Folder,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Do failed runs again, and those that rest on a failed tuning trial."),
    ] = False,
    jobs: Workers = None,
    executor: Where = None,
    address: Address = None,
    lang: Lang = "en",
    allow_mixed: Mixed = False,
    tracker: Track = None,
    track_to: TrackTo = None,
    gate: Gate = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a study from its directory alone, and report it.

    The records are those of a study that was never interrupted, timings aside, with any number of jobs. A task of your
    own is looked for where its path leads from the present directory.
    """
    from sabun.cli.judging import judged, language_of

    language_of(lang)
    with _executing(executor, jobs, address) as chosen:
        study = frozen(directory)
        found = _carry_out(
            study, directory, chosen, tracker, track_to,
            allow_mixed=allow_mixed, retry_failed=retry_failed, quiet=quiet or as_json,
        )  # fmt: skip
    judged(found, lang, None, gate=gate, as_json=as_json, quiet=quiet)


@poc.command()
def status(directory: Folder, as_json: Json = False) -> None:
    """How far a study is, and which runs failed, why, and what they printed last.

    Works from another terminal while it runs.
    """
    import dataclasses

    from sabun.cli import console
    from sabun.cli.failures import failures, lines
    from sabun.cli.progress import bar, place
    from sabun.poc.evidence.live_status import being_written, read_live
    from sabun.text_safety import visible

    found = evidence_of(directory)
    study, results = found.study, found.records.results
    failed = failures(found)
    live = read_live(directory)
    done, total = len(results), live.get("total")
    state = "running" if being_written(directory) else "finished" if live.get("state") == "finished" else "stopped"
    running = live.get("runs", []) if state == "running" else []
    if as_json:
        counts: dict[str, int] = {}
        for result in results.values():
            counts[result.phase] = counts.get(result.phase, 0) + 1
        value = {"study": study.name, "hash": study.hash, "done": done, "total": total, "phases": counts}
        value |= {"state": state, "runs": running}
        print(json.dumps({**value, "failures": [dataclasses.asdict(failure) for failure in failed]}, indent=1))
        return
    out = console.stdout()
    out.print(f"{study.name}: {done}{f' of {total}' if total else ''} runs, {state}")
    if isinstance(total, int) and total > 0:
        out.print(bar(done / total))
    for run in running:
        where = place(run["epoch"], run["epochs"])
        out.print(f"  {run['phase']} {visible(run['arm'])} seed {run['seed']}: {where}", markup=False, highlight=False)
    for line in lines(failed):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if state == "stopped":
        out.print(f"To go on: sabun poc resume {directory}", soft_wrap=True, highlight=False)
    if failed and state != "running":
        again = f"To do failed runs again: sabun poc resume {directory} --retry-failed"
        out.print(again, soft_wrap=True, highlight=False, markup=False)


@contextlib.contextmanager
def _executing(name: str | None, jobs: int | None, address: str | None) -> Iterator[Executor | None]:
    """The executor that the options ask for, getting ready from now on; None for runs in this process.

    Raises OptionError for options that make no sense.
    """
    from sabun.errors import OptionError, unknown

    if name is not None and name not in EXECUTORS:
        raise unknown(OptionError, "executor", name, EXECUTORS)
    if jobs is not None and jobs < 1:
        raise OptionError(f"--jobs must be at least 1 (given: {jobs}).", fix="Give the number of processes.")
    if address is not None and name != "ray":
        raise OptionError("--address is that of a Ray cluster.", fix="Add --executor ray.")
    if name is None and (jobs or 1) == 1:
        yield None
        return
    if name == "ray":
        from sabun.integrations.ray import Ray

        cluster = Ray(jobs, address)
        with contextlib.closing(cluster):
            yield cluster
        return
    from sabun.poc.executors.processes import Processes

    with contextlib.closing(Processes(jobs or 1)) as workers:
        yield workers


def _carry_out(
    study: Study,
    where: Path,
    executor: Executor | None,
    tracker: str | None,
    track_to: str | None,
    *,
    allow_mixed: bool,
    quiet: bool,
    retry_failed: bool = False,
) -> StudyEvidence:
    from sabun.cli import progress
    from sabun.poc import study as studies

    with progress.listener(quiet=quiet) as tell, _tracking(tracker, track_to, where) as send:

        def hear(event: Event) -> None:
            tell(event)
            send(event)

        return studies.run(
            study, where, executor=executor, on_event=hear, allow_mixed=allow_mixed, retry_failed=retry_failed
        )


def study_of(
    source: str | None,
    task: str | None,
    script: str | None,
    baseline: str | None,
    candidates: list[str] | None,
    budget: Mapping[str, int | str | None],
    *,
    time_limit: float | None = None,
) -> Study:
    """The study that the options describe. Raises StudyError for options that contradict one another."""
    from sabun.errors import StudyError
    from sabun.poc.startup import uncollected

    with uncollected():
        from sabun.poc import arms
        from sabun.poc import study as studies
    from sabun.poc.spec import Study
    from sabun.poc.tasks.base import PREFIX

    given = {key: value for key, value in budget.items() if value is not None}
    if script is not None:
        task = f"{PREFIX}{script}" if task is None else f"{task} and --script {script}"
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
        what = source or task or "digits"
        # What a team uses today is what its script makes.
        today = arms.SCRIPT if what.startswith(PREFIX) else studies.BASELINE
        named = _arms([today if baseline is None else baseline, *(candidates or studies.CANDIDATES)])
        study = studies.default_study(
            task=what,
            baseline=named[0],
            candidates=named[1:],
        )
    is_script = study.task.startswith(PREFIX)
    if time_limit is not None and not is_script:
        raise StudyError("--time-limit is for scripts.", fix="Leave it out.")
    if "epochs" in given and is_script and "{epochs}" not in study.task:
        raise StudyError(
            "a script has its own number of epochs; --epochs would not reach it.",
            fix="Put {epochs} into its command, as in --script 'python train.py --epochs {epochs}', or leave it out.",
        )
    fields = study.model_dump(mode="json")
    options = fields["task_options"] | ({} if time_limit is None else {"time_limit": time_limit})
    return Study.build({**fields, "task_options": options, "budget": {**fields["budget"], **given}})


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
    from sabun.text_safety import visible

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


def evidence_of(directory: Path) -> StudyEvidence:
    """The evidence in ``directory``, read and verified."""
    from sabun.poc import evidence

    require_study(directory)
    return evidence.read(directory)


def frozen(directory: Path) -> Study:
    """The study in ``directory``, as its first run froze it."""
    from sabun.poc.evidence.specification import FrozenSpecification

    require_study(directory)
    return FrozenSpecification.read(directory).study


def require_study(directory: Path) -> None:
    """Raise StudyError where there is no study in ``directory``."""
    from sabun.errors import StudyError
    from sabun.poc.startup import uncollected

    with uncollected():
        from sabun.poc.evidence import exists

    if not exists(directory):
        raise StudyError(f"there is no study in {directory}.", fix="Check the path, or run a study into it first.")
