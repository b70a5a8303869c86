"""A task is added in one place: a class in a file, or in a module of an installed package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sabun.errors import StudyError
from sabun.poc import evidence as stored
from sabun.poc.resolved import resolve
from sabun.poc.study import default_study, run
from sabun.poc.tasks.loading import load

SOURCE = '''
import torch
from torch import nn


class Sine:
    """One period of a sine from eight random features."""

    batch_size = 8
    metric_name = "explained variance"

    def __init__(self, noise=0.1):
        self.noise = noise

    def data(self):
        x = torch.linspace(-1, 1, 96)[:, None]
        y = torch.sin(3.14159 * x) + self.noise * torch.randn(96, 1)
        order = torch.randperm(96)
        return {
            name: (x[order[part]], y[order[part]])
            for name, part in (("train", slice(0, 64)), ("validation", slice(64, 80)), ("test", slice(80, 96)))
        }

    def model(self):
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def metric(self, model, batch):
        return 1.0 - self.loss(model, batch) / batch[1].var()
'''


@pytest.fixture(params=["file", "module"])
def name(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the task, added to a temporary package by one file."""
    package = tmp_path / "one_place"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sine.py").write_text(SOURCE)
    if request.param == "file":
        return f"{package / 'sine.py'}:Sine"
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("one_place", "one_place.sine"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return "one_place.sine:Sine"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_new_task_runs_a_study_and_its_report(name: str, jobs: int, tmp_path: Path) -> None:
    from sabun.poc.descriptions import describe_arms
    from sabun.report import html
    from sabun.report.publish import judge

    study = default_study(
        task=name, task_options={"noise": 0.05}, candidates=["nesterov@adam"], epochs=2, trials=1, tuning_seeds=1,
        seeds=2,
    )  # fmt: skip
    out = tmp_path / "study"
    found = run(study, out, jobs=jobs)
    assert {result.status for result in found.runs} == {"finished"}
    assert found.environment["task_source"] == resolve(study).task_source
    report = judge(stored.read(out), describe=describe_arms)
    assert "nesterov@adam" in html.render(report)


def test_mistakes_in_its_name_are_explained(name: str) -> None:
    with pytest.raises(StudyError, match=r"unknown task in .*'Sin'.*Did you mean 'Sine'"):
        load(name.removesuffix("e"))
    with pytest.raises(StudyError, match=r"unknown option of task .*'nois'.*Did you mean 'noise'"):
        load(name, {"nois": 1})
    with pytest.raises(StudyError, match=r"no module 'no_such_package'.*package.module:Task"):
        load("no_such_package.tasks:Sine")
