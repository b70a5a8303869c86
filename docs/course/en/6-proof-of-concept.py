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
# # 6. Running and reading a proof of concept
#
# *About 30 minutes. Notebook 5 comes first.*
#
# Now the whole: fix a question, run it, read the answer, and find out how far it can be trusted. Everything here
# can be done with the command `sabun poc`; the notebook opens the lid.

# %% [markdown]
# ## Fix the question first
#
# A **study** says everything that decides the outcome: the task, today's optimizer, the candidates, the budget,
# the thresholds. It is frozen and hashed. Whoever changes it afterwards has another study. Here, small enough for
# a notebook: five epochs on scikit-learn's digits.
#
# The second candidate is a trap for ourselves: `heavy-ball(0.9)` *is* the baseline, step for step. An honest
# method must not find it better.

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

LANG = "en"  # of the report's sentences

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
# ## Run it
#
# Every arm is tuned with equal effort. Then all arms train from the same seeds, in alternating order. The first
# seed is repeated, to see whether it ends at the same weights to the last bit.

# %%
evidence = study.run(question, "study")
phases = [run.phase for run in evidence.runs]
print({phase: phases.count(phase) for phase in sorted(set(phases))})
for name, tuning in evidence.tuning.items():
    print(f"{name:<30} best learning rate {tuning.best['lr']:.3g}")

# %% [markdown]
# ## Read the judgement
#
# `assess` is a pure function from records to judgement: the same records give the same verdict anywhere.

# %%
judged = assess(question, evidence.runs, evidence.tuning)
for row in judged.comparisons:
    if row.kpi in ("final_loss", "spread", "epoch_s"):
        print(f"{row.arm:<18}{row.kpi:<12} effect {row.effect:>6.3f}   interval {row.low:>6.3f} to {row.high:.3f}")
for verdict in judged.verdicts:
    print(f"{verdict.arm:<18}{verdict.decision}")

# %% [markdown]
# `final_loss` is relative: −0.10 is 10% less validation loss. `spread` and `epoch_s` are ratios: 1 is equal.
#
# Read an interval like this: **everything in it fits the data.** If zero lies well inside, the data say neither
# "better" nor "worse"; they say "less than this". The trap did not spring: `heavy-ball(0.9)` got no go.
#
# ## The report, as a manager gets it

# %%
subprocess.run([sys.executable, "-m", "sabun", "poc", "report", "study", "--lang", LANG, "--quiet"], check=True)
report = json.loads(Path("study/report.json").read_text(encoding="utf-8"))
said = report["sentences"][LANG]
print(said["headline"], "\n")
for arm, reasons in said["reasons"].items():
    print(arm, *reasons, sep="\n  - ")

# %% [markdown]
# Beside it lie `report.html`, for people, and `report.md`. The most useful part is the least exciting one, what
# was *not* tested:

# %%
print(*report["sentences"][LANG]["untested"], sep="\n")

# %% [markdown]
# ## How often does such a verdict err?
#
# Let it judge studies whose truth is known. In an A/A study both arms are the same, so that every go is false.
# 200 of them, from simulated records with all kinds of noise:

# %%
same = calibrate.calibrate(200, seeds=8)
print(f"false go: {same.go_rate:.1%} of {same.studies} studies")
better = calibrate.calibrate(200, seeds=8, effect=0.05, scenario="normal")
print(f"a true improvement of 5% is found in {better.power:.0%}")
assert same.go_rate <= 0.05

# %% [markdown]
# The first number is a promise: at most 5%. The second says what eight seeds can see. **"Undecided" often means:
# too few seeds for so small an effect.**
#
# ## Evidence that shows edits
#
# Each record holds the hash of the one before. Change one digit of one loss, and it shows.

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
# ## Exercises
#
# **1.** Compute the effect of `euler` on the final validation loss by hand: the mean over the seeds of its last
# validation loss, divided by the baseline's, minus 1. Does the report say the same?


# %% tags=["solution"]
def last_losses(arm):
    runs = sorted((r for r in evidence.runs if r.phase == "evaluate" and r.arm == arm), key=lambda r: r.seed)
    return np.array([r.epochs[-1].val_loss for r in runs])


effect = last_losses("euler").mean() / last_losses(question.baseline.name).mean() - 1
reported = next(row.effect for row in judged.comparisons if (row.arm, row.kpi) == ("euler", "final_loss"))
print(f"by hand {effect:+.4f}, reported {reported:+.4f}")
assert np.isclose(effect, reported)

# %% [markdown]
# **2.** The plant only wants to change for an improvement of at least 25%. Which field of the study says so? What
# is the verdict then, and why must that be decided *before* the run?

# %% tags=["solution"]
fields = question.model_dump(mode="json")
stricter = Study.build({**fields, "thresholds": {**fields["thresholds"], "margin": 0.25}})
assert stricter.hash != question.hash  # it is another study: its directory would refuse these records
strict = {v.arm: v.decision for v in assess(stricter, evidence.runs, evidence.tuning).verdicts}
print(strict)
assert "go" not in strict.values()
# Whoever chooses the margin after having seen the figures can have any verdict that he likes.

# %% [markdown]
# **3.** How many seeds would it take to find a true improvement of 3% with a chance of 80%, where the loss varies
# by 10% over the seeds? Use `calibrate` with 12, 20 and 28 seeds.

# %% tags=["solution"]
power = {seeds: calibrate.calibrate(200, seeds=seeds, effect=0.03, scenario="normal").power for seeds in (12, 20, 28)}
print({seeds: f"{share:.0%}" for seeds, share in power.items()})
assert power[12] < 0.8 < power[28]

# %% [markdown]
# ## What to keep
#
# - Fix the question, tune alike, compare in pairs, and read intervals.
# - Go, no-go and undecided are all useful answers. A verdict holds for its task, budget and machine.
# - Next: the [guide for decision makers](../../guide/en.md) for those who will ask you, and [staged roll-out](../../rollout.md) for a go.
