"""Kinds of healthy training that were written before the guard's last change but one, and run once after it.

They register beside the development kinds of :mod:`guard_kinds`. Whoever looks at what the guard does on one of them,
and changes the guard, moves it there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from guard_kinds import (
    Training,
    adam,
    classification,
    easy,
    falling,
    forever,
    hard,
    inputs,
    labels,
    mlp,
    regression,
    seedless,
    sgd,
    simulated,
    student,
    trained,
)

# ---------------------------------------------------------------------- schedules of data, targets and noise


@seedless("share of wrong labels falls from 60% to none")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs()
        wrong = torch.rand(32) < 0.6 * max(0.0, 1 - step / 600)
        return functional.cross_entropy(net(x), torch.where(wrong, torch.randint(4, (32,)), labels(x)))

    return trained(net, loss, adam(3e-3), steps=800)


@seedless("share of wrong labels rises from none to 40%")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs()
        wrong = torch.rand(32) < 0.4 * min(1.0, step / 700)
        return functional.cross_entropy(net(x), torch.where(wrong, torch.randint(4, (32,)), labels(x)))

    return trained(net, loss, adam(3e-3), steps=800)


@seedless("dropout that warms up from 0 to 0.5")
def _() -> Training:
    drop = nn.Dropout(0.0)
    net = mlp(4, 32, drop=drop)

    def loss(step: int) -> Tensor:
        drop.p = 0.5 * min(1.0, step / 500)
        x = inputs()
        return functional.cross_entropy(net(x), labels(x))

    return trained(net, loss, adam(5e-3), steps=800)


@seedless("sequences twice as long after each 130 steps, language model")
def _() -> Training:
    table, cell, head = nn.Embedding(8, 8), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 8)
    chain = torch.distributions.Categorical(logits=2 * torch.randn(8, 8))

    def loss(step: int) -> Tensor:
        text = torch.zeros(8, 3 * 2 ** min(2, step // 130) + 1, dtype=torch.long)
        text[:, 0] = torch.randint(8, (8,))
        for at in range(1, text.shape[1]):
            text[:, at] = chain.logits[text[:, at - 1]].softmax(1).multinomial(1)[:, 0]
        return functional.cross_entropy(head(cell(table(text[:, :-1]))[0]).transpose(1, 2), text[:, 1:])

    return trained(nn.ModuleList([table, cell, head]), loss, adam(5e-3), steps=390, clip=1.0)


@seedless("images of 6, 10 and 14 pixels, progressively")
def _() -> Training:
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))

    def loss(step: int) -> Tensor:
        y, side = torch.randint(3, (16,)), 6 + 4 * min(2, step // 200)
        wave = torch.linspace(0, 8, side) * (y[:, None] + 1) * 0.7
        x = wave.sin()[:, None, None, :] * wave.cos()[:, None, :, None] + 0.3 * torch.randn(16, 1, side, side)
        return functional.cross_entropy(net(x), y)

    return trained(net, loss, adam(5e-3), steps=600)


@seedless("mixup until step 500, then none")
def _() -> Training:
    return mixed(lambda step: step < 500)


@seedless("mixup from step 400 on")
def _() -> Training:
    return mixed(lambda step: step >= 400)


def mixed(when) -> Training:  # type: ignore[no-untyped-def]
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs()
        y, other = labels(x), torch.randperm(32)
        share = float(torch.distributions.Beta(1.0, 1.0).sample()) if when(step) else 1.0
        made = net(share * x + (1 - share) * x[other])
        return share * functional.cross_entropy(made, y) + (1 - share) * functional.cross_entropy(made, y[other])

    return trained(net, loss, adam(5e-3), steps=800)


@seedless("share of masked symbols rises from 15% to 60%")
def _() -> Training:
    table, net = nn.Embedding(7, 8), nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 36))

    def loss(step: int) -> Tensor:
        text = (torch.randint(6, (16, 1)) + torch.arange(6) * torch.randint(1, 3, (16, 1))) % 6
        hidden = torch.rand(16, 6) < 0.15 + 0.45 * min(1.0, step / 600)
        hidden[0, 0] = True
        made = net(table(torch.where(hidden, 6, text)).flatten(1)).view(16, 6, 6)
        return functional.cross_entropy(made[hidden], text[hidden])

    return trained(nn.ModuleList([table, net]), loss, adam(3e-3), steps=800)


@seedless("examples below a threshold of the loss that grows, self-paced")
def _() -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x = inputs(64)
        each = (net(x) - hard(x)).square().mean(1)
        easiest = each.topk(int(8 + 56 * min(1.0, step / 600)), largest=False).values
        return easiest.mean()

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("a new concept each 250 steps, online")
def _() -> Training:
    net, held = mlp(1), [torch.zeros(8)]

    def loss(step: int) -> Tensor:
        if step % 250 == 0:
            held[0] = torch.randn(8)
        x = inputs(8)
        return functional.mse_loss(net(x)[:, 0], x @ held[0] + 0.2 * torch.randn(8))

    return trained(net, loss, adam(1e-2), steps=1000)


@seedless("clicks of one in thirty, items that arrive all the time")
def _() -> Training:
    table, bias = nn.Embedding(400, 4), nn.Embedding(400, 1)
    wanted = torch.randn(400)

    def loss(step: int) -> Tensor:
        item = (torch.rand(64).sqrt() * (20 + 380 * min(1.0, step / 900))).long().clamp(max=399)
        y = (torch.rand(64) < (wanted[item] - 3.6).sigmoid()).float()
        score = table(item).sum(1) + bias(item)[:, 0] - 2
        return functional.binary_cross_entropy_with_logits(score, y)

    return trained(nn.ModuleList([table, bias]), loss, adam(1e-2), steps=1000)


@seedless("the same order of data again from the middle, optimizer's state lost")
def _() -> Training:
    net, x = mlp(2), inputs(320)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)

    def loss(step: int) -> Tensor:
        if step == 450:
            optimizer.state.clear()
        at = (step if step < 450 else step - 150) % 20 * 16
        return functional.mse_loss(net(x[at : at + 16]), hard(x[at : at + 16]))

    return trained(net, loss, lambda p: optimizer, steps=900)


@seedless("seven epochs of noise, learnt by heart step by step")
def _() -> Training:
    net, x = mlp(4, 96), inputs(800)
    y = torch.randint(4, (800,))
    order = [torch.arange(800)]

    def loss(step: int) -> Tensor:
        if step % 100 == 0:
            order[0] = torch.randperm(800)
        part = order[0][step % 100 * 8 :][:8]
        return functional.cross_entropy(net(x[part]), y[part])

    return trained(net, loss, adam(5e-3), steps=700)


@seedless("one class of four in one batch of fifty only")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs(96)
        y, rare = labels(x), torch.rand(()) < 0.02
        chosen = (y == 3) == rare
        return functional.cross_entropy(net(x[chosen]), y[chosen])

    return trained(net, loss, adam(3e-3), steps=1000)


@seedless("sensor that fails for 3 to 15 steps now and then, absolute loss")
def _() -> Training:
    net, held = mlp(2), [0, 0.0]

    def loss(step: int) -> Tensor:
        x = inputs()
        if step >= held[0] and torch.rand(()) < 0.01:
            held[:] = [step + int(torch.randint(3, 16, ())), float(2 * torch.rand(()))]
        return functional.l1_loss(net(x), easy(x) + (held[1] if step < held[0] else 0.0))

    return trained(net, loss, adam(3e-3), steps=1000)


seedless("one target in twenty 50 times as large, absolute loss")(
    lambda: regression(
        target=lambda x: easy(x) * torch.where(torch.rand(len(x), 1) < 0.05, 50.0, 1.0),
        measure=functional.l1_loss,
        optimizer=adam(3e-3),
        steps=900,
    )
)
seedless("one target in twenty 50 times as large, Huber loss, batch 4")(
    lambda: regression(
        size=4,
        target=lambda x: easy(x) * torch.where(torch.rand(len(x), 1) < 0.05, 50.0, 1.0),
        measure=functional.huber_loss,
        optimizer=adam(3e-3),
        steps=900,
    )
)

# ---------------------------------------------------------------------- batches


@seedless("size of the batch doubles from 2 to 128")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs(2 ** (1 + min(6, step // 120)))
        return functional.cross_entropy(net(x), labels(x))

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("one to eight micro-batches of two, drawn at each step")
def _() -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        parts = [inputs(2) for _ in range(int(torch.randint(1, 9, ())))]
        return torch.stack([functional.mse_loss(net(x), hard(x)) for x in parts]).mean()

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("summed loss, the last batch of each epoch has three rows")
def _() -> Training:
    net, x = mlp(4), inputs(323)

    def loss(step: int) -> Tensor:
        part = x[step % 11 * 32 :][:32]
        return functional.cross_entropy(net(part), labels(part), reduction="sum")

    return trained(net, loss, adam(3e-3), steps=700)


@seedless("one sequence at a time, lognormal length, summed over symbols")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs(1 + int(8 * math.exp(float(torch.randn(())))))
        return functional.cross_entropy(net(x), labels(x), reduction="sum")

    return trained(net, loss, adam(2e-3), steps=900)


@seedless("batch norm with two rows")
def _() -> Training:
    return regression(mlp(2, norm=nn.BatchNorm1d(16)), size=2, target=hard, optimizer=adam(3e-3), steps=900)


@seedless("graphs of 3 to 60 nodes, squared error of the sum")
def _() -> Training:
    node, out = nn.Linear(4, 12), nn.Linear(12, 1)

    def loss(step: int) -> Tensor:
        total = torch.zeros(())
        for _ in range(4):
            x = torch.randn(int(torch.randint(3, 61, ())), 4)
            near = (torch.cdist(x, x) < 1.5).float()
            hidden = (node(x) + near @ node(x) / near.sum(1, keepdim=True)).tanh()
            total = total + (out(hidden).sum() - (x[:, 0] * x[:, 1]).sum() - 0.5 * len(x)).square()
        return total / 4

    return trained(nn.ModuleList([node, out]), loss, adam(3e-3), steps=600, clip=10.0)


# ---------------------------------------------------------------------- models and optimizers that change


@seedless("weights rounded to 8 values from step 400 on")
def _() -> Training:
    net = mlp(2)

    def loss(step: int) -> Tensor:
        x = inputs()
        if step < 400:
            return functional.mse_loss(net(x), easy(x))
        rounded = {
            name: p + ((4 * p / p.abs().max()).round() * p.abs().max() / 4 - p).detach() if p.dim() > 1 else p
            for name, p in net.named_parameters()
        }
        return functional.mse_loss(torch.func.functional_call(net, rounded, x), easy(x))

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("layers frozen and thawed in turn, 60 steps each")
def _() -> Training:
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))

    def loss(step: int) -> Tensor:
        for i in (0, 2, 4):
            net[i].requires_grad_(step // 60 % 3 != i // 2)
        x = inputs()
        return functional.mse_loss(net(x), hard(x))

    return trained(net, loss, sgd(0.01), steps=900)


@seedless("a new head on a trained body, announced, warm-up of the rate")
def _() -> Training:
    net = mlp(4)
    training = trained(net, lambda step: torch.zeros(()), adam(5e-3), steps=800, phases=frozenset({400}))

    def loss(step: int) -> Tensor:
        if step == 400:
            net[-1].reset_parameters()
        x = inputs()
        return functional.cross_entropy(net(x), (labels(x) + (step >= 400)) % 4)

    training.loss = loss
    training.scheduler = torch.optim.lr_scheduler.LambdaLR(
        training.optimizer, lambda step: min(1.0, 0.05 + step % 400 / 50)
    )
    return training


@seedless("a wider layer after 400 steps, outputs unchanged")
def _() -> Training:
    net = mlp(2, 32)
    mask = torch.ones(32)
    mask[8:] = 0

    def loss(step: int) -> Tensor:
        if step == 400:
            with torch.no_grad():
                net[-1].weight[:, 8:] = 0
            mask.fill_(1)
        x = inputs()
        return functional.mse_loss(net[2]((net[1](net[0](x))) * mask), hard(x))

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("rate raised from 1e-5 to 0.03, exponentially")
def _() -> Training:
    training = classification(optimizer=adam(1e-5), steps=700)
    training.scheduler = torch.optim.lr_scheduler.ExponentialLR(training.optimizer, 3000 ** (1 / 700))
    return training


@seedless("cosine restarts, weights averaged over the ends of periods")
def _() -> Training:
    training = regression(optimizer=sgd(0.02), target=hard, steps=900)
    training.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(training.optimizer, 100)
    net, plain, held = training.model, training.loss, []

    def loss(step: int) -> Tensor:
        if step % 100 == 99:
            held.append([p.detach().clone() for p in net.parameters()])
            with torch.no_grad():
                for p, *kept in zip(net.parameters(), *held[-3:], strict=True):
                    p.copy_(torch.stack(kept).mean(0))
        return plain(step)

    training.loss = loss
    return training


@seedless("gradients of single rows clipped, and normal noise added")
def _() -> Training:
    net = mlp(4)
    for parameter in net.parameters():
        parameter.register_hook(
            lambda gradient: gradient / max(1.0, float(gradient.norm())) + 0.1 * torch.randn_like(gradient)
        )

    def loss(step: int) -> Tensor:
        x = inputs()
        return functional.cross_entropy(net(x), labels(x))

    return trained(net, loss, sgd(0.05), steps=800)


@seedless("sharpness-aware: the loss at weights moved uphill")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x = inputs()
        weights = dict(net.named_parameters())
        slopes = torch.autograd.grad(functional.cross_entropy(net(x), labels(x)), list(weights.values()))
        size = torch.stack([slope.norm() for slope in slopes]).norm() + 1e-12
        moved = {name: p + 0.1 * slope / size for (name, p), slope in zip(weights.items(), slopes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(net, moved, x), labels(x))

    return trained(net, loss, sgd(0.05), steps=700)


@seedless("full batch at the edge of stability, tanh network")
def _() -> Training:
    net, x = mlp(2), inputs(64)
    return trained(net, lambda step: functional.mse_loss(net(x), hard(x)), sgd(0.08, momentum=0.0), steps=900)


# ---------------------------------------------------------------------- terms whose weights change


@seedless("divergence held at a capacity that grows, variational")
def _() -> Training:
    encoder, decoder, mixing = mlp(6), nn.Linear(3, 8), torch.randn(3, 8)

    def loss(step: int) -> Tensor:
        x = torch.randn(32, 3) @ mixing
        mean, log = encoder(x).chunk(2, 1)
        divergence = 0.5 * (mean.square() + log.exp() - 1 - log).sum(1).mean()
        made = decoder(mean + torch.randn_like(mean) * (0.5 * log).exp())
        return functional.mse_loss(made, x) + 5 * (divergence - min(6.0, step / 100)).abs()

    return trained(nn.ModuleList([encoder, decoder]), loss, adam(3e-3), steps=900)


@seedless("consistency with a mean teacher, weight raised like exp(-5(1 - t)^2)")
def _() -> Training:
    net, teacher = mlp(4), mlp(4).requires_grad_(False)

    def loss(step: int) -> Tensor:
        x, y = inputs(8), inputs()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
        apart = (net(y + 0.3 * inputs()).softmax(1) - teacher(y + 0.3 * inputs()).softmax(1)).square().sum(1).mean()
        weight = 10 * math.exp(-5 * (1 - min(1.0, step / 500)) ** 2)
        return functional.cross_entropy(net(x), labels(x)) + weight * apart

    return trained(net, loss, adam(3e-3), steps=800)


@seedless("labels that the model gives itself where it is sure, from step 300 on")
def _() -> Training:
    net = mlp(4)

    def loss(step: int) -> Tensor:
        x, y = inputs(16), inputs(48)
        known = functional.cross_entropy(net(x), labels(x))
        if step < 300:
            return known
        sure, guess = net(y).detach().softmax(1).max(1)
        each = functional.cross_entropy(net(y + 0.5 * inputs(48)), guess, reduction="none")
        return known + (each * (sure > 0.8)).mean()

    return trained(net, loss, adam(5e-3), steps=800)


@seedless("domains told apart, gradient reversed more and more")
def _() -> Training:
    body, head, judge, weight = nn.Sequential(nn.Linear(8, 12), nn.Tanh()), nn.Linear(12, 4), nn.Linear(12, 1), [0.0]

    def loss(step: int) -> Tensor:
        weight[0] = 2 / (1 + math.exp(-step / 80)) - 1
        a, b = inputs(16), inputs(16) + 0.7
        both = body(torch.cat([a, b]))
        turned = both.clone()
        turned.register_hook(lambda gradient: -weight[0] * gradient)
        told = judge(turned)[:, 0]
        side = torch.cat([torch.zeros(16), torch.ones(16)])
        return functional.cross_entropy(head(both[:16]), labels(a)) + functional.binary_cross_entropy_with_logits(
            told, side
        )

    return trained(nn.ModuleList([body, head, judge]), loss, adam(3e-3), steps=900)


@seedless("two losses weighted by learned uncertainties")
def _() -> Training:
    net, log = mlp(6), nn.Linear(1, 2)

    def loss(step: int) -> Tensor:
        x = inputs()
        made, scale = net(x), log(torch.ones(1))
        first = functional.mse_loss(made[:, :2], easy(x) + 0.05 * torch.randn(32, 2))
        return (torch.stack([first, functional.cross_entropy(made[:, 2:], labels(x))]) * (-scale).exp() + scale).sum()

    return trained(nn.ModuleList([net, log]), loss, adam(5e-3), steps=900)


@seedless("weights of energies and forces, from 1:1000 to 10:1")
def _() -> Training:
    net = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 1))

    def loss(step: int) -> Tensor:
        x = (1.5 * torch.randn(32, 2)).requires_grad_()
        energy = net(x)
        force = torch.autograd.grad(energy.sum(), x, create_graph=True)[0]
        share = min(1.0, step / 600)
        wanted = x.detach().sin()
        return (
            10**share * (energy[:, 0] + x.detach().cos().sum(1)).square().mean()
            + 1000 ** (1 - share) * (force - wanted).square().mean()
        )

    return trained(net, loss, adam(3e-3), steps=900)


@seedless("angular margin raised from 0 to 0.5, scale 16")
def _() -> Training:
    net, centres = mlp(6), nn.Linear(6, 4, bias=False)

    def loss(step: int) -> Tensor:
        x = inputs()
        y = labels(x)
        cosine = functional.normalize(net(x), dim=1) @ functional.normalize(centres.weight, dim=1).T
        angle = cosine.clamp(-1 + 1e-4, 1 - 1e-4).acos() + 0.5 * min(1.0, step / 500) * functional.one_hot(y, 4)
        return functional.cross_entropy(16 * angle.cos(), y)

    return trained(nn.ModuleList([net, centres]), loss, adam(3e-3), steps=800)


@seedless("teacher forcing given up step by step")
def _() -> Training:
    cell, head = nn.GRUCell(1, 12), nn.Linear(12, 1)

    def loss(step: int) -> Tensor:
        phase, state = 6 * torch.rand(16, 1), torch.zeros(16, 12)
        wave = (phase + 0.6 * torch.arange(11.0)).sin() + 0.1 * torch.randn(16, 11)
        given, total = wave[:, :1], torch.zeros(())
        for at in range(10):
            state = cell(given, state)
            made = head(state)
            total = total + functional.mse_loss(made, wave[:, at + 1 : at + 2])
            forced = torch.rand(16, 1) < 1 - min(1.0, step / 400)
            given = torch.where(forced, wave[:, at + 1 : at + 2], made)
        return total / 10

    return trained(nn.ModuleList([cell, head]), loss, adam(5e-3), steps=500, clip=1.0)


@seedless("distillation, temperature from 1 to 8, loss not rescaled")
def _() -> Training:
    net, teacher = mlp(4), mlp(4, 64).requires_grad_(False)

    def loss(step: int) -> Tensor:
        x, heat = inputs(), min(8.0, 1 + step / 100)
        wanted = (5 * teacher(x) / heat).softmax(1)
        return functional.kl_div((net(x) / heat).log_softmax(1), wanted, reduction="batchmean")

    return trained(net, loss, adam(5e-3), steps=800)


@seedless("focal loss, two positives in a hundred, batch 8")
def _() -> Training:
    net = mlp(1)

    def loss(step: int) -> Tensor:
        x = inputs(8)
        score, y = net(x)[:, 0], x[:, 0] > 2.05
        hit = torch.where(y, score, -score).sigmoid()
        return -((1 - hit) ** 2 * hit.clamp(min=1e-8).log() * torch.where(y, 0.75, 0.25)).mean()

    return trained(net, loss, adam(3e-3), steps=1000)


@seedless("boxes in one image of six, three terms summed")
def _() -> Training:
    net = mlp(7)

    def loss(step: int) -> Tensor:
        x = inputs(4)
        there = (torch.rand(4) < 1 / 6).float()
        x = x + 2 * there[:, None]
        made = net(x)
        found = functional.binary_cross_entropy_with_logits(made[:, 0], there)
        box = (functional.smooth_l1_loss(made[:, 1:3], 3 * x[:, :2], reduction="none").sum(1) * there).sum()
        kind = (functional.cross_entropy(made[:, 3:], labels(x), reduction="none") * there).sum()
        return found + (5 * box + kind) / there.sum().clamp(min=1)

    return trained(net, loss, adam(3e-3), steps=1000)


# ---------------------------------------------------------------------- contrast, players, policies


@seedless("contrast against a queue that grows from 16 to 512")
def _() -> Training:
    net, slow, queue = mlp(6), mlp(6).requires_grad_(False), [functional.normalize(torch.randn(16, 6), dim=1)]

    def loss(step: int) -> Tensor:
        with torch.no_grad():
            for kept, new in zip(slow.parameters(), net.parameters(), strict=True):
                kept.lerp_(new, 0.05)
        x = inputs(16)
        a = functional.normalize(net(x + 0.2 * inputs(16)), dim=1)
        b = functional.normalize(slow(x + 0.2 * inputs(16)), dim=1)
        scores = torch.cat([(a * b).sum(1, keepdim=True), a @ queue[0].T], 1) / 0.2
        queue[0] = torch.cat([queue[0], b])[-min(512, 16 + step) :]
        return functional.cross_entropy(scores, torch.zeros(16, dtype=torch.long))

    return trained(net, loss, adam(3e-3), steps=800)


@seedless("redundancy of two views reduced, summed over pairs")
def _() -> Training:
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 12))

    def loss(step: int) -> Tensor:
        x = inputs(48)
        a, b = (net(x + 0.4 * inputs(48)) for _ in range(2))
        a, b = ((one - one.mean(0)) / (one.std(0) + 1e-4) for one in (a, b))
        both = a.T @ b / 48
        return (both.diagonal() - 1).square().sum() + 0.05 * (both - both.diagonal().diag()).square().sum()

    return trained(net, loss, adam(3e-3), steps=700)


def players(seen: str) -> Training:
    maker, critic = mlp(2), nn.Sequential(nn.Linear(2, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1))

    def apart() -> Tensor:
        real, made = torch.randn(32, 2) * torch.tensor([1.0, 0.4]) + 1.5, maker(inputs()).detach()
        between = torch.lerp(real, made, torch.rand(32, 1)).requires_grad_()
        slope = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
        return critic(made).mean() - critic(real).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()

    own = torch.optim.Adam((critic if seen == "maker" else maker).parameters(), lr=1e-3, betas=(0.0, 0.9))

    def loss(step: int) -> Tensor:
        if seen == "maker":
            for _ in range(3):
                own.zero_grad()
                apart().backward()
                own.step()
            return -critic(maker(inputs())).mean()
        if step % 3 == 0:
            own.zero_grad()
            (-critic(maker(inputs())).mean()).backward()
            own.step()
            critic.zero_grad()
        return apart()

    return trained(
        maker if seen == "maker" else critic, loss, lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.0, 0.9)), steps=700
    )


seedless("critic of Wasserstein distance, penalty on the gradient")(lambda: players("critic"))
seedless("generator against a critic with a penalty on the gradient")(lambda: players("maker"))


@seedless("episodes that grow longer as the policy learns, returns summed")
def _() -> Training:
    net, held = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 2)), [0.0]

    def loss(step: int) -> Tensor:
        state, logs = torch.randn(2) * 0.3, []
        while len(logs) < 40 and float(state.abs().max()) < 2:
            policy = torch.distributions.Categorical(logits=net(state))
            act = policy.sample()
            logs.append(policy.log_prob(act))
            state = torch.stack([state[0] + 0.3 * state[1], state[1] + 0.1 * state[0] + 0.4 * (2 * act - 1)])
        gain = torch.arange(len(logs), 0, -1.0)
        held[0] += 0.05 * (float(gain.mean()) - held[0])
        return -(torch.stack(logs) * (gain - held[0])).sum()

    return trained(net, loss, adam(3e-3), steps=400, clip=10.0)


@seedless("values learnt from a memory that fills, target copied every 50 steps, greedy more and more")
def _() -> Training:
    net, target = mlp(3), mlp(3).requires_grad_(False)
    memory: list[tuple[Tensor, int, float]] = []

    def loss(step: int) -> Tensor:
        if step % 50 == 0:
            target.load_state_dict(net.state_dict())
        state = torch.randn(8)
        chosen = int(torch.randint(3, ())) if torch.rand(()) < max(0.05, 1 - step / 500) else int(net(state).argmax())
        memory.append((state, chosen, float(state[:3].argmax() == chosen) - 0.2 * float(state[3] > 1)))
        picked = [memory[int(i)] for i in torch.randint(len(memory), (24,))]
        states = torch.stack([one[0] for one in picked])
        aim = torch.tensor([one[2] for one in picked]) + 0.95 * target(states.roll(1, 1)).max(1).values
        value = net(states).gather(1, torch.tensor([[one[1]] for one in picked]))[:, 0]
        return functional.smooth_l1_loss(value, aim)

    return trained(net, loss, adam(3e-3), steps=800)


@seedless("preferences of pairs against a reference policy")
def _() -> Training:
    net, reference = mlp(5), mlp(5).requires_grad_(False)
    reference.load_state_dict(net.state_dict())

    def loss(step: int) -> Tensor:
        x = inputs(16)
        pair = torch.stack([torch.randperm(5)[:2] for _ in range(16)])
        better = x[:, :5].gather(1, pair).argmax(1, keepdim=True)
        first, second = pair.gather(1, better), pair.gather(1, 1 - better)
        ratio = net(x).log_softmax(1) - reference(x).log_softmax(1)
        return -functional.logsigmoid(0.5 * (ratio.gather(1, first) - ratio.gather(1, second))).mean()

    return trained(net, loss, adam(3e-3), steps=700)


@seedless("mixture fitted by turns: responsibilities each 25 steps")
def _() -> Training:
    net, held = nn.Linear(1, 8), []
    data = torch.cat([torch.randn(80, 2) * 0.3 + c for c in (torch.tensor([2.0, 0]), torch.tensor([-2.0, 1]), 0.0)])

    def loss(step: int) -> Tensor:
        made = net(torch.ones(1)).view(4, 2)
        far = (data[:, None] - made).square().sum(2)
        if step % 25 == 0:
            held[:] = [(-far.detach() / 0.2).softmax(1)]
        part = torch.randint(len(data), (24,))
        return (held[0][part] * far[part]).sum(1).mean()

    return trained(net, loss, adam(3e-2), steps=700)


@seedless("worst group weighted more and more")
def _() -> Training:
    net, weight = mlp(4), torch.ones(4) / 4

    def loss(step: int) -> Tensor:
        x = inputs(64)
        y, group = labels(x), (x[:, 4] > 1.2).long() + 2 * (x[:, 5] > 0.8).long()
        each = functional.cross_entropy(net(x + 0.5 * group[:, None] * torch.randn(64, 8)), y, reduction="none")
        mean = torch.stack([each[group == g].mean() if bool((group == g).any()) else each.sum() * 0 for g in range(4)])
        weight.mul_((0.02 * mean.detach()).exp())
        weight.div_(weight.sum())
        return (weight * mean).sum()

    return trained(net, loss, adam(3e-3), steps=800)


# ---------------------------------------------------------------------- simulated losses

simulated("grows as the square of the step")(
    lambda pick: (0.2 + 4 * (s / 1500) ** 2 * (1 + 0.2 * pick.gauss(0, 1)) for s in forever())
)
simulated("doubles every 250 steps until step 1000, then stays")(
    lambda pick: (0.1 * 2 ** (min(s, 1000) / 250) * (1 + 0.1 * pick.gauss(0, 1)) for s in forever())
)
simulated("grows from zero like a saturating curve")(
    lambda pick: (3 * (1 - math.exp(-s / 300)) + 0.2 * abs(pick.gauss(0, 1)) for s in forever())
)
simulated("zeros in nine of ten, else exponential")(
    lambda pick: (falling(s) * pick.expovariate(1) * (pick.random() < 0.1) for s in forever())
)
simulated("share of zeros from 90% to 20%, else gamma")(
    lambda pick: (
        pick.gammavariate(2, 0.5) if pick.random() > 0.9 - 0.7 * min(1.0, s / 1000) else 0.0 for s in forever()
    )
)
simulated("levels of a day and of a week, periods 48 and 336")(
    lambda pick: (
        falling(s) + (0.3 * math.sin(s / 7.64) + 0.5 * (s % 336 > 240)) * (1 + 0.1 * pick.gauss(0, 1))
        for s in forever()
    )
)
simulated("levels 0.5, 0.8, 1.1 and so on, a stair of 200 steps")(
    lambda pick: ((0.5 + 0.3 * (s // 200)) * (1 + 0.08 * pick.gauss(0, 1)) for s in forever())
)


@simulated("logarithm moves as an autoregression")
def _(pick: random.Random) -> Iterator[float]:
    wave = 0.0
    for step in forever():
        wave = 0.9 * wave + 0.3 * pick.gauss(0, 1)
        yield falling(step) * math.exp(wave)


@simulated("now and then a task of ten times the loss, for 20 to 80 steps")
def _(pick: random.Random) -> Iterator[float]:
    until = 0
    for step in forever():
        if step > 50 and step >= until and pick.random() < 0.004:
            until = step + pick.randrange(20, 80)
        yield falling(step) * (10 if step < until else 1) * pick.lognormvariate(0, 0.3)


@simulated("noise of Student's t with 1.8 degrees that drifts in scale")
def _(pick: random.Random) -> Iterator[float]:
    for step in forever():
        yield falling(step) + 0.05 * (1 + math.sin(step / 150)) * abs(student(pick, 1.8))
