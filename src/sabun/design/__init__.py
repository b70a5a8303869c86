"""Design of multistep schemes: coefficients that are best for a given objective under given bounds.

The search is global (differential evolution from SciPy, in the extra ``sabun[design]``). The result has rational
coefficients, and every bound is verified on them by the exact analysis.
"""

from __future__ import annotations

from sabun.design.difference import design_difference
from sabun.design.multistep import design_multistep

__all__ = ["design_difference", "design_multistep"]
