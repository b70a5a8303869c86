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
# # 5. 雑音・平均・ばらつき
#
# *所要 25 分ほど。
# 第 1 回から第 4 回を先にお読みください。*
#
# ミニバッチの勾配には雑音があります。
# 一歩ごとに雑音が重みの揺れに変わる様子、平均をとると何が変わるか、そして雑音が*比較*をどう狂わせるかを見ます。
# 手法ごとに一回ずつ学習させて比べても、ほとんど何も言えません。
# では、対にして比べるとどうなるでしょうか。

# %% [markdown]
# ## 揺れ
#
# 曲率 λ = 1 のお椀型で、勾配に分散 1 の白色雑音を加えます。
# 重みは最小点に向かって落ち、その後は周りを揺れ続けます。
# SGD の揺れの分散は、Var(θₙ₊₁) = (1 − hλ)² Var(θₙ) + h² という一行から求まり、次の値に落ち着きます。
#
#     Var θ = h² / (2hλ − (hλ)²)
#
# どの手法にも同じような式があります。
# sabun は、時間刻みを同じにした SGD との分散の比を、**ノイズ増幅率**として厳密に計算します。
# 独立な 4,000 本で確かめましょう。

# %%
import altair as alt
import numpy as np
import torch
from sklearn.datasets import load_digits

import sabun
from sabun import schemes
from sabun.poc.judgement import statistics


def wander(scheme, h, steps, copies=4000, averaging=None, decay=False, **options):
    """最小点から出発し、一歩ごとに、最小点からの距離の二乗平均を返す。"""
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

# %% [markdown]
# 式のとおりでした。
# しかも、手法による差はわずかです。
# **時間刻みが同じなら、モーメンタムは雑音をならしてくれません。**
# 揺れを決めるのは h です。
#
# ## 二つの対策
#
# 学習率を*減衰*させれば、刻みが小さくなり、揺れも小さくなります。
# あるいは、点を*平均*します。
# 点は最小点の周りに散らばっているので、その平均は最小点のすぐ近くにあります。

# %%
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
    alt.X("step:Q"),
    alt.Y("distance:Q", scale=alt.Scale(type="log")),
    color=alt.Color("point:N", title=None, legend=alt.Legend(labelLimit=300)),
).properties(width=480, height=280)

# %% [markdown]
# 減衰と移動平均はほぼ同じところまで届き、長い区間の単純平均はさらに良くなりました。
# 減衰させるには、学習がいつ終わるかを知っていなければなりません。
# 平均にはその必要がなく、いつでも使えます。
# sabun では `averaging="ema"`、`"tail"`、
# `"schedule-free"` のいずれかを指定し、
# `with optimizer.averaged():` の中で評価します。
#
# ## シードによるばらつき
#
# 学習は、始まりも乱数です。
# 同じ小さなネットワークを、12 個のシードから、二つの手法 A と B で学習させます。
# シードが同じなら、初期値もミニバッチも同じです。

# %%
digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)


def final_loss(seed, scheme, h, epochs=4, count=600):
    """学習に使っていない画像での損失。シードで初期値とミニバッチが決まる。"""
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

# %% [markdown]
# A は SGD、B は同じ時間刻みのアダムス・バッシュフォース 2 次法です。
# 別々のシードから一回ずつ走らせていたら、結果は運任せでした。
# 一回ごとの結果の散らばりは、A と B の差よりはるかに大きいのです。
# *対*にすると、共通の部分が打ち消し合います。
# その値打ちを示すのが最後の行です。
# 対にせずに平均の差を同じ精度で知るには、その倍数だけ多くの学習が要ります。
#
# ## 運かどうか
#
# 数式の要らない検定があります。
# **A と B が同じ実力なら、どの差も、符号が逆でもおかしくなかったはずです。**
# そこで、符号の付け方 2¹² 通りをすべて試し、
# 平均が実測と同じかそれ以上に 0 から離れるものがどれだけあるかを数えます。


# %%
def sign_flip(differences):
    """平均が実測以上に 0 から離れる符号の付け方の割合。厳密な両側 p 値になる。"""
    n = len(differences)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    means = np.abs(signs @ differences)
    return np.mean(means >= means[0] * (1 - 1e-12))


print("p =", sign_flip(b - a))

# %% [markdown]
# sabun の判定は、この検定に基づいています。
# 正規分布を仮定しません。
# また、取り得る最小の p 値は 2/2ⁿ なので、何対必要かがすぐに分かります。
#
# ## 演習
#
# **1.** この検定で p < 5% になり得るには、最低何対必要ですか。
# `statistics.needed_pairs(0.05)` と比べてください。

# %% tags=["solution"]
needed = next(n for n in range(1, 20) if 2 / 2**n < 0.05)
print(needed, "pairs; with five candidates, each at 1%:", statistics.needed_pairs(0.05 / 5))
assert needed == statistics.needed_pairs(0.05) == 6
assert sign_flip(np.ones(6)) == 2 / 2**6

# %% [markdown]
# **2.** バッチを 4 倍にすると、雑音の分散は 1/4 になります。
# 同じ大きさの揺れになる時間刻みはいくつでしょうか。
# hλ が小さいときの式から見当をつけ、h = 0.02 の場合を計算してください。

# %% tags=["solution"]
small = 0.02**2 * schemes.analysis.stationary_variance(schemes.get("euler"), 0.02)
large = 0.25 * 0.08**2 * schemes.analysis.stationary_variance(schemes.get("euler"), 0.08)
print(f"h = 0.02: {small:.5f};   four times the batch at h = 0.08: {large:.5f}")
assert abs(large / small - 1) < 0.05  # およそ 4 倍。学習率をバッチの大きさに比例させる

# %% [markdown]
# **3.** この検定は、どのくらいの頻度で空騒ぎをするでしょうか。
# 0 の周りの差を 8 個ずつ 3,000 組作り、p < 5% となる割合を数えてください。

# %% tags=["solution"]
rng = np.random.default_rng(0)
false_alarms = np.mean([sign_flip(rng.standard_normal(8)) < 0.05 for _ in range(3000)])
print(f"{false_alarms:.1%}")
assert false_alarms < 0.06  # 回数を重ねれば多くても 5%。検定は厳密である

# %% [markdown]
# ## この回のまとめ
#
# - 雑音により、重みは(雑音の大きさを単位として)およそ h/2λ の分散で揺れる。手法による違いは小さい。
# - 点の平均をとるか、h を減衰させれば、揺れは収まる。
# - 結果はシードによってばらつく。対にして、十分な数で比べ、区間で語る。
