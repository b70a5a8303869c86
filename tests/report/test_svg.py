"""The drawing kit: scales map, ticks are round, text is safe."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sabun.report.svg import Canvas, Scale
from sabun.text_safety import clean, shorten, visible


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 9))
def test_linear_ticks_are_round_inside_and_few(low: float, span: float, count: int) -> None:
    scale = Scale(low, low + span, 0, 100)
    ticks = scale.ticks(count)
    assert 1 <= len(ticks) <= count + 1
    assert all(low - 1e-9 * span <= t <= low + span * (1 + 1e-9) for t in ticks)
    assert ticks == sorted(ticks)


@given(st.floats(1e-6, 1e3), st.floats(1.05, 1e6))
def test_log_ticks_are_inside(low: float, factor: float) -> None:
    scale = Scale(low, low * factor, 0, 100, log=True)
    ticks = scale.ticks(5)
    assert all(low * 0.999 <= t <= low * factor * 1.001 for t in ticks)
    assert len(ticks) >= 1


def test_scales_map_ends_to_ends_and_clamp() -> None:
    for scale in (Scale(1, 100, 20, 40), Scale(1, 100, 20, 40, log=True)):
        assert [scale(1), scale(100), scale(0.5), scale(1e9)] == pytest.approx([20, 40, 20, 40])
    assert Scale(1, 100, 20, 40, log=True)(10) == pytest.approx(30)


def test_a_scale_fits_the_finite_values_only() -> None:
    scale = Scale.fit([1.0, 2.0, math.inf, math.nan], 0, 1, pad=0.0)
    assert (scale.low, scale.high) == (1.0, 2.0)
    assert Scale.fit([], 0, 1).covers(0.5)
    assert Scale.fit([3.0, 3.0], 0, 1).covers(3.0)
    assert Scale.fit([1.0, 100.0], 0, 1, log=None).log
    assert not Scale.fit([1.0, 2.0], 0, 1, log=None).log


@given(st.text(max_size=60))
def test_any_text_makes_a_well_formed_drawing(raw: str) -> None:
    c = Canvas(10, 10)
    c.text(0, 0, raw, "x")
    c.dot(1, 1, 1, "dot", tip=lambda lang: raw)
    tree = ET.fromstring(c.render("label").replace("\x00", ""))
    text = tree.find("text")
    assert text is not None
    assert [child.tag for child in tree] == ["text", "circle"]


def test_overrides_and_control_characters_are_shown_not_obeyed() -> None:
    assert visible("a\u202eb\x1b[31m\x07") == "a\ufffdb\ufffd[31m\ufffd"
    assert clean("<b>\"'&") == "&lt;b&gt;&quot;&#x27;&amp;"
    assert shorten("x" * 300, 40) == "x" * 39 + "…"
    assert shorten("short", 40) == "short"


def test_a_path_breaks_where_a_value_is_missing() -> None:
    c = Canvas(10, 10)
    c.path([(0, 0), (1, 1), (2, math.nan), (3, 3), (4, 4)], "line")
    assert c.parts[0].count("M") == 2
