"""Accelerate: averaged evaluation. ``prepare``, accumulation and mixed precision need no integration.

    model, optimizer, loader = accelerator.prepare(model, sabun.create("nadamw", model, lr=2e-3), loader)

Accelerate wraps the optimizer. To evaluate at the average of an averaging optimizer, use:

    with averaged(optimizer):    # the optimizer that prepare() returned
        evaluate(model)

Tested with accelerate 1.15. Needs ``pip install 'sabun[accelerate]'``.
"""

from __future__ import annotations

from sabun.integrations.common import at_average

__all__ = ["averaged"]

averaged = at_average
"""Put the averaged parameters into the model inside the ``with`` block; see ``Optimizer.averaged``."""
