"""The guard never makes things worse: folders, progress, loss scaling, full disks, interruptions, false alarms."""

from __future__ import annotations

import errno
import importlib.util
import itertools
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sabun import _files
from sabun.errors import SabunWarning, StateError, TrainingError
from sabun.rollout.guard import snapshots
from sabun.rollout.guard.guard import Guard

ROOT = Path(__file__).parents[2]


def champion(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.002, momentum=0.9)


class Line:
    """A regression whose gradient is NaN at the steps ``bad``."""

    def __init__(self, seed: int = 0, target: float = 1.0, **options: Any) -> None:
        torch.manual_seed(seed)
        self.model = nn.Linear(8, 1)
        self.target = target
        self.given = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.guard = Guard(self.model, self.given, **{"every": 10, "disk_share": 1.0, "champion": champion, **options})

    def step(self, bad: bool = False, told: float | None = None) -> bool:
        self.given.zero_grad()
        x = torch.randn(32, 8)
        loss = (self.model(x) - self.target * x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        if bad:
            self.model.weight.grad.fill_(math.nan)
        return self.guard.step(loss if told is None else told)

    def run(self, steps: int, bad: Callable[[int], bool] = lambda step: False) -> Line:
        for step in range(steps):
            self.step(bad(step))
        return self

    def events(self, *names: str) -> list[dict[str, Any]]:
        return [data for event, data in self.guard.events if event.removeprefix("guard.") in names]


# ---------------------------------------------------------------------- a folder belongs to one training


def test_a_folder_with_states_is_never_loaded_from_unasked(tmp_path: Path) -> None:
    Line(target=-3.0, folder=tmp_path).run(200).guard.close()
    second = Line(seed=1, folder=tmp_path)
    before = second.model.weight.detach().clone()
    with pytest.raises(StateError, match=r"before step 190.*resume\(\).*another folder"):
        second.step()
    assert torch.equal(before, second.model.weight)
    third = Line(seed=1, folder=tmp_path)  # the refused one does not keep the folder
    assert third.guard.resume() == 190
    assert (third.model.weight < -0.5).all()


@pytest.mark.parametrize("difference", ["job", "model", "optimizer", "dtype"])
def test_the_folder_of_another_training_is_refused(difference: str, tmp_path: Path) -> None:
    Line(folder=tmp_path, job_id="a").run(25).guard.close()
    model: nn.Module = {"model": nn.Linear(7, 1), "dtype": nn.Linear(8, 1).double()}.get(difference, nn.Linear(8, 1))
    made: Callable[..., torch.optim.Optimizer] = torch.optim.SGD if difference == "optimizer" else torch.optim.AdamW
    optimizer = made(model.parameters(), lr=0.01)
    job = "b" if difference == "job" else "a"
    for ask in (lambda guard: guard.resume(), lambda guard: guard.step(1.0)):
        with pytest.raises(StateError, match=r"belongs to another training.*job 'a'.*another folder"):
            ask(Guard(model, optimizer, folder=tmp_path, job_id=job))
    assert {path.name for path in tmp_path.glob("*.pt")} == {"good-10.pt", "good-20.pt"}
    assert Line(folder=tmp_path, job_id="a").guard.resume() == 20


LOCKED = """
import sys, torch, sabun
from sabun.rollout.guard import snapshots
snapshots.LOCK_SECONDS = 0.0
model = torch.nn.Linear(8, 1)
guard = sabun.Guard(model, torch.optim.AdamW(model.parameters(), lr=0.01), folder=sys.argv[1])
try:
    guard.step(1.0)
except sabun.errors.StateError as error:
    print(error)
"""


def test_two_guards_cannot_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "LOCK_SECONDS", 0.0)
    first = Line(folder=tmp_path).run(5)
    with pytest.raises(StateError, match=r"in use by another guard of this process.*close\(\)"):
        Line(folder=tmp_path).guard.resume()
    command = [sys.executable, "-c", LOCKED, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"in use by another guard (process {os.getpid()})" in said
    worker = os.fork()  # a data loader's worker that outlives the training does not keep the lock
    if worker == 0:
        signal.pause()
    try:
        first.guard.close()
        assert Line(folder=tmp_path).guard.resume() == 0
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_where_there_are_no_locks_training_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(_files, "lock", none)
    line = Line(folder=tmp_path)
    with pytest.warns(SabunWarning, match="cannot be locked"):
        line.run(25)
    assert {path.name for path in tmp_path.glob("*.pt")} == {"good-10.pt", "good-20.pt"}


# ---------------------------------------------------------------------- damaged files


def test_an_empty_newest_state_is_passed_over(tmp_path: Path) -> None:
    Line(folder=tmp_path).run(25).guard.close()
    (tmp_path / "good-20.pt").write_bytes(b"")
    again = Line(folder=tmp_path)
    with pytest.warns(SabunWarning, match=r"good-20\.pt is not used"):
        assert again.guard.resume() == 10
    again.guard.close()
    if hasattr(os, "mkfifo"):
        (tmp_path / "good-20.pt").unlink()
        os.mkfifo(tmp_path / "good-20.pt")
    again = Line(folder=tmp_path)
    with pytest.warns(SabunWarning, match=r"good-20\.pt is not used"):
        assert again.guard.resume() == 10
    again.run(15)
    assert {path.name for path in tmp_path.glob("*.pt")} == {"good-10.pt", "good-20.pt"}
    again.guard.close()
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(SabunWarning), pytest.raises(StateError, match=r"no state in .* is whole.*good-10\.pt"):
        Line(folder=tmp_path).guard.resume()


@cache
def stored_states() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        Line(folder=folder).run(15).guard.close()
        return {path.name: path.read_bytes() for path in Path(folder).glob("*.pt")}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_state_is_never_restored(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("states")
    for name, held in stored_states().items():
        (folder / name).write_bytes(held)
    kept = folder / "good-10.pt"
    content = bytearray(kept.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "rename"]))
    if kind == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del content[at:]
    elif kind == "insert":
        content[at:at] = bytes(data.draw(st.binary(min_size=1, max_size=8)))
    kept.write_bytes(content)
    if kind == "rename":
        kept.rename(folder / "good-12.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SabunWarning)
        assert Line(folder=folder).guard.resume() == 0  # the state before the first step


# ---------------------------------------------------------------------- progress is bounded below

PATTERNS = ["BBG", "BBBG", "BBGG", "BG", "BBBBBBBBBBBBG", "B", "G", "BBBBBBBGGGGGG"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bad_batches_in_a_pattern_never_stop_progress_unless_all_are_bad(pattern: str) -> None:
    line = Line().run(100)
    try:
        line.run(2000, lambda step: pattern[step % len(pattern)] == "B")
    except TrainingError as error:
        assert set(pattern) == {"B"}
        assert "batches in succession fail" in str(error)  # noqa: PT017
    else:
        share = pattern.count("G") / len(pattern)
        assert line.guard.updates >= 100 + 0.9 * 2000 * share - 40
        assert not line.guard.fallen_back
        assert line.guard.scale == 1.0


def progress(pattern: list[tuple[float, int]], every: int, closure: bool) -> None:
    """Assert that in any 3·horizon + 1 calls the updates reach a new maximum, or the guard falls back or ends."""
    weights = nn.Parameter(torch.ones(1))
    guard = Guard(nn.ParameterList([weights]), torch.optim.SGD([weights], lr=0.0), every=every, champion=champion)
    bound = 3 * 10 * max(every, 32) + 1
    most = since = 0
    fallen_back = False
    losses = itertools.chain(
        itertools.repeat(1.0, 40), itertools.cycle([loss for loss, times in pattern for _ in range(times)])
    )
    for _, loss in zip(range(4 * bound), losses, strict=False):
        weights.grad = torch.zeros(1)
        try:
            guard.step(closure=lambda loss=loss: torch.tensor(loss)) if closure else guard.step(loss)
        except TrainingError:
            return
        since += 1
        if guard.updates > most or guard.fallen_back > fallen_back:
            most, since, fallen_back = guard.updates, 0, guard.fallen_back
        assert since < bound


BAD = st.sampled_from([math.nan, math.inf, 1e9, 1e3, 20.0, 5.0])
PARTS = st.lists(st.tuples(st.one_of(st.just(1.0), BAD), st.integers(1, 300)), min_size=1, max_size=8)


@pytest.mark.filterwarnings("ignore:the losses rose")
@settings(max_examples=30, deadline=None)
@given(PARTS, st.sampled_from([1, 5, 20]), st.booleans())
@example([(math.nan, 2), (1.0, 1)], 20, False)
@example([(math.nan, 3), (1.0, 1)], 20, False)
@example([(math.nan, 4), (1.0, 1)], 20, False)
@example([(math.nan, 2), (1.0, 2)], 20, True)
@example([(1.0, 13), (20.0, 17)], 20, False)
def test_progress_is_bounded_below(pattern: list[tuple[float, int]], every: int, closure: bool) -> None:
    progress(pattern, every, closure)


# ---------------------------------------------------------------------- loss scaling


@pytest.mark.parametrize("unscaled_by", ["the loop", "the loop, through the champion", "the guard"])
def test_after_a_fall_back_gradients_are_unscaled_once(unscaled_by: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    given = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen: list[float] = []

    class Champion(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append(model.weight.grad.norm().item())
            return super().step(closure)

    guard = Guard(model, given, champion=lambda p: Champion(p, lr=0.02), every=20, max_rollbacks=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=10**9)
    true, losses = [], []
    for step in range(300):
        x = torch.randn(32, 8)
        given.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        exact = torch.autograd.grad(loss, model.weight, retain_graph=True)[0].norm().item()
        scaler.scale(loss).backward()
        if step == 200:
            model.weight.grad.fill_(math.inf)  # an overflow under the champion
        if unscaled_by != "the guard":
            scaler.unscale_(given if unscaled_by == "the loop" else guard.optimizer)
        taken = guard.step(loss * math.nan if 100 <= step < 104 else loss, scaler=scaler)
        scaler.update()
        assert taken == (step not in (100, 101, 102, 103, 200))
        if taken and guard.fallen_back:
            true.append(exact)
        losses.append(loss.item())
    assert guard.fallen_back
    assert scaler.get_scale() == 2.0**15
    assert seen == pytest.approx(true, rel=1e-4)
    assert losses[-1] < 1e-3


# ---------------------------------------------------------------------- faults of disk and memory


def full(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_is_full_at_the_fall_back(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(seed, folder=tmp_path, max_rollbacks=2).run(55)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(SabunWarning, match="could not be written"):
            line.run(9, lambda step: step != 4)
    assert line.guard.fallen_back
    assert {path.name for path in tmp_path.glob("*.pt")} == {"good-40.pt", "good-50.pt"}  # the challenger's
    for step in range(40):
        line.step(step in (3, 4, 5, 6, 7, 8, 9, 10, 11))
    assert min(data["to_step"] for data in line.events("rolled-back")[1:]) >= 60  # never to the challenger's
    names = {path.name for path in tmp_path.glob("*.pt")}
    assert names.isdisjoint({"good-40.pt", "good-50.pt"})
    line.guard.close()
    assert Line(folder=tmp_path, max_rollbacks=2).guard.resume() >= 60


@pytest.mark.parametrize("call", ["fsync", "write", "unlink"])
def test_a_write_that_fails_at_any_time_costs_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(place: Path, fails: int) -> Tensor:
        calls = itertools.count(-(10**9))
        real = {"fsync": os.fsync, "unlink": Path.unlink, "write": snapshots._Hashed.write}[call]

        def fail(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if next(calls) == fails:
                full()
            return real(*arguments, **options)  # type: ignore[operator]

        where = {"fsync": (os, "fsync"), "unlink": (Path, "unlink"), "write": (snapshots._Hashed, "write")}[call]
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", SabunWarning)
            patch.setattr(*where, fail)
            line = Line(folder=place, max_rollbacks=2).run(1)  # the first state must be written
            calls = itertools.count()
            line.run(59, lambda step: step in (*range(25, 29), *range(32, 36)))
        assert line.guard.fallen_back
        line.guard.close()
        resumed = Line(folder=place, max_rollbacks=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SabunWarning)
            assert resumed.guard.resume() >= 30
        assert resumed.guard.fallen_back
        return line.model.weight.detach()

    undisturbed = train(tmp_path / "whole", -1)
    for fails in range(8):
        assert torch.equal(train(tmp_path / str(fails), fails), undisturbed)


@pytest.mark.parametrize("what", ["parameter", "buffer", "optimizer"])
def test_weights_that_break_between_backward_and_the_guard_are_not_kept(what: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))  # infinite for good
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    guard = Guard(model, optimizer, every=10)
    taken = []
    for step in range(60):
        optimizer.zero_grad()
        x = torch.randn(32, 8)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        if step == 30:  # a state is to be kept at this step
            broken = {
                "parameter": model[0].weight.data,
                "buffer": model[1].running_var,
                "optimizer": optimizer.state[model[0].weight]["exp_avg"],
            }[what]
            broken.view(-1)[0] = math.nan
        taken.append(guard.step(loss))
    assert [step for step, one in enumerate(taken) if not one] == [30]
    (data,) = [data for event, data in guard.events if event == "guard.rolled-back"]
    assert (data["reason"], data["to_step"]) == ("state-not-finite", 20)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_corrupted_state_that_was_kept_is_given_up_for_an_older_one() -> None:
    line = Line().run(30)
    line.step()  # kept at 30, and damaged there
    newest = line.guard._snapshots.get(30)
    assert newest is not None
    newest.tensors["weight"].fill_(1e15)
    line.model.weight.data.fill_(1e15)
    line.run(30)
    assert [data["to_step"] for data in line.events("rolled-back")] == [30, 20]
    assert line.model.weight.abs().max() < 10


# ---------------------------------------------------------------------- interruptions


def whole_state(line: Line) -> list[Tensor]:
    state = line.guard.optimizer.state_dict()["state"]
    tensors = [one for kept in state.values() for one in kept.values() if isinstance(one, Tensor)]
    return [one.detach().clone() for one in (*line.model.parameters(), *tensors)]


@pytest.mark.parametrize("action", ["roll-back", "fall-back"])
def test_an_interruption_at_any_line_of_a_restore_leaves_a_whole_state(
    action: str, request: pytest.FixtureRequest
) -> None:
    def prepared() -> Line:
        line = Line(max_rollbacks=1 if action == "fall-back" else 3).run(25)
        for _ in range(3):
            line.step(bad=True)
        return line

    def interrupt_at(number: int) -> Callable[[FrameType, str, Any], Any]:
        lines = itertools.count()

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if "rollout/guard" not in frame.f_code.co_filename:
                return None
            if event == "line" and next(lines) == number:
                signal.raise_signal(signal.SIGINT)
            return trace

        return trace

    # A process that a shell has started in the background ignores SIGINT.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, previous))
    line = prepared()
    before = whole_state(line)
    line.step(bad=True)
    after = whole_state(line)
    assert not torch.equal(before[0], after[0])
    interrupted = 0
    for number in range(0, 100_000, 5):
        line = prepared()
        own = sys.gettrace()
        line.given.zero_grad()
        x = torch.randn(32, 8)
        (line.model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        line.model.weight.grad.fill_(math.nan)
        sys.settrace(interrupt_at(number))
        try:
            line.guard.step(1.0)
        except KeyboardInterrupt:
            interrupted += 1
        else:
            break
        finally:
            sys.settrace(own)
        now = whole_state(line)
        assert any(len(now) == len(one) and all(map(torch.equal, now, one)) for one in (before, after))
        line.run(3)
        assert all(p.isfinite().all() for p in line.model.parameters())
    assert interrupted > 20


# ---------------------------------------------------------------------- phases and false alarms


def test_a_new_phase_makes_newer_states_the_better_ones_and_a_higher_rate_no_fault() -> None:
    line = Line(max_rollbacks=1).run(30)
    for _ in range(4):
        line.step(bad=True)
    assert line.guard.fallen_back
    line.given.param_groups[0]["lr"] *= 100
    line.guard.new_phase()
    for _ in range(100):
        assert line.step(told=50.0)  # 100 times the loss of before
    assert line.guard._schedule_fault == 1.0
    assert [event for event, _ in line.guard.events][-1] == "guard.new-phase"


def test_a_level_that_a_state_of_before_gives_too_is_the_datas() -> None:
    """Unannounced and for good, then in turn: one comparison, and training goes on where it was."""
    line, pick = Line().run(5), random.Random(0)
    losses = [6.0 if 200 <= step < 700 or (step >= 700 and step // 150 % 2) else 1.0 for step in range(2000)]
    with pytest.warns(SabunWarning, match="does no better on the same data") as warned:
        told = [line.step(told=loss * (1 + 0.1 * pick.gauss(0, 1))) for loss in losses]
    assert len(warned) == 1
    assert 1 + 4 <= told.count(False) <= 1 + 18
    assert [event for event, _ in line.guard.events] == ["guard.started", "guard.new-phase"]
    (data,) = line.events("new-phase")
    assert (data["suspect"], data["reason"]) == ("data", "loss-jump")
    assert 190 <= data["compared_with"] <= 210
    assert line.guard.scale == 1.0
    assert line.guard.updates == 5 + told.count(True)


class Shifted(Line):
    """A regression whose targets have a part, from step ``at`` on, that no state of the model predicts."""

    def __init__(self, at: int = 100, **options: Any) -> None:
        super().__init__(**options)
        self.at = at

    def step(self, bad: bool = False, told: float | None = None, closure: bool = False) -> bool:
        shift = 1.0 if self.guard.steps >= self.at else 0.0
        x = torch.randn(32, 8)
        wanted = 0.1 * x.sum(1, keepdim=True) + shift * x[:, :1] * x[:, 1:2]

        def loss() -> Tensor:
            self.given.zero_grad()
            made = (self.model(x) - wanted).square().mean()
            made.backward()
            return made

        return self.guard.step(closure=loss) if closure else self.guard.step(loss())


@pytest.mark.parametrize("closure", [False, True])
def test_a_comparison_leaves_the_present_state_to_the_bit(closure: bool) -> None:
    line = Shifted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SabunWarning)
        for _ in range(400):
            before = whole_state(line)
            line.step(closure=closure)
            if line.guard._comparison is not None:
                break
        assert line.guard._comparison is not None
        seen = set()
        while line.guard._comparison is not None:
            seen.add(float(line.model.weight[0, 0].detach()))
            assert not line.step(closure=closure)
    assert len(seen) == 2
    if closure:  # the anomaly was found after its step
        assert not torch.equal(whole_state(line)[0], before[0])
        assert (whole_state(line)[0] - before[0]).abs().max() < 0.011  # one step of AdamW at a rate of 0.01
    else:
        assert all(map(torch.equal, whole_state(line), before))
    assert [event for event, _ in line.guard.events] == ["guard.started", "guard.new-phase"]
    assert line.step(closure=closure)


@pytest.mark.parametrize("end", ["state_dict", "close", "new_phase"])
def test_a_comparison_that_is_cut_short_leaves_the_present_state(end: str) -> None:
    for extra in range(4):
        line = Shifted()
        for _ in range(400):
            present = line.model.weight.detach().clone()
            line.step()
            if line.guard._comparison is not None:
                break
        line.run(extra)
        getattr(line.guard, end)()
        assert torch.equal(line.model.weight, present)
        assert line.guard._comparison is None


@pytest.mark.filterwarnings("ignore:the losses rose")
def test_a_comparison_under_a_gradient_scaler_lets_the_loop_update_it() -> None:
    line, scaler = Shifted(), torch.amp.GradScaler("cpu", init_scale=2.0**4)
    for step in range(400):
        line.given.zero_grad()
        x = torch.randn(32, 8)
        wanted = 0.1 * x.sum(1, keepdim=True) + (step >= 100) * x[:, :1] * x[:, 1:2]
        loss = (line.model(x) - wanted).square().mean()
        scaler.scale(loss).backward()
        line.guard.step(loss, scaler=scaler)
        scaler.update()
    assert len(line.events("new-phase")) == 1
    assert all(p.isfinite().all() for p in line.model.parameters())


def _corpus() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("guard_corpus", ROOT / "benchmarks" / "guard_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


corpus = _corpus()


@pytest.mark.parametrize("name", corpus.TESTED)
def test_a_healthy_training_is_left_alone(name: str) -> None:
    assert corpus.healthy(name, seed=0) == []


def test_the_corpus_has_enough_kinds_and_two_halves_of_them() -> None:
    halves = corpus.halves()
    assert len(corpus.KINDS) >= 50
    assert set(halves["development"]).isdisjoint(halves["check"])
    assert {*halves["development"], *halves["check"]} == set(corpus.KINDS)


@pytest.mark.filterwarnings("ignore:the losses rose")
@pytest.mark.parametrize("fault", corpus.FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    for base in ("regression, SGD", "classification, AdamW"):
        outcome = corpus.planted(fault, base, seed=0)[0]
        assert outcome == "caught" or (outcome, fault) == ("told", "dead inputs, for good"), base


@pytest.mark.parametrize(
    ("fault", "base", "most"),
    [
        ("rate times 1.02 a step", "classification, SGD", 2.0),
        ("rate times 1.02 a step", "absolute loss, AdamW", 2.0),
        ("weights times 1.01 a step", "absolute loss, AdamW", 4.0),
    ],
)
def test_a_fault_with_a_slow_onset_is_caught_and_undone(fault: str, base: str, most: float) -> None:
    """``most``: largest loss at the end over that of the training without the fault."""
    outcome, _, _, ratio = corpus.onset(fault, base, seed=0)
    assert outcome == "caught"
    assert ratio < most < 0.1 * corpus.end_without_guard(fault, base, 0) / corpus.end_without_guard("", base, 0)
