# %% tools
import numpy as np

from sabun import schemes

# %% solution-1
print("time step:", 0.1 / (1 - 0.9))
assert np.isclose(0.1 / (1 - 0.9), 1.0)


# %% solution-2
for name in ("euler", "heavy-ball(0.9)"):
    print(name, schemes.get(name).stability_interval / 25)
assert np.isclose(schemes.get("euler").stability_interval / 25, 0.08)
assert np.isclose(schemes.get("heavy-ball(0.9)").stability_interval / 25, 1.52)


# %% solution-3
print("order:", np.log2(0.08 / 0.01))
assert np.log2(0.08 / 0.01) == 3


# %% solution-4
ratio = schemes.get("euler").stability_interval / schemes.get("adams-bashforth-3").stability_interval
print(f"steps shorter by {ratio:.2f}")
assert np.isclose(ratio, 11 / 3)


# %% solution-5
scheme = schemes.get("look-ahead(0.8, 4.5)")  # γ = 1/2 + β/(1−β)
print("γ = 4.5", "  order", scheme.order, "  interval", round(scheme.stability_interval, 12))
assert scheme.order == 2
assert np.isclose(scheme.stability_interval, 1.8)


# %% solution-6
rates = np.linspace(0.2, 0, 501)[:-1]
print("time:", round(rates.sum(), 1), "  steps at 0.1:", round(rates.sum() / 0.1))
assert np.isclose(rates.sum(), 50.1)


# %% solution-7
print("smallest p-value:", 2 / 2**5)
assert 2 / 2**5 > 0.05
assert 2 / 2**6 < 0.05


# %% solution-8
low, high, margin = -0.08, 0.01, 0.01
print("shown to be better by the margin:", high < -margin, "  shown to be worse:", low > 0)
assert not high < -margin
assert not low > 0
