"""The elementwise step as C: written from the formula, compiled in a fraction of a second, one call a step.

``torch.compile`` makes a kernel for every tensor of a list, and its guards look at every tensor again before each step:
on a CPU that costs half a minute and a few percent. The formula needs neither. One loop over (pointer, length) serves
tensors of all shapes, so there is one small kernel for each rule and dtype, and nothing to compile again: not for a
new shape, a new number of tensors, or a new learning rate.

The library is loaded from a private temporary directory which is deleted at once: no cache that could go stale, be
shared between different processors, or be written by somebody else.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from sabun.optim.compiled.elementwise import Rule, step

__all__ = [
    "TYPES",
    "Kernel",
    "NoCompilerError",
    "Writer",
    "build",
    "compiler",
    "compiles",
    "library",
    "source",
]

TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16"}
"""dtype of an operand in memory → its C type. bfloat16 is computed in float and rounded to nearest even."""

# -fno-math-errno: a square root may be a vector instruction. Nothing here trades accuracy or NaN for speed.
_FLAGS = ("-O3", "-fno-math-errno", "-fPIC", "-shared")
# Vectors of 256 bits: with 512 this loop, bound by memory, took 5-6% longer (AVX-512, several streams at once).
_NATIVE = ("-march=native", "-mprefer-vector-width=256")
_PATIENCE_S = 60.0
# The best that the compiler takes: other processors do not know the width, other compilers not OpenMP.
_ATTEMPTS = ((*_NATIVE, "-fopenmp"), (*_NATIVE[:1], "-fopenmp"), _NATIVE[:1], ())


class NoCompilerError(RuntimeError):
    """There is no C compiler, or it failed; the text says which."""


class Writer:
    """Arithmetic whose values are names of C variables; every operation appends a statement."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def _let(self, expression: str) -> str:
        name = f"t{len(self.lines)}"
        self.lines.append(f"const real {name} = {expression};")
        return name

    def add(self, x: str, y: str) -> str:
        return self._let(f"{x} + {y}")

    def mul(self, x: str, y: str) -> str:
        return self._let(f"{x} * {y}")

    def div(self, x: str, y: str) -> str:
        return self._let(f"{x} / {y}")

    def sqrt(self, x: str) -> str:
        return self._let(f"SQRT({x})")

    def sign(self, x: str) -> str:
        return self._let(f"(real)(({x} > 0) - ({x} < 0))")


_PRELUDE = """\
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

typedef {real} real;
#define SQRT {sqrt}
typedef struct {{ uint16_t bits; }} bf16;

static inline real load_float(const float *x) {{ return *x; }}
static inline real load_double(const double *x) {{ return (real)*x; }}
static inline real load_bf16(const bf16 *x) {{
  const uint32_t bits = (uint32_t)x->bits << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}}
static inline void store_float(float *to, real x) {{ *to = (float)x; }}
static inline void store_double(double *to, real x) {{ *to = x; }}
static inline void store_bf16(bf16 *to, real x) {{
  const float value = (float)x;
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint32_t nearest = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  to->bits = (uint16_t)(value != value ? 0x7FC0u : nearest);
}}
"""

_KERNEL = """
static void run(int64_t n, {arguments}, const real *restrict k) {{
  {constants}
  for (int64_t i = 0; i < n; ++i) {{
    {loads}
    {body}
    {stores}
  }}
}}

/* Entries [first, last) of all tensors laid end to end. table: one row of pointers per operand, then the lengths. */
static void range(const int64_t *table, int64_t tensors, const real *k, int64_t first, int64_t last) {{
  const int64_t *lengths = table + {operands} * tensors;
  int64_t begin = 0;
  for (int64_t t = 0; t < tensors && begin < last; begin += lengths[t++]) {{
    const int64_t from = first > begin ? first - begin : 0;
    const int64_t to = last - begin < lengths[t] ? last - begin : lengths[t];
    if (from < to) run(to - from, {pointers}, k);
  }}
}}

void step(const int64_t *table, int64_t tensors, const double *numbers, int64_t threads) {{
  real k[{numbers}];
  int64_t total = 0;
  for (int i = 0; i < {numbers}; ++i) k[i] = (real)numbers[i];
  for (int64_t t = 0; t < tensors; ++t) total += table[{operands} * tensors + t];
#ifdef _OPENMP
  if (threads > 1 && total > 32768) {{
    #pragma omp parallel num_threads(threads)
    {{
      const int64_t share = (total / omp_get_num_threads() + 64) / 64 * 64, first = share * omp_get_thread_num();
      range(table, tensors, k, first, first + share < total ? first + share : total);
    }}
    return;
  }}
#endif
  (void)threads;
  range(table, tensors, k, 0, total);
}}
"""


def source(rule: Rule, dtypes: Sequence[torch.dtype]) -> str:
    """The C text of ``rule`` for operands (p, state…, g) of these dtypes."""
    names = ["p", *[f"s{j}" for j in range(rule.states)], "g"]
    types = [TYPES[dtype] for dtype in dtypes]
    real = "double" if torch.float64 in dtypes else "float"
    writer = Writer()
    numbers = {name: f"k_{name}" for name in rule.operands}
    p, state = step(writer, rule, numbers, "p", "g", names[1:-1])
    written = dict(zip(names, [p, *state], strict=False))
    kinds = dict(zip(names, types, strict=True))
    return _PRELUDE.format(real=real, sqrt="sqrt" if real == "double" else "sqrtf") + _KERNEL.format(
        arguments=", ".join(f"{'' if name in written else 'const '}{kinds[name]} *restrict {name}_" for name in names),
        constants="\n  ".join(f"const real {name} = k[{i}];" for i, name in enumerate(numbers.values())),
        loads="\n    ".join(f"const real {name} = load_{kinds[name]}({name}_ + i);" for name in names),
        body="\n    ".join(writer.lines),
        stores="\n    ".join(f"store_{kinds[name]}({name}_ + i, {value});" for name, value in written.items()),
        pointers=", ".join(f"({kinds[name]} *)table[{i} * tensors + t] + from" for i, name in enumerate(names)),
        operands=len(names),
        numbers=len(numbers),
    )


class Kernel:
    """A compiled rule. ``compile_s`` is what compiling took."""

    def __init__(self, library: ctypes.CDLL, compile_s: float) -> None:
        self.compile_s = compile_s
        self._step = library.step
        self._step.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64]
        self._step.restype = None

    def __call__(
        self, pointers: Sequence[int], gradients: Sequence[int], lengths: Sequence[int], numbers: Sequence[float]
    ) -> None:
        """Step every tensor: addresses of p and then of each state, of g, the number of entries, and the operands."""
        table = array("q", pointers)
        table.extend(gradients)
        table.extend(lengths)
        operands = array("d", numbers)
        self._step(table.buffer_info()[0], len(lengths), operands.buffer_info()[0], torch.get_num_threads())


@lru_cache(maxsize=256)
def build(rule: Rule, dtypes: tuple[torch.dtype, ...]) -> Kernel:
    """Compile ``rule`` for operands of these dtypes. Raises NoCompilerError when that cannot be done here."""
    begin = time.perf_counter()
    loaded = library(source(rule, dtypes))
    return Kernel(loaded, time.perf_counter() - begin)


def library(text: str) -> ctypes.CDLL:
    """A C text, compiled and loaded. Raises NoCompilerError when that cannot be done here."""
    compiler = _compiler()
    try:
        with tempfile.TemporaryDirectory(prefix="sabun-") as folder:
            source, made = Path(folder, "step.c"), Path(folder, "step.so")
            source.write_text(text, encoding="ascii")
            for more in _ATTEMPTS:
                done = subprocess.run(
                    [*compiler, *_FLAGS, *more, "-o", str(made), str(source), "-lm"],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=_PATIENCE_S,
                )
                if done.returncode == 0:
                    return ctypes.CDLL(str(made))
    except (OSError, subprocess.TimeoutExpired) as error:  # a full disk, a directory that nothing may be run from
        raise NoCompilerError(f"what {compiler[0]} makes cannot be kept or loaded: {error}") from error
    raise NoCompilerError(f"{compiler[0]} failed: {done.stderr.strip()[-400:]}")


def compiler() -> str | None:
    """What a step would be compiled with, in the compiler's own words; None without one."""
    try:
        command = _compiler()
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (NoCompilerError, OSError, subprocess.SubprocessError):
        return None
    return next(iter(said.splitlines()), command[0]).strip()


def compiles(way: bool | str | None) -> bool:
    """Whether the option ``fused`` comes to a compiled step on a CPU: "auto" does where there is a compiler."""
    if way != "auto":
        return bool(way)
    try:
        return bool(_compiler())
    except NoCompilerError:
        return False


@lru_cache(maxsize=1)
def _is_installed() -> bool:
    """Without its developer tools macOS has a ``cc`` that is none, and asks the user in a window to install them."""
    if platform.system() != "Darwin":
        return True
    return subprocess.run(["xcode-select", "-p"], capture_output=True, check=False).returncode == 0


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    for candidate in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(candidate[0]) and (named or _is_installed()):
            return candidate
    raise NoCompilerError(f"no C compiler: {named[0] if named else 'cc, gcc or clang'} was not found")
