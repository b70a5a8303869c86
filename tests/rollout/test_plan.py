"""The plan file: what is refused, and that it comes back as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sabun.errors import RolloutError
from sabun.rollout.rollout_plan import Gate, RolloutPlan, Side, Stage

GOOD = """
name = "trial"
[champion]
optimizer = "torch.optim:AdamW"
options = { lr = 0.001, betas = [0.9, 0.99] }
[challenger]
optimizer = "nesterov@adam"
[[stages]]
name = "poc"
share = 0
[[stages]]
name = "pilot"
share = 0.05
gate = { study = "studies/pilot" }
"""


def load(tmp_path: Path, text: str) -> RolloutPlan:
    path = tmp_path / "rollout.toml"
    path.write_text(text, encoding="utf-8")
    return RolloutPlan.load(path)


def test_a_plan_is_read_with_its_defaults(tmp_path: Path) -> None:
    plan = load(tmp_path, GOOD)
    assert plan == RolloutPlan(
        "trial",
        Side("torch.optim:AdamW", {"lr": 0.001, "betas": (0.9, 0.99)}),
        Side("nesterov@adam"),
        (Stage("poc", 0.0), Stage("pilot", 0.05, Gate("studies/pilot", "go", 30.0, 10, ""), "KILL")),
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("share = 0.05", "shares = 0.05", "unknown key in stage 2 'shares'. Did you mean 'share'"),
        ("share = 0.05", "share = 1.5", "share must be between 0 and 1"),
        ("share = 0.05", "share = nan", "not a finite number"),
        ("share = 0.05", "share = true", "not a finite number"),
        ("share = 0.05", 'share = "5%"', "not a finite number"),
        ("share = 0\n", "share = 0.5\n", "the share falls"),
        ('gate = { study = "studies/pilot" }', "", "stage 'pilot' has no gate"),
        ('gate = { study = "studies/pilot" }', "gate = { }", "has no 'study'"),
        ('study = "studies/pilot"', 'study = ""', "does not name its study"),
        ('study = "studies/pilot"', 'study = "s", verdict = "no-go"', "unknown verdict"),
        ('study = "studies/pilot"', 'study = "s", min_seeds = 0', "at least 1"),
        ('study = "studies/pilot"', 'study = "s", min_seeds = 1.5', "not of type int"),
        ('study = "studies/pilot"', 'study = "s", max_age_days = 0', "must be positive"),
        ('name = "pilot"', 'name = "poc"', "two stages are called 'poc'"),
        ('name = "pilot"', 'name = "a b"', "is not a valid name for a stage"),
        ('name = "pilot"', 'name = "pilot"\nkill_file = "../../etc/x"', "a name next to the plan"),
        ('name = "trial"', 'name = " "', "has no name"),
        ('name = "trial"', "", "has no 'name'"),
        ('name = "trial"', 'name = "trial"\nschema_version = 2', "this version reads 1"),
        ("[challenger]", "[challanger]", "Did you mean 'challenger'"),
        ('optimizer = "nesterov@adam"', "", "challenger has no 'optimizer'"),
        ('optimizer = "nesterov@adam"', 'optimizer = ""', "does not name its optimizer"),
        ("lr = 0.001", "lr = [[1]]", "cannot be an option"),
        ("[[stages]]", "[[stages", "not valid TOML"),
        ("lr = 0.001", f"lr = {'9' * 5000}", "not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(RolloutError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert said in str(caught.value)
    assert caught.value.fix


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="rollout init"):
        RolloutPlan.load(tmp_path / "none.toml")


def test_the_first_stage_has_no_gate() -> None:
    with pytest.raises(RolloutError, match="first stage"):
        RolloutPlan("x", Side("a"), Side("b"), (Stage("poc", 0.0, Gate("s")),))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
options = st.dictionaries(
    texts,
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts
    | st.tuples(st.floats(0, 1), st.floats(0, 1)),
    max_size=3,
)  # fmt: skip


@given(name=texts, optimizer=texts, options=options)
def test_toml_and_json_give_an_equal_plan_back(
    name: str, optimizer: str, options: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    stages = (
        Stage("poc", 0.0),
        Stage("pilot", 0.05, Gate(name, min_seeds=3)),
        Stage("all", 1.0, Gate("s", "undecided")),
    )
    plan = RolloutPlan(name, Side(optimizer, options, arm=name), Side("nesterov@adam"), stages)  # type: ignore[arg-type]
    assert load(tmp_path_factory.mktemp("plan"), plan.to_toml()) == plan
    again = RolloutPlan.from_json(plan.to_json())
    assert again == plan
    assert again.hash == plan.hash


def test_only_the_pilot_opens_on_a_promising_verdict(tmp_path: Path) -> None:
    pilot = GOOD.replace('study = "studies/pilot"', 'study = "studies/pilot", verdict = "promising"')
    gate = load(tmp_path, pilot).stages[1].gate
    assert gate is not None
    assert gate.verdict == "promising"
    later = '[[stages]]\nname = "all"\nshare = 1.0\ngate = { study = "s", verdict = "promising" }\n'
    with pytest.raises(RolloutError, match="'all': only the first stage with jobs may open on a 'promising' verdict"):
        load(tmp_path, GOOD + later)
