"""A study's text is resolved once per process: every notation is read once, the task is loaded once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sabun.optim import notation
from sabun.poc.executors.in_process import InProcess
from sabun.poc.resolved import ResolvedStudy, resolve
from sabun.poc.study import run
from sabun.poc.tasks import loading

from .helpers import SGD, tiny_study


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a notation was parsed and a task constructed in this process."""
    calls: Counter[str] = Counter()
    parse, construct = notation.parse, loading._construct

    def counting_parse(text: str) -> notation.Notation:
        calls[text] += 1
        return parse(text)

    def counting_construct(*arguments: object) -> object:
        calls["task"] += 1
        return construct(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(notation, "parse", counting_parse)
    monkeypatch.setattr(loading, "_construct", counting_construct)
    return calls


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("batch_seeds", [False, True])
def test_every_arm_is_parsed_once_and_the_task_is_loaded_once(
    jobs: int, batch_seeds: bool, counted: Counter[str], tmp_path: Path
) -> None:
    study = tiny_study("nesterov@adam", "torch.optim:AdamW", task_name="Batchable", trials=2, batch_seeds=batch_seeds)
    run(study, tmp_path, jobs=jobs)
    assert counted == {SGD: 1, "nesterov@adam": 1, "torch.optim:AdamW": 1, "task": 1}


def test_a_resolved_study_is_not_resolved_again(counted: Counter[str], tmp_path: Path) -> None:
    resolved = resolve(tiny_study("euler", trials=0, seeds=1))
    assert counted == {SGD: 1, "euler": 1, "task": 1}
    assert resolve(resolved) is resolved
    run(resolved, tmp_path)
    assert counted == {SGD: 1, "euler": 1, "task": 1}


def test_a_resolved_study_has_arms_spaces_schedules_and_packages() -> None:
    resolved = resolve(tiny_study("schedulefree:AdamWScheduleFree", "look-ahead"))
    assert list(resolved.arms) == [SGD, "schedulefree:AdamWScheduleFree", "look-ahead"]
    assert resolved.baseline is resolved.arms[SGD]
    assert {name: arm.schedule for name, arm in resolved.arms.items()} == {
        SGD: "linear", "schedulefree:AdamWScheduleFree": "constant", "look-ahead": "linear",
    }  # fmt: skip
    assert all(list(space) == ["lr"] for space in resolved.spaces.values())
    assert resolved.packages == {"torch", "schedulefree"}


def test_workers_resolve_the_text_of_the_study(counted: Counter[str], tmp_path: Path) -> None:
    """An executor is given the resolved value; only other processes read the text again."""

    class Recording(InProcess):
        def begin(self, resolved: ResolvedStudy, logs: Path):  # type: ignore[no-untyped-def]
            assert isinstance(resolved, ResolvedStudy)
            return super().begin(resolved, logs)

    run(tiny_study("euler", trials=0, seeds=1), tmp_path, executor=Recording())
    assert counted["euler"] == counted["task"] == 1
