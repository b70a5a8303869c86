"""Shakespeare: language models on characters, word vectors on words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid

from comparison.data import batches, text, words
from comparison.families import Session, Setting, task
from comparison.layers import Block


def _language(s: Setting, model: nn.Module, context: int, size: int) -> Session:
    """Prediction of the next character on windows at random places; validation on 32 fixed windows."""
    train_text, other_text, symbols = text()
    train_text, other_text = train_text.to(s.device), other_text.to(s.device)
    places = torch.randint(len(train_text) - context - 1, (s.steps, size), generator=s.generator(1)).to(s.device)
    window = torch.arange(context + 1, device=s.device)
    fixed = torch.linspace(0, len(other_text) - context - 2, 32, device=s.device).long()[:, None] + window
    model.to(s.device)

    def loss(rows: Tensor) -> Tensor:
        return cross_entropy(model(rows[:, :-1]).reshape(-1, symbols), rows[:, 1:].reshape(-1))

    return Session(
        model,
        lambda step: loss(train_text[places[step % s.steps][:, None] + window]),
        lambda: loss(other_text[fixed]),
    )


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], symbols: int, width: int, layers: int = 1) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, 32)
        self.rnn = kind(32, width, layers, batch_first=True)
        self.head = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.symbols(x))[0])


@task("shakespeare-lstm", "recurrent-text", 240)
def shakespeare_lstm(s: Setting) -> Session:
    """One LSTM layer of 96 on characters."""
    return _language(s, _Recurrent(nn.LSTM, text()[2], 96 * s.size), 32, 8)


@task("shakespeare-gru", "recurrent-text", 200)
def shakespeare_gru(s: Setting) -> Session:
    """Two GRU layers of 48 on characters."""
    return _language(s, _Recurrent(nn.GRU, text()[2], 48 * s.size, 2), 24, 8)


class _GPT(nn.Module):
    def __init__(self, symbols: int, context: int, width: int, layers: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.symbols, self.positions = nn.Embedding(symbols, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True, fused=fused) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols, bias=False)
        for embedding in (self.symbols, self.positions):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.symbols(x) + self.positions.weight[: x.shape[1]])))


@task("shakespeare-fused", "transformer", 240)
def shakespeare_fused(s: Setting) -> Session:
    """Two blocks of width 48 with one weight for query, key and value."""
    return _language(s, _GPT(text()[2], 32, 48 * s.size, 2, 4, True), 32, 8)


@task("shakespeare-split", "transformer", 200)
def shakespeare_split(s: Setting) -> Session:
    """Two blocks of width 64 with separate weights for query, key and value."""
    return _language(s, _GPT(text()[2], 24, 64 * s.size, 2, 4, False), 24, 8)


def _windows(running: Tensor, side: int) -> Tensor:
    return running.unfold(0, 2 * side + 1, 1)


class _Bag(nn.Module):
    """The mean of the vectors of the neighbours predicts the word (CBOW, Mikolov et al. 2013)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(vocabulary, width, mode="mean"), nn.Linear(width, vocabulary)

    def forward(self, around: Tensor) -> Tensor:
        return self.head(self.words(around))


@task("word-bag", "word-vectors", 300)
def word_bag(s: Setting) -> Session:
    """Vectors of 2,000 words, four neighbours, softmax over all words."""
    train, other = (_windows(part, 2).to(s.device) for part in words())
    order = batches(s, len(train), 64).to(s.device)
    model = _Bag(2000, 32 * s.size).to(s.device)
    fixed = other[:: max(1, len(other) // 600)][:600]

    def loss(rows: Tensor) -> Tensor:
        return cross_entropy(model(rows[:, [0, 1, 3, 4]]), rows[:, 2])

    return Session(model, lambda step: loss(train[order[step % s.steps]]), lambda: loss(fixed))


class _Pairs(nn.Module):
    """Skip-gram with negative samples: the products of two vectors tell neighbours from words at random."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words, self.contexts = nn.Embedding(vocabulary, width), nn.Embedding(vocabulary, width)
        for table in (self.words, self.contexts):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, word: Tensor, contexts: Tensor) -> Tensor:
        return (self.contexts(contexts) @ self.words(word)[..., None])[..., 0]


@task("skip-gram", "word-vectors", 360)
def skip_gram(s: Setting) -> Session:
    """Vectors of 2,000 words, one neighbour against five words drawn from the text."""
    running = [part.to(s.device) for part in words()]
    train, other = (_windows(part, 2) for part in running)
    order = batches(s, len(train), 256).to(s.device)
    model = _Pairs(2000, 32 * s.size).to(s.device)
    draws = torch.randint(len(running[0]), (s.steps, 256, 5), generator=s.generator(2)).to(s.device)
    sides = torch.randint(4, (s.steps, 256), generator=s.generator(3)).to(s.device)
    near = torch.tensor([0, 1, 3, 4], device=s.device)
    fixed = other[:: max(1, len(other) // 2000)][:2000]
    fixed_draws = torch.randint(len(running[0]), (len(fixed), 5), generator=torch.Generator().manual_seed(3))
    fixed_sides = torch.arange(len(fixed), device=s.device) % 4

    def loss(rows: Tensor, side: Tensor, drawn: Tensor) -> Tensor:
        true = rows.gather(1, near[side][:, None])
        scores = model(rows[:, 2], torch.cat([true, running[0][drawn]], 1))
        return -(logsigmoid(scores[:, 0]) + logsigmoid(-scores[:, 1:]).sum(1)).mean()

    return Session(
        model,
        lambda step: loss(train[order[step % s.steps]], sides[step % s.steps], draws[step % s.steps]),
        lambda: loss(fixed, fixed_sides, fixed_draws.to(s.device)),
    )
