"""Seeds trained as one model: equal to single runs up to rounding, refused where they would not be."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sabun
from sabun.cli import app
from sabun.errors import StudyError
from sabun.poc import events
from sabun.poc import evidence as stored
from sabun.poc.evidence.specification import FrozenSpecification
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Run, Study
from sabun.poc.study import default_study, run, validate
from sabun.poc.training.batched import reason_against
from sabun.poc.training.trainer import Trainer

from .helpers import SGD, task, tiny_study, untimed

ELEMENTWISE = [
    SGD,
    "torch.optim:AdamW(weight_decay=0.1)",
    "torch.optim:RMSprop",
    "nesterov",
    "taylor-4",
    "look-ahead(0.9, 2)@adam",
    "lion",
    "schedule-free-adamw",
    "adams-bashforth-2",
]


def unit_of(arm: str, seeds: int, **fields: object) -> tuple[Run, ...]:
    values = {"arm": arm, "phase": "evaluate", "hyperparameters": {"lr": 0.01}, **fields}
    return tuple(Run.model_validate({**values, "seed": seed}) for seed in range(seeds))


def both(trainer: Trainer, unit: tuple[Run, ...]) -> tuple[list[RunResult], list[RunResult]]:
    """Each seed alone, and all in a batch."""
    alone = [item for one in unit for item in trainer.run(one) if isinstance(item, RunResult)]
    joined = {one.id: item for one, item in trainer.run_batched(unit) if isinstance(item, RunResult)}
    return alone, [joined[one.id] for one in unit]


@pytest.mark.parametrize("arm", ELEMENTWISE)
def test_batched_seeds_agree_with_single_seeds_up_to_rounding(arm: str) -> None:
    """48 steps in float32: sums in another order differ by 1e-7 relatively, and so little training amplifies little.

    The tolerance is a hundred times that; a wrong batch, weight or schedule shows in the first digits.
    """
    study = tiny_study(arm if arm != SGD else "euler", task_name="Batchable", batch_seeds=True)
    alone, joined = both(Trainer(resolve(study)), unit_of(arm, 3))
    for one, other in zip(alone, joined, strict=True):
        assert (other.run, other.seed, other.status, other.batched_seeds) == (one.run, one.seed, one.status, 3)
        assert len({result.weights_sha256 for result in joined}) == 3
        for left, right in zip(one.epochs, other.epochs, strict=True):
            assert right.val_loss == pytest.approx(left.val_loss, rel=1e-5)
            assert right.train_loss == (None if left.train_loss is None else pytest.approx(left.train_loss, rel=1e-5))
            assert right.val_metric == pytest.approx(left.val_metric, rel=1e-5)
            assert (right.epoch, right.lr) == (left.epoch, left.lr)
            assert right.gradient_evaluations == left.gradient_evaluations
        assert other.test_loss == pytest.approx(one.test_loss, rel=1e-5)
        assert other.test_metric == pytest.approx(one.test_metric, rel=1e-5)
        assert other.optimizer_state_bytes == pytest.approx(
            one.optimizer_state_bytes, abs=16
        )  # four step counts shared


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "diabetes"])
def test_the_builtin_tasks_that_say_so(name: str) -> None:
    study = default_study(task=name, candidates=["euler"], epochs=2, batch_seeds=True)
    alone, joined = both(Trainer(resolve(study)), unit_of("euler", 3))
    for one, other in zip(alone, joined, strict=True):
        assert [e.val_loss for e in other.epochs] == pytest.approx([e.val_loss for e in one.epochs], rel=1e-4)
        assert other.test_metric == pytest.approx(one.test_metric, abs=0.003)  # one example of 360 may flip


def test_the_same_unit_again_is_bit_exact() -> None:
    trainer = Trainer(resolve(tiny_study("euler", task_name="Batchable", batch_seeds=True)))
    first, again = ([item for _, item in trainer.run_batched(unit_of("euler", 3))] for _ in range(2))
    results = [[item for item in items if isinstance(item, RunResult)] for items in (first, again)]
    assert untimed(results[0]) == untimed(results[1])


def test_a_seed_that_diverges_ends_alone() -> None:
    """Seed 1's initial weights are made huge, so that its first step overflows; the others do not notice."""
    study = tiny_study("euler", task_name="Batchable", batch_seeds=True)
    trainer = Trainer(resolve(study))
    model = trainer.task.source.model  # type: ignore[attr-defined]
    made: list[nn.Module] = []

    def spoilt() -> nn.Module:
        found: nn.Module = model()
        made.append(found)
        if len(made) == 2:
            with torch.no_grad():
                for p in found.parameters():
                    p.mul_(1e30)
        return found

    trainer.task.source.model = spoilt  # type: ignore[attr-defined]
    unit = unit_of("euler", 3)
    results = {one.seed: item for one, item in trainer.run_batched(unit) if isinstance(item, RunResult)}
    assert [results[seed].status for seed in range(3)] == ["finished", "diverged", "finished"]
    assert [len(results[seed].epochs) for seed in (0, 2)] == [4, 4]
    assert len(results[1].epochs) < 4
    assert not math.isfinite(results[1].epochs[-1].val_loss)
    trainer.task.source.model = model  # type: ignore[attr-defined]
    (alone,) = (item for item in trainer.run(unit[2]) if isinstance(item, RunResult))
    assert results[2].epochs[-1].val_loss == pytest.approx(alone.epochs[-1].val_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        ("muon", "preconditioner (spectral)"),
        ("soap", "preconditioner (kronecker)"),
        ("torch.optim:LBFGS", "several gradients"),
        ("heun", "several gradients"),
        ("torch.optim:Adafactor", "Adafactor is not known to be elementwise"),
    ],
)
def test_an_arm_whose_numbers_depend_on_one_another_is_trained_seed_by_seed(arm: str, reason: str) -> None:
    study = tiny_study(arm, task_name="Batchable", batch_seeds=True)
    alone = validate(study)
    assert list(alone) == [arm]
    assert reason in alone[arm]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"preconditioner": "adam", "step_limit": 0.1}, "step limit depends on the shapes"),
        ({"preconditioner": "adam", "rest": {"lr_factor": 0.5}}, "hidden matrices are found by the shapes"),
    ],
)
def test_options_that_mean_something_else_for_a_stack_are_not_batched(options: dict[str, Any], reason: str) -> None:
    """One step of two stacked seeds is not that of each of them."""
    one, other = (nn.Linear(6, 4) for _ in range(2))
    stacked = {
        name: nn.Parameter(torch.stack([p.detach(), q.detach()]))
        for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True)
    }
    optimizers = [sabun.Optimizer(named, 0.5, **options) for named in (one.named_parameters(), stacked.items())]
    for p in (*one.parameters(), *stacked.values()):
        p.grad = torch.ones_like(p)
    for optimizer in optimizers:
        optimizer.step()
    assert not all(torch.equal(p, stacked[name][0]) for name, p in one.named_parameters())
    assert reason in str(reason_against(optimizers[0]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Tiny", "does not declare that its seeds can be batched.*batchable = True"),
        ("Liar", "in a batch differs from its gradient alone"),
        ("BatchNorm", "has buffers"),
        ("BatchableDropout", "training batched seeds fails"),
        ("BatchableDatasets", "batched seeds need tensors"),
        ("Item", "training batched seeds fails"),
    ],
)
def test_a_task_that_cannot_is_refused_before_anything_is_written(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=words) as caught:
        run(tiny_study(task_name=name, batch_seeds=True), tmp_path / "out")
    assert "batch_seeds" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_script_is_refused(tmp_path: Path) -> None:
    study = tiny_study(batch_seeds=True).model_copy(update={"task": "script:python -c pass", "task_options": {}})
    with pytest.raises(StudyError, match="script cannot be batched"):
        run(study, tmp_path / "out")


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path, list[events.Event]]:
    heard: list[events.Event] = []
    out = tmp_path_factory.mktemp("batched")
    study = tiny_study("euler", "muon", task_name="Batchable", batch_seeds=True, seeds=4, looks=(3,), trials=3)
    run(study, out, on_event=heard.append)
    return study, out, heard


def by_id(path: Path) -> list[str]:
    """The records but for times, as text: NaN is not equal to itself."""
    records = untimed(r for r in stored.read(path).records.results.values() if r.phase != "time")
    return [repr(record) for record in sorted(records, key=lambda record: str(record["run"]))]


def test_a_study_records_batched_seeds_and_times_every_arm_alone(
    batched: tuple[Study, Path, list[events.Event]],
) -> None:
    study, out, heard = batched
    results = stored.read(out).records.results.values()
    sizes = Counter((r.arm, r.phase, r.batched_seeds) for r in results)
    for arm in (SGD, "euler"):
        assert sizes[arm, "tune", 2] == 6
        assert sizes[arm, "evaluate", 3] == 3  # up to the look; the fourth seed comes by itself
        assert sizes[arm, "evaluate", 1] == 1
    assert sizes["muon", "tune", 1] == 6
    assert sizes["muon", "evaluate", 1] == 4
    assert all(sizes[arm.name, "repeat", 1] == 1 and sizes[arm.name, "time", 1] == 4 for arm in study.arms)
    (told,) = [event for event in heard if isinstance(event, events.SeedsNotBatched)]
    assert (told.arm, "spectral" in told.reason) == ("muon", True)
    timed = {(r.arm, r.seed): r for r in results if r.phase == "time"}
    for result in stored.read(out).runs:
        if result.phase == "evaluate":
            assert result.epochs[1].train_s in {epoch.train_s for epoch in timed[result.arm, result.seed].epochs}
            if result.batched_seeds > 1:
                assert result.peak_memory_bytes == timed[result.arm, result.seed].peak_memory_bytes


def test_workers_leave_the_same_records(batched: tuple[Study, Path, list[events.Event]], tmp_path: Path) -> None:
    study, out, _ = batched
    run(study, tmp_path, jobs=2)
    assert by_id(tmp_path) == by_id(out)


def test_kills_between_the_results_of_a_unit_change_nothing(
    batched: tuple[Study, Path, list[events.Event]], tmp_path: Path
) -> None:
    """The first result of a unit is on the disk, the others are not: the whole unit is trained again."""
    study, out, _ = batched
    for kill in range(1, 40):
        child = os.fork()
        if child == 0:

            def hear(event: events.Event, known: int = kill) -> None:
                if isinstance(event, events.RunFinished) and event.done >= 9 * known - 2:
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                run(study, tmp_path, on_event=hear)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
    assert kill > 3
    assert by_id(tmp_path) == by_id(out)
    assert stored.verify(tmp_path).ok


def test_the_command_line_declares_it_in_the_study(tmp_path: Path) -> None:
    arms = ["--baseline", "torch.optim:SGD", "--candidate", "euler", "--seeds", "2", "--epochs", "1", "--no-tuning"]
    options = [*arms, "--quiet", "--batch-seeds", "--out", str(tmp_path / "out")]
    assert app.run(["poc", "run", task("Batchable"), *options]) == 0
    held = stored.read(tmp_path / "out")
    assert held.study.budget.batch_seeds
    assert {r.batched_seeds for r in held.runs if r.phase == "evaluate"} == {2}
    assert app.run(["poc", "run", task("Tiny"), *options[:-1], str(tmp_path / "other")]) == 2


def test_an_older_study_whose_specification_knew_fewer_fields_still_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, hash_now = FrozenSpecification.write, Study.hash
    older = ""

    def without_a_field(self: FrozenSpecification, path: Path) -> None:
        nonlocal older
        write(self, path)
        raw = json.loads((path / "study.json").read_text())
        del raw["study"]["budget"]["batch_seeds"]
        text = json.dumps(raw["study"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        older = raw["hash"] = hashlib.sha256(text.encode()).hexdigest()
        (path / "study.json").write_text(json.dumps(raw))

    with monkeypatch.context() as older_version:
        older_version.setattr(FrozenSpecification, "write", without_a_field)
        older_version.setattr(Study, "hash", property(lambda study: older or hash_now.fget(study)))
        run(tiny_study(trials=0, seeds=1), tmp_path)
    assert older != tiny_study(trials=0, seeds=1).hash
    assert stored.read(tmp_path).study == tiny_study(trials=0, seeds=1)
    assert len(run(tiny_study(trials=0, seeds=1), tmp_path).runs) == 6
