"""``sabun poc`` from end to end on a small real study, and every kind of bad input."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sabun import audit
from sabun.cli import app
from sabun.poc import evidence as stored
from sabun.poc.evidence.study_records import StudyRecords

SMALL = [
    "--baseline",
    "torch.optim:SGD",
    "--candidate",
    "torch.optim:AdamW",
    "--seeds",
    "6",
    "--trials",
    "2",
    "--epochs",
    "2",
]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("poc") / "study"
    assert app.run(["poc", "run", *SMALL, "--out", str(where), "--quiet"]) == 0
    return where


def test_a_study_leaves_records_and_three_reports(study: Path) -> None:
    assert {"study.json", "records.jsonl", "report.html", "report.json", "report.md"} <= {
        p.name for p in study.iterdir()
    }
    assert not list(study.glob("*.new"))
    data = json.loads((study / "report.json").read_text(encoding="utf-8"))
    records = (study / "records.jsonl").read_bytes()
    assert data["audit"]["records_sha256"] == hashlib.sha256(records).hexdigest()
    assert data["audit"]["study_hash"] == stored.read(study).study.hash
    assert data["effort"]["runs"] == len(stored.read(study).runs)
    assert [arm["name"] for arm in data["arms"]] == ["SGD", "AdamW"]


def test_the_report_shows_how_much_of_the_stability_interval_was_used(study: Path) -> None:
    """Plain SGD is stable up to hλ = 2. AdamW is preconditioned, so this λ has no limit for it."""
    sgd, adamw = json.loads((study / "report.json").read_text(encoding="utf-8"))["arms"]
    repeated = next(run for run in stored.read(study).runs if run.arm == "SGD" and run.phase == "repeat")
    used = [e.extra["curvature"] * e.lr / 2 for e in repeated.epochs if e.lr is not None]
    assert [share for _, share in sgd["interval_used"]] == pytest.approx(used, rel=1e-6)
    assert sgd["margin"] == pytest.approx(1 - max(used))
    assert (adamw["margin"], adamw["interval_used"], len(adamw["curvature"])) == (None, [], 3)


def test_the_same_command_again_finds_everything_done(study: Path, capsys: Capture) -> None:
    before = (study / "records.jsonl").read_bytes()
    assert app.run(["poc", "run", *SMALL, "--out", str(study)]) == 0
    output = capsys.readouterr()
    assert "26 of them already done" not in output.out
    assert "22 runs, 22 of them already done" in output.err
    assert str(study / "report.html") in output.out
    assert (study / "records.jsonl").read_bytes() == before


READING = [
    (["run", *SMALL, "--out", "{}"], 1), (["resume", "{}"], 1), (["report", "{}"], 1), (["status", "{}"], 1),
    (["verify", "{}"], 1), (["export", "{}", "--json"], 1), (["compare", "{}", "{}"], 2), (["log", "{}"], 0),
]  # fmt: skip


@pytest.mark.parametrize(("command", "times"), READING, ids=[command[0] for command, _ in READING])
def test_a_command_reads_the_records_of_a_study_once(
    command: list[str], times: int, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    made = StudyRecords.__init__
    monkeypatch.setattr(StudyRecords, "__init__", lambda self, *args: (opened.append(self), made(self, *args))[1])
    assert app.run(["poc", *(word.format(study) for word in command)]) == 0
    assert len(opened) == times


def test_results_and_progress_go_to_their_streams(study: Path, capsys: Capture) -> None:
    assert app.run(["poc", "report", str(study), "--lang", "ja"]) == 0
    output = capsys.readouterr()
    assert "学習曲線" in output.out
    assert "報告書" in output.out
    assert output.err == ""
    assert "\x1b" not in output.out
    assert '<html lang="ja"' in (study / "report.html").read_text(encoding="utf-8")
    assert app.run(["poc", "report", str(study), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_json_is_one_value_and_nothing_else(study: Path, capsys: Capture) -> None:
    for arguments in (["report"], ["status"], ["verify"]):
        assert app.run(["poc", *arguments, str(study), "--json"]) == 0
        output = capsys.readouterr()
        assert isinstance(json.loads(output.out), dict)
        assert output.err == ""
    assert app.run(["poc", "run", *SMALL, "--out", str(study), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["files"]["html"] == str(study / "report.html")


def test_the_exit_code_of_the_gate_is_the_decision(study: Path) -> None:
    decision = json.loads((study / "report.json").read_text(encoding="utf-8"))["decision"]
    assert app.run(["poc", "report", str(study), "--quiet"]) == 0
    assert (
        app.run(["poc", "report", str(study), "--quiet", "--gate"]) == {"go": 0, "no-go": 10, "undecided": 11}[decision]
    )


def test_prices_reach_the_report(study: Path, capsys: Capture) -> None:
    prices = ["--price-per-hour", "3.5", "--jobs-per-month", "40", "--currency", "usd", "--hours-per-job", "2"]
    assert app.run(["poc", "report", str(study), "--json", *prices]) == 0
    money = json.loads(capsys.readouterr().out)["money"]
    assert (money["currency"], money["today_month"]) == ("USD", 280.0)


def test_status_and_verify(study: Path, capsys: Capture) -> None:
    assert app.run(["poc", "status", str(study)]) == 0
    assert "22 of 22 runs, finished" in capsys.readouterr().out
    assert app.run(["poc", "verify", str(study)]) == 0
    assert stored.read(study).verification.head in capsys.readouterr().out


def test_a_verdict_is_an_event_and_every_report_prints_the_head_of_the_log(study: Path, capsys: Capture) -> None:
    assert app.run(["poc", "report", str(study), "--quiet"]) == 0  # other tests have asked for the study since
    events = audit.read(study / "audit.jsonl")
    verdict = [event for event in events if event.event == "verdict"][-1]
    data = json.loads((study / "report.json").read_text(encoding="utf-8"))
    assert verdict.data["verdicts"] == {c["arm"]: c["verdict"]["decision"] for c in data["candidates"]}
    head = data["audit"]["log_head"]
    assert head == events[-1].hash
    for name in ("report.html", "report.md"):
        assert head in (study / name).read_text(encoding="utf-8")
    for lang, words in (("en", "Head of the audit log"), ("ja", "監査ログの末尾ハッシュ")):
        assert app.run(["poc", "report", str(study), "--lang", lang]) == 0
        out = "".join(capsys.readouterr().out.split())
        assert head in out
        assert "".join(words.split()) in out
    assert audit.read(study / "audit.jsonl") == events  # the same verdict again is no new event
    assert app.run(["poc", "verify", str(study), "--anchor", head]) == 0
    assert head in capsys.readouterr().out
    assert app.run(["poc", "verify", str(study), "--anchor", "f" * 64]) == 1
    assert "anchor" in capsys.readouterr().err


def test_the_log_is_exported(study: Path, capsys: Capture) -> None:
    events = audit.read(study / "audit.jsonl")
    assert app.run(["poc", "log", str(study)]) == 0
    table = capsys.readouterr().out
    assert table.count("run.ended") == 22
    assert events[-1].hash in table
    assert app.run(["poc", "log", str(study), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["event"] for row in rows] == [event.event for event in events]
    assert app.run(["poc", "log", str(study), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["event"] == "study.frozen"


def test_no_verdict_on_records_that_were_changed(study: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("study.json", "records.jsonl", "audit.jsonl", "audit.jsonl.head"):
        (tmp_path / name).write_bytes((study / name).read_bytes())
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:-1]))
    for command in (["report"], ["verify"], ["verify", "--json"]):
        assert app.run(["poc", *command, str(tmp_path)]) not in (0, 2)
        shown = capsys.readouterr()
        assert "lines were cut off" in shown.out + shown.err
    assert not (tmp_path / "report.html").exists()
    told = [event.event for event in audit.read(tmp_path / "audit.jsonl")]
    assert told[-1] == "tampering.found"
    assert told.count("tampering.found") == 1


def test_verify_finds_an_edit(study: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("study.json", "records.jsonl"):
        (tmp_path / name).write_bytes((study / name).read_bytes())
    lines = (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    lines[5] = lines[5].replace('"val_loss":', '"val_loss": ', 1)
    (tmp_path / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    assert app.run(["poc", "verify", str(tmp_path)]) == 1
    assert "line 6" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
def test_no_control_characters_reach_a_file(study: Path, variable: str) -> None:
    value = {"NO_COLOR": "1", "TERM": "dumb"}[variable]
    done = subprocess.run(
        [sys.executable, "-c", "from sabun.cli import main; main()", "poc", "report", str(study)],
        capture_output=True, text=True, check=False, env={**os.environ, variable: value},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr


TASK = """
import torch
class Tiny:
    def model(self): return torch.nn.Linear(2, 1)
    def data(self):
        g = torch.Generator().manual_seed(0)
        x = torch.randn(96, 2, generator=g)
        y = x @ torch.tensor([[1.0], [-2.0]]) + 0.1 * torch.randn(96, 1, generator=g)
        return {"train": (x[:64], y[:64]), "validation": (x[64:80], y[64:80]), "test": (x[80:], y[80:])}
    def loss(self, model, batch):
        x, y = batch
        return ((model(x) - y) ** 2).mean()
"""


def test_a_user_defined_task_and_a_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mytask.py").write_text(TASK, encoding="utf-8")
    assert app.run(["poc", "run", "mytask.py:Tiny", *SMALL, "--quiet"]) == 0
    assert Path("runs/mytask.py-Tiny/report.html").exists()
    Path("study.toml").write_text(
        'name = "mine"\ntask = "mytask.py:Tiny"\n[baseline]\nname = "today"\noptimizer = "torch.optim:SGD"\n'
        '[[candidates]]\nname = "new <b>"\noptimizer = "torch.optim:Adam"\n'
        "[budget]\nseeds = 6\ntrials = 1\nepochs = 2\n",
        encoding="utf-8",
    )
    capsys.readouterr()
    assert app.run(["poc", "run", "study.toml", "--json", "--seeds", "5"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["limits"]["seeds"] == 5
    assert value["baseline"] == "today"
    assert "<b>" not in Path("runs/mine/report.html").read_text(encoding="utf-8").replace("<b>sabun</b>", "")


BAD = [
    (["--candidate", "nesterv"], "unknown optimizer 'nesterv'", "Did you mean 'nesterov'"),
    (["--candidate", "lagrange-4"], "lagrange-4", "2.686"),
    (["--baseline", "torch.optim:SGD(lr=0)"], "lr must be a positive finite number", ""),
    (["--baseline", "torch.optim:SGD(lr=-0.1)"], "lr must be a positive finite number", ""),
    (["--candidate", "nesterov(lr=1e999)"], "lr must be a positive finite number", ""),
    (["--task", "digts"], "unknown task 'digts'", "Did you mean 'digits'"),
    (["missing.py:Task"], "missing.py", ""),
    (["--candidate", "torch.optim:Adamm"], "'Adamm'", "Did you mean 'Adam"),
    (["--candidate", "torch.optim:SGD(momentun=0.9)"], "'momentun'", "Did you mean 'momentum'"),
    (["--candidate", "euler", "--candidate", "euler"], "two arms are called 'euler'", ""),
    (["--seeds", "0"], "seeds", ""),
    (["--trials", "-1"], "trials", ""),
    (["--lang", "fr"], "unknown language 'fr'", "en, ja"),
    (["--price-per-hour", "3"], "--jobs-per-month", ""),
    (["--price-per-hour", "-3", "--jobs-per-month", "2"], "price_per_hour", ""),
    (["nothere.toml"], "cannot read the study file nothere.toml", ""),
    (["misspelt.toml"], "'seedz'", "Did you mean 'seeds'"),
    (["broken.toml"], "not valid TOML", ""),
    (["misspelt.toml", "--candidate", "euler"], "names its own arms", ""),
    (["misspelt.toml", "--task", "digits"], "--task", ""),
]


@pytest.mark.parametrize(("arguments", "cause", "fix"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_reported_and_nothing_is_written(
    arguments: list[str], cause: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("misspelt.toml").write_text(
        'name = "x"\ntask = "digits"\n[baseline]\nname = "a"\noptimizer = "euler"\n'
        '[[candidates]]\nname = "b"\noptimizer = "nesterov"\n[budget]\nseedz = 3\n',
        encoding="utf-8",
    )
    Path("broken.toml").write_text("name = ", encoding="utf-8")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert app.run(["poc", "run", *arguments, "--out", "out"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert cause in output.err
    assert fix in output.err
    assert len(output.err.strip().splitlines()) <= 2
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_directory_of_another_study_is_refused_and_kept(study: Path, capsys: Capture) -> None:
    before = {p.name: p.read_bytes() for p in study.iterdir()}
    assert app.run(["poc", "run", *SMALL[:-1], "3", "--out", str(study)]) == 2
    output = capsys.readouterr().err
    assert "holds another study" in output
    assert "another directory" in output
    assert {p.name: p.read_bytes() for p in study.iterdir()} == before


@pytest.mark.parametrize("command", ["report", "status", "verify"])
def test_a_directory_without_a_study_is_named(command: str, tmp_path: Path, capsys: Capture) -> None:
    assert app.run(["poc", command, str(tmp_path)]) == 2
    assert f"there is no study in {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_export_writes_every_epoch_as_a_row(study: Path, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "epochs.csv"
    assert app.run(["poc", "export", str(study), "--csv", str(target)]) == 0
    found = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    runs = stored.read(study).records.results.values()
    assert len(found) == sum(len(run.epochs) for run in runs)
    first = next(iter(runs))
    assert float(found[1]["val_loss"]) == first.epochs[1].val_loss
    assert float(found[1]["hyperparameter.lr"]) == first.hyperparameters["lr"]
    assert app.run(["poc", "export", str(study), "--csv", "-"]) == 0
    assert capsys.readouterr().out == target.read_text(encoding="utf-8")
    assert app.run(["poc", "export", str(study), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(found)


def test_export_to_parquet_is_the_same_table_or_says_what_is_missing(
    study: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "epochs.parquet"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert app.run(["poc", "export", str(study), "--parquet", str(target)]) == 2
    assert "pip install pyarrow" in capsys.readouterr().err
    assert not target.exists()
    monkeypatch.undo()
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    assert app.run(["poc", "export", str(study), "--parquet", str(target)]) == 0
    assert parquet.read_table(target).num_rows == sum(
        len(r.epochs) for r in stored.read(study).records.results.values()
    )


def test_the_slides_are_written_beside_the_report_or_say_what_is_missing(
    study: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, kept = tmp_path / "report.pptx", tmp_path / "kept"
    kept.write_text("mine")
    before = {path.name: path.read_bytes() for path in study.iterdir()}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pptx", None)
        patch.delitem(sys.modules, "sabun.report.slides", raising=False)
        patch.delattr("sabun.report.slides", raising=False)
        assert app.run(["poc", "report", str(study), "--pptx", str(target)]) == 2
    said = capsys.readouterr().err
    assert "pip install 'sabun[slides]'" in said
    assert "Traceback" not in said
    assert not target.exists()
    assert before == {path.name: path.read_bytes() for path in study.iterdir()}
    pptx = pytest.importorskip("pptx", reason="python-pptx is not installed")
    target.symlink_to(kept)
    assert app.run(["poc", "report", str(study), "--pptx", str(target), "--lang", "ja", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["pptx"] == str(target)
    assert kept.read_text() == "mine"
    assert len(pptx.Presentation(str(target)).slides) == 7
    assert app.run(["poc", "report", str(study), "--pptx", str(tmp_path / "none" / "a.pptx")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_export_needs_one_format(study: Path, capsys: Capture) -> None:
    assert app.run(["poc", "export", str(study)]) == 2
    assert "--csv FILE, --parquet FILE or --json" in capsys.readouterr().err


def test_two_studies_side_by_side(study: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other"
    options = ["--seeds", "6", "--trials", "1", "--epochs", "2", "--candidate", "torch.optim:Adam"]
    assert app.run(["poc", "run", *SMALL[:4], *options, "--out", str(other), "--quiet"]) == 0
    capsys.readouterr()
    assert app.run(["poc", "compare", str(study), str(other)]) == 0
    output = capsys.readouterr().out
    for wanted in ("A: digits", "B: digits", "AdamW", "Only in B: digits: Adam", "trials"):
        assert wanted in output
    assert app.run(["poc", "compare", str(study), str(other), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert ["trials", "2", "1"] in value["differences"]
    assert [row["group"] for row in value["rows"]] == ["K1", "K2", "K3"]
