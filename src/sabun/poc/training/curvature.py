"""The stability margin of a training run: λ, the largest eigenvalue of the loss's Hessian, and hλ.

On a quadratic loss a scheme with stability interval x̄ is stable for hλ < x̄. The *margin* is the unused share of the
interval, 1 − hλ/x̄: 1 for a step size of zero, 0 at the edge of stability, negative beyond it. Gradient descent on
networks tends to drive λ up to that edge and to stay there (Cohen et al. 2021, arXiv 2103.00065). Margins near 0, with
single epochs beyond, are therefore typical of a well-tuned learning rate; they do not mean that the run diverges.

**Definition.** λ is the largest (algebraic) eigenvalue of ∂²L₀/∂θ² at the weights at the end of an epoch, where L₀ is
the task's loss on mini-batch 0 in training mode. The batch is fixed, so λ changes with the weights only. The largest
eigenvalue is convex in the matrix, so that of a batch is on average at least that of the whole loss. Weight decay is
not in L₀. h is the step size of the last gradient, as :func:`sabun.optim.describe` reads it.

**Method.** Locally optimal power iteration: the Rayleigh quotient is maximised over the span of the iterate, its
residual and the last direction (Knyazev 2001, doi 10.1137/S1064827500366124, with one vector and no preconditioner). It
takes one Hessian-vector product per iteration, as power iteration does, does not converge to a large negative
eigenvalue, and approaches λ from below. It stops when the residual ‖Hv − λv‖ is below 1% of λ (an eigenvalue is within
that distance), or after :data:`ITERATIONS`. It starts from the same random vector at every epoch. Started from the
eigenvector of the last epoch it would stop at once, even if another eigenvalue had become the largest. Hessian-vector
products are exact: the gradient of gᵀv (Pearlmutter 1994).

**Cost.** At most ``ITERATIONS`` + 1 products per epoch, each about two gradients, and six vectors of the size of θ.
Only runs of phase ``repeat``, which no KPI times, compute it.

**Side effects.** None: weights, gradients, buffers, modes and generators are restored, so the repeated run still tests
bit-exactness. For a model that cannot be differentiated twice λ is omitted, and the run continues.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sabun import optim
from sabun.poc.tasks.task import Session, seeded

__all__ = ["ITERATIONS", "Probe", "largest_eigenvalue"]

ITERATIONS = 20
"""Maximum number of Hessian-vector products per estimate."""
TOLERANCE = 0.01

_PER_GROUP = ("lr", "scheme", "momentum", "nesterov", "dampening", "preconditioner", "betas", "maximize")
"""Options that all parameter groups must share to be one method with one step size."""


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], start: Tensor, *, iterations: int = ITERATIONS, tolerance: float = TOLERANCE
) -> tuple[float, Tensor]:
    """Return the largest eigenvalue of the symmetric map ``product`` and its unit eigenvector.

    ``start`` must not be zero. The value is a Rayleigh quotient, so up to rounding it is a lower bound. It is NaN if
    the map is not finite.
    """
    v = start / torch.linalg.vector_norm(start)
    hv = product(v)
    value = float(torch.dot(v, hv))
    last: tuple[Tensor, Tensor] | None = None
    for _ in range(iterations):
        residual = hv - value * v
        size = float(torch.linalg.vector_norm(residual))
        if not math.isfinite(size):
            return math.nan, start
        if size <= tolerance * abs(value):
            break
        residual = residual / size
        basis = [(v, hv)]
        for vector, image in ((residual, product(residual)), *([last] if last is not None else [])):
            _extend(basis, vector, image)
        small = torch.tensor([[float(torch.dot(a, hb)) for _, hb in basis] for a, _ in basis], dtype=torch.float64)
        if not bool(torch.isfinite(small).all()):
            return math.nan, start
        weights = torch.linalg.eigh((small + small.T) / 2).eigenvectors[:, -1].tolist()
        v, hv = _combine(basis, weights)
        last = _combine(basis[1:], weights[1:]) if len(basis) > 1 else None
        value = float(torch.dot(v, hv)) / float(torch.dot(v, v))
    return value, v


def _extend(basis: list[tuple[Tensor, Tensor]], vector: Tensor, image: Tensor) -> None:
    """Orthonormalise ``vector`` against the basis and add it with its image, unless it is nearly in the span."""
    before = float(torch.linalg.vector_norm(vector))
    for _ in range(2):  # the second pass removes the rounding errors of the first
        for v, hv in basis:
            share = torch.dot(v, vector)
            vector, image = vector - share * v, image - share * hv
    length = float(torch.linalg.vector_norm(vector))
    if length > 1e-3 * before:
        basis.append((vector / length, image / length))


def _combine(basis: list[tuple[Tensor, Tensor]], weights: list[float]) -> tuple[Tensor, Tensor]:
    pairs = list(zip(weights, basis, strict=True))
    return sum((w * v for w, (v, _) in pairs), torch.zeros(())), sum((w * hv for w, (_, hv) in pairs), torch.zeros(()))


class Probe:
    """Reads λ and the margin of a training run once per epoch."""

    def __init__(self, session: Session, optimizer: torch.optim.Optimizer) -> None:
        self.session = session
        self.optimizer = optimizer
        self.parameters = [p for p in session.model.parameters() if p.requires_grad]
        self._possible = not any(p.is_complex() or p.is_sparse for p in self.parameters)

    def read(self) -> dict[str, float]:
        """Return ``curvature`` (λ) and ``margin`` (1 − hλ/x̄) at the current weights, as far as they are defined.

        There is no margin for an unknown method, with a preconditioner (which changes the relevant Hessian), with
        schedule-free averaging, with step control, or if groups differ in step size or method.
        """
        if not self._possible:
            return {}
        try:
            value = self._eigenvalue()
        except Exception:  # noqa: BLE001  (no second derivative, or not enough memory: the run continues)
            self._possible = False
            return {}
        if not math.isfinite(value):
            return {}
        limit = self._curvature_limit()
        return {"curvature": value} | ({"margin": 1.0 - value / limit} if limit is not None else {})

    def _eigenvalue(self) -> float:
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in self.parameters) else torch.float32
        device = self.parameters[0].device
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(sum(p.numel() for p in self.parameters), generator=generator, dtype=dtype).to(device)
        with _side_effect_free(self.session.model, device):
            return largest_eigenvalue(self._product(dtype), start)[0]

    def _product(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Return the map v ↦ ∂²L₀/∂θ² v on flat vectors."""
        found = torch.autograd.grad(self.session.loss(0), self.parameters, create_graph=True, materialize_grads=True)
        # A gradient that is constant in θ has no graph; its second derivative is zero.
        places = [i for i, g in enumerate(found) if g.requires_grad]
        _require_twice_differentiable([found[i] for i in places])
        sizes = [p.numel() for p in self.parameters]

        def product(v: Tensor) -> Tensor:
            if not places:
                return torch.zeros_like(v)
            pieces = torch.split(v, sizes)
            second = torch.autograd.grad(
                [found[i] for i in places],
                self.parameters,
                [pieces[i].view_as(found[i]).to(found[i].dtype) for i in places],
                retain_graph=True,
                materialize_grads=True,
            )
            return torch.cat([part.reshape(-1).to(dtype) for part in second])

        return product

    def _curvature_limit(self) -> float | None:
        """Return x̄/h, the largest curvature at which the method is stable at its current step size."""
        groups = self.optimizer.param_groups
        if any(group.get(key) != groups[0].get(key) for group in groups for key in _PER_GROUP):
            return None
        found = optim.describe(self.optimizer)
        if (
            found is None
            or found["preconditioner"] is not None
            or not found["gradients_at_iterate"]
            or found["step_control"] != "fixed"
            or groups[0].get("maximize")
        ):
            return None
        interval, step = float(found["certificate"]["stability_interval"]), float(found["lr"])
        return interval / step if 0 < interval < math.inf and step > 0 else None


def _require_twice_differentiable(gradients: list[Tensor]) -> None:
    """Raise RuntimeError for a once-differentiable kernel, whose second derivative torch would take to be zero."""
    nodes = [g.grad_fn for g in gradients]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        if node.name().rpartition("::")[2] == "Error":
            raise RuntimeError("a kernel of the model is differentiable once only")
        new = {after for after, _ in node.next_functions} - seen
        seen |= new
        nodes += new


@contextlib.contextmanager
def _side_effect_free(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Use training mode and twice-differentiable kernels; restore modes, buffers and generators afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    cuda = [device] if device.type == "cuda" else []
    try:
        with (
            seeded(0),
            torch.random.fork_rng(devices=cuda, enabled=bool(cuda)),
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=False),
        ):
            model.train()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
