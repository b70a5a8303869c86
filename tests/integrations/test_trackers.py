"""TensorBoard and MLflow hold what the store holds, number for number, read back with their own readers."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sabun.audit import AuditLog
from sabun.cli import app
from sabun.errors import MissingExtraError, OptionError
from sabun.integrations.trackers import TRACKERS, Tracker, epoch_scalars, run_scalars, track
from sabun.poc import events, study
from sabun.poc import evidence as stored
from sabun.poc.records import Epoch, RunResult
from sabun.poc.spec import Study

TASK = Path(__file__).parents[1] / "poc" / "tiny.py"
Found = dict[str, dict[tuple[str, int], float]]


def small(**budget: int) -> Study:
    return study.default_study(
        task=f"{TASK}:Tiny", baseline="torch.optim:SGD(momentum=0.9)", candidates=["nesterov"], name="small",
        **{"epochs": 2, "trials": 2, "tuning_seeds": 1, "seeds": 2, **budget},
    )  # fmt: skip


def expected(held: stored.StudyEvidence) -> Found:
    """Run id → (name, epoch) → value, from the store alone."""
    found: Found = {}
    for run in held.runs:
        curve = found.setdefault(run.run, {})
        for epoch in run.epochs:
            for name in ("train_loss", "val_loss", "val_metric", "train_s", "eval_s", "optimizer_s", "lr"):
                if getattr(epoch, name) is not None:
                    curve[name, epoch.epoch] = getattr(epoch, name)
            curve["gradient_evaluations", epoch.epoch] = epoch.gradient_evaluations
            for name, value in epoch.extra.items():
                curve[name, epoch.epoch] = value
            if epoch.load is not None:
                for name in ("cpu_s", "waited_s", "lost_s", "preempted", "average"):
                    if getattr(epoch.load, name) is not None:
                        curve[f"load.{name}", epoch.epoch] = getattr(epoch.load, name)
        for name in ("test_loss", "test_metric", "peak_memory_bytes", "optimizer_state_bytes"):
            if getattr(run, name) is not None:
                curve[name, run.epochs[-1].epoch] = getattr(run, name)
    return found


def from_tensorboard(folder: Path) -> Found:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed: pip install 'sabun[tensorboard]'",
    )
    from tensorboard.util import tensor_util

    found: Found = {}
    for place in {path.parent for path in folder.rglob("events.out.tfevents.*")}:
        held = reader.EventAccumulator(str(place), size_guidance={reader.TENSORS: 0})
        held.Reload()
        name = json.loads(text(held, "run", tensor_util))["run"]
        assert name not in found, "two directories of one run"
        found[name] = {
            (tag, event.step): tensor_util.make_ndarray(event.tensor_proto).item()
            for tag in held.Tags()["tensors"]
            if not tag.endswith("/text_summary")
            for event in held.Tensors(tag)
        }
    return found


def text(held: Any, tag: str, tensor_util: Any) -> str:
    return str(tensor_util.make_ndarray(held.Tensors(f"{tag}/text_summary")[0].tensor_proto).item().decode())


def from_mlflow(uri: str, name: str) -> Found:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'sabun[mlflow]'")
    client = mlflow.MlflowClient(tracking_uri=uri)
    found: Found = {}
    for run in client.search_runs([client.get_experiment_by_name(name).experiment_id]):
        identity = run.data.tags["sabun.run"]
        assert identity not in found, "the run is there twice"
        found[identity] = {
            (key, metric.step): metric.value
            for key in run.data.metrics
            for metric in client.get_metric_history(run.info.run_id, key)
        }
    return found


@pytest.fixture(params=["tensorboard", "mlflow"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'sabun[{name}]'")
    return name


@pytest.fixture
def place(kind: str, tmp_path: Path) -> str:
    return str(tmp_path / "board") if kind == "tensorboard" else f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def read(kind: str, place: str) -> Callable[[], Found]:
    return lambda: from_tensorboard(Path(place)) if kind == "tensorboard" else from_mlflow(place, "small")


def test_every_number_of_the_store_is_there_while_the_study_runs(
    kind: str, place: str, read: Callable[[], Found], tmp_path: Path
) -> None:
    tracker = track(kind, tmp_path / "study", to=place)
    live: list[bool] = []

    def hear(event: events.Event) -> None:
        tracker(event)
        if isinstance(event, events.EpochDone) and len(live) < 3:  # at once, not when the run is over
            said = read()[event.run.id]
            assert said["val_loss", event.epoch.epoch] == event.epoch.val_loss
            live.append(True)

    study.run(small(), tmp_path / "study", on_event=hear)
    held = stored.read(tmp_path / "study")
    assert len(live) == 3
    found = read()
    assert found == expected(held)
    assert any(name == "curvature" for curve in found.values() for name, _ in curve)


def test_the_head_of_the_studys_audit_log_is_kept_in_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'sabun[mlflow]'")
    uri, where, spec = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "study", small(trials=0, epochs=1)

    def kept() -> str:
        tags = mlflow.MlflowClient(tracking_uri=uri).get_experiment_by_name("small").tags
        return str(tags[f"sabun.audit_head.{spec.hash[:12]}"])

    study.run(spec, where, on_event=track("mlflow", where, to=uri))
    head = kept()
    assert head == AuditLog(where / "audit.jsonl").read()[-1].hash
    study.run(spec, where, on_event=track("mlflow", where, to=uri))  # nothing left to do, but the log has grown
    assert kept() not in ("", head)
    for anchor in (head, kept()):
        assert AuditLog(where / "audit.jsonl").verify(anchor=anchor).ok
    # Against both files written anew, with a chain that holds in itself, the anchor alone helps.
    records = AuditLog(where / "audit.jsonl").read()
    for path in where.glob("audit.jsonl*"):
        path.unlink()
    for record in records:
        AuditLog(where / "audit.jsonl", actor="somebody else").append(record.event, record.data)
    assert AuditLog(where / "audit.jsonl").verify().ok
    assert not AuditLog(where / "audit.jsonl").verify(anchor=head).ok


class CutOffError(Exception):
    """The study is cut off here."""


def test_a_resumed_study_sends_what_was_done_before_once(
    kind: str, place: str, read: Callable[[], Found], tmp_path: Path
) -> None:
    where = tmp_path / "study"

    def interrupt(tracker: Tracker | None, runs: int) -> None:
        done = 0

        def hear(event: events.Event) -> None:
            nonlocal done
            if tracker is not None:
                tracker(event)
            done += isinstance(event, events.RunFinished)
            if done == runs and isinstance(event, events.EpochDone):
                raise CutOffError

        with pytest.raises(CutOffError):
            study.run(small(), where, on_event=hear)

    interrupt(None, 1)  # nobody listens
    first = track(kind, where, to=place)
    interrupt(first, 2)
    first.close()
    assert len(read()) == 4  # three finished, one cut off
    study.run(small(), where, on_event=track(kind, where, to=place))
    assert read() == expected(stored.read(where))


def test_a_run_that_starts_again_leaves_no_old_points(
    kind: str, place: str, read: Callable[[], Found], tmp_path: Path
) -> None:
    from sabun.poc.spec import Run

    run = Run(arm="a/b: c", seed=0, phase="evaluate", hyperparameters={"lr": 0.1})
    tracker = track(kind, tmp_path, to=place)
    one = Epoch(1, None, math.inf, None, 0.1, 0.1, 0.0, 4, None, {"margin": -0.25})
    two = Epoch(1, 0.1, 1 / 3, 0.5, 0.1, 0.1, 0.0, 4, 1e-30)
    tracker(events.StudyStarted(small(), tmp_path, 1, 0))
    tracker(events.RunStarted(run, 1, 1, 2))
    tracker(events.EpochDone(run, one, 2))
    if kind == "tensorboard":  # a database has no number for infinity
        assert read()[run.id]["val_loss", 1] == math.inf
    assert read()[run.id]["margin", 1] == -0.25
    tracker(events.RunRetried(run, "its worker died"))
    tracker(events.EpochDone(run, two, 2))
    result = RunResult(run.id, run.arm, 0, "evaluate", {"lr": 0.1}, "failed", (two,), failure="boom")
    tracker(events.RunFinished(run, result, 1, 1, 0.0))
    tracker(events.StudyFinished(small(), tmp_path, 1.0))
    assert read() == {run.id: {(name, 1): value for name, value in epoch_scalars("evaluate", two).items()}}
    assert run_scalars(result) == {}


def test_a_run_that_is_there_for_its_clock_has_no_loss_to_send() -> None:
    unknown = Epoch(1, None, math.nan, None, 0.1, 0.0, 0.01, 4, 0.1)
    assert epoch_scalars("time", unknown).keys() == {"train_s", "eval_s", "optimizer_s", "gradient_evaluations", "lr"}
    assert math.isnan(epoch_scalars("evaluate", unknown)["val_loss"])  # a loss that diverged
    script = Epoch(1, None, 0.5, None, 0.1, 0.0, 0.01, 4, 0.1)
    assert epoch_scalars("time", script)["val_loss"] == 0.5


class Nowhere(Tracker):
    """Keeps nothing."""

    def open(self, study: Study) -> None: ...
    def begin(self, *_: Any) -> None: ...
    def log(self, run: str, epoch: int, values: Any) -> None: ...
    def end(self, result: RunResult) -> None: ...
    def close(self) -> None: ...


def test_a_tracker_that_fails_does_not_stop_the_study(tmp_path: Path) -> None:
    class Broken(Nowhere):
        def log(self, run: str, epoch: int, values: Any) -> None:
            raise OSError("the disk is full")

    told: list[Exception] = []
    study.run(small(), tmp_path / "study", on_event=Broken(told.append))
    assert [str(error) for error in told] == ["the disk is full"]  # said once
    with pytest.raises(OSError, match="the disk is full"):
        study.run(small(seeds=3), tmp_path / "other", on_event=Broken())


@pytest.mark.parametrize("name", TRACKERS)
def test_without_the_package_it_says_which_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("torch.utils.tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        track(name, tmp_path)
    assert f"sabun[{name}]" in str(caught.value)
    assert app.run(["poc", "run", "--track", name, "--out", str(tmp_path / "study")]) == 2
    said = capsys.readouterr().err.splitlines()
    shown = {"tensorboard": "TensorBoard", "mlflow": "MLflow"}[name]
    assert said == [
        f"error: tracking in {shown} needs {name}, which is not installed.",
        f"fix: pip install 'sabun[{name}]'",
    ]
    assert not (tmp_path / "study").exists()


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="Did you mean 'mlflow'"):
        track("mlfow", tmp_path)
    assert app.run(["poc", "run", "--track-to", "x", "--out", str(tmp_path / "study")]) == 2
    assert "--track-to needs a tracker" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="is not a directory"):
        track("tensorboard", tmp_path, to=str(tmp_path / "file"))
    assert not (tmp_path / "study").exists()


def test_mlflow_at_an_address_that_it_cannot_use(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'sabun[mlflow]'")
    with pytest.raises(OptionError, match="MLflow cannot use nosuch://place"):
        track("mlflow", tmp_path, to="nosuch://place")


def test_the_command_tracks_into_the_studys_directory(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'sabun[tensorboard]'")
    where = tmp_path / "study"
    asked = ["poc", "run", f"{TASK}:Tiny", "--candidate", "nesterov", "--seeds", "2", "--trials", "2", "--epochs", "2"]
    assert app.run([*asked, "--out", str(where), "--track", "tensorboard", "--quiet"]) == 0
    assert from_tensorboard(where / "tensorboard") == expected(stored.read(where))


@pytest.mark.parametrize(
    ("name", "line"),
    [("mlflow_tracking", r"(.+): mean test loss (0\.\d+) over 2 runs in MLflow"),
     ("tensorboard_logging", r"(.+)/evaluate-[01]-\w{8}: validation loss 2\.\d+ (0\.\d+|1\.\d+) (0\.\d+) (0\.\d+)")],
)  # fmt: skip
def test_the_examples_read_back_what_the_study_wrote(name: str, line: str, python: str) -> None:
    pytest.importorskip(name.partition("_")[0], reason=f"the package is not installed: see examples/{name}.py")
    example = Path(__file__).parents[2] / "examples" / f"{name}.py"  # mlflow_tracking.py, tensorboard_logging.py
    done = subprocess.run([*python.split(), str(example)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = re.findall(f"^{line}$", done.stdout, re.MULTILINE)
    assert len({arm for arm, *_ in told}) == 3
    assert len(told) == (3 if name.startswith("mlflow") else 6)
    assert all(losses == sorted(losses, reverse=True) for _, *losses in told)
