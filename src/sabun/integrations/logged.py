"""The runs that a tracker holds, as the rows of a log: for ``sabun poc judge``.

A row has the values of one epoch, and the parameters and tags of its run; runs are in the order in which they began,
which is that of the configurations in a report. Trackers may be filled by
:mod:`sabun.integrations.trackers` or by anything else.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sabun.errors import MissingExtraError, StudyError, unknown

__all__ = ["mlflow_rows", "tensorboard_rows"]

Row = dict[str, Any]


def mlflow_rows(experiment: str, uri: str | None = None) -> list[Row]:
    """Return the rows of an experiment, by name or id: metrics by step, parameters, tags and status of each run.

    Raises MissingExtraError without the package ``mlflow``, StudyError for an experiment that cannot be read.
    """
    try:
        mlflow: Any = importlib.import_module("mlflow")
    except ModuleNotFoundError:
        raise MissingExtraError(
            "reading MLflow needs mlflow, which is not installed.", fix="pip install 'sabun[mlflow]'"
        ) from None
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        known = {found.name: found.experiment_id for found in client.search_experiments()}
        if experiment not in known and experiment not in known.values():
            raise unknown(StudyError, "MLflow experiment", experiment, list(known))
        rows: list[Row] = []
        token: str | None = None
        while True:
            places, order = [known.get(experiment, experiment)], ["attributes.start_time ASC"]
            page = client.search_runs(places, order_by=order, page_token=token)
            for run in page:
                rows += _mlflow_run(client, run)
            token = page.token
            if not token:
                return rows
    except StudyError:
        raise
    except Exception as error:  # noqa: BLE001  (every kind of address raises another error)
        lines = str(error).strip().splitlines()
        raise StudyError(
            f"MLflow cannot read {experiment!r} from {uri or 'its default address'}: "
            f"{lines[0] if lines else type(error).__name__}",
            fix="Give the address of the server or database: --tracking-uri sqlite:///mlflow.db.",
        ) from None


def _mlflow_run(client: Any, run: Any) -> list[Row]:
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("sabun.") or "git.commit" in key}
    tags |= {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.") and key not in tags}
    status = run.data.tags.get("sabun.status", run.info.status)
    common = {"run_id": run.info.run_id, **run.data.params, **tags, "status": status}
    common.pop("sabun.status", None)
    by_step: dict[int, Row] = {}
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            by_step.setdefault(point.step, {})[name] = point.value
    return [{**common, "epoch": step, **values} for step, values in sorted(by_step.items())]


def tensorboard_rows(folder: str | Path) -> list[Row]:
    """Return the rows of a folder with one directory of event files per run.

    Scalars are values by step. The text ``run`` of sabun's tracker has the configuration and seed; elsewhere the
    columns ``folder`` (the first directory) and ``run`` (the path) name them.

    TensorBoard reads up to the first damaged record and does not say so; a torn last one, as a kill leaves it, ends the
    run here too, and any other damage is an error.

    Raises MissingExtraError without the package ``tensorboard``, StudyError for a folder without event files, and for a
    damaged one.
    """
    try:
        module: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    except ModuleNotFoundError:
        raise MissingExtraError(
            "reading TensorBoard needs tensorboard, which is not installed.", fix="pip install 'sabun[tensorboard]'"
        ) from None
    root = Path(folder)
    files = sorted(root.rglob("*tfevents*")) if root.is_dir() else []
    for file in files:
        _require_whole(file)
    places = sorted({path.parent for path in files if path.stat().st_size})
    if not places:
        raise StudyError(f"there are no event files of TensorBoard in {folder}.", fix="Give the log directory.")
    runs = []
    for place in places:
        events = module.EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        try:
            began = events.FirstEventTimestamp()
        except ValueError:  # killed within its first record
            continue
        runs.append((began, _tensorboard_run(events, place.relative_to(root))))
    return [row for _, rows in sorted(runs, key=lambda run: run[0]) for row in rows]


def _require_whole(file: Path) -> None:
    """Raise StudyError where a record of an event file does not have its checksum."""
    records: Any = importlib.import_module("tensorboard.compat.tensorflow_stub.pywrap_tensorflow")
    reader = records.PyRecordReader_New(str(file))
    try:
        while True:
            reader.GetNext()
    except records.errors.OutOfRangeError:
        return
    except records.errors.DataLossError as error:
        if "truncated" not in str(error):
            raise StudyError(f"{file} is damaged: a record has another checksum.", fix="Restore the file.") from None


def _tensorboard_run(events: Any, path: Path) -> list[Row]:
    common: Row = {"folder": path.parts[0] if path.parts else "", "run": str(path)}
    tags: Mapping[str, Any] = events.Tags()
    by_step: dict[int, Row] = {}
    for name in tags.get("scalars", ()):
        for point in events.Scalars(name):
            by_step.setdefault(point.step, {})[name] = point.value
    for name in tags.get("tensors", ()):
        for point in events.Tensors(name):
            proto = point.tensor_proto
            if proto.string_val:
                common |= _described(name.removesuffix("/text_summary"), proto.string_val[0])
            elif len(values := [*proto.double_val, *proto.float_val]) == 1:
                by_step.setdefault(point.step, {})[name] = float(values[0])
    return [{**common, "epoch": step, **values} for step, values in sorted(by_step.items())]


def _described(name: str, text: bytes) -> Row:
    """Return what sabun's tracker says of a run, in its texts ``run`` and ``outcome``."""
    if name not in ("run", "outcome"):
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    plain = {key: value for key, value in found.items() if isinstance(value, str | int | float)}
    if "sabun.status" in plain:
        plain["status"] = plain.pop("sabun.status")
    return plain
