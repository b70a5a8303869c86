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
# # 6. 概念実証を走らせ、読む
#
# *所要 30 分ほど。
# 第 5 回を先にお読みください。*
#
# いよいよ全体です。
# 問いを固定し、走らせ、答えを読み、どこまで信じてよいかを確かめます。
# ここで行うことはすべて `sabun poc` コマンドでできます。
# この回では、そのふたを開けて中を見ます。

# %% [markdown]
# ## まず問いを固定する
#
# **スタディ**には、結果を左右するものをすべて書きます。
# 課題、いまの最適化手法、候補、予算、判定の基準です。
# 書いたら凍結し、ハッシュをとります。
# 後から変えれば、別のスタディになります。
# ここでは教材用に小さくして、scikit-learn の手書き数字を 5 エポックとします。
#
# 二つ目の候補は、自分たちに仕掛けたわなです。
# `heavy-ball(0.9)` は基準と一歩ごとに*同じもの*です。
# 正直な方法なら、これを「優れている」とは言わないはずです。

# %%
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from sabun.errors import StoreError
from sabun.poc import study
from sabun.poc.evidence import read, verify
from sabun.poc.judgement import calibrate
from sabun.poc.judgement.assess import assess
from sabun.poc.spec import Study

LANG = "ja"  # 報告書の文の言語

question = study.default_study(
    task="digits",
    baseline="torch.optim:SGD(momentum=0.9)",
    candidates=("euler", "heavy-ball(0.9)"),
    epochs=5,
    trials=4,
    seeds=8,
)
print("hash", question.hash[:16])
print(
    "every arm:",
    question.budget.trials,
    "tuning trials over",
    question.budget.decades,
    "decades, then",
    question.budget.seeds,
    "seeds",
)

# %% [markdown]
# ## 走らせる
#
# どの手法も同じ手間をかけて調整します。
# その後、すべての手法を同じシードから、順番を入れ替えながら学習させます。
# 最初のシードは二度走らせ、重みが最後のビットまで一致するかを見ます。

# %%
evidence = study.run(question, "study")
phases = [run.phase for run in evidence.runs]
print({phase: phases.count(phase) for phase in sorted(set(phases))})
for name, tuning in evidence.tuning.items():
    print(f"{name:<30} best learning rate {tuning.best['lr']:.3g}")

# %% [markdown]
# ## 判定を読む
#
# `assess` は、記録から判定への純粋な関数です。
# 同じ記録からは、どこでも同じ判定が出ます。

# %%
judged = assess(question, evidence.runs, evidence.tuning)
for row in judged.comparisons:
    if row.kpi in ("final_loss", "spread", "epoch_s"):
        print(f"{row.arm:<18}{row.kpi:<12} effect {row.effect:>6.3f}   interval {row.low:>6.3f} to {row.high:.3f}")
for verdict in judged.verdicts:
    print(f"{verdict.arm:<18}{verdict.decision}")

# %% [markdown]
# `final_loss` は相対値で、−0.10 なら検証損失が 10% 低いという意味です。
# `spread` と `epoch_s` は比で、1 なら同じです。
#
# 区間は、**その中の値はどれもデータと矛盾しない**、と読みます。
# 0 が区間の中ほどにあるなら、データは「良い」とも「悪い」とも言っていません。
# 「差があるとしてもこの程度」と言っているだけです。
# わなは作動しませんでした。
# `heavy-ball(0.9)` は「採用」になっていません。
#
# ## 管理職に渡す報告書

# %%
subprocess.run([sys.executable, "-m", "sabun", "poc", "report", "study", "--lang", LANG, "--quiet"], check=True)
report = json.loads(Path("study/report.json").read_text(encoding="utf-8"))
said = report["sentences"][LANG]
print(said["headline"], "\n")
for arm, reasons in said["reasons"].items():
    print(arm, *reasons, sep="\n  - ")

# %% [markdown]
# 隣には、人が読む `report.html` と、`report.md` ができています。
# いちばん役に立つのは、いちばん地味な部分、*確かめていないこと*です。

# %%
print(*report["sentences"][LANG]["untested"], sep="\n")

# %% [markdown]
# ## この判定はどれくらい間違えるか
#
# 正解の分かっているスタディを判定させてみます。
# A/A スタディでは両者がまったく同じなので、「採用」はすべて誤りです。
# いろいろな雑音を模した記録で、200 回行います。

# %%
same = calibrate.calibrate(200, seeds=8)
print(f"false go: {same.go_rate:.1%} of {same.studies} studies")
better = calibrate.calibrate(200, seeds=8, effect=0.05, scenario="normal")
print(f"a true improvement of 5% is found in {better.power:.0%}")
assert same.go_rate <= 0.05

# %% [markdown]
# 一つ目の数字は約束で、多くても 5% です。
# 二つ目は、シード 8 個で何が見えるかを示します。
# **「判断保留」は多くの場合、これほど小さな効果にはシードが足りない、という意味です。**
#
# ## 書き換えが分かる証拠
#
# どの記録にも、一つ前の記録のハッシュが入っています。
# 損失の数字を一つだけ書き換えても、分かります。

# %%
print("as it is:", verify(Path("study")).ok)
records = Path("study/records.jsonl")
text = records.read_text(encoding="utf-8")
records.write_text(text.replace("0.2", "0.1", 1), encoding="utf-8")
try:
    read(Path("study"))
except StoreError as error:
    print("edited:", error)
restored = records.write_text(text, encoding="utf-8")

# %% [markdown]
# ## 演習
#
# **1.** `euler` の最終検証損失への効果を、手で計算してください。
# シードごとの最後の検証損失の平均を、基準の平均で割り、1 を引きます。
# 報告書と同じ値になりますか。


# %% tags=["solution"]
def last_losses(arm):
    runs = sorted((r for r in evidence.runs if r.phase == "evaluate" and r.arm == arm), key=lambda r: r.seed)
    return np.array([r.epochs[-1].val_loss for r in runs])


effect = last_losses("euler").mean() / last_losses(question.baseline.name).mean() - 1
reported = next(row.effect for row in judged.comparisons if (row.arm, row.kpi) == ("euler", "final_loss"))
print(f"by hand {effect:+.4f}, reported {reported:+.4f}")
assert np.isclose(effect, reported)

# %% [markdown]
# **2.** 工場としては、25% 以上の改善がなければ切り替えません。
# スタディのどの項目に書きますか。
# そのときの判定はどうなりますか。
# また、なぜそれを走らせる*前に*決めなければならないのでしょうか。

# %% tags=["solution"]
fields = question.model_dump(mode="json")
stricter = Study.build({**fields, "thresholds": {**fields["thresholds"], "margin": 0.25}})
assert stricter.hash != question.hash  # 別のスタディなので、この記録は受け付けられない
strict = {v.arm: v.decision for v in assess(stricter, evidence.runs, evidence.tuning).verdicts}
print(strict)
assert "go" not in strict.values()
# 数字を見てから基準を選べる人は、どんな判定でも手に入れられる。

# %% [markdown]
# **3.** 損失がシードによって 10% ばらつくとき、3% の本当の改善を 80% の確率で見つけるには、
# シードがいくつ必要ですか。
# `calibrate` で、シード 12、20、28 個を調べてください。

# %% tags=["solution"]
power = {seeds: calibrate.calibrate(200, seeds=seeds, effect=0.03, scenario="normal").power for seeds in (12, 20, 28)}
print({seeds: f"{share:.0%}" for seeds, share in power.items()})
assert power[12] < 0.8 < power[28]

# %% [markdown]
# ## この回のまとめ
#
# - 問いを固定し、同じ手間で調整し、対にして比べ、区間を読む。
# - 「採用」「見送り」「判断保留」は、どれも役に立つ答えである。判定が当てはまるのは、その課題、予算、機械に限る。
# - 次は、あなたに尋ねてくる人のための[意思決定者のための手引き](../../guide/ja.md)と、「採用」の後の[段階的な導入](../../rollout.md)(英語)へ。
