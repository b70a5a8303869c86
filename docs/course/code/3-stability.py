# %% size_after
import altair as alt
import numpy as np
import torch
from sklearn.datasets import load_digits

import sabun
from sabun import design, schemes
from sabun.report import scheme_charts

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


# %% worked
beta = 0.9
for x in (1, 20, 37.9, 38.1):
    roots = np.roots([1, x * (1 - beta) - (1 + beta), beta])  # ζ² + (hλ(1−β) − (1+β)) ζ + β
    measured = size_after("heavy-ball(0.9)", x) ** (1 / 400)
    print(f"hλ = {x:<5} largest |ζ| = {abs(roots).max():.3f}   measured per step: {measured:.3f}")
    assert np.isclose(measured, abs(roots).max(), rtol=0.02)


# %% intervals
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


# %% chart
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


# %% drawn
scheme_charts.stability_region(schemes.nesterov(), LANG)


# %% certificate
certificate = schemes.certify("lagrange-4")
print("order", certificate.order, "  error constant", certificate.error_constant)
print(certificate.sentence(LANG))
try:
    sabun.Optimizer([torch.zeros(1, requires_grad=True)], lr=1e-9, scheme="lagrange-4")
except sabun.errors.SchemeError as error:
    print(f"\nasked for as an optimizer: {error}")


# %% network
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


# %% closure
model = network()
optimizer = sabun.Optimizer(
    model.parameters(), lr=4 / sharpness, scheme="euler", step_control="stability(probe_every=5)"
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


# %% solution-1
for name in ("adams-bashforth-2", "heavy-ball"):
    print(name, schemes.get(name).stability_interval / 50)
assert np.isclose(schemes.get("adams-bashforth-2").stability_interval / 50, 0.02)
assert np.isclose(schemes.get("heavy-ball").stability_interval / 50, 0.76)
assert size_after("adams-bashforth-2", 0.0199 * 50, 2000) < 1 < size_after("adams-bashforth-2", 0.0201 * 50, 2000)


# %% solution-2
beta = ((np.sqrt(100) - 1) / (np.sqrt(100) + 1)) ** 2
sgd_steps = np.log(1e-6) / np.log(99 / 101)
momentum_steps = np.log(1e-6) / np.log(np.sqrt(beta))
print(f"SGD {sgd_steps:.0f} steps, heavy ball with β = {beta:.2f}: {momentum_steps:.0f} steps")
scheme = schemes.heavy_ball(beta)
h = (1 + np.sqrt(beta)) ** 2 / 100 / (1 - beta)  # Polyak's step, as a time step
factors = schemes.analysis.amplification(scheme, h * np.array([1.0, 10.0, 100.0]))
assert np.allclose(factors, np.sqrt(beta), atol=1e-3)  # every direction shrinks alike
assert sgd_steps > 9 * momentum_steps


# %% solution-3
widest = design.design_multistep(poles=1, order=1, largest_pole=0.9, damping=0)
print(f"interval {widest.stability_interval:.2f}, γ = {-widest.to_filter().b[1] / (1 - 0.9):.3f}")
assert 39 < widest.stability_interval <= 40 + 1e-9  # 4/(1 − 0.9) is the most that one pole can have
