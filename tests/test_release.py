"""What is released: built, checked, installed without extras beside torch alone, and used.

The fresh environment sees exactly what the core's requirements bring, linked from the environment that runs the tests,
so that it takes seconds: no other package can help by accident.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import sabun

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# Without PYTHONPATH and the like: what is installed is tried, not what lies about. And without the constraints of this
# machine: what the environment has may be newer.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SABUN", "PIP_"))}
CLEAN["PIP_CONFIG_FILE"] = os.devnull


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, env=CLEAN, capture_output=True, text=True, check=False)


def closure(texts: list[str]) -> Iterator[metadata.Distribution]:
    """The distributions that the requirements ``texts`` bring here, with the extras that they name and no others."""
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in texts]
    while waiting:
        wanted = waiting.pop()
        name = wanted.name.lower().replace("_", "-")
        extras = {(name, extra) for extra in {"", *wanted.extras}} - seen
        if not extras:
            continue
        found = metadata.distribution(name)
        if (name, "") in extras:
            yield found
        seen |= extras
        waiting += (
            requirement
            for requirement in map(Requirement, found.requires or ())
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for _, extra in extras)
        )


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source distribution, and the wheel built from it: both or neither."""
    out = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def fresh(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel, torch and NumPy, and nothing else."""
    home = tmp_path_factory.mktemp("fresh")
    assert run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=home).returncode == 0
    (site,) = (home / "env" / "lib").glob("python*/site-packages")
    for distribution in closure(PROJECT["dependencies"]):
        for top in {Path(file).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if top.endswith(".dist-info"):  # uv follows no link
                shutil.copytree(str(distribution.locate_file(top)), link)
            elif not link.exists():
                link.symlink_to(distribution.locate_file(top))
    python = home / "env" / "bin" / "python"
    # --no-index: whatever the wheel requires without an extra must be there already.
    pip = (sys.executable, "-m", "pip", "--python", python, "install")
    uv = ("uv", "pip", "install", "--python", python)  # the environments that uv makes have no pip
    done = run(*(pip if find_spec("pip") else uv), "--quiet", "--no-index", *dist.glob("*.whl"), cwd=home)
    assert done.returncode == 0, done.stderr
    return python


def test_the_packages_are_whole_and_pass_twine(dist: Path) -> None:
    wheel, archive = f"sabun-{sabun.__version__}-py3-none-any.whl", f"sabun-{sabun.__version__}.tar.gz"
    assert sorted(path.name for path in dist.iterdir()) == [wheel, archive]
    done = run(sys.executable, "-m", "twine", "check", "--strict", dist / wheel, dist / archive, cwd=dist)
    assert done.returncode == 0, done.stdout + done.stderr
    packed = set(zipfile.ZipFile(dist / wheel).namelist())
    source = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src" / "sabun").rglob("*") if p.is_file()}
    assert packed >= {
        name for name in source if "__pycache__" not in name
    }  # messages, templates, C sources, py.typed too
    with tarfile.open(dist / archive) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "docs/index.md", "tests/test_release.py"} <= names


def test_the_description_on_a_package_index_stands_alone(dist: Path) -> None:
    """README.md word for word, but for pictures and links that would lead nowhere there."""
    (wheel,) = dist.glob("*.whl")
    (path,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    told = email.message_from_bytes(zipfile.ZipFile(wheel).read(path))
    assert told["Description-Content-Type"] == "text/markdown"
    body = told.get_payload(decode=True).decode()
    links = re.compile(r"!?\[([^\]]*)\]\(([^)]+)\)")
    assert [target for _, target in links.findall(body) if "://" not in target] == []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert any("://" not in target for _, target in links.findall(readme))
    for line in readme.splitlines():
        if not line.startswith("!["):
            assert links.sub(lambda m: m[0] if "://" in m[2] else m[1], line) in body
    assert "come with the source distribution" in body


def test_an_optimizer_steps_in_an_environment_without_extras(fresh: Path, tmp_path: Path) -> None:
    code = """
import time; begin = time.perf_counter()
import torch; torch_s = time.perf_counter() - begin
begin = time.perf_counter()
import sabun; sabun.Optimizer; sabun_s = time.perf_counter() - begin
model = torch.nn.Linear(3, 1)
before = model.weight.detach().clone()
optimizer = sabun.Optimizer(model.parameters(), lr=0.1, scheme="nesterov")
model(torch.ones(4, 3)).square().mean().backward()
optimizer.step()
assert not torch.equal(model.weight, before)
from sabun.optim.compiled import c_compiler
for preconditioner in ("adam", "spectral"):        # the C sources are in the wheel
    matrix = torch.nn.Linear(4, 3, bias=False)
    optimizer = sabun.Optimizer(matrix.parameters(), lr=0.1, preconditioner=preconditioner, fused="auto")
    matrix(torch.ones(4, 4)).square().mean().backward()
    optimizer.step()
    assert bool(optimizer.compile_s) == bool(c_compiler.compiler())
sabun.swap(optimizer); sabun.log(val_loss=1.0)     # no-ops outside of a study
assert sabun.__file__.startswith(HOME), sabun.__file__
print(f"import torch {torch_s:.2f} s, then sabun with its optimizers {sabun_s:.2f} s more")
"""
    done = run(fresh, "-c", f"HOME = {str(fresh.parent.parent)!r}\n{code}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sys.stdout.write(done.stdout)  # the figure itself: shown with -rP, never asserted


@pytest.mark.parametrize("command", [["sabun"], ["python", "-m", "sabun"]], ids=["sabun", "python-m"])
def test_the_command_names_the_extra_that_it_needs(fresh: Path, tmp_path: Path, command: list[str]) -> None:
    done = run(fresh.parent / command[0], *command[1:], "poc", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: the command line needs rich, which is not installed.",
        'fix: pip install "sabun[poc]"',
    ]
    assert list(tmp_path.iterdir()) == []
    version = run(fresh.parent / command[0], *command[1:], "--version", cwd=tmp_path)
    assert version.stdout == f"sabun {sabun.__version__}\n"


def test_the_citation_file_fits_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "type"} <= cited.keys()
    assert cited["version"] == PROJECT["version"] == sabun.__version__
    assert cited["license"] == PROJECT["license"]
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_the_changelog_is_in_shape() -> None:
    """Newest first: the version in preparation, without a date, then released versions; no section is empty."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads[0] == PROJECT["version"]
    released = [re.fullmatch(r"(\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)", head) for head in heads[1:]]
    assert all(released)
    for section in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        assert re.search(r"^- \S", section, re.MULTILINE)
