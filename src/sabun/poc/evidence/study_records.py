"""What the records of a study say: results, tuning trials, environments. Read from ``records.jsonl``, line by line.

Each line is one record of an unsealed :mod:`sabun.journal`:

    {"kind":"environment","environment":{…}}                                      a session of work in new conditions
    {"kind":"run","environment":0,"exclusive":true,"trial":null,"result":{…}}      a completed run
    {"kind":"withdrawn","runs":["…"]}                                              results that will be replaced
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from sabun.errors import StoreError
from sabun.journal import GENESIS, JournalRecord, Json
from sabun.poc.codec import decode
from sabun.poc.evidence.environment import differences
from sabun.poc.evidence.specification import RECORDS, FrozenSpecification
from sabun.poc.judgement.assessment import Tuning
from sabun.poc.judgement.trials import summarize
from sabun.poc.records import RunResult, timings

__all__ = ["StudyRecords"]


class StudyRecords:
    """The records of a study in memory. ``apply`` adds the next line."""

    def __init__(self, specification: FrozenSpecification) -> None:
        self.study = specification.study
        self.specification_hash = specification.file_hash
        self.spaces = specification.spaces
        self.earlier = specification.earlier
        self.effective = specification.study
        """The study as it is carried out: with the trials and seeds to which its limit of time has reduced it."""
        self.results: dict[str, RunResult] = {}
        """Completed runs by id (finished, diverged or failed), in the order in which they ended."""
        self.trials: dict[str, int] = {}
        """Run id → number of the tuning trial that it belongs to."""
        self.environments: list[dict[str, Any]] = []
        self.environment_of: dict[str, int] = {}
        """Run id → index in ``environments``."""
        self.exclusive: set[str] = set()
        """Ids of the runs that had the machine to themselves, so that their timings are valid."""
        self.hashes: list[str] = []
        """The hash of every line."""
        self.run_at: dict[int, RunResult] = {}
        """Number of a line (from 1) → the run that it records, including runs withdrawn later."""
        self.environment_at: set[int] = set()
        """Numbers of the lines that record an environment."""
        self.withdrawn_at: dict[int, tuple[str, ...]] = {}
        """Number of a line → the runs whose results it withdraws."""

    def apply(self, record: JournalRecord) -> None:
        """Take the next line into account. Raises StoreError for one that is not a study's record."""
        body = record.body
        number = record.seq + 1
        try:
            if body["kind"] == "environment":
                if not isinstance(body["environment"], dict):
                    raise ValueError("its environment is not an object")
                self.environments.append(body["environment"])
                self.environment_at.add(number)
            elif body["kind"] == "run":
                result = decode(body["result"])
                if not 0 <= int(body["environment"]) < len(self.environments):
                    raise ValueError(f"it names environment {body['environment']}, which has no record")
                self._check(result, body["trial"])
                if result.run in self.results:
                    raise ValueError(f"run {result.run} has a result already, which was not withdrawn")
                self.results[result.run] = result
                self.environment_of[result.run] = int(body["environment"])
                self.run_at[number] = result
                if body["exclusive"]:
                    self.exclusive.add(result.run)
                if body["trial"] is not None:
                    self.trials[result.run] = int(body["trial"])
            elif body["kind"] == "withdrawn":
                self._withdraw(number, body["runs"])
            else:
                raise ValueError(f"unknown kind {body['kind']!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{RECORDS}, line {number} cannot be read ({type(error).__name__}: {error}).",
                fix="Restore the file from a copy, or run the study again in another directory.",
            ) from None
        self.hashes.append(record.hash)

    def _check(self, result: RunResult, trial: int | None) -> None:
        """Raise ValueError where a hyperparameter that tuning chooses is not a positive number, or a trial has none."""
        for name in self.spaces.get(result.arm, {}):
            value = result.hyperparameters.get(name, None if trial is not None else 1.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}")

    def reduce(self, trials: int, seeds: int) -> None:
        """Reduce the study to ``trials`` trials and ``seeds`` seeds of every arm."""
        budget = self.effective.budget.reduced(trials=trials, seeds=seeds)
        self.effective = self.effective.model_copy(update={"budget": budget})

    @property
    def count(self) -> int:
        """The number of lines."""
        return len(self.hashes)

    @property
    def newest(self) -> dict[str, Json]:
        """The newest line as the audit log identifies it: its number (0: none) and its hash."""
        return {"record": self.count, "record_hash": self.hashes[-1] if self.hashes else GENESIS}

    @property
    def environment(self) -> dict[str, Any]:
        """The environment of the first session; empty before it."""
        return self.environments[0] if self.environments else {}

    @property
    def mixed(self) -> bool:
        """Whether runs come from environments of different kinds."""
        used = [self.environments[index] for index in sorted(set(self.environment_of.values()))]
        return any(differences(used[0], other) for other in used[1:])

    @property
    def tuning(self) -> dict[str, Tuning]:
        """Arm → what tuning found, derived from the tuning runs."""
        found = {arm.name: self.tuning_of(arm.name) for arm in self.study.arms}
        return {name: value for name, value in found.items() if value is not None}

    def tuning_of(self, arm: str) -> Tuning | None:
        """Return what tuning found for one arm; None before its first complete trial."""
        runs: dict[int, list[RunResult]] = {}
        for run, trial in self.trials.items():
            if self.results[run].arm == arm and trial < self.effective.budget.trials:
                runs.setdefault(trial, []).append(self.results[run])
        return summarize(arm, self.study.budget.tuning_seeds, self.spaces.get(arm, {}), runs)

    def runs(self) -> list[RunResult]:
        """Return all completed runs except those of phase ``time``, whose timings replace those of shared runs.

        Where several processes ran at a time, the seconds of an evaluation run mean little. A short run of the same arm
        and seed was then the only one of the study; ``train_s``, ``optimizer_s`` and ``load`` of its median epoch
        replace those of each epoch. Losses are never changed.
        """
        timed = {(r.arm, r.seed): r for r in self.results.values() if r.phase == "time"}
        return [
            _with_exclusive_timing(result, timed.get((result.arm, result.seed)))
            for result in self.results.values()
            if result.phase != "time"
        ]

    def _withdraw(self, number: int, runs: Iterable[str]) -> None:
        self.withdrawn_at[number] = tuple(map(str, runs))
        for run in self.withdrawn_at[number]:
            if run not in self.results:
                raise ValueError(f"it withdraws run {run}, which has no result")
            for held in (self.results, self.environment_of, self.trials):
                held.pop(run, None)
            self.exclusive.discard(run)


def _with_exclusive_timing(result: RunResult, timed: RunResult | None) -> RunResult:
    """Return ``result`` with, in every epoch, the timing of ``timed``: a run of phase ``time``, same arm and seed."""
    if timed is None or result.phase != "evaluate":
        return result
    measured = sorted(timings(timed), key=lambda epoch: epoch.steady_s)
    if not measured:
        return result
    middle = measured[(len(measured) - 1) // 2]
    timing = {name: getattr(middle, name) for name in ("train_s", "optimizer_s", "load")}
    epochs = tuple(dataclasses.replace(epoch, **timing) if epoch.epoch > 0 else epoch for epoch in result.epochs)
    # Seeds that were trained as one model shared their memory too.
    memory = timed.peak_memory_bytes if result.batched_seeds > 1 else result.peak_memory_bytes
    return dataclasses.replace(result, epochs=epochs, peak_memory_bytes=memory)
