"""Trackers show a running study in TensorBoard or MLflow, with the values of its records.

A tracker is a listener for :mod:`sabun.poc.events`. Each run of the study is a run of the tracker. Scalars have the
names of :class:`~sabun.poc.records.Epoch` (``val_loss``, ``train_s``, … and those in ``extra``), per epoch. A run also
has its hyperparameters, its totals (``test_loss`` …) and its status. Values of None are not logged. A resumed study
first sends the stored runs; a run that is repeated starts anew in the tracker.

Trackers work between epochs, outside all timings. A tracker is a view of the evidence, so one that fails during the
study is passed to ``on_failure`` and not called again, and the study continues.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sabun.errors import MissingExtraError, OptionError, unknown
from sabun.poc import events
from sabun.poc.records import Epoch, Phase, RunResult, evaluated
from sabun.poc.spec import Study
from sabun.text_safety import legal_name

__all__ = ["TRACKERS", "MLflow", "TensorBoard", "Tracker", "track"]


class Tracker(ABC):
    """Base class of trackers: translates events to calls of ``open``, ``begin``, ``log``, ``end`` and ``close``."""

    def __init__(self, on_failure: Callable[[Exception], None] | None = None) -> None:
        self._on_failure = on_failure
        self._failed = False

    def __call__(self, event: events.Event) -> None:
        if self._failed:
            return
        try:
            self._handle(event)
        except Exception as error:
            if self._on_failure is None:
                raise
            self._failed = True
            self._on_failure(error)

    def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.StudyStarted):
            self.open(event.study)
            for result in event.runs:
                self._replay(result)
        elif isinstance(event, events.RunStarted | events.RunRetried):
            run = event.run
            self.begin(run.id, run.arm, run.seed, run.phase, run.hyperparameters)
        elif isinstance(event, events.EpochDone):
            self.log(event.run.id, event.epoch.epoch, epoch_scalars(event.run.phase, event.epoch))
        elif isinstance(event, events.RunFinished):
            self._end(event.result)
        elif isinstance(event, events.StudyFinished):
            if event.audit_head:
                self.anchor(event.audit_head)
            self.close()

    def _replay(self, result: RunResult) -> None:
        if self.holds(result.run):
            return
        self.begin(result.run, result.arm, result.seed, result.phase, result.hyperparameters)
        for epoch in result.epochs:
            self.log(result.run, epoch.epoch, epoch_scalars(result.phase, epoch))
        self._end(result)

    def _end(self, result: RunResult) -> None:
        last = result.epochs[-1].epoch if result.epochs else 0
        self.log(result.run, last, run_scalars(result))
        self.end(result)

    @abstractmethod
    def open(self, study: Study) -> None:
        """Open the study. Called once, before the first run."""

    @abstractmethod
    def begin(self, run: str, arm: str, seed: int, phase: str, hyperparameters: Mapping[str, object]) -> None:
        """Start a run, or start it again. Values of an earlier attempt must be removed."""

    @abstractmethod
    def log(self, run: str, epoch: int, values: Mapping[str, float]) -> None:
        """Log scalars of a started run, visible at once."""

    @abstractmethod
    def end(self, result: RunResult) -> None:
        """End a run, with any status."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open, after the study ends or is interrupted. May be called twice."""

    def anchor(self, head: str) -> None:  # noqa: B027 - not every tracker can store it
        """Store the head hash of the complete study's audit log, outside the study's directory."""

    def holds(self, run: str) -> bool:
        """Return whether the tracker has this finished run, so that a resumed study need not send it again."""
        return False


def epoch_scalars(phase: Phase, epoch: Epoch) -> dict[str, float]:
    """Return the scalars of an epoch by their names in the record, without those that are None.

    Those of its load have the prefix ``load.``.
    """
    fields = {field.name: getattr(epoch, field.name) for field in dataclasses.fields(epoch)}
    del fields["epoch"]
    fields["val_loss"] = evaluated(phase, epoch)
    load = fields.pop("load")
    if load is not None:
        fields |= {f"load.{field.name}": getattr(load, field.name) for field in dataclasses.fields(load)}
    found = {**fields.pop("extra"), **fields}
    return {name: float(value) for name, value in found.items() if value is not None}


def run_scalars(result: RunResult) -> dict[str, float]:
    """Return the scalars of a whole run, without those that are None."""
    names = ("test_loss", "test_metric", "peak_memory_bytes", "optimizer_state_bytes")
    return {name: float(value) for name in names if (value := getattr(result, name)) is not None}


def _run_tags(result: RunResult) -> dict[str, str]:
    return {
        "sabun.status": result.status,
        **({"sabun.failure": result.failure} if result.failure else {}),
        **({"sabun.weights_sha256": result.weights_sha256} if result.weights_sha256 else {}),
    }


class TensorBoard(Tracker):
    """Event files under ``folder``, one directory per run: ``ARM/PHASE-SEED-ID``. Scalars have double precision.

    Raises MissingExtraError without the package ``tensorboard``.
    """

    def __init__(self, folder: str | Path, on_failure: Callable[[Exception], None] | None = None) -> None:
        super().__init__(on_failure)
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise OptionError(f"{folder} is not a directory.", fix="Give a directory for TensorBoard.")
        try:
            self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        except ModuleNotFoundError:
            raise MissingExtraError(
                "tracking in TensorBoard needs tensorboard, which is not installed.",
                fix="pip install 'sabun[tensorboard]'",
            ) from None
        self._writers: dict[str, Any] = {}

    def open(self, study: Study) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def begin(self, run: str, arm: str, seed: int, phase: str, hyperparameters: Mapping[str, object]) -> None:
        if run in self._writers:
            self._writers.pop(run).close()
        place = self.folder / _file_name(arm) / f"{phase}-{seed}-{run[:8]}"
        for left in place.glob("events.out.tfevents.*") if place.is_dir() else ():
            left.unlink()  # of an interrupted attempt
        self._writers[run] = self._writer(str(place))
        described = {"arm": arm, "seed": seed, "phase": phase, "run": run, "hyperparameters": dict(hyperparameters)}
        self._writers[run].add_text("run", json.dumps(described, ensure_ascii=False), 0)

    def log(self, run: str, epoch: int, values: Mapping[str, float]) -> None:
        writer = self._writers[run]
        for name, value in values.items():
            writer.add_scalar(name, value, epoch, new_style=True, double_precision=True)
        writer.flush()

    def end(self, result: RunResult) -> None:
        writer = self._writers.pop(result.run)
        writer.add_text("outcome", json.dumps(_run_tags(result), ensure_ascii=False), 0)
        writer.close()

    def close(self) -> None:
        while self._writers:
            self._writers.popitem()[1].close()


class MLflow(Tracker):
    """Runs of an experiment with the study's name, on the server or database ``uri`` (None: MLflow's default).

    Runs carry the tags ``sabun.study`` (the study's hash), ``sabun.run``, ``sabun.arm``, ``sabun.phase`` and
    ``sabun.seed``, and at the end ``sabun.status``. When the study is complete, the head hash of its audit log is the
    experiment's tag ``sabun.audit_head.STUDY``, with the first twelve characters of the study's hash. Raises
    MissingExtraError without the package ``mlflow``, OptionError for a ``uri`` that MLflow rejects or cannot reach.
    """

    def __init__(self, uri: str | None = None, on_failure: Callable[[Exception], None] | None = None) -> None:
        super().__init__(on_failure)
        try:
            self._mlflow: Any = importlib.import_module("mlflow")
        except ModuleNotFoundError:
            raise MissingExtraError(
                "tracking in MLflow needs mlflow, which is not installed.", fix="pip install 'sabun[mlflow]'"
            ) from None
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)
        except Exception as error:  # noqa: BLE001  (every kind of address raises another error)
            lines = str(error).strip().splitlines()
            raise OptionError(
                f"MLflow cannot use {uri or 'its default address'}: {lines[0] if lines else type(error).__name__}",
                fix="Give the address of a server or a database, such as --track-to sqlite:///mlflow.db.",
            ) from None
        self._study = ""
        self._experiment = ""
        self._runs: dict[str, str] = {}

    def open(self, study: Study) -> None:
        self._study = study.hash
        found = self._client.get_experiment_by_name(study.name)
        self._experiment = found.experiment_id if found is not None else self._client.create_experiment(study.name)

    def begin(self, run: str, arm: str, seed: int, phase: str, hyperparameters: Mapping[str, object]) -> None:
        for earlier in self._existing(run):
            self._client.delete_run(earlier.info.run_id)
        tags = {
            "sabun.study": self._study,
            "sabun.run": run,
            "sabun.arm": arm,
            "sabun.phase": phase,
            "sabun.seed": str(seed),
        }
        made = self._client.create_run(self._experiment, tags=tags, run_name=f"{arm} {phase} {seed}"[:250])
        self._runs[run] = made.info.run_id
        params = [self._mlflow.entities.Param(key, str(value)) for key, value in hyperparameters.items()]
        if params:
            self._client.log_batch(self._runs[run], params=params)

    def holds(self, run: str) -> bool:
        return any("sabun.status" in earlier.data.tags for earlier in self._existing(run))

    def _existing(self, run: str) -> list[Any]:
        """Return the runs of the experiment for this run, without deleted ones."""
        same = f"tags.`sabun.study` = '{self._study}' AND tags.`sabun.run` = '{run}'"
        return list(self._client.search_runs([self._experiment], same))

    def log(self, run: str, epoch: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._mlflow.entities.Metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._runs[run], metrics=metrics)

    def end(self, result: RunResult) -> None:
        known = self._runs.pop(result.run)
        for key, value in _run_tags(result).items():
            self._client.set_tag(known, key, value[:5000])
        self._client.set_terminated(known, "FAILED" if result.status == "failed" else "FINISHED")

    def anchor(self, head: str) -> None:
        self._client.set_experiment_tag(self._experiment, f"sabun.audit_head.{self._study[:12]}", head)

    def close(self) -> None:
        while self._runs:
            self._client.set_terminated(self._runs.popitem()[1], "KILLED")


TRACKERS: Mapping[str, Callable[[str | None, Path, Callable[[Exception], None] | None], Tracker]] = {
    "tensorboard": lambda to, out, failed: TensorBoard(to if to is not None else out / "tensorboard", failed),
    "mlflow": lambda to, out, failed: MLflow(to, failed),
}
"""Trackers by name. Arguments: where to write (None: the default), the study's directory, the failure callback."""


def track(
    name: str, out: str | Path, *, to: str | None = None, on_failure: Callable[[Exception], None] | None = None
) -> Tracker:
    """Return the tracker called ``name`` for a study in ``out``. Raises OptionError for an unknown name."""
    if name not in TRACKERS:
        raise unknown(OptionError, "tracker", name, TRACKERS)
    return TRACKERS[name](to, Path(out), on_failure)


def _file_name(arm: str) -> str:
    return legal_name(arm, length=100, kept="-_.@()=,", fallback="arm")
