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
# # 2. Truncation error and order, measured
#
# *About 25 minutes. Notebook 1 comes first.*
#
# A step that goes straight ahead misses the curve. You will see how large the miss is, how cleverer methods make
# it smaller, how to measure a method's order instead of believing it, and why a high order does less for training
# than one might hope.

# %% [markdown]
# ## What a step leaves out
#
# Taylor's formula says where the flow really is after a time h:
#
#     θ(t+h) = θ(t) + h θ′(t) + (h²/2) θ″(t) + (h³/6) θ‴(t) + …
#
# Euler takes the first two terms. What it cuts off (Latin: *truncat*) is the **truncation error** of the step,
# here mainly (h²/2) θ″: how much the flow bends. To cover a time T takes T/h steps, so the errors add up to
# something like h: order 1. A method of order p gets the first p powers of h right, and its error in the end
# falls like hᵖ.
#
# ## A landscape with a known flow
#
# To measure errors one needs the truth. For L(θ) = log cosh θ the flow is θ′ = −tanh θ, whose solution is sinh
# θ(t) = e^(−t) sinh θ(0). It is not a bowl: steep walls, flat bottom.

# %%
from fractions import Fraction

import altair as alt
import numpy as np
import torch

import sabun
from sabun import schemes

BEGIN, TIME = 1.5, 1.0
TRUTH = float(np.arcsinh(np.exp(-TIME) * np.sinh(BEGIN)))


def error(scheme, h):
    """How far a method ends from the flow, after TIME, in steps of length h."""
    theta = torch.tensor([BEGIN], dtype=torch.float64, requires_grad=True)
    kind = sabun.RungeKutta if isinstance(schemes.get(scheme), schemes.ButcherTableau) else sabun.Optimizer
    optimizer = kind([theta], lr=h, scheme=scheme)

    def closure():
        optimizer.zero_grad()
        loss = torch.log(torch.cosh(theta)).sum()
        loss.backward()
        return loss

    for _ in range(round(TIME / h)):
        optimizer.step(closure)
    return abs(theta.item() - TRUTH)


# %% [markdown]
# ## Measure the order
#
# Halve the step and see by which power of two the error falls: slope = log₂(error(h) / error(h/2)). Beside it,
# what the scheme's certificate claims.

# %%
STEPS = [1 / 20, 1 / 40, 1 / 80, 1 / 160]
measured = {}
print(f"{'scheme':<20}{'claimed':>8}{'measured':>10}{'error at h = 1/160':>22}{'gradients a step':>18}")
for name in ("euler", "nesterov(0.5)", "adams-bashforth-2", "taylor-4", "heun", "kutta-3", "rk4"):
    measured[name] = [error(name, h) for h in STEPS]
    slope = np.log2(measured[name][-2] / measured[name][-1])
    c = schemes.certify(name)
    print(f"{name:<20}{c.order:>8}{slope:>10.2f}{measured[name][-1]:>22.1e}{c.gradient_evaluations:>18}")
    assert abs(slope - c.order) < 0.15

# %%
rows = [{"scheme": n, "h": h, "error": e} for n, es in measured.items() for h, e in zip(STEPS, es, strict=True)]
alt.Chart(alt.Data(values=rows)).mark_line(point=True).encode(
    alt.X("h:Q", scale=alt.Scale(type="log", domain=[0.005, 0.06])),
    alt.Y("error:Q", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e")),
    color=alt.Color("scheme:N", title=None, legend=alt.Legend(labelLimit=300)),
).properties(width=460, height=300)

# %% [markdown]
# Straight lines on logarithmic axes, and their slopes are the orders. The claims hold.
#
# Two ways lead to a higher order. **Runge–Kutta methods** (`heun`, `kutta-3`, `rk4`) look at the gradient several
# times within a step, and each look costs as much as a step of SGD. **Multistep methods** (`adams-bashforth-2`,
# `taylor-4`) look once, and remember earlier gradients or points. They get their accuracy for nothing, or so it
# seems.
#
# ## The error constant
#
# Of two methods of the same order one can still be better: the error is C·hᵖ·(something of the problem), and C is
# the scheme's **error constant**. On the bowl L = ½θ² the something is T·e^(−T), so C can be read off.


# %%
def constant(scheme, h=1 / 200):
    """The error on the bowl ½θ², from θ = 1, divided by hᵖ·T·e^(−T)."""
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    kind = sabun.RungeKutta if isinstance(schemes.get(scheme), schemes.ButcherTableau) else sabun.Optimizer
    optimizer = kind([theta], lr=h, scheme=scheme)

    def closure():
        optimizer.zero_grad()
        loss = (0.5 * theta**2).sum()
        loss.backward()
        return loss

    for _ in range(round(TIME / h)):
        optimizer.step(closure)
    truth = np.exp(-TIME)
    return abs(theta.item() - truth) / (h ** schemes.get(scheme).order * TIME * truth)


for name in ("euler", "heun", "kutta-3"):
    claimed = schemes.get(name).error_constant
    print(f"{name:<10} measured {constant(name):.4f}   certificate {claimed} = {float(claimed):.4f}")
    assert abs(constant(name) - abs(float(claimed))) < 0.02 * abs(float(claimed))

# %% [markdown]
# (For multistep methods the start-up adds an error of its own: at the first step there is no past yet. sabun
# declares how each scheme starts: see `sabun explain adams-bashforth-2`.)
#
# ## And with mini-batches?
#
# So far the gradient was exact. Now add noise to it, as a mini-batch does: 2,000 independent copies of the same
# descent, each gradient with a standard deviation of 0.3, and the root mean square distance to the flow.


# %%
def noisy_error(scheme, h, noise=0.3, copies=2000):
    torch.manual_seed(0)
    theta = torch.full((copies,), BEGIN, dtype=torch.float64, requires_grad=True)
    optimizer = sabun.Optimizer([theta], lr=h, scheme=scheme)
    for _ in range(round(TIME / h)):
        theta.grad = torch.tanh(theta.detach()) + noise * torch.randn(copies, dtype=torch.float64)
        optimizer.step()
    return float((theta.detach() - TRUTH).square().mean().sqrt())


print(f"{'h':>8}{'euler':>12}{'adams-bashforth-2':>20}")
for h in (1 / 5, 1 / 20, 1 / 80):
    print(f"{h:>8.4f}{noisy_error('euler', h):>12.4f}{noisy_error('adams-bashforth-2', h):>20.4f}")

# %% [markdown]
# The second order is gone. **The noise is larger than the error that a higher order removes**, and it adds up to
# the same whichever scheme takes it in. That is the first reason why order 4 does not train better. The second,
# in the next notebook, weighs more.
#
# ## Exercises
#
# **1.** Derive Adams–Bashforth 2. Look for a step θₙ₊₁ = θₙ − h(b₀gₙ + b₁gₙ₋₁) of order 2. (The gradient half a
# step ahead is about gₙ + ½(gₙ − gₙ₋₁).) Let sabun judge your coefficients.

# %% tags=["solution"]
mine = schemes.LinearMultistep("mine", alpha=(1, -1), beta=(Fraction(3, 2), Fraction(-1, 2)))
print("order", mine.order, "  error constant", mine.error_constant)
assert mine.order == 2
assert mine.error_constant == Fraction(5, 12)
assert schemes.LinearMultistep("too much", alpha=(1, -1), beta=(2, -1)).order == 1

# %% [markdown]
# **2.** The momentum family `look-ahead(β, γ)` has the error constant 1/2 + β/(1−β) − γ. Which γ makes it of
# order 2 at β = 1/2? Check it on the certificate, and measure it.

# %% tags=["solution"]
gamma = Fraction(1, 2) + Fraction(1, 2) / (1 - Fraction(1, 2))
scheme = schemes.look_ahead(Fraction(1, 2), gamma)
print("γ =", gamma, "  order", scheme.order)
assert gamma == Fraction(3, 2)
assert scheme.order == 2
held = scheme.with_start_up("hold")  # from rest the first steps are too short, which costs an order
assert abs(np.log2(error(held, 1 / 80) / error(held, 1 / 160)) - 2) < 0.15

# %% [markdown]
# **3.** `rk4` with 5 steps uses 20 gradients. How accurate is it, and how many gradients does Euler need for the
# same accuracy?

# %% tags=["solution"]
target = error("rk4", 1 / 5)
per_step = error("euler", 1 / 1000) * 1000  # Euler's error is this many times h
needed = per_step / target
print(f"rk4 with 20 gradients: {target:.1e};   Euler would need about {needed:,.0f}")
assert needed > 1000

# %% [markdown]
# ## What to keep
#
# - Order p: halve the step, and the error falls by 2ᵖ. It can be measured in a few lines.
# - Runge–Kutta methods pay for order with gradients, multistep methods with memory.
# - On noisy gradients the order of the scheme hardly shows. Precision of the path is not what training lacks.
