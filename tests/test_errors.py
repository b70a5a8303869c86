"""Errors carry cause and fix, survive processes, and are caught by the built-in that a caller would expect."""

from __future__ import annotations

import pickle

import pytest

from sabun import errors

KINDS = [
    getattr(errors, name)
    for name in errors.__all__
    if isinstance(getattr(errors, name), type) and name.endswith("Error")
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_cause_and_fix_and_survives_pickling(kind: type[errors.SabunError]) -> None:
    error = pickle.loads(pickle.dumps(kind("It broke.", fix="Mend it.")))
    assert type(error) is kind
    assert (error.cause, error.fix, str(error)) == ("It broke.", "Mend it.", "It broke. Mend it.")
    assert issubclass(kind, errors.SabunError)


def test_habitual_handlers_catch_them() -> None:
    assert issubclass(errors.SchemeError, ValueError)
    assert issubclass(errors.GradientError, RuntimeError)
    assert issubclass(errors.MissingExtraError, ImportError)


def test_unknown_names_the_nearest_and_lists_each_choice_once() -> None:
    error = errors.unknown(errors.SchemeError, "scheme", "nesterof", ["nesterov", "euler", "nesterov"])
    assert "'nesterof'" in error.cause
    assert error.fix == "Did you mean 'nesterov'? Known: euler, nesterov."
    assert "Did you mean" not in errors.unknown(errors.SchemeError, "scheme", "zzz", ["euler"]).fix


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert "Did you mean 'SGD'" in errors.unknown(errors.StudyError, "optimizer", "Sgd", ["SGD", "ASGD", "Adam"]).fix
