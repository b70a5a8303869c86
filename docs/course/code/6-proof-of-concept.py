# %% question
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


# %% phases
evidence = study.run(question, "study")
phases = [run.phase for run in evidence.runs]
print({phase: phases.count(phase) for phase in sorted(set(phases))})
for name, tuning in evidence.tuning.items():
    print(f"{name:<30} best learning rate {tuning.best['lr']:.3g}")


# %% judged
judged = assess(question, evidence.runs, evidence.tuning)
for row in judged.comparisons:
    if row.kpi in ("final_loss", "spread", "epoch_s"):
        print(f"{row.arm:<18}{row.kpi:<12} effect {row.effect:>6.3f}   interval {row.low:>6.3f} to {row.high:.3f}")
for verdict in judged.verdicts:
    print(f"{verdict.arm:<18}{verdict.decision}")


# %% said
subprocess.run([sys.executable, "-m", "sabun", "poc", "report", "study", "--lang", LANG, "--quiet"], check=True)
report = json.loads(Path("study/report.json").read_text(encoding="utf-8"))
said = report["sentences"][LANG]
print(said["headline"], "\n")
for arm, reasons in said["reasons"].items():
    print(arm, *reasons, sep="\n  - ")


# %% untested
print(*report["sentences"][LANG]["untested"], sep="\n")


# %% better
same = calibrate.calibrate(200, seeds=8)
print(f"false go: {same.go_rate:.1%} of {same.studies} studies")
better = calibrate.calibrate(200, seeds=8, effect=0.05, scenario="normal")
print(f"a true improvement of 5% is found in {better.power:.0%}")
assert same.go_rate <= 0.05


# %% restored
print("as it is:", verify(Path("study")).ok)
records = Path("study/records.jsonl")
text = records.read_text(encoding="utf-8")
records.write_text(text.replace("0.2", "0.1", 1), encoding="utf-8")
try:
    read(Path("study"))
except StoreError as error:
    print("edited:", error)
restored = records.write_text(text, encoding="utf-8")


# %% solution-1
def last_losses(arm):
    runs = sorted((r for r in evidence.runs if r.phase == "evaluate" and r.arm == arm), key=lambda r: r.seed)
    return np.array([r.epochs[-1].val_loss for r in runs])


effect = last_losses("euler").mean() / last_losses(question.baseline.name).mean() - 1
reported = next(row.effect for row in judged.comparisons if (row.arm, row.kpi) == ("euler", "final_loss"))
print(f"by hand {effect:+.4f}, reported {reported:+.4f}")
assert np.isclose(effect, reported)


# %% solution-2
fields = question.model_dump(mode="json")
stricter = Study.build({**fields, "thresholds": {**fields["thresholds"], "margin": 0.25}})
assert stricter.hash != question.hash  # it is another study: its directory would refuse these records
strict = {v.arm: v.decision for v in assess(stricter, evidence.runs, evidence.tuning).verdicts}
print(strict)
assert "go" not in strict.values()
# A margin chosen after seeing the results can give any verdict.


# %% solution-3
power = {seeds: calibrate.calibrate(200, seeds=seeds, effect=0.04, scenario="normal").power for seeds in (12, 20, 28)}
print({seeds: f"{share:.0%}" for seeds, share in power.items()})
assert power[12] < 0.8 < power[28]
