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
# # 3. 安定性 ― 学習率を上げるとなぜ発散するのか
#
# *所要 25 分ほど。
# 第 1 回、第 2 回を先にお読みください。*
#
# 学習率を上げていくと、ある値で損失が発散する。
# 誰もが経験することです。
# その理由を確かめ、どの手法についても限界を前もって計算し、モーメンタムが本当にもたらすものと、
# 高い次数の代償を理解します。

# %% [markdown]
# ## ただの掛け算
#
# 最小点の近くで、曲率 λ の方向の勾配は λθ です。
# すると SGD の一歩はただの掛け算になります。
#
#     θₙ₊₁ = θₙ − hλθₙ = (1 − hλ) θₙ
#
# 効いてくるのは積 x = hλ だけです。
# |1 − x| < 1 なら誤差は減り、x = 2 を超えると、一歩ごとに符号を変えながら大きくなります。
# 限界の両側を試しましょう。

# %%
import altair as alt
import numpy as np
import torch
from sklearn.datasets import load_digits

import sabun
from sabun import design, schemes
from sabun.report import scheme_figures

LANG = "ja"  # 図と文の言語


def size_after(scheme, x, steps=400):
    """hλ = x で |θ| = 1 から始め、その歩数だけ進んだときの |θ|。"""
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = sabun.Optimizer([theta], lr=x, scheme=scheme)  # λ = 1 なので h = x
    for _ in range(steps):
        theta.grad = theta.detach().clone()
        optimizer.step()
    return abs(theta.item())


for x in (0.5, 1.0, 1.5, 1.99, 2.01):
    print(f"hλ = {x:<5} |θ| after 400 steps: {size_after('euler', x):.1e}")

# %% [markdown]
# 限界は刃の上のようにはっきりしています。
# 1.99 なら減衰し、2.01 なら発散します。
# 方向がたくさんあるときは、いちばん急な方向が決め手です。
# **SGD の学習率の上限は、2 を最大の曲率で割った値**で、ほかの方向がどれほど平らでも変わりません。
#
# ## 手法ごとに限界がある
#
# 記憶をもつ手法は、何点かにまたがる漸化式です。
# 解は ζⁿ の形をとり、ζ は次の方程式の根です。
#
#     ρ(ζ) + hλ σ(ζ) = 0
#
# (ρ と σ は手法の係数から作る多項式で、SGD なら ζ − 1 + hλ = 0 です。)
# すべての根が単位円の内側にあれば安定です。
# どれかの根が初めて円に届く hλ が、**安定区間**の終わりです。
# sabun はこれを厳密に計算します。
# 実際の最適化がそのとおりに振る舞うか、見てみましょう。

# %%
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

# %% [markdown]
# この表は二通りに読んでください。
# まず、アダムス・バッシュフォース法を上から下へ。
# **次数を一つ上げるたびに、区間はおよそ半分になります。**
# 4 次では SGD の七分の一ほどの刻みしか使えず、
# しかも得られる精度はミニバッチの雑音に埋もれます(第 2 回)。
# 次に、ヘビーボールの行。
# 1 次で、誤差定数は大きいのに、区間は 38 もあります。
# **モーメンタムがもたらすのは精度ではなく、安定性です。**
#
# いちばん減りにくい誤差が、一歩で何倍になるかを、hλ に対して描くと次のようになります。

# %%
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

# %% [markdown]
# 一つの手法を複素平面で見ると次のとおりです(曲率は実数なので、大切なのは横軸上です)。

# %%
scheme_figures.stability_region(schemes.nesterov(), LANG)

# %% [markdown]
# ## どんな学習率でも発散する
#
# h = 0 では ρ の根だけが残ります。
# そのうち一つは 1 です。
# ほかの根が円の*外*にあると、学習率をどれほど小さくしても発散します。
# `lagrange-4` は、3 次で誤差定数も小さく、紙の上では立派に見えます。

# %%
certificate = schemes.certify("lagrange-4")
print("order", certificate.order, "  error constant", certificate.error_constant)
print(certificate.sentence(LANG))
try:
    sabun.Optimizer([torch.zeros(1, requires_grad=True)], lr=1e-9, scheme="lagrange-4")
except sabun.errors.SchemeError as error:
    print(f"\nasked for as an optimizer: {error}")

# %% [markdown]
# この種の公式は、別の問題では役に立ちますし、学習に使う提案もあります。
# 新しい公式を見たら、まずゼロ安定かどうかを確かめてください。
#
# ## ネットワークでは
#
# 今度の λ は、損失のヘッセ行列の最大固有値です。
# べき乗法を使えば、勾配の計算数十回で求まります。
# お椀型で求めた限界は、ネットワークにも当てはまるでしょうか。

# %%
digits = load_digits()
images = torch.tensor(digits.data[:500] / 16, dtype=torch.float32)
targets = torch.nn.functional.one_hot(torch.tensor(digits.target[:500])).float()


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))


def loss_of(model):
    return (model(images) - targets).square().sum(dim=1).mean()


def largest_curvature(model, rounds=40):
    """ヘッセ行列の最大固有値。ヘッセ行列とベクトルの積を使ったべき乗法による。"""
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

# %% [markdown]
# ネットワークはお椀型ではありません。
# お椀型の限界がどこまで通用するかを、各行が示しています。
# 2 未満では何も起きません。
# 8 や 12 のように大きく超えると、予想どおり五歩以内に発散します。
# その間では、お椀型には見られないことが起きます。
# 出発点の地形には刻みが大きすぎるため、重みはそこから飛び出し、**もっと平らな場所に**着地して、
# hλ は 2 の近くに戻ります(右端の列)。
# 限界はやはり効いていて、曲率のほうが譲ったのです。
# これは「安定性の縁」として報告されています(Cohen ら 2021、arXiv 2103.00065)。
# 居続けるには危ない場所で、4 の損失は 2.5 より悪くなっています。
#
# sabun はこれを見張れます。
# `step_control="stability"` を指定すると、学習しながら λ を測り、
# 区間の 80% を超えて使いそうな一歩を短くします。

# %%
model = network()
optimizer = sabun.Optimizer(
    model.parameters(), lr=4 / sharpness, scheme="euler", step_control="stability", probe_every=5
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

# %% [markdown]
# ## 演習
#
# **1.** 損失のいちばん急な方向が λ = 50 でした。
# `adams-bashforth-2` と `heavy-ball` の学習率の上限はいくつですか。
# 片方は実験でも確かめてください。

# %% tags=["solution"]
for name in ("adams-bashforth-2", "heavy-ball"):
    print(name, schemes.get(name).stability_interval / 50)
assert np.isclose(schemes.get("adams-bashforth-2").stability_interval / 50, 0.02)
assert np.isclose(schemes.get("heavy-ball").stability_interval / 50, 0.76)
assert size_after("adams-bashforth-2", 0.0199 * 50, 2000) < 1 < size_after("adams-bashforth-2", 0.0201 * 50, 2000)

# %% [markdown]
# **2.** 曲率が 1 と 100 の谷があります。
# SGD は最善の刻みで、両方向とも一歩ごとに (100 − 1)/(100 + 1) 倍に縮みます。
# ヘビーボールの最善は β = ((√100 − 1)/(√100 + 1))² で、√β 倍です。
# 最小点までの距離を 100 万分の 1 にするには、それぞれ何歩かかりますか。

# %% tags=["solution"]
beta = ((np.sqrt(100) - 1) / (np.sqrt(100) + 1)) ** 2
sgd_steps = np.log(1e-6) / np.log(99 / 101)
momentum_steps = np.log(1e-6) / np.log(np.sqrt(beta))
print(f"SGD {sgd_steps:.0f} steps, heavy ball with β = {beta:.2f}: {momentum_steps:.0f} steps")
scheme = schemes.heavy_ball(beta)
h = (1 + np.sqrt(beta)) ** 2 / 100 / (1 - beta)  # ポリャクの刻みを時間刻みに直したもの
factors = schemes.analysis.amplification(scheme, h * np.array([1.0, 10.0, 100.0]))
assert np.allclose(factors, np.sqrt(beta), atol=1e-3)  # どの方向も同じ割合で縮む
assert sgd_steps > 9 * momentum_steps

# %% [markdown]
# **3.** sabun に手法を*設計*させてみましょう。
# 極は一つで 0.9 以下、次数は 1、区間は最長とします。
# ヘビーボールの 38 を超えるでしょうか。

# %% tags=["solution"]
widest = design.design_multistep(poles=1, order=1, largest_pole=0.9, damping=0)
print(f"interval {widest.stability_interval:.2f}, γ = {-widest.to_filter().b[1] / (1 - 0.9):.3f}")
assert 39 < widest.stability_interval <= 40 + 1e-9  # 極が一つなら 4/(1 − 0.9) が上限

# %% [markdown]
# ## この回のまとめ
#
# - どの手法も、hλ が安定区間の終わりまでしか耐えられない。決めるのはいちばん急な方向である。
# - 次数を上げると区間は縮む。モーメンタムは区間を広げる。そこに値打ちがある。
# - まずゼロ安定かどうかを見る。どんな学習率でも発散する公式もある。
