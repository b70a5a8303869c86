"""The next steps after a decision, with the commands that do them and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sabun.command_line import quoted
from sabun.messages.sentences import Value
from sabun.poc.allocation import Design
from sabun.poc.spec import DEFAULT_BUDGET, SCRIPT, SCRIPT_PREFIX, Budget
from sabun.report.facts import Note, Step
from sabun.report.narrative import Findings, advice, name_of

__all__ = ["steps"]

_KEYS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "go": ("go_own", "go_pilot", "go_stages", "go_back"),
        "go_own": ("go_pilot", "go_watch", "go_stages", "go_back"),
        "promising": ("promising_1", "promising_2", "promising_3"),
        "promising_busy": ("promising_busy_1", "promising_busy_2"),
        "small": ("small_1", "small_2", "small_3"),
        "no_go": ("no_go_1", "no_go_2"),
    }
)
"""The next steps after each decision; after a go on the reader's own task, nothing has to be repeated on one."""
_TORCH: Final = frozenset(
    (
        "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Muon", "NAdam", "RAdam",
        "RMSprop", "Rprop", "SGD", "SparseAdam",
    )
)  # fmt: skip
"""The optimizers of ``torch.optim``, which a roll-out can name as today's."""


OWN: Final = "runs/own"
"""Where the reader's own study goes, from which the pilot then starts."""


def steps(findings: Findings, path: str) -> tuple[Step, ...]:
    """Return the next steps, in order. ``path`` is the directory of the study; empty for logged runs."""
    values = findings.common()
    if findings.decision == "undecided":
        kind, numbers = advice(findings)
        keys = ["undecided", f"undecided_{kind}", *(["undecided_before"] if kind == "seeds" else [])]
        values |= numbers
    else:
        name = name_of(findings)
        keys = list(_KEYS["go_own" if name == "go" and findings.limits.own else name])
    return tuple(_step(key, findings, values, path) for key in keys)


def _step(key: str, findings: Findings, values: dict[str, Value], path: str) -> Step:
    """A step with its command, where the report knows all of it, and its cost."""
    command, cost = "", None
    place = quoted(path) if path else ""
    if key == "go_own":
        command = f'sabun poc run --script "python train.py" --candidate {_candidate(findings)} --out {OWN}'
        cost = _own_cost(findings)
    elif key == "go_pilot" and place:
        command, cost = _rollout(findings, place), "pilot"
    elif key in ("go_watch", "go_stages", "go_back") and place:
        command = {
            "go_watch": "sabun rollout status",
            "go_stages": "sabun rollout promote",
            "go_back": "sabun rollout rollback --reason diverged",
        }[key]
        cost = "none"
    elif key == "promising_2" and findings.limits.task.startswith(SCRIPT_PREFIX):
        script = quoted(findings.limits.task.removeprefix(SCRIPT_PREFIX))
        name = quoted(f"{findings.limits.task_name}-tuned")
        command = f"sabun poc run --script {script} --candidate {_candidate(findings)} --name {name}"
        cost = _own_cost(findings)
    elif key == "promising_3" and place:
        command, cost = _rollout(findings, place), "pilot"
    elif key == "promising_busy_2" and place:
        command = f"sabun poc resume {place} --time-again"
    elif key == "undecided_unfinished" and place:
        command = f"sabun poc resume {place} --retry-failed"
    elif key in ("promising_1", "promising_busy_1", "small_1", "small_2", "no_go_1", "no_go_2", "undecided"):
        cost = "none"
    elif key in ("undecided_search", "undecided_again"):
        cost = "again"
    spent: dict[str, Value] = {"seconds": findings.effort.total_s, "runs": findings.effort.runs}
    if cost == "own_priced" and findings.money is not None:
        money = findings.money
        runs = Design.of(Budget.model_validate(DEFAULT_BUDGET)).runs(arms=2)
        total = runs * money.hours_per_job * money.price_per_hour
        spent |= {"runs": runs, "hours": money.hours_per_job, "price": money.price_per_hour, "total": total}
    return Step(Note(f"step.{key}", values), command, None if cost is None else Note(f"cost.{cost}", spent))


def _own_cost(findings: Findings) -> str:
    """The cost of a study of the reader's jobs: in money where a job's hours and their price are given."""
    return "own_priced" if findings.money is not None and findings.money.hours_given else "own"


def _candidate(findings: Findings) -> str:
    """The leading candidate as an option takes it."""
    arm = next(arm for arm in findings.arms if arm.name == findings.lead.arm)
    given = ", ".join(f"{name}={value!r}" for name, value in arm.options.items())
    return quoted(f"{arm.optimizer}({given})" if given else arm.optimizer)


def _rollout(findings: Findings, place: str) -> str:
    """The commands that start a pilot from the study, or from the reader's own one where this is of another task.

    A script's own optimizer has to be named.
    """
    today, own = findings.arms[0], findings.limits.own
    command = f"sabun rollout init --study {place if own else OWN} --candidate {quoted(findings.lead.arm)}"
    if today.optimizer == SCRIPT or not own:
        name = f"torch.optim:{today.shown}" if own and today.shown in _TORCH else "MODULE:CLASS"
        rate = f"{today.rate:.6g}" if own and today.rate is not None else "LR"
        command += f" --champion {name} --champion-lr {rate}"
    return f"{command}\nsabun rollout promote"
