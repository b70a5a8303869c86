"""What commands print: no stored text controls a terminal, and no encoding makes a command fail."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from sabun.cli import app, console
from sabun.text_safety import visible

HOSTILE = "学習\x1b[31m\x9b2J\x1b]0;title\x07\u202e−é"
"""Japanese, a colour, a cleared screen, a window title, a reversed direction, a minus sign, and an accent."""
NAMES = {"study": "study " + HOSTILE, "baseline": "base " + HOSTILE, "candidate": "new " + HOSTILE}

TASK = """
import torch

class Task:
    batch_size = 8
    calls = 0

    def data(self):
        x = torch.randn(48, 2, generator=torch.Generator().manual_seed(0))
        return {part: (x, x.sum(1, keepdim=True)) for part in ("train", "validation", "test")}

    def model(self):
        return torch.nn.Linear(2, 1)

    def loss(self, model, batch):
        self.calls += 1
        if self.calls == 100:
            raise ValueError(HOSTILE)
        return ((model(batch[0]) - batch[1]) ** 2).mean()
"""

STUDY = """
name = {study}
task = {task}

[baseline]
name = {baseline}
optimizer = "torch.optim:SGD"

[[candidates]]
name = {candidate}
optimizer = "torch.optim:SGD(momentum=0.5)"

[budget]
trials = 0
seeds = 6
epochs = 2
"""

COMMANDS: dict[str, list[list[str]]] = {
    "doctor": [[], ["--json"]],
    "schemes": [[], ["--lang", "ja"]],
    "explain": [["nesterov", "--lr", "0.1"], ["nesterov", "--lang", "ja"], [HOSTILE]],
    "bench": [["momentum", "--shapes", "mixed", "--limit", "1000", "--rounds", "1"], [HOSTILE]],
    "poc run": [["study.toml", "--out", "finished"], ["study.toml", "--out", "finished", "--json"]],
    "poc resume": [["finished", "--yes", "--lang", "ja"], ["other", "--yes", "--retry-failed"]],
    "poc status": [["finished"], ["finished", "--json"], [HOSTILE]],
    "poc report": [["finished"], ["finished", "--lang", "ja"], ["finished", "--json"]],
    "poc verify": [["finished"], ["finished", "--json"], ["changed"]],
    "poc log": [["finished"], ["finished", "--format", "csv"], ["finished", "--format", "json"]],
    "poc compare": [["finished", "other"], ["finished", "other", "--lang", "ja"], ["finished", "other", "--json"]],
    "poc export": [["finished", "--csv", "-"], ["finished", "--json"]],
    "poc judge": [
        ["runs.csv", "--by", "arm", "--baseline", NAMES["baseline"]],
        ["runs.csv", "--by", "arm", "--baseline", NAMES["baseline"], "--lang", "ja"],
        ["runs.csv", "--by", "arm", "--baseline", NAMES["baseline"], "--json"],
        ["runs.csv", "--by", HOSTILE, "--baseline", HOSTILE],
    ],
    "poc plan": [["study.toml", "--budget", "20runs"], ["study.toml", "--budget", "20runs", "--json"], [HOSTILE]],
    "poc init": [["new.toml", "--task", HOSTILE], ["new.toml", "--script", "python " + HOSTILE]],
    "poc check": [["study.toml"], ["study.toml", "--json"]],
    "poc calibrate": [["--studies", "5"], ["finished", "--studies", "5"], ["--studies", "5", "--json"]],
    "rollout init": [["--plan", "new", "--champion", "torch.optim:SGD", "--challenger", HOSTILE, "--name", HOSTILE]],
    "rollout status": [["--plan", "rollout"], ["--plan", "rollout", "--json"]],
    "rollout promote": [["--plan", "rollout"], ["--plan", "rollout", "--override", HOSTILE]],
    "rollout rollback": [["--plan", "rollout", "--reason", HOSTILE]],
    "rollout apply": [["--plan", "rollout", "--reason", HOSTILE]],
    "rollout verify": [["--plan", "rollout"], ["--plan", "rollout", "--json"]],
    "rollout log": [["--plan", "rollout", "--format", form] for form in ("markdown", "csv", "json")],
    "rollout choose": [[HOSTILE, "--plan", "rollout"], [HOSTILE, "--plan", "rollout", "--json"]],
    "rollout mlflow": [[HOSTILE, "--plan", "rollout"]],
}
NAMED = ("poc run", "poc status", "poc report", "poc log", "poc compare", "poc export", "poc check",
         "rollout status", "rollout log", "rollout promote")  # fmt: skip
"""Commands that show the name of an arm or a reason."""


def every_command(command: click.Command, name: str = "") -> Iterator[str]:
    below = getattr(command, "commands", None)
    if below is None:
        yield name
    for word, one in (below or {}).items():
        yield from every_command(one, f"{name} {word}".strip())


def test_every_command_is_covered() -> None:
    assert set(COMMANDS) == set(every_command(typer.main.get_command(app.build())))


def said(words: list[str], encoding: str) -> tuple[int, str, str]:
    """The exit code of a command and what it wrote to streams that know only ``encoding``, as on a strict terminal."""
    kept = sys.stdout, sys.stderr
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in kept]
    sys.stdout, sys.stderr = streams
    try:
        code = app.run(words)
    finally:
        sys.stdout, sys.stderr = kept
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    return code, *texts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with hostile names, a failed run and a verdict; a changed copy; a roll-out with hostile reasons."""
    path = tmp_path_factory.mktemp("world")
    (path / "task.py").write_text(TASK.replace("HOSTILE", ascii(HOSTILE)), encoding="utf-8")
    task = str(path / "task.py") + ":Task"
    quoted = {key: json.dumps(text) for key, text in {**NAMES, "task": task}.items()}
    (path / "study.toml").write_text(STUDY.format(**quoted).replace("\x9b", "\\u009b"), encoding="utf-8")
    for name in ("finished", "other"):
        assert app.run(["poc", "run", str(path / "study.toml"), "--out", str(path / name), "--quiet"]) == 0
    assert app.run(["poc", "export", str(path / "other"), "--csv", str(path / "runs.csv")]) == 0
    shutil.copytree(path / "other", path / "changed")
    records = (path / "changed" / "records.jsonl").read_bytes().splitlines(keepends=True)
    (path / "changed" / "records.jsonl").write_bytes(b"".join(records[:2] + records[3:]))
    rollout = ["--plan", str(path / "rollout")]
    plan = ["--study", str(path / "finished"), "--candidate", NAMES["candidate"], "--name", HOSTILE]
    assert app.run(["rollout", "init", *rollout, *plan]) == 0
    assert app.run(["rollout", "promote", *rollout, "--override", HOSTILE]) == 0
    return path


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "latin-1", "utf-8"])
def test_every_command_prints_on_every_terminal(
    encoding: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for name, calls in COMMANDS.items():
        shown = ""
        for arguments in calls:
            words = [*name.split(), *arguments]
            code, out, err = said(words, encoding)
            assert code in (0, 1, 2, 11, 12, 13), words
            assert visible(out) == out, (words, out)
            assert visible(err) == err, (words, err)
            assert "Traceback" not in err, words
            if "--json" in arguments or "json" in arguments:
                read = json.dumps(json.loads(out), ensure_ascii=False)
                shown += read
                assert "�" not in read, words
            shown += out + err
        if name == "poc status":
            assert "1 runs failed" in shown or "failed, seed" in shown
        if name in NAMED and encoding in ("cp932", "utf-8"):
            assert "学習" in shown, (name, shown)


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("−1.5% … ≥ λ²β", "ascii", "-1.5% ... >= lambda2beta"),
        ("学習 é – α", "cp932", "学習 e - α"),
        ("学 é – ●≠", "latin-1", "?? é - *!="),
        ("≮\u0301", "ascii", "?"),
        ("¥100 ½", "ascii", "JPY 100 ?"),
        ("（Ａ）１", "ascii", "(A)1"),
    ],
)
def test_a_character_that_is_missing_gets_a_plain_substitute(text: str, encoding: str, expected: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    kept, sys.stdout = sys.stdout, stream
    try:
        with console.prepared():
            console.echo(text, end="")
    finally:
        sys.stdout = kept
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == expected  # type: ignore[attr-defined]


def test_every_substitute_is_plain() -> None:
    assert all(text.isascii() and text.isprintable() for text in console.SUBSTITUTES.values())


@pytest.mark.parametrize("encoding", ["ascii", "cp932"])
@pytest.mark.parametrize("words", [["schemes", "--lang", "ja"], ["poc", "run", "--help"]])
def test_the_streams_of_a_real_process(words: list[str], encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-m", "sabun", *words], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert ("次数" in text) == (encoding == "cp932" and words[0] == "schemes")


@pytest.mark.parametrize(
    ("lang", "said"),
    [
        ("en", ["demo: 12 runs, 3 of them already done", "tuned new: lr 0.100", "done in 3.50 s"]),
        ("ja", ["demo：学習12回（うち3回は完了済み）", "new の調整結果：lr 0.100", "3.50秒で完了しました"]),
    ],
)
def test_progress_is_in_the_language_that_was_asked_for(
    lang: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from sabun.cli.progress import listener, phase_name, place
    from sabun.poc import events
    from sabun.poc.judgement.assessment import Tuning
    from sabun.poc.study import default_study

    study = default_study(name="demo")
    with listener(lang, quiet=False) as heard:
        heard(events.StudyStarted(study, Path("runs/demo"), 12, 3))
        heard(events.TuningFinished(Tuning("new", {"lr": 0.1}, 0.5, (), 1, 1.0)))
        heard(events.StudyFinished(study, Path("runs/demo"), 3.5))
    shown = capsys.readouterr().err
    assert [part for part in said if part not in shown] == []
    assert place(2, 4, lang) == {"en": "epoch 2 of 4", "ja": "4エポック中2"}[lang]
    assert phase_name("tune", lang) == {"en": "tuning", "ja": "事前調整"}[lang]
