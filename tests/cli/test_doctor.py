"""``sabun doctor``: what it prints here, and under each simulated fault."""

from __future__ import annotations

import builtins
import codecs
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sabun.cli import doctor, main


def checks(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert stop.value.code == (1 if found["checks"][0]["state"] == "missing" else 0)
    return {check["feature"]: check for check in found["checks"]}


def test_everything_works_where_the_suite_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = checks(capsys)
    assert all(check["fix"] for check in found.values() if check["state"] != "ok")
    for feature in (
        "optimizer",
        "core packages",
        "proof of concept, reports, roll-out",
        "file locks",
        "temporary files",
    ):
        assert found[feature]["state"] == "ok", found[feature]


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr("sabun.optim.compiled.c_compiler.library", _library_without_cache())
    found = checks(capsys)["compiled step"]
    assert found["state"] == "limited"
    assert "no-such-compiler was not found" in found["found"]
    assert "CC" in found["fix"]


def _library_without_cache() -> Any:
    from sabun.optim.compiled import c_compiler

    return c_compiler.library.__wrapped__


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a directory that nobody can write to")
def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOME", "/proc")
    found = checks(capsys)["home"]
    assert (found["state"], bool(found["fix"])) == ("limited", True)


def test_an_old_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.0+cpu" if name == "torch" else version(name))
    found = checks(capsys)["core packages"]
    assert found["state"] == "missing"
    assert "torch 2.1.0+cpu (needs 2." in found["found"]
    assert found["fix"] == 'pip install --upgrade "sabun"'


def test_no_file_locks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("sabun._files.lock", refuse)
    assert checks(capsys)["file locks"]["state"] == "missing"


def test_a_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> doctor.Check:
        raise ImportError("libtorch_cpu.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "_optimizer", broken)
    found = checks(capsys)["optimizer"]  # and the exit code is 1
    assert found["state"] == "missing"
    assert "libtorch_cpu.so" in found["found"]


def test_without_the_packages_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ordinary = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in ("typer", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return ordinary(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 0
    assert "a step of nadamw was made" in capsys.readouterr().out


def shown_in(encoding: str, output: bytes) -> str:
    """What was printed, once it was seen to be right for the encoding."""
    shown = output.decode(encoding)
    (stated,) = re.findall("output ([^,]+), locale", shown)
    assert codecs.lookup(stated) == codecs.lookup(encoding)
    assert max(map(len, shown.splitlines())) <= 120
    (line,) = [line for line in shown.splitlines() if re.match(r"\w+ +output ", line)]
    assert line.startswith("ok" if encoding in ("utf-8", "cp932") else "limited")
    return shown


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "学習").mkdir()
    return tmp_path / "学習"


def test_the_output_has_the_encoding_of_the_environment(folder: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(doctor.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "sabun", "doctor"], cwd=folder, env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown_in("ascii", done.stdout)


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "latin-1", "utf-8"])
def test_any_output_encoding(encoding: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    sys.stdout.flush()
    assert stop.value.code == 0
    assert shown_in(encoding, output.getvalue())
