"""Runs on a Ray cluster, for studies that are too large for one machine.

A worker is an actor with one CPU, and one GPU if the task's ``device`` is CUDA. It needs only the package installed:
the study is sent to it, and so is the file of a user's task if its path does not exist on the worker's machine. A
script is started in the directory in which the study was started, so that directory must be on shared storage;
otherwise the worker raises StudyError.

Records are those of a study in one process, timings aside. All timing runs go to the same worker, one at a time; the
machine of that worker must not be used by others meanwhile. A worker that dies is replaced, and its unit starts again.
Workers on machines of different kinds give mixed evidence, which is refused unless allowed, and then reported.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sabun.errors import MissingExtraError, OptionError, SabunError, StudyError, TrainingError
from sabun.poc.executors.executor import Unit, WorkerLost
from sabun.poc.executors.wire import Assignment, DamagedReportError, decode_unit, encode_unit, run_unit
from sabun.poc.records import Epoch, RunResult
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.spec import Run, Study

__all__ = ["Ray"]

START_S = 300.0
"""Time for workers to start. A cluster may have to add machines first."""

_STORE_BYTES = 100 * 2**20
"""Size of the object store of a local cluster, through which only records pass."""


class Ray:
    """``workers`` actors (default: as many as the cluster has CPUs) on the cluster at ``address``.

    Without an address: the cluster to which this process is connected, that of ``$RAY_ADDRESS``, or a local one that
    ends with the study. Raises MissingExtraError if ray is not installed.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtraError(
                "the executor 'ray' needs ray, which is not installed.", fix='pip install "sabun[ray]"'
            ) from None
        self.slots = workers or 0
        self._ray = ray
        self._address = address
        self._owns_cluster = False
        self._setup: dict[str, Any] = {}
        self._options: dict[str, Any] = {}
        self._workers: list[_RemoteWorker | None] = []
        self._environments: dict[str, Mapping[str, Any]] = {}

    def announce(self, study: Study, logs: Path) -> None:
        """Do nothing: a cluster must not add machines for a study that may be invalid."""

    def begin(self, resolved: ResolvedStudy, logs: Path) -> tuple[Mapping[str, Any], ...]:
        self._connect()
        self._setup, self._study_hash = _pack(resolved.study, logs), resolved.study.hash
        device = str(resolved.study.task_options.get("device", "cpu"))
        self._options = {"num_cpus": 1, "num_gpus": 1 if device.startswith("cuda") else 0, "max_restarts": 0}
        workers = [_RemoteWorker(self._actor(), self._study_hash) for _ in range(self.slots)]
        for worker in workers:
            worker.environment = self._wait_for_start(worker)
        self._workers = [*workers]
        return tuple(worker.environment for worker in workers)

    def submit(self, unit: Unit) -> None:
        index = next(i for i, worker in enumerate(self._workers) if worker is None or not worker.assignment.unit)
        worker = self._workers[index]
        if worker is None:
            worker = self._workers[index] = _RemoteWorker(self._actor(), self._study_hash)
            worker.environment = self._wait_for_start(worker)
        worker.assignment.start(unit)
        worker.reports = worker.actor.run.options(num_returns="streaming").remote(encode_unit(unit))

    def next(self) -> tuple[Run, Epoch | RunResult]:
        busy = {
            worker.reports: (index, worker)
            for index, worker in enumerate(self._workers)
            if worker is not None and worker.assignment.unit
        }
        (reports, *_), _ = self._ray.wait(list(busy), num_returns=1)
        index, worker = busy[reports]
        try:
            line = self._ray.get(next(reports))
        except self._ray.exceptions.RayActorError as error:
            self._workers[index] = None
            raise WorkerLost(worker.assignment.unit, f"its Ray worker died ({_first_line(error)})") from None
        unit = worker.assignment.unit
        try:
            run, item = worker.assignment.read(line.encode())
        except DamagedReportError as error:
            self._workers[index] = None
            self._ray.kill(worker.actor)
            raise WorkerLost(unit, str(error)) from None
        if isinstance(item, RunResult):
            self._environments[run.id] = worker.environment
        return run, item

    def environment_of(self, run: Run) -> Mapping[str, Any] | None:
        return self._environments.get(run.id)

    def close(self) -> None:
        workers, self._workers = self._workers, []
        with contextlib.suppress(Exception):  # a cluster that has ended has no workers left
            for worker in workers:
                if worker is not None:
                    self._ray.kill(worker.actor)
        if self._owns_cluster:
            self._owns_cluster = False
            self._ray.shutdown()

    def process_ids(self) -> list[int]:
        """Return the process ids of the workers, each on its own machine."""
        ids: list[int] = self._ray.get([worker.actor.process_id.remote() for worker in self._workers if worker])
        return ids

    def _connect(self) -> None:
        ray = self._ray
        if not ray.is_initialized():
            local = self._address is None and "RAY_ADDRESS" not in os.environ
            quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
            if local:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics
                cpus = self.slots or os.cpu_count() or 1
                ray.init(num_cpus=cpus, object_store_memory=_STORE_BYTES, **quiet)
            else:
                try:
                    ray.init(address=self._address, log_to_driver=False)
                except (ConnectionError, ValueError, RuntimeError) as error:
                    raise OptionError(
                        f"there is no Ray cluster at {self._address or os.environ['RAY_ADDRESS']}: "
                        f"{_first_line(error)}.",
                        fix="Check --address, or leave it out for a cluster on this machine.",
                    ) from None
            self._owns_cluster = True
        cpus = int(ray.cluster_resources().get("CPU", 0))
        self.slots = self.slots or max(1, cpus)

    def _actor(self) -> Any:
        return self._ray.remote(Worker).options(**self._options).remote(self._setup)

    def _wait_for_start(self, worker: _RemoteWorker) -> Mapping[str, Any]:
        """Return the environment of a new worker. Raises the SabunError that the study raises there."""
        try:
            found: Mapping[str, Any] = self._ray.get(worker.actor.load.remote(), timeout=START_S)
        except self._ray.exceptions.GetTimeoutError:
            cpus = int(self._ray.cluster_resources().get("CPU", 0))
            raise TrainingError(
                f"not all of the {self.slots} workers have started after {START_S:g} s; the cluster has {cpus} CPUs.",
                fix="Give fewer --jobs, or add machines.",
            ) from None
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SabunError):
                raise error.cause from None
            raise TrainingError(
                f"a Ray worker cannot start: {_first_line(error.cause)}.",
                fix="Install the same sabun and torch on all machines of the cluster.",
            ) from None
        except self._ray.exceptions.RayError as error:
            raise TrainingError(
                f"a Ray worker cannot start: {_first_line(error)}.",
                fix="Install the same sabun and torch on all machines of the cluster.",
            ) from None
        return found


class _RemoteWorker:
    """A worker as the executor sees it: its actor, environment, and the unit that it runs."""

    def __init__(self, actor: Any, study_hash: str) -> None:
        self.actor = actor
        self.environment: Mapping[str, Any] = {}
        self.assignment = Assignment(study_hash)
        self.reports: Any = None


class Worker:
    """The actor. ``load`` is a separate call, so that the caller receives the error that it raises."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._setup = setup

    def load(self) -> dict[str, Any]:
        """Load the study and return the environment."""
        from sabun.poc.executors.in_process import InProcess
        from sabun.poc.executors.runtime_environment import runtime_environment
        from sabun.poc.resolved import resolve

        resolved = resolve(_unpack(self._setup))
        self._executor = InProcess(shared=True)
        self._executor.load(resolved, Path(self._setup["logs"]))
        return runtime_environment(resolved)

    def run(self, unit: list[Mapping[str, Any]]) -> Iterator[str]:
        """Run a unit and yield its reports."""
        study_hash = Study.build(self._setup["study"]).hash
        yield from run_unit(self._executor, study_hash, decode_unit(unit))

    def process_id(self) -> int:
        """Return the id of the actor's process."""
        return os.getpid()


def _pack(study: Study, logs: Path) -> dict[str, Any]:
    """Return what a worker needs: the study, the source of a user's task file, and the working directory."""
    path = Path(study.task.rpartition(":")[0])
    source = path.read_text(encoding="utf-8") if path.suffix == ".py" and path.is_file() else None
    return {
        "study": study.model_dump(mode="json"),
        "logs": str(logs),
        "source": source,
        "directory": str(Path.cwd()),
        "data": os.environ.get("SABUN_DATA"),
    }


def _unpack(setup: Mapping[str, Any]) -> Study:
    """Return the study on the worker's machine, with the task's file in a temporary directory if it is missing there.

    Raises StudyError for a script whose working directory does not exist.
    """
    study = Study.build(setup["study"])
    if setup["data"] is not None:
        os.environ.setdefault("SABUN_DATA", setup["data"])
    directory = Path(setup["directory"])
    if directory.is_dir():
        os.chdir(directory)
    elif study.is_script:
        raise StudyError(
            f"the script's directory {directory} does not exist on {platform.node()}.",
            fix="Start the study from a directory that all machines of the cluster share.",
        )
    if setup["source"] is None:
        return study
    path, _, name = study.task.rpartition(":")
    if Path(path).is_file() and Path(path).read_text(encoding="utf-8") == setup["source"]:
        return study
    digest = hashlib.sha256(setup["source"].encode()).hexdigest()[:12]
    copy = Path(tempfile.mkdtemp(prefix="sabun-task-")) / f"task_{digest}.py"
    copy.write_text(setup["source"], encoding="utf-8")
    return study.model_copy(update={"task": f"{copy}:{name}"})


def _first_line(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
