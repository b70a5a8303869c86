"""Comparison of runtime environments (:mod:`sabun.poc.executors.runtime_environment`).

Two environments are of one *kind* if their runs may be compared: same processor, device, torch, sabun, C compiler,
packages of the arms, number of threads, and source of the task. A commit, a kernel or a host name may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["differences"]

_KIND = ("machine", "device", "threads", "torch", "sabun", "compiler", "packages", "task_source")


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return what makes two environments differ in kind, in words; empty if nothing does."""
    found = []
    for key in _KIND:
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [
                f"{part}: {a.get(part)}, now {b.get(part)}" for part in sorted({*a, *b}) if a.get(part) != b.get(part)
            ]
        elif a != b:
            found.append(f"{key.replace('_', ' ')}: {a}, now {b}")
    return found
