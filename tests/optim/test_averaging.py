"""Averages against torch.optim.swa_utils and closed forms; and that no switch can be forgotten."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn, update_bn
from training import backward, batches, flat, network, train

import sabun
from sabun.errors import OptionError, StateError
from sabun.optim import recalibrated

KINDS = {
    "ema": {"averaging": "ema(decay=0.9)"},
    "tail": {"averaging": "tail(start=5)"},
    "schedule-free": {"averaging": "schedule-free"},
}


def make(params, kind: str, **options):
    return sabun.Optimizer(params, 0.05, scheme="nesterov", **KINDS[kind], **options)


@pytest.mark.parametrize(
    ("kind", "function", "start"),
    [("ema", {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}, 0), ("tail", {"avg_fn": get_swa_avg_fn()}, 5)],
)
def test_the_average_is_that_of_swa_utils(kind: str, function, start: int) -> None:
    model = network()
    optimizer, averaged = make(model.parameters(), kind), AveragedModel(model, **function)
    for n, batch in enumerate(batches(20)):
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step()
        if n >= start:
            averaged.update_parameters(model)
    with optimizer.averaged():
        torch.testing.assert_close(flat(model.parameters()), flat(averaged.module.parameters()), rtol=1e-12, atol=1e-14)


def test_schedule_free_hands_out_the_mean_of_the_base_points() -> None:
    """With Euler steps of constant length x is the plain mean of z_1 … z_n, and y = 0.9x + 0.1z."""
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = sabun.Optimizer([p], 0.1, averaging="schedule-free")
    z, points = torch.ones(3, dtype=torch.float64), []
    for n in range(15):
        g = torch.full_like(p, float(n) - 3) + p.detach()
        p.grad = g.clone()
        optimizer.step()
        z = z - 0.1 * g
        points.append(z)
        mean = torch.stack(points).mean(0)
        torch.testing.assert_close(p.detach(), 0.9 * mean + 0.1 * z, rtol=1e-12, atol=1e-14)
        with optimizer.averaged():
            torch.testing.assert_close(p.detach(), mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_looking_at_the_average_leaves_no_trace(kind: str) -> None:
    a, b = network(), network()
    plain, looked = make(a.parameters(), kind), make(b.parameters(), kind)
    for batch in batches(12):
        train(a, plain, [batch])
        train(b, looked, [batch])
        with looked.averaged():
            inside = flat(b.parameters())
        assert torch.equal(flat(a.parameters()), flat(b.parameters()))
    assert not torch.equal(inside, flat(b.parameters()))
    with pytest.raises(ZeroDivisionError), looked.averaged():
        raise ZeroDivisionError
    assert torch.equal(flat(a.parameters()), flat(b.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_from_inside_the_block_holds_both_points(kind: str) -> None:
    model, data = network(), batches(16)
    optimizer = make(model.parameters(), kind)
    train(model, optimizer, data[:8])
    with optimizer.averaged():
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        inside = flat(model.parameters())
    twin = network(seed=5)
    twin.load_state_dict(saved[0])
    assert torch.equal(flat(twin.parameters()), inside)  # the model alone is the average, ready to be shipped
    resumed = make(twin.parameters(), kind)
    resumed.load_state_dict(saved[1])
    assert torch.equal(flat(twin.parameters()), flat(model.parameters()))  # the optimizer brings the training point
    with resumed.averaged():
        assert torch.equal(flat(twin.parameters()), inside)
    train(model, optimizer, data[8:])
    train(twin, resumed, data[8:])
    assert torch.equal(flat(twin.parameters()), flat(model.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_inside_the_block_is_an_error_and_does_nothing(kind: str) -> None:
    model = network()
    optimizer = make(model.parameters(), kind)
    train(model, optimizer, batches(3))
    kept, state = flat(model.parameters()), copy.deepcopy(optimizer.state_dict())
    backward(model, batches(1)[0])
    with optimizer.averaged():
        with pytest.raises(StateError, match="averaged"):
            optimizer.step()
        with pytest.raises(StateError, match="already active"), optimizer.averaged():
            pass
        with pytest.raises(StateError, match="load_state_dict"):
            optimizer.load_state_dict(state)
    assert torch.equal(flat(model.parameters()), kept)
    optimizer.step()


def test_without_averaging_or_before_the_first_step_the_block_changes_nothing() -> None:
    model = network()
    for optimizer in (sabun.Optimizer(model.parameters(), 0.1), make(model.parameters(), "ema")):
        kept = flat(model.parameters())
        with optimizer.averaged():
            assert torch.equal(flat(model.parameters()), kept)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_batch_norm_is_recalibrated_for_the_average_and_restored() -> None:
    torch.manual_seed(0)
    model = Normed().double()
    optimizer, data = make(model.parameters(), "ema"), batches(10)
    train(model, optimizer, data)
    before = copy.deepcopy(model.state_dict())
    with optimizer.averaged():
        expected = copy.deepcopy(model)
        update_bn([x for x, _ in data], expected)
        with recalibrated(model, data):
            for (name, mine), theirs in zip(model.named_buffers(), expected.buffers(), strict=True):
                torch.testing.assert_close(mine, theirs, msg=name)
            assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.layers[1].momentum == 0.1
    with pytest.raises(OptionError, match="no batches"), recalibrated(model, []):
        pass
    with recalibrated(network(), []) as untouched:  # without batch norms there is nothing to do
        assert isinstance(untouched, nn.Sequential)
