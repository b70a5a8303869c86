"""Citeseer: classification of documents in a graph of citations, and a recommender of words for documents."""

from __future__ import annotations

import itertools
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, dropout, relu

from comparison.data import archive, batches, held_out
from comparison.families import Session, Setting, task

_Pair = tuple[Tensor, Tensor]


def _pair(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], device: str) -> _Pair:
    """A sparse matrix and its transpose, both by rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")  # invariant checks, and the beta state of this layout
        matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape).coalesce()
        return matrix.to_sparse_csr().to(device), matrix.t().coalesce().to_sparse_csr().to(device)


@cache
def _graph(device: str) -> tuple[_Pair, _Pair, Tensor, Tensor, Tensor, int]:
    """Features with rows of sum 1, symmetrically normalized adjacency with loops, labels, indices of training and
    validation, number of classes."""
    a = archive("citeseer.npz")
    count, width = (int(n) for n in a["shape"])
    rows, columns = torch.from_numpy(a["row"].astype("int64")), torch.from_numpy(a["col"].astype("int64"))
    sums = torch.bincount(rows, minlength=count).clamp_min(1).float()
    features = _pair(rows, columns, 1 / sums[rows], (count, width), device)
    edges = torch.from_numpy(a["edges"].astype("int64"))
    loops = torch.arange(count).repeat(2, 1)
    both = torch.unique(torch.cat([edges, edges.flip(0), loops], 1), dim=1)
    degrees = torch.bincount(both[0], minlength=count).float()
    weights = (degrees[both[0]] * degrees[both[1]]).rsqrt()
    adjacency = _pair(both[0], both[1], weights, (count, count), device)
    labels, known = torch.from_numpy(a["label"].astype("int64")), torch.from_numpy(a["has_label"])
    free = known.clone()
    free[torch.from_numpy(a["test"].astype("int64"))] = False
    first = int(a["n_train"])
    others = torch.nonzero(free)[:, 0]
    others = others[others >= first]
    return features, adjacency, labels, torch.arange(first), others[:500], int(labels[known].max()) + 1


class _Product(torch.autograd.Function):
    """A constant sparse matrix times a dense one; ``transposed`` is given, for the gradient."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradients[0].contiguous()


class _Convolution(nn.Module):
    """A graph convolution after Kipf & Welling 2017: ÂXW. X and Â are pairs (matrix, transpose)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, adjacency: _Pair, x: Tensor | _Pair) -> Tensor:
        weight = self.linear.weight.mT
        mixed = x @ weight if isinstance(x, Tensor) else _Product.apply(*x, weight)
        return _Product.apply(*adjacency, mixed) + self.linear.bias


class _Graph(nn.Module):
    def __init__(self, inputs: int, width: int, classes: int, layers: int, drop: float) -> None:
        super().__init__()
        widths = [inputs, *[width] * (layers - 1), classes]
        self.layers = nn.ModuleList(_Convolution(a, b) for a, b in itertools.pairwise(widths))
        self.drop = drop

    def forward(self, adjacency: _Pair, x: Tensor | _Pair) -> Tensor:
        for n, layer in enumerate(self.layers):
            x = layer(adjacency, x if n == 0 else dropout(relu(x), self.drop, self.training))
        return x


def _classification(s: Setting, width: int, layers: int, drop: float) -> Session:
    features, adjacency, labels, train, other, classes = _graph(s.device)
    labels, train, other = (part.to(s.device) for part in (labels, train, other))
    model = _Graph(features[0].shape[1], width, classes, layers, drop).to(s.device)
    seeds = torch.randint(2**31, (s.steps,), generator=s.generator(2)).tolist()

    def loss(nodes: Tensor) -> Tensor:
        return cross_entropy(model(adjacency, features)[nodes], labels[nodes])

    def drawn(step: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # the masks of the dropout are those of the step
            torch.manual_seed(seeds[step % s.steps])
            return loss(train)

    return Session(model, drawn, lambda: loss(other))


@task("citeseer-gcn", "graph", 200)
def citeseer_gcn(s: Setting) -> Session:
    """Two graph convolutions of width 32 with dropout, all training nodes in each step."""
    return _classification(s, 32 * s.size, 2, 0.5)


@task("citeseer-deep", "graph", 200)
def citeseer_deep(s: Setting) -> Session:
    """Three graph convolutions of width 24."""
    return _classification(s, 24 * s.size, 3, 0.3)


class _Factors(nn.Module):
    """Products of vectors of documents and words, with biases (matrix factorization)."""

    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        self.bias = nn.Embedding(items, 1)
        for table in (self.users, self.items, self.bias):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(-1) + self.bias(item)[..., 0]


class _Towers(nn.Module):
    """A perceptron on the vectors of document and word (neural collaborative filtering)."""

    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        self.inner, self.last = nn.Linear(2 * width, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        h = relu(self.inner(torch.cat([self.users(user), self.items(item)], -1)))
        return self.head(relu(self.last(h)))[..., 0]


def _recommender(s: Setting, kind: type[nn.Module], width: int) -> Session:
    """Words of documents against as many drawn words; a fifth of the words is held out for validation."""
    a = archive("citeseer.npz")
    users, items = (int(n) for n in a["shape"])
    pairs = torch.stack([torch.from_numpy(a[key].astype("int64")) for key in ("row", "col")], 1)
    train, other = held_out(len(pairs))
    fixed = pairs[other[:2000]]
    size = 512
    order = train[batches(s, len(train), size)]
    drawn = torch.randint(items, (s.steps, size), generator=s.generator(2)).to(s.device)
    fixed_drawn = torch.randint(items, (len(fixed),), generator=torch.Generator().manual_seed(4)).to(s.device)
    pairs, fixed, order = pairs.to(s.device), fixed.to(s.device), order.to(s.device)
    model = kind(users, items, width).to(s.device)

    def loss(rows: Tensor, wrong: Tensor) -> Tensor:
        scores = model(rows[:, 0].repeat(2), torch.cat([rows[:, 1], wrong]))
        truth = torch.cat([torch.ones(len(rows), device=s.device), torch.zeros(len(rows), device=s.device)])
        return binary_cross_entropy_with_logits(scores, truth)

    return Session(
        model,
        lambda step: loss(pairs[order[step % s.steps]], drawn[step % s.steps]),
        lambda: loss(fixed, fixed_drawn),
    )


@task("citeseer-factors", "recommender", 300)
def citeseer_factors(s: Setting) -> Session:
    """Factorization of documents × words with 16 factors."""
    return _recommender(s, _Factors, 16 * s.size)


@task("citeseer-towers", "recommender", 300)
def citeseer_towers(s: Setting) -> Session:
    """A perceptron on vectors of 16 of documents and words."""
    return _recommender(s, _Towers, 16 * s.size)
