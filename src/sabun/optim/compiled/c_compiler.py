"""The C compiler: find one, compile a source text, load the result.

The shared library is made in a private temporary directory that is deleted at once. There is no cache on disk that
could go stale, be shared between different processors, or be written by somebody else; within a process each text is
compiled once.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, cast

from sabun import command_line

__all__ = ["NoCompilerError", "compiler", "compiles", "library", "render", "step_function"]

# -fno-math-errno lets a square root be a vector instruction. No flag here trades accuracy or NaN for speed.
_FLAGS = ("-O3", "-fno-math-errno", "-fPIC", "-shared")
# Vectors of 256 bits: with 512 the elementwise loop, bound by memory, took 5-6% longer (AVX-512, several streams).
_NATIVE = ("-march=native", "-mprefer-vector-width=256")
_TIMEOUT_S = 60.0
# The first set of flags that the compiler accepts: other processors lack the width, other compilers OpenMP.
_ATTEMPTS = ((*_NATIVE, "-fopenmp"), (*_NATIVE[:1], "-fopenmp"), _NATIVE[:1], ())


class NoCompilerError(RuntimeError):
    """There is no C compiler, or it failed; the message says which."""


def render(*names: str, **values: object) -> str:
    """The C templates of these names, one after the other, with their placeholders filled in."""
    return Template("".join(map(_template, names))).substitute(values)


@lru_cache(maxsize=8)
def _template(name: str) -> str:
    return (resources.files("sabun.optim.compiled") / name).read_text(encoding="ascii")


@lru_cache(maxsize=256)
def library(text: str) -> ctypes.CDLL:
    """Compile a C text and load it. Raises NoCompilerError if that is not possible here."""
    command = _command()
    try:
        with tempfile.TemporaryDirectory(prefix="sabun-", ignore_cleanup_errors=True) as folder:
            source, built = Path(folder, "step.c"), Path(folder, "step.so")
            source.write_text(text, encoding="ascii")
            for flags in _ATTEMPTS:
                result = subprocess.run(
                    [*command, *_FLAGS, *flags, "-o", str(built), str(source), "-lm"],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=_TIMEOUT_S,
                )
                if result.returncode == 0:
                    return ctypes.CDLL(str(built))
    except (OSError, subprocess.TimeoutExpired) as error:  # a full disk, a directory mounted noexec
        raise NoCompilerError(f"the output of {command[0]} could not be written or loaded: {error}") from error
    raise NoCompilerError(f"{command[0]} failed: {result.stderr.strip()[-400:]}")


def step_function(text: str, arguments: str) -> Callable[..., None]:
    """The function ``step`` of a compiled text. ``arguments`` has a letter per argument: p for a pointer, i for int64.

    Raises NoCompilerError if the text cannot be compiled here.
    """
    function: Any = library(text).step
    function.argtypes = [{"p": ctypes.c_void_p, "i": ctypes.c_int64}[letter] for letter in arguments]
    function.restype = None
    return cast("Callable[..., None]", function)


def compiler() -> str | None:
    """The C compiler's own version line; None without a compiler."""
    try:
        command = _command()
        output = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (NoCompilerError, OSError, subprocess.SubprocessError):
        return None
    return next(iter(output.splitlines()), command[0]).strip()


def compiles(fused: bool | str | None) -> bool:
    """Whether the option ``fused`` asks for a compiled step on a CPU; "auto" does if there is a compiler."""
    if fused != "auto":
        return bool(fused)
    try:
        return bool(_command())
    except NoCompilerError:
        return False


@lru_cache(maxsize=1)
def _has_developer_tools() -> bool:
    """Without its developer tools macOS has a stub ``cc`` that opens an installation dialog."""
    if platform.system() != "Darwin":
        return True
    return subprocess.run(["xcode-select", "-p"], capture_output=True, check=False).returncode == 0


def _command() -> list[str]:
    asked = os.environ.get("CC", "")
    try:
        named = command_line.split(asked)
    except ValueError as error:
        raise NoCompilerError(f"no C compiler: CC={asked!r} is not a command ({error})") from None
    for candidate in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(candidate[0]) and (named or _has_developer_tools()):
            return candidate
    raise NoCompilerError(f"no C compiler: {named[0] if named else 'cc, gcc or clang'} was not found")
