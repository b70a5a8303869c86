"""Images read row by row by recurrent nets."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from comparison.data import cifar, digits, supervised
from comparison.families import Session, Setting, task


class _Reader(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], inputs: int, width: int, layers: int) -> None:
        super().__init__()
        self.rnn, self.head = kind(inputs, width, layers, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)  # batch × rows × (channels · columns)
        return self.head(self.rnn(rows)[0][:, -1])


@task("digits-rows", "recurrent-signal", 300)
def digits_rows(s: Setting) -> Session:
    """One GRU of 64 reads the eight rows of digits."""
    return supervised(s, _Reader(nn.GRU, 8, 64 * s.size, 1), digits(), cross_entropy, size=64)


@task("cifar-rows", "recurrent-signal", 240)
def cifar_rows(s: Setting) -> Session:
    """Two LSTM layers of 64 read the sixteen rows of CIFAR-10 at 16 × 16."""
    return supervised(s, _Reader(nn.LSTM, 48, 64 * s.size, 2), cifar(), cross_entropy, size=32)
