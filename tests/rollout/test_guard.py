"""The guard's mechanics: what is restored, what is shortened, who trains, what is logged."""

from __future__ import annotations

import copy
import errno
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import sabun
from sabun.audit import AuditLog
from sabun.errors import OptionError, SabunWarning, StateError, TrainingError
from sabun.rollout.guard import guard as guard_module
from sabun.rollout.guard import loss_monitor, recovery_policy
from sabun.rollout.guard.guard import Guard
from sabun.rollout.guard.loss_monitor import LossMonitor
from sabun.rollout.guard.snapshots import DiskSnapshots, Snapshot
from sabun.rollout.guard.step_check import StepCheck

from .conftest import TwoRanks


class Toy:
    """A quadratic with a guard; ``loss`` is what the guard is told, so that trouble can be scripted."""

    def __init__(self, optimizer: str = "SGD", **options: object) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        kinds = {"SGD": {"lr": 0.01, "momentum": 0.9}, "AdamW": {"lr": 0.01}}
        self.optimizer = getattr(torch.optim, optimizer)(self.model.parameters(), **kinds[optimizer])
        options = {
            "champion": lambda params: torch.optim.Adam(params, lr=0.002),
            "every": 10,
            "disk_share": 1.0,
            **options,
        }
        self.guard = Guard(self.model, self.optimizer, **options)  # type: ignore[arg-type]

    def step(self, told: float | None = None, *, gradient: float | None = None, x: Tensor | None = None) -> bool:
        self.optimizer.zero_grad()
        x = torch.randn(8, 3) if x is None else x
        loss = self.model(x).square().mean()
        loss.backward()
        if gradient is not None:
            self.model[0].weight.grad.fill_(gradient)
        return self.guard.step(loss if told is None else loss.detach() * 0 + told)

    def good(self, steps: int) -> None:
        for _ in range(steps):
            assert self.step(1.0)

    def state(self) -> dict[str, Tensor]:
        held = {f"model.{k}": v.clone() for k, v in self.model.state_dict().items()}
        for i, state in self.guard.optimizer.state_dict()["state"].items():
            held |= {f"{i}.{k}": v.clone() for k, v in state.items() if isinstance(v, Tensor)}
        return held

    @property
    def names(self) -> list[str]:
        return [event.removeprefix("guard.") for event, _ in self.guard.events]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_an_isolated_trouble_skips_the_step_and_leaves_parameters_as_they_were(optimizer: str) -> None:
    toy = Toy(optimizer)
    toy.good(25)
    before = {k: v for k, v in toy.state().items() if "running" not in k and "num_batches" not in k}
    assert not toy.step(gradient=math.nan)
    after = {k: v for k, v in toy.state().items() if k in before}
    assert same(before, after)
    assert toy.names == ["started", "skipped"]
    assert toy.guard.scale == 1.0
    assert toy.step(1.0)


def test_a_batch_that_spoils_running_statistics_does_not_keep_them_spoilt() -> None:
    toy = Toy()
    toy.good(25)
    assert not toy.step(x=torch.full((8, 3), math.nan))
    assert toy.model[1].running_mean.isfinite().all()
    assert toy.model[1].running_var.isfinite().all()


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_second_trouble_restores_parameters_buffers_and_optimizer_to_the_bit(
    optimizer: str, where: str, tmp_path: Path
) -> None:
    toy = Toy(optimizer, **({"folder": tmp_path} if where == "disk" else {}))
    toy.good(20)
    torch.manual_seed(5)
    kept_buffers = toy.state()
    kept = {k: v for k, v in kept_buffers.items() if "running" not in k and "num_batches" not in k}
    toy.good(1)  # the state before this step is the one that is kept
    toy.good(3)
    for _ in range(4):
        assert not toy.step(math.inf)
    now = toy.state()
    assert same(kept, {k: v for k, v in now.items() if k in kept})
    assert toy.names == ["started", *["skipped"] * 3, "rolled-back"]
    assert dict(toy.guard.events)["guard.rolled-back"]["to_step"] == 20
    assert toy.guard.scale == 0.5


def test_a_roll_back_does_not_turn_the_schedule_back_and_the_cut_never_reaches_it() -> None:
    toy = Toy()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(toy.optimizer, 0.9)
    reference = 0.01
    for told in [*[1.0] * 25, *[math.inf] * 4, *[1.0] * 5]:
        toy.step(told)
        scheduler.step()
        reference *= 0.9
        assert toy.optimizer.param_groups[0]["lr"] == pytest.approx(reference, rel=1e-12)
    assert toy.guard.scale == 0.5


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_a_cut_step_is_the_step_at_the_shorter_length(lr: float | Tensor) -> None:
    weights = nn.Parameter(torch.ones(2))
    model = nn.ParameterList([weights])
    guard = Guard(model, torch.optim.SGD([weights], lr=lr), every=5, cut=0.25)
    for told in [*[1.0] * 6, *[math.inf] * 4]:
        weights.grad = torch.ones(2)
        guard.step(told)
    before = weights.detach().clone()
    weights.grad = torch.ones(2)
    assert guard.step(1.0)
    torch.testing.assert_close(before - weights.detach(), torch.full((2,), 0.1 * 0.25))
    assert guard.optimizer.param_groups[0]["lr"] is lr


MAKERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.02),
    "nesterov@adam": lambda params: sabun.Optimizer(params, 0.02, scheme="nesterov", preconditioner="adam"),
    "schedule-free": lambda params: sabun.Optimizer(params, 0.02, preconditioner="adam", averaging="schedule-free"),
    "two taps": lambda params: sabun.Optimizer(params, 0.02, scheme="taylor-4", averaging="ema"),
    "spectral": lambda params: sabun.Optimizer(params, 0.02, scheme="nesterov", preconditioner="spectral"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_training_after_a_roll_back_goes_on_as_from_a_copy_of_that_state(name: str) -> None:
    # Whatever an optimizer keeps beside its parameters (taps, averages, running scalars) must return as well.
    def batch(step: int) -> Tensor:
        return torch.randn(16, 3, generator=torch.Generator().manual_seed(step))

    def backward(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        optimizer.zero_grad()
        (model(batch(step)) - batch(step).sum(1, keepdim=True)).square().mean().backward()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    guard = Guard(model, MAKERS[name](model.parameters()), every=10, cut=0.999999)
    twin = copy.deepcopy(model)
    other = MAKERS[name](twin.parameters())
    for step in range(20):
        backward(twin, other, step)
        other.step()
    for step in range(29):  # steps 20 to 24 are undone at the fourth anomaly
        backward(model, guard.optimizer, step)
        guard.step(math.inf if step >= 25 else 1.0)
    assert [event for event, _ in guard.events] == ["guard.started", *["guard.skipped"] * 3, "guard.rolled-back"]
    guard.scale = 1.0
    for step in range(30, 40):
        backward(model, guard.optimizer, step)
        assert guard.step(1.0)
        backward(twin, other, step)
        other.step()
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_margin_comes_from_the_stability_control() -> None:
    weights = nn.Parameter(torch.ones(4))
    optimizer = sabun.Optimizer([weights], 0.1, scheme="nesterov", step_control="stability")
    guard = Guard(nn.ParameterList([weights]), optimizer, margin=2.0)  # more than there can be: always too little

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weights.square().sum()
        loss.backward()
        return loss

    for _ in range(30):
        assert guard.step(closure=closure)
    margin = optimizer.margin
    assert margin is not None
    assert 0 < margin < 1
    assert "guard.cut" in [event for event, _ in guard.events]


def scripted(toy: Toy, told: list[float]) -> None:
    for loss in told:
        toy.step(loss)


def test_after_so_many_roll_backs_the_champion_trains_with_its_own_settings() -> None:
    toy = Toy(max_rollbacks=2)
    # A good step in between: the restored state was left, so the step may be the cause, not the data.
    scripted(toy, [*[1.0] * 25, *[math.inf] * 4, 1.0, *[math.inf] * 4])
    assert toy.names == ["started", *["skipped"] * 3, "rolled-back", *["skipped"] * 3, "fell-back"]
    assert toy.guard.fallen_back
    assert isinstance(toy.guard.optimizer, torch.optim.Adam)
    assert toy.guard.optimizer.param_groups[0]["lr"] == 0.002
    assert toy.guard.scale == 1.0
    champion, before = toy.guard.optimizer, toy.state()
    assert toy.step(1.0)
    assert not same(before, toy.state())
    assert len(champion.state) == 4
    assert toy.optimizer.param_groups[0]["lr"] == 0.01  # the challenger's schedule goes on, unused


def test_the_champion_follows_the_shape_of_the_schedule_and_divides_a_fault_of_it_out() -> None:
    toy = Toy(max_rollbacks=1, champion=lambda params: torch.optim.SGD(params, lr=0.5))
    scripted(toy, [*[1.0] * 25, *[math.inf] * 4])
    assert toy.guard.fallen_back
    # (lr of the schedule over its peak, lr of the champion): a fault of ×100 begins, goes on decaying, and ends.
    for share, expected in ((1.0, 0.5), (0.25, 0.125), (25.0, 0.125), (12.5, 0.0625), (0.125, 0.0625), (0.01, 0.005)):
        toy.optimizer.param_groups[0]["lr"] = 0.01 * share
        before = toy.model[0].bias.detach().clone()
        toy.optimizer.zero_grad()
        for p in toy.model.parameters():
            p.grad = torch.ones_like(p)
        assert toy.guard.step(1.0)
        torch.testing.assert_close(before - toy.model[0].bias.detach(), torch.full((3,), expected))


def test_when_the_champion_fails_too_the_guard_gives_up_with_a_good_state() -> None:
    toy = Toy(max_rollbacks=1)
    scripted(toy, [*[1.0] * 25, *[math.inf] * 4, 1.0, *[math.inf] * 3])
    with pytest.raises(TrainingError, match="the champion too"):
        toy.step(math.inf)
    assert toy.names[-1] == "gave-up"
    assert all(p.isfinite().all() for p in toy.model.parameters())


def test_without_a_champion_it_gives_up_where_it_would_fall_back() -> None:
    toy = Toy(max_rollbacks=1, champion=None)
    scripted(toy, [*[1.0] * 25, *[math.inf] * 3])
    with pytest.raises(TrainingError, match="without a champion"):
        toy.step(math.inf)


def test_bad_data_are_told_from_a_bad_optimizer() -> None:
    # Neither of the states restored has taken a step before its anomalies: the batches are at fault.
    toy = Toy(max_rollbacks=2)
    scripted(toy, [*[1.0] * 25, *[math.inf] * 14, 1.0])
    skipped = ["skipped"] * 3
    assert toy.names == ["started", *skipped, "rolled-back", *skipped, "rolled-back", *skipped, *skipped]
    assert [data["to_step"] for event, data in toy.guard.events if event == "guard.rolled-back"] == [20, 10]
    assert toy.guard.scale == 1.0
    assert not toy.guard.fallen_back
    assert toy.guard.events[-1][1]["suspect"] == "data"
    scripted(toy, [math.inf] * 9)  # that is known, until another good state is kept
    assert toy.names[-9:] == ["skipped"] * 9
    toy.good(10)
    scripted(toy, [math.inf] * 14)  # and nine in succession were the batches' fault before
    assert toy.names[-14:] == ["skipped"] * 14


def test_data_that_stay_bad_stop_the_training() -> None:
    toy = Toy()
    toy.good(25)
    with pytest.raises(TrainingError, match="Check the data"):
        scripted(toy, [math.inf] * 100)
    assert toy.guard.steps == 25 + 16 + 1
    assert all(p.isfinite().all() for p in toy.model.parameters())
    assert toy.guard.events[-1][1]["suspect"] == "data"


def test_calm_steps_give_the_step_length_back_and_forgive() -> None:
    toy = Toy(recover_after=20)
    scripted(toy, [*[1.0] * 25, *[math.inf] * 4, *[1.0] * 10, *[math.inf] * 4])
    assert toy.guard.scale == 0.25
    toy.good(19)
    assert toy.guard.scale == 0.25
    toy.good(1)
    assert toy.guard.scale == 0.5
    toy.good(40)
    assert toy.guard.scale == 1.0
    assert toy.names.count("recovered") == 2


def test_a_slow_trouble_goes_back_to_the_best_state_not_to_the_newest() -> None:
    toy = Toy(monitor=LossMonitor(window=20, warm_up=8), every=10)
    falling = [2.0] * 8 + [0.5] * 60
    rising = [0.5 * 1.02**i for i in range(200)]
    for loss in falling + rising:
        comparison = toy.guard._comparison
        toy.step(0.5 if comparison is not None and comparison.next_is_before else loss)
        if "rolled-back" in toy.names:
            break
    assert toy.names == ["started", "rolled-back"]
    data = dict(toy.guard.events)["guard.rolled-back"]
    assert data["reason"] == "loss-drift"
    assert data["to_step"] <= 80
    assert [*toy.guard._snapshots.levels()] == [data["to_step"]]  # later ones were kept while the losses rose


def test_a_cause_that_stays_is_compared_once() -> None:
    """The state of before does better, and the losses rise again: the second time the guard acts without asking."""
    toy = Toy(monitor=LossMonitor(window=20, warm_up=8), every=10)
    for loss in [2.0] * 8 + [0.5] * 60:
        toy.step(loss)
    compared = []
    for number in (1, 2):
        rising = (0.5 * 1.02**i for i in range(300))
        asked = 0
        while toy.names.count("rolled-back") < number:
            comparison = toy.guard._comparison
            asked += comparison is not None
            toy.step(0.5 if comparison is not None and comparison.next_is_before else next(rising))
        compared.append(asked)
    assert compared[0] in (16, 17, 18)
    assert compared[1] == 0
    toy.guard.new_phase()
    assert toy.guard._policy.asks


def test_a_vanishing_margin_cuts_the_step_before_anything_breaks() -> None:
    class Measured(torch.optim.SGD):
        margin = 0.5

    weights = nn.Parameter(torch.ones(2))
    optimizer = Measured([weights], lr=0.1)
    guard = Guard(nn.ParameterList([weights]), optimizer)

    def go(steps: int) -> None:
        for _ in range(steps):
            weights.grad = torch.ones(2)
            assert guard.step(1.0)

    go(20)
    assert [event for event, _ in guard.events] == ["guard.started"]
    optimizer.margin = -0.2  # hλ beyond the interval
    go(16)
    event, data = guard.events[-1]
    assert (event, data["reason"], data["value"], data["limit"]) == ("guard.cut", "margin-vanished", -0.2, 0.0)
    assert guard.scale < 1
    assert not guard.fallen_back


def test_a_closure_is_judged_after_its_step_and_rolled_back() -> None:
    weights = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.LBFGS([weights], lr=0.1, max_iter=1)
    guard = Guard(nn.ParameterList([weights]), optimizer, every=4)
    factor = 1.0

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = factor * weights.square().sum()
        loss.backward()
        return loss

    for _ in range(6):
        assert guard.step(closure=closure)
    good = weights.detach().clone()
    factor = math.nan
    assert not guard.step(closure=closure)
    assert weights.isfinite().all()
    assert (weights.detach() >= good).all()  # an earlier, less advanced state
    assert [event for event, _ in guard.events] == ["guard.started", "guard.rolled-back"]


def test_memory_and_disk_stay_bounded(tmp_path: Path) -> None:
    for options in ({}, {"folder": tmp_path}):
        toy = Toy(every=1, keep=3, **options)
        toy.good(20)
        assert len(toy.guard._snapshots) == 3
    assert names(tmp_path) == {"good-17.pt", "good-18.pt", "good-19.pt"}


@pytest.mark.parametrize("share", [0.005, 0.1])
def test_writing_good_states_takes_its_share_of_the_time_and_no_more(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("sabun.rollout.guard.snapshots.time", SimpleNamespace(monotonic=lambda: clock[0]))
    real, written = DiskSnapshots._write, []

    def slow(self: DiskSnapshots, snapshot: Snapshot) -> None:
        clock[0] += 2.0
        written.append(snapshot.step)
        real(self, snapshot)

    monkeypatch.setattr(DiskSnapshots, "_write", slow)
    toy = Toy(folder=tmp_path, disk_share=share)
    for done in range(1, 1001):
        toy.good(1)
        clock[0] += 1.0
        elapsed = clock[0] - 100.0
        # Never more than the share and the one write that it allowed; never less than what fits in it.
        assert 2.0 * len(written) <= share * elapsed + 2.0
        assert 2.0 * len(written) >= share * (done - 10)
    assert toy.names == ["started", "writes-spaced"]  # told once
    # What is not on disk is in memory: a roll-back is none the worse for it.
    scripted(toy, [*[1.0] * 3, *[math.inf] * 4])
    assert dict(toy.guard.events)["guard.rolled-back"]["to_step"] == 1000
    toy.guard.close()
    again = Toy(folder=tmp_path)
    assert again.guard.resume() == written[-1]


def test_a_disk_that_fills_up_does_not_stop_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(folder=tmp_path)
    toy.good(5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        toy.good(5)
        with pytest.warns(SabunWarning, match="No space left"):
            toy.step(1.0)
        toy.good(4)
    assert toy.names == ["started", "not-written"]
    assert names(tmp_path) == {"good-0.pt"}  # whole states only
    for _ in range(4):
        assert not toy.step(math.inf)
    assert dict(toy.guard.events)["guard.rolled-back"]["to_step"] == 10  # from memory
    toy.good(10)
    assert names(tmp_path) == {"good-0.pt", "good-20.pt"}  # there is space again


def names(folder: Path) -> set[str]:
    """Names of the files in ``folder``, except the lock."""
    return {path.name for path in folder.iterdir()} - {".lock"}


def full(file: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_that_takes_no_state_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    toy = Toy(folder=tmp_path / "file" / "states")
    before = toy.state()
    with pytest.raises(StateError, match="cannot keep a good state"):
        toy.step()
    moved = {k for k, v in toy.state().items() if not torch.equal(v, before[k])}
    assert not {k for k in moved if k.endswith(("weight", "bias"))}
    with pytest.raises(StateError, match="a folder of its own"):
        Toy(folder=tmp_path / "file").step()
    monkeypatch.setattr(os, "fsync", full)
    toy = Toy(folder=tmp_path / "full")
    with pytest.raises(StateError, match="No space left"):
        toy.step()
    assert names(tmp_path / "full") == set()


def test_half_written_states_of_a_kill_are_cleared_away(tmp_path: Path) -> None:
    for name in ("good-20.pt.new", "good-20-rank1.pt.new", "notes.new"):
        (tmp_path / name).write_bytes(b"torn")
    assert Toy(folder=tmp_path).guard.resume() == 0
    assert names(tmp_path) == {"good-20-rank1.pt.new", "notes.new"}


def test_a_loop_can_go_on_from_its_own_checkpoint_before_and_after_a_fall_back() -> None:
    for told in ([1.0] * 25, [*[1.0] * 25, *[math.inf] * 4]):
        toy = Toy(max_rollbacks=1)
        scripted(toy, told)
        stored = copy.deepcopy((toy.model.state_dict(), toy.guard.optimizer.state_dict(), toy.guard.state_dict()))
        again = Toy(max_rollbacks=1)
        again.model.load_state_dict(stored[0])
        again.guard.load_state_dict(stored[2])
        again.guard.optimizer.load_state_dict(stored[1])
        assert again.guard.fallen_back == toy.guard.fallen_back
        assert again.guard.state_dict() == toy.guard.state_dict()
        for toys in (toy, again):
            torch.manual_seed(9)
            scripted(toys, [1.0] * 5)
        assert same(toy.state(), again.state())


def test_a_state_of_an_earlier_version_is_continued_and_any_other_key_is_missed() -> None:
    toy = Toy()
    toy.good(20)
    toy.guard.load_state_dict(
        {**(stored := toy.guard.state_dict()), "monitor": {**stored["monitor"], **loss_monitor.ADDED}}
    )
    stored = toy.guard.state_dict()
    blamed = copy.deepcopy(stored)
    blamed["policy"]["blamed"] = True
    toy.guard.load_state_dict(blamed)
    for part in ("policy", "schedule", "monitor"):
        for key in stored[part]:
            earlier = copy.deepcopy(stored)
            del earlier[part][key]
            if key in {**recovery_policy.ADDED, **loss_monitor.ADDED}:
                toy.guard.load_state_dict(earlier)
                assert toy.guard.state_dict() == stored
            else:
                with pytest.raises(StateError, match="not as a guard saved it"):
                    toy.guard.load_state_dict(earlier)
    toy.guard.load_state_dict({key: part for key, part in stored.items() if key not in guard_module._ADDED})
    assert toy.guard.state_dict() == stored


def test_resuming(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="in memory"):
        Toy().guard.resume()
    assert Toy(folder=tmp_path).guard.resume() == 0
    toy = Toy(folder=tmp_path, max_rollbacks=1)
    scripted(toy, [*[1.0] * 25, *[math.inf] * 4])  # the champion has taken over
    toy.good(20)
    toy.guard.close()
    again = Toy(folder=tmp_path, max_rollbacks=1)
    assert again.guard.resume() == 44  # sixteen losses after the fall-back were compared with those before
    assert again.guard.fallen_back
    assert isinstance(again.guard.optimizer, torch.optim.Adam)
    assert again.names == ["resumed"]


def test_a_log_that_cannot_be_written_does_not_stop_the_training(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("before")
    log.head_path.unlink()
    toy = Toy(audit=log)
    with pytest.warns(SabunWarning, match="could not be logged"):
        toy.good(1)
    toy.good(3)
    assert toy.names == ["started"]


def test_half_precision_gradients_are_not_taken_for_infinite() -> None:
    weights = nn.Parameter(torch.ones(10_000, dtype=torch.float16))
    guard = Guard(nn.ParameterList([weights]), torch.optim.SGD([weights], lr=1e-6))
    weights.grad = torch.full_like(weights, 6e4)  # finite, but its norm overflows float16
    assert guard.step(1.0)
    weights.grad[3] = math.inf
    assert not guard.step(1.0)


def test_sparse_and_missing_gradients() -> None:
    table = nn.Embedding(10, 2, sparse=True)
    unused = nn.Linear(2, 2)
    model = nn.ModuleList([table, unused])
    guard = Guard(model, torch.optim.SGD(model.parameters(), lr=0.1))
    loss = table(torch.tensor([1, 1, 3])).sum()
    loss.backward()
    assert guard.step(loss)
    table.weight.grad = table.weight.grad * math.nan
    assert not guard.step(loss)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_looking_at_gradients_finds_every_bad_number_and_moves_none(kind: torch.dtype) -> None:
    # Normal, subnormal, largest and signed numbers stay what they were, to the bit.
    weights = nn.Parameter(torch.zeros(67, dtype=kind))
    other = nn.Parameter(torch.zeros(3, 5, dtype=kind).t().contiguous().t())
    optimizer = torch.optim.SGD([weights, other], lr=0.0)
    figures = StepCheck()
    numbers = torch.finfo(kind)
    for at in (0, 31, 66):
        for bad in (None, math.nan, math.inf, -math.inf):
            weights.grad = torch.randn(67).to(kind)
            weights.grad[7:12] = torch.tensor(
                [numbers.max, numbers.min, numbers.tiny / 4, -0.0, numbers.smallest_normal], dtype=kind
            )
            other.grad = torch.randn(3, 5).to(kind)
            if bad is not None:
                weights.grad[at] = bad
            before = weights.grad.clone(), other.grad.clone()
            seen = figures(optimizer, torch.tensor(1.0))
            assert seen.loss == 1.0
            assert (seen.norm is None) == (bad is None)
            assert bad is None or not math.isfinite(seen.norm or 0.0)
            for held, now in zip(before, (weights.grad, other.grad), strict=True):
                fine = held.isfinite()
                assert torch.equal(held[fine].view(torch.uint8), now[fine].view(torch.uint8))
                assert torch.equal(held.isnan(), now.isnan())


def test_gradients_that_the_fused_look_does_not_take() -> None:
    weights = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    expanded = nn.Parameter(torch.ones(4, 2))
    graph = nn.Parameter(torch.ones(2))
    for parameter, grad in (
        (weights, torch.ones(3, dtype=torch.complex64)),
        (expanded, torch.ones(2).expand(4, 2)),
        (graph, torch.ones(2, requires_grad=True) * 2),
    ):
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        figures = StepCheck()
        parameter.grad = grad
        assert figures(optimizer, 1.0).norm is None
        parameter.grad = grad * math.nan
        assert math.isnan(figures(optimizer, 1.0).norm or 0.0)


def accumulate(parts: int, *, guarded: bool, bad: int = -1) -> tuple[dict[str, Tensor], list[str]]:
    """Thirty steps of ``parts`` micro-batches each; the micro-batch number ``bad`` has a gradient that is none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    guard = Guard(model, optimizer, every=10)
    data = torch.Generator().manual_seed(1)
    for step in range(30):
        optimizer.zero_grad()
        total = torch.zeros(())
        for part in range(parts):
            x = torch.randn(4, 4, generator=data)
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean() / parts
            loss.backward()
            total += loss.detach()
            if step * parts + part == bad:
                model[0].weight.grad[0, 0] = math.nan  # and the parts that follow add to it
        guard.step(total) if guarded else optimizer.step()
    return model.state_dict(), [event for event, _ in guard.events]


def test_with_accumulated_gradients_the_guard_sees_every_part_and_changes_nothing() -> None:
    plain, guarded = accumulate(4, guarded=False)[0], accumulate(4, guarded=True)[0]
    assert same(plain, guarded)
    state, events = accumulate(4, guarded=True, bad=4 * 15 + 1)
    assert events == ["guard.started", "guard.skipped"]
    assert all(tensor.isfinite().all() for tensor in state.values())


class Scaled:
    """A training with a GradScaler; ``fault`` at a step: an overflow of the scaled loss, or a gradient that is none."""

    def __init__(self, *, guarded: bool, clip: bool = False) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=1000)
        self.guard = Guard(self.model, self.optimizer, every=10) if guarded else None
        self.clip = clip
        self.data = torch.Generator().manual_seed(1)
        self.taken: list[bool] = []

    def step(self, fault: float = 1.0, told: float = 1.0) -> None:
        x = torch.randn(8, 4, generator=self.data)
        self.optimizer.zero_grad()
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        self.scaler.scale(loss).backward()
        self.model.weight.grad *= fault
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if self.guard is None:
            self.scaler.step(self.optimizer)
        else:
            self.taken.append(self.guard.step(loss.detach() * told, scaler=self.scaler))
        self.scaler.update()


@pytest.mark.parametrize("clip", [False, True])
def test_with_a_grad_scaler_the_guard_changes_nothing_and_an_overflow_is_the_scalers_business(clip: bool) -> None:
    plain, guarded = Scaled(guarded=False, clip=clip), Scaled(guarded=True, clip=clip)
    for one in (plain, guarded):
        for step in range(30):
            one.step(math.inf if step in (5, 6, 20) else 1.0)
    assert torch.equal(plain.model.weight, guarded.model.weight)
    assert plain.scaler.get_scale() == guarded.scaler.get_scale() == 2.0**13
    assert [step for step, taken in enumerate(guarded.taken) if not taken] == [5, 6, 20]
    assert guarded.guard is not None
    assert [event for event, _ in guarded.guard.events] == ["guard.started"]


def test_with_a_grad_scaler_what_the_scale_does_not_explain_is_trouble() -> None:
    one = Scaled(guarded=True)
    for step in range(30):
        one.step(told=math.nan if step == 12 else 1.0)
    assert one.guard is not None
    assert [event for event, _ in one.guard.events] == ["guard.started", "guard.skipped"]
    assert one.scaler.get_scale() == 2.0**16  # the gradients were fine
    for _ in range(16):  # a gradient that is never finite uses the scale up,
        one.step(math.nan)
    assert one.scaler.get_scale() == 1.0
    assert len(one.guard.events) == 2
    one.step(math.nan)  # and then it is not the scale's fault any more
    event, data = one.guard.events[-1]
    assert (event, data["reason"]) == ("guard.skipped", "gradient-not-finite")
    assert one.model.weight.isfinite().all()
    with pytest.raises(OptionError, match="takes no closure"):
        one.guard.step(closure=lambda: torch.zeros(()), scaler=one.scaler)


@pytest.mark.parametrize(
    "options",
    [
        {"disk_share": 0.0},
        {"disk_share": 2.0},
        {"every": 0},
        {"keep": 0},
        {"max_rollbacks": 1.5},
        {"cut": 1.0},
        {"cut": 0.0},
        {"recover_after": -1},
    ],
)
def test_options_that_make_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Toy(**options)


def test_loss_or_closure() -> None:
    toy = Toy()
    for arguments in ({}, {"loss": 1.0, "closure": lambda: 1.0}):
        with pytest.raises(OptionError, match="either"):
            toy.guard.step(**arguments)  # type: ignore[arg-type]


def test_under_ddp_all_ranks_decide_alike_and_one_writes(two_ranks: TwoRanks, tmp_path: Path) -> None:
    ranks = two_ranks("guard", tmp_path)
    assert ranks[0]["taken"] == ranks[1]["taken"]
    assert [rank["resumed"] for rank in ranks] == [10, 10]
    assert not (tmp_path / "states" / "good-20.pt").exists()
    assert [i for i, taken in enumerate(ranks[0]["taken"]) if not taken] == [*range(30, 34), *range(35, 39), 45]
    assert torch.equal(ranks[0]["weights"], ranks[1]["weights"])
    assert ranks[0]["weights"].isfinite().all()
    events = [event for event, _ in ranks[0]["events"]]
    assert events == [event for event, _ in ranks[1]["events"]]
    skipped = ["guard.skipped"] * 3
    assert events[:9] == ["guard.started", *skipped, "guard.rolled-back", *skipped, "guard.fell-back"]
    assert [record.event for record in AuditLog(tmp_path / "audit.jsonl").read()] == events
