"""What the benchmark runs is fair, valid, and told truly by the records that it leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sealed
from contest import (
    ARMS,
    BASELINE,
    COMPILED,
    CONTESTANTS,
    OURS,
    PROFILES,
    STUDIES,
    UNTUNED,
    Profile,
    Sizing,
    studies,
)
from evidence import export, load
from peers import MuonAdamW
from sabun.optim import create
from sabun.poc import study
from sabun.poc.resolved import search_space
from sabun.poc.tasks.loading import load as load_task
from sabun.script import arms


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_every_arm_gets_the_same_budget_space_and_seeds(profile: Profile) -> None:
    for task in profile.tasks:
        made = studies(profile, task)
        tuned = [made["peers"], made["ours"]]
        budgets = [plan.budget.model_dump() for plan in tuned]
        assert budgets[0] == budgets[1]
        assert (budgets[0]["trials"] >= 8, budgets[0]["seeds"] >= 5) == (True, True)
        assert len({plan.seed for plan in made.values()}) == len({plan.task for plan in made.values()}) == 1
        for plan in tuned:
            for arm in plan.arms:
                space = search_space(arms.recipe(arm), plan.budget.decades)
                assert set(space) == {"lr"}
                assert space["lr"].decades == profile.decades
                assert space["lr"].center == pytest.approx(ARMS[arm.name][1] or arms.recipe(arm).step)
    assert {name for names in STUDIES.values() for name in names} == set(ARMS)
    assert STUDIES["ours"] == (BASELINE, OURS)
    assert UNTUNED in STUDIES["defaults"]


def test_another_pace_is_the_same_stream_of_batches() -> None:
    from sabun.poc.seeds import Seeds

    paced = load_task("benchmarks/paced.py:Digits", {"interval": 7}).session(Seeds(1, 2))
    built_in = load_task("digits").session(Seeds(1, 2))
    assert (paced.steps_per_epoch, built_in.steps_per_epoch) == (7, 33)
    for step in (0, 6, 7, 40):
        assert torch.equal(paced.loss(step), built_in.loss(step))
    assert paced.evaluate("validation") == built_in.evaluate("validation")


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.symbols = nn.Embedding(11, 6)
        self.mix = nn.Conv1d(6, 8, 3, padding=1)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.inner(torch.tanh(self.mix(self.symbols(x).mT)).mean(-1))))


def test_muon_and_adamw_side_by_side_is_the_preset_muon() -> None:
    """Two implementations: torch's on flattened views and the rest, the project's on the model. bfloat16 in both."""
    paths = []
    for make in (
        lambda m: MuonAdamW(m, lr=0.01),
        # torch decays all with 0.1, and so does the preset.
        lambda m: create("muon", m, 0.01, dtype="bfloat16", foreach=False),
    ):
        model = _Net().double()
        optimizer = make(model)
        generator = torch.Generator().manual_seed(1)
        for n in range(20):
            x = torch.randint(0, 11, (16, 5), generator=generator)
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 - n / 20)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), x[:, 0]).backward()
            optimizer.step()
        paths.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert optimizer.state
    # A flipped bfloat16 rounding would show as 1e-4; another rule or another split as 1e-2.
    assert float((paths[0] - paths[1]).abs().max()) < 1e-3


@pytest.mark.parametrize(("tuned", "compiled"), COMPILED.items())
def test_a_compiled_step_is_the_same_method_in_torchs_own_loop(tuned: str, compiled: str) -> None:
    plans = studies(PROFILES["quick"], "digits")
    assert compiled not in CONTESTANTS
    assert compiled in {arm.name for arm in plans["defaults"].candidates}
    assert plans["defaults"].baseline.name == "AdamW, untuned"  # the yardstick of the other studies
    groups, paths = [], []
    for plan, name in ((plans["peers"], tuned), (plans["defaults"], compiled)):
        model = _Net().double()
        optimizer = arms.recipe(plan.arm(name)).build(model)
        groups.append({key: value for key, value in optimizer.param_groups[0].items() if key != "params"})
        generator = torch.Generator().manual_seed(1)
        for _ in range(20):
            x = torch.randint(0, 11, (16, 5), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), x[:, 0]).backward()
            optimizer.step()
        paths.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert (groups[0].pop("fused"), groups[1].pop("fused")) == (None, True)
    if tuned == "AdamW, λ = 1":  # takes the seconds of the other decay, not its curves
        assert (groups[0].pop("weight_decay"), groups[1].pop("weight_decay")) == (1.0, 0.01)
        assert groups[0] == groups[1]
        return
    assert groups[0] == groups[1]
    assert float((paths[0] - paths[1]).abs().max()) < 1e-12  # float64: another method would differ by 1e-4 and more


def test_records_come_back_as_they_were(tmp_path) -> None:
    profile = Profile("tiny", 1, 2, 2, {"diabetes": Sizing("Diabetes", 2, 4)})
    stores = {}
    for name, plan in studies(profile, "diabetes").items():
        if name == "peers":
            continue  # the two other studies hold every kind of record
        stores[name] = tmp_path / name
        finished = study.run(plan, stores[name])
    raw = export("tiny", {"diabetes": {**stores, "peers": tmp_path / "never-run"}}, quiet=True)
    path = tmp_path / "tiny.json"
    path.write_text(sealed.dumps(raw), encoding="utf-8")
    found = load(path)
    assert set(found.tasks["diabetes"]) == {BASELINE, OURS, UNTUNED, "AdamW, untuned", *COMPILED.values()}
    untuned = found.tasks["diabetes"][UNTUNED]
    stored = [run for run in finished.runs if run.arm == UNTUNED and run.phase == "evaluate"]
    assert [curve.final for curve in untuned.curves] == pytest.approx([run.final_loss for run in stored], rel=1e-5)
    assert untuned.curves[0].steps == (0, 4, 8)
    assert untuned.trials == ()
    assert len(found.tasks["diabetes"][OURS].trials) == 2
    assert untuned.cost is not None
    assert untuned.cost > 0
    path.write_text(sealed.dumps({**raw, "schema": 0}), encoding="utf-8")
    with pytest.raises(ValueError, match="schema"):
        load(path)


def test_the_command_plans_its_time_once_and_refuses_what_is_not_there(tmp_path, monkeypatch, capsys) -> None:
    import suite

    profile = Profile("tiny", 1, 2, 2, {"diabetes": Sizing("Diabetes", 2, 4)})
    monkeypatch.setattr(suite, "WORK", tmp_path)
    plans = studies(profile, "diabetes")
    first = suite.planned_seconds(profile, plans.values(), 1)
    assert set(first) == {plan.hash for plan in plans.values()}
    assert all(seconds > 0 for seconds in first.values())
    assert suite.planned_seconds(profile, plans.values(), 1) == first  # measured once: a second clock would differ
    two = suite.planned_seconds(profile, plans.values(), 2)
    assert all(two[name] >= suite.STARTUP for name in first)  # processes have to start, runs to be clocked alone
    monkeypatch.setattr("sys.argv", ["suite.py", "--quick", "--task", "digitss"])
    with pytest.raises(SystemExit) as caught:
        suite.main()
    assert caught.value.code == 2
    assert "digitss" in capsys.readouterr().err
