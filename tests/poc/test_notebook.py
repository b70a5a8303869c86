"""Notebooks as scripts: a fresh kernel for every run, and what can go wrong in one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from sabun.errors import StudyError
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Arm, Run, Study
from sabun.poc.study import default_study, run
from sabun.poc.tasks.script_command import ScriptCommand
from sabun.poc.training.script import ScriptTrainer
from sabun.script import notebook

from .helpers import untimed

kernel = pytest.mark.skipif(bool(notebook.missing()), reason="needs the extra notebook")

CELLS = (
    "epochs = 3\nwidth: int = 4",
    "import sabun\nimport torch\nfrom torch import nn\n\nprint('epochs', epochs)\n"
    "model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))\n"
    "x = torch.randn(64, 3)\ny = x.sum(1, keepdim=True)\n"
    "optimizer = sabun.swap(torch.optim.SGD(model.parameters(), lr=0.05))",
    "for epoch in range(epochs):\n    for rows in torch.randperm(64).split(16):\n        optimizer.zero_grad()\n"
    "        nn.functional.mse_loss(model(x[rows]), y[rows]).backward()\n        optimizer.step()\n"
    "    with torch.no_grad():\n        sabun.log(val_loss=nn.functional.mse_loss(model(x), y))",
)


def written(path: Path, *cells: str, parameters: int | None = 0, **metadata: Any) -> Path:
    """Write a notebook as Jupyter saves it, with the tag ``parameters`` on one of its cells."""
    content = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "of-somebody-else", "display_name": "x", "language": "python"}, **metadata},
        "cells": [
            {
                "cell_type": "code", "id": f"cell-{number}", "source": source.splitlines(keepends=True), "outputs": [],
                "metadata": {"tags": ["parameters"] if number == parameters else []}, "execution_count": None,
            }
            for number, source in enumerate(cells)
        ],
    }  # fmt: skip
    content["cells"].insert(0, {"cell_type": "markdown", "id": "text", "source": "# Training", "metadata": {}})
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def study_of(command: str, candidate: Arm | str = "torch.optim:SGD", **options: Any) -> Study:
    budget = {"trials": 0, "seeds": 1, "epochs": 1}
    return default_study(
        task=f"script:{command}", task_options=options, baseline="script", candidates=[candidate], name="aa", **budget
    )


def one(folder: Path, *cells: str, command: str = "n.ipynb", **options: Any) -> tuple[RunResult, str]:
    written(folder / "n.ipynb", *cells)
    task = Run(arm="script", seed=0, phase="evaluate")
    *_, last = ScriptTrainer(resolve(study_of(f"cd {folder} && {command}", **options)), folder / "logs").run(task)
    assert isinstance(last, RunResult)
    return last, (folder / "logs" / f"{task.id}.txt").read_text(encoding="utf-8")


@kernel
def test_an_aa_study_of_a_notebook_equals_that_of_its_script_to_the_bit(tmp_path: Path, python: str) -> None:
    """In evaluation and repetition: weights, losses, rates and steps. Both arms are the script's own optimizer."""
    project = tmp_path / "project"
    project.mkdir()
    written(project / "train.ipynb", *CELLS)
    (project / "train.py").write_text(
        "\n\n".join(("import sys", *CELLS)).replace("epochs = 3", "epochs = int(sys.argv[1])")
    )
    again = Arm(name="again", optimizer="script")
    notebooks = run(study_of(f"cd {project} && train.ipynb epochs={{epochs}}", again), tmp_path / "n")
    scripts = run(study_of(f"cd {project} && {python} train.py {{epochs}}", again), tmp_path / "s")
    assert {result.status for result in notebooks.runs} == {"finished"}, [result.failure for result in notebooks.runs]
    assert all(result.weights_sha256 and len(result.epochs) == 1 for result in notebooks.runs)
    assert untimed(notebooks.runs) == untimed(scripts.runs)
    evaluated = {run.arm: run.weights_sha256 for run in notebooks.runs if run.phase == "evaluate"}
    assert list(evaluated) == ["script", "again"]
    assert len(set(evaluated.values())) == 1
    assert (project / "train.ipynb").read_text(encoding="utf-8").count('"outputs": []') == 3  # the file is not changed


FAULTS: Mapping[str, tuple[str, str]] = {
    "an error": ("def f(x):\n    return 1 / x\n\nf(0)", r"code cell 2 failed: ZeroDivisionError: division by zero"),
    "sys.exit": ("import sys\nsys.exit(0)", r"code cell 2 called sys.exit \(SystemExit: 0\)"),
    "exit": ("print('x')\nexit()", r"code cell 2 called exit\(\), which ends the kernel"),
    "input": ("name = input('name? ')", r"code cell 2 asked for input, which a run does not have"),
    "a crash": ("print('so far', flush=True)\nimport os\nos.abort()", r"so far.*killed by signal 6 in code cell 2"),
}


@kernel
@pytest.mark.parametrize("what", FAULTS)
def test_the_failing_cell_and_its_error_are_named(what: str, tmp_path: Path) -> None:
    source, words = FAULTS[what]
    result, printed = one(tmp_path, "a = 1", source, "import time\ntime.sleep(0.2)")
    assert result.status == "failed"
    assert re.search(words, result.failure), result.failure
    assert "exit status 1" in result.failure
    assert "nbclient" not in printed
    assert "Debugger" not in printed
    assert "\x1b" not in printed


@kernel
def test_an_endless_output_ends_at_the_time_limit_and_the_kernel_with_it(tmp_path: Path) -> None:
    endless = "while True:\n    print('x' * 100)\n    time.sleep(1e-3)"
    source = f"import os, time\nprint('pid', os.getpid(), flush=True)\n{endless}"
    for limit in (8.0, 120.0):  # a busy machine may take longer than the first to start a kernel
        result, printed = one(tmp_path, "a = 1", source, time_limit=limit)
        assert result.failure.startswith(f"it exceeded its time limit of {limit:g} s"), result.failure
        if found := re.search(r"pid (\d+)", printed[:10_000]):
            break
    assert found is not None
    assert f"printed last: {'x' * 100}" in result.failure
    assert not _runs(int(found[1]))


@kernel
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a kernel ends when it logs next")
def test_the_kernel_ends_when_the_study_is_killed(tmp_path: Path) -> None:
    source = (
        "import os, time, pathlib, sabun.script.client\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    written(tmp_path / "n.ipynb", "a = 1", source)
    command = [
        sys.executable,
        "-m",
        "sabun",
        "poc",
        "run",
        "--script",
        "n.ipynb",
        "--candidate",
        "adamw",
        "--no-tuning",
    ]
    with (tmp_path / "out").open("wb") as out:
        study = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline, (tmp_path / "out").read_text()
        assert study.poll() is None, (tmp_path / "out").read_text()
        time.sleep(0.1)
    pid = int((tmp_path / "pid").read_text())
    study.send_signal(signal.SIGKILL)
    study.wait()
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@kernel
def test_output_values_magics_and_top_level_await_work_as_in_jupyter(tmp_path: Path) -> None:
    """Also in the directory of the notebook, and with a module beside it."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beside.py").write_text("value = 41\n")
    written(
        tmp_path / "sub" / "n.ipynb", "n = 0\ntext = ''", "import beside\n!echo from a shell",
        "import asyncio, sys\nawait asyncio.sleep(0)\nprint('to stderr', file=sys.stderr)\nbeside.value + n",
        "(n, text)",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "sabun.script.notebook", "sub/n.ipynb", "n=1", "text=a b"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[:3] == ["from a shell", "42", "(1, 'a b')"]
    assert done.stderr == "to stderr\n"


def parsed(command: str, folder: Path, **options: Any) -> ScriptCommand:
    return ScriptCommand.parse(f"script:cd {folder} && {command}", options)


@kernel
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("none.ipynb", "none.ipynb cannot be read: No such file"),
        ("n.ipynb --epochs {epochs}", "'--epochs' is not NAME=VALUE"),
        ("n.ipynb epoch=3", "does not assign epoch; it assigns epochs, width"),
        ("untagged.ipynb epochs=3", "epochs=3 cannot be set: no cell has the tag 'parameters'"),
        ("broken.ipynb", "broken.ipynb is not a notebook: it is not valid JSON"),
        ("list.ipynb", "list.ipynb is not a notebook of format 4"),
        ("r.ipynb", "r.ipynb is a notebook of r, not of Python"),
        ("odd.ipynb", "odd.ipynb is not a valid notebook"),
    ],
)
def test_mistakes_are_found_before_anything_runs(command: str, words: str, tmp_path: Path) -> None:
    written(tmp_path / "n.ipynb", *CELLS)
    written(tmp_path / "untagged.ipynb", *CELLS, parameters=None)
    written(tmp_path / "r.ipynb", "x <- 1", language_info={"name": "R"})
    (tmp_path / "broken.ipynb").write_text('{"cells": [')
    (tmp_path / "list.ipynb").write_text("[1]")
    (tmp_path / "odd.ipynb").write_text('{"nbformat": 4, "cells": [3]}')
    with pytest.raises(StudyError, match=re.escape(words)):
        parsed(command, tmp_path)


def test_without_the_extra_one_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "n.ipynb", *CELLS)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nbclient" else find(name))
    with pytest.raises(StudyError, match=r"a notebook needs nbclient.*pip install 'sabun\[notebook\]'"):
        parsed("n.ipynb", tmp_path)
    assert parsed(f"{sys.executable} n.ipynb", tmp_path).runner[0] == sys.executable  # that interpreter says it itself
    assert notebook.main([str(tmp_path / "n.ipynb")]) == 2


def test_values_are_literals_or_texts() -> None:
    cells = [
        ("a = 0\nb, c = 1, 2\n%time d = 3\nd: str = ''\nfor e in (): pass", frozenset({"parameters"})),
        ("a", frozenset()),
    ]
    given = ["a=1e-3", "b=True", "c=[1, 2]", "d=a'b", "e=None"]
    first, second = notebook.with_parameters(cells, given)
    values: dict[str, Any] = {}
    exec(first.replace("%time ", ""), values)
    assert [values[name] for name in "abcde"] == [0.001, True, [1, 2], "a'b", None]
    assert second == "a"


def test_only_its_code_makes_a_notebook_another_task(tmp_path: Path) -> None:
    """Not what its cells have shown; and the modules that it imports belong to it."""
    (tmp_path / "mine.py").write_text("x = 1\n")
    path = written(tmp_path / "n.ipynb", "%matplotlib inline\nimport mine", "%%bash\nimport other")
    (tmp_path / "other.py").write_text("x = 1\n")
    command = ScriptCommand(("n.ipynb",), directory=tmp_path)
    assert sorted(command.sources()) == ["mine.py", "n.ipynb"]
    before = command.provenance()
    content = json.loads(path.read_text())
    content["cells"][1] |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]}
    path.write_text(json.dumps(content, indent=1))
    assert command.provenance() == before
    content["cells"][1]["source"] = "import mine"
    path.write_text(json.dumps(content))
    assert command.provenance() != before
    assert os.path.realpath(command.sources()["n.ipynb"]) == os.path.realpath(path)
    written(path, *CELLS)
    assert command.changed_lines() == {"n.ipynb": 3}  # import, swap, log
