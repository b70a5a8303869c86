"""``sabun poc init``, ``check`` and ``calibrate``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from sabun.cli.app import run
from sabun.poc.spec import Study


def test_init_writes_a_study_that_loads_and_never_overwrites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    assert run(["poc", "init", str(file), "--task", 'odd "name".py:Task']) == 0
    study = Study.load(file)
    assert (study.name, study.task) == ("mine", 'odd "name".py:Task')
    before = file.read_bytes()
    assert run(["poc", "init", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert run(["poc", "init", str(tmp_path / "none" / "x.toml")]) == 2


def test_init_for_a_script_compares_with_what_the_script_makes_and_shows_the_lines(
    tmp_path: Path, python: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, script = tmp_path / "mine.toml", Path(__file__).parents[1] / "poc" / "scripts" / "plain.py"
    command = f"{python} {script} --epochs {{epochs}}"
    assert run(["poc", "init", str(file), "--script", command, "--check"]) == 0
    output = capsys.readouterr().out
    assert "optimizer = sabun.swap(optimizer)" in output
    assert "No problem found" in output
    assert "Study: 123 runs" in output  # 3 arms × (12 × 2 + 16 + 1)
    study = Study.load(file)
    assert (study.task, study.baseline.optimizer) == (f"script:{command}", "script")
    assert run(["poc", "init", str(tmp_path / "x.toml"), "--script", "a", "--task", "b"]) == 2


def test_options_of_a_script_enter_its_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--threads", "2", "--no-isolation", "--time-limit", "60"]
    assert run(["poc", "init", str(tmp_path / "a.toml"), "--script", "python train.py", *options]) == 0
    assert Study.load(tmp_path / "a.toml").task_options == {"time_limit": 60.0, "threads": 2, "isolated": False}
    assert run(["poc", "init", str(tmp_path / "b.toml"), "--script", "python train.py"]) == 0
    assert Study.load(tmp_path / "b.toml").task_options == {}
    capsys.readouterr()
    for option in (["--threads", "2"], ["--no-isolation"], ["--time-limit", "60"]):
        assert run(["poc", "init", str(tmp_path / "c.toml"), *option]) == 2
        assert not (tmp_path / "c.toml").exists()
        assert run(["poc", "check", "--task", "digits", *option]) == 2
        assert run(["poc", "run", "--task", "digits", *option, "--out", str(tmp_path / "out")]) == 2
        assert f"error: {option[0]} applies to scripts only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_check_fits_on_a_screen_and_says_what_it_saw_and_what_it_did_not(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[1] / "scripts" / "corpus" / "layer_decay.py"
    monkeypatch.setenv("COLUMNS", "80")
    command = f"{python} {script}"
    assert run(["poc", "check", "--script", command, "--candidate", "adamw", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    text = " ".join(line.strip() for line in lines)
    assert "Observed: 4 epochs of the script, to its end; 24 gradients" in text
    found = [line.split() for line in lines if line.startswith("    ")][:6]
    assert found[2] == ["2", "layer_2", "0.01", "0.00167", "0", "0.01", "0.17", "→", "0", "99"]
    assert found[5] == ["2", "layer_2", "0.003", "0.0005", "0", "0.003", "0.17", "→", "0", "99"]
    for part in (
        "Not verified: that all arms train equally long",
        "data that are not trained on",
        "Effect: 16 seeds find",
    ):
        assert part in text
    assert run(["poc", "check", "--script", command, "--candidate", "adamw", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("given", "margin"), [("2%", 0.02), ("0.02", 0.02), ("0", 0.0), ("0.5 %", 0.005)])
def test_the_margin_is_a_percentage_or_a_fraction(tmp_path: Path, given: str, margin: float) -> None:
    assert run(["poc", "init", str(tmp_path / "x.toml"), "--margin", given, "--json"]) == 0
    assert Study.load(tmp_path / "x.toml").thresholds.margin == margin


@pytest.mark.parametrize("given", ["", "one", "100%", "1", "-1%", "nan", "1%%", "1% of the loss"])
def test_a_margin_that_is_none_is_refused_before_anything_is_written(
    tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["poc", "init", str(tmp_path / "x.toml"), "--margin", given]) == 2
    assert run(["poc", "run", "--margin", given, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("error: --margin must be at least 0% and below 100%") == 2
    assert list(tmp_path.iterdir()) == []


def test_init_asks_for_the_margin_where_a_person_sits_at_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["poc", "init", str(tmp_path / "a.toml")]) == 0
    assert Study.load(tmp_path / "a.toml").thresholds.margin == 0.01
    assert "worth adopting" not in capsys.readouterr().err, "a pipeline is asked nothing"

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for answer, margin in (("3%\n", 0.03), ("\n", 0.01)):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", terminal)
        file = tmp_path / f"{margin}.toml"
        assert run(["poc", "init", str(file)]) == 0
        assert Study.load(file).thresholds.margin == margin
    assert run(["poc", "init", str(tmp_path / "b.toml"), "--margin", "4%"]) == 0
    assert Study.load(tmp_path / "b.toml").thresholds.margin == 0.04


def test_check_reports_a_script_without_the_calls_after_one_run(
    tmp_path: Path, python: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text("print('training')\n", encoding="utf-8")
    assert run(["poc", "check", "--script", f"{python} {tmp_path / 'train.py'}"]) == 1
    output = capsys.readouterr()
    assert "script fails: it never called sabun.swap: put 'optimizer = sabun.swap(optimizer)'" in output.out
    assert output.err.count("checking") == 1


def test_check_finds_no_problem_in_a_correct_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["poc", "check", "--task", "digits", "--candidate", "euler", "--quiet", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["findings"] == []
    assert value["runs"] == 2 * (12 * 2 + 16 + 1)
    assert value["seconds"] > 0


def test_check_names_a_task_that_ignores_its_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fixed.py").write_text(
        """
import torch

class Task:
    batch_size = 8
    def data(self):
        x = torch.ones(48, 1)  # all alike: the order of the batches makes no difference
        return {part: (x, 2 * x) for part in ("train", "validation", "test")}
    def model(self):
        torch.manual_seed(0)
        return torch.nn.Linear(1, 1)
    def loss(self, model, batch):
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])
""",
        encoding="utf-8",
    )
    assert run(["poc", "check", f"{tmp_path / 'fixed.py'}:Task", "--candidate", "euler", "--json", "--quiet"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [finding["code"] for finding in found] == ["seed-ignored"]


def test_check_names_a_task_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.py").write_text(
        """
import torch

class Task:
    def data(self):
        x = torch.zeros(40, 1)
        return {part: (x, x) for part in ("train", "validation", "test")}
    def model(self):
        return torch.nn.Linear(1, 1)
    def loss(self, model, batch):
        raise RuntimeError("no such column: price")
""",
        encoding="utf-8",
    )
    assert run(["poc", "check", f"{tmp_path / 'broken.py'}:Task", "--candidate", "euler", "--json", "--quiet"]) in (
        1,
        2,
    )
    streams = capsys.readouterr()
    assert "no such column: price" in streams.out + streams.err
    assert "Traceback" not in streams.err


def test_calibrate_shows_error_rate_and_power(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["poc", "calibrate", "--studies", "400", "--seeds", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["go_rate"] <= 0.05
    assert run(["poc", "calibrate", "--studies", "200", "--seeds", "8", "--effect", "0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["power"] > 0.5
    assert run(["poc", "calibrate", "--studies", "50", "--looks", "6,8"]) == 0
    assert "promised: at most 5%" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--looks", "six"], ["--scenario", "skewd"], ["--effect", "2"], ["--studies", "0"]]
)
def test_calibrate_refuses_invalid_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["poc", "calibrate", *options]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "options",
    [
        ["--candidate", ""], ["--baseline", ""], ["--candidate", "x" * 301], ["--candidate", ":SGD"],
        ["--candidate", "..x:SGD"], ["--candidate", "torch.optim:Sgd"],
    ],
)  # fmt: skip
def test_an_invalid_notation_is_refused_in_two_lines(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["poc", "run", *options, "--out", str(tmp_path / "study")]) == 2
    output = capsys.readouterr().err.strip().splitlines()
    assert [line.partition(":")[0] for line in output] == ["error", "fix"]
    assert not (tmp_path / "study").exists()


def test_calibrating_without_a_study_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["poc", "calibrate", str(tmp_path / "none")]) == 2
    assert "there is no study in" in capsys.readouterr().err


def test_init_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    assert run(["poc", "init", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "study": Study.load(file).hash}


def test_every_command_of_a_roll_out_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["--plan", str(tmp_path), "--json"]

    def answer(*words: str) -> dict[str, object]:
        assert run(["rollout", *words, *plan]) == 0
        found = json.loads(capsys.readouterr().out)
        assert isinstance(found, dict)
        return found

    sides = ["--champion", "torch.optim:AdamW", "--challenger", "nesterov@adam"]
    first = answer("init", *sides, "--challenger-lr", "0.003")
    second = answer("promote", "--override", "a drill")
    assert second["stage"] != first["stage"]
    assert answer("rollback", "--reason", "the drill is over")["stage"] == first["stage"]
    checked = answer("verify")
    assert checked["ok"] is True
    assert checked["head"] == answer("status")["head"]
    log = tmp_path / "rollout.audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"a drill", b"no drill"))
    assert run(["rollout", "verify", *plan]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
