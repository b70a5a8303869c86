"""Accelerate: ``prepare``, accumulation and mixed precision work with sabun's optimizers as they are.

    model, optimizer, loader = accelerator.prepare(model, sabun.create("nadamw", model, lr=2e-3), loader)

One thing needs a line, for Accelerate's wrapper hides it: the average of an averaging optimizer.

    with averaged(optimizer):    # the optimizer that prepare() returned
        evaluate(model)

Tested with accelerate 1.15. Needs ``pip install 'sabun[accelerate]'``.
"""

from __future__ import annotations

from sabun.integrations.common import handed_out

__all__ = ["averaged"]

averaged = handed_out
"""The averaged parameters inside the ``with`` block, the training point after it; see ``Optimizer.averaged``."""
