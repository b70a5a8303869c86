"""Compiled forms of the step."""
