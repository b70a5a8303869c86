"""The step of small hidden matrices as C: filter, polar factor, even rows and update, in one call for all of them.

On a small network the spectral metric is dozens of calls about very little: on a 30 × 32 matrix they take four times as
long as the arithmetic. Here a matrix stays in the cache from its gradient to its update. Large ones are left to the
BLAS of torch, whose products are faster (:func:`fits`).

The filter is the formula of ``elementwise``, the polynomials are those of ``matrices``, and so is the choice between
iterating on the matrix and on its Gram matrix.
"""

from __future__ import annotations

import ctypes
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import Template

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sabun.optim.compiled.c_elementwise import TYPES, Writer, library
from sabun.optim.compiled.elementwise import Rule, direction
from sabun.optim.kernels import Tensors
from sabun.optim.preconditioners.base import Preconditioner
from sabun.optim.preconditioners.orthogonal import arithmetic, gram_pays, polynomials
from sabun.optim.preconditioners.spectral import Spectral

__all__ = ["Kernel", "Sizes", "build", "fits", "source"]

_DTYPES = (torch.float32, torch.float64)
# Rows of the Gram matrix, and entries: from 0.2 (32 × 144) to 0.5 (128 × 512) of the time of torch's calls. Beyond, and
# where 16 bits are the faster arithmetic, its products make up for the calls.
_WIDEST = 128
_LARGEST = 2**16
_SHARED = 2**15  # entries of a bucket from which on threads share it; below, waking them takes longer
_LINE = 16  # entries that rows are padded to: the longest vector there is


def fits(parameter: Tensor, preconditioner: Preconditioner) -> bool:
    """Whether a parameter is a matrix for the loops below: small, and iterated in its own dtype."""
    if not isinstance(preconditioner, Spectral) or preconditioner.divide:
        return False
    if parameter.dtype not in _DTYPES or isinstance(parameter, DTensor):
        return False
    matrix = parameter.detach().reshape(parameter.shape[0], -1)
    if min(matrix.shape) > _WIDEST or matrix.numel() > _LARGEST:
        return False
    wished = preconditioner.dtype
    coefficients, _ = polynomials(preconditioner.iteration, preconditioner.steps)
    return (arithmetic(matrix, coefficients) if wished is None else getattr(torch, wished)) is parameter.dtype


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a bucket's matrices: rows, columns, how each is iterated, and room to work in. Kept as long as the bucket."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    by_gram: tuple[bool, ...]
    iteration: tuple[object, ...]
    coefficients: array[float]
    margin: float
    room: Tensor
    threads: int

    @classmethod
    def of(cls, params: Tensors, spectral: Spectral) -> Sizes | None:
        """Those of these parameters; None if one of them is none for the loops."""
        if not all(fits(p, spectral) for p in params):
            return None
        dtype = params[0].dtype
        coefficients, margin = polynomials(spectral.iteration, spectral.steps)
        sizes = [torch.Size((p.shape[0], p.numel() // p.shape[0])) for p in params]
        rows, columns = zip(*sizes, strict=True)
        threads = _threads(params)
        return cls(
            rows,
            columns,
            tuple(gram_pays(size, dtype, coefficients) for size in sizes),
            (spectral.iteration, spectral.steps, spectral.dtype),
            array("d", (c for polynomial in coefficients for c in polynomial)),
            margin,
            torch.empty(threads * max(_room(*size) for size in sizes), dtype=dtype, device="cpu"),
            threads,
        )

    def serves(self, params: Tensors, spectral: Spectral) -> bool:
        """Whether the iteration is still the one asked for, and the threads are still those."""
        return (
            self.iteration == (spectral.iteration, spectral.steps, spectral.dtype)
            and self.threads == _threads(params)
        )  # fmt: skip


def _threads(params: Tensors) -> int:
    if sum(p.numel() for p in params) < _SHARED:
        return 1
    return max(1, min(torch.get_num_threads(), len(params)))


def _room(rows: int, columns: int) -> int:
    """Numbers that the work on one matrix takes: the matrix three times, squares of its short side five times."""
    short, long = (-(-n // _LINE) * _LINE for n in sorted((rows, columns)))
    return 3 * short * long + 5 * short * short + 2 * -(-max(rows, columns) // _LINE) * _LINE


class Kernel:
    """A compiled rule. ``compile_s`` is what compiling took."""

    def __init__(self, loaded: ctypes.CDLL, compile_s: float) -> None:
        self.compile_s = compile_s
        self._step = loaded.step
        self._step.argtypes = [
            ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
            ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
        ]  # fmt: skip
        self._step.restype = None

    def __call__(
        self, pointers: Sequence[int], gradients: Sequence[int], sizes: Sizes, numbers: Sequence[float], *, even: bool
    ) -> None:
        """Step every matrix: addresses of p, of each buffer and (where rows are ``even``) of the rows' second moments,
        and of g; then the rule's operands, followed by β₂, 1 − β₂, ε and 1/mass."""
        n = len(sizes.rows)
        table = array("q", pointers)
        if not even:
            table.extend([0] * n)
        for row in (gradients, sizes.rows, sizes.columns, sizes.by_gram):
            table.extend(row)
        operands = array("d", (*numbers, sizes.margin))
        self._step(
            table.buffer_info()[0], n, operands.buffer_info()[0],
            sizes.coefficients.buffer_info()[0], len(sizes.coefficients) // 3,
            sizes.room.data_ptr(), sizes.room.numel() // sizes.threads, sizes.threads,
        )  # fmt: skip


@lru_cache(maxsize=64)
def build(rule: Rule, dtype: torch.dtype) -> Kernel:
    """Compile ``rule`` for matrices of this dtype. Raises NoCompilerError when that cannot be done here."""
    begin = time.perf_counter()
    loaded = library(source(rule, dtype))
    return Kernel(loaded, time.perf_counter() - begin)


def source(rule: Rule, dtype: torch.dtype) -> str:
    """The C text of ``rule`` for matrices of this dtype."""
    states = [f"s{j}" for j in range(rule.taps)]
    writer = Writer()
    operands = {name: f"k_{name}" for name in rule.operands}
    d, _, buffers = direction(writer, rule, operands, "p", "g", states)
    return Template(_TEXT).substitute(
        real=TYPES[dtype],
        root="sqrt" if dtype is torch.float64 else "sqrtf",
        line=_LINE,
        tiny=repr(torch.finfo(dtype).tiny),
        states=len(states),
        operands=len(operands),
        buffers="".join(f", real *restrict {name}_" for name in states),
        constants="\n  ".join(f"const real {name} = k[{i}]; (void){name};" for i, name in enumerate(operands.values())),
        loads="\n      ".join(f"const real {name} = {name}_[i];" for name in states),
        body="\n      ".join(writer.lines),
        direction=d,
        stores="\n      ".join(f"{name}_[i] = {value};" for name, value in zip(states, buffers, strict=True)),
        passed="".join(f", (real *)table[{1 + j} * n + t]" for j in range(len(states))),
        keep=rule.operands.index("keep"),
        scale=rule.operands.index("scale"),
    )


_TEXT = """\
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

typedef $real real;
#define SQRT $root
#ifdef __AVX512F__
#define BYTES 64
#define TALL 8
#else
#define BYTES 32
#define TALL 4
#endif
typedef real vec __attribute__((vector_size(BYTES)));
enum { WIDTH = BYTES / sizeof(real), LINE = $line };

/* A TALL x (VECTORS * WIDTH) block of C = alpha AB + beta D, held in registers. */
#define BLOCK(NAME, VECTORS)                                                                                      \\
  static inline void NAME(real *C, const real *A, const real *B, const real *D, int64_t depth, int64_t a_row,    \\
                          int64_t b_row, real alpha, real beta) {                                                \\
    vec sum[TALL][VECTORS];                                                                                      \\
    for (int r = 0; r < TALL; ++r)                                                                               \\
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = (vec){0};                                                    \\
    for (int64_t k = 0; k < depth; ++k) {                                                                        \\
      vec b[VECTORS];                                                                                            \\
      for (int v = 0; v < VECTORS; ++v) b[v] = *(const vec *)(B + k * b_row + v * WIDTH);                        \\
      for (int r = 0; r < TALL; ++r)                                                                             \\
        for (int v = 0; v < VECTORS; ++v) sum[r][v] += A[r * a_row + k] * b[v];                                  \\
    }                                                                                                            \\
    for (int r = 0; r < TALL; ++r)                                                                               \\
      for (int v = 0; v < VECTORS; ++v) {                                                                        \\
        vec out = alpha * sum[r][v];                                                                             \\
        if (beta != 0) out += beta * *(const vec *)(D + r * b_row + v * WIDTH);                                  \\
        *(vec *)(C + r * b_row + v * WIDTH) = out;                                                               \\
      }                                                                                                          \\
  }
BLOCK(two_vectors, 2)
BLOCK(one_vector, 1)

/* C = alpha AB + beta D; A is rows x depth, the others columns wide. Sizes are padded with zeros: rows to TALL, columns
   to WIDTH. C is none of the others. Of a result that is ``symmetric`` only what touches the upper half is computed. */
static void multiply(real *C, const real *A, const real *B, const real *D, int64_t rows, int64_t depth, int64_t columns,
                     int64_t a_row, real alpha, real beta, int symmetric) {
  int64_t j = 0;
  for (; j + 2 * WIDTH <= columns; j += 2 * WIDTH)
    for (int64_t i = 0; i < (symmetric ? j + 2 * WIDTH : rows); i += TALL)
      two_vectors(C + i * columns + j, A + i * a_row, B + j, D + i * columns + j, depth, a_row, columns, alpha, beta);
  for (; j < columns; j += WIDTH)
    for (int64_t i = 0; i < (symmetric ? j + WIDTH : rows); i += TALL)
      one_vector(C + i * columns + j, A + i * a_row, B + j, D + i * columns + j, depth, a_row, columns, alpha, beta);
  if (symmetric)
    for (int64_t i = 2 * WIDTH; i < rows; ++i)
      for (int64_t l = 0; l < i; ++l) C[i * columns + l] = C[l * columns + i];
}

static void transpose(real *restrict to, const real *restrict X, int64_t rows, int64_t columns) {
  for (int64_t j = 0; j < columns; j += LINE)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t l = j; l < j + LINE; ++l) to[l * rows + i] = X[i * columns + l];
}

/* d of every entry into X, and the filter's buffers brought up to date. */
static inline __attribute__((always_inline)) void filter(
    int64_t rows, int64_t columns, const real *restrict p_$buffers, const real *restrict g_, const real *restrict k,
    real unmass, real *restrict X, int64_t down, int64_t right) {
  $constants
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t i = r * columns + c;
      const real p = p_[i], g = g_[i];
      $loads
      $body
      $stores
      X[r * down + c * right] = $direction * unmass;
      (void)p;
    }
}

/* The polynomials on the singular values of X (short x wide, padded); the result is returned, in X or in Y. */
static real *polar(real *X, real *Y, real *T, real *squares, int64_t rows, int64_t depth, int64_t n, int64_t wide,
                   const double *polynomials, int64_t steps) {
  real *G = squares, *P = G + n * n;
  for (int64_t s = 0; s < steps; ++s) {
    const real a = polynomials[3 * s], b = polynomials[3 * s + 1], c = polynomials[3 * s + 2];
    transpose(T, X, n, wide);
    multiply(G, X, T, G, n, depth, n, wide, 1, 0, 1);
    multiply(P, G, G, G, n, rows, n, n, c, b, 1);
    multiply(Y, P, X, X, n, rows, wide, n, 1, a, 0);
    real *swap = X;
    X = Y;
    Y = swap;
  }
  return X;
}

/* The same through G = XX', of which every iterate is a polynomial. */
static real *polar_by_gram(real *X, real *Y, real *T, real *squares, int64_t rows, int64_t depth, int64_t n,
                           int64_t wide, const double *polynomials, int64_t steps) {
  real *G = squares, *B = G + n * n, *R = B + n * n, *Q = R + n * n, *S = Q + n * n;
  transpose(T, X, n, wide);
  multiply(G, X, T, G, n, depth, n, wide, 1, 0, 1);
  for (int64_t s = 0; s < steps; ++s) {
    const real a = polynomials[3 * s], b = polynomials[3 * s + 1], c = polynomials[3 * s + 2];
    multiply(B, G, G, G, n, rows, n, n, c, b, 1);
    if (s < steps - 1) {
      multiply(R, B, G, G, n, rows, n, n, 1, a, 1);
      multiply(G, R, B, R, n, rows, n, n, 1, a, 1);
    }
    if (s == 0) {
      memcpy(Q, B, sizeof(real) * n * n);
      for (int64_t i = 0; i < rows; ++i) Q[i * n + i] += a;
    } else {
      multiply(S, B, Q, Q, n, rows, n, n, 1, a, 1);
      real *swap = Q;
      Q = S;
      S = swap;
    }
  }
  multiply(Y, Q, X, X, n, rows, wide, n, 1, 0, 0);
  return Y;
}

/* What each row of the update is multiplied by, into ``factor``: evens the rows where there are second moments. */
static void factors(real *factor, real *length, const real *U, int64_t rows, int64_t columns, int64_t down,
                    int64_t right, real size, real *second, real beta2, real rest2, real eps) {
  if (!second) {
    for (int64_t r = 0; r < rows; ++r) factor[r] = size;
    return;
  }
  memset(length, 0, sizeof(real) * rows);
  if (right == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      real sum[LINE] = {0};
      for (int64_t c = 0; c < down; c += LINE)
        for (int64_t l = 0; l < LINE; ++l) sum[l] += U[r * down + c + l] * U[r * down + c + l];
      for (int64_t l = 0; l < LINE; ++l) length[r] += sum[l];
    }
  } else {
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r) length[r] += U[c * right + r] * U[c * right + r];
  }
  double before = 0, after = 0;
  for (int64_t r = 0; r < rows; ++r) {
    second[r] = beta2 * second[r] + rest2 * size * size / columns * length[r];
    factor[r] = SQRT(second[r]) + eps;
    before += length[r];
    after += length[r] / (factor[r] * factor[r]);
  }
  const real now = (real)sqrt(after);
  const real ratio = (real)sqrt(before) / (now < (real)$tiny ? (real)$tiny : now) * size;
  for (int64_t r = 0; r < rows; ++r) factor[r] = ratio / factor[r];
}

/* One matrix: filter, polar factor, rows, update. k: the operands, then beta2, 1 - beta2, eps, 1/mass, the norm's
   factor. */
static void matrix(const int64_t *table, int64_t n, int64_t t, const real *k, const double *polynomials, int64_t steps,
                   real *room) {
  const int64_t *sizes = table + ($states + 3) * n;
  const int64_t rows = sizes[t], columns = sizes[n + t];
  const int tall = rows > columns;
  const int64_t short_ = tall ? columns : rows, long_ = tall ? rows : columns;
  const int64_t narrow = (short_ + LINE - 1) / LINE * LINE, wide = (long_ + LINE - 1) / LINE * LINE;
  const int64_t down = tall ? 1 : wide, right = tall ? wide : 1;
  real *X = room, *Y = X + narrow * wide, *T = Y + narrow * wide, *squares = T + narrow * wide;
  real *factor = squares + 5 * narrow * narrow, *length = factor + wide;
  real *p = (real *)table[t], *second = (real *)table[($states + 1) * n + t];
  const real *g = (const real *)table[($states + 2) * n + t];
  const real *more = k + $operands;

  memset(X, 0, sizeof(real) * narrow * wide);
  if (tall) filter(rows, columns, p$passed, g, k, more[3], X, 1, wide);
  else filter(rows, columns, p$passed, g, k, more[3], X, wide, 1);
  double sum = 0;
  for (int64_t r = 0; r < short_; ++r) {
    real part[LINE] = {0};
    for (int64_t c = 0; c < wide; c += LINE)
      for (int64_t l = 0; l < LINE; ++l) part[l] += X[r * wide + c + l] * X[r * wide + c + l];
    for (int64_t l = 0; l < LINE; ++l) sum += part[l];
  }
  const real norm = (real)sqrt(sum) * more[4];
  const real shrink = 1 / (norm < (real)1e-7 ? (real)1e-7 : norm);
  for (int64_t i = 0; i < short_ * wide; ++i) X[i] *= shrink;

  const real *U = (sizes[2 * n + t] ? polar_by_gram : polar)(
      X, Y, T, squares, short_, long_, narrow, wide, polynomials, steps);
  factors(factor, length, U, rows, columns, down, right, (real)0.2 * SQRT((real)long_), second, more[0], more[1],
          more[2]);
  const real keep = k[$keep], scale = k[$scale];
  if (tall) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        p[r * columns + c] = p[r * columns + c] * keep + U[c * wide + r] * factor[r] * scale;
  } else {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        p[r * columns + c] = p[r * columns + c] * keep + U[r * wide + c] * factor[r] * scale;
  }
}

/* table: a row of addresses for p, each buffer, the second moments and g; then rows, columns, and 1 for "by Gram". */
void step(const int64_t *table, int64_t n, const double *numbers, const double *polynomials, int64_t steps, real *room,
          int64_t share, int64_t threads) {
  real k[$operands + 5];
  for (int i = 0; i < $operands + 5; ++i) k[i] = (real)numbers[i];
#ifdef _OPENMP
  if (threads > 1) {
    #pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t t = 0; t < n; ++t) matrix(table, n, t, k, polynomials, steps, room + omp_get_thread_num() * share);
    return;
  }
#endif
  (void)threads, (void)share;
  for (int64_t t = 0; t < n; ++t) matrix(table, n, t, k, polynomials, steps, room);
}
"""
