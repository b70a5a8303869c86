"""The preconditioner: the metric P in which the direction of the scheme is the steepest, u = P⁻¹d.

An entry is a subclass of :class:`Preconditioner` in a module of this package or any other, registered in
:data:`PRECONDITIONERS`. A preconditioner does not depend on the scheme, nor the scheme on the preconditioner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sabun.optim.role_registry import Registry, Role
from sabun.optim.terms import Tensors, Terms

__all__ = ["PRECONDITIONERS", "ElementwiseForm", "MatrixForm", "MatrixWork", "Preconditioner", "Work"]


MatrixWork = Callable[[list[Tensors], Mapping[str, list[Any]]], Tensors]
"""(matrices, list by list; their state) → the update of each matrix."""


@dataclass(slots=True)
class Work:
    """What a preconditioner sees of one bucket of parameters in one step. It may write into ``state`` only.

    ``terms`` is the direction; ``grads`` the raw gradients; ``state`` maps the state names to one tensor per
    parameter; ``count`` is the number of this step, from 1, a tensor where a CUDA graph may capture the step.

    ``share(lists, work)`` is for matrices: the local parts of ``work(matrices, state)``, where the lists are local
    parts of the parameters, ``matrices`` their matrices, list by list, and ``state`` has one tensor per matrix for the
    names in ``matrix_keys``. A sharded matrix is computed by its owner only, which has its state, too.
    """

    grads: Tensors
    terms: Terms
    state: Mapping[str, list[Any]]
    count: int | Tensor
    share: Callable[[list[Tensors], MatrixWork], Tensors]


@dataclass(frozen=True, slots=True, eq=False)
class ElementwiseForm:
    """The compiled form of a preconditioner that treats every entry of a parameter by itself.

    ``update(on, k, d, g, state)`` is the formula over an abstract arithmetic: it returns u and the new state. ``k``
    holds the numbers named by ``operands``, whose values in step ``count`` are ``numbers(preconditioner, count)``.
    ``state`` has the ``Preconditioner.like`` buffers. Numbers that a schedule may change must be operands.
    """

    update: Callable[[Any, Mapping[str, Any], Any, Any, Sequence[Any]], tuple[Any, list[Any]]]
    operands: tuple[str, ...] = ()
    numbers: Callable[[Any, int], tuple[float, ...]] = lambda preconditioner, count: ()


@dataclass(frozen=True, slots=True, eq=False)
class MatrixForm:
    """The compiled form of a preconditioner on small matrices (:mod:`sabun.optim.compiled.c_matrices`)."""


@dataclass(frozen=True)
class Preconditioner(Role):
    """Base of the preconditioners.

    A subclass defines ``name``, ``summary``, :meth:`precondition` and :meth:`reference`; where it needs matrices,
    :attr:`fallback`; and :meth:`scale`, if the stability control shall take it. It overrides the class attributes where
    they differ:

    - ``lr_center``: the time step h at which a search for lr is centred.
    - ``like``: names of its state tensors that are shaped as the parameter.
    - ``matrix_keys``: names of its other state tensors, see :meth:`matrix_state`.
    - ``squares``: those of ``like`` that are never negative, and divide.
    - ``rms``: the root mean square of an update at lr = 1 where that hardly depends on the size of the gradient (of
      adam it is the upper end); None: unknown, and ``step_limit`` is refused.
    - ``is_euclidean``: P = 1.
    - ``needs_matrix``: for matrices only; other parameters take :attr:`fallback`.
    - ``counts_steps``: :attr:`Work.count` is read.
    - ``begins_from_gradient``: its state is made from the first gradient, which must be finite.
    - ``asks_unbiased``: the scheme starts ``"unbiased"`` unless it says otherwise.
    - ``scale_invariant``: u does not change when d is multiplied by a positive number.
    - ``supports_complex``: complex parameters are stepped as pairs of real numbers.
    - ``compiled``: its compiled form; None: foreach only.
    - ``capturable``: a step is the same launches whatever its number.
    """

    role: ClassVar[str] = "preconditioner"
    lr_center: ClassVar[float] = 0.003
    like: ClassVar[tuple[str, ...]] = ()
    squares: ClassVar[tuple[str, ...]] = ()
    matrix_keys: ClassVar[tuple[str, ...]] = ()
    rms: ClassVar[float | None] = None
    is_euclidean: ClassVar[bool] = False
    needs_matrix: ClassVar[bool] = False
    counts_steps: ClassVar[bool] = False
    begins_from_gradient: ClassVar[bool] = False
    asks_unbiased: ClassVar[bool] = False
    scale_invariant: ClassVar[bool] = False
    supports_complex: ClassVar[bool] = True
    compiled: ClassVar[ElementwiseForm | MatrixForm | None] = None
    capturable: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        """A class that overrides what a compiled form does does not inherit the form."""
        super().__init_subclass__(**options)
        if "compiled" not in vars(cls) and {"observe", "precondition"} & vars(cls).keys():
            cls.compiled = None

    def require(self, p: Tensor) -> None:
        """Raise OptionError for a parameter that these options do not suit; before its state is made."""

    def observe(self, work: Work) -> None:
        """Take in the gradients where that needs no further memory; :meth:`precondition` follows.

        It may be called for all parameters at once, and :meth:`precondition` for some after the others.
        """

    def precondition(self, work: Work) -> tuple[Terms, Tensors | None]:
        """The update as terms, and for a diagonal preconditioner the denominators that divide them."""
        raise NotImplementedError

    def reference(self, g: Tensor, d: Tensor, n: int, var: dict[str, Tensor]) -> Tensor:
        """The update u of one real parameter in step ``n`` (from 1), in textbook notation, without the fast path.

        ``var`` keeps the variables of the formula between steps. Tests compare :meth:`precondition` with it.
        """
        raise NotImplementedError

    def matrix_state(self, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of further state tensors of one matrix, from its full shape.

        They are in float32, or in float64 where the parameter is.
        """
        return {}

    @staticmethod
    def copies(rows: int, columns: int) -> float:
        """Size of the state with default options, in copies of a rows × columns matrix."""
        return 0.0

    @classmethod
    def cost(cls, shape: torch.Size) -> float:
        """What the owners of matrices shall have equal shares of, for a matrix of this shape, whatever the options."""
        rows, columns = shape[0], math.prod(shape[1:])
        return cls.copies(rows, columns) * rows * columns

    @property
    def exchanged_in(self) -> torch.dtype | None:
        """The dtype in which ranks exchange matrices and updates; None: that of the arithmetic."""
        return None

    @property
    def divided(self) -> bool:
        """Whether processes that hold the same matrices and gradients (DDP) divide them among themselves."""
        return False

    @property
    def fallback(self) -> Preconditioner:
        """The preconditioner of a parameter that is not a matrix, where this one needs matrices."""
        raise NotImplementedError

    def scale(self, vector: Tensor, gradient: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """P⁻¹·vector as P stands now, in new memory; for the stability control, where P⁻¹ is a linear map.

        ``state`` is that of the parameter.
        """
        raise NotImplementedError

    @classmethod
    def is_linear(cls) -> bool:
        """Whether :meth:`scale` is defined."""
        return cls.scale is not Preconditioner.scale


PRECONDITIONERS: Registry[Preconditioner] = Registry("preconditioner", "none")
"""The preconditioners by name."""
