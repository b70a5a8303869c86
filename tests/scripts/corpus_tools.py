"""The table of the corpus, and runs of its scripts: in a study, without sabun's part in it, and under ``check``."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sabun.poc.check import CheckResult, check
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve
from sabun.poc.seeds import seeds_of
from sabun.poc.spec import Run, Study
from sabun.poc.study import default_study
from sabun.poc.training.script import ScriptTrainer

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
MODULES = (
    "sabun.script.arms", "lightning.pytorch", "transformers", "transformers.trainer",
    "transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2", "accelerate",
)  # fmt: skip
"""What the scripts import, and takes long."""
EPOCHS = 3
CANDIDATE = "nesterov@adam"
SEED0 = Run(arm="script", seed=0, phase="evaluate")


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

    command: str
    same: str
    lr: float
    findings: list[str]
    notes: list[str]
    rates: list[list[float]]
    environment: str = ""
    rule: str = ""
    rule_lr: float = 0.0
    rounding: float = 0.0

    @property
    def file(self) -> str:
        """The script, relative to the corpus."""
        first = self.command.split()
        return f"{first[1].replace('.', '/')}.py" if first[0] == "-m" else first[0]

    @property
    def name(self) -> str:
        """The script and its mode."""
        last = self.command.split()[-1]
        return self.file.removesuffix(".py") + (f"-{last}" if last in ("peak", "exp") else "")

    def interpreter(self, python: str) -> str:
        """``python``, a fork of a running process; a new process where the script itself starts threads."""
        return sys.executable if self.environment else python

    @property
    def is_mode(self) -> bool:
        """Whether another row has the same script."""
        return "-" in self.name


def table() -> list[Entry]:
    """The rows of ``corpus.toml``."""
    rows = tomllib.loads((HERE / "corpus.toml").read_text(encoding="utf-8"))["script"]
    return [Entry(**row) for row in rows]


def study_of(entry: Entry, python: str, candidate: str = CANDIDATE, **budget: int) -> Study:
    """A study of the script, in the working directory."""
    return default_study(
        task=f"script:{entry.environment} {entry.interpreter(python)} {entry.command}".replace("script: ", "script:"),
        task_options={"time_limit": 100.0},
        baseline="script",
        candidates=[candidate],
        **{"epochs": EPOCHS, "trials": 0, "seeds": 10, **budget},
    )


def trained(entry: Entry, python: str, logs: Path, arm: str = "script", **values: float) -> RunResult:
    """A run of the first evaluation seed."""
    study = study_of(entry, python, CANDIDATE if arm == "script" else arm)
    run = Run(arm=arm, seed=0, phase="evaluate", hyperparameters=values)
    *_, last = ScriptTrainer(resolve(study), logs).run(run)
    assert isinstance(last, RunResult)
    return last


def checked(entry: Entry, python: str) -> CheckResult:
    """What check says."""
    return check(study_of(entry, python))


def unswapped(entry: Entry, python: str, place: Path) -> dict[str, Any]:
    """What ``oracle.py`` says: rates and losses of the script without sabun, from the same seed."""
    seed = seeds_of(study_of(entry, python), SEED0).init
    command = entry.command.replace("{seed}", str(seed)).replace("{epochs}", str(EPOCHS))
    variables = dict(part.split("=") for part in entry.environment.split())
    done = subprocess.run(
        [*shlex.split(entry.interpreter(python)), str(HERE / "oracle.py"), str(seed), *command.split()],
        cwd=place, capture_output=True, text=True, check=False, env={**os.environ, **variables},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("ORACLE ")]
    assert lines, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("ORACLE "))
    return found


def codes(result: CheckResult) -> set[str]:
    """The problems and notes of a check."""
    return {finding.code for finding in (*result.findings, *result.notes)}


def curve(result: RunResult) -> tuple[str, list[tuple[int, float, float | None]]]:
    """How a run ended, and what it logged."""
    return result.status, [(epoch.epoch, epoch.val_loss, epoch.train_loss) for epoch in result.epochs]


def is_harmless(entry: Entry, python: str, whole: Path, broken: Path, logs: Path) -> bool:
    """Whether a broken script gives the runs of the whole one, with its own optimizer and with the candidate."""
    for arm in ("script", CANDIDATE):
        found = []
        for place in (whole, broken):
            os.chdir(place)
            found.append(curve(trained(entry, python, logs, arm)))
        if found[0] != found[1]:
            return False
    return True
