"""λ and the margin. Oracles: dense eigenvalues by NumPy, closed forms, and descent that does or does not blow up."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sabun import optim
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve
from sabun.poc.seeds import Seeds
from sabun.poc.spec import Run, Study
from sabun.poc.tasks.task import Scores
from sabun.poc.training.curvature import ITERATIONS, Probe, largest_eigenvalue
from sabun.poc.training.trainer import Trainer

from .helpers import SGD, tiny_study, untimed


def train(study: Study, arm: str, phase: str, *, task: Any = None, lr: float = 0.02) -> RunResult:
    run = Run.model_validate({"arm": arm, "seed": 0, "phase": phase, "hyperparameters": {"lr": lr}})
    *_, last = Trainer(resolve(study, task)).run(run)
    assert isinstance(last, RunResult)
    return last


class Custom:
    """A session of the user's own: any loss of a model, with ``steps`` batches an epoch."""

    def __init__(self, model: nn.Module, loss: Any, steps: int = 4) -> None:
        self.model, self._loss, self.steps_per_epoch = model, loss, steps

    def loss(self, step: int) -> Tensor:
        return self._loss(self.model, step)

    def evaluate(self, split: str) -> Scores:
        self.model.eval()
        with torch.no_grad():
            return Scores(float(self._loss(self.model, 0)), None)


class Bowl(nn.Module):
    """½ Σ aᵢ θᵢ², whose Hessian is diag(a)."""

    def __init__(self, *a: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(len(a)))
        self.a = torch.tensor(a)

    def forward(self) -> Tensor:
        return 0.5 * (self.a * self.theta**2).sum()


def bowl(*a: float) -> Custom:
    return Custom(Bowl(*a), lambda model, step: model())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 2, 3, 40, 200])
def test_the_largest_eigenvalue_of_a_dense_matrix(size: int, seed: int) -> None:
    """Of a spectrum like a network's: a few outliers, many small values, and the largest in modulus negative."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    values = np.sort(rng.exponential(0.5, size))
    values[-1] += 2.0
    if size > 1:
        values[0] = -20.0
    matrix = torch.tensor(q @ np.diag(values) @ q.T)
    calls = 0

    def product(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return matrix @ v

    found, vector = largest_eigenvalue(product, torch.tensor(rng.normal(size=size)))
    assert values[-1] * 0.99 <= found <= values[-1] * (1 + 1e-9)
    assert calls <= ITERATIONS + 1
    assert float(vector @ matrix @ vector) == pytest.approx(found, rel=1e-6)


def test_it_is_no_more_than_the_largest_however_few_the_iterations() -> None:
    matrix = torch.diag(torch.arange(1.0, 101.0))
    found = [largest_eigenvalue(lambda v: matrix @ v, torch.ones(100), iterations=n)[0] for n in range(12)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(50.5)  # the mean
    assert found[-1] <= 100.0


def test_a_map_that_is_zero_or_not_finite() -> None:
    assert largest_eigenvalue(torch.zeros_like, torch.ones(3))[0] == 0.0
    assert math.isnan(largest_eigenvalue(lambda v: v * math.inf, torch.ones(3))[0])
    assert math.isnan(largest_eigenvalue(lambda v: v * math.nan, torch.ones(3))[0])


def test_least_squares_in_closed_form() -> None:
    """Mean squared error of a linear model: H = 2 X̃ᵀX̃/n on batch 0, the same at all weights. x̄ = 38, h = lr/(1 − β)."""
    study = tiny_study()
    trainer = Trainer(resolve(study))
    result = train(study, SGD, "repeat", lr=0.02)
    batches: list[Tensor] = []
    source = trainer.task.source  # type: ignore[attr-defined]
    plain, source.loss = source.loss, lambda model, batch: batches.append(batch[0]) or plain(model, batch)
    from sabun.poc.seeds import seeds_of

    trainer.task.session(seeds_of(study, Run(arm=SGD, seed=0, phase="repeat"))).loss(0)
    x = np.hstack([batches[0].numpy(), np.ones((4, 1))]).astype(float)
    exact = np.linalg.eigvalsh(2 * x.T @ x / 4)[-1]
    for epoch in result.epochs:
        assert epoch.lr is not None
        assert epoch.extra["curvature"] == pytest.approx(exact, rel=1e-4)
        assert epoch.extra["margin"] == pytest.approx(1 - exact * (epoch.lr / 0.1) / 38, rel=1e-4)
    assert [e.epoch for e in result.epochs] == [0, 1, 2, 3]


class Net(nn.Module):
    """What a network has: attention, normalisation, a frozen weight, one that no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.norm, self.out = nn.Linear(4, 12), nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.frozen, self.unused = nn.Parameter(torch.ones(4), requires_grad=False), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(-1, 5, 3, 4).unbind(2)
        y = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0].mean(1)
        return self.out(self.norm(y * self.frozen))


def net() -> Custom:
    torch.manual_seed(0)
    x, y = torch.randn(6, 5, 4), torch.randint(0, 3, (6,))
    return Custom(Net(), lambda model, step: nn.functional.cross_entropy(model(x), y))


def test_a_network_against_its_dense_hessian() -> None:
    session = net()
    model = session.model.train()
    found = Probe(session, torch.optim.SGD(model.parameters(), lr=0.5)).read()
    held = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad and n != "unused"}
    sizes = [p.numel() for p in held.values()]

    def loss(flat: Tensor) -> Tensor:
        pieces = zip(held.items(), flat.split(sizes), strict=True)
        weights = {name: piece.view_as(p) for (name, p), piece in pieces}
        x = torch.func.functional_call(model, weights, (INPUT,))
        return nn.functional.cross_entropy(x, TARGET)

    torch.manual_seed(0)
    INPUT, TARGET = torch.randn(6, 5, 4), torch.randint(0, 3, (6,))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(loss, torch.cat([p.flatten() for p in held.values()]))
    exact = float(np.linalg.eigvalsh(hessian.double().numpy())[-1])
    assert found["curvature"] == pytest.approx(exact, rel=0.01)
    assert found["margin"] == pytest.approx(1 - 0.5 * found["curvature"] / 2, rel=1e-6)


def test_the_probe_leaves_no_trace() -> None:
    session = net()
    model = session.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    session.loss(0).backward()
    optimizer.step()
    model.norm.eval()  # modes differ from module to module
    state = {n: v.clone() for n, v in model.state_dict().items()}
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    modes = [m.training for m in model.modules()]
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert set(Probe(session, optimizer).read()) == {"curvature", "margin"}
    assert all(torch.equal(state[n], v) for n, v in model.state_dict().items())
    assert all(torch.equal(g, dict(model.named_parameters())[n].grad) for n, g in gradients.items())  # type: ignore[arg-type]
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]


class Noisy:
    """Draws from the global generator, and reseeds nothing: one number drawn by the probe would change the run."""

    def session(self, seeds: Seeds) -> Custom:
        torch.manual_seed(seeds.init % 2**31)
        model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))
        x, y = torch.randn(12, 3), torch.randn(12, 1)
        return Custom(model, lambda m, step: nn.functional.mse_loss(m(x + 0.1 * torch.randn(12, 3)), y))


@pytest.mark.parametrize("arm", [SGD, "nesterov@adam", "schedulefree:SGDScheduleFree"])
def test_a_repetition_with_the_probe_is_still_bit_exact(arm: str) -> None:
    study = tiny_study("nesterov@adam", "schedulefree:SGDScheduleFree")
    for task in (None, Noisy()):
        plain, probed = train(study, arm, "evaluate", task=task), train(study, arm, "repeat", task=task)
        assert plain.weights_sha256 == probed.weights_sha256
        a, b = (untimed([dataclasses.replace(r, run="", phase="evaluate", test_loss=None, test_metric=None)])[0]
                for r in (plain, probed))  # fmt: skip
        assert all("curvature" in epoch["extra"] for epoch in b["epochs"])
        for epoch in b["epochs"]:
            epoch["extra"] = {}
        assert a == b


def test_it_is_measured_in_repetitions_only_and_alike_each_time() -> None:
    study = tiny_study()
    for phase in ("tune", "evaluate", "time"):
        assert all(not e.extra for e in train(study, SGD, phase).epochs)
    first = train(study, SGD, "repeat")
    trainer = Trainer(resolve(study))
    for arm, phase in (("torch.optim:AdamW", "repeat"), (SGD, "repeat")):  # after another run in the same process
        *_, last = trainer.run(
            Run.model_validate({"arm": arm, "seed": 0, "phase": phase, "hyperparameters": {"lr": 0.02}})
        )
    assert isinstance(last, RunResult)
    assert untimed([first]) == untimed([last])


def test_another_eigenvalue_may_become_the_largest() -> None:
    rest = torch.linspace(0.0, 1.0, 2000).tolist()
    session = bowl(5.0, 1.0, *rest)
    probe = Probe(session, torch.optim.SGD(session.model.parameters(), lr=0.1))
    assert probe.read()["curvature"] == pytest.approx(5.0, rel=0.01)
    session.model.a = torch.tensor([5.0, 6.0, *rest])
    assert probe.read()["curvature"] == pytest.approx(6.0, rel=0.01)


@pytest.mark.parametrize(
    ("optimizer", "reach"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 2 / 0.1),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 38 / 1.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), 2 * 1.9 / (0.1 * (1 + 1.8)) / 1.0),
        (lambda p: optim.Optimizer(p, lr=0.1, scheme="adams-bashforth-2"), 1 / 0.1),
        (lambda p: optim.Optimizer(p, lr=0.1, scheme="euler", averaging="ema"), 2 / 0.1),
        (lambda p: optim.RungeKutta(p, lr=0.1, scheme="heun"), 2 / 0.1),
        (lambda p: torch.optim.SGD(p, lr=0.1, maximize=True), None),
        (lambda p: torch.optim.SGD(p, lr=0.0), None),
        (lambda p: torch.optim.SGD([{"params": p[:1]}, {"params": p[1:], "lr": 0.2}], lr=0.1), None),
        (lambda p: torch.optim.SGD([{"params": p[:1]}, {"params": p[1:]}], lr=0.1), 2 / 0.1),
        (lambda p: torch.optim.AdamW(p, lr=0.1), None),
        (lambda p: torch.optim.RMSprop(p, lr=0.1), None),
        (lambda p: optim.Optimizer(p, lr=0.1, scheme="euler", averaging="schedule-free"), None),
        (lambda p: optim.Optimizer(p, lr=0.1, scheme="nesterov", preconditioner="sign"), None),
    ],
)  # fmt: skip
def test_which_methods_have_a_margin(optimizer: Any, reach: float | None) -> None:
    model = nn.Linear(3, 1)
    x = torch.eye(3)
    session = Custom(model, lambda m, step: m(x).square().sum())
    found = Probe(session, optimizer(list(model.parameters()))).read()
    x = np.hstack([np.eye(3), np.ones((3, 1))])
    assert found["curvature"] == pytest.approx(np.linalg.eigvalsh(2 * x.T @ x)[-1], rel=0.01)
    expected = None if reach is None else pytest.approx(1 - found["curvature"] / reach, rel=1e-6)
    assert found.get("margin") == expected


@pytest.mark.parametrize("share", [0.97, 1.03])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_margin_tells_who_blows_up(share: float, momentum: float) -> None:
    """On a bowl: a positive margin comes to rest, a negative one does not."""
    session = bowl(4.0, 1.0)
    interval = 38.0 if momentum else 2.0
    lr = share * interval / 4.0 * (1 - momentum)
    optimizer = torch.optim.SGD(session.model.parameters(), lr=lr, momentum=momentum)
    margin = Probe(session, optimizer).read()["margin"]
    assert margin == pytest.approx(1 - share, abs=1e-4)
    for _ in range(2000):
        optimizer.zero_grad()
        session.loss(0).backward()
        optimizer.step()
    size = float(session.model.theta.detach().abs().max())
    assert (size < 1e-6) if margin > 0 else not size < 1e6


class Once(torch.autograd.Function):
    """A kernel of the user's own without a second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class Opaque:
    def session(self, seeds: Seeds) -> Custom:
        torch.manual_seed(0)
        return Custom(nn.Linear(3, 1), lambda model, step: Once.apply(model.weight).square().sum())


def test_a_model_without_second_derivatives_trains_as_ever() -> None:
    study = tiny_study()
    plain, probed = train(study, SGD, "evaluate", task=Opaque()), train(study, SGD, "repeat", task=Opaque())
    assert probed.status == "finished"
    assert all(not e.extra for e in probed.epochs)
    assert plain.weights_sha256 == probed.weights_sha256


def test_a_loss_without_curvature_and_one_that_is_not_finite() -> None:
    flat = Custom(nn.Linear(3, 1), lambda model, step: model.weight.sum())
    assert Probe(flat, torch.optim.SGD(flat.model.parameters(), lr=0.1)).read() == {"curvature": 0.0, "margin": 1.0}
    broken = Custom(nn.Linear(3, 1), lambda model, step: (model.weight**2).sum() * math.nan)
    assert Probe(broken, torch.optim.SGD(broken.model.parameters(), lr=0.1)).read() == {}
