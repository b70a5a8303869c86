# %% flow
import altair as alt
import numpy as np
import torch
from sklearn.datasets import load_digits

import sabun

curvature = np.array([1.0, 10.0])  # λ: a bowl, ten times as steep in one direction as in the other
start = np.array([1.0, 1.0])


def flow(t):
    """The exact solution at time t."""
    return start * np.exp(-curvature * t)


flow(1.0)


# %% descend
def descend(make, h, time):
    """The points that an optimizer passes in the bowl, from `start`, in steps of length h."""
    theta = torch.tensor(start, requires_grad=True)
    optimizer = make([theta], h)
    points = [theta.detach().numpy().copy()]
    for _ in range(round(time / h)):
        optimizer.zero_grad()
        (0.5 * torch.tensor(curvature) * theta**2).sum().backward()
        optimizer.step()
        points.append(theta.detach().numpy().copy())
    return np.array(points)


def euler(h, time):
    """Forward Euler, written out."""
    points = [start]
    for _ in range(round(time / h)):
        points.append(points[-1] - h * curvature * points[-1])
    return np.array(points)


by_hand = euler(0.05, 1.0)
by_torch = descend(lambda p, h: torch.optim.SGD(p, lr=h), 0.05, 1.0)
by_sabun = descend(lambda p, h: sabun.Optimizer(p, lr=h, scheme="euler"), 0.05, 1.0)
print("largest difference to torch:", np.abs(by_hand - by_torch).max())
print("largest difference to sabun:", np.abs(by_hand - by_sabun).max())
assert np.allclose(by_hand, by_torch, atol=1e-15)
assert np.allclose(by_hand, by_sabun, atol=1e-15)


# %% chart
paths = [("flow", i, *flow(t)) for i, t in enumerate(np.linspace(0, 1, 60))]
for h in (0.05, 0.15, 0.19):
    paths += [(f"h = {h}", i, *point) for i, point in enumerate(euler(h, 1.0))]
alt.Chart(alt.Data(values=[{"path": p, "i": i, "θ₁": x, "θ₂": y} for p, i, x, y in paths])).mark_line(
    point=True
).encode(
    alt.X("θ₁:Q"), alt.Y("θ₂:Q"), color=alt.Color("path:N", title=None, legend=alt.Legend(labelLimit=300)), order="i:Q"
).properties(width=460, height=300)


# %% halved
for h in (0.04, 0.02, 0.01, 0.005):
    print(
        f"h = {h:<6} steps = {round(1 / h):<4} distance to the flow at t = 1: {np.linalg.norm(euler(h, 1.0)[-1] - flow(1.0)):.5f}"
    )


# %% trained
digits = load_digits()
images = torch.tensor(digits.data[:500] / 16, dtype=torch.float64)
labels = torch.tensor(digits.target[:500])


def trained(h, time=4.0):
    """All weights of the network after that much time, in steps of length h."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10)).double()
    optimizer = sabun.Optimizer(model.parameters(), lr=h, scheme="euler")
    for _ in range(round(time / h)):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), loss.item()


reference, _ = trained(0.005)
errors = {}
for h in (0.4, 0.2, 0.1):
    weights, loss = trained(h)
    errors[h] = (weights - reference).norm().item()
    print(
        f"h = {h:<4} steps = {round(4 / h):<3} loss {loss:.3f}   distance of the weights to the flow: {errors[h]:.4f}"
    )


# %% converted
p = torch.zeros(1, requires_grad=True)
converted = sabun.from_torch(torch.optim.SGD([p], lr=0.01, momentum=0.9))
print("time step of SGD(lr=0.01, momentum=0.9):", round(converted.param_groups[0]["lr"], 12))


# %% solution-1
a, b = euler(0.01, 3.0)[-1], euler(0.02, 3.0)[-1]
print("time:", 300 * 0.01, "and", 150 * 0.02)
print("end points:", a, b)
assert 300 * 0.01 == 150 * 0.02  # the time, so both stand near the same point of the flow
assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(start)


# %% solution-2
step = sabun.from_torch(torch.optim.SGD([p], lr=0.02, momentum=0.95)).param_groups[0]["lr"]
print(f"{step:.3f}")
assert np.isclose(step, 0.02 / (1 - 0.95))


# %% solution-3
rates = np.linspace(0.001, 0.1, 100)
print("time:", rates.sum(), "  steps at 0.1:", rates.sum() / 0.1)
assert np.isclose(rates.sum(), 5.05)
assert 50 < rates.sum() / 0.1 < 51  # a warm-up of 100 steps is worth about half of them
