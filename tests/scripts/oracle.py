"""Run a script without a study and print what it does: ``oracle.py SEED SCRIPT …`` or ``oracle.py SEED -m MODULE …``.

The rates come from a hook on every ``torch.optim.Optimizer.step``, the curve from the arguments of ``sabun.log``.
Nothing of sabun's script mode takes part. The last line is JSON: the losses, and for each group of the optimizer that
was given to ``sabun.swap`` (or of the only one) the number of steps and the first, last and largest rate.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import sys
from pathlib import Path

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import sabun

seed = int(sys.argv[1])
random.seed(seed)
np.random.seed(seed)
torch.manual_seed(seed)
steps: dict[int, list[dict[str, float]]] = {}
given: list[int] = []
losses: list[float] = []


def record(optimizer, _arguments, _options):
    groups = steps.setdefault(id(optimizer), [])
    for number, group in enumerate(optimizer.param_groups):
        lr = float(group["lr"])
        if number == len(groups):
            groups.append({"steps": 0, "first": lr, "last": lr, "largest": lr})
        found = groups[number]
        found.update(steps=found["steps"] + 1, last=lr, largest=max(lr, found["largest"]))


def swap(optimizer, **_):
    given.append(id(optimizer))
    return optimizer


def log(*, val_loss=None, higher_is_better=None, **values):
    losses.append(float(1 - values[higher_is_better] if val_loss is None else val_loss))


sabun.swap, sabun.log = swap, log
register_optimizer_step_pre_hook(record)
sys.argv = sys.argv[2:]
if sys.argv[0] == "-m":
    sys.path.insert(0, str(Path.cwd()))
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))  # noqa: PTH100, PTH120
    runpy.run_path(sys.argv[0], run_name="__main__")
chosen = steps.get(given[0], []) if given else next(iter(steps.values()))
print("ORACLE " + json.dumps({"groups": chosen, "losses": losses, "optimizers": len(steps)}))  # noqa: T201
