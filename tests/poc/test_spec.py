"""The specification is frozen, hashed over every field, and explains what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sabun.errors import StudyError
from sabun.poc.seeds import derive_seed
from sabun.poc.spec import LogUniform, Run, Study


def fields(**changes: object) -> dict[str, object]:
    whole: dict[str, object] = {
        "name": "trial",
        "task": "digits",
        "baseline": {"name": "today", "optimizer": "torch.optim:SGD"},
        "candidates": [{"name": "euler", "optimizer": "euler"}],
    }
    return {**whole, **changes}


def test_the_hash_covers_every_field_and_nothing_else() -> None:
    study = Study.build(fields())
    assert Study.build(json.loads(study.model_dump_json())).hash == study.hash
    changes = [
        {"name": "other"},
        {"task": "digits-cnn"},
        {"task_options": {"width": 8}},
        {"baseline": {"name": "today", "optimizer": "torch.optim:SGD", "options": {"momentum": 0.9}}},
        {"candidates": [{"name": "euler", "optimizer": "nesterov"}]},
        {"budget": {"epochs": 3}},
        {"thresholds": {"margin": 0.02}},
        {"seed": 1},
        {"note": "why"},
    ]
    hashes = {study.hash, *(Study.build(fields(**change)).hash for change in changes)}
    assert len(hashes) == len(changes) + 1


def test_a_study_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Study.build(fields()).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"baselin": {}}, "Did you mean 'baseline'"),
        ({"budget": {"sedes": 3}}, "Did you mean 'seeds'"),
        ({"thresholds": {"magin": 0.1}}, "Did you mean 'margin'"),
        ({"candidates": [{"name": "a", "optimizer": "euler", "optoins": {}}]}, "Did you mean 'options'"),
        ({"candidates": []}, "candidates"),
        ({"candidates": [{"name": "today", "optimizer": "euler"}]}, "two arms are called 'today'"),
        ({"budget": {"seeds": 0}}, r"budget\.seeds"),
        ({"seed": -1}, "seed"),
        (
            {"baseline": {"name": "a", "optimizer": "euler", "options": {"lr": float("nan")}}},
            r"baseline\.options\.lr must be a finite number",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(change: dict[str, object], says: str) -> None:
    with pytest.raises(StudyError, match=says):
        Study.build(fields(**change))


def test_a_file_that_is_missing_or_malformed_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"cannot read .*none\.toml"):
        Study.load(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    for text in ("name = \n", f"seed = {'9' * 5000}", "a = " + "[" * 20_000):
        bad.write_text(text, encoding="utf-8")
        with pytest.raises(StudyError, match="not valid TOML"):
            Study.load(bad)
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(StudyError, match="is not encoded as UTF-8"):
        Study.load(bad)


def test_an_unknown_arm_is_named_with_the_nearest() -> None:
    study = Study.build(fields())
    assert study.arm("euler").optimizer == "euler"
    with pytest.raises(StudyError, match="Did you mean 'euler'"):
        study.arm("eulr")


@given(center=st.floats(1e-6, 1e3), decades=st.floats(0.1, 8))
def test_a_space_has_its_width_around_its_centre(center: float, decades: float) -> None:
    space = LogUniform(center=center, decades=decades)
    assert space.high / space.low == pytest.approx(10**decades)
    assert (space.high * space.low) ** 0.5 == pytest.approx(center)


def test_seeds_come_from_names_and_do_not_collide() -> None:
    seeds = {derive_seed(root, part, i) for root in range(4) for part in ("init", "batches") for i in range(500)}
    assert len(seeds) == 4000
    assert derive_seed(0, "init", 3) == derive_seed(0, "init", 3)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_run_is_named_by_all_of_its_fields() -> None:
    run = Run(arm="a", seed=1, phase="tune", trial=0, hyperparameters={"lr": 0.1})
    others = [
        run.model_copy(update=change)
        for change in ({"arm": "b"}, {"seed": 2}, {"phase": "evaluate"}, {"trial": 1}, {"hyperparameters": {"lr": 0.2}})
    ]
    assert len({run.id, *(other.id for other in others)}) == 6
