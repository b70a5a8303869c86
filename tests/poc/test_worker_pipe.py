"""The pipe between a worker and its study: a damaged report costs the worker, never a number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sabun.poc import events
from sabun.poc.executors import processes
from sabun.poc.executors.wire import Assignment, DamagedReportError, run_unit
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run
from sabun.poc.study import run

from ..damage import EXAMPLES, attempt, damaged
from .helpers import SGD, tiny_study
from .test_processes import by_id

UNIT = tuple(Run(arm="a", seed=seed, phase="evaluate", hyperparameters={"lr": 0.1}) for seed in range(2))
OTHER = tuple(Run(arm="b", seed=seed, phase="evaluate", hyperparameters={"lr": 0.3}) for seed in range(2))


def epoch(number: int, loss: float) -> Epoch:
    return Epoch(number, 0.5, loss, None, 0.01, 0.02, 0.001, 4 * number)


class Recorded:
    """An executor that reports known epochs and results."""

    def submit(self, unit: tuple[Run, ...]) -> None:
        curves = {one.id: [epoch(number, 1.0 / (1 + number + one.seed)) for number in range(3)] for one in unit}
        epochs = [(one, curves[one.id][number]) for number in range(3) for one in unit]
        results = [(one, one.result("finished", curves[one.id])) for one in unit]
        self._items: Iterator[tuple[Run, Epoch | RunResult]] = iter([*epochs, *results])

    def next(self) -> tuple[Run, Epoch | RunResult]:
        return next(self._items)


def sent(unit: tuple[Run, ...], study_hash: str = "study") -> bytes:
    return b"".join(line.encode() + b"\n" for line in run_unit(Recorded(), study_hash, unit))


def received(content: bytes, study_hash: str = "study") -> list[tuple[Run, Epoch | RunResult]]:
    """What arrives of the whole lines in ``content``."""
    assignment = Assignment(study_hash)
    assignment.start(UNIT)
    return [assignment.read(line) for line in content.split(b"\n")[:-1]]


def test_a_stream_of_reports() -> None:
    """A damaged one is found at the first line that is not as it was sent; what comes before it is as it was sent."""
    whole = sent(UNIT)
    lines, expected = whole.splitlines(keepends=True), received(whole)
    assert [type(item) for _, item in expected] == [Epoch] * 6 + [RunResult] * 2
    refused = 0

    def check(content: bytes) -> None:
        nonlocal refused
        same = sum(
            1
            for _ in itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(lines, content.splitlines(True), strict=False)
            )
        )
        assignment = Assignment("study")
        assignment.start(UNIT)
        kept = content.split(b"\n")[:-1]
        for at, line in enumerate(kept):
            found, error = attempt(lambda line=line: assignment.read(line), DamagedReportError)  # type: ignore[misc]
            if error is not None:
                assert "not its next report" in str(error)
                assert at >= same
                refused += 1
                return
            assert found == expected[at]
        assert whole.startswith(content[: content.rfind(b"\n") + 1])

    damaged(whole, sent(OTHER) + sent(UNIT, "another study"), check)
    assert refused > EXAMPLES // 2


@pytest.mark.parametrize(
    "content", [sent(OTHER), sent(UNIT, "another study"), sent(UNIT[::-1]), b"\n", b"{}\n", b"\xff\n"]
)
def test_reports_on_other_runs_or_of_another_study_are_refused(content: bytes) -> None:
    with pytest.raises(DamagedReportError):
        received(content)


def test_an_idle_worker_has_nothing_to_report() -> None:
    assignment = Assignment("study")
    with pytest.raises(DamagedReportError):
        assignment.read(sent(UNIT).splitlines()[0])


def flipped(line: bytes) -> bytes:
    return line.replace(b"0.", b"1.", 1)


def torn(line: bytes) -> bytes:
    return line[: len(line) // 2] + b"\n"


@pytest.mark.parametrize(("damage", "always"), [(flipped, True), (torn, False)])
def test_a_damaged_report_costs_one_retry_and_then_the_run(
    damage: Callable[[bytes], bytes], always: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a real study with two workers; the baseline's runs are damaged once, or each time."""
    study = tiny_study("torch.optim:SGD", trials=0, seeds=2, epochs=2)
    read, count = Assignment.read, 0

    def damaging(self: Assignment, line: bytes) -> tuple[Run, Epoch | RunResult]:
        nonlocal count
        first = bool(self.unit) and (self.unit[0].arm, self.unit[0].seed, self.unit[0].phase) == (SGD, 1, "evaluate")
        if first and b'"epoch":1,' in line.replace(b" ", b"") and b'"result"' not in line and (always or not count):
            count += 1
            line = damage(line + b"\n")[:-1]
        return read(self, line)

    monkeypatch.setattr(processes.Assignment, "read", damaging)
    heard: list[events.Event] = []
    evidence = run(study, tmp_path / "out", jobs=2, on_event=heard.append)
    retried = [event for event in heard if isinstance(event, events.RunRetried)]
    assert len(retried) == 1
    assert "sent a line that is not its next report" in retried[0].reason
    failed = [result for result in evidence.runs if result.status == "failed"]
    assert [(result.arm, result.seed) for result in failed] == ([(SGD, 1)] if always else [])
    if always:
        assert "died twice: it sent a line" in failed[0].failure
    else:
        run(study, tmp_path / "quiet")
        assert by_id(tmp_path / "out") == by_id(tmp_path / "quiet")
