"""The frozen specification of a study on disk: ``study.json``, written before the first run and never changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sabun import _files
from sabun.errors import StoreError, StudyError
from sabun.poc.judgement.assessment import EarlierStudy
from sabun.poc.spec import LogUniform, Study, hash_of

__all__ = ["FrozenSpecification", "Spaces", "exists", "refuse_other", "require_place"]

STUDY, RECORDS, AUDIT, LIVE, LOCK = "study.json", "records.jsonl", "audit.jsonl", "live.json", "lock"
"""The files of a study's directory."""

Spaces = Mapping[str, Mapping[str, LogUniform]]
"""Arm → hyperparameter → search space."""


@dataclass(frozen=True, slots=True)
class FrozenSpecification:
    """A study as it was frozen, and its search spaces: those of the study, and the defaults as they were then.

    ``earlier`` are the studies of the same arms and task that lay beside it (:mod:`sabun.poc.evidence.siblings`).
    ``file_hash`` is the SHA-256 of the file, which the first event of the audit log names: every byte of it is frozen.
    """

    study: Study
    spaces: Spaces
    file_hash: str = ""
    earlier: tuple[EarlierStudy, ...] = ()

    def write(self, path: Path) -> None:
        """Write it to the directory ``path``. Raises OSError."""
        content = {
            "schema_version": 1,
            "hash": self.study.hash,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "spaces": {
                arm: {name: bounds.model_dump() for name, bounds in space.items()} for arm, space in self.spaces.items()
            },
            "earlier": [asdict(study) for study in self.earlier],
            "study": self.study.model_dump(mode="json"),
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        # A lone surrogate, as of a neighbouring directory whose name is not UTF-8, is written as its JSON escape.
        _files.replace(path / STUDY, text.encode("utf-8", "backslashreplace") + b"\n")

    @classmethod
    def read(cls, path: Path) -> FrozenSpecification:
        """Read it from the directory ``path``. Raises StoreError where there is none, or where it was changed."""
        try:
            content = _files.read(path / STUDY)
            raw = json.loads(content)
            study = Study.build(raw["study"])
            intact = raw["hash"] == hash_of(raw["study"])  # as it was written: later versions may add fields
            spaces = {
                arm: {name: LogUniform(**bounds) for name, bounds in space.items()}
                for arm, space in raw["spaces"].items()
            }
            earlier = tuple(_earlier(entry) for entry in raw.get("earlier", ()))
        except FileNotFoundError:
            raise StoreError(
                f"there is no study in {path}.", fix="Check the path, or run a study into it first."
            ) from None
        except (*_WRONG, StudyError) as error:
            raise StoreError(
                f"{path / STUDY} is damaged: {str(error).rstrip('.')}.",
                fix="Restore it, or start in another directory.",
            ) from None
        if not intact:
            raise StoreError(
                f"{path / STUDY} was changed after the study began: its hash does not match.",
                fix="Restore the file. A changed study needs another directory.",
            )
        return cls(study, spaces, hashlib.sha256(content).hexdigest(), earlier)


_WRONG = OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError
"""What JSON of other values than expected raises."""


def _earlier(entry: Mapping[str, Any]) -> EarlierStudy:
    verdicts = {str(arm): str(decision) for arm, decision in entry["verdicts"].items()}
    return EarlierStudy(str(entry["place"]), str(entry["hash"]), int(entry["seeds"]), verdicts)


def exists(path: str | Path) -> bool:
    """Whether there is a study in the directory ``path``."""
    return (Path(path) / STUDY).exists()


def refuse_other(path: Path, study: Study) -> None:
    """Raise StudyError where ``study`` must not be written to ``path``: a file, another study, or foreign files."""
    if path.exists() and not path.is_dir():
        raise StudyError(f"{path} is a file.", fix="Give a directory for the study's results.")
    if exists(path):
        held = FrozenSpecification.read(path).study
        if held.hash != study.hash:
            raise StudyError(
                f"{path} holds another study ({held.name!r}: {_first_difference(held, study)}).",
                fix="Give another directory, or the same study to resume it.",
            )
    elif path.is_dir():
        others = sorted(entry.name for entry in path.iterdir() if entry.name not in (LOCK, STUDY + _files.DRAFT))
        if others:
            raise StudyError(
                f"{path} is not empty ({others[0]}) and holds no study.", fix="Give a new or empty directory."
            )


def require_place(file: Path, opened: os.stat_result) -> None:
    """Raise StoreError where ``file`` is no longer the file that was opened: what is written would be lost."""
    try:
        same = os.path.samestat(file.stat(), opened)
    except OSError:
        same = False
    if not same:
        raise StoreError(
            f"{file} was moved, deleted or replaced while the study was running.",
            fix="Resume the study where its directory is now: finished runs are kept.",
        )


def _first_difference(held: Study, other: Study) -> str:
    ours, theirs = held.model_dump(mode="json"), other.model_dump(mode="json")
    for key, value in ours.items():
        if value != theirs[key]:
            return (
                f"its {key} differs" if isinstance(value, dict | list) else f"{key} is {value!r}, not {theirs[key]!r}"
            )
    return "its hash differs"
