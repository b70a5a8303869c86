"""A busy machine does not change a verdict: what is recorded, what is repeated, and what is judged."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sys
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sabun.messages.languages import languages
from sabun.messages.sentences import text
from sabun.poc import events
from sabun.poc import evidence as stored
from sabun.poc.codec import decode_epoch, encode_epoch
from sabun.poc.judgement.assess import assess
from sabun.poc.judgement.assessment import Assessment
from sabun.poc.records import BUSY_SHARE, Epoch, Load, RunResult, timings
from sabun.poc.resolved import resolve
from sabun.poc.spec import Run, Study
from sabun.poc.study import run
from sabun.poc.training import loop
from sabun.poc.training.script_records import MalformedLineError, read_record
from sabun.poc.training.single import TIMINGS
from sabun.poc.training.trainer import Trainer
from sabun.report.build import build
from sabun.script import machine_load
from sabun.script.machine_load import LoadMeter

from .evidence import runs_of, study
from .helpers import SGD, tiny_study

QUIET = Load(cpu_s=1.0, waited_s=0.0, lost_s=0.0, preempted=0, average=0.1)


def _spin(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    while True:
        pass


@pytest.fixture
def shared_processor() -> Iterator[None]:
    """This process and a busy one on the same processor."""
    before = os.sched_getaffinity(0)
    cpu = min(before)
    other = multiprocessing.get_context("spawn").Process(target=_spin, args=(cpu,), daemon=True)
    os.sched_setaffinity(0, {cpu})
    other.start()
    try:
        time.sleep(1.0)  # it starts an interpreter
        yield
    finally:
        other.kill()
        other.join()
        os.sched_setaffinity(0, before)


# ------------------------------------------------------------------------------------------------------------- recorded


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the system does not report waiting")
def test_waiting_for_a_processor_is_measured(shared_processor: None) -> None:
    meter = LoadMeter()
    begin = time.perf_counter()
    while time.thread_time() - meter._begin[1] < 0.15:
        pass
    wall = time.perf_counter() - begin
    meter.lap()
    found = Load(**meter.read())
    # Two processes that compute share a processor: it took as long again, or longer, and all of that is waiting.
    assert found.waited_s is not None
    assert found.lost_s is not None
    assert wall - found.cpu_s > 0.5 * found.cpu_s
    assert found.lost_s == pytest.approx(wall - found.cpu_s, rel=0.15)
    epoch = Epoch(1, None, 0.5, None, wall, 0.0, 0.0, 1, load=found)
    assert epoch.busy
    assert epoch.steady_s == pytest.approx(found.cpu_s, rel=0.15)
    meter.close()


def test_a_system_without_these_counters_leaves_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_load, "_SCHEDSTAT", "/nowhere")
    monkeypatch.setattr(machine_load, "_resource", None)
    monkeypatch.delattr(os, "getloadavg")
    meter = LoadMeter()
    meter.lap()
    found = Load(**meter.read())
    assert (found.waited_s, found.lost_s, found.preempted, found.average) == (None, None, None, None)
    assert not Epoch(1, None, 0.5, None, 1.0, 0.0, 0.0, 1, load=found).busy  # nothing is known


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the system does not report waiting")
def test_waiting_while_a_device_computes_is_not_time_lost() -> None:
    meter = LoadMeter(correctable=False)
    meter.lap()
    found = meter.read()
    assert found["waited_s"] is not None
    assert found["lost_s"] is None


def epoch(train_s: float, load: Load | None, number: int = 1) -> Epoch:
    return Epoch(number, None, 0.5, None, train_s, 0.0, 0.1 * train_s, 1, load=load)


def test_busy_and_steady_by_hand() -> None:
    assert not epoch(10.0, None).busy
    assert epoch(10.0, None).steady_s == 10.0
    at = Load(cpu_s=9.0, waited_s=BUSY_SHARE * 10.0, lost_s=BUSY_SHARE * 10.0)
    assert not epoch(10.0, at).busy
    assert epoch(10.0, at).steady_s == pytest.approx(9.5)
    assert epoch(10.0, dataclasses.replace(at, waited_s=0.51)).busy
    # Where waiting is not reported, preemptions tell: more than 20 a second.
    assert not epoch(10.0, Load(cpu_s=9.0, preempted=200)).busy
    assert epoch(10.0, Load(cpu_s=9.0, preempted=201)).busy
    assert epoch(10.0, Load(cpu_s=9.0, preempted=201)).steady_s == 10.0
    # More cannot have been lost than what was not computing.
    assert epoch(10.0, Load(cpu_s=9.0, waited_s=4.0, lost_s=4.0)).steady_s == 9.0
    half = Load(2.0, 1.0, 0.5, 3, 0.1).scaled(0.5)
    assert half == Load(1.0, 0.5, 0.25, 3, 0.1)


@pytest.mark.parametrize("load", [None, QUIET, Load(0.5), Load(0.5, 0.25, None, 7, None)])
def test_the_load_is_part_of_the_records(load: Load | None) -> None:
    line = json.loads(json.dumps(encode_epoch(epoch(1.5, load)), allow_nan=False))
    assert decode_epoch(line) == epoch(1.5, load)


def test_a_script_reports_its_load_or_none() -> None:
    fields = {"epoch": 1, "val_loss": 0.5, "train_s": 1.0, "eval_s": 0.0, "optimizer_s": 0.1, "gradient_evaluations": 3}
    load = dataclasses.asdict(QUIET)

    def read(value: object) -> object:
        return read_record(json.dumps({"kind": "log", **fields, "load": value}).encode() + b"\n", 0)["load"]

    assert read(load) == load
    assert read(None) is None
    for bad in (
        3,
        {},
        {**load, "cpu_s": None},
        {**load, "waited_s": -1.0},
        {**load, "preempted": 1.5},
        {**load, "x": 1},
    ):
        with pytest.raises(MalformedLineError, match="invalid load"):
            read(bad)


# ------------------------------------------------------------------------------------------------------------- repeated


@pytest.mark.parametrize(("busy", "rounds"), [((), 1), ((0,), 2), ((0, 1), 3), ((0, 1, 2, 3), TIMINGS)])
def test_a_timing_is_repeated_while_the_machine_is_busy(
    busy: Sequence[int], rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(100))

    class Meter:
        def __init__(self, correctable: bool) -> None:
            self.busy = next(numbers) in busy

        def lap(self) -> None: ...
        def close(self) -> None: ...
        def read(self) -> dict[str, float]:
            return {"cpu_s": 0.0, "waited_s": 1e9 if self.busy else 0.0, "lost_s": 0.0}

    trainer = Trainer(resolve(tiny_study()))
    monkeypatch.setattr(loop, "LoadMeter", Meter)
    *measured, result = trainer.run(Run(arm=SGD, seed=0, phase="time", hyperparameters={"lr": 0.01}))
    assert isinstance(result, RunResult)
    assert result.status == "finished", result.failure
    assert (len(measured), result.epochs) == (rounds, tuple(measured))
    assert [e.epoch for e in result.epochs] == list(range(1, rounds + 1))
    assert [e.busy for e in result.epochs] == [i in busy for i in range(rounds)]
    # The first quiet measurement counts; where there is none, all do.
    quiet = [e for e in result.epochs if not e.busy]
    assert timings(result) == (quiet or list(result.epochs))


def test_busy_timings_are_taken_again_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study("euler", seeds=3, trials=0)
    monkeypatch.setattr(Epoch, "busy", property(lambda self: self.train_s > 0))
    before = run(study, tmp_path)
    assert not [r for r in before.records.results.values() if r.phase == "time"], "one job: the runs are timings"
    heard: list[events.Event] = []
    monkeypatch.setattr(Epoch, "busy", property(lambda self: self.epoch == 1 and self.train_s > 0))
    timed = [r for r in run(study, tmp_path, time_again=True).records.results.values() if r.phase == "time"]
    assert len(timed) == 0, "one of the three epochs was busy: the others are quiet timings"
    monkeypatch.setattr(Epoch, "busy", property(lambda self: self.train_s > 0))
    timed = [r for r in run(study, tmp_path, time_again=True).records.results.values() if r.phase == "time"]
    assert len(timed) == 2 * 3
    assert all(len(r.epochs) == TIMINGS for r in timed)
    again = run(study, tmp_path, time_again=True, on_event=heard.append)
    assert [event for event in heard if isinstance(event, events.TimingsWithdrawn)] == [events.TimingsWithdrawn(6)]
    assert {r.run for r in again.records.results.values()} == {r.run for r in timed} | {r.run for r in before.runs}
    monkeypatch.setattr(Epoch, "busy", property(lambda self: False))
    heard.clear()
    assert run(study, tmp_path, time_again=True, on_event=heard.append).runs == stored.read(tmp_path).runs
    assert not [event for event in heard if isinstance(event, events.RunStarted)]


# --------------------------------------------------------------------------------------------------------------- judged


def records(ratio: float, *, better: float = 0.9, n: int = 12, seed: int = 0) -> tuple[Study, list[RunResult]]:
    """A baseline and a candidate with ``better`` times its loss and ``ratio`` times its seconds, on a quiet machine."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 0.03, n)
    loss = [(0.1 * f * np.exp(shared + rng.normal(0, 0.02, n))).tolist() for f in (1.0, better)]
    seconds = [(0.5 * r * np.exp(rng.normal(0, 0.01, n))).tolist() for r in (1.0, ratio)]
    return study(1, seeds=n, margin=0.0), [_loaded(r, QUIET, 1.0) for r in runs_of(loss, seconds)]


def _loaded(run: RunResult, load: Load, factor: float) -> RunResult:
    epochs = [dataclasses.replace(e, train_s=e.train_s * factor, load=load if e.epoch else None) for e in run.epochs]
    return dataclasses.replace(run, epochs=tuple(epochs))


def contended(run: RunResult, share: float, *, known: bool, noise: float = 1.0) -> RunResult:
    """The run when training waited for ``share`` of its time, and was ``noise`` times as fast otherwise."""
    quiet = run.epochs[1].train_s * noise
    waited = quiet * share / (1 - share)
    load = Load(cpu_s=quiet, waited_s=waited, lost_s=waited if known else None, preempted=100, average=3.0)
    return _loaded(run, load, noise / (1 - share))


def verdict(found: Assessment) -> tuple[str, str]:
    return found.verdicts[0].decision, found.verdicts[0].reason("K3").code


CASES = {"go": (0.7, 0.9), "slow": (1.3, 0.9), "worse": (0.7, 1.1)}
"""Seconds and loss of the candidate, with the verdict on a quiet machine: go, no-go by K3, no-go by K1."""


@settings(max_examples=60)
@given(
    case=st.sampled_from(sorted(CASES)),
    known=st.booleans(),
    shares=st.lists(st.one_of(st.just(0.0), st.floats(0.06, 0.9)), min_size=24, max_size=24),
    seed=st.integers(0, 2**31),
)
def test_contention_in_any_timings_gives_no_other_decision(
    case: str, known: bool, shares: list[float], seed: int
) -> None:
    ratio, better = CASES[case]
    spec, runs = records(ratio, better=better)
    quiet = assess(spec, runs, {})
    assert verdict(quiet)[0] == ("go" if case == "go" else "no-go")
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.05, 24))
    disturbed = [
        contended(r, share, known=known, noise=float(x)) if share else r
        for r, share, x in zip(runs, shares, noise, strict=True)
    ]
    found = assess(spec, disturbed, {})
    busy = sum(bool(a or b) for a, b in zip(shares[:12], shares[12:], strict=True))
    # Six pairs decide at 95%.
    if known or 12 - busy >= 6:
        assert verdict(found)[0] == verdict(quiet)[0]
    else:
        assert verdict(found)[1] == "k3_busy"
        assert verdict(found)[0] == ("no-go" if case == "worse" else "promising")
        assert found.verdicts[0].reason("K3").values == {"busy": busy, "n": 12}
        assert found.verdicts[0].caps[0].code == "busy"
    rows = {row.kpi: row for row in found.comparisons}
    assert rows["epoch_s"].busy == busy
    assert rows["final_loss"] == {row.kpi: row for row in quiet.comparisons}["final_loss"]


def test_a_baseline_that_waited_makes_no_slow_candidate_fast() -> None:
    """Without the load, 1.3 times the baseline's time would read 0.65 times, and be a go."""
    spec, runs = records(1.3)
    hidden = [_loaded(r, QUIET, 2.0) if r.arm == "base" else r for r in runs]
    assert verdict(assess(spec, hidden, {})) == ("go", "k3_within")
    for known, expected in ((True, ("no-go", "k3_beyond")), (False, ("promising", "k3_busy"))):
        told = [contended(r, 0.5, known=known) if r.arm == "base" else r for r in runs]
        assert verdict(assess(spec, told, {})) == expected


def test_a_repeated_timing_on_a_quiet_machine_restores_the_verdict() -> None:
    for ratio, better in CASES.values():
        spec, runs = records(ratio, better=better)
        quiet = assess(spec, runs, {})
        both = []
        for r in runs:
            busy = contended(r, 0.6, known=False, noise=1.4)
            both.append(dataclasses.replace(r, epochs=(*busy.epochs[:6], *r.epochs[6:])))
        found = assess(spec, both, {})
        assert verdict(found) == verdict(quiet)
        assert {r.kpi: r.effect for r in found.comparisons}["epoch_s"] == pytest.approx(
            {r.kpi: r.effect for r in quiet.comparisons}["epoch_s"]
        )


def test_the_report_says_that_the_machine_was_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study("euler", seeds=6, trials=0)
    evidence = run(study, tmp_path)
    quiet = [dataclasses.replace(r, epochs=tuple(dataclasses.replace(e, load=None) for e in r.epochs))
             for r in evidence.runs]  # fmt: skip
    for busy in (False, True):
        monkeypatch.setattr(Epoch, "busy", property(lambda self, busy=busy: busy and self.epoch > 0))
        report = build(evidence, assess(study, quiet, evidence.tuning))
        notes = {note.key: note for note in report.untested}
        assert ("untested.busy" in notes) == busy
        if busy:
            assert notes["untested.busy"].values.items() >= {"timed": 12, "busy": 12, "repeated": 0}.items()
            for lang in languages():
                assert "12" in text("untested.busy", lang, notes["untested.busy"].values)


def test_promising_by_a_busy_machine_has_its_own_sentences() -> None:
    values = {"arm": "a", "baseline": "b", "task": "t", "epochs": 5, "effect": -0.1, "low": -0.2, "high": -0.05,
              "busy": 12, "n": 12, "study": "DIR"}  # fmt: skip
    for key in ("headline.promising_busy", "phrase.open_promising_busy", "phrase.close_promising_busy", "cap.busy",
                "step.promising_busy_1", "step.promising_busy_2", "reason.k3_busy"):  # fmt: skip
        for lang in languages():
            assert "–" not in text(key, lang, values)


def test_peak_memory_is_that_of_the_system_of_psutil_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    held = bytearray(1 << 26)
    assert len(held) < (machine_load.peak_memory() or 0) < 1 << 40
    monkeypatch.setattr(machine_load, "_resource", None)
    assert machine_load.peak_memory() is None  # psutil knows a peak on Windows alone
    windows = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(peak_wset=7))
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(Process=lambda: windows))
    assert machine_load.peak_memory() == 7
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert machine_load.peak_memory() is None
