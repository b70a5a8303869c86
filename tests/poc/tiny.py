"""Tasks for tests, in the form of a user's own file: nothing of sabun is imported. Runs take milliseconds."""

import os
import signal
import threading
import time
from pathlib import Path

import torch
from torch import nn


class Tiny:
    """Least squares with three unknowns, 16 steps an epoch."""

    batch_size = 4

    def __init__(self, noise=0.1, sleep=0.0):
        self.noise = noise
        self.sleep = sleep

    def data(self):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(96, 3, generator=generator)
        y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + self.noise * torch.randn(96, 1, generator=generator)
        return {"train": (x[:64], y[:64]), "validation": (x[64:80], y[64:80]), "test": (x[80:], y[80:])}

    def model(self):
        return nn.Linear(3, 1)

    def loss(self, model, batch):
        if self.sleep and model.training:
            time.sleep(self.sleep)
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def metric(self, model, batch):
        return -(model(batch[0]) - batch[1]).abs().mean()


class Dropout(Tiny):
    """Draws numbers in the forward pass."""

    def model(self):
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))


class NanLater(Tiny):
    """The loss is fine at first and then not a number."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def loss(self, model, batch):
        value = super().loss(model, batch)
        return value * float("nan") if model.training and model.weight.abs().sum() > 2.0 else value


class Disturbed(Tiny):
    """While the file that DISTURBANCE names is there, a step in a hundred fails, the same ones each time."""

    def loss(self, model, batch):
        unlucky = model.training and float(model.weight.detach().abs().sum()) * 1e4 % 1.0 < 0.01
        if unlucky and Path(os.environ["DISTURBANCE"]).exists():
            raise OSError("the file server is away")
        return super().loss(model, batch)


class Raises(Tiny):
    """Fails in the middle of training when weights have moved far enough."""

    def loss(self, model, batch):
        if model.training and model.weight.abs().sum() > 2.0:
            raise RuntimeError("the data loader broke")
        return super().loss(model, batch)


class Constant(Tiny):
    """A metric and a loss without variance: the gradient is zero."""

    def loss(self, model, batch):
        return (model(batch[0]) * 0.0).sum() + 1.0

    def metric(self, model, batch):
        return 0.5


class Dies(Tiny):
    """Kills its own process the first time that it is trained (a marker file remembers), or every time.

    With ``thread`` its data come with a thread, as those of a prefetching loader do.
    """

    def __init__(self, marker, always=False, thread=False):
        super().__init__()
        self.marker = Path(marker)
        self.always = always
        self.thread = thread

    def data(self):
        if self.thread:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        return super().data()

    def loss(self, model, batch):
        # Only inside a worker: the parent validates the task with a step of its own.
        if model.training and "SABUN_TEST_PARENT" in os.environ and os.environ["SABUN_TEST_PARENT"] != str(os.getpid()):
            far = model.weight.abs().sum() > 2.0
            if far and (self.always or not self.marker.exists()):
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


class Datasets(Tiny):
    """The same data as map-style datasets."""

    def data(self):
        return {name: torch.utils.data.TensorDataset(*split) for name, split in super().data().items()}


class NoLoss:
    def model(self):
        return nn.Linear(1, 1)

    def data(self):
        return {}


class Empty(Tiny):
    def data(self):
        return {**super().data(), "test": (torch.zeros(0, 3), torch.zeros(0, 1))}


class Unequal(Tiny):
    def data(self):
        return {**super().data(), "test": (torch.zeros(5, 3), torch.zeros(4, 1))}


class Unrepeatable(Tiny):
    """Noise that no seed governs."""

    def loss(self, model, batch):
        return super().loss(model, batch) * (1.0 + 0.01 * int.from_bytes(os.urandom(2), "big") / 65536)


class Deaf(Tiny):
    """Takes no notice of the seed: fixed weights, and each batch is the same."""

    def model(self):
        model = nn.Linear(3, 1)
        nn.init.constant_(model.weight, 0.1)
        nn.init.zeros_(model.bias)
        return model

    def data(self):
        held = super().data()
        x, y = held["train"]
        return {**held, "train": (x[:1].repeat(64, 1), y[:1].repeat(64, 1))}


class Batchable(Tiny):
    """A small net whose seeds can be batched."""

    batchable = True

    def model(self):
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


class Liar(Batchable):
    """Says so, and has a loss that looks at more than the model and the batch."""

    calls = 0

    def loss(self, model, batch):
        type(self).calls += 1
        return super().loss(model, batch) * (1.0 + 0.5 * type(self).calls)


class BatchNorm(Batchable):
    def model(self):
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


class BatchableDropout(Dropout):
    batchable = True


class BatchableDatasets(Datasets):
    batchable = True


class Item(Batchable):
    """A metric that leaves torch."""

    def metric(self, model, batch):
        return float(model(batch[0]).mean())


class Matrices(Tiny):
    """Every parameter is a matrix."""

    def model(self):
        return nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 1, bias=False))
