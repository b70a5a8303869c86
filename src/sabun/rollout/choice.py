"""The optimizer of a job: a pure function of the job's id, the roll-out's name and the stage's share.

    u = SHA-256(name, job id) as a number in [0, 1);   challenger if u < share, else champion

Every rank computes the same choice independently, and a larger share only adds jobs, since u does not depend on it. A
restart after a promotion or under a kill switch may choose otherwise: pass the choice stored in its checkpoint. With
share 0 the choice is always the champion, with share 1 always the challenger. The champion is also chosen when in
doubt: with a kill switch, before the roll-out was started, and where the audit log is not valid.

Kill switches act from the next job on: a running job keeps its optimizer, which cannot be changed under a checkpoint;
inside the job, the guard is responsible. The switches are the environment variable ``SABUN_KILL``, set to anything but
0, false, no or off, and a file next to the plan (``KILL`` unless the stage names another). Anything of that name counts
(an empty file, a directory, a dangling link), and so does a name that cannot be looked up.
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
from sabun.rollout.rollout_plan import Side, Stage
from sabun.rollout.state import Rollout

__all__ = ["KILL_VARIABLE", "Choice", "Role", "choose", "draw", "killed"]

Role = Literal["champion", "challenger"]
KILL_VARIABLE = "SABUN_KILL"
_OFF = ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Choice:
    """The optimizer of one job, and the reason for it.

    ``draw`` is u; ``reason`` is "share" for a plain draw, or what overrode it: "kill-variable", "kill-file",
    "audit-log", "not-started". ``side`` has the optimizer and its options. Store ``state_dict()`` with the checkpoint:
    a restarted job then keeps its optimizer even if the stage has changed since.
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
        """Return plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, object]) -> Choice:
        """Return the choice that ``state_dict`` stored. Raises StateError for anything else."""
        try:
            fields = dict(state)
            for name in ("side", "champion"):
                fields[name] = Side.from_json(fields[name], name)
            for name in ("job_id", "reason", "rollout", "stage"):
                if not isinstance(fields[name], str):
                    raise TypeError(f"{name} is not a text")
            for name in ("share", "draw"):
                if not isinstance(fields[name], int | float):
                    raise TypeError(f"{name} is not a number")
            if fields["role"] not in ("champion", "challenger"):
                raise ValueError(f"role is {fields['role']!r}")
            return cls(**fields)  # type: ignore[arg-type]
        except (TypeError, KeyError, ValueError, RolloutError) as error:
            raise StateError(
                f"this is not a stored choice: {str(error).rstrip('.')}.", fix="Pass what Choice.state_dict returned."
            ) from None


def killed(folder: Path, stage: Stage) -> str:
    """Return which kill switch is on: "kill-variable", "kill-file", or neither (empty)."""
    if os.environ.get(KILL_VARIABLE, "").strip().lower() not in _OFF:
        return "kill-variable"
    try:
        os.lstat(folder / stage.kill_file)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:  # no permission, a network disk that does not answer: in doubt it is on
        return "kill-file"
    return "kill-file"


def draw(name: str, job_id: str) -> float:
    """Return u in [0, 1): 53 bits of SHA-256 over the roll-out's name and the job's id."""
    digest = hashlib.sha256(json.dumps([name, job_id]).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def choose(job_id: str, *, path: str | Path | None = None, stored: Mapping[str, object] | None = None) -> Choice:
    """Return the choice for the job called ``job_id``, any text that is not blank.

    ``path`` is the plan or its directory; by default the environment variable SABUN_ROLLOUT, else ./rollout.toml.
    ``stored`` is a checkpoint's ``Choice.state_dict()``, which is kept. Raises RolloutError where there is no plan, or
    ``stored`` belongs to another job. Warns (SabunWarning) where the champion is chosen because the audit log is not
    valid.
    """
    if not isinstance(job_id, str) or not job_id.strip():
        raise OptionError(f"job_id must be a non-blank text (given: {job_id!r}).", fix="Such as a run's name.")
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
