"""A guarded training that is killed and resumed does what the undisturbed one does."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sabun.rollout.guard.guard import Guard
from sabun.rollout.guard.loss_monitor import LossMonitor

EVERY = 10


class Job:
    """A regression whose batches, and faults, are determined by the number of the step."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        torch.manual_seed(0)
        self.scenario = scenario
        self.model = nn.Linear(8, 1)
        self.given = torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.5)
        options = {"every": EVERY, "disk_share": 1.0, "champion": champion, "recover_after": 60, **scenario.options}
        if "monitor" in options:
            options["monitor"] = options["monitor"]()
        self.guard = Guard(self.model, self.given, folder=folder, **options)

    def run(self, start: int, stop: int) -> None:
        for step in range(start, stop):
            told = self.scenario.fault(self, step)
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(32, 8, generator=generator)
            loss = (self.model(x) - x.sum(1, keepdim=True) - torch.randn(32, 1, generator=generator)).square().mean()
            self.given.zero_grad()
            loss.backward()
            self.guard.step(loss if told is None else told)

    def outcome(self) -> tuple[list[Tensor], dict[str, Any], dict[int, float]]:
        kept = self.guard.optimizer.state_dict()["state"]
        tensors = [one for state in kept.values() for one in state.values() if isinstance(one, Tensor)]
        state = self.guard.state_dict()
        return [*self.model.parameters(), *tensors], state, self.guard._snapshots.levels()


def champion(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.01, momentum=0.9)


class Scenario:
    """What goes wrong, by step: ``fault`` may change the job, and return another loss than its own."""

    def __init__(
        self,
        steps: int,
        fault: Callable[[Job, int], float | None],
        expected: set[str],
        kills: Sequence[int],
        **options: Any,
    ) -> None:
        self.steps, self.fault, self.expected, self.kills, self.options = steps, fault, expected, kills, options


def not_finite(*steps: int) -> Callable[[Job, int], float | None]:
    return lambda job, step: math.nan if step in steps else None


def losses(told: Sequence[tuple[range, float]]) -> Callable[[Job, int], float | None]:
    return lambda job, step: next((loss for steps, loss in told if step in steps), None)


@torch.no_grad()
def growing(job: Job, step: int) -> None:
    if 100 <= step < 260 and job.guard._comparison is None and job.guard.scale == 1.0:
        job.model.weight.fill_(1 + ((step - 100) / 70) ** 2)


@torch.no_grad()
def spoiled(job: Job, step: int) -> None:
    if step == 33:  # so early that the newest state is good
        job.model.weight.fill_(1e4)


def phases(job: Job, step: int) -> None:
    if step == 44:
        job.guard.new_phase()
    job.given.param_groups[0]["lr"] = 0.12 if 62 <= step < 80 else 0.02


SCENARIOS = {
    "a drift": Scenario(
        270, growing, {"rolled-back"}, (184, 200, 216, 232), monitor=partial(LossMonitor, window=16, persistence=32)
    ),
    "three bad batches before a state is kept": Scenario(
        90, not_finite(37, 38, 39, 51, 52, 53, 54, 55, 72, 73, 74, 75, 76), {"skipped"}, (41, 74)
    ),
    "a roll-back just before a state is kept": Scenario(
        80, not_finite(36, 37, 38, 39, 41, 42), {"rolled-back"}, (35, 40, 43)
    ),
    "the newest state fails too": Scenario(
        90, not_finite(*range(42, 50), 51), {"rolled-back", "skipped"}, (41, 47, 52)
    ),
    "a fall-back, and the champion": Scenario(
        110,
        not_finite(*range(42, 46), *range(70, 74), *range(90, 94)),
        {"rolled-back", "fell-back"},
        (50, 74, 95),
        max_rollbacks=2,
    ),
    "shortened, recovered": Scenario(120, not_finite(*range(42, 46)), {"rolled-back", "recovered"}, (44, 100)),
    "a phase and a higher rate": Scenario(100, phases, {"new-phase"}, (51, 65)),
    "a weight that breaks": Scenario(90, spoiled, {"rolled-back"}, (32, 36, 40)),
    "a level of the data": Scenario(320, losses([(range(160, 320), 6.0)]), {"new-phase"}, (170, 295, 310)),
}


@pytest.mark.filterwarnings("ignore:the losses rose")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_killed_training_does_what_the_undisturbed_one_does(name: str, tmp_path: Path) -> None:
    """Killed after each of some steps, and at the next write between the new file and the removal of an old one."""
    scenario, place = SCENARIOS[name], tmp_path / "whole"
    whole = Job(place, scenario)
    killed: list[Path] = []
    for step in range(scenario.steps):
        whole.run(step, step + 1)
        if step in scenario.kills:
            killed.append(shutil.copytree(place, tmp_path / f"after-{step}"))
        elif killed and {path.name for path in killed[-1].iterdir()} != {path.name for path in place.iterdir()}:
            last = killed[-1]
            if last.name.startswith("after"):
                killed.append(shutil.copytree(last, tmp_path / f"within-{step}"))
                shutil.copytree(place, killed[-1], dirs_exist_ok=True)
    events = [(event.removeprefix("guard."), data["step"]) for event, data in whole.guard.events]
    assert scenario.expected <= {event for event, _ in events}
    tensors, *state = whole.outcome()
    for folder in killed:
        again = Job(folder, scenario)
        begun = again.guard.resume()
        again.run(begun, scenario.steps)
        seen = [(event.removeprefix("guard."), data["step"]) for event, data in again.guard.events]
        assert seen[1:] == [one for one in events if one[1] >= begun and one[0] != "started"], folder.name
        made, *found = again.outcome()
        assert found == state, folder.name
        assert len(made) == len(tensors)
        assert all(map(torch.equal, made, tensors)), folder.name
