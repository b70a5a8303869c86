"""Runs on a Ray cluster: the executor for studies that one machine is too small for.

A worker is an actor with one CPU (and one GPU where the task's ``device`` asks for CUDA). It needs the package and
nothing else: the study comes with the call, and so does the file of a task of one's own, where its path leads nowhere
on the worker's machine. A script is started in the directory where the study was: that directory has to be on storage
which all machines share, or a worker says so.

Records are those of a study in one process, timings aside. All timing runs go to the same worker, one at a time; that
nobody else uses its machine meanwhile is for the cluster's owner to see to. A worker that dies is replaced, and its
unit starts again. Workers on machines of different kinds are mixed evidence: refused unless allowed, then reported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sabun.errors import MissingExtraError, OptionError, SabunError, StudyError, TrainingError
from sabun.poc.codec import decode, decode_epoch, encode, encode_epoch
from sabun.poc.executors.base import Lost, Unit
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Run, Study

__all__ = ["Ray"]

START_S = 300.0
"""How long workers may take to start: a cluster may have to add machines first."""

_STORE_BYTES = 100 * 2**20
"""Object store of a cluster on this machine: only records pass through it."""


class Ray:
    """``workers`` actors (default: as many as the cluster has CPUs) on the cluster at ``address``.

    Without an address: the cluster that this process is connected to, that of ``$RAY_ADDRESS``, or one on this machine
    which ends with the study. Raises MissingExtraError without ray.
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
        self._ours = False
        self._setup: dict[str, Any] = {}
        self._options: dict[str, Any] = {}
        self._staff: list[_Member | None] = []
        self._where: dict[str, Mapping[str, Any]] = {}

    def announce(self, study: Study, logs: Path) -> None:
        """Nothing: a cluster may have to add machines, and is not asked to for a study that cannot work."""

    def begin(self, study: Study, logs: Path) -> tuple[Mapping[str, Any], ...]:
        self._connect()
        self._setup = _luggage(study, logs)
        device = str(study.task_options.get("device", "cpu"))
        self._options = {"num_cpus": 1, "num_gpus": 1 if device.startswith("cuda") else 0, "max_restarts": 0}
        members = [_Member(self._actor()) for _ in range(self.slots)]
        for member in members:
            member.environment = self._arrival(member)
        self._staff = [*members]
        return tuple(member.environment for member in members)

    def submit(self, unit: Unit) -> None:
        index = next(i for i, member in enumerate(self._staff) if member is None or not member.unit)
        member = self._staff[index]
        if member is None:
            member = self._staff[index] = _Member(self._actor())
            member.environment = self._arrival(member)
        member.unit, member.due = unit, len(unit)
        fields = [run.model_dump(mode="json") for run in unit]
        member.reports = member.actor.carry_out.options(num_returns="streaming").remote(fields)

    def next(self) -> tuple[Run, Epoch | RunResult]:
        at_work = {
            member.reports: index for index, member in enumerate(self._staff) if member is not None and member.unit
        }
        (reports, *_), _ = self._ray.wait(list(at_work), num_returns=1)
        index = at_work[reports]
        member = self._staff[index]
        if member is None:  # not at work
            raise RuntimeError("no unit was submitted")
        try:
            message = json.loads(self._ray.get(next(reports)))
        except self._ray.exceptions.RayActorError as error:
            self._staff[index] = None
            raise Lost(member.unit, f"its Ray worker died ({_first_line(error)})") from None
        run = member.unit[message["run"]]
        if "epoch" in message:
            return run, decode_epoch(message["epoch"])
        self._where[run.id] = member.environment
        member.due -= 1
        if not member.due:
            member.unit = ()
        return run, decode(message["result"])

    def whereabouts(self, run: Run) -> Mapping[str, Any] | None:
        return self._where.get(run.id)

    def close(self) -> None:
        staff, self._staff = self._staff, []
        with contextlib.suppress(Exception):  # a cluster that has gone has no workers left either
            for member in staff:
                if member is not None:
                    self._ray.kill(member.actor)
        if self._ours:
            self._ours = False
            self._ray.shutdown()

    def process_ids(self) -> list[int]:
        """Of the workers, each on its machine."""
        found: list[int] = self._ray.get([member.actor.process_id.remote() for member in self._staff if member])
        return found

    def _connect(self) -> None:
        ray = self._ray
        if not ray.is_initialized():
            local = self._address is None and "RAY_ADDRESS" not in os.environ
            quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
            if local:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
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
            self._ours = True
        cpus = int(ray.cluster_resources().get("CPU", 0))
        self.slots = self.slots or max(1, cpus)

    def _actor(self) -> Any:
        return self._ray.remote(Worker).options(**self._options).remote(self._setup)

    def _arrival(self, member: _Member) -> Mapping[str, Any]:
        """The environment that a new worker found itself in. Raises what the study deserves there."""
        try:
            found: Mapping[str, Any] = self._ray.get(member.actor.take_up.remote(), timeout=START_S)
        except self._ray.exceptions.GetTimeoutError:
            cpus = int(self._ray.cluster_resources().get("CPU", 0))
            raise TrainingError(
                f"{self.slots} workers were asked for, and not all have started after {START_S:g} s; "
                f"the cluster has {cpus} CPUs.",
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


class _Member:
    """A worker as the executor sees it, with the unit that it has in hand."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.environment: Mapping[str, Any] = {}
        self.unit: Unit = ()
        self.due = 0
        self.reports: Any = None


class Worker:
    """The actor. ``take_up`` comes first, so that what it raises reaches the caller as it is."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._setup = setup

    def take_up(self) -> dict[str, Any]:
        from sabun.poc.evidence.environment import environment
        from sabun.poc.executors.in_process import InProcess

        study = _unpack(self._setup)
        self._executor = InProcess(shared=True)
        self._executor.load(study, Path(self._setup["logs"]))
        return environment(study)

    def carry_out(self, unit: list[Mapping[str, Any]]) -> Iterator[str]:
        runs = tuple(Run.model_validate(fields) for fields in unit)
        place = {run.id: index for index, run in enumerate(runs)}
        self._executor.submit(runs)
        left = len(runs)
        while left:
            run, item = self._executor.next()
            message = {"result": encode(item)} if isinstance(item, RunResult) else {"epoch": encode_epoch(item)}
            left -= isinstance(item, RunResult)
            yield json.dumps({"run": place[run.id], **message}, allow_nan=False)

    def process_id(self) -> int:
        return os.getpid()


def _luggage(study: Study, logs: Path) -> dict[str, Any]:
    """What a worker needs to know: the study, the source of a task of one's own, and where the study was started."""
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
    """The study, on a machine that may know nothing of the one where it was started.

    Raises StudyError for a script whose directory is not there.
    """
    from sabun.poc.tasks.base import PREFIX

    study = Study.build(setup["study"])
    if setup["data"] is not None:
        os.environ.setdefault("SABUN_DATA", setup["data"])
    directory = Path(setup["directory"])
    if directory.is_dir():
        os.chdir(directory)
    elif study.task.startswith(PREFIX):
        raise StudyError(
            f"the script's directory {directory} is not there on {os.uname().nodename}.",
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
