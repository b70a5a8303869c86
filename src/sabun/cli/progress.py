"""A study's progress: bars on a terminal, a line now and then elsewhere. Driven by :mod:`sabun.poc.events` alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from sabun.cli import console
from sabun.cli.failures import PHASES, kind
from sabun.messages.formatting import show
from sabun.poc import events
from sabun.poc.records import evaluated
from sabun.text_safety import shorten, visible

__all__ = ["bar", "listener", "place"]

EVERY_S = 10.0
NAME = 44
"""Columns for what a bar stands for, so that bars do not jump from run to run."""


def bar(share: float, width: int = 40) -> str:
    """A bar of text."""
    full = round(min(1.0, max(0.0, share)) * width)
    return "█" * full + "░" * (width - full) + f" {share:.0%}"


def place(epoch: int, epochs: int | None) -> str:
    """Where a run is."""
    return f"epoch {epoch}" if epochs is None else f"epoch {epoch} of {epochs}"


@contextmanager
def listener(*, quiet: bool) -> Iterator[Callable[[events.Event], None]]:
    """A listener for :func:`sabun.poc.study.run`."""
    out = console.stderr()
    if quiet:
        yield lambda event: None
    elif out.is_terminal:
        with _Bars(out) as bars:
            yield bars
    else:
        yield _Lines(out)


def _left(seconds: float) -> str:
    whole = max(1, round(seconds))
    return f"about {whole} s left" if whole < 100 else f"about {show(whole, 's', 'en')} left"


def _again(event: events.RunsWithdrawn) -> str:
    resting = f", and {event.resting} that rest on them" if event.resting else ""
    return f"done again: {event.failed} failed run{'s' if event.failed > 1 else ''}{resting}"


class _Failed:
    """A failure is told when it first occurs: whoever sees that every run of an arm fails can stop the study."""

    def __init__(self) -> None:
        self.told: set[tuple[str, str]] = set()

    def new(self, event: events.RunFinished) -> str | None:
        key = (event.run.arm, kind(event.result))
        if event.result.status != "failed" or key in self.told:
            return None
        self.told.add(key)
        return f"run of {visible(event.run.arm)} failed: {visible(event.result.failure)}"


class _Lines:
    """One line a phase of an arm, and one every ten seconds."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.last = time.monotonic()
        self.failed = _Failed()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.StudyStarted):
            resumed = f", {event.done} of them done before" if event.done else ""
            self.out.print(f"{visible(event.study.name)}: {event.total} runs{resumed}, into {event.path}")
        elif isinstance(event, events.TuningFinished):
            best = ", ".join(
                f"{key} {show(value, 'num', 'en') if isinstance(value, float) else value}"
                for key, value in event.tuning.best.items()
            )
            self.out.print(f"tuned {visible(event.tuning.arm)}: {best}")
        elif isinstance(event, events.RunsWithdrawn):
            self.out.print(_again(event))
        elif isinstance(event, events.SeedsAlone):
            self.out.print(f"{visible(event.arm)}: its seeds are trained one by one, because {event.reason}")
        elif isinstance(event, events.RunRetried):
            self.out.print(f"run of {visible(event.run.arm)} starts again: {event.reason}")
        elif isinstance(event, events.RunFinished) and (said := self.failed.new(event)):
            self.out.print(Text(said))
        elif isinstance(event, events.RunFinished) and time.monotonic() - self.last >= EVERY_S:
            self.last = time.monotonic()
            phase = PHASES.get(event.run.phase, event.run.phase)
            self.out.print(f"{phase}: run {event.done} of {event.total}, {_left(event.remaining_s)}")
        elif isinstance(event, events.StudyFinished):
            self.out.print(f"done in {show(event.seconds, 's', 'en')}")


class _Bars:
    """A bar for the study, and one for every run in flight."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.fields[note]}"), console=out
        )
        self.whole: TaskID | None = None
        self.runs: dict[str, TaskID] = {}
        self.failed = _Failed()

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.StudyStarted):
            self.whole = self.progress.add_task(
                f"{_plain(event.study.name):<{NAME}}",
                total=event.total,
                completed=event.done,
                note=f"{event.total} runs",
            )
        elif isinstance(event, events.RunStarted):
            phase = PHASES.get(event.run.phase, event.run.phase)
            name = f"  run {event.number} of {event.total}, {phase} {_plain(event.run.arm)}"
            self.runs[event.run.id] = self.progress.add_task(f"{name:<{NAME}}", total=event.epochs, note="")
        elif isinstance(event, events.EpochDone) and event.run.id in self.runs:
            note = place(event.epoch.epoch, event.epochs)
            if (loss := evaluated(event.run.phase, event.epoch)) is not None:
                note += f", loss {show(loss, 'loss', 'en')}"
            self.progress.update(self.runs[event.run.id], completed=event.epoch.epoch, note=note)
        elif isinstance(event, events.RunFinished):
            if said := self.failed.new(event):
                self.out.print(Text(said))
            if event.run.id in self.runs:
                self.progress.remove_task(self.runs.pop(event.run.id))
            if self.whole is not None:
                self.progress.update(self.whole, completed=event.done, note=_left(event.remaining_s))
        elif isinstance(event, events.RunsWithdrawn):
            self.out.print(_again(event))
        elif isinstance(event, events.SeedsAlone):
            self.out.print(Text(f"{visible(event.arm)}: its seeds are trained one by one, because {event.reason}"))
        elif isinstance(event, events.RunRetried):
            self.out.print(Text(f"run of {visible(event.run.arm)} starts again: {event.reason}"))
        elif isinstance(event, events.StudyFinished) and self.whole is not None:
            self.progress.update(self.whole, note=f"done in {show(event.seconds, 's', 'en')}")


def _plain(name: str) -> str:
    """A name that rich does not read as markup."""
    return shorten(visible(name), 24).replace("[", "\\[")
