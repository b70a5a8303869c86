"""The plan of a roll-out: two sides, an ordered list of stages, and the gate of each. Read from ``rollout.toml``.

A stage gives the *challenger* a share of the training jobs; the others train with the *champion*, today's optimizer.
Each stage but the first has a gate: the study that opens it, its verdict, age and number of seeds. With share 0 all
jobs train with the champion, with share 1 all with the challenger.

    name = "nesterov-for-adamw"         # also the salt of the draw
    [champion]
    optimizer = "torch.optim:AdamW"
    options = { lr = 0.001 }
    [challenger]
    optimizer = "nesterov@adam"
    options = { lr = 0.003 }
    [[stages]]
    name = "poc"
    share = 0.0
    [[stages]]
    name = "pilot"
    share = 0.05
    gate = { study = "studies/pilot", verdict = "go", max_age_days = 30, min_seeds = 10 }

Plain dataclasses and ``tomllib``: a training job reads its plan with the core install alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sabun.errors import RolloutError, unknown
from sabun.journal import Json
from sabun.option_value import OptionValue
from sabun.text_safety import not_utf8

__all__ = ["SCRIPT", "Gate", "RolloutPlan", "Side", "Stage"]


SCRIPT = "script"
"""``sabun.script.arms.SCRIPT``, the notation of an optimizer that a script makes itself, without importing torch."""

VERDICTS = ("go", "promising", "undecided")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gate:
    """The condition for entering a stage: the verdict of ``study`` on the challenger is ``verdict`` or better, from at
    least ``min_seeds`` paired seeds, and the study ended at most ``max_age_days`` ago. ``promising``, which a study
    without tuning can reach at most, opens only the first stage with jobs.

    ``study`` is a directory relative to the plan. ``study_hash`` pins its specification; empty: any.
    """

    study: str
    verdict: str = "go"
    max_age_days: float = 30.0
    min_seeds: int = 10
    study_hash: str = ""

    def __post_init__(self) -> None:
        if not self.study:
            raise RolloutError(
                "a gate does not name its study.", fix="Give the study's directory: study = 'studies/pilot'."
            )
        if self.verdict not in VERDICTS:
            raise unknown(RolloutError, "verdict of a gate", self.verdict, VERDICTS)
        if not self.max_age_days > 0:
            raise RolloutError(f"max_age_days must be positive (given: {self.max_age_days!r}).", fix="Give days.")
        if self.min_seeds < 1:
            raise RolloutError(f"min_seeds must be at least 1 (given: {self.min_seeds!r}).", fix="Give a number.")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: the challenger's ``share`` of jobs, the ``gate`` in front of it, and the name of the ``kill_file``.

    While a file of that name is next to the plan, every new job of the stage trains with the champion.
    """

    name: str
    share: float
    gate: Gate | None = None
    kill_file: str = "KILL"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise RolloutError(
                f"{self.name!r} is not a valid name for a stage.", fix="Use letters, digits, '-', '_' and '.'."
            )
        if not 0 <= self.share <= 1:
            raise RolloutError(
                f"stage {self.name!r}: share must be between 0 and 1 (given: {self.share!r}).", fix="0.05 is 5%."
            )
        if not self.kill_file or Path(self.kill_file).is_absolute() or ".." in Path(self.kill_file).parts:
            raise RolloutError(
                f"stage {self.name!r}: kill_file must be a name next to the plan.", fix="Such as 'KILL'."
            )


@dataclass(frozen=True, slots=True)
class Side:
    """Champion or challenger: an optimizer in the notation of studies, and its options.

    ``arm`` is its name in the studies; empty: whatever arm has its notation.
    """

    optimizer: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    arm: str = ""

    def __post_init__(self) -> None:
        if not self.optimizer.strip():
            raise RolloutError(
                "a side of the roll-out does not name its optimizer.", fix="Such as 'torch.optim:AdamW'."
            )

    @classmethod
    def from_json(cls, fields: object, where: str) -> Side:
        """Build a side from plain values. Raises RolloutError for an unknown key or a wrong type."""
        return _read(cls, fields, where, {"optimizer": _text, "options": _options, "arm": _text})


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """The plan of a roll-out. Raises RolloutError for decreasing shares, for a first stage with a gate or a later one
    without, and for a gate that asks for ``promising`` after the first stage with jobs.
    """

    name: str
    champion: Side
    challenger: Side
    stages: tuple[Stage, ...]
    schema_version: int = 1

    def __post_init__(self) -> None:
        if self.schema_version != 1:
            raise RolloutError(
                f"this plan has schema_version {self.schema_version!r}; this version reads 1.", fix="Update sabun."
            )
        if not self.name.strip():
            raise RolloutError("the roll-out has no name.", fix="Set name = '…'; the draw of jobs depends on it.")
        if not self.stages:
            raise RolloutError("the roll-out has no stages.", fix="Give at least one [[stages]] with name and share.")
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RolloutError(f"two stages are called {twice[0]!r}.", fix="Give each its own name.")
        if self.stages[0].gate is not None:
            raise RolloutError(
                f"the first stage, {names[0]!r}, has a gate.", fix="Remove it: a roll-out begins at its first stage."
            )
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if after.gate is None:
                raise RolloutError(f"stage {after.name!r} has no gate.", fix="Add gate = { study = '…' }.")
            if after.share < before.share:
                raise RolloutError(
                    f"the share falls from {before.name!r} ({before.share}) to {after.name!r} ({after.share}).",
                    fix="Order the stages so that promotion only adds jobs.",
                )
        pilot = next((stage for stage in self.stages if stage.share > 0), None)
        for stage in self.stages:
            if stage is not pilot and stage.gate is not None and stage.gate.verdict == "promising":
                raise RolloutError(
                    f"stage {stage.name!r}: only the first stage with jobs may open on a 'promising' verdict.",
                    fix="Ask for 'go', from a study with tuning.",
                )

    def index(self, stage: str) -> int:
        """Return the position of the stage called ``stage``. Raises RolloutError for another name."""
        for position, known in enumerate(self.stages):
            if known.name == stage:
                return position
        raise unknown(RolloutError, "stage", stage, [known.name for known in self.stages])

    def to_json(self) -> dict[str, Json]:
        """Return plain values; ``from_json`` returns an equal plan."""
        plain: dict[str, Json] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> RolloutPlan:
        """Build a plan from plain values. Raises RolloutError for an unknown key or a wrong type."""
        return _read(cls, fields, "", _PLAN)

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of all fields."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> RolloutPlan:
        """Read ``rollout.toml``. Raises RolloutError for a file that is missing, malformed or misspelt."""
        path = Path(path)
        try:
            fields = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise RolloutError(
                f"there is no roll-out plan at {path}.",
                fix="Create one with `sabun rollout init`, or give its path (option --plan, or SABUN_ROLLOUT).",
            ) from None
        except OSError as error:
            raise RolloutError(f"cannot read the plan {path}: {error}.", fix="Check the file.") from None
        except UnicodeDecodeError as error:
            cause, fix = not_utf8(path, error)
            raise RolloutError(cause, fix=fix) from None
        except (ValueError, RecursionError) as error:
            raise RolloutError(f"{path} is not valid TOML: {error}.", fix="Correct that line.") from None
        return cls.from_json(fields)

    def to_toml(self) -> str:
        """Return the plan as TOML with comments; ``load`` returns an equal plan."""
        lines = [
            "# Staged roll-out of an optimizer. After an edit: sabun rollout apply --reason '…'.",
            f"name = {_toml(self.name)}  # also the salt of the draw: another name selects other jobs",
            f"schema_version = {self.schema_version}",
        ]
        for title, side in (("champion", self.champion), ("challenger", self.challenger)):
            lines += ["", f"[{title}]", f"optimizer = {_toml(side.optimizer)}", f"options = {_toml(side.options)}"]
            lines += [f"arm = {_toml(side.arm)}  # its name in the studies"] if side.arm else []
        for stage in self.stages:
            lines += ["", "[[stages]]", f"name = {_toml(stage.name)}", f"share = {_toml(stage.share)}"]
            lines.append(f"kill_file = {_toml(stage.kill_file)}")
            if stage.gate is not None:
                lines.append("[stages.gate]")
                lines += [f"{key} = {_toml(value)}" for key, value in dataclasses.asdict(stage.gate).items()]
        return "\n".join([*lines, ""])


def _read(kind: type[T], fields: object, where: str, readers: Mapping[str, Callable[[object, str], object]]) -> T:
    """Return a dataclass from a table. ``readers`` has a function for each field, which checks its value."""
    title = where or "the plan"
    if not isinstance(fields, Mapping):
        raise RolloutError(f"{title} is not a table.", fix="Write its keys as key = value.")
    for key in fields:
        if key not in readers:
            raise unknown(RolloutError, f"key in {title}", str(key), readers)
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.name not in fields and item.default is item.default_factory is dataclasses.MISSING:
            raise RolloutError(f"{title} has no {item.name!r}.", fix="Add it to rollout.toml.")
    prefix = f"{where}: " if where else ""
    return kind(**{key: readers[key](value, prefix + key) for key, value in fields.items()})


def _typed(value: object, kind: type[T], where: str) -> T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RolloutError(f"{where}: {value!r} is not of type {kind.__name__}.", fix="Correct it in rollout.toml.")
    return value


def _text(value: object, where: str) -> str:
    return _typed(value, str, where)


def _whole(value: object, where: str) -> int:
    return _typed(value, int, where)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RolloutError(f"{where}: {value!r} is not a finite number.", fix="Correct it in rollout.toml.")
    return float(value)


def _option(value: object, where: str) -> OptionValue:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(part, int | float) for part in value):
        return tuple(value)
    raise RolloutError(f"{where}: {value!r} cannot be an option.", fix="Give a number, a text, true/false or numbers.")


def _options(value: object, where: str) -> dict[str, OptionValue]:
    return {str(key): _option(item, f"{where}.{key}") for key, item in _typed(value, dict, where).items()}


def _gate(value: object, where: str) -> Gate | None:
    return None if value is None else _read(Gate, value, where, _GATE)


def _stages(value: object, where: str) -> tuple[Stage, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RolloutError(f"the plan's {where} are not a list.", fix="Write each as [[stages]].")
    return tuple(_read(Stage, stage, f"stage {number}", _STAGE) for number, stage in enumerate(value, start=1))


_GATE = {"study": _text, "verdict": _text, "max_age_days": _number, "min_seeds": _whole, "study_hash": _text}
_STAGE = {"name": _text, "share": _number, "gate": _gate, "kill_file": _text}
_PLAN = {
    "name": _text,
    "champion": Side.from_json,
    "challenger": Side.from_json,
    "stages": _stages,
    "schema_version": _whole,
}


def _toml(value: object) -> str:
    """Return a value as TOML, tables inline. JSON's texts, numbers and true/false are TOML's."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(str(key))} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    # TOML requires DEL to be escaped; JSON does not.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)
