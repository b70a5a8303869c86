"""The step control: it determines the length of a step, like the controller of an ODE solver.

An entry is a subclass of :class:`StepControl`, registered in :data:`STEP_CONTROLS`; its :meth:`StepControl.make` makes
the :class:`Controller` of an optimizer. ``fixed`` has none: the step length is lr, from any
``torch.optim.lr_scheduler``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from sabun.optim.averaging import Averaging
from sabun.optim.control.same_batch import SameBatch
from sabun.optim.preconditioners.preconditioner import Preconditioner
from sabun.optim.role_registry import Registry, Role

__all__ = ["STEP_CONTROLS", "Controller", "Fixed", "StepContext", "StepControl", "UpdateEntry"]

UpdateEntry = tuple[Tensor, Tensor, Tensor, dict[str, Any]]
"""A parameter, its plain real view, the update u in the same form, and the parameter's state."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """The parts of an optimizer that a controller reads and writes.

    It may write the scalars named by ``StepControl.running`` into the groups, ``lr`` too if ``lr_found``, and further
    tensors into the state. ``batch`` is None for a step without a closure.
    """

    groups: list[dict[str, Any]]
    state: Mapping[Tensor, dict[str, Any]]
    lr_found: bool = False
    batch: SameBatch | None = None

    def take(self, length: float, running: Mapping[str, object]) -> list[float]:
        """One length for all groups: h of every group, at most its lr unless lr is found.

        The scalars ``running`` of the first group are copied into the others.
        """
        lead = self.groups[0]
        lengths = []
        for group in self.groups:
            group |= {key: lead[key] for key in running}
            if self.lr_found:
                group["lr"] = length
            lengths.append(length if self.lr_found else min(length, float(group["lr"])))
        return lengths


class Controller(Protocol):
    """A running step control; ``evaluations`` counts the gradients of the last step."""

    evaluations: int

    def before(self, context: StepContext) -> None:
        """Called before the step, when the parameters have their gradients."""

    def lengths(self, context: StepContext, updates: Iterator[UpdateEntry]) -> list[float]:
        """h of every group. ``updates`` yields the update of every parameter."""

    def stats(self, groups: list[dict[str, Any]]) -> dict[str, float]:
        """Figures of the last step by name."""


@dataclass(frozen=True)
class StepControl(Role):
    """Base of the step controls.

    - ``finds_step``: lr may be left out.
    - ``needs_closure``: ``step`` needs a closure.
    - ``copies``: its state tensors of the size of θ.
    - ``running``: scalars that a parameter group keeps in checkpoints, with their initial values.
    """

    role: ClassVar[str] = "step_control"
    finds_step: ClassVar[bool] = False
    needs_closure: ClassVar[bool] = False
    copies: ClassVar[int] = 0
    running: ClassVar[Mapping[str, object]] = {}

    def make(self) -> Controller | None:
        """The controller of one optimizer; None: lr as it is."""
        return None

    @classmethod
    def works_with(cls, role: type[Preconditioner] | type[Averaging]) -> bool:
        """Whether the control can be combined with this preconditioner or average."""
        return True


STEP_CONTROLS: Registry[StepControl] = Registry("step control", "fixed")
"""The step controls by name."""


@STEP_CONTROLS.register
@dataclass(frozen=True)
class Fixed(StepControl):
    """The step length is lr."""

    name: ClassVar[str] = "fixed"
    summary: ClassVar[str] = "lr as it is; any lr_scheduler"
