"""What is wrong with a task is found by a few short runs, and a good task raises no alarm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sabun.poc.check import check
from sabun.poc.spec import Run
from sabun.poc.study import default_study

from .helpers import tiny_study

PLAIN = Path(__file__).parent / "scripts" / "plain.py"


def test_good_tasks_give_no_finding_with_one_run_an_arm_and_three_more() -> None:
    runs: list[Run] = []
    assert check(tiny_study("torch.optim:AdamW", "nesterov@adam"), on_run=runs.append) == []
    assert len(runs) == 3 + 3
    assert check(tiny_study("torch.optim:AdamW", task_name="Dropout")) == []
    assert check(default_study(epochs=10)) == []


@pytest.mark.parametrize(
    ("task_name", "codes"),
    [
        ("Unrepeatable", {"not-paired", "not-deterministic"}),
        ("Deaf", {"seed-ignored"}),
        ("Raises", {"fails"}),
    ],
)
def test_bad_tasks_are_found_out(task_name: str, codes: set[str]) -> None:
    found = check(tiny_study("torch.optim:AdamW", task_name=task_name))
    assert {finding.code for finding in found} == codes
    assert all(finding.detail for finding in found)


def test_a_script() -> None:
    study = default_study(
        task=f"script:{sys.executable} {PLAIN} --epochs 1", baseline="script", candidates=["torch.optim:AdamW"]
    )
    assert check(study) == []
