"""Kinds of healthy training: tiny models and simulated streams of losses.

The thresholds of the guard were chosen on all of these. Kinds that were written apart from it are in
:mod:`guard_check_kinds`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sabun


@dataclass
class Training:
    """One training: ``loss(step)`` computes the loss of a batch, or is a simulated one where there is no model."""

    loss: Callable[[int], Any]
    model: nn.Module = field(default_factory=lambda: nn.Linear(1, 1))
    optimizer: torch.optim.Optimizer | None = None
    steps: int = 600
    phases: frozenset[int] = frozenset()
    """Steps before which ``new_phase`` is called."""
    scheduler: Any = None
    scaler: torch.amp.GradScaler | None = None
    clip: float | None = None
    parts: int = 1
    """Micro-batches of a step."""
    closure: bool = False
    data: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """A fault of the data."""
    batch: Callable[[], tuple[Tensor, Tensor]] | None = None
    """The batches, where a fault of the data can be planted."""

    def backward(self, step: int) -> Tensor:
        """Make the gradients of a step, clipped, and return its loss."""
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        total = torch.zeros(())
        for _ in range(self.parts):
            part = self.loss(step) / self.parts
            (part if self.scaler is None else self.scaler.scale(part)).backward()
            total += part.detach()
        if self.clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        return total

    def advance(self) -> None:
        """Update the scaler and the schedule after a step."""
        if self.scaler is not None:
            self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()


KINDS: dict[str, Callable[[int], Training]] = {}


def kind(name: str) -> Callable[[Callable[..., Training]], Callable[..., Training]]:
    """Register a kind of healthy training."""

    def register(make: Callable[..., Training]) -> Callable[..., Training]:
        KINDS[name] = make
        return make

    return register


# ---------------------------------------------------------------------- trained kinds


def mlp(out: int = 2, width: int = 16, **extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), *extra.values(), nn.Linear(width, out))


def easy(x: Tensor) -> Tensor:
    return 0.3 * torch.stack([x.sum(1), x[:, 0]], 1)


def hard(x: Tensor) -> Tensor:
    return torch.stack([-3 * x[:, 1] + 2, 4 * x[:, 2] * x[:, 3]], 1)


def labels(x: Tensor) -> Tensor:
    return (x[:, 0] > 0).long() * 2 + (x[:, 1] * x[:, 2] > 0).long()


def regression(
    model: nn.Module | None = None,
    optimizer: Callable[[Any], torch.optim.Optimizer] = lambda p: torch.optim.AdamW(p, lr=1e-2),
    size: int = 32,
    target: Callable[[Tensor], Tensor] = easy,
    measure: Callable[..., Tensor] = functional.mse_loss,
    **options: Any,
) -> Training:
    net = mlp() if model is None else model
    training: Training

    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randn(size, 8)
        return x, target(x)

    def loss(step: int) -> Tensor:
        x, y = batch()
        if training.data is not None:
            x, y = training.data(x, y)
        return measure(net(x), y)

    training = Training(loss, net, optimizer(net.parameters()), batch=batch, **options)
    return training


def classification(model: nn.Module | None = None, **options: Any) -> Training:
    made: dict[str, Any] = {"target": labels, "measure": functional.cross_entropy, **options}
    return regression(mlp(4) if model is None else model, **made)


def sgd(lr: float, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda p: torch.optim.SGD(p, **{"lr": lr, "momentum": 0.9, **options})


def adam(lr: float, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda p: torch.optim.AdamW(p, lr=lr, **options)


kind("regression, AdamW")(lambda seed: regression())
kind("regression, SGD")(lambda seed: regression(optimizer=sgd(0.01)))
kind("classification, AdamW")(lambda seed: classification())
kind("classification, SGD")(lambda seed: classification(optimizer=sgd(0.1)))
kind("regression, batch 1")(lambda seed: regression(size=1, optimizer=adam(3e-3)))
kind("regression, batch 2")(lambda seed: regression(size=2, optimizer=adam(3e-3)))
kind("regression, batch 1, larger targets")(
    lambda seed: regression(size=1, optimizer=adam(3e-3), target=lambda x: 3 * easy(x))
)
kind("classification, batch 1")(lambda seed: classification(size=1, optimizer=adam(3e-3)))
kind("classification, batch 4, SGD")(lambda seed: classification(size=4, optimizer=sgd(0.02)))
kind("full batch")(lambda seed: fixed(256, seed))
kind("full batch, large rate")(lambda seed: fixed(256, seed, optimizer=sgd(0.2, momentum=0.0)))
kind("small data set, many epochs")(lambda seed: fixed(64, seed, part=8))
kind("dropout")(lambda seed: classification(mlp(4, drop=nn.Dropout(0.5))))
kind("batch norm")(lambda seed: classification(mlp(4, norm=nn.BatchNorm1d(16))))
kind("label noise")(
    lambda seed: classification(
        target=lambda x: torch.where(torch.rand(len(x)) < 0.3, torch.randint(4, (len(x),)), labels(x))
    )
)
kind("quantile loss")(lambda seed: regression(measure=lambda f, y: torch.maximum(0.9 * (y - f), 0.1 * (f - y)).mean()))
kind("absolute loss")(lambda seed: regression(measure=functional.l1_loss))
kind("log-cosh, SGD")(lambda seed: regression(optimizer=sgd(0.02), measure=lambda f, y: (f - y).cosh().log().mean()))
kind("heavy-tailed targets")(
    lambda seed: regression(
        target=lambda x: easy(x) + torch.distributions.StudentT(2.0).sample((len(x), 2)), optimizer=adam(3e-3)
    )
)
kind("weight decay 1")(lambda seed: regression(optimizer=adam(1e-2, weight_decay=1.0)))
kind("mixed precision")(lambda seed: regression(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**16)))
kind("mixed precision, clipped")(
    lambda seed: classification(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**16), clip=1.0)
)
kind("mixed precision, overflows")(
    lambda seed: regression(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=40))
)
kind("accumulation of 4")(lambda seed: regression(parts=4, size=8))
kind("accumulation of 8, batch 1")(lambda seed: regression(parts=8, size=1, steps=300))
kind("clipped gradients, SGD")(lambda seed: classification(optimizer=sgd(0.3), clip=0.5))
kind("schedule-free")(
    lambda seed: regression(
        optimizer=lambda p: sabun.Optimizer(p, 0.02, preconditioner="adam", averaging="schedule-free")
    )
)
kind("Nesterov with Adam")(
    lambda seed: classification(optimizer=lambda p: sabun.Optimizer(p, 0.01, scheme="nesterov", preconditioner="adam"))
)
kind("L-BFGS")(lambda seed: fixed(128, seed, optimizer=lambda p: torch.optim.LBFGS(p, lr=0.3), closure=True, steps=100))


def fixed(rows: int, seed: int, part: int | None = None, **options: Any) -> Training:
    """A fixed data set, in full or in shuffled parts."""
    x = torch.randn(rows, 8)
    order = iter_epochs(rows, part or rows)
    training = regression(**options)
    net = training.model

    def loss(step: int) -> Tensor:
        chosen = x if part is None else x[next(order)]
        return functional.mse_loss(net(chosen), easy(chosen))

    training.loss = loss
    return training


def iter_epochs(rows: int, part: int) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(rows).split(part)


@kind("warm restarts of the schedule")
def _(seed: int) -> Training:
    training = classification(optimizer=sgd(0.3))
    training.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(training.optimizer, 150, eta_min=1e-4)
    return training


@kind("one cycle")
def _(seed: int) -> Training:
    training = classification(optimizer=sgd(0.01))
    training.scheduler = torch.optim.lr_scheduler.OneCycleLR(training.optimizer, 0.5, total_steps=601)
    return training


@kind("warm-up of the rate")
def _(seed: int) -> Training:
    training = regression(optimizer=adam(3e-2))
    training.scheduler = torch.optim.lr_scheduler.LambdaLR(training.optimizer, lambda step: min(1.0, (step + 1) / 200))
    return training


@kind("step decay")
def _(seed: int) -> Training:
    training = classification(optimizer=sgd(0.3))
    training.scheduler = torch.optim.lr_scheduler.StepLR(training.optimizer, 150, 0.1)
    return training


def stepped(
    measure: Callable[[nn.Module, Tensor, int], Tensor], make: Callable[..., Training] = regression, **options: Any
) -> Training:
    """A training whose loss depends on the step: of the model, a batch of inputs and the step."""
    training = make(**options)
    training.loss = lambda step: measure(training.model, torch.randn(32, 8), step)
    return training


def target_in_levels(net: nn.Module, x: Tensor, step: int) -> Tensor:
    return functional.mse_loss(net(x), (1 + step // 200) * easy(x))


def gradually_harder(net: nn.Module, x: Tensor, step: int) -> Tensor:
    share = min(1.0, step / 800)
    return functional.mse_loss(net(x), (1 - share) * easy(x) + 0.3 * share * hard(x))


def annealed(net: nn.Module, x: Tensor, step: int) -> Tensor:
    made = net(x)
    return functional.mse_loss(made, easy(x)) + min(1.0, step / 500) * (made.square().mean() + 3.0)


kind("curriculum, harder data, announced")(
    lambda seed: stepped(
        lambda net, x, step: functional.mse_loss(net(x), easy(x) if step < 300 else hard(x)),
        steps=900,
        phases=frozenset({300}),
    )
)
kind("curriculum, four levels, announced")(
    lambda seed: stepped(target_in_levels, steps=800, phases=frozenset({200, 400, 600}))
)
kind("curriculum, gradual")(lambda seed: stepped(gradually_harder, steps=900))
kind("growing targets")(lambda seed: stepped(target_in_levels, steps=800))
kind("annealed weight of a second term")(lambda seed: stepped(annealed, steps=900))


@kind("variational auto-encoder, annealed divergence")
def _(seed: int) -> Training:
    encoder, decoder = mlp(4), nn.Linear(2, 8)
    net = nn.ModuleList([encoder, decoder])

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 2) @ mixing + 0.1 * torch.randn(32, 8)
        mean, log = encoder(x).chunk(2, 1)
        drawn = mean + torch.randn_like(mean) * (0.5 * log).exp()
        divergence = 0.5 * (mean.square() + log.exp() - 1 - log).sum(1).mean()
        return functional.mse_loss(decoder(drawn), x) + min(1.0, step / 400) * 0.5 * divergence

    mixing = torch.randn(2, 8)
    return Training(loss, net, torch.optim.AdamW(net.parameters(), lr=1e-2), steps=800)


@kind("likelihood that falls below zero")
def _(seed: int) -> Training:
    net = mlp()

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 8)
        log = (5 * net(x)[:, 1:]).clamp(-30, 30)
        return (log + 0.5 * (x[:, :1] - net(x)[:, :1]).square() * torch.exp(-2 * log.clamp(-2, 30))).mean()

    return Training(loss, net, torch.optim.AdamW(net.parameters(), lr=1e-2), steps=400)


@kind("mixture density")
def _(seed: int) -> Training:
    net = mlp(6)

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 8)
        y = torch.where(torch.rand(32) < 0.5, x[:, 0], -x[:, 0])[:, None] + 0.1 * torch.randn(32, 1)
        weight, mean, log = net(x).chunk(3, 1)
        log = log.clamp(-3, 3)
        terms = weight.log_softmax(1) - log - 0.5 * ((y - mean) * (-log).exp()).square()
        return -terms.logsumexp(1).mean()

    return Training(loss, net, torch.optim.AdamW(net.parameters(), lr=1e-2))


@kind("two players, oscillating")
def _(seed: int) -> Training:
    training = regression(steps=900)
    net, plain = training.model, training.loss
    training.loss = lambda step: plain(step) + 0.5 * math.sin(step / 40) + 0.5
    assert net is not None
    return training


@kind("generator against a discriminator")
def _(seed: int) -> Training:
    generator, critic = mlp(2), nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    own = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.99))

    def loss(step: int) -> Tensor:
        made = generator(torch.randn(32, 8))
        real = torch.randn(32, 2) * torch.tensor([1.0, 0.3]) + 1
        own.zero_grad()
        (functional.softplus(-critic(real)).mean() + functional.softplus(critic(made.detach())).mean()).backward()
        own.step()
        return functional.softplus(-critic(made)).mean()

    optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.99))
    return Training(loss, generator, optimizer, steps=900)


@kind("discriminator against a generator")
def _(seed: int) -> Training:
    generator, critic = mlp(2), nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    own = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.99))

    def loss(step: int) -> Tensor:
        made = generator(torch.randn(32, 8))
        own.zero_grad()
        functional.softplus(-critic(made)).mean().backward()
        own.step()
        critic.zero_grad()
        real = torch.randn(32, 2) * torch.tensor([1.0, 0.3]) + 1
        return functional.softplus(-critic(real)).mean() + functional.softplus(critic(made.detach())).mean()

    return Training(loss, critic, torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.99)), steps=900)


@kind("summed loss, batches of changing size")
def _(seed: int) -> Training:
    net = mlp()

    def loss(step: int) -> Tensor:
        x = torch.randn(4 + (step * 7) % 28, 8)
        return (net(x) - easy(x)).square().sum()

    return Training(loss, net, torch.optim.AdamW(net.parameters(), lr=1e-2))


@kind("rare hard batch, 40 times the loss")
def _(seed: int) -> Training:
    training = regression(steps=900)
    plain = training.loss
    training.loss = lambda step: plain(step) * (40 if step % 100 == 99 else 1)
    return training


@kind("hinge, satisfied and not")
def _(seed: int) -> Training:
    return regression(measure=lambda f, y: torch.relu((f - y).abs() - 0.5).mean(), steps=900)


@kind("classes in order, not shuffled")
def _(seed: int) -> Training:
    training = classification(optimizer=adam(1e-3))
    net = training.model

    def loss(step: int) -> Tensor:
        x = torch.randn(128, 8)
        chosen = x[labels(x) == step // 12 % 4][:16]
        return functional.cross_entropy(net(chosen), labels(chosen))

    training.loss = loss
    return training


@kind("two tasks in turn")
def _(seed: int) -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 8)
        made = net(x)
        return functional.mse_loss(made[:, :2], easy(x)) if step % 2 else functional.mse_loss(made[:, 2:], hard(x))

    return Training(loss, net, torch.optim.AdamW(net.parameters(), lr=1e-2))


@kind("policy gradient, bandit")
def _(seed: int) -> Training:
    net = nn.Linear(1, 5)
    means = torch.randn(5)

    def loss(step: int) -> Tensor:
        made = torch.distributions.Categorical(logits=net(torch.ones(8, 1)))
        chosen = made.sample()
        reward = means[chosen] + torch.randn(8)
        return -(made.log_prob(chosen) * reward).mean()

    return Training(loss, net, torch.optim.Adam(net.parameters(), lr=2e-2), steps=900)


@kind("temporal differences with a target network")
def _(seed: int) -> Training:
    net, target = mlp(1), mlp(1)
    target.load_state_dict(net.state_dict())
    move = torch.linalg.qr(torch.randn(8, 8))[0]

    def loss(step: int) -> Tensor:
        if step % 100 == 0:
            target.load_state_dict(net.state_dict())
        x = torch.randn(32, 8)
        with torch.no_grad():
            aim = (x[:, :1] > 1).float() + 0.9 * target(x @ move)
        return functional.mse_loss(net(x), aim)

    return Training(loss, net, torch.optim.Adam(net.parameters(), lr=3e-3), steps=900)


@kind("contrastive")
def _(seed: int) -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = torch.randn(16, 8)
        a, b = (functional.normalize(net(x + 0.2 * torch.randn(16, 8)), dim=1) for _ in range(2))
        return functional.cross_entropy(a @ b.T / 0.1, torch.arange(16))

    return Training(loss, net, torch.optim.AdamW(net.parameters(), lr=1e-2))


@kind("new head, announced")
def _(seed: int) -> Training:
    training = classification(phases=frozenset({300}))
    net = training.model

    def loss(step: int) -> Tensor:
        if step == 300:
            nn.init.normal_(net[-1].weight, std=0.5)  # type: ignore[index]
        x = torch.randn(32, 8)
        return functional.cross_entropy(net(x), labels(x))

    training.loss = loss
    return training


kind("augmentation from the middle on")(
    lambda seed: stepped(
        lambda net, x, step: functional.cross_entropy(
            net(x + (0.3 * torch.randn(32, 8) if step > 300 else 0)), labels(x)
        ),
        classification,
    )
)


@kind("embedding, sparse gradients")
def _(seed: int) -> Training:
    table = nn.Embedding(50, 4, sparse=True)
    wanted = torch.randn(50, 4)

    def loss(step: int) -> Tensor:
        rows = (50 * torch.rand(16) ** 3).long()
        return functional.mse_loss(table(rows), wanted[rows])

    return Training(loss, table, torch.optim.SGD(table.parameters(), lr=5.0))


# ---------------------------------------------------------------------- simulated losses


def simulated(name: str, steps: int = 1500, phases: frozenset[int] = frozenset()) -> Callable[[Any], None]:
    """Register a stream of losses: a function of a source of random numbers that yields one loss after another."""

    def register(stream: Callable[[random.Random], Iterator[float]]) -> None:
        def make(seed: int) -> Training:
            values = stream(random.Random(seed))
            return Training(lambda step: next(values), steps=steps, phases=phases)

        KINDS[name] = make

    return register


def falling(step: int, start: float = 2.3, end: float = 0.3, over: float = 150.0) -> float:
    return end + (start - end) * math.exp(-step / over)


def forever() -> Iterator[int]:
    step = 0
    while True:
        yield step
        step += 1


def noisy(draw: Callable[[random.Random], float], size: float = 0.1) -> Callable[[random.Random], Iterator[float]]:
    return lambda pick: (falling(step) + size * draw(pick) for step in forever())


def student(pick: random.Random, degrees: float) -> float:
    return pick.gauss(0, 1) / math.sqrt(pick.gammavariate(degrees / 2, 2 / degrees))


simulated("normal noise, long", steps=6000)(noisy(lambda pick: pick.gauss(0, 1)))
simulated("noise of Student's t with 2 degrees")(noisy(lambda pick: abs(student(pick, 2))))
simulated("noise of Student's t with 3 degrees")(noisy(lambda pick: student(pick, 3)))
simulated("Pareto noise, exponent 2.5")(noisy(lambda pick: pick.paretovariate(2.5)))
simulated("Pareto noise, exponent 1.5")(noisy(lambda pick: pick.paretovariate(1.5)))
simulated("lognormal noise, 1")(noisy(lambda pick: pick.lognormvariate(0, 1)))
simulated("lognormal noise, 2")(noisy(lambda pick: pick.lognormvariate(0, 2), 0.05))
simulated("exponential losses, as of batch 1")(lambda pick: (falling(s) * pick.expovariate(1) for s in forever()))
simulated("squared normal losses")(lambda pick: (falling(s) * pick.gauss(0, 1) ** 2 for s in forever()))
simulated("normal losses around zero")(lambda pick: (pick.gauss(0, 1) for _ in forever()))
simulated("t losses around zero, as of policy gradients")(lambda pick: (student(pick, 3) for _ in forever()))
simulated("constant")(lambda pick: (0.7 for _ in forever()))
simulated("plateau, nearly without noise")(
    lambda pick: (0.6931 + 1e-6 * pick.gauss(0, 1) + 2e-3 * math.sin(s / 30) * (s > 200) for s in forever())
)
simulated("rounded losses")(lambda pick: (round(falling(s) + 0.05 * pick.gauss(0, 1), 1) for s in forever()))
simulated("scale of 1e-8")(lambda pick: (1e-8 * (falling(s) + 0.1 * pick.gauss(0, 1)) for s in forever()))
simulated("scale of 1e8")(lambda pick: (1e8 * (falling(s) + 0.1 * pick.gauss(0, 1)) for s in forever()))
simulated("zero, then now and then not")(
    lambda pick: (pick.random() if pick.random() < 0.02 else 0.0 for _ in forever())
)
simulated("falls through zero")(lambda pick: (falling(s, 3.0, -5.0, 400) + 0.2 * pick.gauss(0, 1) for s in forever()))
simulated("noise that grows")(lambda pick: (falling(s) + 0.3 * s / 1500 * abs(pick.gauss(0, 1)) for s in forever()))
simulated("noise that shrinks")(
    lambda pick: (falling(s) + 0.5 * math.exp(-s / 100) * pick.gauss(0, 1) for s in forever())
)
simulated("sudden learning after a plateau")(
    lambda pick: (2.3 / (1 + math.exp((s - 700) / 20)) + 0.1 + 0.02 * pick.gauss(0, 1) for s in forever())
)
simulated("slow rise and fall, as of double descent")(
    lambda pick: (falling(s) + 0.8 * math.exp(-(((s - 900) / 150) ** 2)) + 0.05 * pick.gauss(0, 1) for s in forever())
)
simulated("overfitted reward, slow rise")(
    lambda pick: (falling(s) + s / 1500 + 0.1 * pick.gauss(0, 1) for s in forever())
)
simulated("linear ramp of a weight")(
    lambda pick: (falling(s, 0.5, 0.1) + 5 * min(1.0, s / 1000) + 0.05 * pick.gauss(0, 1) for s in forever())
)
simulated("quadratic ramp of a weight")(
    lambda pick: (falling(s, 1.0, 0.2) + 3 * min(1.0, s / 1000) ** 2 + 0.05 * pick.gauss(0, 1) for s in forever())
)
simulated("oscillation, period 100")(
    lambda pick: (falling(s) + 0.4 * math.sin(2 * math.pi * s / 100) + 0.05 * pick.gauss(0, 1) for s in forever())
)
simulated("oscillation, period 700, growing")(
    lambda pick: (1.0 + 0.8 * s / 1500 * math.sin(2 * math.pi * s / 700) + 0.05 * pick.gauss(0, 1) for s in forever())
)
simulated("hard and easy parts in turn, 10 steps each")(
    lambda pick: (falling(s) * (3 if s // 10 % 2 else 1) + 0.05 * pick.gauss(0, 1) for s in forever())
)
simulated("a hard part of 10 in every 100 steps")(
    lambda pick: (falling(s) * (4 if s % 100 >= 90 else 1) + 0.05 * pick.gauss(0, 1) for s in forever())
)
simulated("one in twenty losses 20 times as large")(
    lambda pick: (falling(s) * (20 if pick.random() < 0.05 else 1) * (1 + 0.1 * pick.gauss(0, 1)) for s in forever())
)
simulated("one in 500 losses 20 times as large")(
    lambda pick: (falling(s) * (20 if pick.random() < 0.002 else 1) * (1 + 0.1 * pick.gauss(0, 1)) for s in forever())
)
simulated("announced phases, each harder", phases=frozenset({500, 1000}))(
    lambda pick: (falling(s % 500) * 10 ** (s // 500) * (1 + 0.1 * pick.gauss(0, 1)) for s in forever())
)
simulated("restarts of the rate, a jump of a third")(
    lambda pick: (
        falling(s) + 0.6 * math.exp(-(s % 300) / 20) * (s >= 300) + 0.05 * pick.gauss(0, 1) for s in forever()
    )
)


@simulated("spikes that recover in 5 to 20 steps")
def _(pick: random.Random) -> Iterator[float]:
    height = 0.0
    over = 10.0
    for step in forever():
        if pick.random() < 0.005:
            height, over = pick.uniform(0.5, 3.0), pick.uniform(2, 7)
        height *= math.exp(-1 / over)
        yield falling(step) + height + 0.05 * pick.gauss(0, 1)


@simulated("spikes that recover in 30 to 60 steps")
def _(pick: random.Random) -> Iterator[float]:
    height = 0.0
    over = 10.0
    for step in forever():
        if step > 100 and pick.random() < 0.003:
            height, over = pick.uniform(0.5, 3.0), pick.uniform(10, 20)
        height *= math.exp(-1 / over)
        yield falling(step) + height + 0.05 * pick.gauss(0, 1)


@simulated("correlated noise")
def _(pick: random.Random) -> Iterator[float]:
    wave = 0.0
    for step in forever():
        wave = 0.95 * wave + 0.05 * pick.gauss(0, 1)
        yield falling(step) + wave


@simulated("slow random walk of the return")
def _(pick: random.Random) -> Iterator[float]:
    wave = 5.0
    for _ in forever():
        wave = max(0.0, wave + 0.05 * pick.gauss(0, 1))
        yield wave + 0.5 * pick.gauss(0, 1)


@simulated("two regimes, as of two players")
def _(pick: random.Random) -> Iterator[float]:
    level, aim = 0.7, 0.7
    for _ in forever():
        if pick.random() < 0.01:
            aim = pick.choice([0.3, 0.7, 1.2])
        level += (aim - level) / 20
        yield level * (1 + 0.1 * pick.gauss(0, 1))


@simulated("bursts of noise")
def _(pick: random.Random) -> Iterator[float]:
    size = 0.05
    for step in forever():
        if pick.random() < 0.02:
            size = pick.choice([0.02, 0.05, 0.3])
        yield falling(step) + size * abs(pick.gauss(0, 1))


# ---------------------------------------------------------------------- further kinds


def custom(net: nn.Module, loss: Callable[[int], Tensor], rate: float = 1e-2, **options: Any) -> Training:
    made = {"steps": 800, **options}
    return Training(loss, net, made.pop("optimizer", None) or torch.optim.AdamW(net.parameters(), lr=rate), **made)


def points(size: int = 32) -> Tensor:
    return torch.randn(size, 8)


@kind("image and text, contrastive with a learned temperature")
def _(seed: int) -> Training:
    net = nn.ModuleDict({"a": mlp(4), "b": mlp(4), "t": nn.Linear(1, 1)})

    def loss(step: int) -> Tensor:
        x = points(24)
        a, b = functional.normalize(net["a"](x), dim=1), functional.normalize(net["b"](x.flip(1)), dim=1)
        scores = a @ b.T * net["t"](torch.ones(1)).clamp(-2, 3).exp()
        return (
            functional.cross_entropy(scores, torch.arange(24)) + functional.cross_entropy(scores.T, torch.arange(24))
        ) / 2

    return custom(net, loss)


@kind("policy gradient, moving baseline and entropy")
def _(seed: int) -> Training:
    net, baseline = mlp(3), [0.0]

    def loss(step: int) -> Tensor:
        x = points(16)
        policy = torch.distributions.Categorical(logits=net(x))
        chosen = policy.sample()
        reward = (chosen == x[:, :3].argmax(1)).float()
        baseline[0] += 0.05 * (float(reward.mean()) - baseline[0])
        return -(policy.log_prob(chosen) * (reward - baseline[0])).mean() - 0.01 * policy.entropy().mean()

    return custom(net, loss)


@kind("actor and critic")
def _(seed: int) -> Training:
    net = nn.ModuleDict({"actor": mlp(3), "critic": mlp(1)})

    def loss(step: int) -> Tensor:
        x = points(16)
        policy = torch.distributions.Categorical(logits=net["actor"](x))
        chosen = policy.sample()
        gain = 5 * (chosen == x[:, :3].argmax(1)).float() - net["critic"](x)[:, 0]
        return -(policy.log_prob(chosen) * gain.detach()).mean() + 0.5 * gain.square().mean()

    return custom(net, loss, 3e-3)


@kind("variational auto-encoder, divergence annealed in cycles")
def _(seed: int) -> Training:
    net, mixing = nn.ModuleList([mlp(4), nn.Linear(2, 8)]), torch.randn(2, 8)

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 2) @ mixing
        mean, log = net[0](x).chunk(2, 1)
        divergence = 0.5 * (mean.square() + log.exp() - 1 - log).sum(1).mean()
        weight = min(1.0, step % 200 / 100)
        return (
            functional.mse_loss(net[1](mean + torch.randn_like(mean) * (0.5 * log).exp()), x)
            + 0.1 * weight * divergence
        )

    return custom(net, loss)


@kind("curriculum of longer sums, announced")
def _(seed: int) -> Training:
    net = mlp(1)

    def loss(step: int) -> Tensor:
        x = points()
        return functional.mse_loss(net(x), x[:, : 2 + 2 * (step // 250)].sum(1, keepdim=True))

    return custom(net, loss, phases=frozenset({250, 500, 750}))


@kind("mixup")
def _(seed: int) -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x, share = points(), torch.distributions.Beta(0.4, 0.4).sample()
        mixed = net(share * x + (1 - share) * x.flip(0))
        y = labels(x)
        return share * functional.cross_entropy(mixed, y) + (1 - share) * functional.cross_entropy(mixed, y.flip(0))

    return custom(net, loss)


kind("label smoothing, SGD")(
    lambda seed: classification(
        optimizer=sgd(0.1), measure=lambda f, y: functional.cross_entropy(f, y, label_smoothing=0.2), steps=800
    )
)
kind("regression, batch 1, SGD")(lambda seed: regression(size=1, optimizer=sgd(1e-3), steps=1000))
kind("count data, Poisson")(
    lambda seed: regression(
        target=lambda x: torch.poisson((0.5 * x[:, :2]).exp()),
        measure=functional.poisson_nll_loss,
        optimizer=adam(3e-3),
    )
)
kind("targets of a lognormal")(
    lambda seed: regression(target=lambda x: (x[:, :2] + 0.5 * torch.randn(len(x), 2)).exp(), optimizer=adam(3e-3))
)
kind("Huber loss, Cauchy noise")(
    lambda seed: regression(
        target=lambda x: easy(x) + 0.1 * torch.distributions.Cauchy(0.0, 1.0).sample((len(x), 2)),
        measure=functional.huber_loss,
    )
)


@kind("sparse embeddings, rare rows, Adagrad")
def _(seed: int) -> Training:
    table, wanted = nn.Embedding(300, 4, sparse=True), torch.randn(300, 4)

    def loss(step: int) -> Tensor:
        rows = (300 * torch.rand(8) ** 4).long()
        return functional.mse_loss(table(rows), wanted[rows])

    return custom(table, loss, optimizer=torch.optim.Adagrad(table.parameters(), lr=0.2))


@kind("warm restarts, longer each time, AdamW")
def _(seed: int) -> Training:
    training = regression(optimizer=adam(5e-2), target=hard, steps=900)
    training.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(training.optimizer, 100, T_mult=2)
    return training


@kind("cyclical rate")
def _(seed: int) -> Training:
    training = classification(optimizer=sgd(0.01), steps=800)
    training.scheduler = torch.optim.lr_scheduler.CyclicLR(training.optimizer, 0.01, 0.5, step_size_up=100)
    return training


kind("accumulation of 3, batch 2, clipped")(lambda seed: classification(parts=3, size=2, clip=1.0, steps=500))
kind("mixed precision, accumulation, growing scale")(
    lambda seed: regression(
        parts=2, size=8, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_interval=10), clip=1.0
    )
)


@kind("batch size in cycles, 1 to 64")
def _(seed: int) -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x = points(2 ** (step // 50 % 7))
        return functional.mse_loss(net(x), 2 * easy(x))

    return custom(net, loss, 3e-3)


@kind("distillation, cooling")
def _(seed: int) -> Training:
    net, teacher = mlp(4), mlp(4, 64).requires_grad_(False)

    def loss(step: int) -> Tensor:
        x, heat = points(), max(1.0, 4 - step / 150)
        wanted = (5 * teacher(x) / heat).softmax(1)
        return functional.kl_div((net(x) / heat).log_softmax(1), wanted, reduction="batchmean") * heat**2

    return custom(net, loss)


@kind("physics-informed, u'' = -u")
def _(seed: int) -> Training:
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(step: int) -> Tensor:
        t = (3 * torch.rand(32, 1)).requires_grad_()
        u = net(t)
        (first,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), t, create_graph=True)
        start = torch.zeros(1, 1, requires_grad=True)
        (slope,) = torch.autograd.grad(net(start).sum(), start, create_graph=True)
        return (second + u).square().mean() + (net(start) ** 2).sum() + (slope - 1).square().sum()

    return custom(net, loss)


kind("dropout of 0.9, batch 4")(lambda seed: regression(mlp(2, 32, drop=nn.Dropout(0.9)), size=4, steps=800))


@kind("recurrent network, clipped, large rate")
def _(seed: int) -> Training:
    net = nn.ModuleDict({"cell": nn.GRU(1, 8, batch_first=True), "out": nn.Linear(8, 1)})

    def loss(step: int) -> Tensor:
        x = torch.randn(16, 12, 1)
        return functional.mse_loss(net["out"](net["cell"](x)[0]), x.cumsum(1))

    return custom(net, loss, optimizer=torch.optim.SGD(net.parameters(), lr=0.5), clip=1.0, steps=500)


@kind("one positive in a hundred, weighted")
def _(seed: int) -> Training:
    net = mlp(1)

    def loss(step: int) -> Tensor:
        x = points()
        y = (x[:, :1] > 2.3).float()
        return functional.binary_cross_entropy_with_logits(net(x), y, pos_weight=torch.tensor(50.0))

    return custom(net, loss)


@kind("Gaussian likelihood, noise falls, below zero")
def _(seed: int) -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x = points()
        mean, log = net(x).chunk(2, 1)
        y = 0.3 * x[:, :1] + 0.02 * torch.randn(32, 1)
        return (log + 0.5 * ((y - mean) * (-log.clamp(min=-4)).exp()).square()).mean()

    return custom(net, loss, 3e-3)


@kind("three tasks drawn at random")
def _(seed: int) -> Training:
    net, pick = mlp(6), random.Random(seed)

    def loss(step: int) -> Tensor:
        x = points()
        made, task = net(x), pick.randrange(3)
        if task == 0:
            return 10 * functional.mse_loss(made[:, :2], hard(x))
        return (
            functional.mse_loss(made[:, :2], easy(x)) if task == 1 else functional.cross_entropy(made[:, 2:], labels(x))
        )

    return custom(net, loss)


@kind("sorted by difficulty, the same order each epoch")
def _(seed: int) -> Training:
    net, x = mlp(2), points(256)
    x = x[hard(x).square().sum(1).argsort()]

    def loss(step: int) -> Tensor:
        part = x[step % 16 * 16 :][:16]
        return functional.mse_loss(net(part), hard(part))

    return custom(net, loss, 3e-3)


@kind("labels wrong in bursts")
def _(seed: int) -> Training:
    net, pick = mlp(4), random.Random(seed)

    def loss(step: int) -> Tensor:
        x = points(16)
        y = labels(x)
        return functional.cross_entropy(net(x), torch.randint(4, y.shape) if pick.random() < 0.05 else y)

    return custom(net, loss)


@kind("triplets, the hardest of the batch")
def _(seed: int) -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = points()
        made, y = functional.normalize(net(x), dim=1), labels(x)
        apart = (made[:, None] - made[None]).square().sum(2)
        same = y[:, None] == y[None]
        far, near = (apart * same).amax(1), (apart + 9.0 * same).amin(1)
        return torch.relu(far - near + 0.5).mean()

    return custom(net, loss)


kind("quantile 0.99, batch 8")(
    lambda seed: regression(
        size=8, steps=800, target=hard, measure=lambda f, y: torch.maximum(0.99 * (y - f), 0.01 * (f - y)).mean()
    )
)


@kind("ordinal thresholds")
def _(seed: int) -> Training:
    net = mlp(3)

    def loss(step: int) -> Tensor:
        x = points()
        score = x[:, :1] + 0.3 * torch.randn(32, 1)
        return functional.binary_cross_entropy_with_logits(net(x), (score > torch.tensor([-1.0, 0.0, 1.0])).float())

    return custom(net, loss)


@kind("two players, hinge, five steps of the critic")
def _(seed: int) -> Training:
    net, critic = mlp(2), nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    own = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.9))

    def loss(step: int) -> Tensor:
        for _ in range(5):
            real = torch.randn(32, 2) + torch.tensor([2.0, -1.0])
            own.zero_grad()
            (torch.relu(1 - critic(real)).mean() + torch.relu(1 + critic(net(points()).detach())).mean()).backward()
            own.step()
        return -critic(net(points())).mean()

    return custom(net, loss, optimizer=torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.9)), steps=500)


@kind("masked features, random share")
def _(seed: int) -> Training:
    net, mixing = mlp(8), torch.randn(3, 8)

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 3) @ mixing
        hidden = torch.rand(32, 8) < 0.1 + 0.8 * torch.rand(())
        return (net(x * ~hidden) - x)[hidden].square().mean()

    return custom(net, loss)


@kind("momentum teacher")
def _(seed: int) -> Training:
    net, teacher = nn.ModuleList([mlp(4), nn.Linear(4, 4)]), mlp(4)

    def loss(step: int) -> Tensor:
        x = points()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), net[0].parameters(), strict=True):
                slow.lerp_(fast, 0.02)
            aim = functional.normalize(teacher(x + 0.3 * points()), dim=1)
        return 2 - 2 * (functional.normalize(net[1](net[0](x + 0.3 * points())), dim=1) * aim).sum(1).mean()

    return custom(net, loss)


@kind("head first, then all layers, announced")
def _(seed: int) -> Training:
    net = mlp(4)
    net[0].requires_grad_(False)

    def loss(step: int) -> Tensor:
        if step == 400:
            net[0].requires_grad_(True)
        x = points()
        return functional.cross_entropy(net(x), labels(x))

    return custom(net, loss, phases=frozenset({400}))


@kind("noise on the weights")
def _(seed: int) -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        noisy = {name: p + 0.1 * torch.randn_like(p) for name, p in net.named_parameters()}
        x = points()
        return functional.cross_entropy(torch.func.functional_call(net, noisy, (x,)), labels(x))

    return custom(net, loss)


@kind("shares of the classes that drift")
def _(seed: int) -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = points() + torch.tensor([math.sin(step / 100), math.cos(step / 130), *[0.0] * 6])
        return functional.cross_entropy(net(x), labels(x))

    return custom(net, loss, 3e-3)


@kind("shares of the classes that jump, announced")
def _(seed: int) -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = points() + (0.0 if step < 400 else 1.5)
        return functional.cross_entropy(net(x), labels(x))

    return custom(net, loss, phases=frozenset({400}))


@kind("penalty that doubles every 150 steps")
def _(seed: int) -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x = points()
        made = net(x)
        return (
            functional.mse_loss(made, hard(x)) + 0.1 * 2 ** (step // 150) * torch.relu(made.sum(1) - 1).square().mean()
        )

    return custom(net, loss)


def trained(
    net: nn.Module,
    loss: Callable[[int], Tensor],
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    **options: Any,
) -> Training:
    return Training(loss, net, (optimizer or adam(1e-2))(net.parameters()), **options)


def seedless(name: str) -> Callable[[Callable[[], Training]], None]:
    """Register a kind whose data do not depend on the seed argument."""

    def register(make: Callable[[], Training]) -> None:
        kind(name)(lambda seed: make())

    return register


def inputs(rows: int = 32) -> Tensor:
    return torch.randn(rows, 8)


@seedless("triplets with a margin")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs()
        near, far = x + 0.2 * torch.randn(32, 8), x[torch.randperm(32)]
        return functional.triplet_margin_loss(net(x), net(near), net(far), margin=0.5)

    return trained(net, loss)


@seedless("policy gradient, moving baseline, entropy bonus")
def _() -> Training:
    net, baseline = mlp(4), [0.0]

    def loss(step: int) -> Tensor:
        x = inputs(16)
        made = torch.distributions.Categorical(logits=net(x))
        chosen = made.sample()
        reward = (chosen == labels(x)).float() + 0.3 * torch.randn(16)
        advantage = reward - baseline[0]
        baseline[0] += 0.05 * (float(reward.mean()) - baseline[0])
        return -(made.log_prob(chosen) * advantage).mean() - 0.01 * made.entropy().mean()

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("actor and critic, clipped")
def _() -> Training:
    actor, critic = mlp(4), mlp(1)
    net = nn.ModuleList([actor, critic])

    def loss(step: int) -> Tensor:
        x = inputs(16)
        made = torch.distributions.Categorical(logits=actor(x))
        chosen = made.sample()
        error = (chosen == labels(x)).float() - critic(x)[:, 0]
        return 0.5 * error.square().mean() - (made.log_prob(chosen) * error.detach()).mean()

    return trained(net, loss, adam(3e-3), steps=900, clip=0.5)


@seedless("critic of Wasserstein distance, clipped weights")
def _() -> Training:
    made, net = mlp(2), nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    own = torch.optim.RMSprop(made.parameters(), lr=1e-3)

    def loss(step: int) -> Tensor:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.clamp_(-0.1, 0.1)
        if step % 5 == 0:
            own.zero_grad()
            (-net(made(inputs())).mean()).backward()
            own.step()
            net.zero_grad()
        return net(made(inputs()).detach()).mean() - net(torch.randn(32, 2) * 0.3 + 1).mean()

    return trained(net, loss, lambda p: torch.optim.RMSprop(p, lr=1e-3), steps=900)


@seedless("auto-encoder with noisy inputs")
def _() -> Training:
    net = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 8))

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 2) @ mixing
        return functional.mse_loss(net(x + 0.3 * torch.randn_like(x)), x)

    mixing = torch.randn(2, 8)
    return trained(net, loss)


@seedless("variational, divergence annealed in cycles")
def _() -> Training:
    encoder, decoder = mlp(4), nn.Linear(2, 8)
    mixing = torch.randn(2, 8)

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 2) @ mixing
        mean, log = encoder(x).chunk(2, 1)
        drawn = mean + torch.randn_like(mean) * (0.5 * log).exp()
        divergence = 0.5 * (mean.square() + log.exp() - 1 - log).sum(1).mean()
        return functional.mse_loss(decoder(drawn), x) + 0.2 * min(1.0, step % 200 / 100) * divergence

    return trained(nn.ModuleList([encoder, decoder]), loss, steps=800)


@seedless("curriculum, noise of the inputs in five steps")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs()
        return functional.cross_entropy(net(x + 0.1 * (step // 160) * torch.randn(32, 8)), labels(x))

    return trained(net, loss, steps=800)


@seedless("curriculum, longer sums, announced")
def _() -> Training:
    net = nn.GRU(1, 8, batch_first=True)
    head = nn.Linear(8, 1)

    def loss(step: int) -> Tensor:
        x = torch.randn(16, 2 + 2 * (step // 100), 1)
        return functional.mse_loss(head(net(x)[0][:, -1]), x.sum(1))

    return trained(nn.ModuleList([net, head]), loss, steps=300, phases=frozenset({100, 200}))


@seedless("mixup of two labels")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        a, b = inputs(), inputs()
        share = random.Random(step).betavariate(0.4, 0.4)
        made = net(share * a + (1 - share) * b)
        return share * functional.cross_entropy(made, labels(a)) + (1 - share) * functional.cross_entropy(
            made, labels(b)
        )

    return trained(net, loss)


seedless("label smoothing, RMSprop")(
    lambda: classification(
        optimizer=lambda p: torch.optim.RMSprop(p, lr=3e-3),
        measure=lambda f, y: functional.cross_entropy(f, y, label_smoothing=0.1),
    )
)
seedless("focal loss")(
    lambda: classification(
        measure=lambda f, y: (
            ((1 - functional.cross_entropy(f, y, reduction="none").neg().exp()) ** 2)
            .mul(functional.cross_entropy(f, y, reduction="none"))
            .mean()
        )
    )
)
seedless("batch 1, one output, SGD")(
    lambda: regression(mlp(1), sgd(1e-3), size=1, target=lambda x: x[:, :1] * x[:, 1:2], steps=900)
)
seedless("Huber loss, Cauchy targets")(
    lambda: regression(
        target=lambda x: easy(x) + torch.distributions.Cauchy(0.0, 0.2).sample((len(x), 2)),
        measure=functional.huber_loss,
    )
)
seedless("squared loss, lognormal targets")(
    lambda: regression(mlp(1), adam(1e-3), target=lambda x: (x[:, :1] + 0.7 * torch.randn(len(x), 1)).exp())
)
seedless("Poisson counts")(
    lambda: regression(
        mlp(1), target=lambda x: torch.poisson((0.5 * x[:, :1] + 0.5).exp()), measure=functional.poisson_nll_loss
    )
)
seedless("batch of 1024")(lambda: classification(size=1024, optimizer=sgd(0.3), steps=200))
seedless("accumulation of 16 of 2, Adam")(lambda: classification(parts=16, size=2, steps=200))
seedless("dropout of 0.8, deep")(
    lambda: classification(
        nn.Sequential(
            nn.Linear(8, 32),
            nn.ReLU(),
            nn.Dropout(0.8),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Dropout(0.8),
            nn.Linear(32, 4),
        )
    )
)
seedless("scaled loss, batch 2, overflows")(
    lambda: classification(size=2, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=20))
)
seedless("half of the labels random, Adagrad")(
    lambda: classification(
        target=lambda x: torch.where(torch.rand(len(x)) < 0.5, torch.randint(4, (len(x),)), labels(x)),
        optimizer=lambda p: torch.optim.Adagrad(p, lr=0.05),
    )
)


@seedless("restarts with growing periods")
def _() -> Training:
    training = regression(optimizer=sgd(0.05), target=hard, steps=900)
    training.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(training.optimizer, 60, 2)
    return training


@seedless("cyclic rate")
def _() -> Training:
    training = classification(optimizer=sgd(0.01))
    training.scheduler = torch.optim.lr_scheduler.CyclicLR(training.optimizer, 0.01, 0.5, step_size_up=50)
    return training


@seedless("cyclic size of the batch")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs((1, 4, 16, 64)[step // 25 % 4])
        return functional.cross_entropy(net(x), labels(x))

    return trained(net, loss)


@seedless("distillation at temperature 4")
def _() -> Training:
    teacher, net = mlp(4, 64), mlp(4, 8)
    teacher.requires_grad_(False)

    def loss(step: int) -> Tensor:
        x = inputs()
        return 16 * functional.kl_div(
            (net(x) / 4).log_softmax(1), (3 * teacher(x) / 4).softmax(1), reduction="batchmean"
        )

    return trained(net, loss)


@seedless("differential equation, residual and boundary")
def _() -> Training:
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(step: int) -> Tensor:
        t = (2 * torch.rand(32, 1)).requires_grad_()
        y = net(t)
        (slope,) = torch.autograd.grad(y.sum(), t, create_graph=True)
        return (slope + y - torch.sin(3 * t)).square().mean() + 10 * (net(torch.zeros(1, 1)) - 1).square().mean()

    return trained(net, loss, adam(5e-3))


@seedless("LSTM, clipped")
def _() -> Training:
    net, head = nn.LSTM(2, 8, batch_first=True), nn.Linear(8, 1)

    def loss(step: int) -> Tensor:
        x = torch.randn(16, 8, 2)
        return functional.mse_loss(head(net(x)[0])[..., 0], (x[..., 0] * x[..., 1]).cumsum(1) / 3)

    return trained(nn.ModuleList([net, head]), loss, sgd(0.1), steps=300, clip=1.0)


@seedless("next symbol, attention")
def _() -> Training:
    table, layer, head = (
        nn.Embedding(6, 8),
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
        nn.Linear(8, 6),
    )

    def loss(step: int) -> Tensor:
        text = (torch.randint(6, (16, 1)) + torch.arange(7) * torch.randint(1, 3, (16, 1))) % 6
        made = head(layer(table(text[:, :-1]), torch.full((6, 6), -math.inf).triu(1)))
        return functional.cross_entropy(made.transpose(1, 2), text[:, 1:])

    return trained(nn.ModuleList([table, layer, head]), loss, adam(3e-3), steps=300)


@seedless("one class in a hundred, weighted 30 times")
def _() -> Training:
    net = mlp(2)
    weight = torch.tensor([1.0, 30.0])

    def loss(step: int) -> Tensor:
        x = inputs()
        return functional.cross_entropy(net(x), (x[:, 0] > 2.3).long(), weight, reduction="sum") / 32

    return trained(net, loss, adam(3e-3))


@seedless("normal likelihood of narrow data, negative")
def _() -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x = inputs()
        mean, log = net(x).chunk(2, 1)
        return functional.gaussian_nll_loss(mean, 0.3 * x[:, :1] + 0.02 * torch.randn(32, 1), log.exp())

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("three tasks, one drawn at each step")
def _() -> Training:
    net = mlp(6)

    def loss(step: int) -> Tensor:
        x = inputs()
        made = net(x).split(2, 1)
        task = int(torch.randint(3, ()))
        return functional.mse_loss(made[task], (easy(x), hard(x), x[:, :2].sign())[task])

    return trained(net, loss)


@seedless("two tasks, switched every 50 steps")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs()
        made = net(x)
        first = functional.mse_loss(made[:, :2], easy(x))
        return first if step // 50 % 2 == 0 else functional.l1_loss(made[:, 2:], x[:, :2].sign())

    return trained(net, loss, adam(3e-3))


@seedless("rows sorted by target, many epochs")
def _() -> Training:
    net, x = mlp(1), inputs(256)
    x = x[x[:, 0].argsort()]

    def loss(step: int) -> Tensor:
        part = x[16 * (step % 16) :][:16]
        return functional.mse_loss(net(part), part[:, :1] * 2 + part[:, 1:2])

    return trained(net, loss, adam(3e-3))


@seedless("memorized data, loss towards zero")
def _() -> Training:
    net, x = mlp(1, 64), inputs(16)
    y = torch.randn(16, 1)
    return trained(net, lambda step: functional.mse_loss(net(x), y), steps=900)


@seedless("pairs ranked")
def _() -> Training:
    net = mlp(1)

    def loss(step: int) -> Tensor:
        a, b = inputs(), inputs()
        return functional.margin_ranking_loss(net(a)[:, 0], net(b)[:, 0], (a[:, 0] - b[:, 0]).sign(), margin=0.3)

    return trained(net, loss)


@seedless("skip-grams with negative samples, sparse")
def _() -> Training:
    net = nn.ModuleList([nn.Embedding(60, 8, sparse=True), nn.Embedding(60, 8, sparse=True)])

    def loss(step: int) -> Tensor:
        word = (60 * torch.rand(16) ** 2).long()
        near, other = (word + torch.randint(1, 3, (16,))) % 60, torch.randint(60, (16,))
        scores = [(net[0](word) * net[1](aim)).sum(1) for aim in (near, other)]
        return (functional.softplus(-scores[0]) + functional.softplus(scores[1])).mean()

    return trained(net, loss, lambda p: torch.optim.SparseAdam(list(p), lr=1e-2))


@seedless("masked reconstruction, share masked drawn anew")
def _() -> Training:
    net, mixing = mlp(8), torch.randn(3, 8)

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 3) @ mixing
        kept = (torch.rand(32, 8) > torch.rand(())).float()
        return ((net(x * kept) - x).square() * (1 - kept)).sum() / (1 - kept).sum().clamp(min=1)

    return trained(net, loss)


@seedless("denoising, level of noise drawn for each example")
def _() -> Training:
    net = nn.Sequential(nn.Linear(9, 32), nn.SiLU(), nn.Linear(32, 8))

    def loss(step: int) -> Tensor:
        share, noise = torch.rand(16, 1), torch.randn(16, 8)
        clean = torch.ones(16, 8) * torch.randn(16, 1).sign()
        noisy = (1 - share).sqrt() * clean + share.sqrt() * noise
        return functional.mse_loss(net(torch.cat([noisy, share], 1)), noise)

    return trained(net, loss, adam(3e-3))


@seedless("own targets, slowly moving teacher")
def _() -> Training:
    net, head, teacher = mlp(4), nn.Linear(4, 4), mlp(4)
    teacher.load_state_dict(net.state_dict())

    def loss(step: int) -> Tensor:
        x = inputs()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 0.02)
            aim = teacher(x + 0.1 * torch.randn(32, 8))
        return -functional.cosine_similarity(head(net(x)), aim).mean()

    return trained(nn.ModuleList([net, head]), loss, adam(3e-3))


@seedless("ramped penalty on the weights")
def _() -> Training:
    net = mlp()

    def loss(step: int) -> Tensor:
        x = inputs()
        penalty = sum(parameter.square().sum() for parameter in net.parameters())
        return functional.mse_loss(net(x), easy(x)) + min(0.05, 1e-4 * step) * penalty

    return trained(net, loss, steps=800)


@seedless("layers unfrozen one after another")
def _() -> Training:
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))

    def loss(step: int) -> Tensor:
        for i, level in ((0, 400), (2, 200)):
            net[i].requires_grad_(step >= level)
        x = inputs()
        return functional.cross_entropy(net(x), labels(x))

    return trained(net, loss)


@simulated("two levels in blocks of drawn length, 1 and 6")
def _(pick: random.Random) -> Iterator[float]:
    level, left = 1.0, 0
    for step in forever():
        if left == 0:
            level, left = pick.choice([1.0, 6.0]), pick.randrange(5, 100)
        left -= 1
        yield falling(step) * level * (1 + 0.1 * pick.gauss(0, 1))


@simulated("quiet for 700 steps, then a heavier tail")
def _(pick: random.Random) -> Iterator[float]:
    for step in forever():
        yield falling(step) + 0.05 * (pick.gauss(0, 1) if step < 700 else abs(student(pick, 2.5)))


# ---------------------------------------------------------------------- kinds that were check kinds once


@seedless("samples weighted by a Pareto law")
def _() -> Training:
    net, law = mlp(2), torch.distributions.Pareto(1.0, 1.3)

    def loss(step: int) -> Tensor:
        x = inputs()
        return (law.sample((32, 1)) * (net(x) - easy(x)).square()).mean()

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("policy gradient of another policy's actions, weighted by the ratio")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs(16)
        chosen = torch.randint(4, (16,))
        made = net(x).log_softmax(1).gather(1, chosen[:, None])[:, 0]
        return -(4 * made.exp() * (chosen == labels(x)).float()).mean()

    return trained(net, loss, adam(3e-3), steps=800)


@seedless("policy gradient, rewards of Student's t with 1.5 degrees")
def _() -> Training:
    net, law = mlp(3), torch.distributions.StudentT(1.5)

    def loss(step: int) -> Tensor:
        x = inputs()
        policy = torch.distributions.Categorical(logits=net(x))
        chosen = policy.sample()
        reward = (chosen == x[:, :3].argmax(1)).float() + law.sample((32,))
        return -(policy.log_prob(chosen) * reward).mean()

    return trained(net, loss, adam(1e-3), steps=900)


@seedless("one episode in forty has a reward")
def _() -> Training:
    net = mlp(8)

    def loss(step: int) -> Tensor:
        x = inputs(1)
        policy = torch.distributions.Categorical(logits=net(x))
        chosen = policy.sample()
        reward = 10.0 * bool(chosen == x.argmax(1)) * (random.Random(step).random() < 0.2)
        return -(policy.log_prob(chosen) * reward).mean()

    return trained(net, loss, adam(1e-3), steps=1200)


@seedless("clipped surrogate, eight updates on each batch of actions")
def _() -> Training:
    net, held = mlp(3), {}

    def loss(step: int) -> Tensor:
        if step % 8 == 0:
            x = inputs(64)
            policy = torch.distributions.Categorical(logits=net(x).detach())
            chosen = policy.sample()
            reward = (chosen == x[:, :3].argmax(1)).float() + 0.3 * torch.randn(64)
            held.update(
                x=x, chosen=chosen, before=policy.log_prob(chosen), gain=(reward - reward.mean()) / reward.std()
            )
        ratio = (torch.distributions.Categorical(logits=net(held["x"])).log_prob(held["chosen"]) - held["before"]).exp()
        return -torch.minimum(ratio * held["gain"], ratio.clamp(0.8, 1.2) * held["gain"]).mean()

    return trained(net, loss, adam(3e-3), steps=800)


@seedless("temporal differences, largest errors drawn more often, rare rewards")
def _() -> Training:
    net, target = mlp(1), mlp(1)
    x = inputs(512)
    after, reward = x[torch.randperm(512)], 10 * (torch.rand(512, 1) < 0.02).float()
    error = torch.ones(512)

    def loss(step: int) -> Tensor:
        with torch.no_grad():
            for kept, new in zip(target.parameters(), net.parameters(), strict=True):
                kept.lerp_(new, 0.01)
        part = torch.multinomial(error, 16)
        gap = net(x[part]) - (reward[part] + 0.95 * target(after[part]).detach())
        error[part] = gap.detach()[:, 0].abs() + 0.01
        return gap.square().mean()

    return trained(net, loss, adam(1e-3), steps=1000)


@seedless("saddle of two networks, gradients reversed")
def _() -> Training:
    net, other = mlp(2), mlp(2)
    for parameter in other.parameters():
        parameter.register_hook(lambda gradient: -gradient)

    def loss(step: int) -> Tensor:
        x = inputs()
        made, against = net(x), other(x)
        return (made * against).sum(1).mean() + 0.1 * made.square().mean() - 0.1 * against.square().mean()

    return trained(nn.ModuleList([net, other]), loss, adam(2e-3), steps=900)


@seedless("examples moved against the model, further and further")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs().requires_grad_()
        y = labels(x)
        slope = torch.autograd.grad(functional.cross_entropy(net(x), y), x)[0]
        return functional.cross_entropy(net(x.detach() + min(0.3, step / 2000) * slope.sign()), y)

    return trained(net, loss, adam(5e-3), steps=900)


@seedless("sampled softmax, 8 of 300 classes")
def _() -> Training:
    net, table = mlp(8), nn.Embedding(300, 8)

    def loss(step: int) -> Tensor:
        x = inputs()
        y = (100 * x[:, 0].sigmoid()).long() + 100 * (x[:, 1] > 0).long()
        rows = torch.cat([y[:, None], torch.randint(300, (32, 8))], 1)
        return functional.cross_entropy((table(rows) @ net(x)[:, :, None])[..., 0], torch.zeros(32, dtype=torch.long))

    return trained(nn.ModuleList([net, table]), loss, steps=900)


@seedless("roll-outs of drawn length, 1 to 16 steps")
def _() -> Training:
    net, move = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4)), torch.linalg.qr(torch.randn(4, 4))[0]

    def loss(step: int) -> Tensor:
        state = torch.randn(16, 4)
        made, total = state, torch.zeros(())
        for _ in range(int(torch.randint(1, 17, ()))):
            state, made = (state @ move).clamp(-1, 1), made + net(made)
            total = total + functional.mse_loss(made, state)
        return total

    return trained(net, loss, adam(3e-3), steps=500, clip=1.0)


@seedless("roll-outs, one step longer after each 60 steps")
def _() -> Training:
    net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 3))

    def loss(step: int) -> Tensor:
        state = torch.randn(16, 3)
        made = state
        for _ in range(1 + step // 60):
            state, made = 0.95 * state + 0.3 * state.roll(1, 1).sin(), made + net(made)
        return functional.mse_loss(made, state)

    return trained(net, loss, adam(3e-3), steps=600, clip=1.0)


@seedless("sequences of geometric length, losses summed")
def _() -> Training:
    net, head = nn.GRU(2, 8, batch_first=True), nn.Linear(8, 1)

    def loss(step: int) -> Tensor:
        length = 1 + int(torch.distributions.Geometric(0.1).sample())
        x = torch.randn(8, min(length, 60), 2)
        return functional.mse_loss(head(net(x)[0])[..., 0], x[..., 0] - x[..., 1].roll(1, 1), reduction="sum") / 8

    return trained(nn.ModuleList([net, head]), loss, adam(3e-3), steps=500, clip=5.0)


@seedless("alignment of symbols with frames")
def _() -> Training:
    net, codes = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6)), torch.randn(6, 4)

    def loss(step: int) -> Tensor:
        length = int(torch.randint(1, 6, ()))
        y = torch.randint(1, 6, (8, length))
        x = codes[y.repeat_interleave(3, 1)] + 0.3 * torch.randn(8, 3 * length, 4)
        made = net(x).log_softmax(2).transpose(0, 1)
        return functional.ctc_loss(made, y, torch.full((8,), 3 * length), torch.full((8,), length))

    return trained(net, loss, adam(5e-3), steps=600)


@seedless("one batch in four from data with 100 times the loss")
def _() -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x = inputs()
        y = easy(x) + (5.0 * torch.randn(32, 2) if torch.rand(()) < 0.25 else 0.3 * torch.randn(32, 2))
        return functional.mse_loss(net(x), y)

    return trained(net, loss, adam(1e-3), steps=900)


@seedless("five tasks of scales 1 to 100, blocks of drawn length")
def _() -> Training:
    net, now = mlp(5), [0, 0]

    def loss(step: int) -> Tensor:
        if step >= now[1]:
            now[:] = [int(torch.randint(5, ())), step + int(torch.randint(3, 40, ()))]
        x = inputs()
        return (1.0, 3.0, 10.0, 30.0, 100.0)[now[0]] * functional.mse_loss(net(x)[:, now[0]], x[:, now[0]].sin())

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("a second task, one step in 150, 15 times the loss")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs()
        made = net(x)
        if torch.rand(()) < 1 / 150:
            return 15 * functional.mse_loss(made[:, 2:], x[:, :2].sign())
        return functional.mse_loss(made[:, :2], easy(x)) + 0.2 * torch.rand(())

    return trained(net, loss, adam(3e-3), steps=1200)


@seedless("volatility in clusters")
def _() -> Training:
    net, held = mlp(1), [1.0, 0.0]

    def loss(step: int) -> Tensor:
        x = inputs(8)
        held[0] = 0.05 + 0.25 * held[1] ** 2 + 0.7 * held[0]
        held[1] = math.sqrt(held[0]) * float(torch.randn(()))
        y = 0.1 * x[:, :1] + held[1] + 0.1 * math.sqrt(held[0]) * torch.randn(8, 1)
        return functional.mse_loss(net(x), y)

    return trained(net, loss, adam(1e-3), steps=1000)


@seedless("squared loss, t noise with 1.3 degrees, small rate")
def _() -> Training:
    law = torch.distributions.StudentT(1.3)
    return regression(
        optimizer=sgd(1e-4), size=64, target=lambda x: easy(x) + 0.3 * law.sample((len(x), 2)), steps=900, clip=1.0
    )


@seedless("absolute loss, Weibull noise with shape 0.4")
def _() -> Training:
    law = torch.distributions.Weibull(0.3, 0.4)
    return regression(
        target=lambda x: easy(x) + law.sample((len(x), 2)), measure=functional.l1_loss, optimizer=adam(3e-3), steps=900
    )


@seedless("likelihood of Student's t, scale and degrees learned")
def _() -> Training:
    net, law = mlp(3), torch.distributions.StudentT(2.0)

    def loss(step: int) -> Tensor:
        x = inputs()
        mean, scale, degrees = net(x).split(1, 1)
        made = torch.distributions.StudentT(1 + functional.softplus(degrees), mean, 1e-2 + functional.softplus(scale))
        return -made.log_prob(x[:, :1] + 0.1 * law.sample((32, 1))).mean()

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("one row in a thousand 60 times as large")
def _() -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x = inputs()
        y = easy(x) + 0.2 * torch.randn(32, 2)
        return functional.mse_loss(net(x), torch.where(torch.rand(32, 1) < 1e-3, 60 * y, y))

    return trained(net, loss, adam(1e-3), steps=1000, clip=1.0)


@seedless("boundary of a differential equation, weight ramped from 1 to 100")
def _() -> Training:
    net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 1))

    def loss(step: int) -> Tensor:
        t = torch.rand(32, 1).requires_grad_()
        slope = torch.autograd.grad(net(t).sum(), t, create_graph=True)[0]
        weight = 100 ** min(1.0, step / 600)
        return (slope + 2 * net(t)).square().mean() + weight * (net(torch.zeros(1, 1)) - 1).square().mean()

    return trained(net, loss, adam(5e-3), steps=900)


@seedless("augmented Lagrangian, multiplier moved every 80 steps")
def _() -> Training:
    net, held = mlp(2), [0.0, 1.0]

    def loss(step: int) -> Tensor:
        x = inputs()
        made = net(x)
        gap = made.sum(1).mean() - 1
        if step % 80 == 79:
            held[:] = [held[0] + held[1] * float(gap), min(20.0, 1.5 * held[1])]
        return functional.mse_loss(made, easy(x)) + held[0] * gap + held[1] / 2 * gap.square()

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("bfloat16 autocast")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs()
        with torch.autocast("cpu", torch.bfloat16):
            made = net(x)
        return functional.cross_entropy(made.float(), labels(x))

    return trained(net, loss, steps=600)


@seedless("weights of 4 bits, gradients straight through")
def _() -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x = inputs()
        rounded = {
            name: p + ((7 * p / p.abs().max()).round() * p.abs().max() / 7 - p).detach() if p.dim() > 1 else p
            for name, p in net.named_parameters()
        }
        return functional.mse_loss(torch.func.functional_call(net, rounded, x), easy(x))

    return trained(net, loss, adam(3e-3), steps=800)


@seedless("relaxed choices, temperature from 2 to 0.2")
def _() -> Training:
    net, values = mlp(6), nn.Linear(6, 2)

    def loss(step: int) -> Tensor:
        x = inputs()
        made = functional.gumbel_softmax(net(x), tau=max(0.2, 2 * 0.997**step))
        return functional.mse_loss(values(made), easy(x))

    return trained(nn.ModuleList([net, values]), loss, adam(5e-3), steps=900)


@seedless("codes of a learned table")
def _() -> Training:
    coder, decoder, table = mlp(4), nn.Linear(4, 8), nn.Embedding(16, 4)
    mixing = torch.randn(3, 8)

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 3) @ mixing
        z = coder(x)
        code = table(torch.cdist(z, table.weight).argmin(1))
        close = functional.mse_loss(code, z.detach()) + 0.25 * functional.mse_loss(z, code.detach())
        return functional.mse_loss(decoder(z + (code - z).detach()), x) + close

    return trained(nn.ModuleList([coder, decoder, table]), loss, adam(5e-3), steps=800)


@seedless("denoising score, one level for a batch, weighted by the inverse variance")
def _() -> Training:
    net = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))

    def loss(step: int) -> Tensor:
        clean = torch.randn(32, 2).sign() + 0.1 * torch.randn(32, 2)
        level = 10 ** float(torch.empty(()).uniform_(-1.5, 0.5))
        noisy = clean + level * torch.randn(32, 2)
        made = net(torch.cat([noisy, torch.full((32, 1), math.log(level))], 1))
        return (made - clean).square().sum(1).mean() / level**2

    return trained(net, loss, adam(2e-3), steps=900, clip=1.0)


@seedless("flow of couplings, negative log-likelihood")
def _() -> Training:
    parts = nn.ModuleList([nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2)) for _ in range(4)])

    def loss(step: int) -> Tensor:
        turn = 3 * torch.rand(64)
        a, b = turn.cos() + 0.1 * torch.randn(64), turn.sin() + 0.1 * torch.randn(64)
        total = torch.zeros(64)
        for part in parts:
            shift, log = part(a[:, None]).unbind(1)
            a, b = b * log.tanh().exp() + shift, a
            total = total + log.tanh()
        return (0.5 * (a.square() + b.square()) - total).mean()

    return trained(parts, loss, adam(5e-3), steps=700)


@seedless("energies of data and of samples, contrastive divergence")
def _() -> Training:
    net = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))
    held = [torch.randn(32, 2)]

    def loss(step: int) -> Tensor:
        made = held[0]
        for _ in range(3):
            made = made.detach().requires_grad_()
            slope = torch.autograd.grad(net(made).sum(), made)[0]
            made = (made - 0.05 * slope + 0.3 * torch.randn(32, 2)).clamp(-3, 3)
        held[0] = made.detach()
        data = net(torch.randn(32, 2).sign() + 0.2 * torch.randn(32, 2))
        sampled = net(held[0])
        return (data - sampled).mean() + 0.1 * (data.square() + sampled.square()).mean()

    return trained(net, loss, adam(1e-3), steps=700)


@seedless("four experts, the first choice of each row")
def _() -> Training:
    gate, experts = nn.Linear(8, 4), nn.ModuleList([mlp(2, 8) for _ in range(4)])

    def loss(step: int) -> Tensor:
        x = inputs(64)
        share = gate(x).softmax(1)
        best, index = share.max(1)
        made = torch.stack([expert(x) for expert in experts], 1)[torch.arange(64), index] * best[:, None]
        used = functional.one_hot(index, 4).float().mean(0)
        return functional.mse_loss(made, hard(x)) + 0.1 * 4 * (used * share.mean(0)).sum()

    return trained(nn.ModuleList([gate, experts]), loss, adam(5e-3), steps=700)


@seedless("separable data, full batch, rate beyond stability")
def _() -> Training:
    net, x = nn.Linear(8, 1), 3 * inputs(64)
    y = (x[:, :1] + 0.5 * x[:, 1:2] > 0).float()
    return trained(
        net,
        lambda step: functional.binary_cross_entropy_with_logits(net(x), y),
        sgd(2.0, momentum=0.0),
        steps=800,
    )


@seedless("weights replaced by their average every 150 steps")
def _() -> Training:
    net, average = mlp(2), mlp(2)
    average.load_state_dict(net.state_dict())

    def loss(step: int) -> Tensor:
        with torch.no_grad():
            for kept, new in zip(average.parameters(), net.parameters(), strict=True):
                kept.lerp_(new, 0.02)
                if step % 150 == 149:
                    new.copy_(kept)
        x = inputs()
        return functional.mse_loss(net(x), hard(x))

    return trained(net, loss, sgd(0.02), steps=900)


@seedless("a fifth of the weights set to zero every 150 steps")
def _() -> Training:
    net = mlp(2, 32)
    masks = [torch.ones_like(p) for p in net.parameters()]

    def loss(step: int) -> Tensor:
        with torch.no_grad():
            for mask, p in zip(masks, net.parameters(), strict=True):
                if step % 150 == 149 and p.dim() > 1:
                    kept = p[mask > 0].abs()
                    mask.mul_(p.abs() > kept.quantile(0.2))
                p.mul_(mask)
        x = inputs()
        return functional.mse_loss(net(x), easy(x) + 0.1 * torch.randn(32, 2))

    return trained(net, loss, adam(5e-3), steps=900)


@seedless("the hardest quarter of each batch")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs(64)
        return functional.cross_entropy(net(x), labels(x), reduction="none").topk(16).values.mean()

    return trained(net, loss, adam(3e-3), steps=800)


@seedless("data set that grows by its hardest examples")
def _() -> Training:
    net, pool, held = mlp(2), inputs(1024), [inputs(32)]

    def loss(step: int) -> Tensor:
        if step % 100 == 99:
            with torch.no_grad():
                error = (net(pool) - hard(pool)).square().sum(1)
            held[0] = torch.cat([held[0], pool[error.topk(32).indices]])
        x = held[0][torch.randint(len(held[0]), (16,))]
        return functional.mse_loss(net(x), hard(x))

    return trained(net, loss, adam(5e-3), steps=900)


@seedless("targets that turn, slowly and for ever")
def _() -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x, angle = inputs(), step / 100
        return functional.mse_loss(net(x), 3 * math.cos(angle) * x[:, :2] + 3 * math.sin(angle) * x[:, 2:4])

    return trained(net, loss, adam(3e-3), steps=1000)


@seedless("two views brought together, no negatives")
def _() -> Training:
    net, head = mlp(8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def loss(step: int) -> Tensor:
        x = inputs()
        a, b = (net(x + 0.5 * torch.randn(32, 8)) for _ in range(2))
        both = functional.cosine_similarity(head(a), b.detach()) + functional.cosine_similarity(head(b), a.detach())
        return -both.mean() / 2

    return trained(nn.ModuleList([net, head]), loss, sgd(0.05), steps=700)


@seedless("six linear layers, plateaus and falls")
def _() -> Training:
    net = nn.Sequential(*[nn.Linear(6, 6, bias=False) for _ in range(6)])
    aim = torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.2]))
    with torch.no_grad():
        for layer in net:
            layer.weight.copy_(0.5 * torch.eye(6) + 0.05 * torch.randn(6, 6))

    def loss(step: int) -> Tensor:
        x = torch.randn(64, 6)
        return functional.mse_loss(net(x), x @ aim)

    return trained(net, loss, sgd(3e-3, momentum=0.0), steps=1000)


@seedless("a new task each step, amplitudes 0.1 to 5, adapted once")
def _() -> Training:
    net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 1))

    def loss(step: int) -> Tensor:
        height, phase = float(torch.empty(()).uniform_(0.1, 5)), float(3 * torch.rand(()))
        x, query = 4 * torch.rand(2, 16, 1) - 2
        weights = dict(net.named_parameters())
        first = functional.mse_loss(net(x), height * (x + phase).sin())
        slopes = torch.autograd.grad(first, list(weights.values()))
        moved = {name: p - 0.02 * g for (name, p), g in zip(weights.items(), slopes, strict=True)}
        return functional.mse_loss(torch.func.functional_call(net, moved, query), height * (query + phase).sin())

    return trained(net, loss, adam(2e-3), steps=800)


@seedless("times to an event, partial likelihood, half censored")
def _() -> Training:
    net = mlp(1)

    def loss(step: int) -> Tensor:
        x = inputs()
        time = torch.distributions.Exponential((x[:, 0] - 0.5 * x[:, 1]).exp()).sample()
        risk = net(x)[:, 0][time.argsort(descending=True)]
        seen = torch.rand(32) < 0.5
        return -((risk - risk.logcumsumexp(0)) * seen).sum() / seen.sum().clamp(min=1)

    return trained(net, loss, adam(3e-3), steps=700)


@seedless("no labels in three batches of ten")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs(16)
        loss = functional.cross_entropy(net(x), labels(x))
        return loss * (0.0 if torch.rand(()) < 0.3 else 1.0)

    return trained(net, loss, adam(5e-3), steps=800)


@seedless("eight clients in turn, 20 steps each, own scales")
def _() -> Training:
    net, shift = mlp(1), 2 * torch.randn(8, 8)
    scale = 2.0 ** torch.arange(-2, 2).repeat(2)

    def loss(step: int) -> Tensor:
        client = step // 20 % 8
        x = inputs() + shift[client]
        return functional.mse_loss(net(x), scale[client] * x[:, :1])

    return trained(net, loss, adam(3e-3), steps=960)


@seedless("control through 20 steps of a system, drawn starts")
def _() -> Training:
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(step: int) -> Tensor:
        state, total = torch.randn(8, 2) * torch.rand(()) * 3, torch.zeros(())
        for _ in range(20):
            force = net(state)
            state = torch.stack([state[:, 0] + 0.1 * state[:, 1], 1.02 * state[:, 1] + 0.2 * force[:, 0]], 1)
            total = total + state.square().sum(1).mean() + 0.1 * force.square().mean()
        return total / 20

    return trained(net, loss, adam(3e-3), steps=400, clip=10.0)


@seedless("images, random squares erased")
def _() -> Training:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))

    def loss(step: int) -> Tensor:
        y = torch.randint(3, (16,))
        wave = torch.arange(8.0) * (y[:, None] + 1) * 0.7
        x = wave.sin()[:, None, None, :] * wave.cos()[:, None, :, None] + 0.3 * torch.randn(16, 1, 8, 8)
        at = torch.randint(6, (2,)).tolist()
        x[:, :, at[0] : at[0] + 3, at[1] : at[1] + 3] = 0
        return functional.cross_entropy(net(x), y)

    return trained(net, loss, adam(5e-3), steps=500)


@seedless("size of the batch drawn from 1, 4, 16 and 256")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs(4 ** int(torch.tensor([0, 1, 2, 4])[torch.randint(4, ())]))
        return functional.cross_entropy(net(x), labels(x))

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("layers skipped at random")
def _() -> Training:
    layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)] + [nn.Linear(8, 4)])

    def loss(step: int) -> Tensor:
        x = inputs()
        y, made = labels(x), x
        for layer in list(layers)[:4]:
            if torch.rand(()) < 0.6:
                made = made + layer(made).tanh()
        return functional.cross_entropy(layers[4](made), y)

    return trained(layers, loss, sgd(0.05), steps=800)


simulated("absolute Cauchy noise")(noisy(lambda pick: abs(student(pick, 1)), 0.02))
simulated("Weibull losses, shape 0.5")(lambda pick: (falling(s) * pick.weibullvariate(1, 0.5) for s in forever()))
simulated("gamma losses, shape 0.3")(lambda pick: (falling(s) * pick.gammavariate(0.3, 3.3) for s in forever()))
simulated("levels 1, 10 and 100, drawn with shares of 80, 18 and 2%")(
    lambda pick: (
        falling(s) * pick.choices([1, 10, 100], [0.8, 0.18, 0.02])[0] * pick.lognormvariate(0, 0.2) for s in forever()
    )
)
simulated("half zeros, half lognormal with 1.5")(
    lambda pick: (pick.choice([0.0, falling(s)]) * pick.lognormvariate(0, 1.5) for s in forever())
)
simulated("sawtooth of epochs of 90 steps")(
    lambda pick: (falling(s, over=600) + 0.3 * (1 - s % 90 / 90) + 0.04 * pick.gauss(0, 1) for s in forever())
)
simulated("negative, Laplace noise that grows with the level")(
    lambda pick: (
        -8 + 6 * math.exp(-s / 300) * (1 + 0.2 * pick.choice([-1, 1]) * pick.expovariate(1)) for s in forever()
    )
)
simulated("doubles every 400 steps")(
    lambda pick: (0.3 * 2 ** (s / 400) * (1 + 0.15 * pick.gauss(0, 1)) for s in forever())
)
