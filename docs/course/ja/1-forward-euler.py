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
# # 1. SGD は前進オイラー法
#
# *所要 20 分ほど。
# 学習ループを書いたことがあれば十分で、数値解析の知識は要りません。*
#
# 勾配降下法は、微分方程式を解くいちばん単純な方法と同じものです。
# この回では、そのとき学習率が何に当たるのか、一歩進むたびに何を取りこぼしているのかを、実際に測って確かめます。
# 残りの五回はすべてここが土台になります。

# %% [markdown]
# ## 流れ
#
# 損失を地形と考え、その斜面に置いた一滴のはちみつを思い浮かべてください。
# 勢いはつきません。
# どの瞬間も、真下に向かって、傾きに比例した速さで動きます。
#
#     θ′(t) = −∇L(θ(t))
#
# これを**勾配流**と呼びます。
# お椀型の損失 L = ½(λ₁θ₁² + λ₂θ₂²) なら紙と鉛筆で解けて、
# 各成分は独立に θᵢ(t) = θᵢ(0)·e^(−λᵢt) と減衰します。

# %%
import altair as alt
import numpy as np
import torch
from sklearn.datasets import load_digits

import sabun

curvature = np.array([1.0, 10.0])  # λ：一方の向きが 10 倍急なお椀
start = np.array([1.0, 1.0])


def flow(t):
    """時刻 t での厳密解。"""
    return start * np.exp(-curvature * t)


flow(1.0)

# %% [markdown]
# ## 一歩
#
# 計算機は曲線をそのままたどれません。
# 一歩ずつ進みます。
# いちばん素朴なやり方は、*いまの*流れの向きを見て、時間 h だけまっすぐ進むことです。
#
#     θₙ₊₁ = θₙ − h ∇L(θₙ)
#
# オイラーが 1768 年に発表した方法です。
# `torch.optim.SGD` の動きと、sabun の `euler` とを、これと比べてみます。


# %%
def descend(make, h, time):
    """お椀の中を `start` から刻み h で進むとき、最適化手法が通る点。"""
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
    """前進オイラー法を書き下したもの。"""
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

# %% [markdown]
# 最後の桁の丸めを除いて、三つは同じ点を通ります。
# **SGD は前進オイラー法であり、学習率はその時間刻みです。**
#
# ## 流れからどれだけ離れるか
#
# 次の図は、同じ時間 t = 0 … 1 について、流れと三通りの刻み幅を重ねたものです。

# %%
paths = [("flow", i, *flow(t)) for i, t in enumerate(np.linspace(0, 1, 60))]
for h in (0.05, 0.15, 0.19):
    paths += [(f"h = {h}", i, *point) for i, point in enumerate(euler(h, 1.0))]
alt.Chart(alt.Data(values=[{"path": p, "i": i, "θ₁": x, "θ₂": y} for p, i, x, y in paths])).mark_line(
    point=True
).encode(
    alt.X("θ₁:Q"), alt.Y("θ₂:Q"), color=alt.Color("path:N", title=None, legend=alt.Legend(labelLimit=300)), order="i:Q"
).properties(width=460, height=300)

# %% [markdown]
# h = 0.05 では角を少し内側に切る程度です。
# h = 0.15 では谷の反対側へ飛び移って戻り、h = 0.19 では行ったり来たりが長く続きます。
# h = 0.2 になると、もう止まりません。
# これは第 3 回の話題です。
#
# まずは小さい刻みから見ます。
# h を半分にし、歩数を倍にすると、終点は流れからどれだけ離れるでしょうか。

# %%
for h in (0.04, 0.02, 0.01, 0.005):
    print(
        f"h = {h:<6} steps = {round(1 / h):<4} distance to the flow at t = 1: {np.linalg.norm(euler(h, 1.0)[-1] - flow(1.0)):.5f}"
    )

# %% [markdown]
# 刻みを半分にすると、誤差も半分になりました。
# 誤差が h の 1 乗に比例して減る方法を、**1 次**の方法といいます。
# これは第 2 回で扱います。
#
# ## 本物のネットワークでは
#
# ここまでの話は、お椀型に限りません。
# 手書き数字 500 枚を全数バッチで学習する小さなネットワークで試します。
# 流れを紙の上で解くことはできませんが、ごく小さい刻みならほぼ流れに一致するので、それを基準にします。

# %%
digits = load_digits()
images = torch.tensor(digits.data[:500] / 16, dtype=torch.float64)
labels = torch.tensor(digits.target[:500])


def trained(h, time=4.0):
    """刻み h でその時間だけ学習したあとの、ネットワークの全重み。"""
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

# %% [markdown]
# ここでも、ほぼ半分ずつになりました。
# 残りの二列も見てください。
# 刻みが違っても、*時間*が同じなら損失はほぼ同じです。
# **学習の長さは歩数ではなく時間、つまり学習率の合計で測るもの**です。
# 刻みを大きくすれば安く済みますが、それも何かが壊れるまでです。
#
# ## モーメンタムは別の時計で動く
#
# torch のモーメンタムは勾配を足し込みます。
# 勾配が一定なら、その和は勾配の 1/(1 − β) 倍、β = 0.9 なら 10 倍まで育ちます。
# つまり `lr=` に同じ数を書いても、時間刻みは 10 倍です。
# sabun ではどの手法でも時間で数えます。
# 換算は `from_torch` が行います。

# %%
p = torch.zeros(1, requires_grad=True)
converted = sabun.from_torch(torch.optim.SGD([p], lr=0.01, momentum=0.9))
print("time step of SGD(lr=0.01, momentum=0.9):", round(converted.param_groups[0]["lr"], 12))

# %% [markdown]
# ## 演習
#
# **1.** 同僚が、上のお椀型の学習で、学習率を 0.01 から 0.02 に倍増し、
# 歩数を 300 から 150 に半減しました。
# 変わらないものは何でしょうか。
# 終点どうしはどれだけ離れますか。

# %% tags=["solution"]
a, b = euler(0.01, 3.0)[-1], euler(0.02, 3.0)[-1]
print("time:", 300 * 0.01, "and", 150 * 0.02)
print("end points:", a, b)
assert 300 * 0.01 == 150 * 0.02  # 時間が同じなので、流れのほぼ同じ点にいる
assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(start)

# %% [markdown]
# **2.** 手元のスクリプトに `SGD(lr=0.02, momentum=0.95)` とあります。
# 時間刻みはいくつでしょうか。
# 計算する前に見当をつけてください。

# %% tags=["solution"]
step = sabun.from_torch(torch.optim.SGD([p], lr=0.02, momentum=0.95)).param_groups[0]["lr"]
print(f"{step:.3f}")
assert np.isclose(step, 0.02 / (1 - 0.95))

# %% [markdown]
# **3.** ウォームアップで、学習率を 100 歩かけて 0.001 から 0.1 まで直線的に上げます。
# その間に経過する時間はどれだけで、学習率 0.1 の何歩分に当たりますか。

# %% tags=["solution"]
rates = np.linspace(0.001, 0.1, 100)
print("time:", rates.sum(), "  steps at 0.1:", rates.sum() / 0.1)
assert np.isclose(rates.sum(), 5.05)
assert 50 < rates.sum() / 0.1 < 51  # 100 歩のウォームアップは、その半分ほどの値打ち

# %% [markdown]
# ## この回のまとめ
#
# - 勾配降下法は、θ′ = −∇L(θ) を前進オイラー法でたどる。学習率はその時間刻み h である。
# - 誤差は h に比例して減る。つまり 1 次の方法である。
# - 学習の進みは時間 Σh で測る。torch のモーメンタムは、`lr` の見かけの 1/(1 − β) 倍の速さで進んでいる。
