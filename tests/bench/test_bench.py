"""The benchmark measures what it says: shapes, bytes, memory, interleaving, ratios. No test asserts a time."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from sabun import bench
from sabun.bench import contests, runner
from sabun.bench.measurement import Bandwidth, Timing, interleave, minimum_bytes, peak_extra_bytes, state_bytes
from sabun.bench.shapes import SHAPES, cut, load, parameters
from sabun.cli import bench as command
from sabun.errors import OptionError

CPU = torch.device("cpu")


# ---------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("name", "tensors", "scalars"),
    # GPT-2 small and ResNet-18 as published: 124,439,808 with tied embedding, 11,689,512 with 1,000 classes.
    [("gpt2-small", 148, 124_439_808), ("resnet18", 62, 11_689_512), ("many-small", 1000, 1_000_000)],
)
def test_shapes_are_those_of_the_published_models(name: str, tensors: int, scalars: int) -> None:
    assert len(load(name)) == tensors
    assert parameters(load(name)) == scalars


def test_the_mixed_shapes_share_nothing() -> None:
    shapes = load("mixed")
    assert len(set(shapes)) == len(shapes) == 150
    assert parameters(shapes) >= 25_000_000


def test_shapes_come_from_a_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 6))
    file = tmp_path / "model.json"
    file.write_text(json.dumps({name: list(p.shape) for name, p in model.named_parameters()}), encoding="utf-8")
    assert load(str(file)) == [(4, 3, 3, 3), (4,), (6, 5), (6,)]
    file.write_text("[[2, 3], []]", encoding="utf-8")
    assert load(str(file)) == [(2, 3), ()]


@pytest.mark.parametrize("text", ["[]", "{", "7", '[["a"]]', "[[0]]", "[[true]]", "[3]"])
def test_a_file_that_holds_no_shapes_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "model.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError):
        load(str(file))


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="resnet18"):
        load("resnet-18")
    with pytest.raises(OptionError, match="No such file"):
        load("/nowhere/shapes.json")
    with pytest.raises(OptionError, match="momentum"):
        contests.select(["momentun"])


def test_cutting_drops_the_largest_and_keeps_the_order() -> None:
    shapes = [(10,), (100,), (20,), (100,), (5,)]
    assert cut(shapes, 1000) == shapes
    assert cut(shapes, 140) == [(10,), (100,), (20,), (5,)]
    assert cut(shapes, 40) == [(10,), (20,), (5,)]
    assert cut(shapes, 1) == [(5,)]


# ---------------------------------------------------------------------- measuring


def test_rounds_are_interleaved_in_rotating_order_from_the_same_gradients() -> None:
    log: list[str] = []
    steps = {name: lambda name=name: log.append(name) for name in "abc"}
    timings = interleave(steps, rounds=3, device=CPU, warm_up=1, before=lambda: log.append("."))
    assert "".join(log) == ".a.b.c" + ".a.b.c" + ".b.c.a" + ".c.a.b"
    assert all(len(timing.seconds) == 3 for timing in timings.values())


def test_a_longer_step_is_measured_as_longer() -> None:
    timings = interleave({"nap": lambda: time.sleep(0.02), "none": lambda: None}, rounds=3, device=CPU)
    assert timings["nap"].median >= 0.02
    assert timings["none"].ratio(timings["nap"])[0] < 1


def test_ratios_are_taken_within_rounds() -> None:
    # A machine that halves its speed after the first round: the ratio of medians would be 1.5 / 2 or 3 / 2.
    ratio, low, high = Timing([1.0, 2.0, 2.0]).ratio(Timing([2.0, 4.0, 4.0]))
    assert ratio == low == high == 0.5
    assert Timing([1.0, 3.0, 2.0]).median == 2.0
    assert Timing([4.0]).quartiles() == (4.0, 4.0)
    assert Timing([0.5]).rates(10) == [20.0]


def test_peak_memory_is_the_largest_sum_held_at_one_time() -> None:
    def step() -> None:
        a = torch.ones(1000)  # 4,000
        b = torch.ones(500)  # 6,000
        del a
        c = torch.ones(250)  # 3,000
        del b, c

    assert peak_extra_bytes(step, CPU) == 6000
    assert peak_extra_bytes(lambda: None, CPU) == 0


@pytest.mark.parametrize(
    ("make", "per_parameter", "counters"),
    [
        (lambda params: torch.optim.SGD(params), 12, 0),
        (lambda params: torch.optim.SGD(params, momentum=0.9), 20, 0),
        (lambda params: torch.optim.AdamW(params), 28, 1),
    ],
    ids=["sgd", "momentum", "adamw"],
)
def test_minimum_bytes_are_one_read_and_one_write(make: Any, per_parameter: int, counters: int) -> None:
    """float32: read p, g and state, write p and state; Adam's step counter is four bytes, read and written."""
    p = nn.Parameter(torch.ones(100))
    p.grad = torch.ones(100)
    optimizer = make([p])
    optimizer.step()
    assert minimum_bytes([p], optimizer) == 100 * per_parameter + counters * 8
    assert state_bytes(optimizer) == {12: 0, 20: 400, 28: 804}[per_parameter]


def test_the_bandwidth_is_that_of_the_same_rounds() -> None:
    bandwidth = Bandwidth(CPU, numel=1000)
    timings = {"x": Timing([1.0, 1.0]), "(copy)": Timing([1.0, 4.0]), "(in place)": Timing([2.0, 2.0])}
    assert bandwidth.collect(timings) == [8000.0, 4000.0]
    assert list(timings) == ["x"]
    assert (bandwidth.copy, bandwidth.in_place) == (5000.0, 4000.0)


# ---------------------------------------------------------------------- a whole run


@pytest.fixture
def small(tmp_path: Path) -> str:
    file = tmp_path / "small.json"
    file.write_text("[[8, 12], [12], [8, 12], [3, 2, 3, 3]]", encoding="utf-8")
    return str(file)


def test_a_run_measures_every_contestant_or_says_why_not(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Bandwidth", lambda device: Bandwidth(device, numel=1000))
    seen = []
    threads = torch.get_num_threads()
    result = bench.run(small, rounds=2, on_row=seen.append)
    assert torch.get_num_threads() == threads
    assert list(result.rows) == seen
    assert {row.contest for row in result.rows} == set(bench.CONTESTS)
    for contest in bench.CONTESTS.values():
        rows = {row.name: row for row in result.rows if row.contest == contest.name}
        assert set(rows) == {contestant.name for contestant in contest.contestants}
        first, baseline = contest.contestants[0], rows[contest.contestants[0].name]
        assert baseline.problem == (None if first.available else f"{first.needs} is not installed")
        assert baseline.ratio == (1 if first.available else None)
        for row in rows.values():
            ours = row.name.startswith("sabun")
            assert row.problem is None or not ours, row
            if row.problem is None and first.available:
                low, high = row.ratio_quartiles or (0.0, 0.0)
                assert 0 < low <= (row.ratio or 0.0) <= high
                assert (row.step_s or 0.0) > 0
            if ours and row.name.endswith("fused"):
                # In the adam metric one step counter a parameter is no memory of the size of θ.
                assert row.peak_extra_bytes is not None
                assert row.peak_extra_bytes < 100
    moved = {row.name: row.minimum_bytes for row in result.rows}
    assert moved["sabun nesterov fused"] == 20 * result.parameters
    assert json.loads(json.dumps(result.to_dict()))["schema_version"] == 1
    text = bench.table(result)
    assert all(row.name in text for row in result.rows)
    root = ET.fromstring(bench.picture(result))
    drawn = "".join(root.itertext())
    assert all((row.name in drawn) is (row.ratio is not None) for row in result.rows)


def test_matrix_optimizers_are_measured_on_hidden_matrices(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Bandwidth", lambda device: Bandwidth(device, numel=1000))
    result = bench.run(small, contests=["matrix"], rounds=1)
    row = next(row for row in result.rows if row.name == "sabun muon")
    assert row.minimum_bytes == 20 * 2 * 8 * 12  # one momentum buffer; neither the vector nor the kernel takes part
    assert row.bandwidth_share is None


@pytest.mark.parametrize(
    ("contest", "contestant"),
    [(name, contestant) for name, contest in contests.CONTESTS.items() for contestant in contest.contestants],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_every_installed_contestant_takes_a_step(contest: str, contestant: contests.Contestant) -> None:
    """A peer whose arguments have changed would otherwise be missing from the table, which looks like a win."""
    if not contestant.available:
        pytest.skip(f"{contestant.needs} is not installed")
    params = [nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    if contest != "matrix":
        params.append(nn.Parameter(torch.ones(3)))
    optimizer = contestant.build(list(params))
    for number, p in enumerate(params):
        p.grad = torch.arange(p.numel(), dtype=p.dtype).reshape(p.shape) + number + 1
    optimizer.step()
    assert all(bool(torch.isfinite(p).all()) and not torch.equal(p, torch.ones_like(p)) for p in params)


def test_a_contestant_that_fails_does_not_end_the_run(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(params: list[torch.Tensor]) -> torch.optim.Optimizer:
        raise ValueError("no good")

    monkeypatch.setattr(runner, "Bandwidth", lambda device: Bandwidth(device, numel=1000))
    rows = (
        contests.Contestant("broken", broken),
        contests.Contestant("absent", broken, needs="no_such_package"),
        contests.Contestant("plain", lambda params: torch.optim.SGD(params)),
    )
    monkeypatch.setattr(runner, "select", lambda names: [contests.Contest("three", rows)])
    result = bench.run(small, rounds=1)
    found = {row.name: row for row in result.rows}
    assert found["broken"].problem == "ValueError: no good"
    assert found["absent"].problem == "no_such_package is not installed"
    assert found["plain"].step_s is not None
    assert found["plain"].ratio is None
    assert "no good" in bench.table(result)


@pytest.mark.parametrize(
    "options", [{"rounds": 0}, {"threads": 0}, {"limit": 0}, {"device": "abacus"}, {"device": "meta"}]
)
def test_wrong_input_is_refused_before_anything_is_measured(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        bench.run("resnet18", **options)


def test_the_command_writes_table_figures_and_picture(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "Bandwidth", lambda device: Bandwidth(device, numel=1000))
    app = typer.Typer()
    app.command()(command.bench)
    for suffix in ("svg", "png"):
        figures, picture = tmp_path / "figures.json", tmp_path / f"ratios.{suffix}"
        arguments = ["momentum", "--shapes", small, "--rounds", "1", "--json", str(figures), "--picture", str(picture)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert "torch SGD fused" in done.output
        assert len(json.loads(figures.read_text())["rows"]) == 4
        assert picture.read_bytes().startswith(b"<svg" if suffix == "svg" else b"\x89PNG")


@pytest.mark.parametrize("name", ["a<b & c.json", "\udce9.json"])
def test_a_picture_is_written_whatever_the_file_of_shapes_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "Bandwidth", lambda device: Bandwidth(device, numel=1000))
    shapes, picture = tmp_path / name, tmp_path / "ratios.svg"
    shapes.write_text("[[4, 4]]", encoding="utf-8")
    command.bench(["momentum"], str(shapes), rounds=1, picture=picture)
    title = next(iter(ET.parse(picture).getroot().iter("{http://www.w3.org/2000/svg}text"))).text
    assert name.replace("\udce9", "\ufffd") in title


@pytest.mark.parametrize("path", ["ratios.gif", "nowhere/ratios.svg"])
def test_a_picture_that_could_not_be_written_is_refused_first(small: str, path: str) -> None:
    app = typer.Typer()
    app.command()(command.bench)
    done = CliRunner().invoke(app, ["--shapes", small, "--picture", path])
    assert isinstance(done.exception, OptionError)


def test_every_name_in_the_catalogue_of_shapes_can_be_loaded() -> None:
    assert all(load(name) for name in SHAPES)
