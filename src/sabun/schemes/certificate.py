"""The certificate: all computed properties of a scheme in one frozen value.

:func:`certify` makes it, for multistep and Runge–Kutta schemes alike. It is printed as a table, converted to JSON, or
summarised in a sentence, in English or Japanese.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

from sabun.errors import SchemeError
from sabun.messages import displays
from sabun.messages.formatting import show
from sabun.messages.languages import Language, languages
from sabun.messages.sentences import Value, has, joined, text
from sabun.schemes.catalogue import SCHEMES, Scheme, alternative, get, refusal
from sabun.schemes.linear_multistep import LinearMultistep
from sabun.schemes.numbers import Number, exact, root_text

__all__ = ["NOISE_AT", "Certificate", "certify"]

NOISE_AT = 0.05
"""The hλ at which noise gains are compared: a small step, where gradient noise dominates."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The computed properties of a scheme.

    ``gradient_evaluations`` counts those of a step of given length, ``controlled_evaluations`` those of a step whose
    error is estimated. ``stability_interval`` is in units of hλ and starts at 0. ``noise_gain`` is a variance at hλ =
    ``noise_at`` relative to Euler's; it is infinite where the scheme is unstable. ``mean_age``, in steps, is that of
    the gradients in the velocity, None for Runge–Kutta schemes. ``largest_parasitic_root`` is a
    modulus, None without a parasitic root. For an unusable scheme, ``refusal`` gives the reason and ``alternative``
    names a scheme to use instead.
    """

    scheme: str
    kind: Literal["multistep", "runge-kutta"]
    parameters: Mapping[str, float]
    coefficients: Mapping[str, tuple[str, ...]]
    order: int
    embedded_order: int | None
    error_constant: Fraction
    mean_age: Fraction | None
    zero_stable: bool
    usable: bool
    largest_parasitic_root: float | None
    worst_root: complex | None
    stability_interval: float
    noise_gain: float
    noise_at: float
    gradient_evaluations: int
    controlled_evaluations: int | None
    state_copies: int
    work_copies: int
    start_up: str | None
    source: str
    summary: Mapping[str, str]
    refusal: str | None
    alternative: str | None

    @property
    def interval_per_gradient(self) -> float:
        """Stability interval divided by the gradient evaluations per step."""
        return self.stability_interval / self.gradient_evaluations

    def largest_curvature(self, lr: float) -> float:
        """The curvature λ above which a step of length ``lr`` diverges: stability interval / lr.

        Raises SchemeError unless lr > 0.
        """
        return self.stability_interval / _learning_rate(lr)

    # ------------------------------------------------------------------ forms

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON. Infinity becomes None; the error constant is also given as an exact fraction."""
        return {
            "scheme": self.scheme,
            "kind": self.kind,
            "parameters": dict(self.parameters),
            "coefficients": {key: list(values) for key, values in self.coefficients.items()},
            "order": self.order,
            "embedded_order": self.embedded_order,
            "error_constant": float(self.error_constant),
            "error_constant_exact": str(self.error_constant),
            "mean_age": None if self.mean_age is None else float(self.mean_age),
            "zero_stable": self.zero_stable,
            "usable": self.usable,
            "largest_parasitic_root": self.largest_parasitic_root,
            "stability_interval": self.stability_interval,
            "interval_per_gradient": self.interval_per_gradient,
            "noise_gain": self.noise_gain if math.isfinite(self.noise_gain) else None,
            "noise_at": self.noise_at,
            "gradient_evaluations": self.gradient_evaluations,
            "controlled_evaluations": self.controlled_evaluations,
            "state_copies": self.state_copies,
            "work_copies": self.work_copies,
            "start_up": self.start_up,
            "source": self.source,
            "summary": dict(self.summary),
            "refusal": self.refusal,
            "alternative": self.alternative,
        }

    def rows(self, lang: Language = "en") -> list[tuple[str, str]]:
        """Label and value of every line of the table that applies to the scheme."""

        def word(key: str, **values: Value) -> str:
            return text(f"certificate.{key}", lang, values)

        def short(value: float) -> str:
            return show(value, "short", lang)

        rows = [(word("scheme"), self.scheme)]
        if self.summary.get(lang):
            rows.append((word("what"), self.summary[lang]))
        if self.kind == "multistep":
            rows += [(f"{word('coefficients')} {letter}", "  ".join(self.coefficients[key]))
                     for key, letter in (("alpha", "α"), ("beta", "β"))]  # fmt: skip
        rows.append((word("order"), str(self.order)))
        if self.embedded_order is not None:
            rows.append((word("embedded_order"), str(self.embedded_order)))
        constant = short(float(self.error_constant))
        as_fraction = str(self.error_constant)
        if "/" in as_fraction and len(as_fraction) <= 12:
            constant = f"{constant}  (= {as_fraction})"
        rows.append((word("error_constant"), constant))
        if self.mean_age is not None:
            rows.append((word("mean_age"), short(float(self.mean_age))))
        if self.kind == "multistep":
            rows.append((word("zero_stable"), word("yes" if self.zero_stable else "no")))
        rows.append((word("usable"), word("yes" if self.usable else "no")))
        if self.kind == "multistep":
            root = self.largest_parasitic_root
            rows.append((word("parasitic"), word("none") if root is None else short(root)))
        rows.append((word("interval"), short(self.stability_interval)))
        if self.gradient_evaluations > 1:
            rows.append((word("per_gradient"), short(self.interval_per_gradient)))
        gain = short(self.noise_gain) if math.isfinite(self.noise_gain) else word("unbounded")
        rows.append((word("noise", at=self.noise_at), gain))
        gradients, controlled = str(self.gradient_evaluations), self.controlled_evaluations
        if controlled not in (None, self.gradient_evaluations):
            gradients = word("gradients_controlled", count=gradients, controlled=str(controlled))
        rows.append((word("gradients"), gradients))
        rows.append((word("state"), str(self.state_copies)))
        if self.work_copies:
            rows.append((word("work"), str(self.work_copies)))
        if self.start_up is not None:
            rows.append((word("start_up"), word(self.start_up)))
        if self.source:
            rows.append((word("source"), self.source))
        return rows

    def table(self, lang: Language = "en") -> str:
        """:meth:`rows` as aligned plain text."""
        rows = self.rows(lang)
        width = max(_columns(label) for label, _ in rows)
        return "\n".join(f"{label}{' ' * (width - _columns(label))}  {value}" for label, value in rows)

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        lang = displays.display_language()
        return displays.panel(self.scheme, displays.paragraph(self.sentence(lang)), displays.table(self.rows(lang)[1:]))

    def sentence(self, lang: Language = "en", *, lr: float | None = None) -> str:
        """A summary in plain words; with ``lr``, the stability interval is also given as the largest stable curvature.

        Raises SchemeError unless lr > 0, OptionError for an unknown language.
        """
        return joined(self.sentences(lang, lr=lr), lang)

    def sentences(self, lang: Language = "en", *, lr: float | None = None) -> list[str]:
        """The parts of :meth:`sentence`: accuracy, stability, noise and cost."""
        if lr is not None:
            _learning_rate(lr)
        if not self.usable:
            # As in ``refusal``: without a root outside the circle, zero-stability fails by a multiple root on it.
            outside = self.worst_root is not None and abs(self.worst_root) > 1 + 1e-9
            unstable = "not_zero_stable" if outside else "not_zero_stable_multiple"
            key = "weakly_stable" if self.zero_stable else unstable
            root = "" if self.worst_root is None else root_text(self.worst_root)
            return [text(f"certificate.{key}", lang, {"name": self.scheme, "root": root})]

        def sentence(key: str, **values: Value) -> str:
            return text(f"certificate.{key}", lang, values)

        interval = self.stability_interval
        parts = [sentence("accuracy", name=self.scheme, order=self.order, constant=float(self.error_constant))]
        # +1 is a root of ρ(z) + hλσ(z) at hλ = 0 alone: a multistep scheme leaves the circle elsewhere and oscillates.
        # The stability function of a Runge–Kutta scheme may pass +1 (Heun, RK4): then errors grow in one direction.
        fail = sentence("oscillates" if self.kind == "multistep" else "grows")
        if lr is None:
            parts.append(sentence("stable", interval=interval, fail=fail))
        else:
            curvature = self.largest_curvature(lr)
            parts.append(sentence("stable_at", interval=interval, lr=lr, curvature=curvature, fail=fail))
        parts.append(self._noise(lang))
        if self.kind == "multistep":
            key = f"copies_{self.state_copies}" if self.state_copies < 2 else "copies_n"
            parts.append(sentence("cost_multistep", copies=sentence(key, count=self.state_copies)))
        else:
            key = "gradients_1" if self.gradient_evaluations == 1 else "gradients_n"
            gradients = sentence(key, count=self.gradient_evaluations)
            parts.append(sentence("cost_runge_kutta", gradients=gradients, per_gradient=self.interval_per_gradient))
        return parts

    def _noise(self, lang: Language) -> str:
        if not math.isfinite(self.noise_gain):
            return text("certificate.noise_unstable", lang, {"at": self.noise_at})
        # A standard deviation is easier to picture than a variance.
        percent = (math.sqrt(self.noise_gain) - 1) * 100
        key = "as_loud" if abs(percent) < 0.5 else "louder" if percent > 0 else "quieter"
        return text(f"certificate.{key}", lang, {"percent": f"{abs(percent):.0f}", "at": self.noise_at})


def certify(spec: str | Scheme, **parameters: Number) -> Certificate:
    """The certificate of a scheme, given as an object or in the notation of :func:`sabun.schemes.get`."""
    scheme = get(spec, **parameters)
    entry = SCHEMES.get(scheme.name.partition("(")[0])
    key = "" if entry is None else f"scheme.{entry.name}"
    summaries = {lang: text(key, lang) for lang in languages() if has(key, lang)}
    if scheme.summary or not summaries:
        summaries = {"en": scheme.summary}
    if isinstance(scheme, LinearMultistep):
        roots = scheme.parasitic_roots
        return Certificate(
            scheme=scheme.name,
            kind="multistep",
            parameters=scheme.parameters,
            coefficients=_texts(alpha=scheme.alpha, beta=scheme.beta),
            order=scheme.order,
            embedded_order=None,
            error_constant=scheme.error_constant,
            mean_age=scheme.mean_age,
            zero_stable=scheme.is_zero_stable,
            usable=scheme.is_usable,
            largest_parasitic_root=abs(roots[0]) if roots else None,
            worst_root=roots[0] if roots else None,
            stability_interval=scheme.stability_interval,
            noise_gain=scheme.noise_gain(NOISE_AT) if scheme.is_usable else math.inf,
            noise_at=NOISE_AT,
            gradient_evaluations=scheme.gradient_evaluations,
            controlled_evaluations=None,
            state_copies=scheme.state_copies,
            work_copies=0,
            start_up=scheme.start_up,
            source=scheme.source,
            summary=MappingProxyType(summaries),
            refusal=None if scheme.is_usable else refusal(scheme).cause,
            alternative=None if scheme.is_usable else alternative(scheme),
        )
    rows = {f"A[{i}]": row[:i] for i, row in enumerate(scheme.A) if i}
    embedded = {} if scheme.b_embedded is None else {"b_embedded": scheme.b_embedded}
    return Certificate(
        scheme=scheme.name,
        kind="runge-kutta",
        parameters=scheme.parameters,
        coefficients=_texts(**rows, b=scheme.b, **embedded),
        order=scheme.order,
        embedded_order=scheme.embedded_order,
        error_constant=scheme.error_constant,
        mean_age=None,
        zero_stable=True,
        usable=True,
        largest_parasitic_root=None,
        worst_root=None,
        stability_interval=scheme.stability_interval,
        noise_gain=scheme.noise_gain(NOISE_AT),
        noise_at=NOISE_AT,
        gradient_evaluations=scheme.gradient_evaluations,
        controlled_evaluations=scheme.controlled_evaluations,
        state_copies=scheme.state_copies,
        work_copies=scheme.work_copies,
        start_up=None,
        source=scheme.source,
        summary=MappingProxyType(summaries),
        refusal=None,
        alternative=None,
    )


def _texts(**values: tuple[Fraction, ...]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({key: tuple(map(str, row)) for key, row in values.items()})


def _learning_rate(lr: float) -> float:
    value = float(exact(lr, "the learning rate"))
    if value <= 0:
        raise SchemeError(f"the learning rate must be positive, not {lr}.", fix="It is the time step h of the flow.")
    return value


def _columns(text: str) -> int:
    """Width in a terminal: Japanese characters take two columns."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
