"""Descriptions of the arms' numerical methods, for the report."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sabun import optim
from sabun.errors import SabunError
from sabun.poc.judgement.assessment import Tuning
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.spec import Study
from sabun.poc.trust import names_code
from sabun.script import arms

__all__ = ["describe_arms"]


def describe_arms(
    study: Study, tuning: Mapping[str, Tuning], resolved: ResolvedStudy | None = None
) -> dict[str, Mapping[str, object] | None]:
    """Return, for each arm, the description of its tuned optimizer (:func:`sabun.optim.describe`); None if unknown.

    Without ``resolved`` the notations of the arms are read; the task is not needed. Classes outside ``torch.optim`` are
    then unknown: a study that was received must not decide what is imported.
    """
    found: dict[str, Mapping[str, object] | None] = {}
    for arm in study.arms:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        best = tuning[arm.name].best if arm.name in tuning else {}
        if resolved is None and names_code(arm):
            found[arm.name] = None
            continue
        try:
            recipe = arms.recipe(arm) if resolved is None else resolved.arms[arm.name].recipe
            found[arm.name] = optim.describe(recipe.build(model, best))
        except (SabunError, ImportError):
            found[arm.name] = None
    return found
