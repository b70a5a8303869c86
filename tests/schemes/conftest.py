"""Generic tests of this folder run over the catalogue itself, and over members off the default."""

from __future__ import annotations

import pytest

from sabun import schemes
from sabun.schemes import ButcherTableau, LinearMultistep

_MORE = ("heavy-ball(0.5)", "nesterov(0.99)", "look-ahead(0.9, 4)", "look-ahead(0.9, 9.5)", "look-ahead(0.9, -0.02)",
         "look-ahead(0, 0.5)", "quasi-hyperbolic(0.7, 0.9)", "order-two(0.3)", "lion(0.95, 0.98)",
         "memories(0.5, 0.7, 1, 0.5, 0.9)",
         "chebyshev(3, 0)", "chebyshev(8, 0.05)", "rkc2(2)", "rkc2(9)")  # fmt: skip
_EVERY = [entry.build() for entry in schemes.SCHEMES.values()] + [schemes.get(spec) for spec in _MORE]
_GROUPS = {
    "multistep": [s for s in _EVERY if isinstance(s, LinearMultistep)],
    "usable": [s for s in _EVERY if isinstance(s, LinearMultistep) and s.is_usable],
    "tableau": [s for s in _EVERY if isinstance(s, ButcherTableau)],
    "scheme": _EVERY,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """An argument of a group's name means every scheme of that group."""
    for group, members in _GROUPS.items():
        if group in metafunc.fixturenames:
            metafunc.parametrize(group, members, ids=[s.name for s in members])
