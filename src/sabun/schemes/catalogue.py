"""The catalogue of schemes: one entry per scheme, with exact coefficients and their source.

To add a scheme, add an entry to :data:`SCHEMES`. The analysis, ``sabun schemes``, ``sabun explain``, the optimizers and
the tests read the catalogue. The tests compare an entry's ``order`` with the algebra and with measured convergence
rates. Schemes that cannot train are included as counter-examples; :func:`require_usable` rejects them.

The momentum family is one plane, ``look-ahead(β, γ)``, which steps with the exponential mean of g + γ(g − g_prev).
Heavy ball is γ = 0, Nesterov γ = β, Adams–Bashforth 2 is (0, 1/2). Quasi-hyperbolic momentum and Lion are other
coordinates of the same plane. ``memories`` is a weighted sum of up to four of its members: one multistep scheme with
several real roots.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import cast, overload

from sabun.errors import SchemeError, unknown
from sabun.schemes import polynomials as poly
from sabun.schemes import stabilised
from sabun.schemes.linear_multistep import LinearMultistep, StartUp
from sabun.schemes.numbers import Number, exact, root_text, show
from sabun.schemes.runge_kutta import ButcherTableau

__all__ = [
    "SCHEMES",
    "Entry",
    "Parameter",
    "Scheme",
    "alternative",
    "get",
    "heavy_ball",
    "lion",
    "look_ahead",
    "memories",
    "nesterov",
    "order_two",
    "parse",
    "quasi_hyperbolic",
    "refusal",
    "require_usable",
]

Scheme = LinearMultistep | ButcherTableau
"""A scheme: one gradient per step with state, or several gradients per step without."""
Coefficients = tuple[tuple[Fraction, ...], tuple[Fraction, ...]]
Tableau = tuple[tuple[tuple[Fraction, ...], ...], tuple[Fraction, ...], tuple[Fraction, ...] | None]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a family: its default and its range, [low, high] or, with ``below``, [low, high)."""

    name: str
    default: Fraction
    low: Fraction
    high: Fraction
    below: bool = False
    whole: bool = False
    meaning: str = ""

    def check(self, family: str, value: Number) -> Fraction:
        """Convert ``value`` to a Fraction. Raises SchemeError if it is not a number or out of range."""
        x = exact(value, f"{family}: {self.name}")
        inside = self.low <= x < self.high if self.below else self.low <= x <= self.high
        if not inside or (self.whole and x.denominator != 1):
            kind = "a whole number" if self.whole else "a number"
            raise SchemeError(
                f"{family}: {self.name} must be {kind} in {self.range}, not {show(x)}.",
                fix=f"{self.meaning[:1].upper()}{self.meaning[1:]}; the default is {show(self.default)}.",
            )
        return x

    @property
    def range(self) -> str:
        """The range as text, such as ``[0, 1)``."""
        return f"[{show(self.low)}, {show(self.high)}{')' if self.below else ']'}"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the catalogue.

    ``coefficients`` takes the parameters as Fractions, in their order, and returns (α, β) of a multistep scheme or (A,
    b, b_embedded) of a Runge–Kutta scheme. ``order`` is that of the source for the default parameters. ``instead``
    names the scheme to use where this one is unusable. The summary of sabun's own schemes is the message
    ``scheme.NAME`` of each language; ``summary`` is that of a scheme added from outside.
    """

    name: str
    coefficients: Callable[..., Coefficients | Tableau]
    order: int
    source: str
    start_up: StartUp = "hold"
    parameters: tuple[Parameter, ...] = ()
    instead: str = ""
    summary: str = ""

    @property
    def family(self) -> Mapping[str, Parameter]:
        """The parameters by name."""
        return {p.name: p for p in self.parameters}

    def build(self, **parameters: Number) -> Scheme:
        """Build the scheme with these parameters and defaults for the others. Raises SchemeError for an invalid one."""
        for name in parameters:
            if name not in self.family:
                if not self.parameters:
                    raise SchemeError(f"{self.name!r} has no parameters, so not {name!r}.", fix=f"Write {self.name!r}.")
                raise unknown(SchemeError, f"parameter of {self.name!r}", name, self.family)
        values = [p.check(self.name, parameters.get(p.name, p.default)) for p in self.parameters]
        # Zeros at the end that are the defaults are left out of the name: unused memories.
        said = len(values)
        while said and values[said - 1] == 0 == self.parameters[said - 1].default:
            said -= 1
        name = f"{self.name}({', '.join(map(show, values[:said]))})" if values else self.name
        shown = {p.name: float(v) for p, v in zip(self.parameters, values, strict=True)}
        made = self.coefficients(*values)
        if len(made) == 2:
            return LinearMultistep(name, *made, self.start_up, self.source, self.summary, shown)
        return ButcherTableau(name, *made, self.source, self.summary, shown)


# ---------------------------------------------------------------- multistep coefficients


def _fractions(text: str) -> tuple[Fraction, ...]:
    return tuple(map(Fraction, text.split()))


def _fixed(alpha: str, beta: str) -> Callable[[], Coefficients]:
    return lambda: (_fractions(alpha), _fractions(beta))


def _look_ahead(beta: Fraction, gamma: Fraction) -> Coefficients:
    """v ← βv − (1−β)(g + γ(g − g_prev)), θ ← θ + hv."""
    one = Fraction(1)
    return (one, -(1 + beta), beta), ((1 - beta) * (1 + gamma), -(1 - beta) * gamma)


def _heavy_ball(beta: Fraction) -> Coefficients:
    return _look_ahead(beta, Fraction(0))


def _nesterov(beta: Fraction) -> Coefficients:
    return _look_ahead(beta, beta)


def _quasi_hyperbolic(nu: Fraction, beta: Fraction) -> Coefficients:
    return _look_ahead(beta, beta * (1 - nu) / (1 - beta))


def _order_two(beta: Fraction) -> Coefficients:
    return _look_ahead(beta, (1 + beta) / (2 * (1 - beta)))


def _lion(beta1: Fraction, beta2: Fraction) -> Coefficients:
    return _look_ahead(beta2, (beta2 - beta1) / (1 - beta2))


def _memories(*values: Fraction) -> Coefficients:
    """H(z) = Σ wᵢ (1 − βᵢ)(1 + γᵢ − γᵢz⁻¹)/(1 − βᵢz⁻¹) on its common denominator, in powers of z⁻¹."""
    triples = list(zip(values[::3], values[1::3], values[2::3], strict=True))
    total = sum((weight for weight, _, _ in triples), Fraction(0))
    if total != 1:
        raise SchemeError(
            f"memories: the weights sum to {show(total)}, not 1.",
            fix="Write weight, beta, gamma of each memory in turn; a weight of 0 leaves a memory out.",
        )
    one = Fraction(1)
    numerators: dict[Fraction, poly.Polynomial] = {}  # by β: memories of one β have a root in common
    for weight, beta, gamma in triples:
        if weight:
            own = poly.scale((1 + gamma, -gamma), weight * (1 - beta))
            numerators[beta] = poly.add(numerators.get(beta, ()), own)
    alpha: poly.Polynomial = (one, -one)
    sigma: poly.Polynomial = ()
    for beta in numerators:
        alpha = poly.multiply(alpha, (one, -beta))
        others = poly.make((1,))
        for other in numerators:
            others = poly.multiply(others, (one, -other)) if other != beta else others
        sigma = poly.add(sigma, poly.multiply(numerators[beta], others))
    # All products have as many factors, so equal positions are equal powers; a β of 0 leaves a zero at the end.
    return alpha, (*(Fraction(0),) * (len(numerators) + 1 - len(sigma)), *sigma)


def _tableau(rows: str, b: str, b_embedded: str = "") -> Callable[[], Tableau]:
    weights = _fractions(b)
    lower = [_fractions(row) for row in rows.split("|")]
    zero = Fraction(0)
    A = tuple((*row, *(zero,) * (len(weights) - len(row))) for row in ((), *lower))
    return lambda: (A, weights, _fractions(b_embedded) or None)


def _share(name: str, default: str, meaning: str) -> Parameter:
    return Parameter(name, Fraction(default), Fraction(0), Fraction(1), below=True, meaning=meaning)


_MOMENTUM = "decay of the momentum"
_BETA = _share("beta", "0.9", _MOMENTUM)
_GAMMA = Parameter("gamma", Fraction(2), Fraction(-1, 2), Fraction(10**6),
                   meaning="weight of the gradient's last change")  # fmt: skip
_MEMORIES = tuple(
    parameter
    for n, (weight, beta, gamma) in enumerate((("0.7", "0.8", "2"), ("0.3", "0.96", "0"), *(("0", "0", "0"),) * 2), 1)
    for parameter in (
        Parameter(f"weight_{n}", Fraction(weight), Fraction(0), Fraction(1), meaning="share of the memory in the step"),
        _share(f"beta_{n}", beta, "decay of the memory"),
        Parameter(f"gamma_{n}", Fraction(gamma), Fraction(-1, 2), Fraction(10**6),
                  meaning="weight of the gradient's last change"),
    )
)  # fmt: skip
_NU = Parameter("nu", Fraction("0.7"), Fraction(0), Fraction(1), meaning="weight of the momentum in the step")
_STAGES = Parameter("stages", Fraction(5), Fraction(1), Fraction(stabilised.MOST_STAGES), whole=True,
                    meaning="gradients a step")  # fmt: skip
_STAGES_2 = Parameter("stages", Fraction(5), Fraction(2), Fraction(stabilised.MOST_STAGES), whole=True,
                      meaning="gradients a step")  # fmt: skip
_HNW = "Hairer, Nørsett & Wanner, Solving ODEs I"
_SMALL_ROOT = "sabun.design.difference, smallest largest root (the approach of Uhlig 2019, arXiv 1904.10569)"
_LONG_INTERVAL = "sabun.design.difference, longest damped stability interval, parasitic roots up to 0.9"
_RKC = "Sommeijer, Shampine & Verwer 1998; Hairer & Wanner, Solving ODEs II, IV.2"

_ENTRIES = (
    # ------------------------------------------------------------ the momentum plane: started at rest, as torch does
    Entry("euler", _fixed("1 -1", "1"), 1, f"{_HNW}, I.7", "rest"),
    Entry("heavy-ball", _heavy_ball, 1, "Polyak 1964", "rest", (_BETA,)),
    Entry("nesterov", _nesterov, 1, "Nesterov 1983; Sutskever et al. 2013", "rest", (_BETA,)),
    Entry("look-ahead", _look_ahead, 1, "coordinates of sabun; the same plane as Ma & Yarats 2019, arXiv 1810.06801",
          "rest", (_BETA, _GAMMA)),
    Entry("quasi-hyperbolic", _quasi_hyperbolic, 1, "Ma & Yarats 2019, arXiv 1810.06801",
          "rest", (_NU, _share("beta", "0.999", _MOMENTUM))),
    Entry("order-two", _order_two, 2, "the line C = 0 of the look-ahead plane: γ = (1+β)/(2(1−β))", "rest", (_BETA,)),
    Entry("lion", _lion, 1, "Chen et al. 2023, arXiv 2302.06675", "rest",
          (_share("beta1", "0.9", "weight of the momentum in the step"), _share("beta2", "0.99", _MOMENTUM))),
    Entry("memories", _memories, 1, "sums in the look-ahead plane: Pagliardini et al. 2024, arXiv 2409.03137",
          "rest", _MEMORIES),
    # ------------------------------------------------------------ Adams–Bashforth: accuracy from past gradients
    Entry("adams-bashforth-2", _fixed("1 -1", "3/2 -1/2"), 2, f"{_HNW}, III.1 (1.5)"),
    Entry("adams-bashforth-3", _fixed("1 -1", "23/12 -16/12 5/12"), 3, f"{_HNW}, III.1 (1.5)"),
    Entry("adams-bashforth-4", _fixed("1 -1", "55/24 -59/24 37/24 -9/24"), 4, f"{_HNW}, III.1 (1.5)"),
    Entry("adams-bashforth-5", _fixed("1 -1", "1901/720 -2774/720 2616/720 -1274/720 251/720"), 5,
          f"{_HNW}, III.1 (1.5)"),
    # ------------------------------------------------------------ difference formulas: accuracy from past points
    Entry("taylor-4", _fixed("1 -3/2 1 -1/2", "1"), 2, "Taylor-type one-step-ahead rule of Zhang neural networks"),
    Entry("difference-5", _fixed("1 1/8 -6/8 -5/8 2/8", "18/8"), 3, "5-point rule of Zhang neural networks"),
    Entry("difference-6", _fixed("1 1/6 -11/12 -3/8 1/12 1/24", "9/4"), 3, _SMALL_ROOT),
    Entry("difference-8", _fixed("1 11/30 -22/25 -19/25 7/75 11/50 0 -1/25", "62/25"), 4, _SMALL_ROOT),
    Entry("difference-10",
          _fixed("1 69/83 -98/83 -105/83 26/83 31616/61669 -6102/61669 -9061/61669 905/61669 1217/61669",
                 "174900/61669"),
          5, _SMALL_ROOT),
    Entry("wide-2-4", _fixed("1 -1 1/3 -1/3", "4/3"), 2, _LONG_INTERVAL),
    Entry("wide-2-5", _fixed("1 -11/7 5/7 3/35 -8/35", "4/5"), 2, _LONG_INTERVAL),
    Entry("wide-2-6", _fixed("1 -5/3 2/3 2/15 1/105 -1/7", "64/105"), 2, _LONG_INTERVAL),
    Entry("wide-3-7", _fixed("1 -9/8 1/2 -1/8 -51/188 -19/188 23/188", "255/188"), 3, _LONG_INTERVAL),
    Entry("wide-4-9", _fixed("1 -1/2 1/8 -9/16 -1/4 61/1276 391/2552 219/5104 -18/319", "2463/1276"), 4,
          _LONG_INTERVAL),
    Entry("wide-5-11",
          _fixed("1 0 -4/17 -15/17 -4/17 3/17 9620/31943 1883/95829 -5255/31943 -469/31943 3340/95829", "74480/31943"),
          5, _LONG_INTERVAL),
    # ------------------------------------------------------------ counter-examples
    Entry("leap-frog", _fixed("1 0 -1", "2"), 2, f"{_HNW}, III.9 (the explicit midpoint rule)",
          instead="adams-bashforth-2"),
    Entry("lagrange-4", _fixed("1 3/2 -3 1/2", "3"), 3, "Lagrange-type one-step-ahead rule of 4 points",
          instead="taylor-4"),
    Entry("lagrange-5", _fixed("1 10/3 -6 2 -1/3", "4"), 4, "Lagrange-type one-step-ahead rule of 5 points",
          instead="difference-5"),
    # ------------------------------------------------------------ Runge–Kutta
    Entry("heun", _tableau("1", "1/2 1/2"), 2, f"{_HNW}, II.1 (1.6)"),
    Entry("midpoint", _tableau("1/2", "0 1"), 2, f"{_HNW}, II.1 (1.4), Runge 1895"),
    Entry("ralston", _tableau("2/3", "1/4 3/4"), 2, "Ralston 1962"),
    Entry("kutta-3", _tableau("1/2|-1 2", "1/6 2/3 1/6"), 3, "Kutta 1901"),
    Entry("ssprk-3", _tableau("1|1/4 1/4", "1/6 1/6 2/3"), 3, "Shu & Osher 1988"),
    Entry("rk4", _tableau("1/2|0 1/2|0 0 1", "1/6 1/3 1/3 1/6"), 4, f"{_HNW}, II.1, table 1.2; Kutta 1901"),
    Entry("heun-euler", _tableau("1", "1/2 1/2", "1 0"), 2, f"{_HNW}, II.4"),
    Entry("bogacki-shampine", _tableau("1/2|0 3/4|2/9 1/3 4/9", "2/9 1/3 4/9 0", "7/24 1/4 1/3 1/8"), 3,
          "Bogacki & Shampine 1989"),
    Entry("chebyshev", stabilised.chebyshev, 1, "Hairer & Wanner, Solving ODEs II, IV.2 (2.24)–(2.26)",
          parameters=(_STAGES, Parameter("damping", Fraction(1, 20), Fraction(0), Fraction(10),
                                         meaning="how far |R| stays below 1 inside the interval"))),
    Entry("rkc2", stabilised.rkc2, 2, _RKC,
          parameters=(_STAGES_2, Parameter("damping", Fraction(2, 13), Fraction(0), Fraction(10),
                                           meaning="how far |R| stays below 1 inside the interval"))),
)  # fmt: skip

SCHEMES: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""The catalogue by name, in the order in which it is shown."""


# ---------------------------------------------------------------- look-up

_SEE = "`sabun schemes` lists them all."
_SPEC = re.compile(r"\s*([\w.-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)


def parse(spec: str) -> tuple[str, dict[str, Fraction]]:
    """Parse ``"look-ahead(0.9, gamma=2)"`` into ("look-ahead", {"beta": 9/10, "gamma": 2}).

    Raises SchemeError for an unknown name or parameter, or a syntax error.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise SchemeError(
            f"{spec!r} is not a scheme.", fix="Write a name, or a name with parameters: look-ahead(0.9, 2)."
        )
    name, inner = match[1], match[2]
    if name not in SCHEMES:
        raise unknown(SchemeError, "scheme", name, SCHEMES, see=_SEE)
    family = list(SCHEMES[name].family)
    given: dict[str, Fraction] = {}
    parts = [] if inner is None or not inner.strip() else inner.split(",")
    for position, part in enumerate(parts):
        key, equals, text = (piece.strip() for piece in part.rpartition("="))
        if not equals:
            if position >= len(family):
                raise SchemeError(f"{spec!r} has too many parameters.", fix=f"{name!r} takes {_listed(family)}.")
            key = family[position]
        if key in given:
            raise SchemeError(f"{spec!r} gives {key} twice.", fix=f"{name!r} takes {_listed(family)}.")
        try:
            given[key] = Fraction(text)
        except (ValueError, ZeroDivisionError):
            raise SchemeError(
                f"{spec!r}: {text!r} is not a number.", fix=f"{name!r} takes {_listed(family)}."
            ) from None
    return name, given


def _listed(family: list[str]) -> str:
    return ", ".join(family) or "no parameters"


@overload
def get(spec: LinearMultistep, **parameters: Number) -> LinearMultistep: ...
@overload
def get(spec: ButcherTableau, **parameters: Number) -> ButcherTableau: ...
@overload
def get(spec: str | Scheme, **parameters: Number) -> Scheme: ...
def get(spec: str | Scheme, **parameters: Number) -> Scheme:
    """The scheme named by ``spec``, with or without parameters: ``"look-ahead(0.9, 2)"``, ``"nesterov(beta=0.95)"``.

    Keyword parameters override those in the text. A scheme object is returned unchanged or, with parameters, as the
    member of its family with those parameters changed; its start-up is kept. Raises SchemeError for an unknown scheme,
    with the nearest name, and for invalid parameters.
    """
    if isinstance(spec, LinearMultistep | ButcherTableau):
        if not parameters:
            return spec
        if not spec.parameters:
            raise SchemeError(f"{spec.name!r} has no parameters.", fix="Use a family such as 'look-ahead' or 'rkc2'.")
        member = get(spec.name, **parameters)
        if isinstance(spec, LinearMultistep) and isinstance(member, LinearMultistep):
            member = member.with_start_up(spec.start_up)
        return member
    if not isinstance(spec, str):
        raise SchemeError(f"a scheme is named by a string, not {spec!r}.", fix="For example 'nesterov(0.9)'.")
    name, given = parse(spec)
    return SCHEMES[name].build(**{**given, **parameters})


def heavy_ball(beta: Number = 0.9) -> LinearMultistep:
    """SGD with momentum, H(z) = (1−β)/(1−βz⁻¹). ``lr`` is that of torch divided by 1−β."""
    return cast(LinearMultistep, get("heavy-ball", beta=beta))


def nesterov(beta: Number = 0.9) -> LinearMultistep:
    """Nesterov's momentum: :func:`look_ahead` with γ = β. ``lr`` is that of torch divided by 1−β."""
    return cast(LinearMultistep, get("nesterov", beta=beta))


def look_ahead(beta: Number = 0.9, gamma: Number = 2) -> LinearMultistep:
    """v ← βv − (1−β)(g + γ(g − g_prev)), θ ← θ + hv, for 0 ≤ β < 1 and γ ≥ −1/2.

    Error constant 1/2 + β/(1−β) − γ. Stability interval 2(1+β)/((1−β)(1+2γ)) for γ ≥ −(1−β)/4; below that a complex
    pair leaves first, at −1/γ.
    """
    return cast(LinearMultistep, get("look-ahead", beta=beta, gamma=gamma))


def order_two(beta: Number = 0.9) -> LinearMultistep:
    """:func:`look_ahead` with γ = (1+β)/(2(1−β)), where the error constant vanishes. Stability interval 1 + β."""
    return cast(LinearMultistep, get("order-two", beta=beta))


def quasi_hyperbolic(nu: Number = 0.7, beta: Number = 0.999) -> LinearMultistep:
    """θ ← θ − h((1−ν)g + νm), m the exponential mean: :func:`look_ahead` with γ = β(1−ν)/(1−β). ν = 0 is Euler."""
    return cast(LinearMultistep, get("quasi-hyperbolic", nu=nu, beta=beta))


def lion(beta1: Number = 0.9, beta2: Number = 0.99) -> LinearMultistep:
    """The momentum of which Lion takes the sign: :func:`look_ahead` with β = β₂ and γ = (β₂−β₁)/(1−β₂)."""
    return cast(LinearMultistep, get("lion", beta1=beta1, beta2=beta2))


def memories(*triples: tuple[Number, Number, Number]) -> LinearMultistep:
    """v = −Σ wᵢ mᵢ, θ ← θ + hv, with mᵢ the exponential mean with decay βᵢ of g + γᵢ(g − g_prev), for (wᵢ, βᵢ, γᵢ).

    One multistep scheme whose parasitic roots are the βᵢ. Its error constant is 1/2 + Σ wᵢ(βᵢ/(1−βᵢ) − γᵢ), that is,
    1/2 + the mean age of the gradients in the step. Without arguments: 0.7 · look-ahead(0.8, 2) + 0.3 · the mean with
    β = 0.96.

    Raises SchemeError for more than four memories, weights that are negative or do not sum to 1, and βᵢ or γᵢ out of
    the range of :func:`look_ahead`.
    """
    names = [p.name for p in _MEMORIES]
    values = [value for triple in triples for value in triple]
    if any(len(triple) != 3 for triple in triples) or len(values) > len(names):
        raise SchemeError(
            f"memories takes one to {len(names) // 3} triples (weight, beta, gamma).",
            fix="For example memories((0.7, 0.8, 2), (0.3, 0.96, 0)).",
        )
    given = dict(zip(names, [*values, *[0] * (len(names) - len(values))], strict=True)) if triples else {}
    return cast(LinearMultistep, get("memories", **given))


# ---------------------------------------------------------------- refusal


def require_usable(scheme: Scheme) -> None:
    """Raise SchemeError, naming the unstable root and a stable alternative, unless ``scheme.is_usable``."""
    if isinstance(scheme, LinearMultistep) and not scheme.is_usable:
        raise refusal(scheme)


def refusal(scheme: LinearMultistep) -> SchemeError:
    """The error for a scheme that is not strongly stable: it names the worst root and an alternative."""
    worst = scheme.parasitic_roots[0]
    root = root_text(worst)
    if scheme.is_zero_stable:
        flaw = (
            f"it is only weakly stable. Its parasitic root {root} is on the unit circle, so at small "
            "learning rates some errors hardly decay, or grow."
        )
    elif abs(worst) > 1 + 1e-9:
        flaw = (
            f"it is not zero-stable. Its parasitic root {root} has modulus {abs(worst):.4g} > 1: rounding errors and "
            "gradient noise grow by that factor every step, however small the learning rate."
        )
    else:
        flaw = (
            f"it is not zero-stable. Its parasitic root {root} on the unit circle is a multiple one: rounding errors "
            "and gradient noise grow without bound, however small the learning rate."
        )
    other = get(alternative(scheme))
    return SchemeError(
        f"{scheme.name!r} cannot be used for training: {flaw}",
        fix=f"Use {other.name!r} instead: order {other.order}, stable up to hλ = {other.stability_interval:.4g}.",
    )


def alternative(scheme: LinearMultistep) -> str:
    """The name of a scheme to use instead of an unusable one.

    It is the ``instead`` of the catalogue entry or, without one, the usable scheme without parameters that is nearest
    in order and, among those, has the longest stability interval.
    """
    entry = SCHEMES.get(scheme.name)
    if entry is not None and entry.instead:
        return entry.instead
    fixed = (e.build() for e in SCHEMES.values() if not e.parameters)
    usable = [s for s in fixed if isinstance(s, LinearMultistep) and s.is_usable]
    nearest = min(abs(s.order - scheme.order) for s in usable)
    return max((s for s in usable if abs(s.order - scheme.order) == nearest), key=lambda s: s.stability_interval).name
