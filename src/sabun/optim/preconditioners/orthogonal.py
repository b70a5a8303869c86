"""Linear algebra of the matrix preconditioners: the orthogonal polar factor, and slowly turning eigenbases.

Both avoid a factorisation in every step. The polar factor UVᵀ of G = UΣVᵀ is approached by odd polynomials in G, which
act on the singular values alone; an eigenbasis that is nearly right is improved by one power iteration and a QR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sabun.optim import torch_internals as internals
from sabun.optim.preconditioners.symmetric_products import symmetric_product

__all__ = [
    "Polynomials", "arithmetic", "as_matrix", "gram_pays", "gram_polynomials", "orthogonalize", "orthogonalize_all",
    "polynomials", "refresh_basis", "singular_bases",
]  # fmt: skip

Polynomials = Sequence[tuple[float, float, float]]
"""x ← ax + bx³ + cx⁵ on every singular value x, one iteration after the other."""

# Newton–Schulz with the slope at 0 made as large as possible: Jordan et al. 2024 (Muon). Ends near 1, not at 1.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# Optimal composition for singular values in [10⁻³, 1]: Amsel, Persson, Musco & Gower 2025, arXiv 2505.16932.
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
_SAFETY = 1.01  # keeps 16-bit rounding from leaving the interval; part of the published method


def as_matrix(tensor: Tensor) -> Tensor:
    """First dimension × all others: a convolution kernel becomes (out, in·height·width)."""
    return tensor if tensor.ndim == 2 else tensor.reshape(tensor.shape[0], -1)


def orthogonalize(matrices: Tensor, *, iteration: str, steps: int, dtype: str | None = None) -> Tensor:
    """The polar factor UVᵀ of a matrix, or of each of a stack of matrices of the same shape, approximately.

    ``iteration`` is ``newton-schulz`` (singular values end in about [0.7, 1.2]) or ``polar-express`` (they end nearer
    to 1). Returned in the dtype of ``matrices``; computed in ``dtype``, or in what :func:`arithmetic` says. A zero
    matrix stays zero.
    """
    if matrices.ndim == 2:
        return orthogonalize_all([matrices.unsqueeze(0)], iteration=iteration, steps=steps, dtype=dtype)[0].squeeze(0)
    return orthogonalize_all([matrices], iteration=iteration, steps=steps, dtype=dtype)[0]


def orthogonalize_all(
    stacks: list[Tensor],
    *,
    iteration: str,
    steps: int,
    dtype: str | None = None,
    overwrite: torch.dtype | None = None,
    symmetric: bool = False,
) -> list[Tensor]:
    """:func:`orthogonalize` of several stacks, in fewer calls: Gram matrices of the same size share their products.

    ``symmetric``: products that are symmetric are made by
    :func:`~sabun.optim.preconditioners.symmetric_products.symmetric_product`.

    ``overwrite``: the stacks are taken out of the list and may be overwritten; they are in the dtype to iterate in, and
    the factors in this one. On an accelerator there are then at most two copies of a stack at a time.
    """
    coefficients, margin = polynomials(iteration, steps)
    waiting = stacks if overwrite is not None else list(stacks)
    found: dict[int, Tensor] = {}
    together: dict[tuple[object, ...], list[tuple[int, Tensor, bool, torch.dtype]]] = {}
    for place in range(len(waiting)):
        X = waiting.pop(0)
        like = X.dtype if overwrite is None else overwrite
        X = X.to(arithmetic(X, coefficients) if dtype is None else getattr(torch, dtype))
        tall = X.shape[-2] > X.shape[-1]
        if tall:
            X = X.mT
        norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
        if margin != 1:
            norm.mul_(margin)
        norm.clamp_(min=1e-7)
        X = X / norm if overwrite is None or X.is_cpu else X.div_(norm)
        if gram_pays(X.shape, X.dtype, coefficients):
            together.setdefault((X.shape[-2], X.dtype, X.device), []).append((place, X, tall, like))
        else:
            for polynomial in coefficients:
                X = _iterated(X, polynomial, symmetric=symmetric)
            # Contiguous, as parameters are: adding tensors of different memory order takes twice as long.
            found[place] = X.mT.to(like, memory_format=torch.contiguous_format) if tall else X.to(like)
        del X
    for members in together.values():
        grams = torch.cat([symmetric_product(X) if symmetric else torch.bmm(X, X.mT) for _, X, _, _ in members])
        Q = gram_polynomials(grams, coefficients, symmetric=symmetric)
        parts = torch.split(Q, [len(X) for _, X, _, _ in members])
        for (place, X, tall, like), part in zip(members, parts, strict=True):
            found[place] = (torch.bmm(X.mT, part.mT) if tall else torch.bmm(part, X)).to(like)
    return [found[place] for place in range(len(found))]


def _iterated(X: Tensor, polynomial: tuple[float, float, float], *, symmetric: bool) -> Tensor:
    a, b, c = polynomial
    if symmetric:
        gram = symmetric_product(X)
        return torch.baddbmm(X, symmetric_product(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    if X.shape[-2] < _SMALLEST_STRIPED or X.device.type != "cpu":
        gram = torch.bmm(X, X.mT)
        return torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    gram = _symmetric(X, X.mT)
    return torch.baddbmm(X, _symmetric(gram, gram, gram, beta=b, alpha=c), X, beta=a)


_SMALLEST_BY_GRAM = 32  # rows; below, the number of calls is what costs


def gram_pays(shape: torch.Size, dtype: torch.dtype, coefficients: Polynomials) -> bool:
    """Whether :func:`gram_polynomials` is faster, and its growth of rounding errors without effect."""
    rows, columns = sorted(shape[-2:])
    if 2 * columns < 5 * rows or rows < _SMALLEST_BY_GRAM:
        return False
    return math.prod(a * a for a, _, _ in coefficients[:-1]) * torch.finfo(dtype).eps < 0.05


def gram_polynomials(G: Tensor, coefficients: Polynomials, *, symmetric: bool = False) -> Tensor:
    """Q(G) of Gram matrices G = XXᵀ such that Q·X is the last iterate, for 0.5 to 0.75 of the time.

    Every iterate is such a product, so that all multiplications but the first and the last are of small square matrices
    (Dao, Zhang, Amsel & Chen 2026, "Gram Newton–Schulz"), which need not know how long X is. Worth it where X is at
    least 2.5 times as long as it is wide. Squaring the singular values costs half the digits: eigenvalues of G that
    should be 0 come out as some −ε, grow by a² in every iteration, and from about 1 on without bounds. That rules out
    16 bits, and very many iterations. All products are symmetric; ``symmetric`` as in :func:`orthogonalize_all`.
    """

    def product(plus: Tensor, X: Tensor, Y: Tensor, *, beta: float, alpha: float = 1.0) -> Tensor:
        if symmetric:
            return symmetric_product(X, Y, plus, beta=beta, alpha=alpha)
        return torch.baddbmm(plus, X, Y, beta=beta, alpha=alpha)

    Q: Tensor | None = None
    for left, (a, b, c) in zip(range(len(coefficients) - 1, -1, -1), coefficients, strict=True):
        # The polynomial is P = a + B. Its a is added by the products, and once by hand.
        B = product(G, G, G, beta=b, alpha=c)
        if left:
            PG = product(G, B, G, beta=a)
            G = product(PG, PG, B, beta=a)
        if Q is None:
            Q = B
            Q.diagonal(dim1=-2, dim2=-1).add_(a)
        else:
            Q = product(Q, B, Q, beta=a)
    assert Q is not None  # there is at least one iteration
    return Q


def arithmetic(matrices: Tensor, coefficients: Polynomials) -> torch.dtype:
    """The dtype to iterate in: bfloat16, which is enough for an approximate factor, wherever there are units for it.

    Without such units float32 is faster as well as finer. On a CPU with them it is for small matrices, where a call
    costs more than its arithmetic, and for longer ones that can go through their Gram matrix. float64 matrices are
    iterated in float64 on every device.
    """
    if matrices.dtype == torch.float64:
        return torch.float64
    if matrices.device.type != "cpu":
        return torch.bfloat16 if internals.multiplies_bfloat16(matrices.device) else torch.float32
    short, long = sorted(matrices.shape[-2:])
    small = short * short * (2 * long + short) < _SMALLEST_IN_BFLOAT16
    small |= short <= _LARGEST_BY_GRAM and gram_pays(matrices.shape, torch.float32, coefficients)
    return torch.bfloat16 if not small and internals.multiplies_bfloat16(matrices.device) else torch.float32


# Multiplications of one iteration. Measured: equal at 128 × 128 (6 million), float32 2.5 times as fast at 64 × 64 and 5
# times at 32 × 32, bfloat16 twice as fast from 512 × 512 on. Of one matrix, not of a stack: how matrices are stacked or
# divided among ranks must not change the numbers.
_SMALLEST_IN_BFLOAT16 = 2**22
# Rows of a long matrix. float32 through the Gram matrix against bfloat16 without (it is too coarse for that): 0.9 of
# the time at 96 × 384, 0.7 at 128 × 512, about equal at 192 × 768, 1.3 at 192 × 576.
_LARGEST_BY_GRAM = 128


# A product that is known to be symmetric is computed in this many strips, each up to its diagonal block: 5/8 of the
# work. On an accelerator one large product is faster, and so it is for small matrices.
_STRIPS = 4
_SMALLEST_STRIPED = 256


def _symmetric(X: Tensor, Y: Tensor, plus: Tensor | None = None, *, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """αXY + β·plus, for matrices of which it is known that the result is symmetric."""
    n = X.shape[-2]
    out = X.new_empty(*X.shape[:-1], n)
    width = -(-n // (32 * _STRIPS)) * 32
    for begin in range(0, n, width):
        end = min(begin + width, n)
        rows, columns = X[..., begin:end, :], Y[..., :end]
        if plus is None:
            strip = torch.bmm(rows, columns)
        else:
            strip = torch.baddbmm(plus[..., begin:end, :end], rows, columns, beta=beta, alpha=alpha)
        out[..., begin:end, :end] = strip
        out[..., :begin, begin:end] = strip[..., :begin].mT
    return out


def polynomials(iteration: str, steps: int) -> tuple[Polynomials, float]:
    """(the polynomials, the factor on the Frobenius norm that a matrix is divided by before them)."""
    return ([_NEWTON_SCHULZ] * steps, 1.0) if iteration == "newton-schulz" else (_polar_express(steps), _SAFETY)


def _polar_express(steps: int) -> list[tuple[float, float, float]]:
    safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS[:-1]]
    return [*safe[:steps], *[_POLAR_EXPRESS[-1]] * (steps - len(safe))]


def singular_bases(matrix: Tensor, *, both: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """(QᵀM or QᵀMP, Q, P) for the singular vectors Q of the shorter side of M and P of the longer one, largest first.

    M has no more rows than columns; P is None without ``both``, and else QᵀMP is diagonal. Directions of which M says
    nothing, because it has more columns than rows or a singular value below √(rows · machine ε) of the largest, are
    the last columns of the product of Householder reflections that turns the other singular vectors into unit vectors.
    So they depend on M continuously. An eigenbasis of MᵀM has whatever rounding makes of them.
    """
    values, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    found = (values > len(values) * torch.finfo(values.dtype).eps * values[-1]).flip(0)
    # A column of zeros adds no reflection.
    Q = torch.linalg.qr(vectors.flip(1) * found).Q
    turned = (Q.mT @ matrix) * found.unsqueeze(1)
    if not both:
        return turned, Q, None
    P, R = torch.linalg.qr(turned.mT, mode="complete")
    return torch.zeros_like(matrix).diagonal_scatter(R.diagonal() * found), Q, P


def refresh_basis(factor: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """One orthogonal (power) iteration of ``basis`` towards the eigenvectors of ``factor``; with the column order.

    The iteration is that of factor + δ·I, δ = √(machine ε) times the mean eigenvalue: where few gradients span few
    directions, the others stay as they are. Without δ rounding errors would choose them anew every time; with it they
    turn these directions by about (machine ε)/δ.
    """
    shift = torch.finfo(factor.dtype).eps ** 0.5 * factor.diagonal().mean()
    product = factor @ basis
    order = (basis * product).sum(0).argsort(descending=True, stable=True)
    return torch.linalg.qr((product + shift * basis).index_select(1, order)).Q, order
