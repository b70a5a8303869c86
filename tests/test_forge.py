"""The workflows, the sessions and the hooks run the commands that exist, with the versions that are declared."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SESSIONS = {
    node.name
    for node in ast.parse(NOXFILE).body
    if isinstance(node, ast.FunctionDef) and any("session" in ast.unparse(d) for d in node.decorator_list)
}


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_sessions_only(path: Path) -> None:
    for job in jobs(path).values():
        for step in job["steps"]:
            command = step.get("run", "")
            allowed = r"python -m pip install nox uv|python -m nox --session (\S+)( --python \S+)?|uv publish .*"
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
                continue
            match = re.fullmatch(allowed, command)
            assert match, command
            assert match[1] in {None, '"$SESSION"', *SESSIONS}


def test_the_matrix_has_every_declared_python_and_every_session_of_the_suite() -> None:
    matrix = jobs(ROOT / ".github/workflows/tests.yml")["tests"]["strategy"]["matrix"]
    declared = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert set(matrix["python"]) == declared
    named = {*matrix["session"], *(row["session"] for row in matrix["include"])}
    assert named <= SESSIONS
    assert {"tests", "lowest", "latest", "check", "docs"} <= named
    systems = {*matrix["os"], *(row["os"] for row in matrix["include"])}
    assert {name.partition("-")[0] for name in systems} == {"ubuntu", "macos", "windows"}


def test_sessions_and_make_install_the_same_extras() -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    (by_make,) = re.findall(r"-e '\.\[(\S*dev)\]'", make)
    (by_nox,) = re.findall(r'"\.\[(\S*dev)\]"', NOXFILE)
    assert by_make == by_nox
    left_out = {"design", "triton"}  # in poc; 0.7 GB, which torch for CUDA brings
    assert set(by_make.split(",")) | left_out == set(PROJECT["optional-dependencies"])


def test_the_hook_before_a_commit_is_make_check() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == ["make check"]


def test_a_bug_report_asks_for_the_environment() -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text(encoding="utf-8"))
    (field,) = [f for f in form["body"] if "sabun doctor" in f["attributes"]["label"]]
    assert field["validations"]["required"]
