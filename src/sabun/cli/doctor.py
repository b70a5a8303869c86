"""``sabun doctor``: this environment, and what of sabun works in it.

The module needs the standard library alone, so that it also runs where packages are missing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import locale
import os
import platform
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = ["EPILOG", "Check", "doctor", "examine", "show"]

EPILOG = """Include the output in a report of a problem. It names no file of yours but the current directory.

**Examples**

- `sabun doctor` — one screen of plain text

- `sabun doctor --json > doctor.json` — the same for a program

**Exit codes**

0 the optimizer works here, whatever else does not · 1 it does not
"""

State = Literal["ok", "limited", "missing"]
_VARIABLES = (
    "CC",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "PYTHONIOENCODING",
    "PYTHONUTF8",
    "NO_COLOR",
    "LANG",
    "LC_ALL",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One feature: whether it works here, what was found, and what would make it work (empty if it does)."""

    feature: str
    state: State
    found: str
    fix: str = ""


def doctor(as_json: bool = False) -> None:
    """Print versions, platform, compiler, devices, encodings and permissions, and what of sabun works here."""
    facts, checks = examine()
    if as_json:
        print(json.dumps({"environment": facts, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        show(facts, checks)
    if checks[0].state == "missing":
        raise SystemExit(1)


def show(facts: dict[str, str], checks: list[Check]) -> None:
    """Print what :func:`examine` found, as plain ASCII text of one screen."""
    for name, value in facts.items():
        lines = textwrap.wrap(_ascii(f"{name + ':':<14}{value}"), 100, subsequent_indent=" " * 14)
        print(*lines, sep="\n")
    print()
    width = max(len(check.feature) for check in checks)
    for check in checks:
        print(_ascii(f"{check.state:<8} {check.feature:<{width}}  {check.found}"))
        if check.fix:
            print(_ascii(f"{'':<8} {'':<{width}}  fix: {check.fix}"))


def examine() -> tuple[dict[str, str], list[Check]]:
    """Return the facts about this environment and the checks; the first one is that of the optimizer."""
    from sabun import __version__

    facts = {
        "sabun": f"{__version__}, Python {platform.python_version()} ({platform.python_implementation()})",
        "platform": f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores",
        "encodings": f"output {getattr(sys.stdout, 'encoding', None)}, locale {locale.getencoding()}, "
        f"file names {sys.getfilesystemencoding()}",
        "directory": str(Path.cwd()),
        "variables": ", ".join(f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ) or "none",
    }
    checks = [_tried("optimizer", _optimizer, 'pip install "sabun"'), _tried("compiled step", _compiled, "")]
    facts = {**facts, "torch": _torch(), "packages": _packages()}
    checks += [_extra(name, what) for name, what in _EXTRAS.items()]
    checks += [_tried("file locks", _locks, ""), _tried("processes", _processes, "")]
    checks += [_writable(name, path) for name, path in _directories().items()]
    checks.append(_output())
    return facts, checks


def _tried(feature: str, trial: Callable[[], Check], fix: str) -> Check:
    try:
        return trial()
    except Exception as error:  # noqa: BLE001  # whatever fails here is the finding
        return Check(feature, "missing", f"{type(error).__name__}: {_line(error)}", fix)


def _optimizer() -> Check:
    import torch

    from sabun.optim import create

    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = create("nadamw", [weight], 0.1, fused=False)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    if not weight.item() < 1.0:
        raise RuntimeError(f"a step with gradient 1 led from 1 to {weight.item()}")
    return Check("optimizer", "ok", "a step of nadamw was made")


def _compiled() -> Check:
    from sabun.optim.compiled.c_compiler import NoCompilerError, compiler, library

    try:
        library("int sabun_doctor(void) { return 0; }\n")
    except NoCompilerError as error:
        return Check(
            "compiled step",
            "limited",
            f"{_line(error)}; steps use torch's own kernels",
            "Install gcc or clang, or set CC, for faster steps on a CPU.",
        )
    return Check("compiled step", "ok", compiler() or "")


def _torch() -> str:
    try:
        import torch
    except Exception as error:  # noqa: BLE001  # a broken installation raises anything
        return f"not usable ({type(error).__name__}: {_line(error)})"
    devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return f"{torch.__version__}, {torch.get_num_threads()} threads, devices cpu{''.join(', ' + d for d in devices)}"


_EXTRAS = {
    "": "core packages",
    "poc": "proof of concept, reports, roll-out",
    "transformers": "Hugging Face Trainer",
    "lightning": "Lightning",
    "accelerate": "Accelerate",
    "mlflow": "MLflow",
    "tensorboard": "TensorBoard",
    "parquet": "export to Parquet",
    "slides": "reports as PowerPoint slides",
    "notebook": "notebooks as scripts",
    "ray": "runs on Ray",
}


def _requirements() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(extra, package, minimum) of each requirement with a minimum; the extra is empty for the core's."""
    for text in importlib.metadata.requires("sabun") or ():
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9.]+)", text)
        if match:
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", text)
            yield extra[1] if extra else "", match[1], _numbers(match[2])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _packages() -> str:
    found = {name: _version(name) for extra, name, _ in _requirements() if extra in _EXTRAS and name != "torch"}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def _extra(extra: str, feature: str) -> Check:
    name = f"sabun[{extra}]" if extra else "sabun"
    absent, old = [], []
    for group, package, least in _requirements():
        if group != extra:
            continue
        version = _version(package)
        if version is None:
            absent.append(package)
        elif _numbers(version) < least:
            old.append(f"{package} {version} (needs {'.'.join(map(str, least))})")
    if absent or old:
        missing = [f"not installed: {', '.join(absent)}"] if absent else []
        outdated = [f"too old: {', '.join(old)}"] if old else []
        return Check(feature, "missing", "; ".join(missing + outdated), f'pip install --upgrade "{name}"')
    return Check(feature, "ok", name)


def _locks() -> Check:
    from sabun._files import lock

    with tempfile.TemporaryFile() as file:
        try:
            lock(file.fileno(), wait=False)
        except OSError as error:
            fix = "Set TMPDIR, and keep studies, roll-outs and states of the guard, on a file system with locks."
            return Check("file locks", "missing", _line(error), fix)
    return Check("file locks", "ok", "a file was locked")


def _processes() -> Check:
    if sys.platform == "linux" and hasattr(os, "fork"):
        return Check("processes", "ok", "workers of --jobs are forks")
    return Check("processes", "ok", "workers of --jobs are fresh interpreters, which load torch and the data each")


def _directories() -> dict[str, Path]:
    return {"current directory": Path.cwd(), "home": Path.home(), "temporary files": Path(tempfile.gettempdir())}


def _writable(name: str, path: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        return Check(name, "limited", f"cannot be written: {error.strerror}", "Write with --out to another directory.")
    return Check(name, "ok", "can be written")


def _output() -> Check:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        "θ′ 採用 ●".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        fix = "Set PYTHONIOENCODING=utf-8 for mathematical and Japanese characters."
        return Check("output", "limited", f"{encoding} lacks characters of the reports", fix)
    return Check("output", "ok", encoding)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
