"""Looking schemes up, and adding one: a single entry makes it known everywhere."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest

from sabun import schemes
from sabun.errors import SchemeError
from sabun.messages.languages import languages
from sabun.messages.sentences import has
from sabun.schemes import ButcherTableau, Entry, LinearMultistep
from sabun.schemes.catalogue import parse


def test_every_entry_is_complete() -> None:
    for name, entry in schemes.SCHEMES.items():
        assert name == entry.name
        assert entry.source
        assert all(has(f"scheme.{name}", lang) for lang in languages())
        scheme = entry.build()
        assert scheme.source == entry.source
        assert set(scheme.parameters) == set(entry.family)
        if entry.instead:
            schemes.require_usable(schemes.get(entry.instead))


def test_names_are_canonical_and_round_trip(scheme: schemes.Scheme) -> None:
    assert schemes.get(scheme.name) == scheme
    assert schemes.get(scheme.name).name == scheme.name


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("nesterov", "nesterov(0.9)"),
        (" nesterov ( 0.90 ) ", "nesterov(0.9)"),
        ("nesterov(beta=0.95)", "nesterov(0.95)"),
        ("look-ahead", "look-ahead(0.9, 2)"),
        ("look-ahead(0.9, 2.0)", "look-ahead(0.9, 2)"),
        ("look-ahead(gamma=1/3)", "look-ahead(0.9, 1/3)"),
        ("look-ahead(0.8, gamma=1e-3)", "look-ahead(0.8, 0.001)"),
        ("euler()", "euler"),
        ("rkc2(4)", "rkc2(4, 2/13)"),
    ],
)
def test_spelling(spec: str, name: str) -> None:
    assert schemes.get(spec).name == name


def test_keywords_override_the_text() -> None:
    assert schemes.get("nesterov(0.5)", beta=0.8) == schemes.nesterov(0.8)
    assert schemes.get(schemes.nesterov(0.5), beta=0.8) == schemes.nesterov(0.8)
    scheme = schemes.get("euler")
    assert schemes.get(scheme) is scheme
    assert isinstance(schemes.get("rk4"), ButcherTableau)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nesterof", "Did you mean 'nesterov'?"),
        ("adams-bashfort-3", "Did you mean 'adams-bashforth-3'?"),
        ("", "is not a scheme"),
        ("nesterov(0.9", "is not a scheme"),
        ("nesterov(0.9, 2)", "too many"),
        ("nesterov(0.9, beta=0.9)", "twice"),
        ("nesterov(betta=0.9)", "Did you mean 'beta'?"),
        ("nesterov(x)", "'x' is not a number"),
        ("nesterov(1/0)", "not a number"),
        ("nesterov(nan)", "not a number"),
        ("euler(1)", "no parameters"),
        ("euler(beta=1)", "has no parameters"),
        ("nesterov(1)", "beta must be a number in [0, 1), not 1"),
        ("nesterov(-0.1)", "[0, 1)"),
        ("look-ahead(0.9, -0.6)", "gamma must be a number in [-0.5"),
        ("rkc2(1)", "stages must be a whole number in [2, 20]"),
        ("chebyshev(2.5)", "stages must be a whole number"),
        ("__import__('os')", "unknown scheme '__import__'"),
    ],
)
def test_misspelt(spec: str, says: str) -> None:
    with pytest.raises(SchemeError) as caught:
        schemes.get(spec)
    assert says in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.9", True])
def test_a_parameter_that_is_no_number(value: object) -> None:
    with pytest.raises(SchemeError, match="finite number"):
        schemes.nesterov(value)


@pytest.mark.parametrize("spec", [None, 3, 0.9])
def test_a_spec_that_is_no_text(spec: object) -> None:
    with pytest.raises(SchemeError, match="named by a string"):
        schemes.get(spec)


def test_parse_gives_exact_numbers() -> None:
    assert parse("look-ahead(0.9, gamma=2)") == ("look-ahead", {"beta": Fraction(9, 10), "gamma": Fraction(2)})


def test_adding_a_scheme_is_one_entry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Analysed, listed, explained and usable."""
    import torch

    import sabun
    from sabun.cli import main

    third = Fraction(1, 3)
    entry = Entry(
        "mine",
        lambda: ((Fraction(1), -1 - third, third), (Fraction(2), Fraction(-4, 3))),
        order=1,
        source="me",
        summary="x",
    )
    monkeypatch.setitem(schemes.SCHEMES, "mine", entry)

    scheme = schemes.get("mine")
    assert isinstance(scheme, LinearMultistep)
    assert (scheme.order, scheme.is_usable) == (1, True)
    assert schemes.certify(scheme).stability_interval == pytest.approx(float((2 + 2 * third) / (2 + 4 * third)))

    with pytest.raises(SystemExit) as stop:
        main(["schemes", "--json"])
    assert stop.value.code == 0
    assert "mine" in [c["scheme"] for c in json.loads(capsys.readouterr().out)]
    with pytest.raises(SystemExit) as stop:
        main(["explain", "mine", "--lr", "0.1"])
    assert stop.value.code == 0
    assert "stable up to hλ = 0.8" in capsys.readouterr().out

    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = sabun.Optimizer([parameter], lr=0.1, scheme="mine")
    for _ in range(300):
        optimizer.zero_grad()
        (parameter.square().sum() / 2).backward()
        optimizer.step()
    assert parameter.abs().max() < 1e-10


def test_importing_schemes_brings_numpy_and_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, sabun.schemes as s; s.certify('taylor-4'); "
        "print(sorted({'numpy', 'torch', 'scipy', 'altair', 'contourpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['numpy']", done.stderr
