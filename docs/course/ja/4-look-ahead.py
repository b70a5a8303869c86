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
# # 4. モーメンタムは多段法である ― 先読み平面
#
# *所要 30 分ほど。
# 第 1 回から第 3 回を先にお読みください。*
#
# モーメンタムは、転がる球にたとえて説明されるのが普通です。
# ところが実は、数値解析の教科書に載っている方法であり、ネステロフの加速法、Lion、
# アダムス・バッシュフォース法とも親戚です。
# どれも、二本の軸をもつ一つの平面の上の点として表せます。

# %% [markdown]
# ## モーメンタムから多段法へ
#
# sabun で使う、平均をとる形のモーメンタムは次のとおりです。
#
#     vₙ₊₁ = βvₙ − (1−β)gₙ,      θₙ₊₁ = θₙ + h vₙ₊₁
#
# 速度は消去できます。
# hvₙ は θₙ − θₙ₋₁ にほかならないからです。
# すると、
#
#     θₙ₊₁ − (1+β)θₙ + βθₙ₋₁ = −h(1−β)gₙ
#
# となります。
# 左に過去の点、右に過去の勾配が並ぶ、**線形 2 段法**です。
# sabun はどの手法もこの形で、係数を正確な分数のまま持っています。

# %%
import altair as alt
import numpy as np
import torch
from scipy.signal import lfilter
from sklearn.datasets import load_digits

import sabun
from sabun import schemes
from sabun.report.look_ahead_plane import coordinates, look_ahead_plane

LANG = "ja"  # 図と文の言語

for name in ("euler", "heavy-ball(0.9)", "nesterov(0.9)", "adams-bashforth-2"):
    scheme = schemes.get(name)
    print(f"{name:<18} α = {', '.join(map(str, scheme.alpha)):<16} β = {', '.join(map(str, scheme.beta))}")

# %% [markdown]
# ## 手法はフィルターである
#
# 電気の技術者なら、同じものをディジタルフィルターと呼ぶでしょう。
# 勾配を入れると、速度が出てきます。
# sabun の更新は*まさに*このフィルターなので、
# SciPy の `lfilter` と同じ経路になるはずです。
# 両方に同じ乱数の勾配を入れてみます。

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
# 一定の勾配に対するフィルターの利得は、どの手法でも 1 です。
# だから `lr` はどの手法でも同じ意味、つまり一歩の時間になります。
#
# ## 二つのつまみ
#
# 記憶を一つだけもつ手法は、すべて次の形に書けます。
#
#     v ← βv − (1−β)(g + γ(g − g_prev)),      θ ← θ + hv
#
# **β** は勾配を覚えておく長さ、**γ** は勾配の直近の変化、つまりこれから向かう先に掛ける重みです。
# γ = 0 はヘビーボール、γ = β はネステロフ、
# β = 0 で γ = 1/2 はアダムス・バッシュフォース 2 次法です。

# %%
look_ahead_plane(LANG)

# %% [markdown]
# 細い線の上では安定区間が等しく、破線の上では 2 次になります。
# 世に知られた手法は、区間の広い下側に集まっています。
# 偶然ではありません。

# %%
print(f"{'γ':>5}{'order':>7}{'error constant':>16}{'interval':>10}{'noise':>8}")
for gamma in (0, 0.9, 2, 4, 9.5):
    c = schemes.certify(schemes.look_ahead(0.9, gamma))
    print(f"{gamma:>5}{c.order:>7}{float(c.error_constant):>16.2f}{c.stability_interval:>10.2f}{c.noise_gain:>8.3f}")

# %% [markdown]
# γ を上げると、流れをより正確にたどる代わりに、耐えられる刻みが小さくなります。
# **γ は、安定性から精度へのつまみです。**
#
# ## 学習にいちばん良いのはどこか
#
# 測ってみましょう。
# 手書き数字を学習する小さなネットワークで、ミニバッチを使って 4 エポック、シードは二つ。
# γ ごとに四通りの学習率を試し、いちばん良いものを採ります。

# %%
digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
train, held_out = slice(0, 1200), slice(1200, None)


def final_loss(gamma, h, seed, epochs=4):
    """学習に使っていない画像での損失。"""
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
# 横に見ると、γ が大きくなるほど、最善の学習率は左へ動きます。
# 区間が短くなるからで、その右側では損失が跳ね上がります。
# 右端の列を縦に見ると、**両端はどちらも劣ります**。
# ヘビーボール(γ = 0)は流れに遅れ、2 次の方法(γ = 9.5)は耐えられる刻みが小さすぎます。
# 最善はその間です。
# ただし、小さな課題一つでシード二つでは、何も証明したことになりません。
# 第 6 回でやり方を学びます。
#
# ## 演習
#
# **1.** Lion(既定値 β₁ = 0.9、β₂ = 0.99)は、平面のどこにありますか。
# カタログの `lion` と `coordinates` を使い、
# γ = (β₂ − β₁)/(1 − β₂) と照らし合わせてください。

# %% tags=["solution"]
where = coordinates(schemes.lion(0.9, 0.99))
print("β, γ =", where)
assert np.allclose(where, (0.99, (0.99 - 0.9) / (1 - 0.99)))

# %% [markdown]
# **2.** γ = β/(1−β) のとき、面白いことが起きます。
# フィルターの零点が極を打ち消すのです。
# 残るのはどの手法でしょうか。
# `schemes.analysis.equivalent` で、二つの手法を厳密に比べられます。

# %% tags=["solution"]
nine_tenths = schemes.get("look-ahead(0.9, 9)")  # γ = 0.9/0.1
assert schemes.analysis.equivalent(nine_tenths, schemes.get("euler"))
print("look-ahead(0.9, 9) is Euler: the look-ahead undoes the memory entirely")

# %% [markdown]
# **3.** β = 0.9 で、安定区間をちょうど 10 にしたいとします。
# 2(1+β)/((1−β)(1+2γ)) = 10 を γ について解き、確かめてください。

# %% tags=["solution"]
gamma = (2 * 1.9 / (0.1 * 10) - 1) / 2
print("γ =", gamma, "  interval", schemes.look_ahead(0.9, gamma).stability_interval)
assert np.isclose(schemes.look_ahead(0.9, gamma).stability_interval, 10)

# %% [markdown]
# ## この回のまとめ
#
# - モーメンタムは 2 段法であり、勾配から速度へのフィルターである。
# - β と γ の平面に、SGD、ヘビーボール、ネステロフ、準双曲モーメンタム、Lion のモーメンタム、アダムス・バッシュフォース 2 次法がすべて載る。
# - γ は安定性と引き換えに精度を上げる。両端は最善ではない。どこが最善かは、測らなければ分からない。
