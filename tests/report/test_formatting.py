"""Numbers as each language's readers expect them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sabun.messages import languages as language_files
from sabun.messages.formatting import STYLES, Formatter, money, show
from sabun.messages.languages import Language, languages

from .. import pseudo


@pytest.mark.parametrize(
    ("value", "style", "en", "ja"),
    [
        (-0.1361, "spct", "−13.6%", "−13.6%"),
        (0.1361, "spct", "+13.6%", "+13.6%"),
        (0.0, "spct", "0%", "0%"),
        (-0.00001, "spct", "0.00%", "0.00%"),
        (12.34, "pct", "1,234%", "1,234%"),
        (1.034, "ratio", "1.03×", "1.03倍"),
        (0.012, "ratio", "0.012×", "0.012倍"),
        (250.0, "ratio", "250×", "250倍"),
        (0.95, "level", "95%", "95%"),
        (0.9875, "level", "98.75%", "98.75%"),
        (1234567, "int", "1,234,567", "1,234,567"),
        (0.079356, "loss", "0.07936", "0.07936"),
        (3.2e-7, "num", "3.20×10⁻⁷", "3.20×10⁻⁷"),
        (0.0, "s", "0 s", "0秒"),
        (2.5e-5, "s", "25.0 µs", "25.0マイクロ秒"),
        (0.0123, "s", "12.3 ms", "12.3ミリ秒"),
        (12.34, "s", "12.3 s", "12.3秒"),
        (99.99, "s", "1 min 40 s", "1分40秒"),
        (147.2, "s", "2 min 27 s", "2分27秒"),
        (9000, "s", "2.5 h", "2.5時間"),
        (3.0, "h", "3 h", "3時間"),
        (0.05, "months", "2 days", "2日"),
        (0.01, "months", "1 day", "1日"),
        (3.14, "months", "3.1 months", "3.1か月"),
        (400, "months", "more than 10 years", "10年超"),
        (19.53, "factor", "20×", "20倍"),
        (0.6761, "rough", "0.68", "0.68"),
        (3.0e8, "bytes", "300 MB", "300 MB"),
        (0.1, "tick", "0.1", "0.1"),
        (0.2, "tick_spct", "+20%", "+20%"),
        (1.1, "tick_ratio", "1.1×", "1.1倍"),
        (math.nan, "loss", "–", "–"),
        (math.inf, "s", "–", "–"),
        (None, "pct", "–", "–"),
    ],
)
def test_a_number_in_each_language(value: float | None, style: str, en: str, ja: str) -> None:
    assert (show(value, style, "en"), show(value, style, "ja")) == (en, ja)


@pytest.mark.parametrize(
    ("amount", "currency", "exact", "en", "ja"),
    [
        (189057, "JPY", False, "¥189,000", "18.9万円"),
        (1234567890, "JPY", False, "¥1,230,000,000", "12.3億円"),
        (450000, "JPY", True, "¥450,000", "45万円"),
        (9876, "JPY", True, "¥9,876", "9,876円"),
        (123456, "JPY", True, "¥123,456", "123,456円"),
        (23.7, "JPY", False, "¥24", "24円"),
        (1234.5, "USD", False, "$1,230", "$1,230"),
        (4.25, "USD", True, "$4.25", "$4.25"),
        (500.0, "USD", True, "$500", "$500"),
        (-1234.5, "EUR", False, "−€1,230", "−€1,230"),
        (12.0, "CHF", False, "CHF 12.00", "CHF 12.00"),
        (-0.001, "JPY", False, "¥0", "0円"),
        (math.inf, "JPY", False, "–", "–"),
    ],
)
def test_an_amount_in_each_language(amount: float, currency: str, exact: bool, en: str, ja: str) -> None:
    said = [money(amount, currency, lang, exact=exact) for lang in languages()]
    assert said == [en, ja]


@pytest.mark.parametrize(
    ("when", "en", "ja"),
    [
        ("2026-11-24T01:09:00+00:00", "24 November 2026, 01:09 UTC", "2026年11月24日 01:09 UTC"),
        ("2026-01-01T08:59:00+09:00", "31 December 2025, 23:59 UTC", "2025年12月31日 23:59 UTC"),
        ("not a date", "not a date", "not a date"),
    ],
)
def test_a_date_in_each_language(when: str, en: str, ja: str) -> None:
    said = [Formatter(lang).format("{when:date}", when=when) for lang in languages()]
    assert said == [en, ja]


@given(st.floats(), st.sampled_from(sorted(STYLES)), st.sampled_from(languages()))
def test_no_number_breaks_a_style(value: float, style: str, lang: Language) -> None:
    if style == "power" and value > 1000:
        return
    said = show(value, style, lang)
    assert said
    assert "nan" not in said
    assert "inf" not in said.replace("infinity", "")


@given(st.floats(min_value=1e-4, max_value=1e8))
def test_a_shown_loss_is_within_its_four_digits(value: float) -> None:
    assert float(show(value, "loss", "en").replace(",", "")) == pytest.approx(value, rel=5.1e-4)


def test_separators_units_and_dates_are_those_of_the_language_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pseudo.write(tmp_path)
    source = path.read_text(encoding="utf-8")
    source = source.replace('"decimal" = "."', '"decimal" = ","').replace('"thousands" = ","', '"thousands" = "."')
    path.write_text(source, encoding="utf-8")
    monkeypatch.setitem(language_files._LANGUAGES, pseudo.CODE, path)
    shown = [show(1234.5, style, pseudo.CODE) for style in ("int", "loss", "ratio", "s")]
    assert shown == ["1.234", "1.234", "⟦1.234×⟧", "⟦20 míñ 34 š⟧"]
    assert show(0.0123, "pct", pseudo.CODE) == "⟦1,2%⟧"
    assert money(1234.5, "EUR", pseudo.CODE) == "⟦€1.230⟧"
    assert Formatter(pseudo.CODE).format("{when:date}", when="2026-08-01T10:00:00") == "⟦1 Áúgúšt 2026, 10:00⟧"


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_what_is_no_finite_number_is_shown_as_a_dash(value: float | None) -> None:
    assert {show(value, style, lang) for style in STYLES for lang in languages()} == {"–"}
