"""What is wrong with a task is found by a few short runs, and a good task raises no alarm."""

from __future__ import annotations

from pathlib import Path

import pytest

from sabun.poc.check import check
from sabun.poc.spec import Run
from sabun.poc.study import default_study, run

from .helpers import tiny_study

PLAIN = Path(__file__).parent / "scripts" / "plain.py"


def test_good_tasks_give_no_finding_with_one_run_an_arm_and_three_more() -> None:
    runs: list[Run] = []
    assert check(tiny_study("torch.optim:AdamW", "nesterov@adam"), on_run=runs.append).findings == []
    assert len(runs) == 3 + 3
    assert check(tiny_study("torch.optim:AdamW", task_name="Dropout")).findings == []
    assert check(default_study(epochs=10)).findings == []


def test_the_cost_of_the_study_is_foretold(tmp_path: Path) -> None:
    study = tiny_study("torch.optim:AdamW", task_name="Tiny", epochs=2).model_copy(
        update={"task_options": {"sleep": 0.0005}}
    )  # 16 steps an epoch of half a millisecond each
    checked = check(study)
    assert set(checked.epoch_s) == {arm.name for arm in study.arms}
    evidence = run(study, tmp_path)
    assert checked.runs == len(evidence.runs)
    spent = sum(epoch.train_s + epoch.eval_s for result in evidence.runs for epoch in result.epochs)
    assert checked.seconds is not None
    assert spent >= checked.runs * 2 * 16 * 0.0005  # what the task sleeps
    assert checked.seconds >= checked.runs * 2 * 16 * 0.0005


@pytest.mark.parametrize(
    ("task_name", "codes"),
    [
        ("Unrepeatable", {"not-paired", "not-deterministic"}),
        ("Deaf", {"seed-ignored"}),
        ("Raises", {"fails"}),
    ],
)
def test_bad_tasks_are_found_out(task_name: str, codes: set[str]) -> None:
    found = check(tiny_study("torch.optim:AdamW", task_name=task_name)).findings
    assert {finding.code for finding in found} == codes
    assert all(finding.detail for finding in found)


def test_a_script_runs_to_its_end_or_is_stopped_and_says_what_it_ignores(
    python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = default_study(task=f"script:{python} {PLAIN}", baseline="script", candidates=["torch.optim:AdamW"])
    checked = check(study)
    assert checked.findings == []
    assert checked.seconds is not None  # it has its own number of epochs, which was seen
    assert checked.seen is not None
    assert checked.seen.whole
    assert "end" not in checked.unverified
    monkeypatch.setattr("sabun.poc.check.PATIENCE", 0.0)
    checked = check(study)
    assert checked.findings == []
    assert checked.seconds is None
    assert checked.seen is not None
    assert (checked.seen.epochs, checked.seen.whole) == (1, False)
    assert checked.unverified["end"] == "1"
    assert set(checked.epoch_s) == {"script", "torch.optim:AdamW"}
    deaf = default_study(
        task=f"script:{python} {PLAIN} --mode deaf --epochs {{epochs}}",
        baseline="script",
        candidates=["torch.optim:AdamW"],
    )
    checked = check(deaf)
    assert [finding.code for finding in checked.findings] == ["seed-ignored"]
    assert checked.seconds is not None


def test_a_script_whose_first_run_fails_is_not_run_again(python: str) -> None:
    runs: list[Run] = []
    study = default_study(task=f"script:{python} {PLAIN} --mode no-log", baseline="script", candidates=["adamw"])
    (finding,) = check(study, on_run=runs.append).findings
    assert (finding.code, finding.arm) == ("fails", "script")
    assert "never called sabun.log" in finding.detail
    assert len(runs) == 1
