"""What ``sabun.optim`` knows of the arms' numerical methods, for the report."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sabun import optim
from sabun.errors import SabunError
from sabun.poc.judgement.assessment import Tuning
from sabun.poc.spec import Study
from sabun.script import arms

__all__ = ["describe_arms"]


def describe_arms(study: Study, tuning: Mapping[str, Tuning]) -> dict[str, Mapping[str, object] | None]:
    """Return for each arm what :func:`sabun.optim.describe` says of its optimizer as tuned; None if it is unknown."""
    found: dict[str, Mapping[str, object] | None] = {}
    for arm in study.arms:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        best = tuning[arm.name].best if arm.name in tuning else {}
        try:
            found[arm.name] = optim.describe(arms.recipe(arm).build(model, best))
        except (SabunError, ImportError):
            found[arm.name] = None
    return found
