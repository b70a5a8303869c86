"""Read the study in a directory that the user names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sabun.errors import StudyError

if TYPE_CHECKING:
    from sabun.poc.evidence import StudyEvidence
    from sabun.poc.spec import Study

__all__ = ["evidence_of", "require_study", "specification_of"]


def require_study(directory: Path) -> None:
    """Raise StudyError, which is bad input, where there is no study in ``directory``."""
    from sabun.poc.torch_loading import uncollected

    with uncollected():
        from sabun.poc.evidence import exists

    if not exists(directory):
        raise StudyError(f"there is no study in {directory}.", fix="Check the path, or run a study into it first.")


def evidence_of(directory: Path) -> StudyEvidence:
    """Return the verified evidence of the study in ``directory``. Raises StoreError where it cannot be verified."""
    require_study(directory)
    from sabun.poc.evidence import read

    return read(directory)


def specification_of(directory: Path) -> Study:
    """Return the specification of the study in ``directory``; its records are not read."""
    require_study(directory)
    from sabun.poc.evidence.specification import FrozenSpecification

    return FrozenSpecification.read(directory).study
