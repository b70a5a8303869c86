# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Stability: why learning rates blow up
#
# *About 25 minutes. Notebooks 1 and 2 come first.*
#
# Everybody has seen it: at some learning rate the loss explodes. You will see why, compute the limit in advance
# for any scheme, and understand what momentum really buys, and what a high order costs.

# %% [markdown]
# ## One multiplication
#
# Along a direction of curvature λ near a minimum the gradient is λθ. A step of SGD is then a multiplication:
#
#     θₙ₊₁ = θₙ − hλθₙ = (1 − hλ) θₙ
#
# What matters is the product x = hλ alone. If |1 − x| < 1, errors die out; beyond x = 2 they grow, and the sign
# changes every step. Try both sides of the limit.

# %%
import altair as alt
import numpy as np
import torch
from sklearn.datasets import load_digits

import sabun
from sabun import design, schemes
from sabun.report import scheme_figures

LANG = "en"  # of pictures and sentences


def size_after(scheme, x, steps=400):
    """|θ| after that many steps at hλ = x, from |θ| = 1."""
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = sabun.Optimizer([theta], lr=x, scheme=scheme)  # λ = 1, so h = x
    for _ in range(steps):
        theta.grad = theta.detach().clone()
        optimizer.step()
    return abs(theta.item())


for x in (0.5, 1.0, 1.5, 1.99, 2.01):
    print(f"hλ = {x:<5} |θ| after 400 steps: {size_after('euler', x):.1e}")

# %% [markdown]
# The limit is a knife's edge: 1.99 decays, 2.01 explodes. With many directions the steepest one decides: **the
# largest learning rate of SGD is 2 divided by the largest curvature**, however flat all other directions are.
#
# ## Every scheme has its own limit
#
# A scheme with memory is a recursion over several points. Its solutions are powers ζⁿ, where ζ solves
#
#     ρ(ζ) + hλ σ(ζ) = 0
#
# (ρ and σ are polynomials made of the scheme's coefficients; for SGD it is ζ − 1 + hλ = 0.) Stable means that all
# roots lie inside the unit circle. The first hλ at which one reaches the circle is the end of the **stability
# interval**. sabun computes it exactly; let us see whether the optimizers obey.

# %%
print(f"{'scheme':<20}{'order':>6}{'interval':>10}{'1% below':>12}{'1% above':>12}")
for name in (
    "euler",
    "heavy-ball",
    "nesterov",
    "adams-bashforth-2",
    "adams-bashforth-3",
    "adams-bashforth-4",
    "taylor-4",
):
    scheme = schemes.get(name)
    limit = scheme.stability_interval
    below, above = size_after(name, 0.99 * limit, 1500), size_after(name, 1.01 * limit, 1500)
    print(f"{name:<20}{scheme.order:>6}{limit:>10.3f}{below:>12.0e}{above:>12.0e}")
    assert below < 1e-1 < above

# %% [markdown]
# Read the table twice. Down the Adams–Bashforth rows: **each order more costs about half of the interval.** Order
# 4 takes steps that are about seven times shorter than SGD's, for a precision that the noise of mini-batches
# covers up (notebook 2). And in the row of heavy ball: order 1, with a large error constant, but an interval of
# 38. **Momentum buys stability, not precision.**
#
# The factor by which a step shrinks the slowest error, over hλ:

# %%
x = np.geomspace(0.01, 45, 400)
rows = []
for name in ("euler", "heavy-ball", "nesterov", "adams-bashforth-2"):
    factor = schemes.analysis.amplification(schemes.get(name), x)
    rows += [{"scheme": name, "hλ": a, "|ζ|": b} for a, b in zip(x, factor, strict=True) if b < 1.3]
alt.Chart(alt.Data(values=rows)).mark_line(clip=True).encode(
    alt.X("hλ:Q", scale=alt.Scale(type="log")),
    alt.Y("|ζ|:Q", scale=alt.Scale(domain=[0, 1.2])),
    color=alt.Color("scheme:N", title=None, legend=alt.Legend(labelLimit=300)),
).properties(width=480, height=280)

# %% [markdown]
# For one scheme, in the complex plane (curvature is real, so the axis matters most):

# %%
scheme_figures.stability_region(schemes.nesterov(), LANG)

# %% [markdown]
# ## Blowing up at any learning rate
#
# At h = 0 the roots of ρ alone remain. One of them is 1. Where another lies *outside* the circle, the scheme
# blows up however small the learning rate. `lagrange-4` looks fine on paper: order 3, a small error constant.

# %%
certificate = schemes.certify("lagrange-4")
print("order", certificate.order, "  error constant", certificate.error_constant)
print(certificate.sentence(LANG))
try:
    sabun.Optimizer([torch.zeros(1, requires_grad=True)], lr=1e-9, scheme="lagrange-4")
except sabun.errors.SchemeError as error:
    print(f"\nasked for as an optimizer: {error}")

# %% [markdown]
# Such rules solve other problems well, and have been proposed for training. Zero-stability is the first thing to
# ask of any new rule.
#
# ## In a network
#
# λ is now the largest eigenvalue of the loss's Hessian. Power iteration finds it with a few gradients. Does the
# limit of the bowl say anything about it?

# %%
digits = load_digits()
images = torch.tensor(digits.data[:500] / 16, dtype=torch.float32)
targets = torch.nn.functional.one_hot(torch.tensor(digits.target[:500])).float()


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))


def loss_of(model):
    return (model(images) - targets).square().sum(dim=1).mean()


def largest_curvature(model, rounds=40):
    """The largest eigenvalue of the Hessian, by power iteration on Hessian-vector products."""
    weights = list(model.parameters())
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(model), weights, create_graph=True)])
    vector = torch.randn(gradient.numel(), generator=torch.Generator().manual_seed(1))
    for _ in range(rounds):
        vector = vector / vector.norm()
        image = torch.cat([g.flatten() for g in torch.autograd.grad(gradient @ vector, weights, retain_graph=True)])
        curvature, vector = float(image @ vector), image
    return curvature


sharpness = largest_curvature(network())
print(f"largest curvature at the start: {sharpness:.1f}, so the limit of SGD there is h = {2 / sharpness:.3f}")
print(f"{'hλ at the start':>16}{'loss after 0':>14}{'5':>10}{'20':>10}{'60 steps':>10}{'hλ at the end':>16}")
for x in (0.5, 1.5, 2.5, 4.0, 8.0, 12.0):
    model = network()
    optimizer = sabun.Optimizer(model.parameters(), lr=x / sharpness, scheme="euler")
    losses = []
    for _ in range(61):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    end = x / sharpness * largest_curvature(model) if losses[-1] < 1e3 else np.nan
    print(f"{x:>16}{losses[0]:>14.2f}" + "".join(f"{losses[i]:>10.3g}" for i in (5, 20, 60)) + f"{end:>16.2f}")

# %% [markdown]
# A network is no bowl, and the rows say how far the bowl's limit goes. Below 2, all is calm. Well above, at 8 and
# 12, the loss explodes within five steps, as predicted. Between them something happens that no bowl shows: the
# steps are too long for the place where training starts, the weights jump out of it, and come down **where the
# landscape is flatter**, until hλ is near 2 again (last column). So the limit still rules; it is the curvature
# that gives way. This has been described as the edge of stability (Cohen et al. 2021, arXiv 2103.00065). It is a
# dangerous place to stay: at 4 the loss is worse than at 2.5.
#
# sabun can watch it. With `step_control="stability"` the optimizer measures λ while it trains, and shortens steps
# that would use more than 80% of the interval.

# %%
model = network()
optimizer = sabun.Optimizer(
    model.parameters(), lr=4 / sharpness, scheme="euler", step_control="stability", probe_every=5
)


def closure():
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    return loss


for step in range(60):
    loss = optimizer.step(closure)
    if step in (0, 5, 20, 59):
        print(
            f"step {step:>2}  loss {loss.item():.3f}  h = {optimizer.stats()['step_length']:.3f}  unused share of the interval: {optimizer.margin:.2f}"
        )

# %% [markdown]
# ## Exercises
#
# **1.** The steepest direction of your loss has λ = 50. What is the largest learning rate for
# `adams-bashforth-2`, and for `heavy-ball`? Check one of them by experiment.

# %% tags=["solution"]
for name in ("adams-bashforth-2", "heavy-ball"):
    print(name, schemes.get(name).stability_interval / 50)
assert np.isclose(schemes.get("adams-bashforth-2").stability_interval / 50, 0.02)
assert np.isclose(schemes.get("heavy-ball").stability_interval / 50, 0.76)
assert size_after("adams-bashforth-2", 0.0199 * 50, 2000) < 1 < size_after("adams-bashforth-2", 0.0201 * 50, 2000)

# %% [markdown]
# **2.** A valley has the curvatures 1 and 100. SGD's best step shrinks both directions by the same factor, (100 −
# 1)/(100 + 1). Heavy ball's best is β = ((√100 − 1)/(√100 + 1))² with a factor of √β. How many steps does each
# need to get a million times closer?

# %% tags=["solution"]
beta = ((np.sqrt(100) - 1) / (np.sqrt(100) + 1)) ** 2
sgd_steps = np.log(1e-6) / np.log(99 / 101)
momentum_steps = np.log(1e-6) / np.log(np.sqrt(beta))
print(f"SGD {sgd_steps:.0f} steps, heavy ball with β = {beta:.2f}: {momentum_steps:.0f} steps")
scheme = schemes.heavy_ball(beta)
h = (1 + np.sqrt(beta)) ** 2 / 100 / (1 - beta)  # Polyak's step, as a time step
factors = schemes.analysis.amplification(scheme, h * np.array([1.0, 10.0, 100.0]))
assert np.allclose(factors, np.sqrt(beta), atol=1e-3)  # every direction shrinks alike
assert sgd_steps > 9 * momentum_steps

# %% [markdown]
# **3.** Let sabun *design* a scheme: one pole of at most 0.9, order 1, with the longest interval. Does it beat
# heavy ball's 38?

# %% tags=["solution"]
widest = design.design_multistep(poles=1, order=1, largest_pole=0.9, damping=0)
print(f"interval {widest.stability_interval:.2f}, γ = {-widest.to_filter().b[1] / (1 - 0.9):.3f}")
assert 39 < widest.stability_interval <= 40 + 1e-9  # 4/(1 − 0.9) is the most that one pole can have

# %% [markdown]
# ## What to keep
#
# - Each scheme bears hλ up to the end of its stability interval, and no further. The steepest direction decides.
# - A higher order has a shorter interval. Momentum has a longer one, and that is its merit.
# - Zero-stability comes first: some rules blow up at any learning rate.
