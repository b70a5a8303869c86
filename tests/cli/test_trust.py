"""What each command executes, imports and writes: the rows of SECURITY.md's table."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sabun.cli import app
from sabun.poc import evidence as stored
from sabun.poc import study as studies
from sabun.poc import trust
from sabun.poc.spec import Study

from ..poc.helpers import tiny_study
from .test_running import interrupted

Capture = pytest.CaptureFixture[str]

MODULE = """
import torch

open({marker!r}, "a").close()

class Mine(torch.optim.SGD):
    pass

class Task:
    batch_size = 8

    def data(self):
        x = torch.randn(48, 2, generator=torch.Generator().manual_seed(0))
        return {{part: (x, x.sum(1, keepdim=True)) for part in ("train", "validation", "test")}}

    def model(self):
        return torch.nn.Linear(2, 1)

    def loss(self, model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).mean()
"""


class Answers(io.StringIO):
    """A terminal at which somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A study that another user began, and a file that is there once its code was executed."""
    (tmp_path / "received_code.py").write_text(MODULE.format(marker=str(tmp_path / "executed")))
    monkeypatch.syspath_prepend(tmp_path)
    interrupted(code_study(), tmp_path / "s", 1)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    del sys.modules["received_code"]
    (tmp_path / "executed").unlink()
    yield tmp_path / "s", tmp_path / "executed"
    for name in ("received_code", "plan_code"):
        sys.modules.pop(name, None)


def code_study() -> Study:
    study = tiny_study("received_code:Mine(lr=0.1)", trials=0, seeds=1, epochs=1)
    return Study.build({**study.model_dump(mode="json"), "task": "received_code:Task", "task_options": {}})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_received_study_is_resumed_after_a_yes_alone(received: tuple[Path, Path], capsys: Capture) -> None:
    path, executed = received
    before = content(path)
    assert app.run(["poc", "resume", str(path)]) == 2
    cause, fix = capsys.readouterr().err.splitlines()
    assert cause == (
        f"error: you have not run the study in {path} before, and resuming it executes the task 'received_code:Task', "
        "the optimizer 'received_code:Mine(lr=0.1)'."
    )
    assert "--yes" in fix
    assert content(path) == before
    assert not executed.exists()
    assert "received_code" not in sys.modules
    assert app.run(["poc", "resume", str(path), "--yes", "--quiet"]) == 0
    assert executed.exists()
    assert len(stored.read(path).records.results) > 1
    assert app.run(["poc", "resume", str(path), "--quiet"]) == 0  # it is this user's now


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("YES\n", 0), ("\n", 2), ("n\n", 2), ("", 2)])
def test_at_a_terminal_it_asks(
    answer: str, code: int, received: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    path, executed = received
    monkeypatch.setattr(sys, "stdin", Answers(answer))
    assert app.run(["poc", "resume", str(path), "--quiet"]) == code
    assert "Continue? [y/N]" in capsys.readouterr().err
    assert executed.exists() == (code == 0)


def test_ones_own_study_is_never_asked_about_even_where_it_was_moved_to(
    received: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = received
    interrupted(code_study(), path.with_name("own"), 1)
    path.with_name("own").rename(path.with_name("moved"))
    assert app.run(["poc", "resume", str(path.with_name("moved")), "--quiet"]) == 0


def test_a_specification_that_was_changed_is_not_ones_own(tmp_path: Path) -> None:
    study = tiny_study(trials=0, seeds=1, epochs=1)
    studies.run(study, tmp_path / "s")
    assert trust.is_known(tmp_path / "s")
    other = tiny_study(trials=0, seeds=1, epochs=1, task_name="Dropout")
    studies.run(other, tmp_path / "other")
    (tmp_path / "s" / "study.json").write_bytes((tmp_path / "other" / "study.json").read_bytes())
    assert not trust.is_known(tmp_path / "s")


def test_a_study_of_built_in_parts_needs_no_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = studies.default_study()
    assert trust.code_of(study) == []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    digits = studies.default_study(candidates=["euler"], trials=0, seeds=1, epochs=1)
    interrupted(digits, tmp_path / "s", 1)
    assert not (tmp_path / "sabun").exists()
    assert app.run(["poc", "resume", str(tmp_path / "s"), "--quiet"]) == 0


def test_a_state_directory_that_cannot_be_written_stops_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert studies.run(tiny_study(trials=0, seeds=1, epochs=1), tmp_path / "s").verification.ok
    assert not trust.is_known(tmp_path / "s")


WATCHED = """
import json, os, sys

import numpy.testing, torch.distributed.nn  # importing them starts lscpu (NumPy 2.0) and writes a file (torch 2.8)

inside, state, codes = os.path.abspath(sys.argv[1]), [], {}
def watch(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        state.append(["process", os.path.basename(os.fsdecode(arguments[0]))])
    elif event.startswith("socket.") and event in ("socket.connect", "socket.getaddrinfo"):
        state.append(["network", event])
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        path, _, flags = arguments
        path = os.fsdecode(path)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes and path != os.devnull and not os.path.abspath(path).startswith(inside + os.sep):
            state.append(["write", path])
    elif event in ("os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"):
        paths = [os.path.abspath(os.fsdecode(part)) for part in arguments[:2] if isinstance(part, (str, bytes))]
        if any(not (path + os.sep).startswith(inside + os.sep) and "/torchinductor_" not in path for path in paths):
            state.append([event, *paths])

from sabun.cli import app
sys.addaudithook(watch)
found = {}
for words in json.loads(sys.argv[2]):
    state.clear()
    codes[" ".join(words)] = app.run(words)
    state += [["import", name] for name in ("received_code", "plan_code") if sys.modules.pop(name, None)]
    found[" ".join(words)] = [list(item) for item in state]
print("\\n" + json.dumps([codes, found]))
"""


def observed(folder: Path, commands: Sequence[str]) -> tuple[dict[str, int], dict[str, list[list[str]]]]:
    """The exit code of each command, and what it executed, imported, connected to, and wrote outside ``folder``."""
    words = json.dumps([command.split() for command in commands]).replace("§", " ")
    python_path = os.pathsep.join([str(folder.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED, str(folder), words], capture_output=True, text=True, check=False,
        cwd=folder.parent, env={**os.environ, "TMPDIR": str(folder.parent / "tmp"), "PYTHONPATH": python_path},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes, found = json.loads(done.stdout.splitlines()[-1])
    return codes, found


def test_each_row_of_the_table(received: tuple[Path, Path], tmp_path: Path) -> None:
    path, executed = received
    (tmp_path / "tmp").mkdir()
    (tmp_path / "plan_code.py").write_text(MODULE.format(marker=str(executed)))
    rollout = path / "rollout"
    made = ["--plan", str(rollout), "--champion", "torch.optim:SGD", "--challenger", "plan_code:Mine"]
    assert app.run(["rollout", "init", *made]) == 0
    executed.unlink(missing_ok=True)
    reading = [
        *(f"poc {name} {path}" for name in ("report", "verify", "status", "log", f"compare {path}")),
        f"poc export {path} --csv -", f"poc calibrate {path} --studies 2", f"poc resume {path}",
        *(f"rollout {name} --plan {rollout}" for name in ("verify", "log", "choose job", "rollback --reason x")),
        "schemes", "explain nesterov",
    ]  # fmt: skip
    codes, found = observed(path, reading)
    # Two seeds are too few to resample, and nobody said yes.
    assert {command for command, code in codes.items() if code} == {
        f"poc calibrate {path} --studies 2",
        f"poc resume {path}",
    }
    assert found == {command: [] for command in reading}
    assert not executed.exists()
    # The others do what the table says, and the observer sees it.
    script = tmp_path / "script.py"
    script.write_text(f"open({str(executed)!r}, 'w')\n")
    options = f"--candidate torch.optim:Adam --seeds 1 --no-tuning --out {path / 'x'}"
    naming = [
        f"rollout status --plan {rollout}",
        "poc check received_code:Task --candidate torch.optim:Adam",
        f"poc run --script {sys.executable}§{script} {options}",
    ]
    _, found = observed(path, naming)
    assert ["import", "plan_code"] in found[naming[0]]
    assert ["import", "received_code"] in found[naming[1]]
    assert executed.exists()
