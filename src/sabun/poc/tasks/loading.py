"""Loading a task by its name, and the origin of its results.

digits                     a built-in task (:data:`sabun.poc.tasks.builtin.TASKS`)
path/to/mytask.py:Task     a class in a file
mypackage.tasks:Task       a class in an importable module
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from sabun.errors import SabunError, StudyError, unknown
from sabun.poc.spec import Scalar
from sabun.poc.tasks.builtin import TASKS
from sabun.poc.tasks.function_task import FunctionTask
from sabun.poc.tasks.task import Task
from sabun.poc.user_errors import describe, user_code

__all__ = ["load", "provenance"]

_OWN = "Name a task of your own as mytask.py:Task or package.module:Task."


def load(name: str, options: Mapping[str, Scalar] | None = None) -> Task:
    """Return the task called ``name``. Raises StudyError, with the nearest known name, if there is none."""
    kind = TASKS[name] if name in TASKS else _user_class(name)
    return _as_task(_construct(kind, name, options or {}), name)


def provenance(name: str, task: object) -> str | None:
    """Return what identifies the source of a task's results: the hash of its file, or of a built-in task's data."""
    if name in TASKS:
        described = getattr(getattr(task, "source", task), "provenance", None)
        return str(described()) if described else None
    module = name.rpartition(":")[0]
    path = Path(module) if module.endswith(".py") else Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _user_class(name: str) -> Callable[..., Any]:
    place, colon, attribute = name.rpartition(":")
    if not colon or not (place.endswith(".py") or all(part.isidentifier() for part in place.split("."))):
        raise unknown(StudyError, "task", name, TASKS, see=_OWN)
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(StudyError, f"task in {place}", attribute, known)
    kind: Callable[..., Any] = getattr(module, attribute)
    return kind


def _construct(kind: Callable[..., Any], name: str, options: Mapping[str, Scalar]) -> Any:
    parameters = inspect.signature(kind).parameters
    for key in options:
        if key not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise unknown(StudyError, f"option of task {name!r}", key, parameters)
    try:
        return kind(**options)
    except SabunError:
        raise
    except (Exception, SystemExit) as error:
        if options and isinstance(error, TypeError | ValueError):
            raise StudyError(f"task {name!r} rejects its options: {error}.", fix="Correct task_options.") from error
        raise StudyError(
            f"task {name!r} cannot be constructed: {describe(error)}.", fix="Correct the task's __init__."
        ) from error


def _as_task(source: Any, name: str) -> Task:
    if isinstance(source, Task):
        return source
    missing = [part for part in ("model", "data", "loss") if not callable(getattr(source, part, None))]
    if missing:
        raise StudyError(
            f"task {name!r} has no {missing[0]}().",
            fix="Define model(), data() and loss(model, batch), or session(seeds); see sabun.poc.tasks.task.",
        )
    return FunctionTask(source, name)


def _import_module(name: str) -> ModuleType:
    try:
        with user_code(f"module {name!r} cannot be imported", "Correct the module."):
            return importlib.import_module(name)
    except StudyError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and name.startswith(str(missing.name)):
            raise StudyError(
                f"there is no module {missing.name!r} for the task.",
                fix=f"Install its package, or check the name. {_OWN}",
            ) from None
        raise


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise StudyError(
            f"there is no task file {path}.", fix="Check the path. It is relative to the working directory."
        )
    # The text is part of the name, so that a file that was edited in the meantime is imported again.
    name = f"sabun_task_{hashlib.sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StudyError(f"cannot import {path}.", fix="Give a Python file.")
    module = importlib.util.module_from_spec(spec)
    # Registered in sys.modules, so that dataclasses and pickling find the module. The file's directory is on the path
    # during the import, as if the file were run as a script.
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        with user_code(
            f"{path} cannot be imported",
            "Correct the file. Code under 'if __name__ == \"__main__\":' is not executed.",
        ):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
