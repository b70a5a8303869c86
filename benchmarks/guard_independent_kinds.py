"""Kinds of healthy training whose author did not know how the guard decides.

The author knew the parameters of :class:`sabun.Guard`, and had read neither its rules and thresholds nor the kinds of
:mod:`guard_kinds` and :mod:`guard_check_kinds`. For the interface the author had read :mod:`guard_corpus`, with the
names of the kinds that the test suite runs, the grid of simulated extremes and the planted faults, and of the
changelog that the noise of losses that are mostly equal is their mean absolute deviation. All are real trainings, on
data of scikit-learn, on the text of Python's own documentation or on data drawn here. Each has a ``score``, computed
on data held out where there are such, and a ``goal``: a training is **healthy** if, without a guard, all parameters
are finite at its end and the score is at most the goal and less than at the start. The goals were set from trainings
without a guard, and this file was committed before the first training with one.

    python benchmarks/guard_corpus.py --half independent --seeds 1 --first-seed 4
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sabun
from guard_kinds import Training


@dataclass
class Independent(Training):
    """A training with the measure of its success."""

    score: Callable[[], float] = lambda: math.inf
    """What has been reached; smaller is better."""
    goal: float = math.inf


INDEPENDENT: dict[str, Callable[[int], Independent]] = {}


def kind(name: str, goal: float) -> Callable[[Callable[[int], Independent]], Callable[[int], Independent]]:
    """Register a kind, and the score that a healthy training reaches."""

    def register(make: Callable[[int], Independent]) -> Callable[[int], Independent]:
        def made(seed: int) -> Independent:
            training = make(seed)
            training.goal = goal
            return training

        INDEPENDENT[name] = made
        return make

    return register


def train(training: Independent) -> tuple[bool, float, int]:
    """Train without a guard. Return whether the training is healthy, the score, and the steps that a scaler skipped."""
    model, optimizer, scaler = training.model, training.optimizer, training.scaler
    assert optimizer is not None
    skipped, start = 0, training.score()
    for step in range(training.steps):
        before = 0.0 if scaler is None else scaler.get_scale()
        if training.closure:
            optimizer.step(partial(training.backward, step))
        else:
            training.backward(step)
            optimizer.step() if scaler is None else scaler.step(optimizer)
        training.advance()
        skipped += scaler is not None and scaler.get_scale() < before
    score = training.score()
    finite = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    return finite and score <= training.goal and score < start, score, skipped


# ---------------------------------------------------------------------- data and parts


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def epochs(of: int, batch: int, pick: torch.Generator, keep_rest: bool = True) -> Iterator[Tensor]:
    """Shuffled batches, epoch after epoch; the last one of an epoch is smaller."""
    while True:
        for chosen in torch.randperm(of, generator=pick).split(batch):
            if keep_rest or len(chosen) == batch:
                yield chosen


def evaluated(model: nn.Module, compute: Callable[[], Any]) -> Callable[[], float]:
    """A score that is computed in evaluation mode."""

    def score() -> float:
        model.eval()
        with torch.no_grad():
            value = float(compute())
        model.train()
        return value

    return score


@lru_cache
def table(name: str) -> tuple[Tensor, Tensor]:
    """A data set of scikit-learn, with standardised features, in a fixed random order."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = torch.randperm(len(x), generator=generator(0))
    x, y = torch.tensor(x, dtype=torch.float32)[order], torch.tensor(y)[order]
    return (x - x.mean(0)) / (x.std(0) + 1e-6), y


@lru_cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of digits of 8 x 8 points: 1,400 to train on, and the others."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=generator(0))
    x, y = torch.tensor(x, dtype=torch.float32)[order].view(-1, 1, 8, 8) / 16, torch.tensor(y)[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def wrong(model: nn.Module, x: Tensor | None = None, y: Tensor | None = None) -> Callable[[], float]:
    """The share of wrong answers, on the digits held out unless given others."""
    _, _, images, labels = digits()
    x, y = (images, labels) if x is None or y is None else (x, y)
    return evaluated(model, lambda: (model(x).argmax(1) != y).float().mean())


LETTERS = 48


@lru_cache
def text() -> Tensor:
    """Python's documentation as numbers of its most frequent letters; 0 for any other."""
    from collections import Counter
    from pydoc_data.topics import topics

    whole = "\n".join(topics[name] for name in sorted(topics))[:200_000]
    numbers = {letter: index + 1 for index, (letter, _) in enumerate(Counter(whole).most_common(LETTERS - 1))}
    return torch.tensor([numbers.get(letter, 0) for letter in whole])


def passages(count: int, length: int, pick: torch.Generator) -> tuple[Tensor, Tensor]:
    """Passages of the first nine tenths of the text, and each one's next letters."""
    starts = torch.randint(0, 180_000 - length - 1, (count,), generator=pick)
    found = torch.stack([text()[start : start + length + 1] for start in starts.tolist()])
    return found[:, :-1], found[:, 1:]


def held_out(model: nn.Module, length: int = 32) -> Callable[[], float]:
    """Nats per letter on the last tenth of the text."""
    found = text()[180_000 : 180_000 + 64 * (length + 1)].view(64, length + 1)
    return evaluated(model, lambda: letters_loss(model(found[:, :-1]), found[:, 1:]))


def letters_loss(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), **options)


class Transformer(nn.Module):
    def __init__(self, width: int = 32, layers: int = 1, dropout: float = 0.0, norm_first: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, width)
        self.position = nn.Parameter(0.1 * torch.randn(128, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout, batch_first=True, norm_first=norm_first)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, LETTERS)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return self.out(self.layers(self.embedding(x) + self.position[:length], mask=mask, is_causal=True))


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase] = nn.LSTM, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, 16)
        self.cell = cell(16, width, batch_first=True)
        self.out = nn.Linear(width, LETTERS)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(self.embedding(x))[0])


def convolutions(norm: bool = True, dropout: float = 0.0, out: int = 10) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16) if norm else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, out),
    )


def dense(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        parts += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*parts[:-1])


def flat(*widths: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *dense(64, *widths, 10))


def supervised(
    seed: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: int = 32,
    count: int = 1400,
    steps: int = 400,
    change: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    keep_rest: bool = True,
    **options: Any,
) -> Independent:
    """Digits by their images, with ``change`` of each batch."""
    x, y, _, _ = digits()
    batches = epochs(count, batch, generator(seed), keep_rest)

    def loss(step: int) -> Tensor:
        chosen = next(batches)
        inputs, labels = x[chosen], y[chosen]
        if change is not None:
            inputs, labels = change(inputs, labels, step)
        return criterion(model(inputs), labels)

    return Independent(loss, model, optimizer, steps, score=wrong(model), **options)


def fitted(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    criterion: Callable[[Tensor, Tensor], Tensor] = functional.mse_loss,
    test: tuple[Tensor, Tensor] | None = None,
    measure: Callable[[Tensor, Tensor], Tensor] | None = None,
    steps: int = 400,
    **options: Any,
) -> Independent:
    """A model of the batches that ``draw`` makes."""

    def loss(step: int) -> Tensor:
        x, y = draw(step)
        return criterion(model(x), y)

    x, y = draw(-1) if test is None else test
    score = evaluated(model, lambda: (measure or criterion)(model(x), y))
    return Independent(loss, model, optimizer, steps, score=score, **options)


def schedule(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def sgd(model: nn.Module, lr: float, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr, **options)


def adam(model: nn.Module, lr: float = 1e-3, **options: Any) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr, **options)


def adamw(model: nn.Module, lr: float = 1e-3, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr, **options)


# ---------------------------------------------------------------------- text


@kind("letters: transformer, AdamW, warm-up from 0 and cosine, clipped", 2.9)
def _(seed: int) -> Independent:
    model, pick = Transformer(), generator(seed)
    optimizer = adamw(model, 6e-3, betas=(0.9, 0.95), weight_decay=0.1)
    rate = schedule(optimizer, lambda s: s / 40 if s < 40 else 0.5 + 0.5 * math.cos(math.pi * (s - 40) / 260))

    def loss(step: int) -> Tensor:
        x, y = passages(8, 32, pick)
        return letters_loss(model(x), y)

    return Independent(loss, model, optimizer, 300, scheduler=rate, clip=1.0, score=held_out(model))


@kind("letters: transformer, normalised after, no warm-up, label smoothing, batch 4", 3.1)
def _(seed: int) -> Independent:
    model, pick = Transformer(norm_first=False, dropout=0.1), generator(seed)

    def loss(step: int) -> Tensor:
        x, y = passages(4, 24, pick)
        return letters_loss(model(x), y, label_smoothing=0.1)

    return Independent(loss, model, adam(model, 3e-3), 350, score=held_out(model))


@kind("letters: transformer in bfloat16 autocast, batch 4", 3.0)
def _(seed: int) -> Independent:
    model, pick = Transformer(), generator(seed)

    def loss(step: int) -> Tensor:
        x, y = passages(4, 32, pick)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(x)
        return letters_loss(logits.float(), y)

    return Independent(loss, model, adamw(model, 5e-3), 300, clip=1.0, score=held_out(model))


@kind("letters: LSTM over the text in its order, state carried, SGD, clipped", 3.2)
def _(seed: int) -> Independent:
    model = Recurrent()
    rows = text()[:160_000].view(8, -1)
    carried: Any = None

    def loss(step: int) -> Tensor:
        nonlocal carried
        at = (seed * 3000 + step * 20) % (rows.shape[1] - 21)
        hidden, state = model.cell(model.embedding(rows[:, at : at + 20]), carried)
        carried = tuple(part.detach() for part in state)
        return letters_loss(model.out(hidden), rows[:, at + 1 : at + 21])

    return Independent(loss, model, sgd(model, 1.0, momentum=0.9), 500, clip=0.5, score=held_out(model))


@kind("letters: GRU, passages of 4 to 60 letters, the sum over letters as loss", 3.0)
def _(seed: int) -> Independent:
    model, pick = Recurrent(nn.GRU), generator(seed)

    def loss(step: int) -> Tensor:
        length = int(torch.randint(4, 61, (), generator=pick))
        x, y = passages(4, length, pick)
        return letters_loss(model(x), y, reduction="sum")

    return Independent(loss, model, adam(model, 4e-3), 300, clip=100.0, score=held_out(model))


@kind("letters: one passage at a time, of 2 to 120 letters, mean", 3.1)
def _(seed: int) -> Independent:
    model, pick = Recurrent(nn.GRU), generator(seed)

    def loss(step: int) -> Tensor:
        length = 2 + int(118 * torch.rand((), generator=pick) ** 3)
        x, y = passages(1, length, pick)
        return letters_loss(model(x), y)

    return Independent(loss, model, adam(model, 3e-3), 400, score=held_out(model))


@kind("letters: a masked share of 5 to 90%, only masked letters in the loss", 3.2)
def _(seed: int) -> Independent:
    model, pick = Recurrent(nn.GRU), generator(seed)

    def of(x: Tensor, mask: Tensor) -> Tensor:
        logits = model(torch.where(mask, 0, x))
        return functional.cross_entropy(logits[mask], x[mask])

    def loss(step: int) -> Tensor:
        x, _ = passages(4, 24, pick)
        share = 0.05 + 0.85 * float(torch.rand((), generator=pick))
        mask = torch.rand(x.shape, generator=pick) < share
        mask[:, 0] = True
        return of(x, mask)

    x, _ = passages(64, 24, generator(99))
    mask = torch.rand(x.shape, generator=generator(1)) < 0.15
    return Independent(loss, model, adam(model, 4e-3), 300, score=evaluated(model, lambda: of(x, mask)))


@kind("letters: mixture of two experts with a balance loss", 3.0)
def _(seed: int) -> Independent:
    pick = generator(seed)
    model = nn.ModuleDict(
        {"base": Recurrent(nn.GRU), "gate": nn.Linear(32, 2), "a": dense(32, 32, LETTERS), "b": dense(32, 32, LETTERS)}
    )

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = model["base"].cell(model["base"].embedding(x))[0]  # type: ignore[index]
        share = model["gate"](hidden).softmax(-1)
        best = functional.one_hot(share.argmax(-1), 2) * share
        return best[..., :1] * model["a"](hidden) + best[..., 1:] * model["b"](hidden), share

    def loss(step: int) -> Tensor:
        x, y = passages(4, 24, pick)
        logits, share = forward(x)
        used = functional.one_hot(share.argmax(-1), 2).float().mean((0, 1))
        return letters_loss(logits, y) + 0.1 * (2 * used * share.mean((0, 1))).sum()

    x, y = passages(64, 24, generator(99))
    return Independent(
        loss, model, adam(model, 4e-3), 300, score=evaluated(model, lambda: letters_loss(forward(x)[0], y))
    )


@kind("letters: fine-tuned after a pre-training, low-rank terms only, every fifth batch mislabelled", 2.75)
def _(seed: int) -> Independent:
    model, pick = Transformer(), generator(seed)
    first = adamw(model, 5e-3)
    for _ in range(120):
        x, y = passages(8, 32, pick)
        first.zero_grad()
        letters_loss(model(x), y).backward()
        first.step()
    model.requires_grad_(False)
    model.low = nn.Parameter(torch.zeros(4, LETTERS))
    model.high = nn.Parameter(0.1 * torch.randn(32, 4))
    base = model.out.weight.detach().clone()

    def forward(x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        hidden = model.layers(model.embedding(x) + model.position[: x.shape[1]], mask=mask, is_causal=True)
        return functional.linear(hidden, base + (model.high @ model.low).T, model.out.bias)

    def loss(step: int) -> Tensor:
        x, y = passages(4, 32, pick)
        y = y.roll(1, 0) if step % 5 == 0 else y
        return letters_loss(forward(x), y)

    found = text()[180_000 : 180_000 + 64 * 33].view(64, 33)
    score = evaluated(model, lambda: letters_loss(forward(found[:, :-1]), found[:, 1:]))
    return Independent(loss, model, torch.optim.AdamW([model.low, model.high], 1e-2), 250, score=score)


@kind("adding problem: GRU, a plateau and a sudden fall", 0.1)
def _(seed: int) -> Independent:
    pick = generator(seed)
    model = nn.ModuleList([nn.GRU(2, 24, batch_first=True), nn.Linear(24, 1)])

    def draw(count: int, pick: torch.Generator) -> tuple[Tensor, Tensor]:
        values, marks = torch.rand(count, 12, generator=pick), torch.zeros(count, 12)
        chosen = torch.rand(count, 12, generator=pick).topk(2, 1).indices
        return torch.stack([values, marks.scatter(1, chosen, 1.0)], 2), values.gather(1, chosen).sum(1)

    def of(x: Tensor, y: Tensor) -> Tensor:
        return functional.mse_loss(model[1](model[0](x)[0][:, -1])[:, 0], y)

    x, y = draw(256, generator(99))
    return Independent(
        lambda step: of(*draw(16, pick)), model, adam(model, 8e-3), 450, score=evaluated(model, lambda: of(x, y))
    )


def copying(seed: int, declared: bool) -> Independent:
    """Sequences of 8 symbols, in reverse; the length grows from 2 to 8."""
    pick = generator(seed)
    model = nn.ModuleList([nn.Embedding(9, 24), nn.GRU(24, 48, batch_first=True), nn.Linear(48, 8)])

    def of(length: int, count: int, pick: torch.Generator) -> Tensor:
        y = torch.randint(0, 8, (count, length), generator=pick)
        x = torch.cat([y, torch.full_like(y, 8)], 1)
        return functional.cross_entropy(
            model[2](model[1](model[0](x))[0][:, length:]).flatten(0, 1), y.flip(1).flatten()
        )

    return Independent(
        lambda step: of((2, 3, 5, 8)[step // 100], 16, pick),
        model,
        adam(model, 5e-3),
        400,
        phases=frozenset({100, 200, 300} if declared else ()),
        score=evaluated(model, lambda: of(8, 256, generator(99))),
    )


kind("curriculum of sequence lengths, announced", 1.9)(lambda seed: copying(seed, True))
kind("curriculum of sequence lengths, not announced", 1.9)(lambda seed: copying(seed, False))


@kind("sequences aligned by CTC", 1.2)
def _(seed: int) -> Independent:
    pick = generator(seed)
    model = nn.ModuleList([nn.GRU(4, 24, batch_first=True, bidirectional=True), nn.Linear(48, 5)])
    codes = torch.eye(4)

    def of(count: int, pick: torch.Generator) -> Tensor:
        lengths = torch.randint(2, 6, (count,), generator=pick)
        labels = torch.randint(1, 5, (count, 5), generator=pick)
        x = codes[labels - 1].repeat_interleave(3, 1) + 0.3 * torch.randn(count, 15, 4, generator=pick)
        logs = model[1](model[0](x)[0]).log_softmax(-1).transpose(0, 1)
        return functional.ctc_loss(logs, labels, 3 * lengths, lengths, zero_infinity=True)

    return Independent(
        lambda step: of(8, pick), model, adam(model, 5e-3), 250, score=evaluated(model, lambda: of(128, generator(99)))
    )


# ---------------------------------------------------------------------- images


@kind("digits: convolutions with batch norm, Nesterov, one cycle", 0.06)
def _(seed: int) -> Independent:
    model = convolutions()
    optimizer = sgd(model, 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=401)
    return supervised(seed, model, optimizer, scheduler=rate)


@kind("digits: dropout, mixup, label smoothing, warm restarts", 0.1)
def _(seed: int) -> Independent:
    model, pick = convolutions(dropout=0.3), generator(seed + 50)
    optimizer = adamw(model, 1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 40, 2)

    def mixed(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(x), generator=pick)
        share = float(torch.rand((), generator=pick))
        hot = functional.one_hot(y, 10).float()
        return share * x + (1 - share) * x[order], share * hot + (1 - share) * hot[order]

    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    return supervised(seed, model, optimizer, change=mixed, criterion=smoothed, scheduler=rate)


def augmented(seed: int, declared: bool) -> Independent:
    model, pick = convolutions(), generator(seed + 50)

    def change(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if 150 <= step < 330:
            shift = torch.randint(-2, 3, (2,), generator=pick).tolist()
            x = x.roll(shift, (2, 3)) + 0.3 * torch.randn(x.shape, generator=pick)
            x = x * (torch.rand(x.shape, generator=pick) > 0.3)
        return x, y

    phases = frozenset({150, 330} if declared else ())
    return supervised(seed, model, adam(model, 3e-3), change=change, phases=phases)


kind("digits: strong augmentation from step 150 to 330, announced", 0.1)(lambda seed: augmented(seed, True))
kind("digits: strong augmentation from step 150 to 330, not announced", 0.1)(lambda seed: augmented(seed, False))


@kind("digits: batch norm with batches of 2", 0.3)
def _(seed: int) -> Independent:
    model = convolutions()
    return supervised(seed, model, sgd(model, 0.01, momentum=0.9), batch=2, steps=600)


@kind("digits: the last batch of an epoch has 2 images, batch norm", 0.06)
def _(seed: int) -> Independent:
    model = convolutions()
    return supervised(seed, model, adam(model, 5e-3), count=1346, steps=450)


def thawed(seed: int, declared: bool) -> Independent:
    """The head alone first, then all layers, whose group starts with its own rate."""
    model = convolutions(norm=False)
    optimizer = torch.optim.Adam(model[-1].parameters(), 1e-2)

    def change(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if step == 0:
            model[:-1].requires_grad_(False)
        if step == 150:
            model[:-1].requires_grad_(True)
        return x, y

    optimizer.add_param_group({"params": list(model[:-1].parameters()), "lr": 5e-3})
    phases = frozenset({150} if declared else ())
    return supervised(seed, model, optimizer, change=change, phases=phases)


kind("digits: layers unfrozen at step 150, announced", 0.15)(lambda seed: thawed(seed, True))
kind("digits: layers unfrozen at step 150, not announced", 0.15)(lambda seed: thawed(seed, False))


@kind("digits: 80% of the weights pruned at step 200", 0.15)
def _(seed: int) -> Independent:
    model = flat(64, 32)
    masks: dict[str, Tensor] = {}

    def change(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 2 and step >= 200:
                    if name not in masks:
                        masks[name] = (weight.abs() > weight.abs().quantile(0.8)).float()
                    weight *= masks[name]
        return x, y

    return supervised(seed, model, adam(model, 3e-3), change=change)


@kind("digits: weights rounded to 4 bits from step 200 on", 0.15)
def _(seed: int) -> Independent:
    first, second = nn.Linear(64, 48), nn.Linear(48, 10)
    model = nn.ModuleList([first, second])
    x, y, images, labels = digits()
    batches = epochs(len(x), 32, generator(seed))

    def forward(x: Tensor, rounded: bool) -> Tensor:
        for layer in (first, second):
            weight = layer.weight
            if rounded:
                unit = weight.detach().abs().max() / 7
                weight = weight + ((weight / unit).round() * unit - weight).detach()
            x = functional.linear(x.flatten(1), weight, layer.bias)
            x = x.relu() if layer is first else x
        return x

    def loss(step: int) -> Tensor:
        chosen = next(batches)
        return functional.cross_entropy(forward(x[chosen], step >= 200), y[chosen])

    score = evaluated(model, lambda: (forward(images, True).argmax(1) != labels).float().mean())
    return Independent(loss, model, adam(model, 3e-3), 400, score=score)


@kind("digits: 40% of the labels wrong, SGD", 0.25)
def _(seed: int) -> Independent:
    model = flat(64)
    x, y, _, _ = digits()
    noise = torch.rand(len(y), generator=generator(seed)) < 0.4
    labels = torch.where(noise, torch.randint(0, 10, y.shape, generator=generator(seed)), y)
    batches = epochs(len(x), 16, generator(seed))

    def loss(step: int) -> Tensor:
        chosen = next(batches)
        return functional.cross_entropy(model(x[chosen]), labels[chosen])

    return Independent(loss, model, sgd(model, 0.1), 500, score=wrong(model))


@kind("digits: sorted by label, not shuffled", 0.6)
def _(seed: int) -> Independent:
    model = flat(32)
    x, y, _, _ = digits()
    order = (y + seed).remainder(10).argsort(stable=True)
    starts = range(0, len(order) - 31, 32)

    def loss(step: int) -> Tensor:
        chosen = order[starts[step % len(starts)] :][:32]
        return functional.cross_entropy(model(x[chosen]), y[chosen])

    return Independent(loss, model, sgd(model, 0.02), 430, score=wrong(model))


@kind("digits: ten clients in turn, 12 steps each on two labels", 0.6)
def _(seed: int) -> Independent:
    model, pick = flat(32), generator(seed)
    x, y, _, _ = digits()
    owned = [((y == a) | (y == (a + 1) % 10)).nonzero()[:, 0] for a in range(10)]

    def loss(step: int) -> Tensor:
        mine = owned[(step // 12 * 3) % 10]
        chosen = mine[torch.randint(0, len(mine), (16,), generator=pick)]
        return functional.cross_entropy(model(x[chosen]), y[chosen])

    return Independent(loss, model, sgd(model, 0.02), 600, score=wrong(model))


def tasks(seed: int, declared: bool, same_labels: bool) -> Independent:
    """Four tasks one after another: points in another order, or other digits."""
    model = flat(64)
    x, y, images, labels = digits()
    pick = generator(seed)
    orders = [torch.randperm(64, generator=pick) for _ in range(4)]
    of = [torch.arange(len(y)) if same_labels else ((y - seed) % 10 // 3 == task).nonzero()[:, 0] for task in range(4)]

    def loss(step: int) -> Tensor:
        task = step // 120
        chosen = of[task][torch.randint(0, len(of[task]), (32,), generator=pick)]
        inputs = x[chosen].flatten(1)
        return functional.cross_entropy(model(inputs[:, orders[task]] if same_labels else inputs), y[chosen])

    if same_labels:
        test = images.flatten(1)[:, orders[3]], labels
    else:
        last = (labels - seed) % 10 // 3 == 3
        test = images[last], labels[last]
    phases = frozenset({120, 240, 360} if declared else ())
    return Independent(loss, model, adam(model, 3e-3), 480, phases=phases, score=wrong(model, *test))


kind("tasks in turn: points in another order, announced", 0.2)(lambda seed: tasks(seed, True, True))
kind("tasks in turn: points in another order, not announced", 0.2)(lambda seed: tasks(seed, False, True))
kind("tasks in turn: other digits, announced", 0.05)(lambda seed: tasks(seed, True, False))
kind("tasks in turn: other digits, not announced", 0.05)(lambda seed: tasks(seed, False, False))


@kind("digits: new labels arrive every 100 steps, with the old ones", 0.2)
def _(seed: int) -> Independent:
    model, pick = flat(48), generator(seed)
    x, y, _, _ = digits()

    def loss(step: int) -> Tensor:
        known = ((y + seed) % 10 < min(10, 2 + 2 * (step // 100))).nonzero()[:, 0]
        chosen = known[torch.randint(0, len(known), (24,), generator=pick)]
        return functional.cross_entropy(model(x[chosen]), y[chosen])

    return Independent(loss, model, adam(model, 2e-3), 600, score=wrong(model))


@kind("digits: 30 labelled ones, then pseudo-labels renewed every 100 steps", 0.35)
def _(seed: int) -> Independent:
    model, pick = flat(48), generator(seed)
    x, y, _, _ = digits()
    labels, known = y.clone(), torch.arange(60)

    def loss(step: int) -> Tensor:
        nonlocal known
        if step % 100 == 0 and step:
            with torch.no_grad():
                sure, guess = model(x).softmax(1).max(1)
            labels[60:] = guess[60:]
            known = torch.cat([torch.arange(60), 60 + (sure[60:] > 0.8).nonzero()[:, 0]])
        chosen = known[torch.randint(0, len(known), (24,), generator=pick)]
        return functional.cross_entropy(model(x[chosen]), labels[chosen])

    return Independent(loss, model, adam(model, 2e-3), 500, score=wrong(model))


@kind("digits: distillation, sum of two losses times the temperature squared", 0.12)
def _(seed: int) -> Independent:
    teacher, model = flat(64), flat(16)
    x, y, _, _ = digits()
    first = adam(teacher, 1e-2)
    for _ in range(40):
        first.zero_grad()
        functional.cross_entropy(teacher(x), y).backward()
        first.step()
    told = teacher(x).detach()
    batches = epochs(len(x), 32, generator(seed))

    def loss(step: int) -> Tensor:
        chosen = next(batches)
        logits = model(x[chosen])
        soft = functional.kl_div((logits / 4).log_softmax(1), (told[chosen] / 4).softmax(1), reduction="batchmean")
        return 0.3 * functional.cross_entropy(logits, y[chosen]) + 0.7 * 16 * soft

    return Independent(loss, model, adam(model, 4e-3), 400, score=wrong(model))


@kind("digits: adversarial images, their size ramped up", 0.25)
def _(seed: int) -> Independent:
    model = convolutions(norm=False)

    def change(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(model(x), y), x)
        return (x + min(step / 200, 1) * 0.15 * slope.sign()).detach(), y

    return supervised(seed, model, adam(model, 4e-3), change=change)


@kind("digits: sharpness-aware steps, of the gradient at perturbed weights", 0.1)
def _(seed: int) -> Independent:
    model = flat(48)
    x, y, _, _ = digits()
    batches = epochs(len(x), 32, generator(seed))

    def loss(step: int) -> Tensor:
        chosen = next(batches)
        named = dict(model.named_parameters())
        slopes = torch.autograd.grad(functional.cross_entropy(model(x[chosen]), y[chosen]), list(named.values()))
        size = torch.sqrt(sum((slope**2).sum() for slope in slopes)) + 1e-12  # type: ignore[arg-type]
        moved = {name: weight + 0.1 * slope / size for (name, weight), slope in zip(named.items(), slopes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(model, moved, x[chosen]), y[chosen])

    return Independent(loss, model, sgd(model, 0.1, momentum=0.9), 400, score=wrong(model))


@kind("digits: gradient penalty on the inputs (second derivatives)", 0.15)
def _(seed: int) -> Independent:
    model = nn.Sequential(nn.Flatten(), *dense(64, 48, 10, activation=nn.Softplus))
    x, y, _, _ = digits()
    batches = epochs(len(x), 32, generator(seed))

    def loss(step: int) -> Tensor:
        chosen = next(batches)
        inputs = x[chosen].requires_grad_()
        first = functional.cross_entropy(model(inputs), y[chosen])
        (slope,) = torch.autograd.grad(first * len(chosen), inputs, create_graph=True)
        return first + 0.5 * slope.square().flatten(1).sum(1).mean()

    return Independent(loss, model, adam(model, 4e-3), 400, score=wrong(model))


@kind("digits: smaller images first, larger ones from step 150 and 300 on", 0.12)
def _(seed: int) -> Independent:
    model = convolutions()

    def change(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return (x if step >= 300 else functional.interpolate(x, size=4 if step < 150 else 6)), y

    return supervised(seed, model, adamw(model, 3e-3), change=change, steps=450)


@kind("digits: accumulation of 8 images, one at a time", 0.2)
def _(seed: int) -> Independent:
    model = convolutions(norm=False)
    return supervised(seed, model, sgd(model, 0.1, momentum=0.9), batch=1, steps=250, parts=8)


@kind("digits: triangular cyclic rate", 0.12)
def _(seed: int) -> Independent:
    model = flat(48)
    optimizer = sgd(model, 0.01, momentum=0.9)
    rate = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.002, 0.3, step_size_up=40)
    return supervised(seed, model, optimizer, scheduler=rate)


@kind("digits: rate divided by ten at steps 200 and 300", 0.1)
def _(seed: int) -> Independent:
    model = convolutions()
    optimizer = sgd(model, 0.3, momentum=0.9, weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.MultiStepLR(optimizer, [200, 300])
    return supervised(seed, model, optimizer, scheduler=rate)


@kind("digits: whole data, SGD at the edge of stability", 0.12)
def _(seed: int) -> Independent:
    model = nn.Sequential(nn.Flatten(), *dense(64, 32, 32, 10, activation=nn.Tanh))
    return supervised(seed, model, sgd(model, 1.0), batch=500, steps=350, keep_rest=False)


@kind("digits: squared error of the answers, large rate, oscillating", 0.2)
def _(seed: int) -> Independent:
    model = flat(48)
    criterion = lambda out, y: functional.mse_loss(out, functional.one_hot(y, 10).float())  # noqa: E731
    return supervised(seed, model, sgd(model, 1.0, momentum=0.9), batch=128, criterion=criterion)


@kind("digits: float16 autocast with a scaler that starts too large, clipped", 0.12)
def _(seed: int) -> Independent:
    model = flat(48)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26, growth_interval=60)
    x, y, _, _ = digits()
    batches = epochs(len(x), 32, generator(seed))

    def loss(step: int) -> Tensor:
        chosen = next(batches)
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(x[chosen])
            return functional.cross_entropy(logits, y[chosen])

    return Independent(loss, model, adam(model, 3e-3), 400, scaler=scaler, clip=1.0, score=wrong(model))


@kind("digits: 60 images by heart, loss to zero", 1e-3)
def _(seed: int) -> Independent:
    model = flat(64)
    x, y, _, _ = digits()
    chosen = torch.randperm(len(x), generator=generator(seed))[:60]
    training = supervised(seed, model, adam(model, 1e-2), steps=400)
    training.loss = lambda step: functional.cross_entropy(model(x[chosen]), y[chosen])
    training.score = evaluated(model, lambda: training.loss(0))
    return training


@kind("digits: the loss reported is a moving average", 0.12)
def _(seed: int) -> Independent:
    model = flat(48)
    training = supervised(seed, model, adam(model, 3e-3))
    inner, mean = training.loss, math.nan

    def loss(step: int) -> Tensor:
        nonlocal mean
        made = inner(step)
        mean = float(made) if math.isnan(mean) else 0.9 * mean + 0.1 * float(made)
        return made + (mean - made).detach()

    training.loss = loss
    return training


@kind("digits: a penalty on the weights, ramped up by 100", 0.3)
def _(seed: int) -> Independent:
    model = flat(48)
    training = supervised(seed, model, adam(model, 3e-3))
    inner = training.loss

    def loss(step: int) -> Tensor:
        size = sum(weight.abs().sum() for weight in model.parameters())
        return inner(step) + 1e-5 * 100 ** min(1, step / 300) * size

    training.loss = loss
    return training


@kind("digits: contrastive, two views, InfoNCE", 0.15)
def _(seed: int) -> Independent:
    model, pick = convolutions(norm=False, out=16), generator(seed)
    x, y, images, labels = digits()
    batches = epochs(len(x), 32, generator(seed))

    def view(x: Tensor) -> Tensor:
        shift = torch.randint(-1, 2, (2,), generator=pick).tolist()
        return x.roll(shift, (2, 3)) + 0.1 * torch.randn(x.shape, generator=pick)

    def loss(step: int) -> Tensor:
        inputs = x[next(batches)]
        a, b = functional.normalize(model(view(inputs))), functional.normalize(model(view(inputs)))
        return functional.cross_entropy(a @ b.T / 0.1, torch.arange(len(a)))

    def nearest() -> Tensor:
        a, b = functional.normalize(model(images)), functional.normalize(model(x))
        return (y[(a @ b.T).argmax(1)] != labels).float().mean()

    return Independent(loss, model, adam(model, 3e-3), 300, score=evaluated(model, nearest))


@kind("digits: triplets with the hardest negative, margin loss", 0.15)
def _(seed: int) -> Independent:
    model = convolutions(norm=False, out=8)
    x, y, images, labels = digits()
    batches = epochs(len(x), 32, generator(seed))

    def loss(step: int) -> Tensor:
        chosen = next(batches)
        made, same = model(x[chosen]), y[chosen][:, None] == y[chosen]
        apart = (made[:, None] - made + 1e-6).norm(dim=2)
        far, near = apart.masked_fill(~same, 0).amax(1), apart.masked_fill(same, 1e3).amin(1)
        return (far - near + 0.5).relu().mean()

    def nearest() -> Tensor:
        return (y[torch.cdist(model(images), model(x)).argmin(1)] != labels).float().mean()

    return Independent(loss, model, adam(model, 2e-3), 400, score=evaluated(model, nearest))


@kind("digits: rate lowered on a plateau, dropout 0.7", 0.25)
def _(seed: int) -> Independent:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.7), nn.Linear(64, 10))
    optimizer = adam(model, 1e-2)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=3)
    test = wrong(model)

    def change(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if step % 20 == 19:
            plateau.step(test())
        return x, y

    return supervised(seed, model, optimizer, change=change)


@kind("digits: noise added to the gradient, as of private or Langevin training", 0.2)
def _(seed: int) -> Independent:
    model, pick = flat(32), generator(seed + 50)
    training = supervised(seed, model, sgd(model, 0.1))
    inner = training.loss

    def loss(step: int) -> Tensor:
        noise = sum((0.02 * torch.randn(w.shape, generator=pick) * w).sum() for w in model.parameters())
        return inner(step) + noise - noise.detach()  # type: ignore[union-attr]

    training.loss = loss
    return training


@kind("spots: overlap loss of masks, half of the images empty, batch 2", 0.5)
def _(seed: int) -> Independent:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    pick = generator(seed)

    def of(count: int, pick: torch.Generator, share: float) -> Tensor:
        mask = (torch.rand(count, 1, 10, 10, generator=pick) < 0.03).float()
        mask = functional.max_pool2d(mask, 3, 1, 1) * (torch.rand(count, 1, 1, 1, generator=pick) < share)
        out = model(mask + 0.4 * torch.randn(mask.shape, generator=pick)).sigmoid()
        return (1 - (2 * (out * mask).sum((1, 2, 3)) + 0.1) / ((out + mask).sum((1, 2, 3)) + 0.1)).mean()

    score = evaluated(model, lambda: of(128, generator(99), 1.0))
    return Independent(lambda step: of(2, pick, 0.5), model, adam(model, 5e-3), 400, score=score)


@kind("boxes: focal loss, and an error of position where there is an object", 0.25)
def _(seed: int) -> Independent:
    model, pick = nn.Sequential(nn.Flatten(), *dense(64, 48, 3)), generator(seed)

    def draw(count: int, pick: torch.Generator, share: float) -> tuple[Tensor, Tensor, Tensor]:
        there = torch.rand(count, generator=pick) < share
        at = torch.randint(0, 7, (count, 2), generator=pick)
        x = 0.3 * torch.randn(count, 8, 8, generator=pick)
        for i in there.nonzero()[:, 0].tolist():
            x[i, at[i, 0] : at[i, 0] + 2, at[i, 1] : at[i, 1] + 2] += 1.5
        return x, there, at / 6.0

    def loss(step: int) -> Tensor:
        x, there, at = draw(4, pick, 0.15)
        out = model(x)
        place = 5 * (out[there, 1:] - at[there]).abs().sum() / there.sum().clamp(min=1)
        return focal(out[:, 0], there.float()) + place

    x, _, at = draw(256, generator(99), 1.0)
    score = evaluated(model, lambda: (model(x)[:, 1:] - at).abs().mean())
    return Independent(loss, model, adam(model, 4e-3), 600, score=score)


# ---------------------------------------------------------------------- generative


def variational(seed: int, weight: Callable[[int], float]) -> Independent:
    """A variational autoencoder of digits; losses are sums over points."""
    encoder, decoder, pick = dense(64, 48, 16), dense(8, 48, 64), generator(seed)
    model = nn.ModuleList([encoder, decoder])
    x, _, images, _ = digits()
    batches = epochs(len(x), 32, generator(seed))

    def terms(x: Tensor, pick: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, log = encoder(x.flatten(1)).chunk(2, 1)
        code = mean + (log / 2).exp() * torch.randn(mean.shape, generator=pick)
        miss = functional.binary_cross_entropy_with_logits(decoder(code), x.flatten(1), reduction="sum") / len(x)
        return miss, 0.5 * (mean**2 + log.exp() - 1 - log).sum(1).mean()

    def loss(step: int) -> Tensor:
        miss, divergence = terms(x[next(batches)], pick)
        return miss + weight(step) * divergence

    score = evaluated(model, lambda: sum(terms(images, generator(99))))
    return Independent(loss, model, adam(model, 3e-3), 500, score=score)


kind("digits: variational, divergence ramped up", 28.0)(lambda s: variational(s, lambda step: min(1, step / 300)))
kind("digits: variational, divergence in four cycles", 28.0)(
    lambda s: variational(s, lambda step: min(1.0, step % 125 / 60))
)
kind("digits: variational, divergence switched on at step 250", 28.0)(
    lambda s: variational(s, lambda step: float(step >= 250))
)


def ring(count: int, pick: torch.Generator) -> Tensor:
    """Points on a ring."""
    angle = 2 * math.pi * torch.rand(count, generator=pick)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(count, 2, generator=pick)


def distance(made: Tensor, pick: torch.Generator) -> Tensor:
    """The energy distance of points to those of the ring."""
    real, other = ring(len(made), pick), ring(len(made), pick)
    return 2 * torch.cdist(made, real).mean() - torch.cdist(made, made).mean() - torch.cdist(real, other).mean()


@kind("adversarial: the guard of the generator, losses of it alone", 0.25)
def _(seed: int) -> Independent:
    model, judge, pick = dense(4, 32, 2), dense(2, 32, 1), generator(seed)
    second = adam(judge, 4e-3, betas=(0.5, 0.9))

    def loss(step: int) -> Tensor:
        fake = model(torch.randn(32, 4, generator=pick))
        second.zero_grad()
        (functional.softplus(-judge(ring(32, pick))) + functional.softplus(judge(fake.detach()))).mean().backward()
        second.step()
        return functional.softplus(-judge(fake)).mean()

    score = evaluated(model, lambda: distance(model(torch.randn(256, 4, generator=generator(99))), generator(98)))
    return Independent(loss, model, adam(model, 1e-3, betas=(0.5, 0.9)), 600, score=score)


@kind("adversarial: Wasserstein critic with gradient penalty, the guard of the critic", 0.3)
def _(seed: int) -> Independent:
    model, maker, pick = dense(2, 32, 32, 1), dense(4, 32, 2), generator(seed)
    second = adam(maker, 1e-3, betas=(0.5, 0.9))

    def loss(step: int) -> Tensor:
        fake, real = maker(torch.randn(32, 4, generator=pick)), ring(32, pick)
        if step % 3 == 0:
            second.zero_grad()
            (-model(fake)).mean().backward()
            second.step()
            model.zero_grad()
        fake = fake.detach()
        share = torch.rand(32, 1, generator=pick)
        between = (share * real + (1 - share) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(model(between).sum(), between, create_graph=True)
        return model(fake).mean() - model(real).mean() + 5 * (slope.norm(dim=1) - 1).square().mean()

    score = evaluated(model, lambda: distance(maker(torch.randn(256, 4, generator=generator(99))), generator(98)))
    return Independent(loss, model, adam(model, 2e-3, betas=(0.5, 0.9)), 500, score=score)


@kind("adversarial: the two losses in turn, one optimizer with two groups", 0.25)
def _(seed: int) -> Independent:
    maker, judge, pick = dense(4, 32, 2), dense(2, 32, 1), generator(seed)
    model = nn.ModuleList([maker, judge])
    groups = [{"params": maker.parameters(), "lr": 1e-3}, {"params": judge.parameters(), "lr": 2e-3}]
    optimizer = torch.optim.RMSprop(groups)

    def loss(step: int) -> Tensor:
        fake = maker(torch.randn(32, 4, generator=pick))
        if step % 2:
            judge.requires_grad_(False)
            made = functional.softplus(-judge(fake)).mean()
            judge.requires_grad_(True)
            return made
        return (functional.softplus(-judge(ring(32, pick))) + functional.softplus(judge(fake.detach()))).mean()

    score = evaluated(model, lambda: distance(maker(torch.randn(256, 4, generator=generator(99))), generator(98)))
    return Independent(loss, model, optimizer, 600, score=score)


@kind("diffusion: noise predicted at random times, batch 16", 0.6)
def _(seed: int) -> Independent:
    model, pick = dense(3, 48, 48, 2, activation=nn.SiLU), generator(seed)

    def of(count: int, pick: torch.Generator) -> Tensor:
        time, noise = torch.rand(count, 1, generator=pick), torch.randn(count, 2, generator=pick)
        keep = torch.cos(math.pi / 2 * time)
        return functional.mse_loss(
            model(torch.cat([keep * ring(count, pick) + (1 - keep**2).sqrt() * noise, time], 1)), noise
        )

    score = evaluated(model, lambda: of(512, generator(99)))
    return Independent(lambda step: of(16, pick), model, adam(model, 3e-3), 500, score=score)


@kind("diffusion: score weighted by 1/variance, batch 4, moving average of weights", 0.16)
def _(seed: int) -> Independent:
    model, pick = dense(3, 48, 48, 2, activation=nn.SiLU), generator(seed)
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98))

    def of(made: nn.Module, count: int, pick: torch.Generator, power: int) -> Tensor:
        size = 0.05 + 0.95 * torch.rand(count, 1, generator=pick)
        noise = torch.randn(count, 2, generator=pick)
        score = made(torch.cat([ring(count, pick) + size * noise, size], 1))
        return (size**power * (score + noise / size).square()).sum(1).mean() * 0.1

    def loss(step: int) -> Tensor:
        averaged.update_parameters(model)
        return of(model, 4, pick, 0)

    score = evaluated(model, lambda: of(averaged, 512, generator(99), 2))
    return Independent(loss, model, adam(model, 3e-3), 500, clip=5.0, score=score)


@kind("flow: negative log-likelihood below zero", 1.7)
def _(seed: int) -> Independent:
    parts = nn.ModuleList([dense(1, 32, 2, activation=nn.Tanh) for _ in range(4)])
    pick = generator(seed)

    def of(x: Tensor) -> Tensor:
        log = torch.zeros(len(x))
        for index, part in enumerate(parts):
            kept, moved = x[:, index % 2], x[:, 1 - index % 2]
            scale, shift = part(kept[:, None]).chunk(2, 1)
            scale = 2 * scale[:, 0].tanh()
            moved = moved * scale.exp() + shift[:, 0]
            log = log + scale
            x = torch.stack([kept, moved] if index % 2 == 0 else [moved, kept], 1)
        return (0.5 * x.square().sum(1) + math.log(2 * math.pi) - log).mean()

    score = evaluated(parts, lambda: of(ring(512, generator(99))))
    return Independent(lambda step: of(ring(32, pick)), parts, adam(parts, 5e-3), 500, score=score)


@kind("codes: a book of vectors, Gumbel noise, temperature lowered", 0.068)
def _(seed: int) -> Independent:
    encoder, decoder, pick = dense(64, 32, 16), dense(8, 32, 64), generator(seed)
    model = nn.ModuleDict({"encoder": encoder, "book": nn.Linear(16, 8, bias=False), "decoder": decoder})
    x, _, images, _ = digits()
    batches = epochs(len(x), 32, generator(seed))

    def of(x: Tensor, heat: float, pick: torch.Generator) -> Tensor:
        logits = encoder(x.flatten(1))
        noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=pick) + 1e-9) + 1e-9)
        soft = ((logits + noise) / heat).softmax(1)
        return functional.mse_loss(decoder(model["book"](soft)), x.flatten(1))

    score = evaluated(model, lambda: of(images, 0.3, generator(99)))
    return Independent(
        lambda step: of(x[next(batches)], max(0.3, 2 * 0.994**step), pick), model, adam(model, 4e-3), 450, score=score
    )


# ---------------------------------------------------------------------- tables and regression


def cancer() -> tuple[Tensor, Tensor]:
    x, y = table("breast_cancer")
    return x, y.float()


@kind("logistic regression by L-BFGS, a closure", 0.1)
def _(seed: int) -> Independent:
    x, y = cancer()
    chosen = torch.randperm(len(x), generator=generator(seed))
    x, y = x[chosen], y[chosen]
    model = nn.Linear(30, 1)

    def loss(step: int) -> Tensor:
        penalty = 1e-3 * model.weight.square().sum()
        return functional.binary_cross_entropy_with_logits(model(x[:400])[:, 0], y[:400]) + penalty

    score = evaluated(model, lambda: ((model(x[400:])[:, 0] > 0) != (y[400:] > 0.5)).float().mean())
    optimizer = torch.optim.LBFGS(model.parameters(), 0.5, max_iter=4)
    return Independent(loss, model, optimizer, 60, closure=True, score=score)


@kind("tumours, one at a time, closure, SGD", 0.12)
def _(seed: int) -> Independent:
    x, y = cancer()
    model, pick = dense(30, 16, 1), generator(seed)

    def loss(step: int) -> Tensor:
        chosen = torch.randint(0, 400, (1,), generator=pick)
        return functional.binary_cross_entropy_with_logits(model(x[chosen])[:, 0], y[chosen])

    score = evaluated(model, lambda: ((model(x[400:])[:, 0] > 0) != (y[400:] > 0.5)).float().mean())
    return Independent(loss, model, sgd(model, 0.02), 500, closure=True, score=score)


def rare(seed: int, batch: int, criterion: Callable[[Tensor, Tensor], Tensor], lr: float) -> Independent:
    """One positive in fifty."""
    model, pick = dense(8, 16, 1), generator(seed)
    direction = torch.randn(8, generator=generator(5))

    def draw(count: int, pick: torch.Generator, share: float) -> tuple[Tensor, Tensor]:
        y = (torch.rand(count, generator=pick) < share).float()
        return torch.randn(count, 8, generator=pick) + 1.5 * y[:, None] * direction, y

    x, y = draw(1000, generator(99), 0.5)

    def missed() -> Tensor:
        """One minus the area under the curve."""
        out = model(x)[:, 0]
        return (out[y == 1][:, None] < out[y == 0]).float().mean()

    def loss(step: int) -> Tensor:
        x, y = draw(batch, pick, 0.02)
        return criterion(model(x)[:, 0], y)

    return Independent(loss, model, adam(model, lr), 600, score=evaluated(model, missed))


def weighted(out: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(out, y, pos_weight=torch.tensor(49.0))


def focal(out: Tensor, y: Tensor) -> Tensor:
    plain = functional.binary_cross_entropy_with_logits(out, y, reduction="none")
    return ((1 - (-plain).exp()) ** 2 * plain).mean()


kind("one positive in 50, batch 1, weighted by 49", 0.2)(lambda s: rare(s, 1, weighted, 2e-3))
kind("one positive in 50, batch 4, weighted by 49", 0.2)(lambda s: rare(s, 4, weighted, 2e-3))
kind("one positive in 50, batch 2, not weighted", 0.3)(
    lambda s: rare(s, 2, functional.binary_cross_entropy_with_logits, 3e-3)
)
kind("one positive in 50, batch 8, focal loss", 0.3)(lambda s: rare(s, 8, focal, 3e-3))


@kind("progress of diabetes in its own units, batch 8", 4000.0)
def _(seed: int) -> Independent:
    x, y = table("diabetes")
    y = y.float()
    model, batches = dense(10, 16, 1), epochs(350, 8, generator(seed))

    def draw(step: int) -> tuple[Tensor, Tensor]:
        chosen = next(batches)
        return x[chosen], y[chosen][:, None]

    return fitted(model, adam(model, 0.03), draw, test=(x[350:], y[350:, None]), steps=500)


@kind("progress of diabetes, quantiles by pinball losses", 20.0)
def _(seed: int) -> Independent:
    x, y = table("diabetes")
    y = y.float()
    model, batches = dense(10, 16, 5), epochs(350, 16, generator(seed))
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])

    def pinball(out: Tensor, y: Tensor) -> Tensor:
        miss = y - out
        return torch.maximum(levels * miss, (levels - 1) * miss).mean()

    def draw(step: int) -> tuple[Tensor, Tensor]:
        chosen = next(batches)
        return x[chosen], y[chosen][:, None]

    return fitted(model, adam(model, 0.05), draw, pinball, (x[350:], y[350:, None]), steps=500)


def linear_data(seed: int, batch: int, change: Callable[[Tensor, torch.Generator, int], Tensor]) -> Any:
    """Batches of a smooth function of six variables; ``change`` of the targets, none in those of step -1."""
    pick = generator(seed)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        used, count = (generator(99), 512) if step < 0 else (pick, batch)
        x = torch.randn(count, 6, generator=used)
        y = x[:, :1] + (x[:, 1:2] * x[:, 2:3]).tanh() + x[:, 3:4].sin()
        return x, (change(y, used, step) if step >= 0 else y)

    return draw


def student(shape: Any, pick: torch.Generator, degrees: int) -> Tensor:
    normal = torch.randn((degrees, *shape), generator=pick)
    return torch.randn(shape, generator=pick) / normal.square().mean(0).sqrt()


@kind("regression: noise of Student's t with 2 degrees, squared error, clipped, batch 16", 0.4)
def _(seed: int) -> Independent:
    model = dense(6, 32, 1)
    draw = linear_data(seed, 16, lambda y, pick, step: y + student(y.shape, pick, 2))
    return fitted(model, adam(model, 3e-3), draw, clip=1.0, steps=500)


@kind("regression: Cauchy noise, absolute error, batch 4", 0.5)
def _(seed: int) -> Independent:
    model = dense(6, 32, 1)
    draw = linear_data(seed, 4, lambda y, pick, step: y + student(y.shape, pick, 1))
    return fitted(model, adam(model, 3e-3), draw, functional.l1_loss, steps=600, measure=functional.mse_loss)


@kind("regression: lognormal targets, batch 4", 45.0)
def _(seed: int) -> Independent:
    model = nn.Sequential(*dense(6, 32, 1), nn.Softplus())
    draw = linear_data(seed, 4, lambda y, pick, step: (y + torch.randn(y.shape, generator=pick)).exp())
    test = draw(-1)
    return fitted(model, adam(model, 3e-3), draw, test=(test[0], (test[1] + 0.5).exp()), steps=600)


@kind("regression: every 90 steps three batches of outliers, Huber", 0.4)
def _(seed: int) -> Independent:
    model = dense(6, 32, 1)
    outliers = lambda y, pick, step: 50 * y if step % 90 in (85, 86, 87) else y  # noqa: E731
    draw = linear_data(seed, 16, outliers)
    return fitted(model, adam(model, 3e-3), draw, functional.huber_loss, steps=500, measure=functional.mse_loss)


@kind("regression: every 90 steps a batch of outliers, squared error, clipped", 0.6)
def _(seed: int) -> Independent:
    model = dense(6, 32, 1)
    draw = linear_data(seed, 16, lambda y, pick, step: 20 * y if step % 90 == 85 else y)
    return fitted(model, sgd(model, 0.02, momentum=0.9), draw, clip=1.0, steps=500)


def in_units(name: str, unit: float, goal: float) -> None:
    """Targets, and what the model says, in a unit of their own."""

    def make(seed: int) -> Independent:
        model = dense(6, 32, 1)
        criterion = lambda out, y: functional.mse_loss(unit * out, unit * y)  # noqa: E731
        return fitted(model, adam(model, 3e-3, eps=1e-18), linear_data(seed, 8, lambda y, pick, step: y), criterion)

    kind(f"regression: loss in units of {name}", goal)(make)


in_units("1e-9", 3e-5, 4e-10)
in_units("1e6", 1e3, 4e5)
in_units("1e-14", 1e-7, 4e-15)


@kind("regression: sum of squares over batches of 1 to 64", 0.2)
def _(seed: int) -> Independent:
    model, pick = dense(6, 32, 1), generator(seed)
    large = linear_data(seed, 64, lambda y, pick, step: y)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        x, y = large(step)
        count = int(torch.randint(1, 65, (), generator=pick))
        return x[:count], y[:count]

    squares = lambda out, y: (out - y).square().sum()  # noqa: E731
    return fitted(model, adam(model, 3e-3), draw, squares, large(-1), functional.mse_loss, steps=500)


@kind("regression: 24 points by heart, double precision, whole data", 1e-4)
def _(seed: int) -> Independent:
    model = dense(6, 32, 1, activation=nn.Tanh).double()
    x = torch.randn(24, 6, generator=generator(seed), dtype=torch.float64)
    y = x[:, :1].sin()
    return fitted(model, adam(model, 1e-2), lambda step: (x, y), steps=600)


@kind("regression: the function turns slowly, batch 4", 1.0)
def _(seed: int) -> Independent:
    model, pick = dense(6, 32, 1), generator(seed)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(4 if step >= 0 else 512, 6, generator=pick if step >= 0 else generator(99))
        angle = math.pi * (step if step >= 0 else 599) / 600
        return x, 2 * math.cos(angle) * x[:, :1] + 2 * math.sin(angle) * x[:, 1:2]

    return fitted(model, adam(model, 5e-3), draw, steps=600)


@kind("forecast: a series in its order, with seasons, a trend and a jump of level", 0.5)
def _(seed: int) -> Independent:
    time = torch.arange(1400.0)
    noise = 0.1 * torch.randn(1400, generator=generator(seed))
    series = time / 700 + (2 * math.pi * time / 24).sin() + (2 * math.pi * time / 168).cos() + noise
    series = series + (time > 700)
    model = dense(24, 32, 1)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        at = torch.arange(8) + 2 * (step if step >= 0 else 600)
        rows = series[at[:, None] + torch.arange(25)]
        return rows[:, :24], rows[:, 24:]

    return fitted(model, adam(model, 3e-3), draw, steps=600)


@kind("counts: Poisson likelihood, below zero, batch 8", -1.0)
def _(seed: int) -> Independent:
    model, pick = dense(6, 16, 1), generator(seed)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        used, count = (generator(99), 512) if step < 0 else (pick, 8)
        x = torch.randn(count, 6, generator=used)
        return x, torch.poisson((1.2 + 0.7 * x[:, :1] - 0.5 * x[:, 1:2]).exp(), generator=used)

    likelihood = nn.PoissonNLLLoss()
    return fitted(model, adam(model, 3e-3), draw, likelihood, steps=500)


@kind("means and variances: Gaussian likelihood whose variance varies", 0.6)
def _(seed: int) -> Independent:
    model = dense(6, 32, 2)
    draw = linear_data(seed, 8, lambda y, pick, step: y + y.abs() * torch.randn(y.shape, generator=pick))

    def likelihood(out: Tensor, y: Tensor) -> Tensor:
        return (out[:, 1:] / 2 + (y - out[:, :1]).square() / (2 * out[:, 1:].exp())).mean()

    return fitted(
        model, adam(model, 2e-3), draw, likelihood, steps=600, measure=lambda out, y: functional.mse_loss(out[:, :1], y)
    )


@kind("survival: partial likelihood of Cox, batch 12", 0.35)
def _(seed: int) -> Independent:
    model, pick = dense(6, 16, 1), generator(seed)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        used, count = (generator(99), 512) if step < 0 else (pick, 12)
        x = torch.randn(count, 6, generator=used)
        until = -torch.rand(count, 1, generator=used).log() / (x[:, :1] + x[:, 1:2]).exp()
        return x, torch.where(torch.rand(count, 1, generator=used) < 0.6, until, -until)  # negative: censored

    def likelihood(out: Tensor, until: Tensor) -> Tensor:
        order = until[:, 0].abs().argsort(descending=True)
        risk, seen = out[order, 0], until[order, 0] > 0
        return -((risk - risk.logcumsumexp(0)) * seen).sum() / seen.sum().clamp(min=1)

    def discordant(out: Tensor, until: Tensor) -> Tensor:
        known = until[:, 0] > 0
        risk, when = out[known, 0], until[known, 0]
        return ((risk[:, None] > risk) & (when[:, None] > when)).float().sum() * 2 / len(risk) ** 2

    return fitted(model, adam(model, 3e-3), draw, likelihood, measure=discordant, steps=400)


@kind("several tasks, weighted by learned uncertainties", 0.5)
def _(seed: int) -> Independent:
    model = dense(6, 32, 2)
    model.register_parameter("logs", nn.Parameter(torch.zeros(2)))
    draw = linear_data(seed, 16, lambda y, pick, step: y)

    def criterion(out: Tensor, y: Tensor) -> Tensor:
        misses = torch.stack(
            [functional.mse_loss(out[:, 0], y[:, 0]), functional.mse_loss(out[:, 1], 20 * y[:, 0].square())]
        )
        return (misses * (-model.logs).exp() + model.logs).sum()

    return fitted(
        model, adam(model, 3e-3), draw, criterion, steps=600, measure=lambda out, y: functional.mse_loss(out[:, :1], y)
    )


@kind("several tasks in turn, their losses 1 to 400", 0.6)
def _(seed: int) -> Independent:
    model, pick = dense(6, 32, 2), generator(seed)
    inner = linear_data(seed, 16, lambda y, pick, step: y)
    x, y = inner(-1)

    def loss(step: int) -> Tensor:
        x, y = inner(step)
        second = bool(torch.rand((), generator=pick) < 0.3)
        return functional.mse_loss(model(x)[:, int(second)], (20 if second else 1) * y[:, 0])

    score = evaluated(model, lambda: functional.mse_loss(model(x)[:, 0], y[:, 0]))
    return Independent(loss, model, adam(model, 4e-3), 600, score=score)


@kind("hinge loss, separable, averaged SGD, batch 2", 0.15)
def _(seed: int) -> Independent:
    x, y = cancer()
    model, pick = nn.Linear(30, 1), generator(seed)

    def loss(step: int) -> Tensor:
        chosen = torch.randint(0, 400, (2,), generator=pick)
        return (1 - (2 * y[chosen] - 1) * model(x[chosen])[:, 0]).relu().mean()

    score = evaluated(model, lambda: ((model(x[400:])[:, 0] > 0) != (y[400:] > 0.5)).float().mean())
    return Independent(loss, model, torch.optim.ASGD(model.parameters(), 0.02), 500, score=score)


# ---------------------------------------------------------------------- recommendation, words and graphs


@kind("ratings: sparse embeddings, SparseAdam, batch 8", 2.0)
def _(seed: int) -> Independent:
    pick, fixed = generator(seed), generator(5)
    users, items = torch.randn(120, 3, generator=fixed), torch.randn(80, 3, generator=fixed)
    model = nn.ModuleList([nn.Embedding(120, 6, sparse=True), nn.Embedding(80, 6, sparse=True)])
    for part in model:
        nn.init.normal_(part.weight, std=0.5)  # type: ignore[arg-type]

    def of(count: int, pick: torch.Generator) -> Tensor:
        user = torch.randint(0, 120, (count,), generator=pick)
        item = (80 * torch.rand(count, generator=pick) ** 3).long()
        return functional.mse_loss((model[0](user) * model[1](item)).sum(1), (users[user] * items[item]).sum(1))

    optimizer = torch.optim.SparseAdam(list(model.parameters()), 0.05)
    return Independent(
        lambda s: of(8, pick), model, optimizer, 600, score=evaluated(model, lambda: of(512, generator(99)))
    )


@kind("clicks: 2% positive, hashed features, Adagrad, batch 64", 0.16)
def _(seed: int) -> Independent:
    pick, fixed = generator(seed), generator(5)
    effects = torch.randn(500, generator=fixed)
    model = nn.ModuleList([nn.EmbeddingBag(500, 4), dense(4, 16, 1)])

    def of(count: int, pick: torch.Generator) -> Tensor:
        features = (500 * torch.rand(count, 6, generator=pick) ** 2).long()
        odds = effects[features].sum(1) - 6
        clicks = (torch.rand(count, generator=pick) < odds.sigmoid()).float()
        return functional.binary_cross_entropy_with_logits(model[1](model[0](features))[:, 0] - 4, clicks)

    optimizer = torch.optim.Adagrad(model.parameters(), 0.05)
    return Independent(
        lambda s: of(64, pick), model, optimizer, 500, score=evaluated(model, lambda: of(4096, generator(99)))
    )


@kind("ranking: Bayesian personalised, pairs, SGD", 0.4)
def _(seed: int) -> Independent:
    pick, fixed = generator(seed), generator(5)
    truth = torch.randn(60, 3, generator=fixed) @ torch.randn(3, 50, generator=fixed)
    model = nn.ModuleList([nn.Embedding(60, 6), nn.Embedding(50, 6)])

    def margins(count: int, pick: torch.Generator) -> Tensor:
        user = torch.randint(0, 60, (count,), generator=pick)
        pair = torch.randint(0, 50, (count, 2), generator=pick)
        better = truth[user[:, None], pair].argmax(1, keepdim=True)
        made = (model[0](user)[:, None] * model[1](pair)).sum(2)
        return (made.gather(1, better) - made.gather(1, 1 - better))[:, 0]

    score = evaluated(model, lambda: (margins(1024, generator(99)) < 0).float().mean())
    return Independent(
        lambda s: functional.softplus(-margins(16, pick)).mean(), model, sgd(model, 1.0), 600, score=score
    )


@kind("ranking: lists of 3 to 30, in turn easy and hard", 2.2)
def _(seed: int) -> Independent:
    model, pick = dense(5, 24, 1), generator(seed)

    def of(length: int, noise: float, pick: torch.Generator) -> Tensor:
        x = torch.randn(length, 5, generator=pick)
        worth = 2 * x[:, 0] - x[:, 1] * x[:, 2] + noise * torch.randn(length, generator=pick)
        return functional.cross_entropy(model(x).T, (2 * worth).softmax(0)[None])

    def loss(step: int) -> Tensor:
        length = int(torch.randint(3, 31, (), generator=pick))
        return of(length, 0.1 if step % 50 < 25 else 3.0, pick)

    score = evaluated(model, lambda: sum(of(30, 0.1, generator(99 + i)) for i in range(40)) / 40)
    return Independent(loss, model, adam(model, 4e-3), 600, score=score)


@kind("words: neighbours with negative samples, SGD, batch 4", 3.8)
def _(seed: int) -> Independent:
    model, pick = nn.ModuleList([nn.Embedding(LETTERS, 12), nn.Embedding(LETTERS, 12)]), generator(seed)

    def of(count: int, pick: torch.Generator) -> Tensor:
        at = torch.randint(2, 190_000, (count,), generator=pick)
        a, b = text()[at], text()[at + 1]
        other = torch.randint(0, LETTERS, (count, 5), generator=pick)
        hit, miss = (model[0](a) * model[1](b)).sum(1), (model[0](a)[:, None] * model[1](other)).sum(2)
        return (functional.softplus(-hit) + functional.softplus(miss).sum(1)).mean()

    optimizer = sgd(model, 0.3)
    rate = schedule(optimizer, lambda s: 1 - s / 600)
    return Independent(
        lambda s: of(4, pick),
        model,
        optimizer,
        600,
        scheduler=rate,
        score=evaluated(model, lambda: of(2048, generator(99))),
    )


@lru_cache
def blocks() -> tuple[Tensor, Tensor, Tensor]:
    """A graph of three communities of 40: its normalised neighbours, noisy features and labels."""
    fixed = generator(5)
    labels = torch.arange(120) // 40
    share = torch.where(labels[:, None] == labels, 0.15, 0.02)
    edges = (torch.rand(120, 120, generator=fixed) < share).float().triu(1)
    edges = edges + edges.T + torch.eye(120)
    size = edges.sum(1).rsqrt()
    features = functional.one_hot(labels, 3).float().repeat(1, 4) + 2 * torch.randn(120, 12, generator=fixed)
    return size[:, None] * edges * size, features, labels


@kind("graph: two convolutions, whole graph, 24 labels, dropout 0.5", 0.35)
def _(seed: int) -> Independent:
    edges, features, labels = blocks()
    model = nn.ModuleList([nn.Linear(12, 16), nn.Linear(16, 3)])
    known = torch.randperm(120, generator=generator(seed))

    def forward() -> Tensor:
        hidden = functional.dropout((edges @ model[0](features)).relu(), 0.5, model.training)
        return edges @ model[1](hidden)

    score = evaluated(model, lambda: (forward()[known[24:]].argmax(1) != labels[known[24:]]).float().mean())
    loss = lambda step: functional.cross_entropy(forward()[known[:24]], labels[known[:24]])  # noqa: E731
    return Independent(loss, model, adam(model, 0.01, weight_decay=5e-3), 300, score=score)


@kind("graphs of 4 to 40 nodes, one at a time: triangles or not", 0.35)
def _(seed: int) -> Independent:
    model, pick = nn.ModuleList([nn.Linear(1, 16), nn.Linear(16, 16), nn.Linear(16, 1)]), generator(seed)

    def one(pick: torch.Generator) -> tuple[Tensor, Tensor]:
        count = int(torch.randint(4, 41, (), generator=pick))
        dense_one = bool(torch.rand((), generator=pick) < 0.5)
        edges = (torch.rand(count, count, generator=pick) < (0.45 if dense_one else 0.2)).float().triu(1)
        edges = edges + edges.T
        hidden = model[0](edges.sum(1, keepdim=True) / count).relu()
        hidden = (model[1](edges @ hidden / count) + hidden).relu()
        return model[2](hidden.mean(0)), torch.tensor([float(dense_one)])

    def missed() -> Tensor:
        made = [one(generator(99 + i)) for i in range(150)]
        return torch.stack([(out > 0) != (y > 0.5) for out, y in made]).float().mean()

    loss = lambda step: functional.binary_cross_entropy_with_logits(*one(pick))  # noqa: E731
    return Independent(loss, model, adam(model, 5e-3), 500, score=evaluated(model, missed))


# ---------------------------------------------------------------------- physics and control


@kind("physics-informed: u'' + u = 0 from the equation and the boundary", 0.15)
def _(seed: int) -> Independent:
    model, pick = dense(1, 24, 24, 1, activation=nn.Tanh), generator(seed)

    def loss(step: int) -> Tensor:
        x = (3 * torch.rand(24, 1, generator=pick)).requires_grad_()
        u = model(x)
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        ends = model(torch.tensor([[0.0], [1.5]])) - torch.tensor([[0.0], [math.sin(1.5)]])
        return (second + u).square().mean() + 100 * ends.square().mean()

    x = torch.linspace(0, 3, 50)[:, None]
    score = evaluated(model, lambda: functional.mse_loss(model(x), x.sin()))
    return Independent(loss, model, adam(model, 5e-3), 500, score=score)


@kind("differential equation: trajectories whose horizon grows every 60 steps", 0.3)
def _(seed: int) -> Independent:
    model, pick = dense(2, 24, 2, activation=nn.Tanh), generator(seed)
    turn = torch.tensor([[-0.1, 1.0], [-1.0, -0.1]])

    def of(count: int, horizon: int, pick: torch.Generator) -> Tensor:
        x = true = torch.randn(count, 2, generator=pick)
        total = torch.zeros(())
        for _ in range(horizon):
            x, true = x + 0.2 * model(x + 0.1 * model(x)), true @ torch.matrix_exp(0.2 * turn).T
            total = total + functional.mse_loss(x, true)
        return total / horizon

    score = evaluated(model, lambda: of(128, 10, generator(99)))
    loss = lambda step: of(8, min(10, 1 + step // 60), pick)  # noqa: E731
    return Independent(loss, model, adam(model, 5e-3), 400, score=score)


@kind("few-shot: sines, gradients through an inner step", 1.5)
def _(seed: int) -> Independent:
    model, pick = dense(1, 32, 1, activation=nn.Tanh), generator(seed)

    def of(pick: torch.Generator) -> Tensor:
        size, phase = 1 + 3 * torch.rand(1, generator=pick), 3 * torch.rand(1, generator=pick)
        x = 6 * torch.rand(20, 1, generator=pick) - 3
        y = size * (x + phase).sin()
        named = dict(model.named_parameters())
        with torch.enable_grad():
            inner = functional.mse_loss(torch.func.functional_call(model, named, x[:10]), y[:10])
            slopes = torch.autograd.grad(inner, list(named.values()), create_graph=True)
        moved = {name: w - 0.05 * slope for (name, w), slope in zip(named.items(), slopes, strict=True)}
        return functional.mse_loss(torch.func.functional_call(model, moved, x[10:]), y[10:])

    score = evaluated(model, lambda: sum(of(generator(99 + i)).detach() for i in range(100)) / 100)
    loss = lambda step: (of(pick) + of(pick)) / 2  # noqa: E731
    return Independent(loss, model, adam(model, 5e-3), 500, score=score)


class Corridor:
    """Cells 0 to 8; the goal is at 8 with reward 1, each step costs 0.05, and every eighth move slips."""

    def __init__(self, pick: torch.Generator) -> None:
        self.pick, self.cell, self.time = pick, 2, 0

    def seen(self) -> Tensor:
        return functional.one_hot(torch.tensor(self.cell), 9).float()

    def act(self, right: bool) -> tuple[float, bool]:
        if float(torch.rand((), generator=self.pick)) < 0.125:
            right = not right
        self.cell = max(0, min(8, self.cell + (1 if right else -1)))
        self.time += 1
        done = self.cell == 8 or self.time == 30
        reward = float(self.cell == 8) - 0.05
        if done:
            self.cell, self.time = 2, 0
        return reward, done


def returns_of(choose: Callable[[Tensor], bool]) -> float:
    """The negative mean return over 20 episodes."""
    world, total, ended = Corridor(generator(99)), 0.0, 0
    while ended < 20:
        reward, done = world.act(choose(world.seen()))
        total, ended = total + reward, ended + done
    return -total / 20


def rolled(world: Corridor, policy: Callable[[Tensor], Tensor], count: int, pick: torch.Generator) -> Any:
    """States, actions, rewards and ends of ``count`` moves."""
    states, actions, rewards, ends = [], [], [], []
    for _ in range(count):
        state = world.seen()
        right = bool(torch.rand((), generator=pick) < policy(state))
        reward, done = world.act(right)
        states.append(state)
        actions.append(float(right))
        rewards.append(reward)
        ends.append(done)
    return torch.stack(states), torch.tensor(actions), rewards, ends


def discounted(rewards: list[float], ends: list[bool], factor: float = 0.95) -> Tensor:
    total, found = 0.0, []
    for reward, end in zip(reversed(rewards), reversed(ends), strict=True):
        total = reward + factor * (0.0 if end else total)
        found.append(total)
    return torch.tensor(found[::-1])


def chance(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda state: model(state)[0].detach().sigmoid()


def sampled(model: nn.Module) -> Callable[[Tensor], bool]:
    pick = generator(98)
    return lambda state: bool(torch.rand((), generator=pick) < chance(model)(state))


@kind("policy gradient with a running mean as baseline, one short episode a step", -0.3)
def _(seed: int) -> Independent:
    model, pick = dense(9, 16, 1), generator(seed)
    world, mean = Corridor(pick), 0.0

    def loss(step: int) -> Tensor:
        nonlocal mean
        states, actions, rewards, ends = rolled(world, chance(model), 15, pick)
        gains = discounted(rewards, ends)
        mean = 0.9 * mean + 0.1 * float(gains.mean())
        return (
            (gains - mean) * functional.binary_cross_entropy_with_logits(model(states)[:, 0], actions, reduction="none")
        ).sum()

    score = evaluated(model, lambda: returns_of(sampled(model)))
    return Independent(loss, model, adam(model, 5e-3), 250, score=score)


@kind("actor and critic with an entropy bonus that is lowered", -0.3)
def _(seed: int) -> Independent:
    model, pick = dense(9, 24, 2, activation=nn.Tanh), generator(seed)
    world = Corridor(pick)

    def loss(step: int) -> Tensor:
        states, actions, rewards, ends = rolled(world, chance(model), 12, pick)
        out, gains = model(states), discounted(rewards, ends)
        edge = gains - out[:, 1].detach()
        policy = (edge * functional.binary_cross_entropy_with_logits(out[:, 0], actions, reduction="none")).mean()
        share = out[:, 0].sigmoid()
        entropy = functional.binary_cross_entropy_with_logits(out[:, 0], share).mean()
        return policy + 0.5 * functional.mse_loss(out[:, 1], gains) - 0.1 * (1 - step / 300) * entropy

    score = evaluated(model, lambda: returns_of(sampled(model)))
    return Independent(loss, model, torch.optim.RMSprop(model.parameters(), 3e-3), 300, clip=0.5, score=score)


@kind("proximal policy: four passes over each collection, ratios clipped", -0.3)
def _(seed: int) -> Independent:
    model, pick = dense(9, 24, 2, activation=nn.Tanh), generator(seed)
    world = Corridor(pick)
    kept: Any = None

    def loss(step: int) -> Tensor:
        nonlocal kept
        if step % 8 == 0:
            states, actions, rewards, ends = rolled(world, chance(model), 48, pick)
            gains = discounted(rewards, ends)
            with torch.no_grad():
                out = model(states)
            before = -functional.binary_cross_entropy_with_logits(out[:, 0], actions, reduction="none")
            edge = gains - out[:, 1]
            kept = states, actions, gains, before, (edge - edge.mean()) / (edge.std() + 1e-6)
        chosen = slice(0, 24) if step % 2 else slice(24, 48)
        states, actions, gains, before, edge = (part[chosen] for part in kept)
        out = model(states)
        ratio = (-functional.binary_cross_entropy_with_logits(out[:, 0], actions, reduction="none") - before).exp()
        gain = torch.minimum(ratio * edge, ratio.clamp(0.8, 1.2) * edge).mean()
        return 0.5 * functional.mse_loss(out[:, 1], gains) - gain

    score = evaluated(model, lambda: returns_of(sampled(model)))
    return Independent(loss, model, adam(model, 3e-3), 400, clip=0.5, score=score)


@kind("values of actions, replay, target network copied every 25 steps", -0.3)
def _(seed: int) -> Independent:
    model, target, pick = dense(9, 24, 2), dense(9, 24, 2), generator(seed)
    world = Corridor(pick)
    memory: list[tuple[Tensor, int, float, Tensor, bool]] = []

    def loss(step: int) -> Tensor:
        if step % 25 == 0:
            target.load_state_dict(model.state_dict())
        for _ in range(6 if step else 40):
            state = world.seen()
            with torch.no_grad():
                right = bool(model(state).argmax())
            if float(torch.rand((), generator=pick)) < max(0.1, 1 - step / 150):
                right = bool(torch.rand((), generator=pick) < 0.5)
            reward, done = world.act(right)
            memory.append((state, int(right), reward, world.seen(), done))
        chosen = [memory[i] for i in torch.randint(0, len(memory), (32,), generator=pick).tolist()]
        state, after = torch.stack([one[0] for one in chosen]), torch.stack([one[3] for one in chosen])
        action = torch.tensor([one[1] for one in chosen])
        reward, end = torch.tensor([one[2] for one in chosen]), torch.tensor([float(one[4]) for one in chosen])
        with torch.no_grad():
            aim = reward + 0.95 * (1 - end) * target(after).amax(1)
        return functional.smooth_l1_loss(model(state).gather(1, action[:, None])[:, 0], aim)

    def reached() -> Tensor:
        """The negative mean return, and the miss of the value of the first cell."""
        value = model(functional.one_hot(torch.tensor(2), 9).float()).amax()
        return returns_of(lambda state: bool(model(state).argmax())) + (value - 0.38).abs()

    score = evaluated(model, reached)
    return Independent(loss, model, adam(model, 5e-3), 500, score=score)


# ---------------------------------------------------------------------- this library's optimizers


def preset(name: str, lr: float | None = None, goal: float = 0.15, **options: Any) -> None:
    def make(seed: int) -> Independent:
        model = convolutions(norm=name in ("muon", "soap"))
        return supervised(seed, model, sabun.create(name, model, lr), steps=300, **options)

    kind(f"digits: preset {name}", goal)(make)


preset("nesterov", goal=0.25)
preset("lion", 1e-3, goal=0.25)
preset("muon", 5e-3)
preset("mars", goal=0.25)
preset("soap")
preset("sabun")
preset("schedule-free-adamw", 5e-3, goal=0.3)


@kind("letters: preset sabun, one cycle, batch 4", 3.1)
def _(seed: int) -> Independent:
    model, pick = Transformer(), generator(seed)
    optimizer = sabun.create("sabun", model)
    rate = schedule(optimizer, lambda s: (s + 1) / 90 if s < 90 else (300 - s) / 210)

    def loss(step: int) -> Tensor:
        x, y = passages(4, 32, pick)
        return letters_loss(model(x), y)

    return Independent(loss, model, optimizer, 300, scheduler=rate, score=held_out(model))


@kind("regression: preset nadamw, three groups of parameters with rates 1 to 30", 0.2)
def _(seed: int) -> Independent:
    model = dense(6, 32, 32, 1)
    groups = [{"params": model[i].parameters(), "lr": lr} for i, lr in ((0, 3e-2), (2, 3e-3), (4, 1e-3))]
    draw = linear_data(seed, 16, lambda y, pick, step: y)
    return fitted(model, sabun.create("nadamw", groups), draw, steps=500)
