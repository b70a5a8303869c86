"""Images: multilayer perceptrons, convolutional nets, a vision transformer, autoencoders and denoising."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, mse_loss, relu

from comparison.data import batches, cifar, digits, supervised
from comparison.families import Session, Setting, task
from comparison.layers import Block


def _dense(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for n, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Linear(inputs, outputs), *([nn.ReLU()] if n < len(widths) - 2 else [])]
    return nn.Sequential(*layers)


@task("digits-mlp", "image-mlp", 360)
def digits_mlp(s: Setting) -> Session:
    """64–128–128–10 on 8 × 8 digits."""
    return supervised(s, _dense(64, 128 * s.size, 128 * s.size, 10), digits(), cross_entropy, size=64)


@task("cifar-mlp", "image-mlp", 300)
def cifar_mlp(s: Setting) -> Session:
    """768–192–192–192–10 on CIFAR-10 at 16 × 16."""
    w = 192 * s.size
    return supervised(s, _dense(768, w, w, w, 10), cifar(), cross_entropy, size=64)


def _convolutions(widths: tuple[int, ...], inputs: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, outputs in enumerate(widths):
        layers.append(nn.Conv2d(inputs, outputs, 3, 2 if n % 2 else 1, 1, bias=not norm))
        layers += [*([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


@task("cifar-cnn", "cnn-batch-norm", 240)
def cifar_cnn(s: Setting) -> Session:
    """Five convolutions with batch norm on CIFAR-10 at 16 × 16."""
    w = 12 * s.size
    return supervised(s, _convolutions((w, 2 * w, 2 * w, 4 * w, 4 * w), 3, True), cifar(), cross_entropy, size=32)


@task("digits-cnn-norm", "cnn-batch-norm", 240)
def digits_cnn_norm(s: Setting) -> Session:
    """Three convolutions with batch norm on 8 × 8 digits."""
    w = 16 * s.size
    return supervised(s, _convolutions((w, 2 * w, 2 * w), 1, True), digits(), cross_entropy, size=32)


@task("cifar-plain", "cnn-plain", 240)
def cifar_plain(s: Setting) -> Session:
    """Five convolutions without a norm on CIFAR-10 at 16 × 16."""
    w = 12 * s.size
    return supervised(s, _convolutions((w, 2 * w, 2 * w, 4 * w, 4 * w), 3, False), cifar(), cross_entropy, size=32)


@task("digits-cnn", "cnn-plain", 240)
def digits_cnn(s: Setting) -> Session:
    """Three convolutions without a norm on 8 × 8 digits."""
    w = 16 * s.size
    return supervised(s, _convolutions((w, 2 * w, 2 * w), 1, False), digits(), cross_entropy, size=32)


class _ViT(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, tokens: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        return self.head(self.norm(self.blocks(tokens + self.positions.weight)).mean(1))


@task("cifar-vit", "vit", 240)
def cifar_vit(s: Setting) -> Session:
    """A vision transformer of two blocks on patches of 4 × 4 pixels of CIFAR-10 at 16 × 16."""
    return supervised(s, _ViT(48 * s.size, 2, 4, 16, 4), cifar(), cross_entropy, size=16)


@task("cifar-vit-deep", "vit", 240)
def cifar_vit_deep(s: Setting) -> Session:
    """The same with four narrower blocks."""
    return supervised(s, _ViT(32 * s.size, 4, 2, 16, 4), cifar(), cross_entropy, size=16)


def _autoencoder(widths: tuple[int, ...]) -> nn.Sequential:
    return _dense(*widths, *widths[-2::-1])


@task("digits-autoencoder", "autoencoder", 360)
def digits_autoencoder(s: Setting) -> Session:
    """64–256–128–32–12 and back; squared error."""
    x, _, xv, _ = digits()
    x, xv = x.flatten(1), xv.flatten(1)
    model = _autoencoder((64, 256 * s.size, 128 * s.size, 32 * s.size, 12))
    return supervised(s, model, (x, x, xv, xv), mse_loss, size=64)


@task("cifar-autoencoder", "autoencoder", 300)
def cifar_autoencoder(s: Setting) -> Session:
    """Grey images of 16 × 16 through 24 numbers; squared error."""
    x, _, xv, _ = cifar()
    x, xv = x.mean(1).flatten(1), xv.mean(1).flatten(1)
    model = _autoencoder((256, 256 * s.size, 128 * s.size, 64 * s.size, 24))
    return supervised(s, model, (x, x, xv, xv), mse_loss, size=64)


def _waves(time: Tensor, width: int) -> Tensor:
    angles = time[:, None] * torch.exp(torch.linspace(0, math.log(100), width // 2, device=time.device))
    return torch.cat([angles.sin(), angles.cos()], 1)


def _diffusion(s: Setting, model: nn.Module, x: Tensor, xv: Tensor, size: int) -> Session:
    """Prediction of the noise in x cos(πt/2) + noise · sin(πt/2), t uniform; validation with fixed noise and t."""
    x, xv = x.to(s.device), xv.to(s.device)
    model.to(s.device)
    order, generator = batches(s, len(x), size).to(s.device), s.generator(2)
    times = torch.rand(s.steps, size, generator=generator).to(s.device)
    seeds = torch.randint(2**31, (s.steps,), generator=generator).tolist()
    fixed = torch.Generator().manual_seed(5)
    time_v = torch.rand(len(xv), generator=fixed).to(s.device)
    noise_v = torch.randn(xv.shape, generator=fixed).to(s.device)

    def loss(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        angle = (time * math.pi / 2).view(-1, *[1] * (clean.ndim - 1))
        return mse_loss(model(clean * angle.cos() + noise * angle.sin(), time), noise)

    def train(step: int) -> Tensor:
        clean = x[order[step % s.steps]]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seeds[step % s.steps]))
        return loss(clean, noise.to(s.device), times[step % s.steps])

    return Session(model, train, lambda: loss(xv, noise_v, time_v))


class _DenseDenoiser(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.enter, self.time = nn.Linear(inputs, width), nn.Linear(32, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.leave = nn.Linear(width, inputs)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.enter(x) + self.time(_waves(time, 32))
        for layer in self.inner:
            h = h + layer(gelu(h))
        return self.leave(gelu(h))


@task("digits-diffusion", "diffusion", 360)
def digits_diffusion(s: Setting) -> Session:
    """A residual perceptron that predicts the noise in digits."""
    x, _, xv, _ = digits()
    return _diffusion(s, _DenseDenoiser(64, 128 * s.size), 2 * x.flatten(1) - 1, 2 * xv.flatten(1) - 1, 64)


class _UNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.time = nn.Conv2d(3, width, 3, 1, 1), nn.Linear(32, 2 * width)
        self.down, self.middle = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.Conv2d(2 * width, 2 * width, 3, 1, 1)
        self.norm = nn.GroupNorm(4, 2 * width)
        self.up, self.leave = nn.ConvTranspose2d(2 * width, width, 2, 2), nn.Conv2d(2 * width, 3, 3, 1, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        first = relu(self.enter(x))
        low = self.down(first) + self.time(_waves(time, 32))[:, :, None, None]
        low = low + self.middle(relu(self.norm(low)))
        return self.leave(torch.cat([first, relu(self.up(low))], 1))


@task("cifar-diffusion", "diffusion", 240)
def cifar_diffusion(s: Setting) -> Session:
    """A convolutional U-Net that predicts the noise in CIFAR-10 at 16 × 16."""
    x, _, xv, _ = cifar()
    return _diffusion(s, _UNet(12 * s.size), x, xv[:200], 16)
