"""A gate opens to a finished, recent, sufficient study of the same two optimizers, and to nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sabun import audit
from sabun.errors import MissingExtraError, RolloutError
from sabun.rollout.gate import examine
from sabun.rollout.proposal import propose
from sabun.rollout.rollout_plan import Gate, RolloutPlan, Side
from sabun.rollout.sides import check_sides

WriteStudy = Callable[..., Path]


def problems(folder: Path, plan: RolloutPlan, **gate: object) -> tuple[str, ...]:
    return examine(Gate("study", **gate), plan, folder).problems  # type: ignore[arg-type]


def test_a_clear_gain_opens_the_gate(tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy) -> None:
    write_study(tmp_path / "study")
    finding = examine(Gate("study"), plan, tmp_path)
    assert finding.passed
    assert finding.problems == ()
    held = json.loads((tmp_path / "study" / "study.json").read_text())
    assert finding.facts["study_hash"] == held["hash"]
    assert finding.facts["arm"] == "new"
    assert finding.facts["audit_head"] == audit.read(tmp_path / "study" / "audit.jsonl")[-1].hash
    json.dumps(finding.to_json(), allow_nan=False)


def test_records_cut_off_at_the_end_close_the_gate(tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy) -> None:
    records = write_study(tmp_path / "study", seeds=12) / "records.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:-2]))
    (problem,) = problems(tmp_path, plan)
    assert "lines were cut off" in problem


@pytest.mark.parametrize(
    ("study", "gate", "said"),
    [
        ({"gain": -0.2}, {}, "is 'no-go'"),
        ({"gain": -0.2}, {"verdict": "undecided"}, "is 'no-go'"),
        ({"gain": 0.0}, {}, "is 'undecided'"),
        (
            {"gain": 0.005, "noise": 0.001},
            {},
            "is 'small'. The improvement is real, and smaller than the study's margin",
        ),
        ({"gain": 0.005, "noise": 0.001}, {"verdict": "undecided"}, "is 'small'"),
        ({"trials": 0}, {}, "is 'promising'. Run a study with tuning"),
        ({"seeds": 5}, {}, "asks for 10 paired seeds, the study has 5"),
        ({"done": 9}, {"min_seeds": 5}, "not finished: 9 of 10"),
        ({"done": 0}, {}, "has no age"),
        ({"age_days": 31}, {}, "31.0 days ago; the gate allows at most 30"),
        ({"age_days": -3}, {}, "in the future"),
        ({}, {"study_hash": "f" * 64}, "asks for study ffffffffffff"),
        ({"candidate": "torch.optim:Adam"}, {}, "does not test this challenger"),
    ],
)
def test_what_keeps_it_closed(
    tmp_path: Path,
    plan: RolloutPlan,
    write_study: WriteStudy,
    study: dict[str, object],
    gate: dict[str, object],
    said: str,
) -> None:
    write_study(tmp_path / "study", **study)
    finding = examine(Gate("study", **gate), plan, tmp_path)  # type: ignore[arg-type]
    assert not finding.passed
    assert any(said in problem for problem in finding.problems), finding.problems


@pytest.mark.parametrize(
    ("study", "gate", "said"),
    [
        ({"done": 10}, {}, None),
        ({"done": 10}, {"min_seeds": 11}, "asks for 11 paired seeds, the study has 10"),
        ({"done": 10, "gain": -0.2}, {}, "is 'no-go'"),
        ({"done": 11}, {}, "not finished: 11 of 14"),  # between two looks
        ({"done": 10, "gain": 0.0}, {"verdict": "undecided"}, "not finished: 10 of 14"),  # the look decided nothing
    ],
)
def test_a_sequential_study_is_finished_at_the_look_that_decides(
    tmp_path: Path,
    plan: RolloutPlan,
    write_study: WriteStudy,
    study: dict[str, object],
    gate: dict[str, object],
    said: str | None,
) -> None:
    write_study(tmp_path / "study", seeds=14, looks=(10,), **study)
    found = problems(tmp_path, plan, **{"min_seeds": 10, **gate})
    assert found == () if said is None else any(said in problem for problem in found), found


def test_a_study_without_tuning_opens_the_gate_of_a_pilot(
    tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy
) -> None:
    write_study(tmp_path / "study", trials=0)
    assert problems(tmp_path, plan, verdict="promising") == ()


def test_an_undecided_study_opens_a_gate_that_asks_for_no_more(
    tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy
) -> None:
    write_study(tmp_path / "study", gain=0.0)
    assert problems(tmp_path, plan, verdict="undecided") == ()


def test_another_champion_is_another_comparison(tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy) -> None:
    write_study(tmp_path / "study")
    other = replace(plan, champion=Side("torch.optim:Adam"))
    assert "does not test this champion" in problems(tmp_path, other)[0]
    spaced = replace(plan, champion=Side(" torch.optim : AdamW"), challenger=replace(plan.challenger, arm="new"))
    assert problems(tmp_path, spaced) == ()
    named = replace(plan, challenger=replace(plan.challenger, arm="newer"))
    assert "'newer'" in problems(tmp_path, named)[0]


def test_edited_records_and_edited_specifications_keep_it_closed(
    tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy
) -> None:
    study = write_study(tmp_path / "study", gain=0.0)
    records = study / "records.jsonl"
    text = records.read_text()
    lines = text.splitlines(keepends=True)
    forged = [line.replace('"val_loss":1.0', '"val_loss":0.5') for line in lines[:10]] + lines[10:]
    assert forged != lines
    records.write_text("".join(forged))
    assert "its hash does not match its content" in problems(tmp_path, plan)[0]
    records.write_text(text)
    spec = study / "study.json"
    spec.write_text(spec.read_text().replace('"margin": 0.01', '"margin": 0.5'))
    assert "was changed after the study began" in problems(tmp_path, plan)[0]


def test_a_plan_proposed_from_a_study(tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy) -> None:
    study = write_study(tmp_path / "studies" / "first")
    proposed = propose(study, tmp_path)
    assert (proposed.champion.optimizer, proposed.champion.arm) == (plan.champion.optimizer, "today")
    assert (proposed.challenger.optimizer, proposed.challenger.arm) == (plan.challenger.optimizer, "new")
    assert [stage.share for stage in proposed.stages] == [0.0, 0.05, 0.25, 1.0]
    gates = [stage.gate.study for stage in proposed.stages if stage.gate]
    assert gates == ["studies/first", "studies/pilot", "studies/canary"]
    assert examine(proposed.stages[1].gate, proposed, tmp_path).passed
    with pytest.raises(RolloutError, match="Did you mean 'new'"):
        propose(study, tmp_path, candidate="neww")


def test_a_plan_from_a_study_without_tuning_has_the_steps_that_the_study_took(
    tmp_path: Path, write_study: WriteStudy
) -> None:
    from sabun.poc.spec import Arm
    from sabun.script.arms import recipe

    study = write_study(tmp_path / "studies" / "first", candidate="nesterov@adam")
    proposed = propose(study, tmp_path)
    assert dict(proposed.challenger.options) == {"lr": recipe(Arm.named("nesterov@adam")).step}
    assert check_sides(proposed) == ([], [])


def test_a_study_whose_script_makes_the_baseline_needs_to_be_told_what_that_is(
    tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy
) -> None:
    study = write_study(tmp_path / "studies" / "first", baseline="script")
    with pytest.raises(RolloutError, match="a roll-out cannot build") as caught:
        propose(study, tmp_path)
    assert "--champion" in caught.value.fix
    proposed = propose(study, tmp_path, champion=plan.champion)
    assert proposed.champion == replace(plan.champion, arm="today")
    assert check_sides(proposed) == ([], [])
    assert examine(proposed.stages[1].gate, proposed, tmp_path).passed
    # Only the arm that the plan names: another plan's champion is not what the script makes.
    assert "does not test this champion" in examine(proposed.stages[1].gate, plan, tmp_path).problems[0]
    named = write_study(tmp_path / "studies" / "second")
    with pytest.raises(RolloutError, match="names its baseline itself"):
        propose(named, tmp_path, champion=plan.champion)


def test_without_the_packages_it_says_what_to_install(
    tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    write_study(tmp_path / "study")
    monkeypatch.setitem(sys.modules, "sabun.poc.evidence", None)
    monkeypatch.setitem(sys.modules, "sabun.poc.judgement.assess", None)
    assert "pip install 'sabun[poc]'" in problems(tmp_path, plan)[0]
    with pytest.raises(MissingExtraError, match=r"sabun\[poc\]"):
        propose(tmp_path / "study", tmp_path)


def test_a_judgement_that_fails_is_no_go_and_no_crash(
    tmp_path: Path, plan: RolloutPlan, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "study")

    def fail(*_: object) -> None:
        raise ZeroDivisionError("spread of nothing")

    monkeypatch.setattr("sabun.poc.judgement.assess.assess", fail)
    assert "cannot be judged: ZeroDivisionError" in problems(tmp_path, plan)[0]
