"""Numbers, times, dates and money as a reader of one language expects them. Pure functions, no locale of the machine.

One placeholder style for every sentence: ``{effect:pct}`` in a message formats ``effect`` as a percentage of the
message's language. Special cases: a missing or non-finite number is an en dash, never ``nan``; minus is U+2212.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = ["LANGUAGES", "STYLES", "Formatter", "Language", "show"]

Language = Literal["en", "ja"]
"""A language of the report."""
LANGUAGES: tuple[Language, ...] = ("en", "ja")
"""The languages of a report; the first is the default."""
NONE = "–"
_MINUS = "−"
_ZERO_DECIMAL = {"JPY", "KRW", "VND", "CLP"}
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December")  # fmt: skip
_SYMBOL = {"JPY": "¥", "USD": "$", "EUR": "€", "GBP": "£", "KRW": "₩"}


def _fixed(x: float, decimals: int) -> str:
    text = f"{abs(x):,.{decimals}f}"
    # A rounded zero has no sign: "−0.0%" would be read as a direction.
    return text if x >= 0 or not any(c in "123456789" for c in text) else _MINUS + text


def _significant(x: float, digits: int) -> str:
    if x == 0:
        return "0"
    exponent = math.floor(math.log10(abs(x)))
    if exponent < -5 or exponent >= 9:
        mantissa, power = f"{abs(x):.{digits - 1}e}".split("e")
        sup = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{_MINUS if x < 0 else ''}{mantissa}×10{sup}"
    return _fixed(x, max(0, digits - 1 - exponent))


def _percent(x: float, lang: Language) -> str:
    if x == 0:
        return "0%"
    magnitude = abs(x)
    decimals = 0 if magnitude >= 10 else 1 if magnitude >= 0.00095 or magnitude == 0 else 2
    return _fixed(100 * x, decimals) + "%"


def _signed(x: float, lang: Language) -> str:
    text = _percent(x, lang)
    return text if text.startswith(_MINUS) or x <= 0 else "+" + text


def _level(x: float, lang: Language) -> str:
    return f"{100 * x:.4g}%"


def _tick(x: float, lang: Language) -> str:
    if x == 0:
        return "0"
    if not 1e-4 <= abs(x) < 1e6:
        return _significant(x, 1)
    text = f"{abs(x):,.6f}".rstrip("0").rstrip(".")
    return _MINUS + text if x < 0 else text


def _tick_percent(x: float, lang: Language) -> str:
    return ("+" if x > 0 else "") + _tick(round(100 * x, 6), lang) + "%"


def _tick_ratio(x: float, lang: Language) -> str:
    return _tick(round(x, 6), lang) + ("倍" if lang == "ja" else "×")


def _ratio(x: float, lang: Language) -> str:
    number = _fixed(x, 2) if 0.095 <= x < 100 else _significant(x, 2) if x < 0.095 else _fixed(x, 0)
    return number + ("倍" if lang == "ja" else "×")


def _integer(x: float, lang: Language) -> str:
    return _fixed(round(x), 0)


def _number(x: float, lang: Language) -> str:
    return _significant(x, 3)


def _loss(x: float, lang: Language) -> str:
    return _significant(x, 4)


def _seconds(x: float, lang: Language) -> str:
    ja = lang == "ja"
    if x < 0:
        return _MINUS + _seconds(-x, lang)
    if x < 1e-3:
        return _significant(x * 1e6, 3) + ("マイクロ秒" if ja else " µs")
    if x < 1:
        return _significant(x * 1e3, 3) + ("ミリ秒" if ja else " ms")
    if x < 99.95:
        return _significant(x, 3) + ("秒" if ja else " s")
    if x < 3600 * 2:
        minutes, seconds = divmod(round(x), 60)
        if ja:
            return f"{minutes}分" + (f"{seconds}秒" if seconds else "")
        return f"{minutes} min" + (f" {seconds} s" if seconds else "")
    hours = x / 3600
    number = _fixed(hours, 0 if hours >= 100 else 1)
    return number + ("時間" if ja else " h")


def _hours(x: float, lang: Language) -> str:
    return _tick(float(f"{x:.3g}"), lang) + ("時間" if lang == "ja" else " h")


def _months(x: float, lang: Language) -> str:
    if x < 0.1:
        days = max(1, math.ceil(x * 30))
        return f"{days}日" if lang == "ja" else f"{days} day{'s' if days > 1 else ''}"
    if x > 120:
        return "10年超" if lang == "ja" else "more than 10 years"
    number = _fixed(x, 1)
    return number + ("か月" if lang == "ja" else " months")


def _bytes(x: float, lang: Language) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(x) >= size:
            return f"{_significant(x / size, 3)} {unit}"
    return f"{x:.0f} B"


def _decades(x: float, lang: Language) -> str:
    return _fixed(x, 2) + ("桁" if lang == "ja" else " decades")


def money(x: float, currency: str, lang: Language, *, exact: bool = False) -> str:
    """An amount: ¥1,230,000 or 123万円; $1,230; CHF 12.30. Three significant digits unless ``exact``."""
    if not math.isfinite(x):
        return NONE
    if not exact and x:
        x = round(x, 2 - math.floor(math.log10(abs(x))))
    magnitude = abs(x)
    decimals = 0 if currency in _ZERO_DECIMAL or magnitude >= 1000 or (magnitude >= 100 and not exact) else 2
    if exact and x == round(x):
        decimals = 0
    number = f"{magnitude:,.{decimals}f}"
    if currency == "JPY" and lang == "ja":
        if magnitude >= 1e8:
            number = f"{magnitude / 1e8:,.4g}億"
        elif magnitude >= 1e4 and magnitude % 1000 == 0:
            number = _group(magnitude / 1e4) + "万"
        number += "円"
    elif currency in _SYMBOL:
        number = _SYMBOL[currency] + number
    else:
        number = f"{currency} {number}"
    return _MINUS + number if x < 0 and any(c in "123456789" for c in number) else number


def _group(x: float) -> str:
    return f"{x:,.4f}".rstrip("0").rstrip(".")


def _date(text: str, lang: Language) -> str:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text or NONE
    if when.tzinfo is not None:
        when = when.astimezone(UTC)
    clock = f"{when.hour:02d}:{when.minute:02d}" + (" UTC" if when.tzinfo else "")
    if lang == "ja":
        return f"{when.year}年{when.month}月{when.day}日 {clock}"
    return f"{when.day} {_MONTHS[when.month - 1]} {when.year}, {clock}"


STYLES: Mapping[str, Callable[[float, Language], str]] = {
    "pct": _percent,
    "spct": _signed,
    "ratio": _ratio,
    "level": _level,
    "tick": _tick,
    "tick_spct": _tick_percent,
    "tick_ratio": _tick_ratio,
    "int": _integer,
    "power": lambda x, lang: _integer(2**x, lang),
    "num": _number,
    "loss": _loss,
    "s": _seconds,
    "h": _hours,
    "months": _months,
    "bytes": _bytes,
    "decades": _decades,
}
"""How numbers are written, by the style that a placeholder names."""


def show(value: float | int | None, style: str, lang: Language) -> str:
    """``value`` in a style of :data:`STYLES`; an en dash where there is no finite number."""
    if value is None or not math.isfinite(value):
        return NONE
    return STYLES[style](float(value), lang)


class Formatter(string.Formatter):
    """``str.format`` with the styles of one language; also ``date``, ``money`` (in ``currency``) and ``abs…``."""

    def __init__(self, lang: Language, currency: str = "") -> None:
        self.lang: Language = lang
        self.currency = currency

    def format_field(self, value: Any, format_spec: str) -> str:
        """One value in the style that its placeholder names."""
        if not format_spec:
            if isinstance(value, float):
                return show(value, "num", self.lang)
            return str(value)
        if format_spec == "date":
            return _date(str(value), self.lang)
        if value is None or isinstance(value, str):
            return NONE if value is None else value
        if format_spec in ("money", "price"):
            return money(float(value), self.currency, self.lang, exact=format_spec == "price")
        if format_spec.startswith("abs"):
            return show(abs(value), format_spec[3:], self.lang)
        return show(value, format_spec, self.lang)

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The value of a placeholder; a missing one is an error that names it."""
        if isinstance(key, int):
            raise KeyError("messages use named placeholders")
        return kwargs[key]
