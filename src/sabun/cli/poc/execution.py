"""What ``run`` and ``resume`` share: carry out a study with progress and a tracker, then show its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sabun.cli import console, options, progress
from sabun.errors import OptionError, unknown

if TYPE_CHECKING:
    from sabun.messages.languages import Language
    from sabun.poc.events import Event, Listener
    from sabun.poc.evidence import StudyEvidence
    from sabun.poc.executors.executor import Executor
    from sabun.poc.resolved import ResolvedStudy
    from sabun.report.money import Prices

__all__ = ["executor_of", "listener_of", "show_report"]

EXECUTORS = ("processes", "ray")


@contextlib.contextmanager
def executor_of(name: str | None, jobs: int | None, address: str | None) -> Iterator[Executor | None]:
    """The executor that the options name, which starts its workers at once; None for runs in this process.

    Raises OptionError for options that contradict each other.
    """
    if name is not None and name not in EXECUTORS:
        raise unknown(OptionError, "executor", name, EXECUTORS)
    if jobs is not None and jobs < 1:
        raise OptionError(f"--jobs must be at least 1 (given: {jobs}).", fix="Give the number of processes.")
    if address is not None and name != "ray":
        raise OptionError("--address is the address of a Ray cluster.", fix="Add --executor ray, or leave it out.")
    executor: Executor
    if name == "ray":
        from sabun.integrations.ray import Ray

        executor = Ray(jobs, address)
    elif name == "processes" or (jobs or 1) > 1:
        from sabun.poc.executors.processes import Processes

        executor = Processes(jobs or 1)
    else:
        yield None
        return
    with contextlib.closing(executor):
        yield executor


@contextlib.contextmanager
def listener_of(
    tracker: str | None, track_to: str | None, directory: Path, lang: Language, *, quiet: bool
) -> Iterator[Listener]:
    """The listener for a study's events: progress on standard error, and the tracker that the options name."""
    with progress.listener(lang, quiet=quiet) as show, _tracker_of(tracker, track_to, directory) as send:

        def listen(event: Event) -> None:
            show(event)
            send(event)

        yield listen


@contextlib.contextmanager
def _tracker_of(name: str | None, to: str | None, directory: Path) -> Iterator[Listener]:
    """A listener that sends records to a tracker. If the tracker fails, that is reported once and the study goes on."""
    if name is None:
        if to is not None:
            raise OptionError("--track-to needs a tracker.", fix="Add --track tensorboard or --track mlflow.")
        yield lambda event: None
        return
    from sabun.integrations.trackers import track

    def failed(error: Exception) -> None:
        console.stderr().print(
            f"tracking with {name} stopped: {type(error).__name__}: {error}. "
            "The study goes on, and its records are complete."
        )

    tracker = track(name, directory, to=to, on_failure=failed)
    try:
        yield tracker
    finally:
        with contextlib.suppress(Exception):  # an error of the study itself is more important
            tracker.close()


def show_report(
    evidence: StudyEvidence,
    lang: Language | None,
    prices: Prices | None,
    *,
    gate: bool,
    as_json: bool,
    quiet: bool,
    resolved: ResolvedStudy | None = None,
    pptx: Path | None = None,
) -> None:
    """Judge ``evidence``, write the report files and print the verdict. ``gate``: exit with the decision's code.

    Without ``lang`` the verdict is in English, and the report opens in the language of its reader's browser.
    ``resolved`` is the study, if this process has resolved it already. ``pptx`` is a file for the report as slides.
    """
    if pptx is not None:
        from sabun.report import slides  # refused where python-pptx is missing, before anything is written
    from sabun.cli.poc.prices import for_report, remember
    from sabun.messages.sentences import text
    from sabun.poc.descriptions import describe_arms
    from sabun.report import report_json, terminal
    from sabun.report.publish import publish, save

    remember(evidence.path, prices)
    prices = for_report(evidence.study, evidence.path, prices)
    published = publish(evidence, describe=partial(describe_arms, resolved=resolved), lang=lang, money=prices)
    files = dict(published.files)
    if pptx is not None:
        save(pptx, slides.render(published.report, lang))
        files["pptx"] = str(pptx)
    if as_json:
        value = {**report_json.to_dict(published.report), "files": files}
        console.print_json(value)
    elif not quiet:
        out, said = console.stdout(), options.language_of(lang)
        out.print(terminal.render(published.report, said))
        for key, kind in (("ui.report_path", "html"), ("ui.slides_path", "pptx")):
            if kind in files:
                out.print(f"{text(key, said)}: {files[kind]}", soft_wrap=True)
    if gate:
        raise typer.Exit(published.exit_code)
