"""From a job's choice to its optimizer, through checkpoints and across ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import sabun
from sabun.errors import RolloutError, SabunError, StateError
from sabun.rollout import Rollout, champion, choice_of, choose, optimizer
from sabun.rollout.jobs import KEY
from sabun.rollout.rollout_plan import Gate, RolloutPlan, Side, Stage
from sabun.rollout.sides import build, check_sides

from .conftest import TwoRanks

CHAMPION = Side("torch.optim:AdamW", {"lr": 0.01, "betas": (0.8, 0.9)})


def start(folder: Path, challenger: Side, share: float = 1.0) -> None:
    rollout = Rollout(folder)
    rollout.start(RolloutPlan("trial", CHAMPION, challenger, (Stage("poc", 0.0), Stage("all", share, Gate("none")))))
    rollout.promote(override="this test is not about gates")


def train(opt: torch.optim.Optimizer, model: nn.Module, steps: int = 3) -> None:
    for _ in range(steps):
        opt.zero_grad()
        model(torch.ones(4, 3)).square().mean().backward()
        opt.step()


NOTATIONS = (*sabun.presets(), "torch.optim:SGD(momentum=0.5)", "nesterov@adam", "look-ahead(0.9, 2)@spectral", "heun")


@pytest.mark.parametrize("text", NOTATIONS)
def test_a_job_trains_with_the_optimizer_that_the_study_has_judged(text: str) -> None:
    from sabun.poc.spec import Arm
    from sabun.script import arms

    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    judged = arms.recipe(Arm.named(text)).build(model, {"lr": 0.05})
    built = build(Side(text, {"lr": 0.05}), model)
    assert type(built) is type(judged)
    assert built.state_dict() == judged.state_dict()
    assert isinstance(build(Side(text, {"lr": 0.05}), model.parameters()), type(judged))


@pytest.mark.parametrize(
    "side",
    [
        Side("torch.optim:SDG", {"lr": 0.1}),
        Side("torch.optim:SGD", {"lr": 0.1, "momentun": 0.9}),
        Side("torch.optim:SGD", {"lr": -1.0}),
        Side("torch.optim:SGD(0.1)"),
        Side("torch.optim:SGD(lr=", {}),
        Side("no_such_package:SGD", {"lr": 0.1}),
        Side("torch.nn:Linear", {"in_features": 1, "out_features": 1}),
        Side("nesterow", {"lr": 0.1}),
        Side("nesterov@adan", {"lr": 0.1}),
        Side("lagrange-4", {"lr": 0.1}),
    ],
)
def test_what_cannot_be_built_is_an_error_that_says_why(side: Side) -> None:
    with pytest.raises(SabunError) as caught:
        build(side, nn.Linear(3, 2).parameters())
    assert caught.value.fix


def test_the_checkpoint_carries_the_choice_and_the_restart_keeps_it(tmp_path: Path) -> None:
    start(tmp_path, Side("nesterov@adam", {"lr": 0.05}))
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    opt = optimizer(model.parameters(), job_id="job", path=tmp_path)
    assert choice_of(opt).role == "challenger"
    train(opt, model)
    torch.save({"model": model.state_dict(), "optimizer": opt.state_dict()}, tmp_path / "checkpoint.pt")
    train(opt, model)
    Rollout(tmp_path).rollback(reason="drill")
    assert choose("job", path=tmp_path).role == "champion"

    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again = nn.Linear(3, 2)
    again.load_state_dict(held["model"])
    resumed = optimizer(again.parameters(), job_id="job", path=tmp_path, checkpoint=held["optimizer"])
    resumed.load_state_dict(held["optimizer"])
    assert isinstance(resumed, sabun.Optimizer)
    assert choice_of(resumed).role == "challenger"
    train(resumed, again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert resumed.state_dict()[KEY] == held["optimizer"][KEY]


def test_a_state_trained_by_the_other_side_is_refused(tmp_path: Path) -> None:
    start(tmp_path, Side("torch.optim:AdamW", {"lr": 0.02}))
    model = nn.Linear(3, 2)
    opt = optimizer(model.parameters(), job_id="job", path=tmp_path)
    train(opt, model)
    Rollout(tmp_path).rollback(reason="drill")
    other = optimizer(model.parameters(), job_id="job", path=tmp_path)
    assert isinstance(other, torch.optim.AdamW)
    with pytest.raises(StateError, match="trained by the challenger"):
        other.load_state_dict(opt.state_dict())
    bare = torch.optim.AdamW(model.parameters(), lr=0.02)
    train(bare, model)
    other.load_state_dict(bare.state_dict())  # a state without a choice loads as ever
    with pytest.raises(StateError, match="holds no choice"):
        optimizer(model.parameters(), job_id="job", path=tmp_path, checkpoint=bare.state_dict())
    with pytest.raises(StateError, match="was not made by"):
        choice_of(bare)


def test_the_guard_falls_back_to_the_plans_champion(tmp_path: Path) -> None:
    start(tmp_path, Side("torch.optim:SGD", {"lr": 0.05}))
    model = nn.Linear(3, 2)
    opt = optimizer(model.parameters(), job_id="job", path=tmp_path)
    guard = sabun.Guard(model, opt, champion=champion(choice_of(opt)), max_rollbacks=1, every=5)
    for told in [1.0] * 6 + [float("inf")] * 4:
        opt.zero_grad()
        model(torch.ones(4, 3)).square().mean().backward()
        guard.step(told)
    assert isinstance(guard.optimizer, torch.optim.AdamW)
    assert guard.optimizer.param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize("part", [False, True])
def test_a_champion_that_treats_layers_differently_gets_the_model(part: bool, tmp_path: Path) -> None:
    rollout = Rollout(tmp_path)
    muon = Side("muon", {"lr": 0.02})
    sgd = Side("torch.optim:SGD", {"lr": 0.05})
    rollout.start(RolloutPlan("trial", muon, sgd, (Stage("poc", 0.0), Stage("all", 1.0, Gate("none")))))
    rollout.promote(override="this test is not about gates")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    trained = [p for name, p in model.named_parameters() if not (part and name.startswith("3."))]
    opt = optimizer(trained, job_id="job", path=tmp_path)
    guard = sabun.Guard(model, opt, champion=champion(choice_of(opt)), max_rollbacks=1, every=5)
    for told in [1.0] * 6 + [float("inf")] * 4:
        opt.zero_grad()
        model(torch.arange(6)).square().mean().backward()
        guard.step(told)
    assert guard.fallen_back

    def shapes(of: torch.optim.Optimizer) -> list[tuple[object, object, list[torch.Size]]]:
        return [(g["preconditioner"], g["parts"], [p.shape for p in g["params"]]) for g in of.param_groups]

    if part:  # names tell all but the embedding's kind; what does not train stays out
        assert {id(p) for group in guard.optimizer.param_groups for p in group["params"]} == {id(p) for p in trained}
    else:
        assert shapes(guard.optimizer) == shapes(build(muon, model))
        (group,) = guard.optimizer.param_groups
        assert [part == "rest" for part in group["parts"][:3]] == [True, False, True]  # the embedding by its module


def test_what_no_job_could_build_is_found_before_any_job_meets_it() -> None:
    stages = (Stage("poc", 0.0),)

    def found(*sides: Side) -> tuple[list[str], list[str]]:
        return check_sides(RolloutPlan("trial", *sides, stages))

    fine = Side("torch.optim:AdamW", {"lr": 0.01})
    # Also one that takes matrices alone, as it does for the part of a model that a script gives it.
    if hasattr(torch.optim, "Muon"):
        assert found(fine, Side("torch.optim:Muon", {"lr": 0.01})) == ([], [])
    assert found(fine, Side("muon", {"lr": 0.01})) == ([], [])
    wrong, unjudged = found(Side("script"), Side("nesterov@adam"))
    assert ["champion" in wrong[0], "challenger" in wrong[1], unjudged] == [True, True, []]
    wrong, unjudged = found(fine, Side("no_such_package:SGD", {"lr": 0.1}))
    assert (wrong, len(unjudged)) == ([], 1)
    assert "not installed here" in unjudged[0]


def test_what_cannot_be_tried_here_needs_an_override(tmp_path: Path) -> None:
    rollout = Rollout(tmp_path)
    other = Side("no_such_package:SGD", {"lr": 0.1})
    rollout.start(RolloutPlan("trial", CHAMPION, other, (Stage("poc", 0.0), Stage("all", 1.0, Gate("none")))))
    with pytest.raises(RolloutError, match="not installed here"):
        rollout.promote()
    state, _ = rollout.promote(override="the training image has it")
    assert state.stage.name == "all"


def test_all_ranks_follow_rank_0_even_in_its_errors(two_ranks: TwoRanks, tmp_path: Path) -> None:
    start(tmp_path, Side("torch.optim:SGD", {"lr": 0.05}))
    first, second = two_ranks("choice", tmp_path)
    assert first == second
    assert first[0] == "challenger"
    assert "job_id" in first[1]


def test_what_one_rank_cannot_do_all_ranks_report(two_ranks: TwoRanks, tmp_path: Path) -> None:
    """One error on both, which names the rank and its cause; none waits in a collective for the other."""
    start(tmp_path, Side("torch.optim:SGD", {"lr": 0.05}))
    first, second = two_ranks("faults", tmp_path)
    assert first == second
    expected = {
        "reading": ("StateError", "rank 1: the state before step 10 cannot be read any more"),
        "restoring": ("StateError", "rank 0: RuntimeError: no memory."),
        "again": ("", "10"),
        "loading": ("StateError", "rank 1: the state of the guard, steps is not as a guard saved it"),
        "writing": ("StateError", f"rank 1: cannot keep a good state in {tmp_path / 'full'}"),
        "keeping": ("StateError", "rank 1: RuntimeError: no memory."),
        "champion": ("StateError", "rank 0: ImportError: no module named champion."),
        "choice": ("StateError", "rank 1: the checkpoint holds no choice"),
        "building": ("RolloutError", "rank 1: TypeError: 'NoneType' object is not callable."),
        "at last": ("", "2.0"),
    }
    assert {what: kind for what, (kind, _) in first.items()} == {what: kind for what, (kind, _) in expected.items()}
    for what, (_, text) in expected.items():
        assert first[what][1].startswith(text), what


def test_ranks_resume_from_what_all_have_and_say_so_where_that_is_nothing(two_ranks: TwoRanks, tmp_path: Path) -> None:
    """Also with ``keep=1``, after a kill between two ranks' writes and where one rank's disk is full."""
    first, second = two_ranks("steps", tmp_path)
    assert first == second
    errors = {what: error for what, (*_, error) in first.items() if error}
    assert {what: found[:2] for what, found in first.items() if what not in errors} == {
        "killed": (["good-10-rank1.pt", "good-10.pt", "good-20.pt"], 10),
        "killed in the first write": (["good-0.pt"], 0),
        "full": (["good-10-rank1.pt", "good-10.pt"], 10),
        "brought back": (["good-10.pt", "good-20-rank1.pt", "good-20.pt"], 20),
        "moved away": ([], 0),
    }
    assert f"hold states in {tmp_path / 'lost'}" in errors["lost"]
    assert "0: 20; 1: 10" in errors["lost"]
    assert "0: 20; 1: none" in errors["lost on one rank"]
    for error in errors.values():
        assert "Bring back the files" in error
        assert "To start anew, move the files away" in error


def test_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="rollout init"):
        optimizer(nn.Linear(1, 1).parameters(), job_id="job", path=tmp_path)
