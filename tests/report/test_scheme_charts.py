"""The pictures show the figures of the analysis: the data in the charts is checked, not the pixels."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sabun import schemes
from sabun.errors import SchemeError
from sabun.report import look_ahead_plane as plane
from sabun.report import scheme_charts as charts
from sabun.report.altair_style import save_png


def values(chart: Any, layer: int) -> list[dict[str, Any]]:
    """The rows behind one layer."""
    rows: list[dict[str, Any]] = chart.layer[layer].to_dict()["data"]["values"]
    return rows


def every_text(node: Any) -> set[str]:
    """All strings in a chart's specification."""
    if isinstance(node, dict):
        return set().union(*map(every_text, node.values()), set())
    if isinstance(node, list):
        return set().union(*map(every_text, node), set())
    return {node} if isinstance(node, str) else set()


@pytest.mark.parametrize("name", ["nesterov(0.9)", "taylor-4", "wide-2-5", "rk4"])
def test_the_region_ends_where_the_interval_does(name: str) -> None:
    scheme = schemes.get(name)
    rows = values(charts.stability_region(scheme), 0)
    x = np.array([r["x"] for r in rows])
    y = np.array([r["y"] for r in rows])
    amplification = charts._amplification(scheme, x + 1j * y)
    assert amplification == pytest.approx(np.ones(len(rows)), abs=0.03)
    crossing = x[np.abs(y) < 0.02 * np.abs(y).max()]
    assert crossing.max() == pytest.approx(scheme.stability_interval, rel=0.02)
    assert y.max() == pytest.approx(-y.min(), rel=1e-6)


def test_euler_s_region_is_the_unit_circle_around_one() -> None:
    rows = values(charts.stability_region(schemes.get("euler")), 0)
    distance = [math.hypot(r["x"] - 1, r["y"]) for r in rows]
    assert distance == pytest.approx([1.0] * len(rows), abs=1e-3)


def test_a_scheme_without_a_region_says_so() -> None:
    chart = charts.stability_region(schemes.get("lagrange-4"))
    assert "stable nowhere" in every_text(chart.to_dict())


def test_the_root_locus_starts_at_the_roots_of_rho_and_leaves_at_the_edge() -> None:
    scheme = schemes.get("taylor-4")
    rows = values(charts.root_locus(scheme), 1)
    start = sorted(complex(r["re"], r["im"]).imag for r in rows if r["hl"] == 0)
    assert start == pytest.approx([-math.sqrt(7) / 4, 0, math.sqrt(7) / 4], abs=1e-9)
    for r in rows:
        if r["hl"] < 0.999 * scheme.stability_interval:
            assert math.hypot(r["re"], r["im"]) <= 1 + 1e-9
    assert any(math.hypot(r["re"], r["im"]) > 1 for r in rows if r["hl"] > 1.01 * scheme.stability_interval)


def test_the_amplification_curve() -> None:
    scheme = schemes.get("adams-bashforth-2")
    rows = values(charts.amplification_curve(scheme), 1)
    flow = {r["x"]: r["v"] if "v" in r else r["y"] for r in rows if r["curve"].startswith("exact")}
    assert all(v == pytest.approx(math.exp(-x), rel=1e-12) for x, v in flow.items())
    own = [r for r in rows if r["curve"] == "this scheme" and 0 < r["x"] < 0.999]
    assert all(r["y"] < 1 for r in own)


def test_coordinates() -> None:
    assert plane.coordinates(schemes.get("euler")) == (0, 0)
    assert plane.coordinates(schemes.get("adams-bashforth-2")) == (0, 0.5)
    assert plane.coordinates(schemes.get("lion")) == (0.99, 9)
    assert plane.coordinates(schemes.get("look-ahead(0.9, 2)")) == (0.9, 2)
    assert plane.coordinates(schemes.get("taylor-4")) is None
    assert plane.coordinates(schemes.get("rk4")) is None


def test_the_contours_of_the_plane_are_stability_intervals() -> None:
    lines, labels = plane._contours(1300.0, 900.0)
    rng = np.random.default_rng(0)
    for row in rng.choice(np.array(lines, dtype=object), 60, replace=False):
        beta = 1 - 1 / row["memory"]
        assert schemes.look_ahead(beta, row["gamma"]).stability_interval == pytest.approx(row["level"], rel=0.03)
    for row in labels:
        level = float(str(row["name"]).removeprefix("hλ = "))
        exact = schemes.look_ahead(1 - 1 / row["memory"], row["gamma"]).stability_interval
        assert exact == pytest.approx(level, rel=1e-6)


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_plane_shows_every_known_optimizer(lang: str) -> None:
    texts = every_text(plane.look_ahead_plane(lang).to_dict())
    for name in ("SGD (Euler)", "Adams–Bashforth 2", "Nesterov 0.9 · NAdam", "Muon (Nesterov 0.95)", "MARS", "Lion"):
        assert name in texts
    assert any("QHM" in t for t in texts)
    assert any("Adam" in t and "momentum" in t for t in texts)


def test_the_plane_refuses_what_is_not_on_it() -> None:
    with pytest.raises(SchemeError, match="not on the look-ahead plane"):
        plane.look_ahead_plane(highlight=schemes.get("taylor-4"))


@pytest.mark.parametrize(("name", "panels"), [("nesterov", 2), ("taylor-4", 1), ("lagrange-4", 1), ("rkc2", 1)])
def test_explain_has_the_plane_where_the_scheme_is_on_it(name: str, panels: int) -> None:
    chart = charts.explain(schemes.get(name), lr=0.1)
    assert len(chart.vconcat) == panels
    assert len(chart.vconcat[0].hconcat) == 3


def test_png(tmp_path: Path) -> None:
    target = tmp_path / "curve.png"
    chart = charts.amplification_curve(schemes.get("euler"), width=200, height=100)
    save_png(chart, target, scale=1)
    data = target.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG")
    assert width > 200
    assert height > 100
    with pytest.raises(SchemeError, match="cannot write"):
        save_png(chart, tmp_path / "absent" / "x.png")
