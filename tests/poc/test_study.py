"""The whole study: order, pairing, resuming after SIGKILL, and mistakes found before anything is written."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sabun.errors import SabunError, SchemeError, StoreError, StudyError
from sabun.poc import events
from sabun.poc import evidence as stored
from sabun.poc import schedule as schedule_module
from sabun.poc.executors.executor import Executor, Unit
from sabun.poc.executors.in_process import InProcess
from sabun.poc.records import Epoch, RunResult
from sabun.poc.schedule import evaluation_order
from sabun.poc.spec import Arm, Run, Study
from sabun.poc.study import default_study, demonstration, run, validate
from sabun.poc.study_options import study_from_options

from .helpers import SGD, task, tiny_study, untimed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, stored.StudyEvidence, list[events.Event]]:
    study, heard = tiny_study(), []
    return study, run(study, tmp_path_factory.mktemp("study"), on_event=heard.append), heard


def test_every_arm_gets_the_same_budget(undisturbed: tuple[Study, stored.StudyEvidence, list[events.Event]]) -> None:
    study, evidence, _ = undisturbed
    count = Counter((r.arm, r.phase) for r in evidence.runs)
    for arm in study.arms:
        assert count[arm.name, "tune"] == 4 * 2
        assert count[arm.name, "evaluate"] == 3
        assert count[arm.name, "repeat"] == 1
        assert len(evidence.tuning[arm.name].trials) == 4
    assert len({t.gradient_evaluations for t in evidence.tuning.values()}) == 1
    assert {r.epochs[-1].gradient_evaluations for r in evidence.runs if r.status == "finished"} == {48}


def test_runs_are_paired_and_the_repeat_is_bit_exact(
    undisturbed: tuple[Study, stored.StudyEvidence, list[events.Event]],
) -> None:
    study, evidence, _ = undisturbed
    starts: dict[int, set[float]] = {}
    for result in evidence.runs:
        if result.phase == "evaluate":
            starts.setdefault(result.seed, set()).add(result.epochs[0].val_loss)
            assert result.hyperparameters == evidence.tuning[result.arm].best
    assert all(len(losses) == 1 for losses in starts.values())
    assert len(set().union(*starts.values())) == 3
    for arm in study.arms:
        first, again = (
            next(r for r in evidence.runs if r.arm == arm.name and r.phase == phase and r.seed == 0)
            for phase in ("evaluate", "repeat")
        )
        assert first.weights_sha256 == again.weights_sha256


def test_arms_take_turns_in_going_first() -> None:
    assert list(evaluation_order("AB", 4)) == [
        ("A", 0), ("B", 0), ("B", 1), ("A", 1), ("B", 2), ("A", 2), ("A", 3), ("B", 3),
    ]  # fmt: skip
    places = Counter()
    for index, (arm, _) in enumerate(evaluation_order("ABC", 6)):
        places[arm] += index % 3
    assert len(set(places.values())) == 1  # the same mean place for all


def test_events_tell_the_whole_story(undisturbed: tuple[Study, stored.StudyEvidence, list[events.Event]]) -> None:
    study, evidence, heard = undisturbed
    assert isinstance(heard[0], events.StudyStarted)
    assert isinstance(heard[-1], events.StudyFinished)
    assert (heard[0].total, heard[0].done) == (36, 0)
    finished = [event for event in heard if isinstance(event, events.RunFinished)]
    assert [event.done for event in finished] == list(range(1, 37))
    assert {event.total for event in finished} == {36}
    assert finished[-1].remaining_s == 0.0
    assert [event.result.run for event in finished] == [result.run for result in evidence.runs]
    started = [event for event in heard if isinstance(event, events.RunStarted)]
    assert [event.number for event in started] == list(range(1, 37))
    assert sum(isinstance(event, events.EpochDone) for event in heard) == sum(len(r.epochs) for r in evidence.runs)
    tuned = [event.tuning for event in heard if isinstance(event, events.TuningFinished)]
    assert {t.arm: t for t in tuned} == evidence.tuning
    assert [t.arm for t in tuned] == [arm.name for arm in study.arms]


def test_a_finished_study_is_not_run_again(
    undisturbed: tuple[Study, stored.StudyEvidence, list[events.Event]], tmp_path: Path
) -> None:
    study, evidence, _ = undisturbed
    first = run(study, tmp_path)
    heard: list[events.Event] = []
    again = run(study, tmp_path, on_event=heard.append)
    assert again.runs == first.runs
    assert [type(event) for event in heard] == [events.StudyStarted, events.StudyFinished]
    assert untimed(first.runs) == untimed(evidence.runs)


class Interleaved(InProcess):
    """Two slots in one process: which of two units reports next is drawn at random, as with two processes."""

    slots = 2

    def __init__(self, seed: int) -> None:
        super().__init__(shared=True)
        self._rng = random.Random(seed)
        self._units: list[Iterator[tuple[Run, Epoch | RunResult]]] = []

    def submit(self, unit: Unit) -> None:
        super().submit(unit)
        self._units.append(self._current)

    def next(self) -> tuple[Run, Epoch | RunResult]:
        stream = self._rng.choice(self._units)
        run, item = next(stream)
        if isinstance(item, RunResult):
            self._units.remove(stream)
        return run, item


def _killed_after(seconds: float, study: Study, out: Path, executor: Executor | None) -> bool:
    """Run the study in a forked child and SIGKILL it. Whether the kill came before the study's end."""
    child = os.fork()
    if child == 0:
        try:
            run(study, out, executor=executor)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _records(path: Path) -> list[dict[str, object]]:
    results = [result for result in stored.read(path).records.results.values() if result.phase != "time"]
    return sorted(untimed(results), key=lambda record: str(record["run"]))


@pytest.mark.parametrize("slots", [1, 2])
def test_twenty_sigkills_at_random_moments_change_nothing(slots: int, tmp_path: Path) -> None:
    """With one run in flight, and with two, pruning and timing runs."""
    study = tiny_study() if slots == 1 else tiny_study(trials=8, epochs=4, pruning="median")
    begin = time.monotonic()
    evidence = run(study, tmp_path / "undisturbed")
    duration = time.monotonic() - begin
    undisturbed = _records(tmp_path / "undisturbed")
    statuses = {record["status"] for record in undisturbed}
    assert ("pruned" in statuses) == (slots == 2)
    rng = random.Random(7)
    kills, known, finished, out = 0, 0, 0, tmp_path / "0"
    total = len(undisturbed) + (9 if slots == 2 else 0)
    for attempt in range(200):
        executor = Interleaved(attempt) if slots == 2 else None
        if _killed_after(rng.uniform(0.0, 0.25 * duration), study, out, executor):
            kills += 1
        if stored.exists(out):
            done = len(stored.read(out).records.results)
            assert done >= known  # nothing that was finished is ever lost
            known = done
        if known == total:  # finished under fire: start another one
            assert _records(out) == undisturbed
            out, known, finished = tmp_path / str(attempt + 1), 0, finished + 1
        if kills == 20:
            break
    assert kills == 20
    resumed = run(study, out, executor=Interleaved(0) if slots == 2 else None)
    assert _records(out) == undisturbed
    assert {a: (t.best, t.trials, t.at_edge) for a, t in resumed.tuning.items()} == {
        a: (t.best, t.trials, t.at_edge) for a, t in evidence.tuning.items()
    }
    assert stored.verify(out).ok


def test_a_listener_that_raises_stops_the_study_and_loses_nothing(tmp_path: Path) -> None:
    study = tiny_study(trials=2)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.RunFinished) and event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path, on_event=listen)
    assert len(stored.read(tmp_path).records.results) == 5
    assert len(run(study, tmp_path).runs) == 24


def test_runs_that_raise_or_diverge_do_not_stop_a_study(tmp_path: Path) -> None:
    for task_name in ("Raises", "NanLater", "Constant"):
        evidence = run(tiny_study(task_name=task_name, trials=2, seeds=2), tmp_path / task_name)
        assert len(evidence.runs) == 3 * (2 * 2 + 2 + 1)
        statuses = {r.status for r in evidence.runs}
        assert statuses & {"Raises": {"failed"}, "NanLater": {"diverged"}, "Constant": {"finished"}}[task_name]


def test_failed_runs_done_again_leave_the_records_of_an_undisturbed_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failures in tuning and in the comparison; whatever rests on a failed trial goes with it, and the log says so."""
    disturbance = tmp_path / "disturbance"
    monkeypatch.setenv("DISTURBANCE", str(disturbance))
    study = tiny_study("nesterov@adam", task_name="Disturbed", trials=4, decades=1)
    undisturbed = run(study, tmp_path / "well")
    disturbance.touch()
    disturbed = run(study, tmp_path / "ill")
    failed = {(result.arm, result.phase) for result in disturbed.runs if result.status == "failed"}
    assert {phase for _, phase in failed} == {"tune", "evaluate", "repeat"}
    assert run(study, tmp_path / "ill").runs == disturbed.runs  # a failure is a result, unless asked otherwise
    disturbance.unlink()
    told: list[events.Event] = []

    def killed(event: events.Event) -> None:
        told.append(event)
        if isinstance(event, events.RunFinished) and event.done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "ill", retry_failed=True, on_event=killed)
    (withdrawn,) = (event for event in told if isinstance(event, events.RunsWithdrawn))
    assert withdrawn.failed == sum(result.status == "failed" for result in disturbed.runs)
    assert withdrawn.dependent > 0
    mended = run(study, tmp_path / "ill", retry_failed=True)
    in_order = [sorted(untimed(evidence.runs), key=lambda r: str(r["run"])) for evidence in (mended, undisturbed)]
    assert in_order[0] == in_order[1]
    assert mended.tuning.keys() == undisturbed.tuning.keys()
    assert {arm: found.trials for arm, found in mended.tuning.items()} == {
        arm: found.trials for arm, found in undisturbed.tuning.items()
    }
    held = stored.read(tmp_path / "ill")
    assert held.verification.ok
    assert len(held.records.run_at) > len(held.records.results)  # what was taken back is still there
    (event,) = (event for event in held.events if event.event == "runs.withdrawn")
    assert len(event.data["runs"]) == withdrawn.failed + withdrawn.dependent  # type: ignore[arg-type]
    records = (tmp_path / "ill" / "records.jsonl").read_bytes().splitlines(keepends=True)
    line = int(str(event.data["record"]))
    (tmp_path / "ill" / "records.jsonl").write_bytes(b"".join(records[: line - 1] + records[line:]))
    with pytest.raises(StoreError, match=f"line {line} does not follow"):
        stored.read(tmp_path / "ill")


def test_one_seed_and_no_tuning(tmp_path: Path) -> None:
    evidence = run(tiny_study(trials=0, seeds=1), tmp_path)
    assert Counter(r.phase for r in evidence.runs) == {"evaluate": 3, "repeat": 3}
    assert evidence.tuning == {}


def test_digits_in_small(tmp_path: Path) -> None:
    """The built-in task, end to end: real images, a loss far below its start, and the default arms' table."""
    study = default_study(candidates=["torch.optim:AdamW"], epochs=3, trials=1, tuning_seeds=1, seeds=2)
    evidence = run(study, tmp_path)
    assert {r.status for r in evidence.runs} == {"finished"}
    for result in evidence.runs:
        if result.phase == "evaluate":
            assert result.test_metric is not None
            assert result.test_metric > 0.85
            assert result.epochs[-1].val_loss < 0.5


BAD: list[tuple[object, type[SabunError], str]] = [
    ("torch.optim:SDG", StudyError, "unknown optimizer in torch.optim 'SDG'.*Did you mean 'SGD'"),
    ("torch.optim:SGD(momentun=0.9)", StudyError, "unknown option of torch.optim:SGD 'momentun'.*'momentum'"),
    ("torch.optim:SGD(lr=0)", StudyError, "lr must be a positive finite number"),
    ("torch.optim:SGD(lr=-0.1)", StudyError, "lr must be a positive finite number"),
    ("torch.optim:SGD(lr=1e999)", StudyError, "lr must be a positive finite number"),
    (Arm(name="x", optimizer="torch.optim:SGD", options={"lr": "0.1"}), StudyError, "lr must be a positive finite"),
    ("torch.optim:SGD(momentum=-1)", StudyError, "refuses"),
    ("torch.optim:Adam(betas=0.9)", StudyError, "refuses"),
    ("torch.optimm:SGD", StudyError, "cannot import 'torch.optimm'"),
    ("torch.nn:Linear", StudyError, "not a torch.optim.Optimizer"),
    ("torch.optim:SGD(0.1)", StudyError, "option without a name"),
    ("torch.optim:SGD(momentum=open('x'))", StudyError, "cannot read the options"),
    ("torch.optim:SGD(momentum=", StudyError, "cannot read"),
    ("torch.optim:SparseAdam", StudyError, "SparseAdam"),
    ("eulre", StudyError, "unknown optimizer 'eulre'.*Did you mean 'euler'"),
    ("lagrange-4", SchemeError, "2.686"),
    ("nesterov@", StudyError, "ends with '@'"),
    ("look-ahead(beta=1.5)", SabunError, "beta"),
]


@pytest.mark.parametrize(("candidate", "kind", "words"), BAD, ids=[str(case[0])[:60] for case in BAD])
def test_a_mistake_in_an_arm_is_found_before_anything_is_written(
    candidate: str | Arm, kind: type[SabunError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words) as caught:
        run(default_study(task="digits", candidates=[candidate], epochs=1), tmp_path / "out")
    assert caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_the_task_is_found_before_anything_is_written(tmp_path: Path) -> None:
    for name, words in (("digit", "Did you mean 'digits'"), ("nowhere.py:Task", "no task file"), ("x", "unknown task")):
        with pytest.raises(StudyError, match=words):
            run(default_study(task=name, candidates=["torch.optim:SGD"]), tmp_path / "out")
    with pytest.raises(StudyError, match=r"unknown option of task 'digits' 'widht'.*'width'"):
        run(default_study(candidates=["torch.optim:SGD"], task_options={"widht": 3}), tmp_path / "out")
    with pytest.raises(StudyError, match="jobs must be at least 1"):
        run(tiny_study(), tmp_path / "out", jobs=0)
    assert list(tmp_path.iterdir()) == []


def test_another_studys_directory_is_refused(tmp_path: Path) -> None:
    run(tiny_study(trials=0, seeds=1), tmp_path)
    with pytest.raises(StudyError, match="holds another study"):
        run(tiny_study(trials=0, seeds=2), tmp_path)


def test_two_arms_of_one_name_and_unknown_budget_keys() -> None:
    with pytest.raises(StudyError, match="two arms are called"):
        default_study(candidates=[SGD])
    with pytest.raises(StudyError, match=r"Did you mean 'trials'"):
        default_study(trails=3)


def test_validate_builds_and_steps_every_arm() -> None:
    validate(tiny_study("torch.optim:AdamW(betas=(0.9, 0.99), weight_decay=0.1)", "torch.optim:LBFGS"))


@pytest.mark.parametrize(("stops", "jobs"), [(True, 1), (False, 1), (True, 2)])
def test_a_sequential_study_ends_at_the_look_that_decides(
    stops: bool, jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judgement is replaced, so that the test fixes what it says; how many seeds it is shown is what matters."""
    study = default_study(
        task=task(),
        baseline=SGD,
        candidates=["torch.optim:SGD"],
        epochs=1,
        trials=2,
        tuning_seeds=1,
        seeds=5,
        looks=(2, 4),
    )
    shown: list[list[int]] = []

    def assess(study: Study, runs: list[RunResult], tuning: object, earlier: object) -> int:
        shown.append(sorted(r.seed for r in runs if r.phase == "evaluate"))
        assert sum(r.phase == "repeat" for r in runs) == 2
        return len(shown)

    monkeypatch.setattr(schedule_module, "assess", assess)
    monkeypatch.setattr(schedule_module, "decided", lambda look: stops and look == 2)
    heard: list[events.Event] = []
    evidence = run(study, tmp_path, jobs=jobs, on_event=heard.append)
    assert shown == [[0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3]]
    assert [(e.seeds, e.decided) for e in heard if isinstance(e, events.LookTaken)] == [(2, False), (4, stops)]
    assert {r.seed for r in evidence.runs if r.phase == "evaluate"} == set(range(4 if stops else 5))
    last = [event for event in heard if isinstance(event, events.RunFinished)][-1]
    assert last.remaining_s >= 0.0


def test_the_demonstration_is_what_runs_without_a_task_and_arms() -> None:
    """Both usual optimizers, a rule of the kind that papers derive, two for stability, and the preset."""
    study = study_from_options(budget={"epochs": 2})
    shown = demonstration()
    assert study == shown.model_copy(update={"budget": shown.budget.model_copy(update={"epochs": 2})})
    names = ["AdamW", "SGD(momentum=0.9)", "taylor-4", "look-ahead", "nesterov", "sabun"]
    assert [arm.name for arm in shown.arms] == names
    assert (shown.task, shown.seed, shown.thresholds.margin) == ("digits-cnn", 1, 0.01)
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    assert f"evaluated on {shown.budget.seeds} paired seeds" in readme
    assert f"a budget of {shown.budget.epochs} epochs" in readme
    assert study_from_options(candidates=["euler"]).task == "digits"
