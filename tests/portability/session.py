"""What a user does, in one process: python session.py FOLDER STEP... Ends with 0 where every step did what it must.

The tests start it in a Python without POSIX (:mod:`sitecustomize` of ``no_posix``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASK = f"{HERE.parent / 'poc' / 'tiny.py'}:Tiny"
COMPARE = ("--baseline", "torch.optim:SGD(momentum=0.9)", "--candidate", "torch.optim:AdamW", "--quiet")


def sabun(*arguments: object, code: int = 0) -> None:
    from sabun.cli.app import run

    found = run([str(argument) for argument in arguments])
    assert found == code, f"sabun {' '.join(map(str, arguments))} ended with {found}, not {code}"


def jobs1() -> None:
    sabun("poc", "run", TASK, *COMPARE, "--trials", 1, "--seeds", 6, "--epochs", 2, "--out", "one")


def jobs2() -> None:
    sabun("poc", "run", TASK, *COMPARE, "--no-tuning", "--seeds", 2, "--epochs", 2, "--jobs", 2, "--out", "two")


def _project(name: str) -> None:
    """Enter a project with what is copied, linked as a file and linked as a directory."""
    project = Path(name)
    (project / "data").mkdir(parents=True)
    for number in range(501):
        (project / "data" / f"{number}.txt").touch()
    (project / "large.dat").write_bytes(bytes((1 << 20) + 1))
    script = (HERE.parent / "poc" / "scripts" / "plain.py").read_text(encoding="utf-8")
    check = "from pathlib import Path\nassert len(list(Path('data').iterdir())) == 501 and Path('large.dat').exists()\n"
    (project / "train.py").write_text(check + script, encoding="utf-8")
    os.chdir(project)


def script() -> None:
    _project("project")
    command = f"{sys.executable} train.py --epochs {{epochs}}"
    options = ("--candidate", "torch.optim:AdamW", "--no-tuning", "--quiet", "--seeds", 1, "--epochs", 1)
    try:
        sabun("poc", "run", "--script", command, *options, "--out", "../script")
    finally:
        os.chdir("..")
    from sabun.poc.evidence import read

    runs = read(Path("script")).runs
    assert {run.status for run in runs} == {"finished"}, [run.failure for run in runs]


def stopped() -> None:
    """A script that hangs is stopped, with what it started."""
    _project("hanging")
    code = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])"
    Path("hang.py").write_text(f"print('hanging', flush=True)\n{code}\n", encoding="utf-8")
    command = ("--script", f"{sys.executable} hang.py", "--time-limit", 3)
    try:
        sabun("poc", "check", *command, "--candidate", "torch.optim:AdamW", code=1)
    finally:
        os.chdir("..")
    import psutil

    me = psutil.Process()
    left = [child for child in me.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    assert not left, left


def check() -> None:
    sabun("poc", "check", "--task", TASK, "--candidate", "torch.optim:AdamW")


def report() -> None:
    sabun("poc", "report", "one", "--quiet")
    sabun("poc", "verify", "one")
    sabun("poc", "status", "one")
    sabun("poc", "export", "one", "--csv", "epochs.csv")


def judge() -> None:
    sabun("poc", "judge", "epochs.csv", "--baseline", "SGD(momentum=0.9)")


def rollout() -> None:
    sides = ("--champion", "torch.optim:AdamW", "--challenger", "nesterov@adam", "--name", "trial")
    sabun("rollout", "init", *sides, "--champion-lr", 0.001, "--challenger-lr", 0.003)
    sabun("rollout", "status")
    sabun("rollout", "choose", "job-1")
    sabun("rollout", "rollback", "--reason", "tried")
    sabun("rollout", "verify")


def guard() -> None:
    """A training that returns to a good state, one beside it in the same folder, and its continuation."""
    import torch

    import sabun
    from sabun.audit import AuditLog

    def training() -> tuple[torch.nn.Module, sabun.Guard]:
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, sabun.Guard(model, optimizer, audit="guard.jsonl", folder="good", every=2, disk_share=1.0)

    model, guard = training()
    for step in range(20):
        loss = model(torch.ones(4, 2)).square().mean()
        loss.backward()
        guard.step(loss * float("nan") if step == 15 else loss)
        guard.optimizer.zero_grad()
    assert "guard.skipped" in [name for name, _ in guard.events], list(guard.events)
    assert list(Path("good").glob("good-*.pt"))
    model, second = training()
    refused = ""
    try:
        second.step(model(torch.ones(4, 2)).square().mean())
    except sabun.errors.StateError as error:
        refused = str(error)
    assert "in use by another guard" in refused, refused
    guard.close()
    _, third = training()
    assert third.resume() == 18, third.steps
    found = AuditLog("guard.jsonl").verify()
    assert found.ok, found


STEPS: dict[str, Callable[[], None]] = {
    step.__name__: step for step in (check, jobs1, jobs2, report, judge, rollout, guard, script, stopped)
}

if __name__ == "__main__":
    os.chdir(sys.argv[1])
    for name in sys.argv[2:] or STEPS:
        STEPS[name]()
