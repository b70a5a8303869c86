"""The step controls, one module per kind. Importing the package registers them."""

from __future__ import annotations

from sabun.optim.control.balance import Balance
from sabun.optim.control.controller import STEP_CONTROLS, Fixed, StepContext, StepControl
from sabun.optim.control.embedded_error import EmbeddedError
from sabun.optim.control.stability import Stability

__all__ = ["STEP_CONTROLS", "Balance", "EmbeddedError", "Fixed", "Stability", "StepContext", "StepControl"]
