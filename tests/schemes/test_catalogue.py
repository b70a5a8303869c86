"""Looking schemes up, and adding one: a single entry makes it known everywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from scipy.signal import lfilter

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


# ---------------------------------------------------------------- sums of memories

MIXTURES = [
    ((0.7, 0.8, 2), (0.3, 0.96, 0)),
    ((0.5, 0.7, 1), (0.3, 0.9, 1), (0.2, 0.98, 0)),
    ((0.25, 0, 0), (0.25, 0.5, 0.5), (0.25, 0.9, 0), (0.25, 0.99, -0.2)),
]


def _response(triples: tuple[tuple[float, float, float], ...], gradients: np.ndarray) -> np.ndarray:
    """The definition: every memory runs alone, from rest."""
    total, means, last = [], [0.0] * len(triples), 0.0
    for g in gradients:
        for i, (_, beta, gamma) in enumerate(triples):
            means[i] = beta * means[i] + (1 - beta) * (g + gamma * (g - last))
        last = g
        total.append(sum(weight * mean for (weight, _, _), mean in zip(triples, means, strict=True)))
    return np.array(total)


@pytest.mark.parametrize("triples", MIXTURES)
def test_a_sum_of_memories_is_one_scheme_with_their_roots(triples: tuple[tuple[float, float, float], ...]) -> None:
    scheme = schemes.memories(*triples)
    impulse = np.zeros(6000)
    impulse[0] = 1.0
    response = _response(triples, impulse)
    filter_ = scheme.to_filter()
    b, a = ([float(c) for c in row] for row in (filter_.b, filter_.a))
    assert lfilter(b, a, impulse) == pytest.approx(response, abs=1e-13)
    found = np.roots([float(c) for c in scheme.alpha])
    assert sorted(found.real) == pytest.approx(sorted([1.0, *(beta for _, beta, _ in triples if beta)]), abs=1e-9)
    assert abs(found.imag).max() < 1e-9
    age = float(np.arange(len(response)) @ response)
    assert float(scheme.mean_age) == pytest.approx(age, rel=1e-9)
    assert float(scheme.error_constant) == pytest.approx(0.5 + age, rel=1e-9)
    assert scheme.order == 1
    # The largest real hλ at which all roots of ρ(z) + hλσ(z) are inside the circle, on a fine grid of numpy's roots.
    alpha, beta = ([float(c) for c in row] for row in (scheme.alpha, scheme.beta))
    sigma = np.pad([0.0, *beta], (0, max(0, len(alpha) - len(beta) - 1)))
    edge = next(x for x in np.arange(0.01, 80, 0.01) if abs(np.roots(np.array(alpha) + x * sigma)).max() > 1 + 1e-12)
    assert scheme.stability_interval == pytest.approx(edge, abs=0.011)


def test_the_noise_gain_of_memories_is_that_of_simulated_noise() -> None:
    x, generator = 0.05, np.random.default_rng(0)
    triples = MIXTURES[0]
    gains = {}
    for name, memories in (("mixture", triples), ("euler", ((1.0, 0.0, 0.0),))):
        theta, means, last = np.zeros(4000), np.zeros((len(memories), 4000)), np.zeros(4000)
        for _ in range(1200):
            g = x * theta + generator.standard_normal(4000)  # h = 1, λ = x
            for i, (_, beta, gamma) in enumerate(memories):
                means[i] = beta * means[i] + (1 - beta) * (g + gamma * (g - last))
            last = g
            theta = theta - sum(weight * mean for (weight, _, _), mean in zip(memories, means, strict=True))
        gains[name] = theta.var()
    assert schemes.memories(*triples).noise_gain(x) == pytest.approx(gains["mixture"] / gains["euler"], rel=0.08)


def test_memories_trained_by_the_optimizer_are_the_sum_of_separate_means() -> None:
    import torch

    import sabun

    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = sabun.Optimizer([parameter], lr=0.1, scheme="memories(0.7, 0.8, 2, 0.3, 0.96)", start_up="rest")
    gradients, path = [], [parameter.detach().clone().numpy()]
    curvature = torch.tensor([1.0, 3.0], dtype=torch.float64)
    for _ in range(30):
        parameter.grad = curvature * parameter.detach()
        gradients.append(parameter.grad.numpy().copy())
        optimizer.step()
        path.append(parameter.detach().clone().numpy())
    velocity = np.stack([_response(MIXTURES[0], np.array(gradients)[:, i]) for i in range(2)], axis=1)
    assert np.diff(np.array(path), axis=0) == pytest.approx(-0.1 * velocity, abs=1e-12)
    resumed = sabun.Optimizer([torch.nn.Parameter(parameter.detach().clone())], lr=0.1, scheme=schemes.memories())
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[0]["scheme"] == schemes.memories()


def test_members_of_the_plane_are_memories_and_equal_decays_are_one() -> None:
    assert schemes.memories((1, 0.8, 2)).alpha == schemes.look_ahead(0.8, 2).alpha
    assert schemes.memories((1, 0.8, 2)).beta == schemes.look_ahead(0.8, 2).beta
    halves = schemes.memories((0.5, 0.8, 2), (0.5, 0.8, 2))
    assert (halves.alpha, halves.beta) == (schemes.look_ahead(0.8, 2).alpha, schemes.look_ahead(0.8, 2).beta)
    assert schemes.memories((1, 0, 0)).alpha == schemes.get("euler").alpha
    assert schemes.memories().name == "memories(0.7, 0.8, 2, 0.3, 0.96)"
    assert schemes.get("memories(0.7, 0.8, gamma_1=2, weight_2=0.3)") == schemes.memories()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: schemes.memories((0.7, 0.8, 2)), "sum to 0.7, not 1"),
        (lambda: schemes.get("memories(1, 0.9)"), "sum to 1.3, not 1"),
        (lambda: schemes.memories(*[(0.2, 0.9, 0)] * 5), "one to 4 triples"),
        (lambda: schemes.memories((1, 1, 0)), "beta_1 must be a number in [0, 1)"),
    ],
)
def test_memories_that_are_none(make: Callable[[], object], says: str) -> None:
    with pytest.raises(SchemeError) as caught:
        make()
    assert says in str(caught.value)
    assert caught.value.fix


def test_the_mean_age_of_schemes_of_higher_order_is_minus_a_half(multistep: LinearMultistep) -> None:
    assert multistep.mean_age == (
        multistep.error_constant - Fraction(1, 2) if multistep.order == 1 else Fraction(-1, 2)
    )
