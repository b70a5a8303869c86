"""How difficult it is to adopt the leading candidate: lines to change, new dependencies, and what to watch.

Everything comes from the study: the lines of its script that call sabun, the versions that were recorded, and the
measured memory, time and tuning. The level counts what is a burden: none is *low*, one or two are *medium*, more are
*high*.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from sabun import __version__
from sabun.messages.sentences import Value
from sabun.poc.judgement.assessment import Comparison
from sabun.poc.spec import Arm
from sabun.report.facts import Adoption, ArmFacts, Candidate, Note

__all__ = ["adoption"]

MEMORY: Final = 1.10
"""From this ratio of peak memory on, the memory is a burden."""
NARROW: Final = 0.5
"""Below this share of the baseline's tolerance, the learning rate is a burden."""


def adoption(arm: Arm, lead: Candidate, arms: Sequence[ArmFacts], environment: Mapping[str, Any]) -> Adoption:
    """Return how difficult it is to adopt ``lead``, the judgement on ``arm``."""
    today, new = arms[0], next(facts for facts in arms if facts.name == lead.arm)
    names: dict[str, Value] = {"arm": lead.arm, "baseline": today.name}
    burdens: list[Note] = []
    watch: list[Note] = []
    memory, time = lead.kpis.get("peak_memory_bytes"), lead.deciding("K3")
    if memory is not None and memory.effect is not None and math.isfinite(memory.effect):
        note = Note("adopt.memory", names | _interval(memory))
        (burdens if memory.effect > MEMORY else watch).append(note)
    if time is not None and time.effect is not None:
        values = names | _interval(time) | {"limit": time.threshold}
        met = lead.verdict.reason("K3").outcome == "pass"
        (watch if met else burdens).append(Note("adopt.time" if met else "adopt.time_open", values))
    gradients = new.method.gradient_evaluations if new.method is not None else 1
    if gradients > 1:
        burdens.append(Note("adopt.gradients", names | {"gradients": gradients}))
    if new.summary.diverged > today.summary.diverged:
        burdens.append(
            Note("adopt.diverged", names | {"diverged": new.summary.diverged, "runs": len(new.summary.seeds)})
        )
    rate, width, usual = new.best.get("lr"), new.summary.lr_tolerance_decades, today.summary.lr_tolerance_decades
    if width is not None and usual is not None and width < NARROW * usual:
        burdens.append(Note("adopt.rate_narrow", names | {"width": 10**width, "usual": 10**usual}))
    if isinstance(rate, int | float):
        watch.append(Note("adopt.rate", names | {"rate": float(rate)}))
    watch.append(Note("adopt.guard", names))
    level: Literal["low", "medium", "high"] = "low" if not burdens else "medium" if len(burdens) <= 2 else "high"
    return Adoption(level, _lines(arm, environment), _needs(arm, environment), tuple(burdens), tuple(watch))


def _interval(found: Comparison) -> dict[str, Value]:
    return {"effect": found.effect, "low": found.low, "high": found.high}


def _lines(arm: Arm, environment: Mapping[str, Any]) -> Note:
    """The lines of the study's script that call sabun; for a task, the line that makes the optimizer."""
    changed = environment.get("changed_lines")
    if isinstance(changed, Mapping) and changed:
        return Note("adopt.lines", {"lines": sum(changed.values()), "files": tuple(changed)})
    key = "adopt.line_class" if ":" in arm.optimizer else "adopt.line"
    return Note(key, {"notation": arm.optimizer.partition(":")[2] or arm.optimizer})


def _needs(arm: Arm, environment: Mapping[str, Any]) -> Note:
    """What adopting needs that the environment of the study may lack in production."""
    module, colon, _ = arm.optimizer.partition(":")
    if colon and module.split(".")[0] == "torch":
        return Note("adopt.needs_nothing")
    if colon:
        return Note("adopt.needs_class", {"module": module.split(".")[0]})
    packages = environment.get("packages")
    versions = {"torch": environment.get("torch"), **(packages if isinstance(packages, Mapping) else {})}
    core = [re.split(r"[<>=!~;\[ ]", line)[0] for line in _requirements()]
    there = tuple(f"{name} {versions[name]}" for name in core if versions.get(name))
    missing = tuple(name for name in core if not versions.get(name))
    values: dict[str, Value] = {
        "version": str(environment.get("sabun", __version__)),
        "there": there,
        "missing": missing,
    }
    return Note("adopt.needs_more" if missing else "adopt.needs_sabun", values)


def _requirements() -> list[str]:
    """The requirements of sabun's core."""
    try:
        found = importlib.metadata.requires("sabun") or []
    except importlib.metadata.PackageNotFoundError:
        found = []
    return [line for line in found if "extra ==" not in line] or ["torch", "numpy"]
