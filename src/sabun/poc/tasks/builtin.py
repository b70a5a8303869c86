"""Built-in tasks, in the form of a user's own. The data are real: from scikit-learn or :mod:`sabun.poc.tasks.data`.

``TASKS`` maps names to classes. A new built-in task needs a class and an entry there.
"""

from __future__ import annotations

import itertools
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sabun.errors import MissingExtraError, StudyError
from sabun.poc.tasks import data
from sabun.poc.torch_loading import uncollected

__all__ = [
    "TASKS", "BreastCancer", "CharLM", "Cifar10", "Diabetes", "Digits", "DigitsCNN", "mlp", "split", "standardised",
]  # fmt: skip

Splits = dict[str, tuple[Tensor, Tensor]]


def split(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], *, stratify: bool) -> dict[str, tuple[Any, Any]]:
    """Split into 60% training, 20% validation and 20% test data. The split is fixed."""
    with uncollected():
        from sklearn.model_selection import train_test_split

    rest_x, test_x, rest_y, test_y = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=y if stratify else None
    )
    train_x, val_x, train_y, val_y = train_test_split(
        rest_x, rest_y, test_size=0.25, random_state=0, stratify=rest_y if stratify else None
    )
    return {"train": (train_x, train_y), "validation": (val_x, val_y), "test": (test_x, test_y)}


def standardised(splits: dict[str, tuple[Any, Any]]) -> Splits:
    """Scale each feature to zero mean and unit variance of the training data. Constant features become zero."""
    mean = splits["train"][0].mean(axis=0)
    scale = splits["train"][0].std(axis=0)
    scale[scale == 0] = 1.0
    return {
        name: (torch.tensor((x - mean) / scale, dtype=torch.float32), torch.tensor(y))
        for name, (x, y) in splits.items()
    }


def _datasets() -> Any:
    try:
        with uncollected():
            from sklearn import datasets
    except ImportError:
        raise MissingExtraError(
            "the data of this task are part of scikit-learn, which is not installed.", fix="pip install 'sabun[poc]'"
        ) from None
    return datasets


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _Classification:
    metric_name = "accuracy"

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss: Tensor = functional.cross_entropy(model(batch[0]), batch[1])
        return loss

    def metric(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        hits: Tensor = model(batch[0]).argmax(dim=1) == batch[1]
        return hits.float().mean()


class Digits(_Classification):
    """1,797 images of handwritten digits, 8×8 (scikit-learn's ``load_digits``); an MLP 64-64-64-10."""

    batchable = True

    def __init__(self, width: int = 64, batch_size: int = 32, device: str = "cpu") -> None:
        self.width = width
        self.batch_size = batch_size
        self.device = device

    def data(self) -> Splits:
        x, y = _datasets().load_digits(return_X_y=True)
        return standardised(split(x, y, stratify=True))

    def model(self) -> nn.Module:
        return mlp(64, self.width, self.width, 10)


class DigitsCNN(Digits):
    """The images of ``Digits`` with a small convolutional network: two 3×3 convolutions with pooling, then linear."""

    batchable = False

    def __init__(self, width: int = 16, batch_size: int = 32, device: str = "cpu") -> None:
        super().__init__(width, batch_size, device)

    def data(self) -> Splits:
        return {name: (x.view(-1, 1, 8, 8), y) for name, (x, y) in super().data().items()}

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, self.width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(self.width, 2 * self.width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * self.width, 10),
        )  # fmt: skip


class BreastCancer(_Classification):
    """569 patients, 30 features, two classes (Wisconsin Diagnostic, in scikit-learn); an MLP 30-32-32-2."""

    batchable = True

    def __init__(self, width: int = 32, batch_size: int = 16, device: str = "cpu") -> None:
        self.width = width
        self.batch_size = batch_size
        self.device = device

    def data(self) -> Splits:
        x, y = _datasets().load_breast_cancer(return_X_y=True)
        return standardised(split(x, y, stratify=True))

    def model(self) -> nn.Module:
        return mlp(30, self.width, self.width, 2)


class Diabetes:
    """442 patients, 10 features, progression after a year (in scikit-learn); least squares by an MLP 10-32-32-1.

    The target is standardised too. The metric is the explained share of its training variance.
    """

    batchable = True
    metric_name = "explained variance"

    def __init__(self, width: int = 32, batch_size: int = 16, device: str = "cpu") -> None:
        self.width = width
        self.batch_size = batch_size
        self.device = device

    def data(self) -> Splits:
        x, y = _datasets().load_diabetes(return_X_y=True)
        splits = split(x, y[:, None], stratify=False)
        centre, scale = splits["train"][1].mean(), splits["train"][1].std()
        splits = {name: (x, ((y - centre) / scale).astype(np.float32)) for name, (x, y) in splits.items()}
        return standardised(splits)

    def model(self) -> nn.Module:
        return mlp(10, self.width, self.width, 1)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss: Tensor = functional.mse_loss(model(batch[0]), batch[1])
        return loss

    def metric(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 1.0 - self.loss(model, batch)


class _Residual(nn.Module):
    """Two 3×3 convolutions with BatchNorm beside the identity; a strided 1×1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.last = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.last(self.second(functional.relu(self.norm(self.first(x)))))
        return functional.relu(inner + self.skip(x))


class Cifar10(_Classification):
    """CIFAR-10 (Krizhevsky 2009) with a ResNet: ``blocks`` residual blocks per stage, ``width`` channels in the first.

    The data are ``cifar-10-python.tar.gz`` as published, or ``cifar10_20k.npz`` (x_train, y_train, x_test, y_test;
    images as uint8 N×32×32×3), in ``$SABUN_DATA``; otherwise the published file is downloaded. ``images`` limits the
    training images; a tenth of them becomes validation data.
    """

    evaluation_batch_size = 500

    def __init__(
        self, images: int = 50_000, blocks: int = 1, width: int = 16, batch_size: int = 64, device: str = "cpu"
    ) -> None:
        self.images = images
        self.blocks = blocks
        self.width = width
        self.batch_size = batch_size
        self.device = device

    def data(self) -> Splits:
        archive = None if data.provided(_CIFAR.name) else data.provided("cifar10_20k.npz")
        x, y, test_x, test_y = _npz(archive) if archive is not None else _cifar(data.fetch(_CIFAR))
        x, y = x[: self.images], y[: self.images]
        count = max(1, len(x) // 10)
        return {
            "train": (x[count:], y[count:]), "validation": (x[:count], y[:count]), "test": (test_x, test_y)
        }  # fmt: skip

    def provenance(self) -> str:
        """Return which of the two files is used: they hold different images."""
        archive = None if data.provided(_CIFAR.name) else data.provided("cifar10_20k.npz")
        return f"{archive.name} sha256 {data.digest(archive)}" if archive else f"{_CIFAR.name} {_CIFAR.checksum}"

    def model(self) -> nn.Module:
        widths = [self.width, 2 * self.width, 4 * self.width]
        layers: list[nn.Module] = [_Pixels(), nn.Conv2d(3, self.width, 3, 1, 1, bias=False), nn.BatchNorm2d(self.width)]
        inputs = self.width
        for stage, outputs in enumerate(widths):
            for block in range(self.blocks):
                layers.append(_Residual(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class _Pixels(nn.Module):
    """Converts bytes to floats standardised by CIFAR-10's channel statistics, so that the stored data stay small."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([125.3, 123.0, 113.9]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([63.0, 62.1, 66.7]).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) / self.scale


_CIFAR = data.Source(
    "cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "md5",
    "c58f30108f718f92721af3b95e74349a",
)


def _npz(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with np.load(path) as arrays:
        x, y, test_x, test_y = (torch.from_numpy(arrays[key]) for key in ("x_train", "y_train", "x_test", "y_test"))
    return x.permute(0, 3, 1, 2).contiguous(), y.long(), test_x.permute(0, 3, 1, 2).contiguous(), test_y.long()


def _cifar(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read the published archive of five training batches and a test batch, pickled. Its checksum was verified."""
    with tarfile.open(path) as archive:

        def read(name: str) -> tuple[Tensor, Tensor]:
            member = archive.extractfile(f"cifar-10-batches-py/{name}")
            if member is None:
                raise StudyError(f"{path} has no {name}.", fix="Download the file again.")
            batch = pickle.load(member, encoding="bytes")
            return torch.from_numpy(batch[b"data"]).view(-1, 3, 32, 32), torch.tensor(batch[b"labels"])

        parts = [read(f"data_batch_{number}") for number in range(1, 6)]
        test_x, test_y = read("test_batch")
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]), test_x, test_y


class _Block(nn.Module):
    """Pre-norm causal self-attention and MLP, as in GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        more: Tensor = self.down(functional.gelu(self.up(self.norm2(x))))
        return x + more


class _GPT(nn.Module):
    def __init__(self, symbols: int, context: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.symbols(x) + self.places(place))))
        return logits


class CharLM:
    """Next characters of Shakespeare (Karpathy's tinyshakespeare, 1.1 MB) with a GPT; loss in nats.

    ``chars`` limits the length of the text. The last tenth is test data, the tenth before it validation data. Windows
    of ``context`` characters do not overlap, so an epoch reads each training character once.
    """

    metric_name = "accuracy"
    evaluation_batch_size = 64

    def __init__(
        self,
        layers: int = 2,
        width: int = 64,
        heads: int = 4,
        context: int = 64,
        batch_size: int = 16,
        chars: int = 1_115_394,
        device: str = "cpu",
    ) -> None:
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.shape = (layers, width, heads)
        self.context = context
        self.batch_size = batch_size
        self.chars = chars
        self.device = device

    def data(self) -> Splits:
        text = data.fetch(_SHAKESPEARE).read_bytes()
        table = {symbol: index for index, symbol in enumerate(sorted(set(text)))}
        codes = torch.tensor([table[symbol] for symbol in text[: self.chars]])
        tenth = len(codes) // 10
        return {
            "train": self._windows(codes[: -2 * tenth]),
            "validation": self._windows(codes[-2 * tenth : -tenth]),
            "test": self._windows(codes[-tenth:]),
        }

    def _windows(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        count = (len(codes) - 1) // self.context
        used = count * self.context
        return codes[:used].view(count, self.context), codes[1 : used + 1].view(count, self.context)

    def model(self) -> nn.Module:
        layers, width, heads = self.shape
        return _GPT(_SYMBOLS, self.context, layers, width, heads)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss: Tensor = functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())
        return loss

    def metric(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        hits: Tensor = model(batch[0]).argmax(dim=-1) == batch[1]
        return hits.float().mean()


_SYMBOLS = 65  # different characters in the whole text
_SHAKESPEARE = data.Source(
    "tinyshakespeare.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "sha256",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


TASKS: dict[str, Any] = {
    "digits": Digits,
    "digits-cnn": DigitsCNN,
    "breast-cancer": BreastCancer,
    "diabetes": Diabetes,
    "cifar10": Cifar10,
    "charlm": CharLM,
}
"""The built-in tasks by name."""
