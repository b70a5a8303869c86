"""How a study was carried out: its budget, where it ended early, and the fidelity and result of its tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from sabun.messages.sentences import Value
from sabun.option_value import OptionValue
from sabun.poc.evidence.audit_trail import LOOK, worked_s
from sabun.report.facts import Note

if TYPE_CHECKING:
    from sabun.poc.evidence import StudyEvidence

__all__ = ["course"]


def course(evidence: StudyEvidence) -> tuple[Note, ...]:
    """Return the sentences on how the study was carried out, most important first."""
    return (*_end(evidence), *_tuning(evidence))


def _end(evidence: StudyEvidence) -> Iterator[Note]:
    planned, budget = evidence.study.budget, evidence.effective.budget
    compared = [run for run in evidence.runs if run.phase == "evaluate"]
    pairs = len({run.seed for run in compared})
    looks = [event for event in evidence.events if event.event == LOOK and event.data.get("decided")]
    if looks and pairs < budget.seeds:
        saved = len(evidence.study.arms) * (budget.seeds - pairs)
        seconds = fmean(math.fsum(epoch.train_s + epoch.eval_s for epoch in run.epochs) for run in compared)
        yield Note("course.early", {"pairs": pairs, "planned": budget.seeds, "runs": saved, "seconds": saved * seconds})
    if budget.seeds < planned.seeds:
        yield Note("course.seeds", {"pairs": pairs, "planned": planned.seeds})
    if budget.trials < planned.trials:
        yield Note("course.trials", {"trials": budget.trials, "planned": planned.trials})
    if planned.limit:
        spent = worked_s(evidence.events)
        yield Note("course.limit", {"limit": planned.limit, "runs": len(evidence.runs), "spent": spent})


def _tuning(evidence: StudyEvidence) -> Iterator[Note]:
    study, budget = evidence.study, evidence.study.budget
    found = evidence.tuning.get(study.baseline.name)
    if found is None:
        return
    if budget.tuning_fraction < 1:
        values: dict[str, Value] = {
            "fraction": budget.tuning_fraction, "epochs": budget.tuning_epochs, "of": budget.epochs
        }  # fmt: skip
        yield Note("course.fidelity_data" if "{fraction}" in study.task else "course.fidelity_epochs", values)
    if not math.isfinite(found.objective):  # no trial ended: none was the best
        return
    own, own_loss = found.trials[0]
    values = {"arm": study.baseline.name, "own": _shown(own), "own_loss": own_loss, "trials": len(found.trials)}
    if dict(own) == dict(found.best):
        yield Note("course.own_best", values)
    else:
        yield Note("course.own", {**values, "best": _shown(found.best), "best_loss": found.objective})


def _shown(values: Mapping[str, OptionValue]) -> str:
    # The factor on all rates of a script's own optimizer.
    return ", ".join(
        f"lr × {value:.3g}"
        if name == "lr_multiplier" and isinstance(value, float)
        else f"{name} {value:.3g}"
        if isinstance(value, float)
        else f"{name} {value}"
        for name, value in values.items()
    )
