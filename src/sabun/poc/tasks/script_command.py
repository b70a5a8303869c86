"""The command of a user's own script, as a task: ``script:python train.py --seed {seed} --epochs {epochs}``."""

from __future__ import annotations

import hashlib
import math
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sabun.errors import StudyError, unknown
from sabun.poc.spec import SCRIPT_PREFIX, Run, Scalar

__all__ = ["EPOCHS", "SEED", "ScriptCommand"]

SEED = "{seed}"
"""Placeholder for the seed of the run."""
EPOCHS = "{epochs}"
"""Placeholder for the number of epochs."""

SOURCE_SUFFIXES = (".py", ".sh", ".toml", ".yaml", ".yml", ".json", ".cfg", ".ini")
"""Files of a command with these suffixes are its source: a changed file makes a different task."""

TIMING_EPOCHS = 3
"""Length of a run of phase ``time``: seconds per epoch do not need the whole curve."""


@dataclass(frozen=True, slots=True)
class ScriptCommand:
    """A parsed command. ``time_limit`` is in seconds per run."""

    parts: tuple[str, ...]
    time_limit: float = math.inf

    @classmethod
    def parse(cls, task: str, options: Mapping[str, Scalar]) -> ScriptCommand:
        """Parse a ``script:`` task. Raises StudyError for a command that cannot be run, or an unknown option."""
        try:
            parts = shlex.split(task.removeprefix(SCRIPT_PREFIX))
        except ValueError as error:  # an unclosed quotation mark
            raise StudyError(f"cannot parse the command {task!r}: {error}.", fix="Close the quotation mark.") from None
        if not parts or shutil.which(parts[0]) is None:
            raise StudyError(
                f"there is no command {parts[0] if parts else ''!r} to run.",
                fix="Give the command as you would type it, for example --script 'python train.py'.",
            )
        for key in options:
            if key != "time_limit":
                raise unknown(StudyError, "option of a script", key, ["time_limit"])
        limit = options.get("time_limit", math.inf)
        if isinstance(limit, bool | str) or not limit > 0:
            raise StudyError(
                f"time_limit must be a positive number of seconds (given: {limit!r}).", fix="Correct task_options."
            )
        return cls(tuple(parts), float(limit))

    @property
    def takes_epochs(self) -> bool:
        """Whether the study sets the number of epochs. Otherwise the script has its own."""
        return any(EPOCHS in part for part in self.parts)

    def arguments(self, *, seed: int, epochs: int) -> list[str]:
        """Return the command with its placeholders filled in."""
        return [part.replace(SEED, str(seed)).replace(EPOCHS, str(epochs)) for part in self.parts]

    def provenance(self) -> str:
        """Return the hash of the source files named in the command."""
        digest = hashlib.sha256()
        for part in self.parts:
            if Path(part).suffix in SOURCE_SUFFIXES and Path(part).is_file():
                digest.update(f"{part}|".encode() + Path(part).read_bytes())
        return digest.hexdigest()

    @staticmethod
    def stop_after(run: Run) -> int | None:
        """Return the number of epochs after which a run is stopped; None if it runs to its own end."""
        return TIMING_EPOCHS if run.phase == "time" else None
