"""Runs of a script do not share files, threads or hash seeds with each other, and leave the project as it was."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sabun.errors import StudyError
from sabun.poc.check import check
from sabun.poc.executors.runtime_environment import runtime_environment
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Run, Study
from sabun.poc.study import default_study, run
from sabun.poc.tasks.script_command import ScriptCommand
from sabun.poc.training.run_directory import Project, written
from sabun.poc.training.script import ScriptTrainer

SCRIPTS = Path(__file__).parent / "isolation"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project with data, a package and files of earlier trainings, as the working directory."""
    (tmp_path / "work").mkdir()
    place = tmp_path / "work" / "project"
    shutil.copytree(SCRIPTS, place, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "data").mkdir()
    (place / "data" / "numbers.txt").write_text("1 2 3")
    (place.parent / "beside.txt").write_text("beside")
    (place / "checkpoints").mkdir()
    monkeypatch.chdir(place)
    return place


def script(command: str, **budget: int) -> Study:
    return default_study(
        task=f"script:{command}",
        task_options={"time_limit": 120.0},
        baseline="script",
        candidates=["nesterov@adam"],
        **{"epochs": 3, "trials": 0, "seeds": 1, **budget},
    )


def one(command: str, tmp_path: Path, arm: str = "script") -> tuple[RunResult, str]:
    task = Run(arm=arm, seed=0, phase="evaluate")
    *_, last = ScriptTrainer(resolve(script(command)), tmp_path / "logs").run(task)
    assert isinstance(last, RunResult)
    return last, (tmp_path / "logs" / f"{task.id}.txt").read_text()


def contents(place: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(place)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(place.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_read_back_their_own_files_and_threads_do_not_depend_on_jobs(
    jobs: int, project: Path, python: str, tmp_path: Path
) -> None:
    (project / "best.pt").write_bytes(b"weights of the user")
    before = contents(project)
    evidence = run(script(f"{python} best_file.py", seeds=2), tmp_path / "study", jobs=jobs)
    assert {result.status for result in evidence.runs} == {"finished"}, evidence.runs
    printed = [path.read_text() for path in (tmp_path / "study" / "logs").iterdir()]
    assert all("WEIGHTS True" in text for text in printed)
    environments = {re.search(r"ENVIRONMENT (\d+) (\d+)", text)[1] for text in printed}  # type: ignore[index]
    assert environments == {"1"}
    assert len({re.search(r"ENVIRONMENT (\d+) (\d+)", text)[2] for text in printed}) == 2  # type: ignore[index]
    assert contents(project) == before
    assert evidence.environment["threads"] == 1


def test_the_number_of_threads_is_part_of_the_study_and_recorded(project: Path, python: str, tmp_path: Path) -> None:
    study = script(f"OMP_NUM_THREADS=2 {python} best_file.py")
    assert runtime_environment(resolve(study))["threads"] == 2
    given = study.model_copy(update={"task": f"script:{python} best_file.py", "task_options": {"threads": 2}})
    assert runtime_environment(resolve(given))["threads"] == 2
    list(ScriptTrainer(resolve(given), tmp_path).run(Run(arm="script", seed=0, phase="evaluate")))
    assert "ENVIRONMENT 2 " in next(tmp_path.glob("*.txt")).read_text()


def test_a_checkpoint_of_an_earlier_training_is_not_continued(
    project: Path, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = one(f"{python} files.py resume", tmp_path)
    assert first.status == "finished", first.failure  # its own last.pt of an earlier epoch may be read
    monkeypatch.syspath_prepend(str(project))
    weights = importlib.import_module("problem").network().state_dict()
    torch.save(weights, project / "last.pt")
    os.utime(project / "last.pt", (1e9, 1e9))
    before = contents(project)
    again, _ = one(f"{python} files.py resume", tmp_path)
    assert again.status == "failed"
    assert "it read last.pt, which was there before the run, and then replaced it" in again.failure
    assert contents(project) == before
    torch.save(weights, project / "checkpoints" / "pretrained.pt")
    os.utime(project / "checkpoints" / "pretrained.pt", (1e9, 1e9))
    pretrained, _ = one(f"{python} files.py pretrained", tmp_path)
    assert pretrained.status == "finished", pretrained.failure  # an input, which no run replaces


def test_check_writes_nothing_and_lists_what_scripts_write_outside(project: Path, python: str, tmp_path: Path) -> None:
    for name in ("last.pt", "history.csv", "checkpoints/last.pt"):
        (project / name).write_bytes(b"the user's")
    before = contents(project)
    assert check(script(f"{python} files.py plain")).findings == []
    assert contents(project) == before
    for mode in ("torch-outside", "python-outside"):
        target = tmp_path / f"{mode}.pt"
        (finding,) = check(script(f"{python} files.py {mode} {target}")).findings
        assert (finding.code, finding.detail) == ("writes-outside", str(target))
    (finding,) = check(script(f"{python} files.py python-outside {project}/data/new.txt")).findings
    assert (finding.code, finding.detail) == ("writes-outside", f"{project}/data/new.txt")


def test_check_does_not_stop_a_script_while_it_writes(
    project: Path, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sabun.poc.check.PATIENCE", 0.0)
    target = tmp_path / "long.txt"
    assert check(script(f"{python} files.py after-log {target}")).findings == []
    assert not target.exists()  # stopped inside sabun.log, before the write began


def test_relative_inputs_are_found_and_the_run_directory_may_be_named(
    project: Path, python: str, tmp_path: Path
) -> None:
    result, printed = one(f"{python} files.py read", tmp_path)
    assert result.status == "finished", result.failure
    assert "READ 1 2 3 beside" in printed
    result, printed = one(f"{python} files.py run-dir {{run_dir}}", tmp_path)
    assert result.status == "finished", result.failure
    assert re.search(r"WROTE .*'here.txt'.* True", printed)


def test_a_script_that_ends_with_os_exit_is_recorded_in_full(project: Path, python: str, tmp_path: Path) -> None:
    result, _ = one(f"{python} files.py os-exit", tmp_path)
    assert result.status == "finished", result.failure
    assert result.weights_sha256 is not None
    assert result.weights_sha256 == one(f"{python} files.py plain", tmp_path)[0].weights_sha256


def test_commands_are_understood_as_in_a_shell(
    project: Path, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.chdir(tmp_path)
    for command in (
        f"cd work/project && SABUN_TEST=a {python} files.py plain",
        f"cd ~ && {python} files.py plain",
        f"{python} ~/files.py plain",
    ):
        result, _ = one(command, tmp_path)
        assert result.status == "finished", (command, result.failure)
    parsed = ScriptCommand.parse(f"script:A=1 B={{seed}} {sys.executable} x.py", {})
    assert parsed.variables(seed=4, epochs=1, run_dir=tmp_path)["B"] == "4"
    for command in (f"{sys.executable} a.py | tee log", f"{sys.executable} a.py > log", f"{sys.executable} a.py; true"):
        with pytest.raises(StudyError, match=r"which only a shell understands.*bash train.sh"):
            ScriptCommand.parse(f"script:{command}", {})
    with pytest.raises(StudyError, match="no directory"):
        ScriptCommand.parse(f"script:cd nowhere && {sys.executable} a.py", {})


@pytest.mark.parametrize(
    ("command", "changed"),
    [("python train.py", "lib/model.py"), ("python train.py", "lib/__init__.py"), ("python train.py", "helper.py"),
     ("python -m lib.main", "lib/main.py"), ("python -m lib.main", "lib/model.py"),
     ("python -m lib", "lib/__main__.py"), ("python -m torch.distributed.run train.py --config=c.yaml", "c.yaml"),
     ("python -m torch.distributed.run -m lib.main", "lib/main.py")],
)  # fmt: skip
def test_the_provenance_covers_what_the_command_imports(
    command: str, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "train.py").write_text("import torch\nfrom lib import model\nimport lib.missing\n")
    (tmp_path / "lib" / "__init__.py").write_text("")
    (tmp_path / "lib" / "__main__.py").write_text("")
    (tmp_path / "lib" / "main.py").write_text("from . import model\n")
    (tmp_path / "lib" / "model.py").write_text("def f():\n    from helper import x\n")
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "c.yaml").write_text("a: 1\n")
    (tmp_path / "unrelated.py").write_text("")
    parsed = ScriptCommand.parse(f"script:{command}", {})
    before = parsed.provenance()
    (tmp_path / "unrelated.py").write_text("changed")
    assert parsed.provenance() == before
    with (tmp_path / changed).open("a") as file:
        file.write("# changed\n")
    assert parsed.provenance() != before


names = st.text("ab.é ", min_size=1, max_size=3).filter(lambda name: name.strip(".") and name == name.strip())
trees = st.recursive(st.binary(max_size=5), lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=12)


@given(tree=st.dictionaries(names, trees, max_size=4))
def test_a_copy_of_a_project_has_all_its_files_and_writing_to_it_leaves_the_project(
    tree: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = tmp_path_factory.mktemp("tree")
    (top / "project").mkdir()
    (top / "scratch").mkdir()

    def make(place: Path, part: dict[str, object]) -> None:
        for name, value in part.items():
            if isinstance(value, bytes):
                (place / name).write_bytes(value)
            elif isinstance(value, dict):
                (place / name).mkdir()
                make(place / name, value)

    make(top / "project", tree)
    project = Project(top / "project")
    before, snapshot = contents(top / "project"), project.snapshot()
    work = project.copy(top / "scratch")
    assert work.name == "project"
    assert contents(work) == before
    for path in list(work.rglob("*")):
        if path.is_file():
            path.write_bytes(b"another")
        elif path.is_dir():
            (path / "new").mkdir(exist_ok=True)
    assert contents(top / "project") == before
    assert written(snapshot, project.snapshot()) == []


def test_large_files_and_data_are_linked_and_tools_and_studies_left_out(tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    for number in range(600):
        (root / "data" / f"{number}").touch()
    (root / "large.csv").write_bytes(bytes(2 << 20))
    (root / "large.pt").write_bytes(bytes(2 << 20))
    (root / "runs").mkdir()
    (root / "runs" / "study.json").touch()
    (root / "runs" / "records.jsonl").touch()
    (root / "__pycache__").mkdir()
    (root / "environment").mkdir()
    (root / "environment" / "pyvenv.cfg").touch()
    project = Project(root)
    before = project.snapshot()
    (tmp_path / "scratch").mkdir()
    work = project.copy(tmp_path / "scratch")
    assert {path.name for path in work.iterdir() if path.is_symlink()} == {"data", "large.csv", "environment"}
    assert {path.name for path in work.iterdir()} == {"data", "large.csv", "large.pt", "environment"}
    (work / "data" / "new").touch()
    with (work / "large.csv").open("a") as file:
        file.write("x")
    assert written(before, project.snapshot()) == ["data", "large.csv"]
