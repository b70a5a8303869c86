"""Faults in a user's own task or script: each is reported with its cause, and no record is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sabun.cli import app
from sabun.optim.compiled import c_compiler
from sabun.poc import evidence as stored

from ..fixtures.make_study import FINISHED

Capture = pytest.CaptureFixture[str]
ARMS = ["--baseline", "torch.optim:SGD", "--candidate", "euler", "--trials", "0"]

TASK = """
import sys
import torch

def act(place):
    if place == {place!r}:
        {what}

act("import")

class Task:
    batch_size = 8
    calls = 0

    def __init__(self):
        act("init")

    def data(self):
        act("data")
        x = torch.randn(48, 2, generator=torch.Generator().manual_seed(0))
        return {{part: (x, x.sum(1, keepdim=True)) for part in ("train", "validation", "test")}}

    def model(self):
        act("model")
        return torch.nn.Linear(2, 1)

    def loss(self, model, batch):
        act("loss" if model.training else "evaluation")
        self.calls += 1
        if self.calls > 20:
            act("later")
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    def metric(self, model, batch):
        act("metric")
        return torch.tensor({metric})
"""


def write(where: Path, place: str = "", what: str = "pass", metric: str = "0.5") -> str:
    (where / "mine.py").write_text(TASK.format(place=place, what=what, metric=metric), encoding="utf-8")
    return f"{where / 'mine.py'}:Task"


@pytest.mark.parametrize("what", ["raise FileNotFoundError('no data.csv')", "sys.exit('no data.csv')", "sys.exit()"])
@pytest.mark.parametrize("place", ["import", "init", "data", "model", "loss", "metric", "evaluation"])
def test_an_error_in_a_task_is_reported_with_its_location_and_nothing_is_written(
    place: str, what: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert app.run(["poc", "run", write(tmp_path, place, what), *ARMS, "--seeds", "1", "--out", str(out)]) == 2
    said = capsys.readouterr()
    cause, fix = said.err.splitlines()
    assert cause.startswith("error: ")
    assert "(mine.py, line 7)" in cause
    assert ("no data.csv" in cause) == ("data.csv" in what)
    assert ("SystemExit" in cause) == ("exit" in what)
    assert fix.startswith("fix: ")
    assert said.out == ""
    assert not out.exists()


def test_a_syntax_error_names_its_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "bad.py").write_text("x = 1\nclass Task:\n    def model(self:\n", encoding="utf-8")
    assert app.run(["poc", "run", f"{tmp_path / 'bad.py'}:Task"]) == 2
    assert "(bad.py, line 3)" in capsys.readouterr().err


def test_an_error_during_training_fails_those_runs_and_the_status_shows_it(tmp_path: Path, capsys: Capture) -> None:
    task = write(tmp_path, "later", "sys.exit('the licence server is gone')")
    out = tmp_path / "out"
    assert app.run(["poc", "run", task, *ARMS, "--seeds", "1", "--epochs", "2", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "run of SGD failed: SystemExit: the code called sys.exit with 'the licence server is gone'" in said.err
    assert "Undecided" in said.out
    assert app.run(["poc", "status", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "SGD, evaluation: failed, seed 0: SystemExit: the code called sys.exit" in shown
    assert "mine.py, line 7" in shown
    assert app.run(["poc", "status", str(out), "--json"]) == 0
    failures = json.loads(capsys.readouterr().out)["failures"]
    assert {failure["arm"] for failure in failures} == {"SGD", "euler"}
    assert app.run(["poc", "verify", str(out)]) == 0


def test_not_a_number_everywhere_and_a_single_seed_end_in_undecided(tmp_path: Path, capsys: Capture) -> None:
    """The metric is NaN, the losses become NaN, and there is one seed: no verdict, but a report with the reason."""
    task = write(tmp_path, metric="float('nan')")
    source = Path(task.removesuffix(":Task"))
    text = source.read_text(encoding="utf-8").replace(
        ").mean()", ").mean() * (1.0 if self.calls < 15 else float('nan'))"
    )
    source.write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    assert app.run(["poc", "run", task, *ARMS, "--seeds", "1", "--epochs", "3", "--out", str(out), "--gate"]) == 11
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert {run.status for run in stored.read(out).runs} == {"diverged"}
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["decision"] == "undecided"


UNTIMED = """
name = "constant"
task = {task}

[baseline]
name = "SGD"
optimizer = "torch.optim:SGD"

[[candidates]]
name = "euler"
optimizer = "euler"

[budget]
trials = 0
seeds = 6
epochs = 1

[thresholds]
max_time_ratio = 1e9   # the clock of a busy machine may say what it likes
"""


def test_without_variance_nothing_is_decided(tmp_path: Path, capsys: Capture) -> None:
    """Every run of every seed ends at the same loss: no standard error, hence no verdict."""
    task = write(tmp_path)
    source = Path(task.removesuffix(":Task"))
    text = source.read_text(encoding="utf-8").replace(").mean()", ").mean() * 0.0 + 1.0")
    source.write_text(text, encoding="utf-8")
    study, out = tmp_path / "study.toml", tmp_path / "out"
    study.write_text(UNTIMED.format(task=json.dumps(task)), encoding="utf-8")
    assert app.run(["poc", "run", str(study), "--out", str(out), "--gate"]) == 11
    assert capsys.readouterr().out
    assert {run.epochs[-1].val_loss for run in stored.read(out).runs} == {1.0}


FAULTY = """
# Fails in another way each time it is started.
import os, pathlib, sys, time
counter = pathlib.Path(__file__).with_name("counter")
fault = FAULTS[len(counter.read_text())] if counter.exists() else FAULTS[0]
counter.open("a").write("x")
if fault == "crash":
    print("reading the data")
    sys.exit("the disk is on fire")
if fault == "silent":
    sys.exit()
if fault == "hang":
    print("waiting for a resource", flush=True)
    time.sleep(600)
import sabun, torch
parameter = torch.nn.Parameter(torch.randn(3))
optimizer = sabun.swap(torch.optim.SGD([parameter], lr=0.1))
if fault == "no log":
    sys.exit()
for epoch in (1, 2):
    optimizer.zero_grad()
    loss = (parameter**2).sum()
    loss.backward()
    optimizer.step()
    value = loss.detach() * (float("nan") if fault == "nan" else 1.0)
    sabun.log(epoch=1 if fault == "disorder" else epoch, val_loss="low" if fault == "words" else value)
"""
FAULTS = ["good", "crash", "silent", "hang", "disorder", "nan", "good", "no log"]
"""One for each run: seeds 0, 1, 2 of baseline and candidate, in the order of the study, then two repeated runs."""


def test_a_run_of_a_script_that_fails_does_not_affect_other_runs(python: str, tmp_path: Path, capsys: Capture) -> None:
    script, out = tmp_path / "faulty.py", tmp_path / "out"
    script.write_text(FAULTY.replace("FAULTS", repr(FAULTS), 1).replace("FAULTS", repr(FAULTS)), encoding="utf-8")
    command = ["poc", "run", "--script", f"{python} {script}", "--candidate", "torch.optim:Adam"]
    command += ["--seeds", "3", "--trials", "0", "--time-limit", "4", "--out", str(out)]
    assert app.run(command) == 0
    capsys.readouterr()
    results = list(stored.read(out).records.results.values())
    assert [run.status for run in results] == [
        "failed" if fault in ("crash", "silent", "hang", "disorder", "no log") else "diverged" if fault == "nan" else
        "finished" for fault in FAULTS
    ]  # fmt: skip
    expected = {
        "crash": "it ended with exit status 1. It printed last: reading the data | the disk is on fire",
        "silent": "it never called sabun.swap: put 'optimizer = sabun.swap(optimizer)' where the optimizer is made.",
        "hang": "it exceeded its time limit of 4 s. It printed last: waiting for a resource",
        "disorder": "sabun.log got epoch 1 after epoch 1.",
        "no log": "it never called sabun.log",
    }
    assert app.run(["poc", "status", str(out)]) == 0
    shown = capsys.readouterr().out
    for fault, run in zip(FAULTS, results, strict=True):
        if fault in expected:
            assert expected[fault] in run.failure
            assert expected[fault] in shown
            assert f"complete output: {out / 'logs' / run.run}.txt" in shown
    before = (out / "records.jsonl").read_bytes()
    assert app.run([*command, "--quiet"]) == 0  # done is done: nothing is run again
    assert (out / "records.jsonl").read_bytes() == before
    script.write_text(script.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert app.run(command) == 1
    assert "task source" in capsys.readouterr().err


def test_options_without_an_effect_on_a_script_are_refused(capsys: Capture) -> None:
    assert app.run(["poc", "run", "--script", "python train.py", "--epochs", "3"]) == 2
    assert "Put {epochs} into the command" in capsys.readouterr().err
    assert app.run(["poc", "run", "--time-limit", "3"]) == 2
    assert "--time-limit applies to scripts only" in capsys.readouterr().err


FULL = """
import contextlib, io, json, random, resource, signal, sys
from pathlib import Path
from sabun.cli import app
from sabun.poc import evidence as stored
from sabun.poc.torch_loading import first_optimizer

first_optimizer()  # torch 2.8 writes a file while it loads
out, task = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
command = ["poc", "run", task, "--baseline", "torch.optim:SGD", "--candidate", "euler", "--trials", "2",
           "--seeds", "2", "--epochs", "2", "--out", str(out), "--quiet"]
rng, said, kept, size = random.Random(3), [], 0, 0
for attempt in range(200):
    size = size + rng.randrange(200, 4000) if kept < 14 else 3 * size  # room for so much in any one file
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = app.run(command)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if stored.exists(out):
        held = stored.read(out)
        assert held.verification.ok
        assert len(held.records.results) >= kept, "a finished run was lost"
        kept = len(held.records.results)
    assert not list(out.glob("report.*")) or kept == 14, "a report before the end"
    assert not list(out.glob("*.new")), "something half-written"
    if code == 0:
        break
    said.append([code, told.getvalue()])
print(json.dumps({"attempts": attempt, "said": said, "kept": kept}))
"""


def test_a_full_disk_stops_a_study_without_loss_and_the_same_command_continues(tmp_path: Path) -> None:
    """The limit on file sizes grows with each attempt, so that every file reaches it at some point."""
    task = write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "out"), task],
        # Python before 3.13.1 would leave bytecode that is cut at the limit.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kept"] == 14
    assert found["attempts"] > 6
    for code, said in found["said"]:
        assert code in (1, 2)
        assert said.startswith("error: cannot write"), said
        assert "File too large" in said
        assert "fix: " in said
    # An uninterrupted study has the same records.
    calm = tmp_path / "calm"
    assert app.run(["poc", "run", task, "--baseline", "torch.optim:SGD", "--candidate", "euler", "--trials", "2",
                    "--seeds", "2", "--epochs", "2", "--out", str(calm), "--quiet"]) == 0  # fmt: skip
    disturbed, undisturbed = stored.read(tmp_path / "out").records.results, stored.read(calm).records.results
    assert list(disturbed) == list(undisturbed)
    for run, result in disturbed.items():
        assert [e.val_loss for e in result.epochs] == [e.val_loss for e in undisturbed[run].epochs]


DEEP = {"arrays": "a = " + "[" * 20_000 + "]" * 20_000, "tables": "[" + ".".join(["a"] * 20_000) + "]\nb = 1"}


@pytest.mark.parametrize("how", DEEP)
def test_a_deeply_nested_file_is_bad_input(how: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "deep.toml").write_text(DEEP[how], encoding="utf-8")
    assert app.run(["poc", "run", str(tmp_path / "deep.toml"), "--out", str(tmp_path / "out")]) == 2
    cause, fix = capsys.readouterr().err.splitlines()
    assert cause.startswith("error: ")
    assert fix.startswith("fix: ")


@pytest.mark.parametrize("command", [["poc", "status"], ["poc", "verify"], ["poc", "report"], ["poc", "run", "--out"]])
def test_a_path_that_is_too_long_is_bad_input(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert app.run([*command, str(tmp_path / ("a" * 300))]) == 2
    cause, fix = capsys.readouterr().err.splitlines()
    assert cause.endswith("File name too long.")
    assert fix.startswith("fix: ")


@pytest.mark.parametrize(("arguments", "code"), [(["schemes"], 0), (["poc", "report", "{study}", "--gate"], 11)])
def test_an_output_that_is_full_is_one_error_and_one_that_is_closed_is_none(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    shutil.copytree(FINISHED, tmp_path / "s")
    command = " ".join([sys.executable, "-m", "sabun", *arguments]).replace("{study}", str(tmp_path / "s"))
    full = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert full.stderr.splitlines()[0] == "error: standard output: No space left on device."
    assert len(full.stderr.splitlines()) == 2
    closed = subprocess.run(f"{command} >&-", shell=True, capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (code, "")


def test_a_compiler_variable_that_is_no_command_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "'cc")
    assert c_compiler.compiler() is None
    assert not c_compiler.compiles("auto")
    with pytest.raises(c_compiler.NoCompilerError, match="is not a command"):
        c_compiler.library("int x;")
