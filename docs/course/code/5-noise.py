# %% wander
import altair as alt
import numpy as np
import torch
from sklearn.datasets import load_digits

import sabun
from sabun import schemes
from sabun.poc.judgement import statistics


def wander(scheme, h, steps, copies=4000, averaging=None, decay=False, **options):
    """Yields the copies' mean square distance from the minimum after each step; they start there."""
    torch.manual_seed(0)
    theta = torch.zeros(copies, dtype=torch.float64, requires_grad=True)
    optimizer = sabun.Optimizer([theta], lr=h, scheme=scheme, averaging=averaging, **options)
    for n in range(steps):
        if decay:
            optimizer.param_groups[0]["lr"] = h * (1 - n / steps)
        theta.grad = theta.detach() + torch.randn(copies, dtype=torch.float64)
        optimizer.step()
        with optimizer.averaged():
            yield float(theta.detach().square().mean())


H = 0.2
print(f"{'scheme':<20}{'measured variance':>18}{'formula':>10}{'noise gain':>12}")
for name in ("euler", "heavy-ball", "nesterov", "look-ahead(0.9, 4)", "adams-bashforth-2"):
    measured = np.mean(list(wander(name, H, 260))[200:])
    formula = H**2 * schemes.analysis.stationary_variance(schemes.get(name), H)
    print(f"{name:<20}{measured:>18.4f}{formula:>10.4f}{schemes.get(name).noise_gain(H):>12.3f}")
    assert abs(measured / formula - 1) < 0.05


# %% chart
STEPS = 400
curves = {
    "constant h": list(wander("euler", H, STEPS)),
    "linear decay": list(wander("euler", H, STEPS, decay=True)),
    "ema of 0.98": list(wander("euler", H, STEPS, averaging="ema(decay=0.98)")),
    "tail mean": list(wander("euler", H, STEPS, averaging="tail(start=50)")),
}
for name, curve in curves.items():
    print(f"{name:<14} distance from the minimum at the end (root mean square): {curve[-1] ** 0.5:.4f}")
rows = [
    {"point": name, "step": n, "distance": curve[n] ** 0.5}
    for name, curve in curves.items()
    for n in range(0, STEPS, 4)
]
alt.Chart(alt.Data(values=rows)).mark_line().encode(
    alt.X("step:Q", title="step"),
    alt.Y("distance:Q", title="distance", scale=alt.Scale(type="log")),
    color=alt.Color("point:N", title=None, legend=alt.Legend(labelLimit=300)),
).properties(width=480, height=280)


# %% final_loss
digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)


def final_loss(seed, scheme, h, epochs=4, count=600):
    """Loss on images that were not trained on. The seed fixes the initial weights and the batches."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = sabun.Optimizer(model.parameters(), lr=h, scheme=scheme)
    for _ in range(epochs):
        for batch in torch.randperm(count).split(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model(images[count:]), labels[count:]).item()


a = np.array([final_loss(seed, "euler", 0.2) for seed in range(12)])
b = np.array([final_loss(seed, "adams-bashforth-2", 0.2) for seed in range(12)])
print("A      ", np.round(a, 3))
print("B      ", np.round(b, 3))
print("B − A  ", np.round(b - a, 3))
print(f"\nspread of A {a.std(ddof=1):.3f}, of B {b.std(ddof=1):.3f}, of the differences {(b - a).std(ddof=1):.3f}")
print(f"mean difference {np.mean(b - a):+.4f}")
print(f"a pair is worth {(a.var() + b.var()) / (b - a).var():.0f} unpaired runs of each")


# %% sign_flip
def sign_flip(differences):
    """The share of sign patterns whose mean is at least as far from zero: a two-sided p-value, exact."""
    n = len(differences)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    means = np.abs(signs @ differences)
    return np.mean(means >= means[0] * (1 - 1e-12))


print("p =", sign_flip(b - a))


# %% solution-1
needed = next(n for n in range(1, 20) if 2 / 2**n < 0.05)
print(needed, "pairs; with five candidates, each at 1%:", statistics.needed_pairs(0.05 / 5))
assert needed == statistics.needed_pairs(0.05) == 6
assert sign_flip(np.ones(6)) == 2 / 2**6


# %% solution-2
small = 0.02**2 * schemes.analysis.stationary_variance(schemes.get("euler"), 0.02)
large = 0.25 * 0.08**2 * schemes.analysis.stationary_variance(schemes.get("euler"), 0.08)
print(f"h = 0.02: {small:.5f};   four times the batch at h = 0.08: {large:.5f}")
assert abs(large / small - 1) < 0.05  # about four times as long: learning rate in proportion to the batch


# %% solution-3
rng = np.random.default_rng(0)
false_alarms = np.mean([sign_flip(rng.standard_normal(8)) < 0.05 for _ in range(3000)])
print(f"{false_alarms:.1%}")
assert false_alarms < 0.06  # at most 5% in the long run: the test is exact
