"""The factory of synthetic studies as a fixture."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import Case, make


@pytest.fixture(scope="session")
def case() -> Callable[..., Case]:
    """The factory :func:`make`."""
    return make
