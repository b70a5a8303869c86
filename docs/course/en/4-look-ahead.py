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
# # 4. Momentum is a multistep method: the look-ahead plane
#
# *About 30 minutes. Notebooks 1 to 3 come first.*
#
# Momentum is usually explained with a rolling ball. Here it turns out to be a method from the textbook of
# numerical analysis, and a relative of Nesterov's, Lion's and Adams–Bashforth's. All of them are points of one
# plane with two axes.

# %% [markdown]
# ## From momentum to a multistep method
#
# Momentum in the averaging form, which sabun uses:
#
#     vₙ₊₁ = βvₙ − (1−β)gₙ,      θₙ₊₁ = θₙ + h vₙ₊₁
#
# The velocity can be eliminated: hvₙ is just θₙ − θₙ₋₁. What remains is
#
#     θₙ₊₁ − (1+β)θₙ + βθₙ₋₁ = −h(1−β)gₙ
#
# **a linear two-step method**: past points on the left, past gradients on the right. That is how sabun stores
# every scheme, with exact fractions.

# %%
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

# %% [markdown]
# ## A scheme is a filter
#
# Electrical engineers know the same object as a digital filter: gradients go in, velocities come out. sabun's
# update *is* that filter, so SciPy's `lfilter` must give the same path. Feed both the same random gradients.

# %%
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

# %% [markdown]
# The filter's gain for a constant gradient is 1, for every scheme. That is why `lr` means the same everywhere:
# time per step.
#
# ## Two dials
#
# All schemes with one buffer can be written as
#
#     v ← βv − (1−β)(g + γ(g − g_prev)),      θ ← θ + hv
#
# **β** says how long gradients are remembered. **γ** weighs the gradient's last change: where it is heading. γ =
# 0 is heavy ball, γ = β is Nesterov; β = 0 and γ = 1/2 is Adams–Bashforth 2.

# %%
look_ahead_plane(LANG)

# %% [markdown]
# Thin lines join schemes of equal stability interval; on the dashed line the order is 2. Published optimizers
# cluster at the bottom, in the region of wide intervals. That is no accident.

# %%
print(f"{'γ':>5}{'order':>7}{'error constant':>16}{'interval':>10}{'noise':>8}")
for gamma in (0, 0.9, 2, 4, 9.5):
    c = schemes.certify(schemes.look_ahead(0.9, gamma))
    print(f"{gamma:>5}{c.order:>7}{float(c.error_constant):>16.2f}{c.stability_interval:>10.2f}{c.noise_gain:>8.3f}")

# %% [markdown]
# Turning up γ makes the scheme follow the flow more closely, and bear less. **γ is a dial from stability to
# accuracy.**
#
# ## Where on the dial is training best?
#
# Measure it: a small network on digits, 4 epochs of mini-batches, two seeds; for each γ four learning rates, from
# which the best counts.

# %%
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

# %%
rows = [{"γ": gamma, "h": str(h), "loss": loss} for gamma, row in table.items() for h, loss in row.items()]
alt.Chart(alt.Data(values=rows)).mark_line(point=True, clip=True).encode(
    alt.X("γ:Q"), alt.Y("loss:Q", scale=alt.Scale(domain=[0.2, 1.0])), color=alt.Color("h:N", title="h")
).properties(width=460, height=280)

# %% [markdown]
# Look along each row: the best learning rate moves to the left as γ grows, since the interval gets shorter, and
# to the right of it the loss jumps up. Look down the last column: **both ends lose.** Heavy ball (γ = 0) lags,
# the method of order 2 (γ = 9.5) bears too little; the best lies between. Two seeds on one small task prove
# nothing, though. Notebook 6 does this properly.
#
# ## Exercises
#
# **1.** Where on the plane does Lion lie, with its default β₁ = 0.9, β₂ = 0.99? Use `lion` of the catalogue and
# `coordinates`, and check it against γ = (β₂ − β₁)/(1 − β₂).

# %% tags=["solution"]
where = coordinates(schemes.lion(0.9, 0.99))
print("β, γ =", where)
assert np.allclose(where, (0.99, (0.99 - 0.9) / (1 - 0.99)))

# %% [markdown]
# **2.** With γ = β/(1−β) something odd happens: the filter's zero cancels its pole. Which scheme is left?
# `schemes.analysis.equivalent` compares two schemes exactly.

# %% tags=["solution"]
nine_tenths = schemes.get("look-ahead(0.9, 9)")  # γ = 0.9/0.1
assert schemes.analysis.equivalent(nine_tenths, schemes.get("euler"))
print("look-ahead(0.9, 9) is Euler: the look-ahead undoes the memory entirely")

# %% [markdown]
# **3.** At β = 0.9 you want an interval of exactly 10. Solve 2(1+β)/((1−β)(1+2γ)) = 10 for γ, and check.

# %% tags=["solution"]
gamma = (2 * 1.9 / (0.1 * 10) - 1) / 2
print("γ =", gamma, "  interval", schemes.look_ahead(0.9, gamma).stability_interval)
assert np.isclose(schemes.look_ahead(0.9, gamma).stability_interval, 10)

# %% [markdown]
# ## What to keep
#
# - Momentum is a two-step method, and a filter from gradients to velocities.
# - β and γ span a plane that holds SGD, heavy ball, Nesterov, quasi-hyperbolic momentum, Lion's momentum and Adams–Bashforth 2.
# - γ trades stability for accuracy. Neither end is the best; where the best lies, only a measurement tells.
