"""The preconditioners, one module per kind. Importing the package registers them."""

from __future__ import annotations

from sabun.optim.preconditioners.diagonal import Adam, Identity, Sign
from sabun.optim.preconditioners.kronecker import Kronecker
from sabun.optim.preconditioners.preconditioner import PRECONDITIONERS, Preconditioner, Work
from sabun.optim.preconditioners.spectral import Spectral

__all__ = ["PRECONDITIONERS", "Adam", "Identity", "Kronecker", "Preconditioner", "Sign", "Spectral", "Work"]
