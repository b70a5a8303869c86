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
# # 2. 打ち切り誤差と次数を測る
#
# *所要 25 分ほど。
# 第 1 回を先にお読みください。*
#
# まっすぐ進む一歩は、曲線から外れます。
# どれだけ外れるのか、工夫した方法ではどれだけ小さくなるのか、方法の次数をうのみにせず自分で測るにはどうするのか。
# そして、次数を上げても学習が期待ほど良くならないのはなぜか。
# この回で順に見ていきます。

# %% [markdown]
# ## 一歩が取りこぼすもの
#
# 時間 h の後に流れが本当はどこにいるかは、テイラーの公式が教えてくれます。
#
#     θ(t+h) = θ(t) + h θ′(t) + (h²/2) θ″(t) + (h³/6) θ‴(t) + …
#
# オイラー法が使うのは最初の二項です。
# 切り捨てた残りが、その一歩の**打ち切り誤差**です。
# 主な部分は (h²/2) θ″、つまり流れの曲がり具合です。
# 時間 T を進むには T/h 歩かかるので、積み上がった誤差はおよそ h に比例します。
# これが 1 次ということです。
# p 次の方法は h の p 乗の項まで正しく、最終的な誤差は hᵖ に比例して減ります。
#
# ## 流れが分かっている地形
#
# 誤差を測るには正解が要ります。
# L(θ) = log cosh θ なら流れは θ′ = −tanh θ で、
# 解は sinh θ(t) = e^(−t) sinh θ(0) です。
# お椀型ではなく、壁は急で底は平らな地形です。

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
    """刻み h で TIME だけ進んだとき、終点が流れからどれだけ離れるか。"""
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
# ## 次数を測る
#
# 刻みを半分にして、誤差が 2 の何乗分の 1 になるかを見ます。
# 傾き = log₂(誤差(h) / 誤差(h/2)) です。
# 隣に、証明書がうたっている次数を並べます。

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
# 両対数の図で直線になり、その傾きが次数です。
# うたい文句のとおりでした。
#
# 次数を上げる道は二つあります。
# **ルンゲ・クッタ法**(`heun`、`kutta-3`、`rk4`)は一歩の中で勾配を何度か調べます。
# 一回調べるごとに SGD の一歩分の費用がかかります。
# **多段法**(`adams-bashforth-2`、`taylor-4`)は一回しか調べず、
# 過去の勾配や点を覚えておきます。
# 精度がただで手に入る、ように見えます。
#
# ## 誤差定数
#
# 同じ次数でも優劣はあります。
# 誤差は C·hᵖ·(問題で決まる量) の形をしていて、C をその手法の**誤差定数**といいます。
# お椀型 L = ½θ² では、問題で決まる量が T·e^(−T) なので、C を直接読み取れます。


# %%
def constant(scheme, h=1 / 200):
    """お椀 ½θ² を θ = 1 から下ったときの誤差を hᵖ·T·e^(−T) で割ったもの。"""
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
# (多段法では、出だしの誤差が加わります。
# 最初の一歩には、まだ過去がないからです。
# どう始めるかは手法ごとに宣言してあります。
# `sabun explain adams-bashforth-2` をご覧ください。)
#
# ## ミニバッチではどうか
#
# ここまで、勾配は正確でした。
# 次は、ミニバッチのように雑音を加えます。
# 同じ降下を独立に 2,000 本走らせ、勾配には毎回、標準偏差 0.3 の雑音を足して、
# 流れからの距離の二乗平均平方根を見ます。


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
# 2 次の精度は消えました。
# **高い次数が取り除く誤差より、雑音のほうが大きい**のです。
# 雑音の積み上がり方は、どの手法でもほとんど変わりません。
# 4 次の方法で学習が良くならない第一の理由がこれです。
# 第二の理由は次回ですが、そちらのほうが重要です。
#
# ## 演習
#
# **1.** アダムス・バッシュフォース 2 次法を導いてください。
# θₙ₊₁ = θₙ − h(b₀gₙ + b₁gₙ₋₁) の形で 2 次になるものです(半歩先の勾配は、
# およそ gₙ + ½(gₙ − gₙ₋₁) です)。
# 求めた係数を sabun に判定させましょう。

# %% tags=["solution"]
mine = schemes.LinearMultistep("mine", alpha=(1, -1), beta=(Fraction(3, 2), Fraction(-1, 2)))
print("order", mine.order, "  error constant", mine.error_constant)
assert mine.order == 2
assert mine.error_constant == Fraction(5, 12)
assert schemes.LinearMultistep("too much", alpha=(1, -1), beta=(2, -1)).order == 1

# %% [markdown]
# **2.** モーメンタムの一族 `look-ahead(β, γ)` の誤差定数は 1/2 + β/(1−β) − γ です。
# β = 1/2 のとき、2 次になる γ はいくつですか。
# 証明書で確かめ、実際に測ってください。

# %% tags=["solution"]
gamma = Fraction(1, 2) + Fraction(1, 2) / (1 - Fraction(1, 2))
scheme = schemes.look_ahead(Fraction(1, 2), gamma)
print("γ =", gamma, "  order", scheme.order)
assert gamma == Fraction(3, 2)
assert scheme.order == 2
held = scheme.with_start_up("hold")  # 静止から始めると出だしの歩幅が足りず、次数が一つ落ちる
assert abs(np.log2(error(held, 1 / 80) / error(held, 1 / 160)) - 2) < 0.15

# %% [markdown]
# **3.** `rk4` を 5 歩進めると、勾配を 20 回使います。
# 精度はどれほどで、同じ精度に達するのに、オイラー法は勾配を何回使うでしょうか。

# %% tags=["solution"]
target = error("rk4", 1 / 5)
per_step = error("euler", 1 / 1000) * 1000  # オイラー法の誤差は h のこの倍数
needed = per_step / target
print(f"rk4 with 20 gradients: {target:.1e};   Euler would need about {needed:,.0f}")
assert needed > 1000

# %% [markdown]
# ## この回のまとめ
#
# - p 次の方法では、刻みを半分にすると誤差が 1/2ᵖ になる。数行のコードで測れる。
# - 次数を上げる代償は、ルンゲ・クッタ法では勾配の回数、多段法では記憶である。
# - 雑音のある勾配では、次数の差はほとんど表に出ない。学習に足りないのは、経路の精密さではない。
