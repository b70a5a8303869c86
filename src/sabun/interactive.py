"""Studies in a notebook: run one with its progress below the cell, and read reports there.

A cell that ends in ``interactive.run(study, "runs/first")`` shows the progress and then the report. Studies, verdicts
and certificates are displayed as the last value of a cell, too. :func:`sabun.set_language` sets the language, and
:class:`Page` shows the whole report with its charts. Outside a notebook progress is written to standard error.
"""

from __future__ import annotations

import html
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sabun.messages import displays
from sabun.messages.sentences import Value, text
from sabun.poc import events, study
from sabun.poc.descriptions import describe_arms
from sabun.poc.evidence import read as read_evidence
from sabun.poc.failures import reason_key
from sabun.poc.resolved import resolve
from sabun.poc.spec import Study
from sabun.report import html as page
from sabun.report.facts import Report
from sabun.report.money import Prices
from sabun.report.publish import judge, publish

__all__ = ["Page", "Progress", "read", "run"]

EVERY_S = 0.5
"""Seconds between two updates of the progress."""


def run(spec: Study, out: str | Path, *, jobs: int = 1, prices: Prices | None = None) -> Report:
    """Run a study in the directory ``out``, or the rest of it, and return its report, which is also written there.

    The study may be interrupted (the square in Jupyter's tool bar) and started again. Raises what
    :func:`sabun.poc.study.run` raises.
    """
    resolved = resolve(spec)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "IProgress not found"
        )  # advice of tqdm, which Optuna brings and sabun never uses
        evidence = study.run(resolved, out, jobs=jobs, on_event=Progress())
    describe = partial(describe_arms, resolved=resolved)
    return publish(evidence, describe=describe, lang=displays.display_language(), money=prices).report


def read(directory: str | Path, *, prices: Prices | None = None) -> Report:
    """Return the report on the study in ``directory``, which may still be running elsewhere. Nothing is written.

    Raises StoreError where there is no study, or where its evidence is not valid.
    """
    return judge(read_evidence(directory), describe=describe_arms, money=prices)


class Page:
    """The whole report, with its charts, as a page inside the notebook: the file ``report.html``."""

    def __init__(self, report: Report, *, height: int = 700) -> None:
        self.report, self.height = report, height

    def _repr_html_(self) -> str:
        inner = html.escape(page.render(self.report, displays.display_language()), quote=True)
        return f'<iframe srcdoc="{inner}" style="width:100%;height:{self.height}px;border:0"></iframe>'


class Progress:
    """The progress of a study below a notebook's cell, for ``on_event`` of :func:`sabun.poc.study.run`.

    ``show`` displays HTML with the same in plain text, the next one in place of the one before.
    """

    def __init__(
        self, show: Callable[[str, str], object] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show, self._clock = show or _shown(), clock
        self._name, self._last = "", -EVERY_S
        self._done = self._total = 0
        self._failures: dict[tuple[str, str], str] = {}

    def __call__(self, event: events.Event) -> None:
        lang = displays.display_language()

        def said(key: str, **values: Value) -> str:
            return text(f"progress.{key}", lang, values)

        if isinstance(event, events.StudyStarted):
            self._name, self._done, self._total = event.study.name, event.done, event.total
            self._update(said("runs", total=event.total))
        elif isinstance(event, events.RunFinished):
            self._done, self._total = event.done, event.total
            if event.result.status == "failed":
                failure = said("failed", arm=event.run.arm, reason=event.result.failure)
                self._failures.setdefault((event.run.arm, reason_key(event.result)), failure)
            if self._clock() - self._last >= EVERY_S:
                seconds = max(1, round(event.remaining_s))
                left = said("left_s" if seconds < 100 else "left", seconds=seconds)
                phase = said(event.run.phase)
                self._update(said("so_far", phase=phase, done=event.done, total=event.total, left=left))
        elif isinstance(event, events.StudyFinished):
            self._update(said("done", seconds=event.seconds))

    def _update(self, said: str) -> None:
        self._last = self._clock()
        failures = list(self._failures.values())
        parts = displays.bar(self._done / max(1, self._total)), displays.paragraph(said), displays.items(failures)
        self._show(displays.panel(self._name, *parts), "\n".join([f"{self._name}: {said}", *failures]))


def _shown() -> Callable[[str, str], object]:
    """Return what shows the progress: one output of the cell that changes, or lines where there is no notebook."""
    if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
        return lambda _, plain: sys.stderr.write(f"{plain}\n")
    from IPython.display import display

    handle: Any = display({"text/plain": ""}, raw=True, display_id=True)

    def show(rich: str, plain: str) -> None:
        handle.update({"text/html": rich, "text/plain": plain}, raw=True)

    return show
