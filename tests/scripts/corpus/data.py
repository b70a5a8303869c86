"""Small data sets, shared by the scripts of this folder. They are the same for every seed."""

import torch


def table(n=192, features=8, classes=3):
    """Rows with a class each: training set and validation set."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(n + 64, features, generator=g)
    y = (x @ torch.randn(features, classes, generator=g) + 0.3 * torch.randn(n + 64, classes, generator=g)).argmax(1)
    return (x[:n], y[:n]), (x[n:], y[n:])


def curve(n=192):
    """Points of a noisy function."""
    g = torch.Generator().manual_seed(8)
    x = 4 * torch.rand(n + 64, 1, generator=g) - 2
    y = torch.sin(2 * x) + 0.1 * torch.randn(n + 64, 1, generator=g)
    return (x[:n], y[:n]), (x[n:], y[n:])


def images(n=96):
    """Images of 8 × 8 pixels with a bright row or a bright column."""
    g = torch.Generator().manual_seed(9)
    x = 0.3 * torch.randn(n + 48, 1, 8, 8, generator=g)
    y = torch.randint(0, 2, (n + 48,), generator=g)
    where = torch.randint(0, 8, (n + 48,), generator=g)
    for i in range(n + 48):
        if y[i]:
            x[i, 0, where[i]] += 1
        else:
            x[i, 0, :, where[i]] += 1
    return (x[:n], y[:n]), (x[n:], y[n:])


def text(n=96, length=12, vocabulary=16):
    """Sequences that count upwards from a random token, by one or by two."""
    g = torch.Generator().manual_seed(10)
    start = torch.randint(0, vocabulary, (n + 48, 1), generator=g)
    by = torch.randint(1, 3, (n + 48, 1), generator=g)
    tokens = (start + by * torch.arange(length)) % vocabulary
    return tokens[:n], tokens[n:]
