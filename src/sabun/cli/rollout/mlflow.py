"""``sabun rollout mlflow``: set the aliases of a registered model."""

from __future__ import annotations

from typing import Annotated

from sabun.cli import options
from sabun.cli.options import argument
from sabun.cli.rollout.output import update_aliases

__all__ = ["EPILOG", "mlflow"]

EPILOG = """**Reads** the state of the roll-out and the model's versions. **Writes** the aliases champion and challenger
in the model registry that MLflow is configured for.

**Examples**

- `MLFLOW_TRACKING_URI=http://mlflow:5000 sabun rollout mlflow forecast`

**Exit codes**

0 success · 1 a version is missing · 2 bad input, or mlflow is not installed
"""


def mlflow(
    model: Annotated[str, argument("Name of the registered model.", "MODEL")], plan: options.Plan = None
) -> None:
    """Set the aliases of a registered MLflow model to the versions that the current stage calls for."""
    from sabun.rollout.state import Rollout

    update_aliases(model, Rollout(plan))
