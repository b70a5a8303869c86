"""The command of a user's own script, as a task: ``script:python train.py --seed {seed} --epochs {epochs}``.

A notebook is a command too, with parameters in the place of arguments: ``script:train.ipynb seed={seed}``. The
interpreter of the study runs it, or the one named before it (:mod:`sabun.script.notebook`).
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sabun import command_line
from sabun.errors import StudyError, unknown
from sabun.poc.spec import SCRIPT_PREFIX, Run, Scalar
from sabun.script import notebook

__all__ = ["EPOCHS", "FRACTION", "RUN_DIR", "SEED", "SOURCE_SUFFIXES", "ScriptCommand"]

SEED = "{seed}"
"""Placeholder for the seed of the run."""
EPOCHS = "{epochs}"
"""Placeholder for the number of epochs."""
FRACTION = "{fraction}"
"""Placeholder for the share of the training data that the run uses: 1, or less in tuning."""
RUN_DIR = "{run_dir}"
"""Placeholder for the directory of the run, in which it works."""

SOURCE_SUFFIXES = (".py", ".sh", ".toml", ".yaml", ".yml", ".json", ".cfg", ".ini", notebook.SUFFIX)
"""Files of a command with these suffixes are its source: a changed file makes a different task."""

TIMING_EPOCHS = 3
"""Length of a run of phase ``time``: seconds per epoch do not need the whole curve."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables with the number of threads of a run."""

_OPERATORS = {"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"}


@dataclass(frozen=True, slots=True)
class ScriptCommand:
    """A parsed command.

    ``time_limit`` is in seconds per run. ``threads`` is the number of threads of every run, whatever the number of
    runs at a time. ``isolated``: each run works in its own copy of ``directory``
    (:mod:`sabun.poc.training.run_directory`). ``environment`` holds the variables set in front of the command.
    ``runner`` is what starts a notebook, which is then the first of ``parts``.
    """

    parts: tuple[str, ...]
    time_limit: float = math.inf
    threads: int = 1
    isolated: bool = True
    directory: Path = field(default_factory=Path.cwd)
    environment: Mapping[str, str] = field(default_factory=dict)
    runner: tuple[str, ...] = ()

    @classmethod
    def parse(cls, task: str, options: Mapping[str, Scalar]) -> ScriptCommand:
        """Parse a ``script:`` task. Raises StudyError for a command that cannot be run, or an unknown option.

        ``VAR=value`` before the command, ``cd DIR &&`` and ``~`` are understood as in a shell.
        """
        try:
            parts = command_line.split(task.removeprefix(SCRIPT_PREFIX))
        except ValueError as error:  # an unclosed quotation mark
            raise StudyError(f"cannot parse the command {task!r}: {error}.", fix="Close the quotation mark.") from None
        parts = [os.path.expanduser(part) if part.startswith("~") else part for part in parts]  # noqa: PTH111
        directory = Path.cwd()
        if len(parts) > 2 and parts[0] == "cd" and parts[2] == "&&":
            directory, parts = directory / parts[1], parts[3:]
            if not directory.is_dir():
                raise StudyError(f"there is no directory {directory}.", fix="Correct 'cd' in the command.")
        environment = {}
        while parts and (name := parts[0].partition("=")[0]).isidentifier() and "=" in parts[0]:
            environment[name] = parts.pop(0).partition("=")[2]
        operator = next((part for part in parts if part in _OPERATORS or part.endswith(";")), None)
        if operator is not None and parts[0] not in ("sh", "bash"):
            raise StudyError(
                f"the command has {operator!r}, which only a shell understands.",
                fix="Put the commands into a file (bash train.sh), or give one command.",
            )
        runner, parts = _runner(parts, directory)
        path = environment.get("PATH", os.environ.get("PATH"))
        start = [*runner, *parts][:1]
        named = [str(directory / part) if Path(part).name != part else part for part in start]
        if not named or shutil.which(named[0], path=path) is None:
            raise StudyError(
                f"there is no command {start[0] if start else ''!r} to run.",
                fix="Give the command as you would type it, for example --script 'python train.py'.",
            )
        known = ["time_limit", "threads", "isolated"]
        for key in options:
            if key not in known:
                raise unknown(StudyError, "option of a script", key, known)
        limit = options.get("time_limit", math.inf)
        if isinstance(limit, bool | str) or not limit > 0:
            raise StudyError(
                f"time_limit must be a positive number of seconds (given: {limit!r}).", fix="Correct task_options."
            )
        threads: Scalar = options.get("threads", 1)
        if "threads" not in options and (given := environment.get("OMP_NUM_THREADS", "")).isdigit():
            threads = int(given)
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise StudyError(f"threads must be a positive integer (given: {threads!r}).", fix="Correct task_options.")
        isolated = options.get("isolated", True)
        if not isinstance(isolated, bool):
            raise StudyError(f"isolated must be true or false (given: {isolated!r}).", fix="Correct task_options.")
        return cls(tuple(parts), float(limit), threads, isolated, directory, environment, runner)

    @property
    def takes_epochs(self) -> bool:
        """Whether the study sets the number of epochs. Otherwise the script has its own."""
        return any(EPOCHS in part for part in self.parts)

    @property
    def takes_fraction(self) -> bool:
        """Whether the study sets the share of the data. Then tuning uses less of the data, not fewer epochs."""
        return any(FRACTION in part for part in self.parts)

    def arguments(self, *, seed: int, epochs: int, run_dir: Path, fraction: float = 1.0) -> list[str]:
        """Return the command with its placeholders filled in."""
        given = {SEED: str(seed), EPOCHS: str(epochs), FRACTION: f"{fraction:g}", RUN_DIR: str(run_dir)}
        return [*self.runner, *(_filled(part, given) for part in self.parts)]

    def variables(self, *, seed: int, epochs: int, run_dir: Path, fraction: float = 1.0) -> dict[str, str]:
        """Return the environment variables of a run: threads, the seed of hashes, and those of the command."""
        given = {SEED: str(seed), EPOCHS: str(epochs), FRACTION: f"{fraction:g}", RUN_DIR: str(run_dir)}
        own = {name: _filled(value, given) for name, value in self.environment.items()}
        return {**dict.fromkeys(THREADS, str(self.threads)), "PYTHONHASHSEED": str(seed), **own}

    def provenance(self) -> str:
        """Return the hash of the source files named in the command, and of the project's files that they import."""
        digest = hashlib.sha256()
        for name, path in sorted(self.sources().items()):
            digest.update(f"{name}|".encode() + _content(path))
        return digest.hexdigest()

    def sources(self) -> dict[str, Path]:
        """Return the source files by their name relative to the project: of the command, and imported by these."""
        named = [self.directory / value for part in self.parts for value in (part, part.partition("=")[2]) if value]
        named = [path for path in named if path.suffix in SOURCE_SUFFIXES and path.is_file()]
        python_path = self.environment.get("PYTHONPATH", os.environ.get("PYTHONPATH", "")).split(os.pathsep)
        roots = [self.directory, self.directory / "src", *(path.parent for path in named)]
        roots += [self.directory / part for part in python_path if part]
        modules = [after for before, after in zip(self.parts, self.parts[1:], strict=False) if before == "-m"]
        queue = [*named, *(path for name in modules for path in _files_of(name, roots, main=True))]
        found: dict[str, Path] = {}
        while queue:
            path = queue.pop().resolve()
            name = os.path.relpath(path, self.directory.resolve())
            if name not in found:
                found[name] = path
                queue += _imported(path, roots)
        return found

    def changed_lines(self) -> dict[str, int]:
        """Return, for each source file that calls sabun, the number of its lines that import or call it."""
        found = {name: _lines_with_sabun(path) for name, path in sorted(self.sources().items())}
        return {name: count for name, count in found.items() if count}

    @staticmethod
    def stop_after(run: Run) -> int | None:
        """Return the number of epochs after which a run is stopped; None if it runs to its own end."""
        return TIMING_EPOCHS if run.phase == "time" else None


def _filled(text: str, given: Mapping[str, str]) -> str:
    for placeholder, value in given.items():
        text = text.replace(placeholder, value)
    return text


def _runner(parts: list[str], directory: Path) -> tuple[tuple[str, ...], list[str]]:
    """Return what starts the notebook of a command, and the notebook with its parameters; () for another command.

    Raises StudyError for a notebook that cannot be run.
    """
    named = 1 if len(parts) > 1 and re.fullmatch(r"python[\d.]*(\.exe)?", Path(parts[0]).name, re.IGNORECASE) else 0
    if Path(parts[named] if parts else "").suffix != notebook.SUFFIX:
        return (), parts
    file, given = directory / parts[named], parts[named + 1 :]
    absent = [] if named else notebook.missing()
    if absent:
        raise StudyError(f"a notebook needs {', '.join(absent)}, not installed here.", fix=f"{notebook.INSTALL}.")
    try:
        notebook.with_parameters(notebook.code_cells(file), given)
    except ValueError as error:
        raise StudyError(f"{error}.", fix="A notebook takes parameters: --script 'train.ipynb seed={seed}'.") from None
    # -P: the other modules of sabun.script are not modules of their own for the runner.
    return (parts[0] if named else sys.executable, "-P", str(notebook.RUNNER)), parts[named:]


def _content(path: Path) -> bytes:
    """Return what makes a file another source: of a notebook its code, without what the cells have shown."""
    if path.suffix == notebook.SUFFIX:
        try:
            return repr([source for source, _ in notebook.code_cells(path)]).encode()
        except ValueError:
            pass
    return path.read_bytes()


def _lines_with_sabun(path: Path) -> int:
    """Return the number of lines of a module or notebook that import sabun, or call it by a name that they import."""
    nodes = [(cell, node) for cell, tree in enumerate(_trees(path)) for node in ast.walk(tree)]
    names, lines = {"sabun"}, set[tuple[int, int]]()
    for cell, node in nodes:
        if isinstance(node, ast.Import):
            imported = [alias for alias in node.names if alias.name.split(".")[0] == "sabun"]
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "sabun":
            imported = node.names
        else:
            continue
        names.update(alias.asname or alias.name.split(".")[0] for alias in imported)
        lines.update({(cell, node.lineno)} if imported else ())
    for cell, node in nodes:
        callee = node.func if isinstance(node, ast.Call) else None
        while isinstance(callee, ast.Attribute):
            callee = callee.value
        if isinstance(callee, ast.Name) and callee.id in names and lines:
            lines.add((cell, callee.lineno))
    return len(lines)


def _trees(path: Path) -> Iterator[ast.Module]:
    """Yield the syntax trees of a module, or of the cells of a notebook, as far as they can be parsed."""
    codes: list[bytes | str] = []
    if path.suffix == ".py":
        codes = [path.read_bytes()]
    elif path.suffix == notebook.SUFFIX:
        with contextlib.suppress(ValueError):
            codes = [notebook.plain(source) for source, _ in notebook.code_cells(path)]
    for code in codes:
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):  # nested too deeply
            yield ast.parse(code)


def _imported(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """Yield the project's files that a module or a notebook imports, by its import statements."""
    for node in (node for tree in _trees(path) for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(alias.name, roots)
        elif isinstance(node, ast.ImportFrom):
            base = [path.parents[node.level - 1]] if 0 < node.level <= len(path.parents) else list(roots)
            module = node.module or ""
            for alias in node.names:
                yield from _files_of(".".join(filter(None, (module, alias.name))), base)


def _files_of(module: str, roots: Sequence[Path], *, main: bool = False) -> Iterator[Path]:
    """Yield the files that ``import module`` executes: its packages from the outside in, and the module.

    sabun itself is left out: its version is recorded, and does not change what a task is.
    """
    parts = module.split(".")
    if parts[0] == "sabun":
        return
    root = next((root for root in roots if (root / parts[0]).is_dir() or (root / f"{parts[0]}.py").is_file()), None)
    if root is None:
        return
    for depth in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        last = [place / "__main__.py"] if main and depth == len(parts) else []
        yield from (file for file in (place / "__init__.py", place.with_suffix(".py"), *last) if file.is_file())
