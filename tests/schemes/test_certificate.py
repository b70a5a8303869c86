"""The certificate as a table, as JSON and as sentences, in two languages."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from sabun import schemes
from sabun.errors import OptionError, SchemeError
from sabun.messages.formatting import short
from sabun.messages.languages import languages


def test_the_figures_are_those_of_the_scheme(scheme: schemes.Scheme) -> None:
    c = schemes.certify(scheme)
    assert c.scheme == scheme.name
    assert c.order == scheme.order
    assert c.error_constant == scheme.error_constant
    assert c.stability_interval == scheme.stability_interval
    assert c.gradient_evaluations == scheme.gradient_evaluations
    assert c.state_copies == scheme.state_copies
    assert c.usable == scheme.is_usable
    assert (c.refusal is None) == c.usable == (c.alternative is None)


def test_json_round_trip(scheme: schemes.Scheme) -> None:
    data = schemes.certify(scheme).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["error_constant_exact"] == str(scheme.error_constant)


def test_every_certificate_reads_well(scheme: schemes.Scheme) -> None:
    c = schemes.certify(scheme)
    for lang in languages():
        for text in (c.table(lang), c.sentence(lang), c.sentence(lang, lr=0.01)):
            assert not re.search(r"[{}]|nan|None|inf\b", text), text
            assert scheme.name in text
    assert str(c) == c.table("en")


def test_sentence_in_english() -> None:
    text = schemes.certify(schemes.nesterov(0.9)).sentence("en")
    assert "order 1 with error constant 8.6" in text
    assert "stable up to hλ = 13.57: it will oscillate and diverge where the curvature exceeds 13.57/lr" in text
    assert "scatters the weights 3% less than with plain SGD" in text
    assert "keeps one buffer the size of the weights" in text
    with_lr = schemes.certify(schemes.nesterov(0.9)).sentence("en", lr=0.1)
    assert "at learning rate 0.1 it will oscillate and diverge where the curvature exceeds 135.7" in with_lr


def test_sentence_in_japanese() -> None:
    text = schemes.certify(schemes.nesterov(0.9)).sentence("ja", lr=0.1)
    assert "1次の精度（誤差定数 8.6）" in text
    assert "hλ = 13.57 まで" in text
    assert "曲率が 135.7 を超える方向があると、振動して発散します。" in text
    assert "3% 小さくなります" in text


def test_a_multiple_root_on_the_circle_is_not_said_to_be_outside() -> None:
    double = schemes.LinearMultistep("double", (1, 1, -1, -1), (4,))  # ρ(z) = (z − 1)(z + 1)²
    assert "multiple root on the unit circle" in schemes.certify(double).sentence("en")
    assert "単位円上の重根" in schemes.certify(double).sentence("ja")


def test_sentences_of_refused_schemes() -> None:
    text = schemes.certify("lagrange-4").sentence("en")
    assert "cannot be used" in text
    assert "−2.686" in text
    assert "outside the unit circle" in text
    assert "単位円の外" in schemes.certify("lagrange-4").sentence("ja")
    assert "on the unit circle" in schemes.certify("leap-frog").sentence("en")
    assert "単位円上" in schemes.certify("leap-frog").sentence("ja")


def test_noise_in_words_is_a_standard_deviation() -> None:
    # variance 1.882 is a spread 37% wider
    assert "scatters the weights 37% more" in schemes.certify("difference-5").sentence()
    assert "as much as with plain SGD" in schemes.certify("euler").sentence()
    assert "already unstable" in schemes.certify("difference-10").sentence()


def test_largest_curvature() -> None:
    c = schemes.certify("euler")
    assert c.largest_curvature(0.1) == 20
    for lr in (0, -1, float("nan")):
        with pytest.raises(SchemeError, match="learning rate"):
            c.largest_curvature(lr)
        with pytest.raises(SchemeError, match="learning rate"):
            c.sentence(lr=lr)


def test_an_unknown_language() -> None:
    with pytest.raises(OptionError, match="unknown language 'fr'"):
        schemes.certify("euler").table("fr")


def test_tables_line_up_in_a_terminal() -> None:
    import unicodedata

    for line in schemes.certify("rk4").table("ja").splitlines():
        label = line.split("  ")[0]
        assert sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in label) <= 46


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2, "2"), (13.571428, "13.57"), (0.9, "0.9"), (0.00833333, "0.008333"), (135.714, "135.7"),
     (699.8, "699.8"), (1.2e7, "1.200e+07"), (-2.686, "−2.686"), (0.99999, "1")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_it_says_oscillate_exactly_where_errors_must_change_sign() -> None:
    """Just beyond the edge: the dominant root of a multistep scheme is never positive; Heun's and RK4's R is."""
    for name in schemes.SCHEMES:
        scheme = schemes.get(name)
        certificate = schemes.certify(scheme)
        if not certificate.usable:
            continue
        oscillates = "oscillate" in certificate.sentence("en")
        assert oscillates == ("振動" in certificate.sentence("ja"))
        if isinstance(scheme, schemes.LinearMultistep):
            x = 1.001 * scheme.stability_interval
            size = max(len(scheme.alpha), len(scheme.beta) + 1)
            poly = np.zeros(size)
            poly[: len(scheme.alpha)] += [float(a) for a in scheme.alpha]
            poly[1 : len(scheme.beta) + 1] += [x * float(b) for b in scheme.beta]
            roots = np.roots(poly)
            worst = roots[np.argmax(np.abs(roots))]
            assert abs(worst) > 1
            assert worst.real < 0 or abs(worst.imag) > 1e-6, name
            assert oscillates, name
        else:
            assert not oscillates, name
