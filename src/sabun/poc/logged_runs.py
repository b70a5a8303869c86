"""Runs that exist already: from the rows of a log to a judgement, and what these logs do not support.

A log is a table with a row for each epoch of each run, from a CSV file, a tracker or an export. Columns are found by
their usual names (:data:`USUAL`), or named by the reader. Nothing attests such runs. What they do not support is
computed first, as caps of the verdict (:data:`sabun.poc.judgement.verdict.CAPS`): runs that were lost, other numbers of
epochs, another version of the code or data, a tuning that is not stated, timings of several machines.

Runs are paired by seed if every run of both configurations has one and at least six seeds (for one candidate) are
common; otherwise they are compared as two independent samples.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sabun.errors import StudyError, unknown
from sabun.poc.judgement.assess import assess
from sabun.poc.judgement.assessment import Assessment, Cap
from sabun.poc.judgement.statistics import needed_pairs
from sabun.poc.judgement.verdict import LogLimits, cap
from sabun.poc.records import Epoch, Load, RunResult, Status, outcome
from sabun.poc.spec import Study, Thresholds
from sabun.text_safety import not_utf8

__all__ = ["USUAL", "JudgedLogs", "judge_logs", "read_file"]

Row = Mapping[str, Any]

USUAL: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "by": ("sabun.arm", "arm", "optimizer", "optim", "opt", "configuration", "config", "group"),
        "seed": ("sabun.seed", "seed", "random_seed", "manual_seed"),
        "run": ("sabun.run", "run", "run_id", "run_name", "id", "name", "Name"),
        "epoch": ("epoch", "step", "_step", "global_step"),
        "loss": ("val_loss", "validation_loss", "valid_loss", "eval_loss", "val/loss", "eval/loss", "validation/loss"),
        "seconds": ("train_s", "epoch_s", "epoch_seconds", "epoch_time", "seconds", "time_per_epoch"),
        "test": ("test_loss", "test/loss"),
        "phase": ("sabun.phase", "phase"),
        "status": ("sabun.status", "status", "state", "State"),
        "version": ("git_commit", "commit", "mlflow.source.git.commit", "git_sha", "data_version", "dataset_version"),
        "machine": ("machine", "host", "hostname", "gpu", "device_name"),
    }
)
"""What a column may be called, by its role; the first that is present counts, for ``version`` and ``machine`` all."""

_DONE = ("finished", "completed", "complete", "success", "succeeded", "done", "")
_NEEDED = ("by", "epoch", "loss")


@dataclass(frozen=True, slots=True)
class JudgedLogs:
    """A judgement on logged runs: ``study`` names the configurations, ``columns`` what was read, by role."""

    study: Study
    runs: tuple[RunResult, ...]
    assessment: Assessment
    columns: Mapping[str, str]
    source: str


@dataclass(frozen=True, slots=True)
class _Logged:
    """One run of a log. ``finished`` is None where no status is logged."""

    result: RunResult
    seed: str | None
    finished: bool | None
    versions: Mapping[str, str]
    machines: Mapping[str, str]
    timed: bool


def read_file(path: Path) -> list[Row]:
    """Return the rows of a CSV file, or of a JSON file with a list of rows or of runs (``config``, ``history``).

    Raises StudyError for a file that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error}.", fix="Give a CSV or JSON file of logged runs.") from None
    except UnicodeDecodeError as error:
        cause, fix = not_utf8(path, error)
        raise StudyError(cause, fix=fix) from None
    if path.suffix != ".json":
        try:
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise StudyError(f"{path} is not valid CSV: {error}.", fix="Export the runs again.") from None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path} is not valid JSON: {error}.", fix="Export the runs again.") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise StudyError(f"{path} does not hold a list of rows or runs.", fix="Write a list of objects.")
    return [row for value in values for row in _rows_of(value)]


def _rows_of(value: dict[str, Any]) -> list[Row]:
    """Return the rows of a run as Weights & Biases exports it, or of a plain row."""
    history = value.get("history")
    if not isinstance(history, list):
        return [value]
    plain = {key: item for key, item in value.items() if not isinstance(item, dict | list)}
    config = value.get("config")
    summary = value.get("summary")
    kept = {**(summary if isinstance(summary, dict) else {}), **plain, **(config if isinstance(config, dict) else {})}
    kept = {key: item for key, item in kept.items() if not isinstance(item, dict | list)}
    history = [{key: item for key, item in row.items() if item is not None} for row in history if isinstance(row, dict)]
    return [{**{key: item for key, item in kept.items() if key not in USUAL["loss"]}, **row} for row in history]


def judge_logs(
    rows: Sequence[Row],
    source: str,
    *,
    baseline: str | None = None,
    columns: Mapping[str, str | None] = MappingProxyType({}),
    tuned_alike: bool = False,
    margin: float | None = None,
) -> JudgedLogs:
    """Judge the configurations in a log against ``baseline``.

    ``columns`` names columns by role (:data:`USUAL`). ``tuned_alike``: the reader states that all configurations were
    tuned with the same budget. Raises StudyError for a log without the columns or the configurations that are needed;
    the message has those that were found.
    """
    found = _columns(rows, columns)
    logged = _collect(rows, found)
    names = list(dict.fromkeys(run.result.arm for run in logged))
    if len(names) < 2:
        raise StudyError(
            f"{source} has one configuration in column {found['by']!r}: {', '.join(names) or 'none'}.",
            fix="Name the column that tells the configurations apart: --by COLUMN.",
        )
    if baseline is None:
        raise StudyError(
            f"{source} has the configurations {', '.join(names)} and no baseline.",
            fix=f"Name the one that you use today: --baseline {json.dumps(names[0], ensure_ascii=False)}.",
        )
    if baseline not in names:
        raise unknown(StudyError, f"configuration in {source}", baseline, names)
    candidates = [name for name in names if name != baseline]
    by_arm = {name: [run for run in logged if run.result.arm == name] for name in names}
    thresholds = Thresholds() if margin is None else Thresholds(margin=margin)
    needed = needed_pairs((1 - thresholds.level) / len(candidates))
    limits = {
        name: _limits(by_arm[baseline], by_arm[name], found, tuned_alike=tuned_alike, needed=needed)
        for name in candidates
    }
    study = Study.build(
        {
            "name": Path(source).name or source,
            "task": source,
            "baseline": {"name": baseline, "optimizer": baseline},
            "candidates": [{"name": name, "optimizer": name} for name in candidates],
            "budget": {
                "seeds": max(len(runs) for runs in by_arm.values()),
                "epochs": max(1, *(run.result.epochs[-1].epoch for run in logged)),
                "trials": 1,  # tuned or not: a cap says so
            },
            "thresholds": thresholds.model_dump(),
        }
    )
    runs = tuple(run.result for name in names for run in _numbered(by_arm, name))
    return JudgedLogs(study, runs, assess(study, runs, {}, logs=limits), found, source)


def _columns(rows: Sequence[Row], given: Mapping[str, str | None]) -> dict[str, str]:
    known = list(dict.fromkeys(key for row in rows for key in row if key))
    found: dict[str, str] = {}
    for role, names in USUAL.items():
        wanted = given.get(role)
        if wanted is not None and wanted not in known:
            raise unknown(StudyError, "column of the log", wanted, known)
        name = wanted or next((name for name in names if name in known), None)
        if name is not None:
            found[role] = name
    missing = [role for role in _NEEDED if role not in found]
    if missing:
        what = {"by": "configuration", "epoch": "epoch", "loss": "validation loss"}[missing[0]]
        option = {"by": "--by", "epoch": "--epoch-column", "loss": "--loss-column"}[missing[0]]
        raise StudyError(
            f"the log has no column for the {what}; its columns are {', '.join(known) or 'none'}.",
            fix=f"Name it: {option} COLUMN.",
        )
    return found


def _collect(rows: Sequence[Row], found: Mapping[str, str]) -> list[_Logged]:
    """Return the runs of the comparison, in the order of the log."""
    own: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if "phase" in found and str(row.get(found["phase"]) or "evaluate") != "evaluate":
            continue  # tuning, repetition and timing runs of a study
        arm = str(row.get(found["by"]) or "")
        if not arm:
            continue
        names = [
            str(row[found[role]]) for role in ("run", "seed") if role in found and row.get(found[role]) is not None
        ]
        own.setdefault((arm, *names), []).append(row)
    logged = [_run(key, own[key], found) for key in own]
    return [run for run in logged if run is not None]


def _load(row: Row) -> Load | None:
    """How busy the machine was, where sabun has written the log."""
    values = {field.name: _amount(row.get(f"load.{field.name}")) for field in fields(Load)}
    cpu, preempted = values.pop("cpu_s"), values.pop("preempted")
    preemptions = int(preempted) if preempted is not None and preempted < 2**53 else None
    return None if cpu is None else Load(cpu, preempted=preemptions, **values)


def _run(key: tuple[str, ...], rows: Sequence[Row], found: Mapping[str, str]) -> _Logged | None:
    curve: dict[int, Epoch] = {}
    for number, row in enumerate(rows):
        loss = _number(row.get(found["loss"]))
        epoch = _number(row.get(found["epoch"]))
        if loss is None or epoch is None:
            continue
        seconds = _amount(row.get(found["seconds"])) if "seconds" in found else None
        if not epoch.is_integer() or not 0 <= epoch < 2**53:
            raise StudyError(
                f"the log has the epoch {epoch:g} in row {number + 1} of {' '.join(key)}.",
                fix="Give the column of whole numbers that counts epochs or evaluations: --epoch-column COLUMN.",
            )
        curve[int(epoch)] = Epoch(int(epoch), None, loss, None, seconds or 0.0, 0.0, 0.0, int(epoch), load=_load(row))
    if not curve:
        return None
    epochs = tuple(curve[epoch] for epoch in sorted(curve))
    status: Status = outcome(list(epochs)) if epochs[0].epoch == 0 else "finished"
    finished: bool | None = None
    if "status" in found:
        said = {str(row.get(found["status"]) or "").strip().lower() for row in rows} - {""}
        finished = said <= {*_DONE, "diverged", "pruned"}
        status = "diverged" if "diverged" in said else status
    if not math.isfinite(epochs[-1].val_loss):
        status = "diverged"
    seeds = {str(row[found["seed"]]) for row in rows if "seed" in found and row.get(found["seed"]) not in (None, "")}
    tests = [_number(row.get(found["test"])) for row in rows] if "test" in found else []
    test = next((value for value in reversed(tests) if value is not None), None)

    def values(role: str) -> dict[str, str]:
        named = {found[role], *USUAL[role]} if role in found else set(USUAL[role])
        last = rows[-1]
        return {name: str(last[name]) for name in sorted(named) if last.get(name) not in (None, "")}

    result = RunResult(" ".join(key), key[0], 0, "evaluate", {}, status, epochs, test_loss=test)
    timed = any(epoch.train_s > 0 for epoch in epochs)
    return _Logged(
        result, seeds.pop() if len(seeds) == 1 else None, finished, values("version"), values("machine"), timed
    )


def _amount(value: Any) -> float | None:
    """Return a finite number that is not negative; None where it is missing or none."""
    number = _number(value)
    return number if number is not None and 0 <= number < math.inf else None


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool) or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _limits(
    base: Sequence[_Logged], own: Sequence[_Logged], found: Mapping[str, str], *, tuned_alike: bool, needed: int
) -> LogLimits:
    """What the logs of the baseline and a candidate support."""
    caps: list[Cap] = [cap("logs_not_attested")]
    both = [*base, *own]
    if lost := sum(run.finished is False for run in both):
        caps.append(cap("logs_runs_lost", lost=lost))
    ends = [run.result.epochs[-1].epoch for run in both if run.result.status == "finished"]
    if len(set(ends)) > 1:
        caps.append(cap("logs_epochs_differ", least=min(ends), most=max(ends)))
    versions = _differing([run.versions for run in base], [run.versions for run in own])
    caps += [cap("logs_version_differs", column=column) for column in versions]
    if not tuned_alike:
        caps.append(cap("logs_tuning_unknown"))
    if len(base) != len(own):
        caps.append(cap("logs_runs_unequal", candidate=len(own), baseline_runs=len(base)))
    seeds = [{run.seed for run in runs if run.seed is not None} for runs in (base, own)]
    unique = all(len(known) == len(runs) for known, runs in zip(seeds, (base, own), strict=True))
    paired = unique and len(seeds[0] & seeds[1]) >= min(needed, *(len(known) for known in seeds))
    if unique and (missing := _missing(*seeds)) and (paired or seeds[0] & seeds[1]):
        caps.append(cap("logs_seeds_missing", missing=", ".join(missing[:10])))
    machines = _differing([run.machines for run in both], [run.machines for run in both])
    timed = all(run.timed for run in both) and not machines
    if machines:
        caps.append(cap("logs_machines_differ", column=machines[0]))
    elif not timed:
        caps.append(cap("logs_no_cost"))
    if not paired:
        caps.append(cap("logs_unpaired", candidate=len(own), baseline_runs=len(base)))
    if all(run.finished is None for run in both):
        caps.append(cap("logs_only_finished"))
    if not any(run.versions for run in both):
        caps.append(cap("logs_version_unknown"))
    if timed and not any(run.machines for run in both):
        caps.append(cap("logs_machine_unknown"))
    return LogLimits(paired, timed, tuple(caps))


def _differing(first: Iterable[Mapping[str, str]], second: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the columns in which not all runs of both have the same value."""
    runs = [*first, *second]
    return [name for name in sorted({key for run in runs for key in run}) if len({run.get(name) for run in runs}) > 1]


def _missing(first: set[str], second: set[str]) -> list[str]:
    """Return the seeds that one of two has and the other has not, and the gaps in a range of numbers."""
    gaps: set[str] = set()
    numbers = [int(seed) for seed in first | second if seed.isdigit()]
    if numbers and len(numbers) == len(first | second) and max(numbers) < 10 * len(numbers):
        gaps = {str(number) for number in range(min(numbers), max(numbers))} - (first | second)
    return sorted((first ^ second) | gaps, key=lambda seed: (not seed.isdigit(), seed.zfill(20)))


def _numbered(by_arm: Mapping[str, Sequence[_Logged]], name: str) -> list[_Logged]:
    """Number the runs of an arm: equal seeds of all arms get equal numbers; runs without one follow."""
    known = [run.seed for runs in by_arm.values() for run in runs]
    numbers: dict[str | None, int] = {}
    for seed in known:
        if seed is not None:
            numbers.setdefault(seed, int(seed) if seed.isdigit() and int(seed) < 2**53 else len(numbers))
    free = iter(number for number in range(10**6) if number not in numbers.values())
    taken: set[int] = set()
    runs = []
    for run in by_arm[name]:
        number = numbers[run.seed] if run.seed is not None and numbers[run.seed] not in taken else next(free)
        taken.add(number)
        runs.append(replace(run, result=replace(run.result, seed=number)))
    return runs
