"""Scales, ticks, marks and text for charts inside an HTML page, as SVG.

The charts are part of the page and coloured by its style sheet: they follow dark, light and print, switch language with
the page, need no JavaScript, and can be read by a screen reader. A label that is the same in every language is written
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sabun.messages.languages import Language, languages
from sabun.text_safety import clean

__all__ = ["Canvas", "Label", "Scale"]

Label = Callable[[Language], str]
"""The text of a label, by language."""


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from [low, high] in data to [start, end] in pixels, clamped at both ends."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, x: float) -> float:
        if self.log:
            share = math.log(max(x, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            share = (x - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def covers(self, x: float) -> bool:
        """Return whether ``x`` is inside the scale."""
        return self.low <= x <= self.high

    @classmethod
    def fit(
        cls, values: Sequence[float], start: float, end: float, *, log: bool | None = False, pad: float = 0.05
    ) -> Scale:
        """Return a scale around the finite ``values``; with ``log=None`` it is logarithmic beyond a factor of 8."""
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        if log is None:
            log = low > 0 and high / low > 8
        if log:
            if low <= 0:
                low, high = 0.1, 10.0
            margin = max(math.log(high / low), 0.1) * pad
            return cls(low * math.exp(-margin), high * math.exp(margin), start, end, True)
        margin = (high - low or abs(high) or 1.0) * pad
        return cls(low - margin, high + margin, start, end)

    def ticks(self, count: int) -> list[float]:
        """Return about ``count`` round numbers inside the scale."""
        if not self.log:
            return _linear(self.low, self.high, count)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**e for e in range(first, last + 1) for m in steps]
            found = [t for t in found if self.low <= t <= self.high]
            if len(found) <= count + 1:
                break
        else:
            found = found[:: math.ceil(len(found) / count)]
        return found if len(found) >= 2 else [t for t in _linear(self.low, self.high, count) if t > 0]


def _linear(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [(first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1)]


@dataclass
class Canvas:
    """A drawing: a list of marks that :meth:`render` turns into an ``<svg>`` element."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def add(self, markup: str) -> None:
        """Add raw markup, which must be escaped."""
        self.parts.append(markup)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """Add a straight line."""
        self.add(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>')

    def rect(self, x: float, y: float, width: float, height: float, css: str, *, radius: float = 0) -> None:
        """Add a rectangle."""
        self.add(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0, width):.1f}" height="{max(0, height):.1f}" rx="{radius:g}" '
            f'class="{css}"/>'
        )

    def path(self, points: Sequence[tuple[float, float]], css: str, *, closed: bool = False) -> None:
        """Add a polyline, interrupted at points that are not finite."""
        text, pen = [], "M"
        for x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            text.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        if text:
            self.add(f'<path d="{"".join(text)}{"Z" if closed else ""}" class="{css}"/>')

    def dot(self, x: float, y: float, radius: float, css: str, *, tip: Label | None = None) -> None:
        """Add a circle with an optional tooltip."""
        self.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{css}"{tips(tip)}/>')

    def mark(self, x: float, y: float, kind: str, css: str, *, tip: Label | None = None) -> None:
        """Add the mark of an outcome.

        Disc (pass), ring (open), half disc (exception), diamond (small), triangle (unclear) or cross (fail).
        """
        if kind in ("pass", "open", "exception"):
            self.dot(x, y, 5.5, f"mark {css}", tip=tip)
            if kind == "exception":
                self.add(f'<path d="M{x:.1f} {y - 5.5:.1f}a5.5 5.5 0 0 0 0 11Z" class="half {css}"/>')
        elif kind == "small":
            self.add(f'<path d="M{x:.1f} {y - 6.5:.1f}l6.5 6.5-6.5 6.5-6.5-6.5Z" class="mark {css}"{tips(tip)}/>')
        elif kind == "fail":
            d = f"M{x - 4.5:.1f} {y - 4.5:.1f}l9 9m0-9l-9 9"
            self.add(f'<path d="{d}" class="mark cross {css}"{tips(tip)}/>')
        else:
            self.add(f'<path d="M{x:.1f} {y - 6.5:.1f}l6.3 11h-12.6Z" class="mark {css}"{tips(tip)}/>')

    def text(self, x: float, y: float, label: Label | str, css: str = "", *, anchor: str = "start") -> None:
        """Add text in every language, or once where it is the same."""
        texts = {lang: label if isinstance(label, str) else label(lang) for lang in languages()}
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        if len(set(texts.values())) == 1:
            self.add(f'<text {place} class="{css}">{clean(next(iter(texts.values())))}</text>')
            return
        for lang, words in texts.items():
            self.add(f'<text {place} class="{css}" lang="{lang}">{clean(words)}</text>')

    def render(self, label_id: str, css: str = "") -> str:
        """Return the ``<svg>`` element, labelled by the element ``label_id`` of the page."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" class="chart {css}" role="img" '
            f'aria-labelledby="{label_id}" style="max-width:{self.width * 1.25:g}px">{"".join(self.parts)}</svg>'
        )


def tips(tip: Label | None) -> str:
    """Return the attributes of a tooltip, one per language."""
    return (
        ""
        if tip is None
        else ' data-tip=""' + "".join(f' data-tip-{lang}="{clean(tip(lang))}"' for lang in languages())
    )
