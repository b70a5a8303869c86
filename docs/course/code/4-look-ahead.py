# %% plane
import altair as alt
import numpy as np
import torch
from scipy.signal import lfilter
from sklearn.datasets import load_digits

import sabun
from sabun import schemes
from sabun.report.look_ahead_plane import coordinates, look_ahead_plane

LANG = "en"  # of pictures and sentences

for name in ("euler", "heavy-ball(0.9)", "nesterov(0.9)", "adams-bashforth-2"):
    scheme = schemes.get(name)
    print(f"{name:<18} α = {', '.join(map(str, scheme.alpha)):<16} β = {', '.join(map(str, scheme.beta))}")


# %% velocity
gradients = np.random.default_rng(0).standard_normal(30)
theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
optimizer = sabun.Optimizer([theta], lr=0.1, scheme="nesterov(0.9)")
path = []
for g in gradients:
    theta.grad = torch.tensor([g])
    optimizer.step()
    path.append(theta.item())
f = schemes.nesterov(0.9).to_filter()
velocity = -lfilter(np.array(f.b, dtype=float), np.array(f.a, dtype=float), gradients)
print("largest difference:", np.abs(np.array(path) - 0.1 * np.cumsum(velocity)).max())
assert np.allclose(path, 0.1 * np.cumsum(velocity), atol=1e-14)


# %% drawn
look_ahead_plane(LANG)


# %% certificates
print(f"{'γ':>5}{'order':>7}{'error constant':>16}{'interval':>10}{'noise':>8}")
for gamma in (0, 0.9, 2, 4, 9.5):
    c = schemes.certify(schemes.look_ahead(0.9, gamma))
    print(f"{gamma:>5}{c.order:>7}{float(c.error_constant):>16.2f}{c.stability_interval:>10.2f}{c.noise_gain:>8.3f}")


# %% final_loss
digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
train, held_out = slice(0, 1200), slice(1200, None)


def final_loss(gamma, h, seed, epochs=4):
    """The loss on images that were not trained on."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = sabun.Optimizer(model.parameters(), lr=h, scheme=schemes.look_ahead(0.9, gamma))
    steps = epochs * 20
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 - n / steps)
    for _ in range(epochs):
        for batch in torch.randperm(1200).split(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[train][batch]), labels[train][batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model(images[held_out]), labels[held_out]).item()


GAMMAS, RATES = (0, 0.9, 2, 4, 9.5), (1.0, 2.0, 4.0, 8.0)
table = {gamma: {h: np.mean([final_loss(gamma, h, seed) for seed in range(2)]) for h in RATES} for gamma in GAMMAS}
print(f"{'γ':>5}" + "".join(f"{f'h = {h}':>11}" for h in RATES) + f"{'best':>10}")
for gamma, row in table.items():
    print(f"{gamma:>5}" + "".join(f"{loss:>11.3f}" for loss in row.values()) + f"{min(row.values()):>10.3f}")


# %% chart
rows = [{"γ": gamma, "h": str(h), "loss": loss} for gamma, row in table.items() for h, loss in row.items()]
alt.Chart(alt.Data(values=rows)).mark_line(point=True, clip=True).encode(
    alt.X("γ:Q"), alt.Y("loss:Q", title="loss", scale=alt.Scale(domain=[0.2, 1.0])), color=alt.Color("h:N", title="h")
).properties(width=460, height=280)


# %% solution-1
where = coordinates(schemes.lion(0.9, 0.99))
print("β, γ =", where)
assert np.allclose(where, (0.99, (0.99 - 0.9) / (1 - 0.99)))


# %% solution-2
nine_tenths = schemes.get("look-ahead(0.9, 9)")  # γ = 0.9/0.1
assert schemes.analysis.equivalent(nine_tenths, schemes.get("euler"))
print("look-ahead(0.9, 9) is Euler: the look-ahead undoes the memory entirely")


# %% solution-3
gamma = (2 * 1.9 / (0.1 * 10) - 1) / 2
print("γ =", gamma, "  interval", schemes.look_ahead(0.9, gamma).stability_interval)
assert np.isclose(schemes.look_ahead(0.9, gamma).stability_interval, 10)
