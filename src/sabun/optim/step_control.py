"""How long is the step? (fixed only, for now)"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Controller(Protocol):
    evaluations: int

    def lengths(self, optimizer: Any, closure: Any) -> list[float]: ...
    def after(self, optimizer: Any) -> None: ...
    def stats(self, optimizer: Any) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True)
class StepControl:
    name: str
    summary: str
    make: Callable[[], Controller]
    finds_step: bool = False
    running: Mapping[str, object] = field(default_factory=dict)


def _none() -> Controller:
    raise NotImplementedError


STEP_CONTROLS = {"fixed": StepControl("fixed", "lr, as scheduled", _none)}
