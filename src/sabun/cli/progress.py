"""A study's progress on standard error: bars on a terminal, occasional lines elsewhere.

It depends on the events of :mod:`sabun.poc.events` alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from sabun.cli import console
from sabun.messages.formatting import show
from sabun.messages.languages import Language
from sabun.messages.sentences import Value, text
from sabun.poc import events
from sabun.poc.failures import reason_key
from sabun.poc.records import evaluated
from sabun.text_safety import shorten, visible

__all__ = ["bar", "listener", "phase_name", "place"]

EVERY_S = 10.0
"""Seconds between two lines where the output is not a terminal."""
NAME = 44
"""Columns of a bar's label. A fixed width keeps the bars in place."""


def phase_name(phase: str, lang: Language) -> str:
    """Return the word for a phase of a study."""
    return text(f"progress.{phase}", lang)


def bar(share: float, width: int = 40) -> str:
    """Return a bar of text, with the percentage."""
    full = round(min(1.0, max(0.0, share)) * width)
    return "█" * full + "░" * (width - full) + f" {share:.0%}"


def place(epoch: int, epochs: int | None, lang: Language) -> str:
    """Return the position of a run: ``epoch 3 of 10``, or ``epoch 3`` where only its script knows the number."""
    key = "progress.epoch" if epochs is None else "progress.epoch_of"
    return text(key, lang, {"epoch": epoch, "epochs": epochs})


@contextmanager
def listener(lang: Language, *, quiet: bool) -> Iterator[Callable[[events.Event], None]]:
    """Return a listener for :func:`sabun.poc.study.run`."""
    out = console.stderr()
    if quiet:
        yield lambda event: None
    elif out.is_terminal:
        with _Bars(out, lang) as bars:
            yield bars
    else:
        yield _Lines(out, lang)


def _remaining(seconds: float, lang: Language) -> str:
    whole = max(1, round(seconds))
    return text("progress.left_s" if whole < 100 else "progress.left", lang, {"seconds": whole})


class _Messages:
    """The sentence that an event deserves, if any."""

    def __init__(self, lang: Language) -> None:
        self.lang = lang
        self._failures: set[tuple[str, str]] = set()

    def of(self, event: events.Event) -> str | None:
        """Return a sentence for what the user should know. A failure is reported once per arm and reason."""
        if isinstance(event, events.RunsWithdrawn):
            key = "progress.failed_again_dependent" if event.dependent else "progress.failed_again"
            return text(key, self.lang, {"failed": event.failed, "dependent": event.dependent})
        if isinstance(event, events.TimingsWithdrawn):
            return text("progress.timings_again", self.lang, {"runs": event.runs})
        if isinstance(event, events.SeedsNotBatched):
            return text("progress.not_batched", self.lang, {"arm": event.arm, "reason": event.reason})
        if isinstance(event, events.RunRetried):
            return text("progress.retried", self.lang, {"arm": event.run.arm, "reason": event.reason})
        if isinstance(event, events.RunFinished) and event.result.status == "failed":
            failure = (event.run.arm, reason_key(event.result))
            if failure not in self._failures:
                self._failures.add(failure)
                return text("progress.failed", self.lang, {"arm": event.run.arm, "reason": event.result.failure})
        return None


class _Lines:
    """One line for each arm that is tuned, and one every ten seconds."""

    def __init__(self, out: Console, lang: Language) -> None:
        self.out, self.lang = out, lang
        self.last = time.monotonic()
        self.messages = _Messages(lang)

    def _say(self, key: str, **values: Value) -> None:
        self.out.print(text(f"progress.{key}", self.lang, values))

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.StudyStarted):
            values: dict[str, Value] = {"total": event.total, "done": event.done, "path": str(event.path)}
            self._say("started_again" if event.done else "started", name=event.study.name, **values)
        elif isinstance(event, events.TuningFinished):
            best = ", ".join(
                f"{key} {show(value, 'num', self.lang) if isinstance(value, float) else value}"
                for key, value in event.tuning.best.items()
            )
            self._say("tuned", arm=event.tuning.arm, best=best)
        elif (message := self.messages.of(event)) is not None:
            self.out.print(message)
        elif isinstance(event, events.RunFinished) and time.monotonic() - self.last >= EVERY_S:
            self.last = time.monotonic()
            phase, left = phase_name(event.run.phase, self.lang), _remaining(event.remaining_s, self.lang)
            self._say("so_far", phase=phase, done=event.done, total=event.total, left=left)
        elif isinstance(event, events.StudyFinished):
            self._say("done", seconds=event.seconds)


class _Bars:
    """A bar for the study, and one for each run in progress."""

    def __init__(self, out: Console, lang: Language) -> None:
        self.out, self.lang = out, lang
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.fields[note]}"), console=out
        )
        self.whole: TaskID | None = None
        self.runs: dict[str, TaskID] = {}
        self.messages = _Messages(lang)

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
                _column(_plain(event.study.name)),
                total=event.total,
                completed=event.done,
                note=text("progress.runs", self.lang, {"total": event.total}),
            )
        elif isinstance(event, events.RunStarted):
            values: dict[str, Value] = {"number": event.number, "total": event.total, "arm": _plain(event.run.arm)}
            phase = phase_name(event.run.phase, self.lang)
            name = f"  {text('progress.run', self.lang, {'phase': phase, **values})}"
            self.runs[event.run.id] = self.progress.add_task(_column(name), total=event.epochs, note="")
        elif isinstance(event, events.EpochDone) and event.run.id in self.runs:
            note = place(event.epoch.epoch, event.epochs, self.lang)
            if (loss := evaluated(event.run.phase, event.epoch)) is not None:
                note = text("progress.loss", self.lang, {"place": note, "loss": loss})
            self.progress.update(self.runs[event.run.id], completed=event.epoch.epoch, note=note)
        elif isinstance(event, events.RunFinished):
            if event.run.id in self.runs:
                self.progress.remove_task(self.runs.pop(event.run.id))
            if self.whole is not None:
                self.progress.update(self.whole, completed=event.done, note=_remaining(event.remaining_s, self.lang))
        elif isinstance(event, events.StudyFinished) and self.whole is not None:
            self.progress.update(self.whole, note=text("progress.done", self.lang, {"seconds": event.seconds}))


def _column(label: str) -> str:
    """Return a label in the width of a bar's."""
    return label + " " * max(0, NAME - cell_len(label))


def _plain(name: str) -> str:
    """Return a name that rich does not interpret as markup."""
    return shorten(visible(name), 24).replace("[", "\\[")
