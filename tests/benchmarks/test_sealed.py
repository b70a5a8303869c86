"""Records of benchmarks: a change of one is found, or changes nothing that is read."""

from __future__ import annotations

from pathlib import Path

import lab
import pytest

import sealed
import suite
from sabun.errors import StoreError

from ..damage import attempt, damaged

ROWS = [
    {"task": "noise", "arm": "euler", "lr": 0.1, "seed": seed, "status": "finished", "loss": [2.0, 0.5 + seed]}
    for seed in range(5)
]
ARM = {"lr": 0.1, "chosen": {"betas": [0.9, 0.99]}, "schedule": "linear", "at_edge": False, "step_s": 0.1,
       "trials": [[0.1, 0.5, 0.01]], "runs": [[0, [0, 4], [2.0, "inf"], False]], "tolerance": None}  # fmt: skip
TASK = {"family": "physics", "part": "check", "judged": "training", "arms": {"a": ARM, "b": ARM}}
RECORDS = {"schema": 2, "profile": "quick", "quiet": True, "torch": "2", "tasks": {"poisson": TASK}}


def test_the_records_of_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "quick.json"
    whole = sealed.dumps(RECORDS, indent=0).encode()
    path.write_bytes(whole)
    expected = repr(suite.load(path))

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found, error = attempt(lambda: repr(suite.load(path)), StoreError)
        assert found == expected if error is None else str(path) in error.cause

    damaged(whole, sealed.dumps({**RECORDS, "quiet": False}, indent=0).encode(), check)
    for content in (b"", b"[]", b"\xff", b"[" * 100_000, b'{"hash": []}'):
        check(content)


def test_lines_of_runs(tmp_path: Path) -> None:
    """A changed line is named. A last one that a kill has torn is left out, and run again as one that is missing."""
    path, other = tmp_path / "runs.jsonl", tmp_path / "other.jsonl"
    sealed.write_lines(path, ROWS)
    sealed.write_lines(other, [{**row, "arm": "rk4"} for row in ROWS])
    expected, foreign = lab.read(path), lab.read(other)
    assert len(expected) == 5

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found, error = attempt(lambda: lab.read(path), StoreError)
        assert error is None or f"{path}, line " in error.cause
        for key, row in (found or {}).items():
            assert row == (expected if key in expected else foreign)[key]

    damaged(path.read_bytes(), other.read_bytes(), check)


def test_a_line_is_appended_in_the_place_of_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.jsonl"
    for row in ROWS[:2]:
        sealed.append(path, row)
    path.write_bytes(path.read_bytes()[:-9])
    assert sealed.read_lines(path) == ROWS[:1]
    sealed.append(path, ROWS[2])
    assert sealed.read_lines(path) == [ROWS[0], ROWS[2]]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"a": NaN}', b"\xff", b'{"poisson": {"AdamW": 5.0}}'])
def test_the_plan_of_seconds_is_measured_anew_where_it_is_damaged(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "WORK", tmp_path)
    monkeypatch.setattr(suite, "clock", lambda task, settings, **options: dict.fromkeys(settings, 2.0))
    profile = suite.PROFILES["quick"]
    file = tmp_path / "quick" / "plan.json"
    file.parent.mkdir()
    file.write_bytes(content)
    runs = profile.sizing.steps(suite.TASKS["poisson"].steps) + suite.POINTS
    assert suite.seconds_per_run(profile, ["poisson"], ["AdamW"]) == {"poisson": {"AdamW": 2.0 * runs}}
    assert sealed.read(file) == {"poisson": {"AdamW": 2.0 * runs}}
    monkeypatch.setattr(suite, "clock", lambda *arguments, **options: pytest.fail("was measured again"))
    suite.seconds_per_run(profile, ["poisson"], ["AdamW"])
