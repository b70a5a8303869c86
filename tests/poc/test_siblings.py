"""A study that is repeated with other seeds until it says go: the repetitions know one another and share one error."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sabun.poc.evidence import log_verdicts, read, verify
from sabun.poc.evidence.study_writer import StudyWriter
from sabun.poc.judgement import calibrate as cal
from sabun.poc.judgement import simulation as sim
from sabun.poc.judgement import statistics as s
from sabun.poc.judgement.assess import assess
from sabun.poc.judgement.assessment import EarlierStudy
from sabun.poc.spec import Study, Thresholds

from .evidence import runs_of, study
from .helpers import tiny_study

HERE = {"machine": {"cpu": "a"}, "torch": "2"}


def begin(place: Path, spec: Study, verdict: str = "") -> Path:
    with StudyWriter.start(place, spec, HERE):
        pass
    if verdict:
        log_verdicts(read(place), {arm.name: verdict for arm in spec.candidates})
    return place


def said(*decisions: str) -> list[EarlierStudy]:
    return [EarlierStudy(f"study-{i}", f"{i:064}", 10, {"b": decision}) for i, decision in enumerate(decisions)]


# --------------------------------------------------------------------------------------------------- Must show: counted


def test_the_third_study_of_the_same_arms_knows_the_other_two(tmp_path: Path) -> None:
    begin(tmp_path / "a", tiny_study(seeds=8, seed=1), "undecided")
    begin(tmp_path / "b", tiny_study(seeds=6, seed=2), "go")
    third = begin(tmp_path / "c", tiny_study(seeds=8, seed=3))
    assert [(e.place, e.seeds, set(e.verdicts.values())) for e in read(third).earlier] == [
        ("a", 8, {"undecided"}),
        ("b", 6, {"go"}),
    ]
    assert read(tmp_path / "a").earlier == ()
    assert [e.place for e in read(tmp_path / "b").earlier] == ["a"]
    before = (third / "study.json").read_bytes()
    begin(third, tiny_study(seeds=8, seed=3))
    assert (third / "study.json").read_bytes() == before, "a study that is resumed counts nothing again"


def test_an_earlier_study_in_a_directory_whose_name_is_no_unicode_counts(tmp_path: Path) -> None:
    try:
        begin(tmp_path / os.fsdecode(b"first-\xff"), tiny_study(seeds=8, seed=1), "undecided")
    except OSError:
        pytest.skip("the file system takes no such names")
    second = begin(tmp_path / "second", tiny_study(seeds=8, seed=2))
    assert [e.place for e in read(second).earlier] == ["first-\udcff"]
    (second / "study.json").read_bytes().decode()
    assert verify(second).ok


def test_only_studies_that_could_have_said_go_about_the_same_arms_count(tmp_path: Path) -> None:
    own = tiny_study(seeds=8, seed=3)
    others: dict[str, dict[str, Any]] = {
        "pilot": {"seeds": 5, "seed": 1},  # five pairs can decide nothing, so they spend no error
        "same": {"seeds": 8, "seed": 3},  # the same study again: the same seeds
        "task": {"seeds": 8, "task_name": "Other"},
    }
    for name, options in others.items():
        begin(tmp_path / name, tiny_study(**options))
    begin(tmp_path / "arm", tiny_study("adamw", seeds=8))
    begin(tmp_path / "elsewhere" / "x", tiny_study(seeds=8, seed=9))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "x")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "study.json").write_text("{")
    assert read(begin(tmp_path / "own", own)).earlier == ()
    candidates = tuple(arm.model_copy(update={"name": f"x{i}"}) for i, arm in enumerate(own.candidates))
    renamed = own.model_copy(update={"seed": 4, "candidates": candidates})
    # One shared candidate is enough, whatever it is called and however many others there are.
    assert {e.place for e in read(begin(tmp_path / "renamed", renamed)).earlier} == {"own", "same"}
    wider = tiny_study("torch.optim:SGD", "adamw", seeds=8, seed=7)
    assert {e.place for e in read(begin(tmp_path / "wider", wider)).earlier} == {"arm", "own", "same", "renamed"}


def test_another_spelling_of_the_task_or_of_an_arm_is_the_same_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = tiny_study("look-ahead(0.9, 2)@adam", seeds=8, seed=1)
    file, _, kind = named.task.rpartition(":")
    link = tmp_path / "link.py"
    link.symlink_to(file)
    own = begin(tmp_path / "studies" / "own", named)
    spellings = {os.path.relpath(file), f"./{os.path.relpath(file)}", str(link), "link.py"}
    for seed, spelling in enumerate(sorted(spellings), 2):
        (arm,) = named.candidates
        arm = arm.model_copy(update={"optimizer": "look-ahead(0.9,2) @ adam"})
        again = named.model_copy(update={"task": f"{spelling}:{kind}", "seed": seed, "candidates": (arm,)})
        path = begin(own.parent / str(seed), again)
        assert len(read(path).earlier) == seed - 1, spelling
    command = tiny_study(seeds=8).model_copy(update={"task": "script:python  train.py --epochs 3"})
    same = command.model_copy(update={"task": f"script:python {tmp_path / 'train.py'} --epochs 3"})
    other = command.model_copy(update={"task": "script:python other.py --epochs 3"})
    assert command.comparisons == same.comparisons
    assert command.comparisons.isdisjoint(other.comparisons)


def test_nothing_is_written_beside_the_study(tmp_path: Path) -> None:
    first = begin(tmp_path / "a", tiny_study(seeds=8, seed=1), "go")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in first.iterdir()}
    begin(tmp_path / "b", tiny_study(seeds=8, seed=2))
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in first.iterdir()} == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"a", "b"}


def test_what_was_counted_is_part_of_the_evidence(tmp_path: Path) -> None:
    begin(tmp_path / "a", tiny_study(seeds=8, seed=1), "go")
    second = begin(tmp_path / "b", tiny_study(seeds=8, seed=2))
    file = second / "study.json"
    whole = file.read_bytes()
    raw = json.loads(whole)
    for change in (
        [],
        [raw["earlier"][0] | {"place": "z"}],
        [raw["earlier"][0] | {"verdicts": {}}],
        raw["earlier"] * 2,
    ):
        file.write_text(json.dumps(raw | {"earlier": change}))
        assert not verify(second).ok
    file.write_bytes(whole)
    assert verify(second).ok


# ------------------------------------------------------------------------------------------------- Must show: corrected


@pytest.mark.parametrize(("earlier", "decision"), [(0, "go"), (3, "go"), (4, "go"), (5, "undecided"), (8, "undecided")])
def test_each_earlier_study_halves_the_error(earlier: int, decision: str) -> None:
    # p = 2/1024 = 0.00195, and 0.05/2⁴ = 0.0031, 0.05/2⁵ = 0.0016.
    base = [1.0 + 0.001 * i for i in range(10)]
    rows = [base, [x - 0.1 - 0.002 * (i % 3) for i, x in enumerate(base)]]
    found = assess(study(1), runs_of(rows), {}, said(*["undecided"] * earlier))
    verdict = found.verdicts[0]
    row = next(c for c in found.comparisons if c.kpi == "final_loss")
    assert row.p_value == pytest.approx(2 / 1024)
    if earlier < 5:
        assert row.level == pytest.approx(1 - 0.05 / 2**earlier)
        # The interval is that of the corrected test.
        assert (row.high is not None and row.high < 0) == (0.05 / 2**earlier >= 2 / 1024)
    codes = [reason.code for reason in verdict.reasons]
    assert ("k1_tries" in codes) == (earlier > 0)
    assert (codes[0] == "k1_no_error_left") == (earlier >= 7)
    if earlier == 5:
        assert verdict.reasons[0].values == {"n": 10, "needed": 11}
    if decision == "undecided":
        assert verdict.decision == "undecided"
    else:
        assert codes[0] == "k1_better"


def test_the_report_says_which_study_it_is(tmp_path: Path) -> None:
    rows = [[1.0 + 0.001 * i for i in range(10)], [1.02 + 0.004 * (i % 5 - 2) for i in range(10)]]
    remark = next(
        reason
        for reason in assess(study(1), runs_of(rows), {}, said("undecided", "go")).verdicts[0].reasons
        if reason.code == "k1_tries"
    )
    assert remark.values == {
        "tries": 3, "earlier": 2, "goes": 1, "error": pytest.approx(0.0125), "total": pytest.approx(0.05)
    }  # fmt: skip
    assert remark.mark == "open"


def test_five_tries_say_go_as_seldom_as_is_promised_for_one() -> None:
    """A/A studies, each repeated with other seeds up to five times: today 10%, and at most 5% with the error shared."""
    series, rng = 2000, np.random.default_rng(14)
    go_shared, go_alone = np.zeros(series, bool), np.zeros(series, bool)
    for k in range(5):
        drawn = sim.simulate(rng, sim.SCENARIOS["normal"], studies=series, seeds=10)
        go_alone |= cal.judge_arrays(drawn, Thresholds(margin=0.0), 0.05).go[:, 0]
        go_shared |= cal.judge_arrays(drawn, Thresholds(margin=0.0), s.error_of_study(0.05, k)).go[:, 0]
    assert cal.clopper_pearson(int(go_alone.sum()), series)[0] > 0.05, "the repetitions are worth correcting for"
    assert cal.clopper_pearson(int(go_shared.sum()), series)[1] <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / series)
    assert go_shared.mean() <= 0.05


def test_the_errors_of_any_number_of_studies_add_up_to_at_most_the_promise() -> None:
    assert sum(s.error_of_study(0.05, k) / 2 for k in range(60)) <= 0.05
    assert s.error_of_study(0.05, 0) == 0.05
