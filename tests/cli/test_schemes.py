"""``sabun schemes`` and ``sabun explain``: what they print, what they refuse, and the files they write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sabun import schemes
from sabun.cli import main

PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def test_the_table_lists_every_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schemes") == 0
    shown = capsys.readouterr().out
    for entry in schemes.SCHEMES.values():
        assert entry.build().name in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("nesterov")]
    assert line.split()[:7] == ["nesterov(0.9)", "1", "8.6", "13.57", "0.9427", "1", "1"]
    (refused,) = [line for line in shown.splitlines() if line.startswith("lagrange-4")]
    assert "refused" in refused
    assert max(map(len, shown.splitlines())) <= 120


def test_the_table_in_japanese(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schemes", "--lang", "ja") == 0
    shown = capsys.readouterr().out
    assert "誤差定数" in shown
    assert "使用不可" in shown
    assert "ネステロフのモーメンタム" in shown


def test_the_table_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schemes", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["scheme"] for c in found] == [e.build().name for e in schemes.SCHEMES.values()]


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "nesterov", "--lr", "0.1") == 0
    shown = capsys.readouterr().out
    assert "at learning rate 0.1 it will oscillate and diverge where the curvature exceeds 135.7" in shown
    assert "scatters the weights 3% less" in shown
    assert "torch.optim.SGD(lr=0.01, momentum=0.9, nesterov=True)" in shown


def test_explain_in_japanese(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "look-ahead(0.9, 2)", "--lr", "0.1", "--lang", "ja") == 0
    shown = capsys.readouterr().out
    assert "曲率が 76 を超える方向" in shown
    assert "精度の次数" in shown


def test_explain_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "euler", "--lr", "0.1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_curvature"] == 20
    assert found["stability_interval"] == 2
    assert len(found["sentences"]) == 4


def test_a_refused_scheme_is_explained_with_an_alternative(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "lagrange-4") == 0
    shown = capsys.readouterr().out
    assert "cannot be used for training: its parasitic root −2.686 is outside the unit circle" in shown
    assert "Use taylor-4 instead." in shown


def test_runge_kutta_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "rk4") == 0
    assert "4 gradients, all on the same mini-batch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "cause", "fix"),
    [
        (["explain", "nesterof"], "unknown scheme 'nesterof'", "Did you mean 'nesterov'?"),
        (["explain"], "no scheme is given", "sabun schemes"),
        (["explain", "nesterov", "--lr", "0"], "must be positive", "time step"),
        (["explain", "nesterov", "--lr", "nan"], "finite", "Give"),
        (["explain", "nesterov", "--lang", "fr"], "unknown language 'fr'", "en"),
        (["schemes", "--lang", "fr"], "unknown language 'fr'", "en"),
        (["explain", "nesterov(2)"], "beta must be a number in [0, 1)", "default"),
        (["explain", "--plane"], "--plane needs --png", "plane.png"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], cause: str, fix: str) -> None:
    assert run(*arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    first, second = output.err.splitlines()
    assert first.startswith("error: ")
    assert cause in first
    assert second.startswith("fix: ")
    assert fix in second


def test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "nesterov.png"
    assert run("explain", "nesterov", "--png", str(target)) == 0
    assert target.read_bytes().startswith(PNG)
    assert str(target) in capsys.readouterr().out
    plane = tmp_path / "plane.png"
    assert run("explain", "--plane", "--png", str(plane)) == 0
    assert plane.read_bytes().startswith(PNG)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nesterov.png", "plane.png"]


def test_nothing_is_written_on_bad_input(tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    assert run("explain", "nesterov", "--lr", "-1", "--png", str(target)) == 2
    assert run("explain", "taylor-4", "--plane", "--png", str(target)) == 2
    assert run("explain", "nesterov", "--png", str(tmp_path / "absent" / "x.png")) == 2
    assert list(tmp_path.iterdir()) == []
