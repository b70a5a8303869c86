"""LightBench's tasks at the levels *trivial* and *easy*, with its own search, on a CPU.

LightBench (package ``lightbench``, by the authors of HeavyBall) asks how many trials of its own sampler (rate over nine
decades, two or three memories) an optimizer needs until a run meets the task's condition. A task whose trivial level is
not solved counts as unsolved at the easy one, as there.

It is installed with its dependencies into an environment of its own (:func:`environment`). It is written for CUDA. On a
CPU its source is compiled in memory with the device's name replaced; its files stay as they are. Its own report of a
success looks for a sentence that version 0.1.1 does not print, so a success is what its condition says.

:func:`main` is what runs in that environment.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import inspect
import io
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LEVELS", "VERSION", "EnvironmentMissingError", "environment", "measure", "on_cpu", "rows_of"]

VERSION = "0.1.1"
LEVELS = ("trivial", "easy")
PACKAGES = (f"lightbench=={VERSION}", "heavyball[tuning]", "matplotlib")
_CODE = "import sys; from yardsticks.lightbench import main; sys.exit(main(sys.argv[1]))"
GROUP = 256
"""Steps between two looks of LightBench at its losses: fewer are not possible."""


class EnvironmentMissingError(Exception):
    """The environment could not be made; the message says why."""


# ---------------------------------------------------------------- in our environment


def environment(place: Path, versions: Mapping[str, str]) -> Path:
    """The interpreter of the environment in ``place``, which is made if there is none: torch first, of this version,
    then LightBench and the packages of the arms. Raises EnvironmentMissingError."""
    python = place / "bin" / "python"
    if (place / "complete").is_file() and python.is_file():
        return python
    print(f"{place}: an environment for LightBench {VERSION}, once; some minutes", flush=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    torch, others = f"torch=={versions['torch']}", [f"{n}=={v}" for n, v in versions.items() if n != "torch"]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if "+cpu" in torch:
        install += ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    for command in ([sys.executable, "-m", "venv", place], [*install, torch], [*install, torch, *PACKAGES, *others]):
        done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise EnvironmentMissingError(
                f"{' '.join(map(str, command[-4:]))} failed: {said[-1] if said else 'no message'}\n"
                f"An environment with {PACKAGES[0]} can be given with --environment PATH."
            )
    (place / "complete").touch()
    return python


def measure(python: Path, work: Path, records: Path, given: Any) -> None:
    """Run everything that is not stored yet, in one process of the environment, then the records. ``given``: the
    options of the command."""
    from yardsticks.arms import ALL, identity
    from yardsticks.store import Book, machine, write

    out, arms = work / "lightbench.jsonl", given.arm or [*ALL]
    jobs = {"out": str(out), "tasks": given.task, "arms": arms, "seeds": given.seeds, "steps": given.steps,
            "trials": given.trials, "seconds": given.seconds, "minutes": given.minutes}  # fmt: skip
    path = work / "lightbench-jobs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(jobs), encoding="utf-8")
    here = Path(__file__).parents[1]
    paths = os.pathsep.join([str(here), str(here.parent / "src")])
    done = subprocess.run(
        [str(python), "-c", _CODE, str(path)], check=False,
        env={**os.environ, "PYTHONPATH": paths, "TORCH_COMPILE_DISABLE": "1"}, cwd=work,
    )  # fmt: skip
    if done.returncode:
        raise EnvironmentMissingError(f"LightBench ended with {done.returncode}; run the command again to go on.")
    if given.task or set(arms) != set(ALL):
        return
    now = {arm: identity(arm) for arm in ALL}
    cells = [
        cell
        for key, cell in Book(out).known.items()
        if cell and json.loads(key)[3] < given.seeds
        and json.loads(key)[4:] == [given.steps, given.trials, now[cell["arm"]]]
    ]  # fmt: skip
    about = {"yardstick": "lightbench", "version": VERSION, "steps": given.steps, "trials": given.trials,
             "seeds": given.seeds, "seconds": given.seconds, "machine": machine()}  # fmt: skip
    write(records, about, rows_of(cells, ALL, given.seeds))
    print(records)


def rows_of(cells: Sequence[Mapping[str, Any]], arms: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """Cells (one a task, level, arm and seed) as rows of the records, one a task and level that all arms have whole.

    Each arm: [solved, trials, steps] of each seed.
    """
    found: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for cell in cells:
        row = found.setdefault((cell["task"], cell["level"]), {})
        row.setdefault(cell["arm"], []).append([cell["solved"], cell["trials"], cell["steps"]])
    return [
        {"row": f"{task}, {level}", "task": task, "level": level, "arms": {arm: row[arm] for arm in arms}}
        for (task, level), row in found.items()
        if all(len(row.get(arm, ())) == seeds for arm in arms)
    ]


# ---------------------------------------------------------------- in LightBench's environment


@dataclass
class _Cell:
    """What is counted while LightBench runs one task with one arm."""

    arm: str = ""
    model: Any = None
    solved: bool = False
    trials: int = 0
    steps: int = 0
    loss: float | None = None
    error: str = ""


_CELL = _Cell()


class _CPU(importlib.machinery.SourceFileLoader):
    """Loads a module with the name of its device replaced, without a cached compilation."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path).replace(b'"cuda"', b'"cpu"'), self.path)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of one package for :class:`_CPU`."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if not fullname.startswith(self.package + "."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            spec.loader = _CPU(fullname, spec.origin)
        return spec


def on_cpu(package: str = "lightbench") -> None:
    """Let a package that is written for CUDA run on a CPU, for the rest of this process."""
    import torch

    def nothing(*_: Any, **__: Any) -> int:
        return 0

    def same(self: Any, *_: Any, **__: Any) -> Any:
        return self

    sys.meta_path.insert(0, _Finder(package))
    for name in ("synchronize", "empty_cache", "memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"):
        setattr(torch.cuda, name, nothing)
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment,misc]
    torch.Tensor.cuda = torch.nn.Module.cuda = same  # type: ignore[assignment,method-assign]


def _arm(name: str) -> Any:
    """The arm as LightBench calls optimizers; of the parameters it takes the model that they are of."""
    from yardsticks.arms import Stepping, of_numbers

    class Counting(Stepping):
        def step(self, closure: Any) -> Any:
            _CELL.steps += 1
            return super().step(closure)

    def make(params: Any, lr: float, betas: tuple[float, float], shampoo_beta: float) -> Any:
        return Counting(of_numbers(name, _CELL.model, lr, *betas, shampoo_beta))

    make.__name__ = name
    return make


def _counted(objective: type) -> type:
    """LightBench's Objective, which also counts."""

    class Counted(objective):  # type: ignore[misc,valid-type]
        def _clone_model(self, template: Any) -> Any:
            _CELL.model = super()._clone_model(template)
            return _CELL.model

        def objective(self, params: Any) -> Any:
            found = super().objective(params)
            _CELL.trials, _CELL.loss = self.attempt, self.best_loss
            return found

        def win_condition(self, loss: Any = None) -> bool:
            won = bool(super().win_condition(loss))
            _CELL.solved |= won
            return won

    return Counted


def _tasks() -> list[str]:
    """LightBench's own list of tasks."""
    from lightbench import run_all_benchmarks

    return re.findall(r'"(\w+)\.py"', inspect.getsource(run_all_benchmarks.main))


def _run(task: str, level: str, arm: str, seed: int, steps: int, trials: int) -> dict[str, Any] | None:
    """One cell; None for a level that the task does not have."""
    global _CELL
    import numpy as np
    import torch
    from lightbench import utils
    from lightbench.run_all_benchmarks import _load_module

    _CELL = _Cell(arm)
    module = _load_module(task)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            module.main(
                dtype=["float32"], steps=steps, weight_decay=0, opt=[_arm(arm)],
                trials=1 if arm.endswith("untuned") else trials, win_condition_multiplier=1.0, config=level,
            )  # fmt: skip
    except utils.SkipConfig:
        return None
    except utils.Stop:  # its rule against searches without progress
        pass
    except Exception as error:  # noqa: BLE001 (a task that fails is a result)
        _CELL.error = f"{type(error).__name__}: {error}"[:200]
    loss = _CELL.loss
    return {
        "task": task, "level": level, "arm": arm, "seed": seed, "solved": _CELL.solved, "trials": _CELL.trials,
        "steps": _CELL.steps, "loss": None if loss is None else float(f"{loss:.4g}"), "error": _CELL.error,
    }  # fmt: skip


def _cells(jobs: Mapping[str, Any]) -> Iterator[tuple[list[Any], str, str, str, int]]:
    for task in jobs["tasks"] or sorted(_tasks(), key=lambda task: task.startswith("xor")):  # recurrent ones: long
        for seed in range(jobs["seeds"]):
            for arm in jobs["arms"]:
                for level in LEVELS:
                    yield [task, level, arm, seed, jobs["steps"], jobs["trials"]], task, level, arm, seed


def main(path: str) -> int:
    jobs = json.loads(Path(path).read_text(encoding="utf-8"))
    import torch

    torch.set_num_threads(1)
    os.environ["HEAVYBALL_BENCHMARK_TIMEOUT"] = str(jobs["seconds"])
    on_cpu()
    import optuna
    from lightbench import utils

    from yardsticks.arms import identity
    from yardsticks.store import Book

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    utils.Objective = _counted(utils.Objective)
    book = Book(Path(jobs["out"]))
    end = math.inf if jobs["minutes"] is None else time.monotonic() + 60 * jobs["minutes"]
    for key, task, level, arm, seed in _cells(jobs):
        if time.monotonic() > end:
            break
        key = [*key, identity(arm)]
        before = book.known.get(json.dumps([*key[:1], LEVELS[0], *key[2:]])) if level != LEVELS[0] else None
        if before is not None and not before["solved"]:  # not solved at the easier level: not tried
            book.get(key, lambda: {**before, "level": level, "trials": 0, "steps": 0, "loss": None})  # noqa: B023
            continue
        if not book.has(key):
            cell = book.get(key, lambda: _run(task, level, arm, seed, jobs["steps"], jobs["trials"]))  # noqa: B023
            if cell is not None:
                print(f"{task:40} {level:8} {arm:22} {'solved' if cell['solved'] else '–':6} "
                      f"{cell['trials']:3} trials {cell['steps']:6} steps {cell['error']}", flush=True)  # fmt: skip
    return 0
