"""Leaves: one module for each other package that sabun works with. Nothing in sabun imports them."""
