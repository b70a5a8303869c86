"""The proof of concept, script mode, check, report, judge, roll-out and guard in a Python without POSIX calls.

The session runs in :mod:`sitecustomize` of ``no_posix``: what it takes away is gone from every process of the session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sabun
from sabun.cli.app import run
from sabun.poc import evidence

HERE = Path(__file__).parent
BLOCKED = str(HERE / "no_posix")
SOURCE = str(Path(sabun.__file__).parents[1])


def session(folder: Path, *steps: str, put_back: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the session without POSIX, but for a call that is put back. What it leaves behind ends with it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([BLOCKED, SOURCE])}
    if put_back is not None:
        environment["PUT_BACK"] = put_back
    command = [sys.executable, str(HERE / "session.py"), str(folder), *steps]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said = process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # without POSIX nothing below it has a group of its own
    return subprocess.CompletedProcess(command, process.returncode, *said)


def losses(study: Path) -> dict[tuple[str, int, str], list[str]]:
    runs = evidence.read(study).runs
    return {(r.arm, r.seed, r.phase): [epoch.val_loss.hex() for epoch in r.epochs] for r in runs}


def test_everything_runs_without_posix_and_trains_to_equal_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = session(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    command = ["poc", "run", f"{HERE.parent / 'poc' / 'tiny.py'}:Tiny", "--baseline", "torch.optim:SGD(momentum=0.9)"]
    command += ["--candidate", "torch.optim:AdamW", "--quiet", "--no-tuning", "--seeds", "2", "--epochs", "2"]
    monkeypatch.chdir(tmp_path)
    assert run([*command, "--out", "here"]) == 0
    assert losses(tmp_path / "here") == losses(tmp_path / "two")
    assert len(losses(tmp_path / "one")) == 18  # of two arms: two in tuning, six seeds, one repeated
    # The links and the runs of the script are gone, its project is as it was.
    assert sorted(path.name for path in (tmp_path / "project").iterdir()) == ["data", "large.dat", "train.py"]


@pytest.mark.parametrize(
    ("put_back", "step", "complaint"),
    [
        ("sabun._files: import fcntl", "report", "fcntl"),
        ("sabun.poc.executors.processes: _forks = lambda: True", "jobs2", "pass_fds not supported"),
        ("sabun.poc.training.script: _die_with_parent = lambda: print", "script", "preexec_fn is not supported"),
        ("sabun.poc.training.script: _members = lambda pid: [os.killpg(pid, 15)]", "stopped", "killpg"),
        ("sabun.poc.training.single: open('/proc/self/status')", "check", "/proc/self/status"),
    ],
)  # fmt: skip
def test_the_session_fails_where_one_call_is_put_back(put_back: str, step: str, complaint: str, tmp_path: Path) -> None:
    done = session(tmp_path, step, put_back=put_back)
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr
