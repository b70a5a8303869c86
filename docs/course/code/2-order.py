# %% error
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


# %% measured
STEPS = [1 / 20, 1 / 40, 1 / 80, 1 / 160]
measured = {}
print(f"{'scheme':<20}{'claimed':>8}{'measured':>10}{'error at h = 1/160':>22}{'gradients per step':>18}")
for name in ("euler", "nesterov(0.5)", "adams-bashforth-2", "taylor-4", "heun", "kutta-3", "rk4"):
    measured[name] = [error(name, h) for h in STEPS]
    slope = np.log2(measured[name][-2] / measured[name][-1])
    c = schemes.certify(name)
    print(f"{name:<20}{c.order:>8}{slope:>10.2f}{measured[name][-1]:>22.1e}{c.gradient_evaluations:>18}")
    assert abs(slope - c.order) < 0.15


# %% chart
rows = [{"scheme": n, "h": h, "error": e} for n, es in measured.items() for h, e in zip(STEPS, es, strict=True)]
alt.Chart(alt.Data(values=rows)).mark_line(point=True).encode(
    alt.X("h:Q", title="h", scale=alt.Scale(type="log", domain=[0.005, 0.06])),
    alt.Y("error:Q", title="error", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e")),
    color=alt.Color("scheme:N", title=None, legend=alt.Legend(labelLimit=300)),
).properties(width=460, height=300)


# %% constant
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


# %% noisy_error
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


# %% solution-1
mine = schemes.LinearMultistep("mine", alpha=(1, -1), beta=(Fraction(3, 2), Fraction(-1, 2)))
print("order", mine.order, "  error constant", mine.error_constant)
assert mine.order == 2
assert mine.error_constant == Fraction(5, 12)
assert schemes.LinearMultistep("too much", alpha=(1, -1), beta=(2, -1)).order == 1


# %% solution-2
gamma = Fraction(1, 2) + Fraction(1, 2) / (1 - Fraction(1, 2))
scheme = schemes.look_ahead(Fraction(1, 2), gamma)
print("γ =", gamma, "  order", scheme.order)
assert gamma == Fraction(3, 2)
assert scheme.order == 2
held = scheme.with_start_up("hold")  # from rest the first steps are too short, which costs an order
assert abs(np.log2(error(held, 1 / 80) / error(held, 1 / 160)) - 2) < 0.15


# %% solution-3
target = error("rk4", 1 / 5)
per_step = error("euler", 1 / 1000) * 1000  # Euler's error is this many times h
needed = per_step / target
print(f"rk4 with 20 gradients: {target:.1e};   Euler would need about {needed:,.0f}")
assert needed > 1000
