"""A study's progress on standard error: bars on a terminal, occasional lines elsewhere.

It depends on the events of :mod:`sabun.poc.events` alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from sabun.cli import console
from sabun.messages.formatting import show
from sabun.poc import events
from sabun.poc.failures import reason_key
from sabun.poc.records import evaluated
from sabun.text_safety import shorten, visible

__all__ = ["bar", "listener", "phase_name", "place"]

EVERY_S = 10.0
"""Seconds between two lines where the output is not a terminal."""
NAME = 44
"""Columns of a bar's label. A fixed width keeps the bars in place."""

PHASES = {"tune": "tuning", "evaluate": "evaluation", "repeat": "repetition", "time": "timing"}


def phase_name(phase: str) -> str:
    """Return the word for a phase of a study."""
    return PHASES.get(phase, phase)


def bar(share: float, width: int = 40) -> str:
    """Return a bar of text, with the percentage."""
    full = round(min(1.0, max(0.0, share)) * width)
    return "█" * full + "░" * (width - full) + f" {share:.0%}"


def place(epoch: int, epochs: int | None) -> str:
    """Return the position of a run: ``epoch 3 of 10``, or ``epoch 3`` where only its script knows the number."""
    return f"epoch {epoch}" if epochs is None else f"epoch {epoch} of {epochs}"


@contextmanager
def listener(*, quiet: bool) -> Iterator[Callable[[events.Event], None]]:
    """Return a listener for :func:`sabun.poc.study.run`."""
    out = console.stderr()
    if quiet:
        yield lambda event: None
    elif out.is_terminal:
        with _Bars(out) as bars:
            yield bars
    else:
        yield _Lines(out)


def _remaining(seconds: float) -> str:
    whole = max(1, round(seconds))
    return f"about {whole} s left" if whole < 100 else f"about {show(whole, 's', 'en')} left"


class _Messages:
    """The sentence that an event deserves, if any."""

    def __init__(self) -> None:
        self._failures: set[tuple[str, str]] = set()

    def of(self, event: events.Event) -> str | None:
        """Return a sentence for what the user should know. A failure is reported once per arm and reason."""
        if isinstance(event, events.RunsWithdrawn):
            depending = f", and {event.dependent} that depend on them" if event.dependent else ""
            return f"repeating {event.failed} failed run{'s' if event.failed > 1 else ''}{depending}"
        if isinstance(event, events.TimingsWithdrawn):
            return f"repeating {event.runs} timings that were taken on a busy machine"
        if isinstance(event, events.SeedsNotBatched):
            return f"{event.arm}: seeds are not batched, because {event.reason}"
        if isinstance(event, events.RunRetried):
            return f"run of {event.run.arm} is repeated: {event.reason}"
        if isinstance(event, events.RunFinished) and event.result.status == "failed":
            key = (event.run.arm, reason_key(event.result))
            if key not in self._failures:
                self._failures.add(key)
                return f"run of {event.run.arm} failed: {event.result.failure}"
        return None


class _Lines:
    """One line for each arm that is tuned, and one every ten seconds."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.last = time.monotonic()
        self.messages = _Messages()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.StudyStarted):
            done = f", {event.done} of them already done" if event.done else ""
            self.out.print(f"{event.study.name}: {event.total} runs{done}, in {event.path}")
        elif isinstance(event, events.TuningFinished):
            best = ", ".join(
                f"{key} {show(value, 'num', 'en') if isinstance(value, float) else value}"
                for key, value in event.tuning.best.items()
            )
            self.out.print(f"tuned {event.tuning.arm}: {best}")
        elif (message := self.messages.of(event)) is not None:
            self.out.print(message)
        elif isinstance(event, events.RunFinished) and time.monotonic() - self.last >= EVERY_S:
            self.last = time.monotonic()
            phase = phase_name(event.run.phase)
            self.out.print(f"{phase}: {event.done} of {event.total} runs done, {_remaining(event.remaining_s)}")
        elif isinstance(event, events.StudyFinished):
            self.out.print(f"done in {show(event.seconds, 's', 'en')}")


class _Bars:
    """A bar for the study, and one for each run in progress."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.fields[note]}"), console=out
        )
        self.whole: TaskID | None = None
        self.runs: dict[str, TaskID] = {}
        self.messages = _Messages()

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: events.Event) -> None:
        if (message := self.messages.of(event)) is not None:
            self.out.print(message)
        if isinstance(event, events.StudyStarted):
            self.whole = self.progress.add_task(
                f"{_plain(event.study.name):<{NAME}}",
                total=event.total,
                completed=event.done,
                note=f"{event.total} runs",
            )
        elif isinstance(event, events.RunStarted):
            phase = phase_name(event.run.phase)
            name = f"  run {event.number} of {event.total}, {phase} {_plain(event.run.arm)}"
            self.runs[event.run.id] = self.progress.add_task(f"{name:<{NAME}}", total=event.epochs, note="")
        elif isinstance(event, events.EpochDone) and event.run.id in self.runs:
            note = place(event.epoch.epoch, event.epochs)
            if (loss := evaluated(event.run.phase, event.epoch)) is not None:
                note += f", loss {show(loss, 'loss', 'en')}"
            self.progress.update(self.runs[event.run.id], completed=event.epoch.epoch, note=note)
        elif isinstance(event, events.RunFinished):
            if event.run.id in self.runs:
                self.progress.remove_task(self.runs.pop(event.run.id))
            if self.whole is not None:
                self.progress.update(self.whole, completed=event.done, note=_remaining(event.remaining_s))
        elif isinstance(event, events.StudyFinished) and self.whole is not None:
            self.progress.update(self.whole, note=f"done in {show(event.seconds, 's', 'en')}")


def _plain(name: str) -> str:
    """Return a name that rich does not interpret as markup."""
    return shorten(visible(name), 24).replace("[", "\\[")
