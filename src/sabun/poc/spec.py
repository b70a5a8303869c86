"""The specification of a study: arms, task, budget and thresholds. Frozen, validated and hashed.

A :class:`Study` compares one *baseline* :class:`Arm` with one or more *candidates* on a task. Its hash covers every
field, so a changed study is a different study, and a store refuses records of another hash. With ``trials = 0`` every
arm runs at its default learning rate. For an A/A study, give the baseline again under another name.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sabun.errors import StudyError, unknown
from sabun.option_value import OptionValue
from sabun.poc.limit import Limit
from sabun.poc.records import Epoch, Phase, RunResult, Status
from sabun.text_safety import not_utf8

__all__ = [
    "DEFAULT_BUDGET",
    "SCRIPT",
    "SCRIPT_PREFIX",
    "Arm",
    "Budget",
    "LogUniform",
    "Run",
    "Scalar",
    "Schedule",
    "Study",
    "Thresholds",
    "hash_of",
]

Scalar = bool | int | float | str
"""A plain value in a specification."""
SCRIPT = "script"
"""``sabun.script.arms.SCRIPT``, the notation of an optimizer that a script makes itself, without importing torch."""

SCRIPT_PREFIX = "script:"
"""Precedes the command of a user's own script in the name of a task."""

_PYTHON_FILE = re.compile(r"[^\s:\"']+\.py(?=$|[\s:\"'])")

Schedule = Literal["constant", "linear", "cosine"]
"""Factor on the learning rate at progress t in [0, 1): 1, 1 − t, or (1 + cos πt)/2."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class LogUniform(_Frozen):
    """A log-uniform search space that spans ``decades`` in total, with ``center`` in the middle."""

    center: Annotated[float, Field(gt=0)]
    decades: Annotated[float, Field(gt=0, le=12)] = 3.0

    @property
    def low(self) -> float:
        """Lower bound."""
        return float(self.center * 10 ** (-self.decades / 2))

    @property
    def high(self) -> float:
        """Upper bound."""
        return float(self.center * 10 ** (self.decades / 2))


def _real_files(text: str) -> str:
    """Return ``text`` with single spaces, and with the absolute path of each Python file in it."""

    def real(found: re.Match[str]) -> str:
        try:
            return str(Path(found[0]).resolve())
        except (OSError, RuntimeError, ValueError):  # a circle of links
            return found[0]

    return _PYTHON_FILE.sub(real, " ".join(text.split()))


class Arm(_Frozen):
    """One side of the comparison: an optimizer, its fixed options, and its search space.

    ``optimizer`` is a preset (``adamw``), a scheme with an optional preconditioner (``nesterov``,
    ``look-ahead(0.9, 2)@adam``), or a class of any installed package (``torch.optim:SGD``). ``space`` maps a
    hyperparameter to its search space. If it is empty, the learning rate is tuned over the same number of decades for
    every arm. ``schedule`` overrides the study's learning-rate schedule; schedule-free optimizers use ``constant``.
    """

    name: Annotated[str, Field(min_length=1, max_length=300)]
    optimizer: Annotated[str, Field(min_length=1, max_length=300)]
    options: Mapping[str, OptionValue] = Field(default_factory=dict)
    space: Mapping[str, LogUniform] = Field(default_factory=dict)
    schedule: Schedule | None = None

    @classmethod
    def named(cls, optimizer: str, name: str | None = None) -> Arm:
        """Return an arm with the default search space. Its name is its notation unless ``name`` is given.

        Raises StudyError for a notation that is empty or longer than a name may be.
        """
        text = optimizer.strip()
        if not 0 < len(text) <= 300:
            raise StudyError(
                f"an optimizer's notation must have 1 to 300 characters (given: {len(text)}).",
                fix="Name a preset, a scheme (with @preconditioner), or module:Class, as in torch.optim:SGD.",
            )
        return cls(name=name or text, optimizer=text)


DEFAULT_BUDGET: Final = {"epochs": 10, "seeds": 16}
"""On digits the validation loss stops falling after about 10 epochs, so arms are compared on training and not on
overfitting; 16 seeds suffice for a decision at a relative standard deviation of about 20%."""


class Budget(_Frozen):
    """What every arm may spend. The budget is the same for all arms.

    ``trials`` per arm in tuning, each over ``tuning_seeds``; then ``seeds`` paired evaluation runs of ``epochs``. The
    unit is the gradient evaluation: a scheme with several evaluations per step takes proportionally fewer steps.
    ``looks``: numbers of seeds below ``seeds`` at which the study is judged and may stop early. Each look assesses the
    runs so far and stops if :func:`sabun.poc.judgement.assess.decided` returns True. The error probabilities of all
    looks add up to 1 − level (:func:`sabun.poc.judgement.statistics.sequential_plan`). Empty: one judgement, at
    ``seeds``.
    ``batch_seeds``: train the seeds of an arm as one batched model where the task and the optimizer allow it
    (:mod:`sabun.poc.training.batched`). It is part of the specification because it changes the last bits of a result.
    ``pruning``: whether tuning runs of every arm may end early (:mod:`sabun.poc.pruning`).
    ``tuning_fraction``: the share of a training that a tuning run does, alike for every arm: of the epochs, or of the
    data for a script whose command has ``{fraction}``.
    ``limit``: what the whole study may take (:mod:`sabun.poc.limit`); empty for no limit. Within a limit of time a
    study that is slower than planned is reduced by the rule of :mod:`sabun.poc.pace`.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    trials: Annotated[int, Field(ge=0, le=10_000)] = 12
    tuning_seeds: Annotated[int, Field(ge=1, le=100)] = 2
    seeds: Annotated[int, Field(ge=1, le=1_000)] = 10
    looks: tuple[Annotated[int, Field(ge=1)], ...] = ()
    decades: Annotated[float, Field(gt=0, le=8)] = 3.0
    batch_seeds: bool = False
    pruning: Literal["none", "median", "halving"] = "none"
    tuning_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    limit: str = ""

    @model_validator(mode="after")
    def _check_looks(self) -> Budget:
        planned = (*self.looks, self.seeds)
        if any(right <= left for left, right in itertools.pairwise(planned)):
            raise ValueError(f"looks must increase and stay below seeds ({self.seeds})")
        return self

    @model_validator(mode="after")
    def _check_limit(self) -> Budget:
        if self.limit and (written := Limit.parse(self.limit).text) != self.limit:
            raise ValueError(f"limit must be written as {written!r}")
        if self.limit and self.batch_seeds and Limit.parse(self.limit).seconds is not None:
            raise ValueError("batched seeds cannot be dropped one by one when a limit of time runs out")
        return self

    @property
    def tuning_epochs(self) -> int:
        """The number of epochs of a tuning run whose fidelity is that of the epochs."""
        return max(1, math.ceil(self.epochs * self.tuning_fraction - 1e-9))

    @property
    def runs_per_arm(self) -> int:
        """Tuning, evaluation, and the repeated first seed."""
        return self.trials * self.tuning_seeds + self.seeds + 1

    def reduced(self, *, trials: int, seeds: int) -> Budget:
        """The same budget with at most ``trials`` trials and ``seeds`` seeds, and the looks before them."""
        seeds = max(1, min(seeds, self.seeds))
        kept = tuple(look for look in self.looks if look < seeds)
        return self.model_copy(update={"trials": min(trials, self.trials), "seeds": seeds, "looks": kept})


class Thresholds(_Frozen):
    """What a "go" requires. Fixed with the study.

    ``margin``: the smallest relative improvement of K1 worth adopting. A go has its whole interval beyond it; an
    improvement that is real and smaller is ``small``.
    ``max_time_ratio``: upper bound of K3. ``max_spread_ratio``: limit of K2; it leads to a no-go only where K2 exceeds
    it significantly. ``level``: overall two-sided confidence level; that of an interval is higher with
    several candidates (Holm) or interim looks.
    """

    margin: Annotated[float, Field(ge=0, lt=1)] = 0.01
    max_time_ratio: Annotated[float, Field(gt=0)] = 1.10
    max_spread_ratio: Annotated[float, Field(gt=0)] = 1.0
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class Study(_Frozen):
    """The whole specification of a study. All seeds are derived from ``seed`` by hashing named parts.

    ``schedule`` decays the learning rate of every arm, per step, to zero at the end of the budget. Rankings at a
    constant learning rate may change when the rate decays, so arms are judged at the end of a decay, where a team would
    stop. The default is linear decay, which is worst-case optimal and does well in practice (Defazio et al., arXiv
    2310.07831).
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=300)]
    task: Annotated[str, Field(min_length=1)]
    task_options: Mapping[str, Scalar] = Field(default_factory=dict)
    baseline: Arm
    candidates: Annotated[tuple[Arm, ...], Field(min_length=1)]
    budget: Budget = Budget()
    thresholds: Thresholds = Thresholds()
    schedule: Schedule = "linear"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    note: Annotated[str, Field(max_length=10_000)] = ""

    @model_validator(mode="after")
    def _check_names(self) -> Study:
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two arms are called {twice[0]!r}; give each its own name")
        return self

    @model_validator(mode="after")
    def _check_runs(self) -> Study:
        allowed = Limit.parse(self.budget.limit).runs if self.budget.limit else None
        if allowed is not None and (planned := len(self.arms) * self.budget.runs_per_arm) > allowed:
            raise ValueError(f"{planned} runs are planned, and the limit is {allowed}")
        return self

    @model_validator(mode="after")
    def _check_level(self) -> Study:
        # The sign-flip test uses 2¹² sign patterns, so its smallest two-sided p-value is 2⁻¹¹.
        if (1 - self.thresholds.level) / len(self.candidates) < 2.0**-11:
            highest = math.floor((1 - len(self.candidates) * 2.0**-11) * 1e4) / 1e4
            raise ValueError(
                f"with {len(self.candidates)} candidates no test can reach this level; use at most {highest}"
            )
        return self

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The baseline, then the candidates in their order."""
        return (self.baseline, *self.candidates)

    @property
    def is_script(self) -> bool:
        """Whether the task is a user's own command (script mode)."""
        return self.task.startswith(SCRIPT_PREFIX)

    def arm(self, name: str) -> Arm:
        """Return the arm called ``name``. Raises StudyError for an unknown name."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise unknown(StudyError, "arm", name, [arm.name for arm in self.arms])

    @property
    def comparisons(self) -> frozenset[str]:
        """One hash for each candidate: of the task, the baseline and the candidate, whatever their names and spelling.

        Two studies that share one compare the same arms on the same task, perhaps on other seeds or another budget.
        """
        task = {"task": _real_files(self.task), "task_options": dict(self.task_options)}
        baseline, *candidates = (
            {**arm.model_dump(mode="json", exclude={"name"}), "optimizer": "".join(_real_files(arm.optimizer).split())}
            for arm in self.arms
        )
        return frozenset(hash_of({**task, "baseline": baseline, "candidate": arm}) for arm in candidates)

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of all fields."""
        return hash_of(self.model_dump(mode="json"))

    def _repr_html_(self) -> str:
        from sabun.messages import displays
        from sabun.messages.sentences import text

        lang, budget = displays.display_language(), self.budget

        def word(key: str, **values: float) -> str:
            return text(key, lang, values)

        def arm(arm: Arm) -> str:
            options = [f"{key}={value!r}" for key, value in arm.options.items()]
            return ", ".join([arm.name, *([] if arm.optimizer == arm.name else [arm.optimizer]), *options])

        of_task = [f"{key}={value!r}" for key, value in self.task_options.items()]
        rows = [
            (word("ui.task"), ", ".join([self.task, *of_task])),
            (word("notebook.baseline"), arm(self.baseline)),
            *((word("ui.col_candidate"), arm(candidate)) for candidate in self.candidates),
            (word("notebook.budget"), word("ui.facts", seeds=budget.seeds, epochs=budget.epochs, trials=budget.trials)),
            (word("notebook.runs"), str(len(self.arms) * budget.runs_per_arm)),
            (word("ui.thresholds"), word("ui.thresholds_text", **self.thresholds.model_dump())),
            (word("ui.root_seed"), str(self.seed)),
            (word("ui.study_hash"), self.hash),
        ]
        note = [displays.paragraph(self.note)] if self.note else []
        return displays.panel(self.name, *note, displays.table(rows))

    @classmethod
    def build(cls, fields: Mapping[str, Any]) -> Study:
        """Validate ``fields``. The StudyError for a misspelt key suggests the nearest known one."""
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise _study_error(error) from None

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read a study from a TOML file. Raises StudyError if the file is missing, malformed or has unknown keys."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise StudyError(f"cannot read the study file {path}: {error}.", fix="Check the path.") from None
        except UnicodeDecodeError as error:
            cause, fix = not_utf8(path, error)
            raise StudyError(cause, fix=fix) from None
        try:
            fields = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise StudyError(f"{path} is not valid TOML: {error}.", fix="Correct that line.") from None
        return cls.build(fields)


class Run(_Frozen):
    """One training run: arm, seed, phase and hyperparameters."""

    arm: str
    seed: int
    phase: Phase
    trial: int | None = None
    hyperparameters: Mapping[str, Scalar] = Field(default_factory=dict)
    ceilings: tuple[float | None, ...] = ()
    """Per epoch, the validation loss above which pruning ends the run."""

    @functools.cached_property
    def id(self) -> str:
        """Identifier of the run in its study: 16 hexadecimal digits of a hash of its fields."""
        unused = None if self.ceilings else {"ceilings"}
        text = json.dumps(self.model_dump(mode="json", exclude=unused), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def result(self, status: Status, epochs: Iterable[Epoch], **measured: Any) -> RunResult:
        """Return the result of this run. ``measured`` are the remaining fields of :class:`RunResult`."""
        return RunResult(
            run=self.id,
            arm=self.arm,
            seed=self.seed,
            phase=self.phase,
            hyperparameters=self.hyperparameters,
            status=status,
            epochs=tuple(epochs),
            **measured,
        )


def hash_of(fields: Mapping[str, Any]) -> str:
    """SHA-256 of the JSON of ``fields`` with sorted keys and no spaces."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


_MODELS: dict[str, type[_Frozen]] = {
    "baseline": Arm,
    "candidates": Arm,
    "budget": Budget,
    "thresholds": Thresholds,
    "space": LogUniform,
}


def _study_error(error: ValidationError) -> StudyError:
    problems = error.errors()
    # Report a misspelt key first: the missing required key is probably the one that was meant.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    # For a union pydantic appends the type that it tried, which does not help the reader.
    where = ".".join(str(part) for part in first["loc"] if part not in ("bool", "int", "float", "str"))
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        parents = [str(part) for part in first["loc"][:-1] if not isinstance(part, int)]
        if "space" in parents:
            model: type[_Frozen] = LogUniform
        else:
            model = _MODELS.get(parents[-1], Study) if parents else Study
        return unknown(StudyError, f"key in the study ({where})", key, list(model.model_fields))
    if any(problem["type"] == "finite_number" and problem["loc"][:-1] == first["loc"][:-1] for problem in problems):
        return StudyError(
            f"the study's {where} must be a finite number.", fix="Give a number that is neither nan nor inf."
        )
    message = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    shown = f" (given: {value!r})" if isinstance(value, int | float | str) and not _is_nan(value) else ""
    return StudyError(
        f"the study's {where or 'fields'}: {message}{shown}.", fix="Correct it in the study file or option."
    )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
