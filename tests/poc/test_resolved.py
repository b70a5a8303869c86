"""A study's text is resolved once per process: every notation is read once, the task is loaded once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sabun.optim import notation
from sabun.poc.resolved import resolve
from sabun.poc.study import default_study, run
from sabun.poc.tasks import loading

from .helpers import SGD, TINY, tiny_study


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


@pytest.mark.parametrize("thread", [False, True])
def test_every_process_constructs_the_task_once(thread: bool, tmp_path: Path) -> None:
    """Workers are forks of a server that has loaded the task, or fresh processes where the task has threads."""
    constructed = tmp_path / "constructed"
    (tmp_path / "own.py").write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(TINY.parent)!r})\n"
        "import tiny\n"
        "class Own(tiny.Dies):\n"
        "    def __init__(self, thread=False):\n"
        "        super().__init__('never', thread=thread)\n"
        f"        open({str(constructed)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
    )
    study = default_study(
        task=f"{tmp_path / 'own.py'}:Own", task_options={"thread": thread}, baseline=SGD, candidates=["euler"],
        epochs=1, trials=2, tuning_seeds=2, seeds=2,
    )  # fmt: skip
    run(study, tmp_path / "out", jobs=2)
    processes = constructed.read_text().split()
    assert len(processes) == len(set(processes))
    assert len(processes) == (4 if thread else 2)  # this process, the fork server, and workers that are not forks
