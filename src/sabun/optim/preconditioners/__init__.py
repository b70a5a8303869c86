"""Preconditioners: one module per family."""
