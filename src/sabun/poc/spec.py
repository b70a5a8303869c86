"""What a study is, fixed before its first run: arms, task, budget, thresholds. Frozen, validated, hashed.

A :class:`Study` compares one *baseline* :class:`Arm` with one or more *candidates* on a task. Its hash covers every
field, so a later change makes another study, and a store refuses records of another hash. Special cases: a study
with ``trials = 0`` runs every arm at its default step; an A/A study gives the baseline again under another name.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sabun.errors import StudyError, unknown
from sabun.poc.records import Phase

__all__ = [
    "Arm",
    "Budget",
    "LogUniform",
    "Option",
    "Run",
    "Scalar",
    "Schedule",
    "Study",
    "Thresholds",
    "derive_seed",
    "hash_of",
]

Scalar = bool | int | float | str
"""A plain value in a specification."""
Option = Scalar | tuple[float | int, ...]
"""An optimizer's fixed option; a tuple of numbers for the likes of ``betas = [0.9, 0.99]``."""

Schedule = Literal["constant", "linear", "cosine"]
"""The factor on the learning rate at progress t in [0, 1): 1, 1 − t, or (1 + cos πt)/2."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class LogUniform(_Frozen):
    """A search space: log-uniform over ``decades`` (in all) around ``center``."""

    center: Annotated[float, Field(gt=0)]
    decades: Annotated[float, Field(gt=0, le=12)] = 3.0

    @property
    def low(self) -> float:
        """Lower end of the space."""
        return float(self.center * 10 ** (-self.decades / 2))

    @property
    def high(self) -> float:
        """Upper end of the space."""
        return float(self.center * 10 ** (self.decades / 2))


class Arm(_Frozen):
    """One side of the comparison: an optimizer, its fixed options, and what tuning may choose.

    ``optimizer`` is a preset (``adamw``), a scheme with an optional metric (``nesterov``, ``look-ahead(0.9, 2)@adam``),
    or a class of any installed package (``torch.optim:SGD``). ``space`` maps a hyperparameter to its search space;
    empty means the arm's default: the step length, over the same number of decades for every arm. ``schedule`` is for
    the optimizer whose recipe includes one (schedule-free: constant); left out, the study's applies.
    """

    name: Annotated[str, Field(min_length=1, max_length=300)]
    optimizer: Annotated[str, Field(min_length=1, max_length=300)]
    options: Mapping[str, Option] = Field(default_factory=dict)
    space: Mapping[str, LogUniform] = Field(default_factory=dict)
    schedule: Schedule | None = None


class Budget(_Frozen):
    """How much every arm may spend; the same for all.

    ``trials`` per arm in tuning, each over ``tuning_seeds``; then ``seeds`` paired evaluation runs of ``epochs``.
    Gradient evaluations are what is counted: a scheme with several a step takes that many fewer steps.
    ``looks``: numbers of seeds, below ``seeds``, after which the study is judged and may stop early: run that many
    seeds of every arm, call ``assess``, stop if ``poc.assess.decided`` says so, else go on to the next. The errors of
    all looks add up to the level (:func:`sabun.poc.judgement.statistics.sequential_plan`). Empty: one judgement, at
    ``seeds``.
    ``batch_seeds``: seeds of an arm train together as one model where task and optimizer allow
    (:mod:`sabun.poc.training.batched`); part of the specification because it changes the last bits.
    ``pruning``: whether tuning runs of every arm may end early (:mod:`sabun.poc.pruning`, which says why not).
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    trials: Annotated[int, Field(ge=0, le=10_000)] = 12
    tuning_seeds: Annotated[int, Field(ge=1, le=100)] = 2
    seeds: Annotated[int, Field(ge=1, le=1_000)] = 10
    looks: tuple[Annotated[int, Field(ge=1)], ...] = ()
    decades: Annotated[float, Field(gt=0, le=8)] = 3.0
    batch_seeds: bool = False
    pruning: Literal["none", "median"] = "none"

    @model_validator(mode="after")
    def _looks_grow(self) -> Budget:
        planned = (*self.looks, self.seeds)
        if any(right <= left for left, right in itertools.pairwise(planned)):
            raise ValueError(f"looks must grow and stay below seeds ({self.seeds})")
        return self


class Thresholds(_Frozen):
    """When a "go" is honest. Fixed with the study.

    ``margin``: K1 must be better by at least this relative amount, interval clear of it. ``max_time_ratio``: upper
    bound of K3. ``max_spread_ratio``: K2's limit; no-go only when significantly beyond it. ``level``: two-sided
    confidence level of every interval.
    """

    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_time_ratio: Annotated[float, Field(gt=0)] = 1.10
    max_spread_ratio: Annotated[float, Field(gt=0)] = 1.0
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class Study(_Frozen):
    """The whole specification. ``seed`` is the root from which all others are derived by hashing named parts.

    ``schedule`` decays the learning rate of all arms alike, per step, to zero at the end of the budget: an arm is then
    judged where its team would stop, not in mid-flight (rankings at a constant rate flip when the rate decays). Linear
    is the default for its worst-case optimality and its record in practice (Defazio et al., arXiv 2310.07831).
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
    def _names_differ(self) -> Study:
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two arms are called {twice[0]!r}; give each its own name")
        return self

    @model_validator(mode="after")
    def _level_is_within_reach(self) -> Study:
        # The sign-flip test of poc.statistics uses 2¹² sign patterns: no two-sided p-value lies below 2⁻¹¹.
        if (1 - self.thresholds.level) / len(self.candidates) < 2.0**-11:
            highest = math.floor((1 - len(self.candidates) * 2.0**-11) * 1e4) / 1e4
            raise ValueError(
                f"with {len(self.candidates)} candidates no test can reach this level; use at most {highest}"
            )
        return self

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Baseline first, then the candidates in their order."""
        return (self.baseline, *self.candidates)

    def arm(self, name: str) -> Arm:
        """The arm called ``name``. Raises StudyError for another name."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise unknown(StudyError, "arm", name, [arm.name for arm in self.arms])

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of every field."""
        return hash_of(self.model_dump(mode="json"))

    @classmethod
    def build(cls, fields: Mapping[str, Any]) -> Study:
        """Validate ``fields``. Raises StudyError that names the key, with the nearest known one for a misspelt key."""
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise _explain(error) from None

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read a study from a TOML file. Raises StudyError for a file that is missing, malformed or misspelt."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"cannot read the study file {path}: {error}.", fix="Check the path.") from None
        try:
            fields = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise StudyError(f"{path} is not valid TOML: {error}.", fix="Mend that line.") from None
        return cls.build(fields)


class Run(_Frozen):
    """One training to carry out: which arm, from which seed, with which hyperparameters, in which phase."""

    arm: str
    seed: int
    phase: Phase
    trial: int | None = None
    hyperparameters: Mapping[str, Scalar] = Field(default_factory=dict)
    ceilings: tuple[float | None, ...] = ()
    """By epoch, the validation loss above which pruning ends the run."""

    @functools.cached_property
    def id(self) -> str:
        """Stable name of the run inside its study: 16 hexadecimal digits of a hash over all fields in use."""
        unused = None if self.ceilings else {"ceilings"}
        text = json.dumps(self.model_dump(mode="json", exclude=unused), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_of(fields: Mapping[str, Any]) -> str:
    """SHA-256 over the JSON of ``fields``, with sorted keys and no spaces."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def derive_seed(root: int, *parts: str | int) -> int:
    """A seed in [0, 2³¹) hashed from named parts, so that adding an arm or a phase never shifts another's seed."""
    text = json.dumps([root, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (2**31)


_MODELS: dict[str, type[_Frozen]] = {
    "baseline": Arm,
    "candidates": Arm,
    "budget": Budget,
    "thresholds": Thresholds,
    "space": LogUniform,
}


def _explain(error: ValidationError) -> StudyError:
    problems = error.errors()
    # A misspelt key comes first: the required key that it was meant to be is missing only because of it.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    # A value may be of several types; pydantic then names the one that it tried, which says nothing to the reader.
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
        return StudyError(f"the study's {where} must be a finite number.", fix="Give a number other than nan and inf.")
    message = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    shown = f" (given: {value!r})" if isinstance(value, int | float | str) and not _is_nan(value) else ""
    return StudyError(
        f"the study's {where or 'fields'}: {message}{shown}.", fix="Correct it in the study file or option."
    )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
