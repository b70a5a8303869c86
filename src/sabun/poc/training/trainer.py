"""Runs of a task, in this process: one seed at a time, or several seeds as one batched model."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sabun.errors import TrainingError
from sabun.poc.records import Epoch, RunResult
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.seeds import seeds_of
from sabun.poc.spec import Run
from sabun.poc.tasks.script_command import ScriptCommand
from sabun.poc.tasks.task import Task, seeded
from sabun.poc.torch_loading import first_optimizer
from sabun.poc.training.loop import now
from sabun.poc.training.single import SingleTraining
from sabun.poc.user_errors import describe, user_code

__all__ = ["Trainer"]


class Trainer:
    """Runs of one study in this process. The task's data are loaded once and shared by all runs."""

    def __init__(self, resolved: ResolvedStudy) -> None:
        if isinstance(resolved.task, ScriptCommand):
            raise TrainingError("Trainer cannot run a script.", fix="Use ScriptTrainer.")
        self.resolved = resolved
        self.task: Task = resolved.task
        self.graphs: dict[object, Callable[..., Any]] = {}
        """Graphs traced by :mod:`sabun.poc.training.batched`, by the shapes of their inputs."""

    def warm_up(self, arm: str) -> None:
        """Train one discarded epoch, so that first-run costs (lazy imports, caches) are not timed."""
        with contextlib.suppress(Exception, SystemExit):  # an error will recur in the run that counts
            deque(self._training(Run(arm=arm, seed=0, phase="tune"), epochs=1).train(), maxlen=0)

    def prepare(self) -> None:
        """Load the data, and what torch imports for its first optimizer."""
        with contextlib.suppress(Exception, SystemExit):  # an error will recur in the run that counts
            getattr(self.task, "prepare", lambda: None)()
        first_optimizer()

    def check(self) -> None:
        """Take one step with every arm, and evaluate the untrained model on both splits.

        Raises the error of the arm or the task. Without this check a fault in the evaluation on test data would show
        only at the end of a run.
        """
        first_optimizer()
        study, fix = self.resolved.study, "Correct the task."
        for arm in self.resolved.arms.values():
            with seeded(0), user_code(f"task {study.task!r}: training cannot start", fix):
                training = self._training(Run(arm=arm.name, seed=0, phase="tune"), epochs=1)
            if arm is self.resolved.baseline:
                for split in ("validation", "test"):
                    with seeded(0), user_code(f"task {study.task!r}: evaluation on the {split} data fails", fix):
                        training.scores(split)
            step = f"arm {arm.name!r}: the first training step fails"
            with seeded(0), user_code(step, "Correct the task's loss, or choose an optimizer that fits the model."):
                training.enter_training()
                training.step(0, 1.0)

    def run(self, run: Run) -> Iterator[Epoch | RunResult]:
        """Yield each epoch as it is done, and the result last. An error inside the run gives a failed result."""
        for _, item in self._guarded((run,), self._single):
            yield item

    def run_batched(self, unit: tuple[Run, ...]) -> Iterator[tuple[Run, Epoch | RunResult]]:
        """Train several seeds of one arm as one batched model. An error fails those that have not finished."""
        return self._guarded(unit, self._batched)

    def _single(self, unit: tuple[Run, ...]) -> Iterator[tuple[Run, Epoch | RunResult]]:
        (run,) = unit
        training = self._training(run, self.resolved.fidelity(run)[0])
        for item in training.time_epoch() if run.phase == "time" else training.train():
            yield run, item

    def _batched(self, unit: tuple[Run, ...]) -> Iterator[tuple[Run, Epoch | RunResult]]:
        from sabun.poc.training.batched import BatchedTraining  # imports torch.fx, which takes a second

        training = BatchedTraining(self.resolved, self.task, unit, self.resolved.fidelity(unit[0])[0], self.graphs)
        yield from training.train()

    def _guarded(
        self,
        unit: tuple[Run, ...],
        train: Callable[[tuple[Run, ...]], Iterator[tuple[Run, Epoch | RunResult]]],
    ) -> Iterator[tuple[Run, Epoch | RunResult]]:
        """Yield what ``train`` yields, and after an error a failed result for every run that has none."""
        started = now()
        curves: Mapping[str, list[Epoch]] = {run.id: [] for run in unit}
        done: set[str] = set()
        try:
            for run, item in train(unit):
                if isinstance(item, Epoch):
                    curves[run.id].append(item)
                else:
                    done.add(run.id)
                yield run, item
        except (Exception, SystemExit) as error:  # noqa: BLE001  (an error of user code costs these runs alone)
            failure = describe(error)
            for run in unit:
                if run.id not in done:
                    yield (
                        run,
                        run.result(
                            "failed",
                            curves[run.id],
                            started=started,
                            ended=now(),
                            failure=failure,
                            batched_seeds=len(unit),
                        ),
                    )

    def _training(self, run: Run, epochs: int) -> SingleTraining:
        session = self.task.session(seeds_of(self.resolved.study, run))
        return SingleTraining(self.resolved, session, run, epochs)
