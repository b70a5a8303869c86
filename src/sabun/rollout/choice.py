"""Which optimizer a job trains with: a pure function of the job's id, the roll-out's name and the stage's share.

    u = SHA-256(name, job id) as a number in [0, 1);   challenger if u < share, else champion

So every rank and every restart computes the same, without asking anyone, and a larger share only adds jobs: u does
not depend on it. Special cases: share 0 is always the champion, share 1 always the challenger. What is in doubt goes to
the champion: a kill switch, a roll-out that was never started, an audit log that does not hold.

Kill switches act from the next job on: a job under way keeps what it has (an optimizer cannot be changed under a
checkpoint; inside the job, the guard is responsible). They are the environment variable ``SABUN_KILL``, set to anything
but 0, false, no, off, and a file (``KILL`` unless the stage names another) beside the plan. Whatever has that name is a
switch (an empty file, a folder, a link that leads nowhere), and where nobody can tell whether it is there, it is on.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sabun.errors import OptionError, RolloutError, SabunWarning, StateError
from sabun.rollout.plan import Side, Stage
from sabun.rollout.state import Rollout

__all__ = ["KILL_VARIABLE", "Choice", "Role", "choose", "draw", "killed"]

Role = Literal["champion", "challenger"]
KILL_VARIABLE = "SABUN_KILL"
_OFF = ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Choice:
    """What one job trains with, and why.

    ``draw`` is u; ``reason`` is "share" for a plain draw, or what overruled it: "kill-variable", "kill-file",
    "audit-log", "not-started". ``side`` has the optimizer and its options. Store ``state_dict()`` with the checkpoint,
    and a restarted job keeps its optimizer even if the stage has moved since.
    """

    job_id: str
    role: Role
    reason: str
    rollout: str
    stage: str
    share: float
    draw: float
    side: Side
    champion: Side

    def state_dict(self) -> dict[str, object]:
        """Plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, object]) -> Choice:
        """The choice that ``state_dict`` stored. Raises StateError for anything else."""
        try:
            fields = dict(state)
            for name in ("side", "champion"):
                side = fields[name]
                if not isinstance(side, Mapping):
                    raise TypeError(f"{name} is not a mapping")
                fields[name] = Side(**side)
            return cls(**fields)  # type: ignore[arg-type]
        except (TypeError, KeyError, ValueError) as error:
            raise StateError(
                f"this is not a stored choice: {error}.", fix="Pass what Choice.state_dict gave."
            ) from None


def killed(folder: Path, stage: Stage) -> str:
    """Which kill switch is on: "kill-variable", "kill-file", or neither (empty)."""
    if os.environ.get(KILL_VARIABLE, "").strip().lower() not in _OFF:
        return "kill-variable"
    try:
        os.lstat(folder / stage.kill_file)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:  # no right to look, a network disk that does not answer: in doubt it is on
        return "kill-file"
    return "kill-file"


def draw(name: str, job_id: str) -> float:
    """u in [0, 1): 53 bits of SHA-256 over the roll-out's name and the job's id."""
    digest = hashlib.sha256(json.dumps([name, job_id]).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def choose(job_id: str, *, path: str | Path | None = None, stored: Mapping[str, object] | None = None) -> Choice:
    """Champion or challenger for the job called ``job_id``.

    ``path`` is the plan or its directory; by default the environment variable SABUN_ROLLOUT, else ./rollout.toml.
    Any text that is not blank is a job's id. ``stored`` is a checkpoint's ``Choice.state_dict()``: it is kept. Raises
    RolloutError where there is no plan or ``stored`` belongs to another job. Warns (SabunWarning) when a broken audit
    log makes it the champion.
    """
    if not isinstance(job_id, str) or not job_id.strip():
        raise OptionError(f"job_id must be a text that is not blank (given: {job_id!r}).", fix="Such as a run's name.")
    if stored is not None:
        kept = Choice.from_state_dict(stored)
        if kept.job_id != job_id:
            raise RolloutError(
                f"the checkpoint's choice belongs to job {kept.job_id!r}, not {job_id!r}.",
                fix="A restarted job keeps its id; a new job starts without a stored choice.",
            )
        return kept
    rollout = Rollout(path)
    state, problem = rollout.state_or_problem()
    if state is None:
        plan, stage = rollout.plan(), rollout.plan().stages[0]
    else:
        plan, stage = state.plan, state.stage
    u = draw(plan.name, job_id)
    role: Role = "champion"
    if problem:
        reason = "audit-log"
        warnings.warn(f"job {job_id!r} trains with the champion: {problem}", SabunWarning, stacklevel=2)
    elif state is None:
        reason = "not-started"
    elif switch := killed(rollout.folder, stage):
        reason = switch
    else:
        reason = "share"
        role = "challenger" if u < stage.share else "champion"
    side = plan.challenger if role == "challenger" else plan.champion
    return Choice(job_id, role, reason, plan.name, stage.name, stage.share, u, side, plan.champion)
