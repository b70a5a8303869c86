"""Numbers, times, dates and money in the conventions of a language: ``[format]`` of its file, not the machine's locale.

``{effect:pct}`` in a message formats ``effect`` as a percentage. A missing or non-finite number is an en dash, never
``nan``. The minus sign is U+2212.
"""

from __future__ import annotations

import math
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sabun.messages.languages import Language, read

__all__ = ["STYLES", "Formatter", "conventions", "money", "short", "show"]

NONE = "–"
_MINUS = "−"
_ZERO_DECIMAL = {"JPY", "KRW", "VND", "CLP"}


def conventions(lang: Language) -> Mapping[str, Any]:
    """The table ``[format]`` of a language."""
    return read(lang).format


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


def short(value: float) -> str:
    """Four significant digits, trailing zeros cut off: ``0.05``, ``−2.686``, ``1.000e-09``."""
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -4 <= size < 7:
        return f"{value:.3e}"
    text = f"{value:.{max(3 - size, 0)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", _MINUS)


def _percent(x: float) -> str:
    if x == 0:
        return "0"
    magnitude = abs(x)
    return _fixed(100 * x, 0 if magnitude >= 10 else 1 if magnitude >= 0.00095 else 2)


def _signed(x: float) -> str:
    text = _percent(x)
    return text if text.startswith(_MINUS) or x <= 0 else "+" + text


def _tick(x: float) -> str:
    if x == 0:
        return "0"
    if not 1e-4 <= abs(x) < 1e6:
        return _significant(x, 1)
    text = f"{abs(x):,.6f}".rstrip("0").rstrip(".")
    return _MINUS + text if x < 0 else text


def _ratio(x: float) -> str:
    return _fixed(x, 2) if 0.095 <= x < 100 else _significant(x, 2) if x < 0.095 else _fixed(x, 0)


_SECONDS = ((1e-3, 1e-6, "microseconds"), (1.0, 1e-3, "milliseconds"), (99.95, 1.0, "seconds"))


def _seconds(x: float, lang: Language) -> str:
    if x < 0:
        return _MINUS + _seconds(-x, lang)
    if x == 0:
        return _unit("0", "seconds", lang)
    for below, unit, name in _SECONDS:
        if x < below:
            return _unit(_significant(x / unit, 3), name, lang)
    if x < 7200:
        minutes, seconds = divmod(round(x), 60)
        pattern = conventions(lang)["minutes_seconds" if seconds else "minutes"]
        return str(pattern.format(minutes=minutes, seconds=seconds))
    hours = x / 3600
    return _unit(_fixed(hours, 0 if hours >= 100 else 1), "hours", lang)


def _months(x: float, lang: Language) -> str:
    if x < 0.1:
        days = max(1, math.ceil(x * 30))
        return _unit(str(days), "day" if days == 1 else "days", lang)
    if x > 120:
        return str(conventions(lang)["ten_years"])
    return _unit(_fixed(x, 1), "months", lang)


def _bytes(x: float, lang: Language) -> str:
    for unit, size in (("gigabytes", 1e9), ("megabytes", 1e6), ("kilobytes", 1e3)):
        if abs(x) >= size:
            return _unit(_significant(x / size, 3), unit, lang)
    return _unit(f"{x:.0f}", "bytes", lang)


def _local(number: str, lang: Language) -> str:
    """``1,234.5`` with the separators of the language."""
    found = conventions(lang)
    return number.translate(str.maketrans({",": found["thousands"], ".": found["decimal"]}))


def _unit(number: str, unit: str, lang: Language) -> str:
    return str(conventions(lang)[unit].format(number=_local(number, lang)))


def _in(unit: str, number: Callable[[float], str]) -> Callable[[float, Language], str]:
    return lambda x, lang: _unit(number(x), unit, lang)


def _plain(number: Callable[[float], str]) -> Callable[[float, Language], str]:
    return lambda x, lang: _local(number(x), lang)


STYLES: Mapping[str, Callable[[float, Language], str]] = {
    "pct": _in("percent", _percent),
    "spct": _in("percent", _signed),
    "share": _in("percent", lambda x: _fixed(100 * x, 1)),
    "points": _in("points", lambda x: ("+" if x > 0 else "") + _fixed(100 * x, 1)),
    "signed": _plain(lambda x: ("+" if x > 0 else "") + _fixed(100 * x, 1)),
    "factor": _in("ratio", lambda x: _significant(x, 2)),
    "level": _in("percent", lambda x: f"{100 * x:.4g}"),
    "ratio": _in("ratio", _ratio),
    "tick": _plain(_tick),
    "tick_spct": _in("percent", lambda x: ("+" if x > 0 else "") + _tick(round(100 * x, 6))),
    "tick_ratio": _in("ratio", lambda x: _tick(round(x, 6))),
    "int": _plain(lambda x: _fixed(round(x), 0)),
    "power": _plain(lambda x: _fixed(round(2**x), 0)),
    "num": _plain(lambda x: _significant(x, 3)),
    "rough": _plain(lambda x: _significant(x, 2)),
    "loss": _plain(lambda x: _significant(x, 4)),
    "short": _plain(short),
    "s": _seconds,
    "h": _in("hours", lambda x: _tick(float(f"{x:.3g}"))),
    "months": _months,
    "bytes": _bytes,
}
"""How numbers are written, by the style that a placeholder names."""


def show(value: float | int | None, style: str, lang: Language) -> str:
    """``value`` in a style of :data:`STYLES`; an en dash where there is no finite number."""
    if value is None or not abs(value) <= sys.float_info.max:  # an int may be too large for a float
        return NONE
    return STYLES[style](float(value), lang)


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
    found = conventions(lang)
    number = f"{magnitude:,.{decimals}f}"
    # Large units where the language has them for this currency, as 万 and 億 of yen.
    for name, size in found["large"].get(currency, {}).items():
        if magnitude >= size and magnitude % 1000 == 0:
            number = f"{magnitude / size:,.5f}".rstrip("0").rstrip(".") + name
            break
    pattern = found["currency"].get(currency) or found["currency"]["other"]
    shown = str(pattern.format(number=_local(number, lang), code=currency))
    return _MINUS + shown if x < 0 and any(c in "123456789" for c in number) else shown


def _date(text: str, lang: Language) -> str:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text or NONE
    if when.tzinfo is not None:
        when = when.astimezone(UTC)
    clock = f"{when.hour:02d}:{when.minute:02d}" + (" UTC" if when.tzinfo else "")
    found = conventions(lang)
    month = found["months_of_year"][when.month - 1]
    return str(found["date"].format(year=when.year, month=month, day=when.day, time=clock))


class Formatter(string.Formatter):
    """``str.format`` with the styles of one language; also ``date``, ``money`` (in ``currency``) and ``abs…``."""

    def __init__(self, lang: Language, currency: str = "") -> None:
        self.lang = lang
        self.currency = currency

    def format_field(self, value: Any, format_spec: str) -> str:
        """One value in the style that its placeholder names."""
        if isinstance(value, tuple):
            return str(conventions(self.lang)["between_items"]).join(value)
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
