"""The questions asked on the way to the preset ``sabun``: which variants, on which tasks. Answers: docs/research/."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["CHOICE", "KEPT_OUT", "MIDDLE", "QUESTIONS", "TASKS", "Question", "Setting"]


@dataclass(frozen=True)
class Setting:
    """A task as sized for research: ``points`` measurements of the validation loss, ``interval`` steps apart."""

    task: str
    options: Mapping[str, Any]
    points: int
    root: int = 90_001
    """Seed of the research; the benchmark's own runs derive theirs from others."""
    schedule: str = "linear"

    def fields(self) -> dict[str, Any]:
        found = {"task": self.task, "options": dict(self.options), "points": self.points, "root": self.root}
        return found if self.schedule == "linear" else {**found, "schedule": self.schedule}

    @property
    def steps(self) -> int:
        return self.points * int(self.options["interval"])


def _paced(name: str, points: int, interval: int, **options: Any) -> Setting:
    return Setting(f"benchmarks/paced.py:{name}", {"interval": interval, **options}, points)


TASKS: dict[str, Setting] = {
    "charlm": _paced("CharLM", 6, 50, layers=2, width=48, heads=4, context=32, batch_size=16, chars=200_000),
    "cifar10": _paced("Cifar10", 4, 50, images=6_000, width=8, batch_size=32),
    "cifar10-recalibrated": _paced("Cifar10", 4, 50, images=6_000, width=8, batch_size=32, recalibrate=8),
    "digits": _paced("Digits", 8, 33),
    "digits-cnn": _paced("DigitsCNN", 6, 33),
    "breast-cancer": _paced("BreastCancer", 6, 21),
    "diabetes": _paced("Diabetes", 6, 16),
    "charlm-wider": _paced("CharLM", 6, 16, layers=2, width=96, context=64, batch_size=32, chars=400_000),
    "charlm-long": _paced("CharLM", 6, 400, layers=2, width=48, heads=4, context=32, batch_size=16),
    "cifar10-long": _paced("Cifar10", 6, 200, width=8, batch_size=32),
    "friedman": Setting("benchmarks/research/tabular.py:Friedman", {"interval": 23}, 6),
    "classes": Setting("benchmarks/research/tabular.py:Classes", {"interval": 30}, 6),
}
TASKS = {
    **TASKS,
    **{f"{name}-constant-rate": replace(TASKS[name], schedule="constant") for name in ("charlm", "cifar10")},
}
CHOICE = ("charlm", "cifar10")
"""Where choices are made."""
WIDER = (*CHOICE, "digits", "friedman", "classes")
"""Where the default learning rate and what bears on it are chosen: with networks that have no normalisation layers."""
KEPT_OUT = ("digits-cnn", "breast-cancer", "diabetes")
"""Where they are checked afterwards, and never made."""


@dataclass(frozen=True)
class Question:
    """Variants by label. ``keep``: labels that get all seeds whatever their rank; ``reference``: the label that
    others are compared with. ``rates``: the learning rates of every label, where the valley is asked for and not its
    lowest point only; what is kept gets the other seeds at all of them, and nothing else does."""

    arms: Mapping[str, str]
    reference: str
    keep: tuple[str, ...] = ()
    tasks: tuple[str, ...] = CHOICE
    seeds: int = 3
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def kept(self) -> set[str]:
        return {self.arms[label] for label in (self.reference, *self.keep)}


def variant(**options: Any) -> str:
    inside = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"variants:Variant({inside})" if inside else "variants:Variant"


def even(**options: Any) -> str:
    return variant(row_normalization=True, beta2=0.95, **options)


def rising(**options: Any) -> str:
    return variant(**{"beta": 0.8, "momentum_end": 0.95, **options})


EVEN_RISING = rising(row_normalization=True, beta2=0.95)


def _decayed(rest: float, decay: float, **options: Any) -> str:
    options = {"rest_weight_decay": 0.0, **options} if decay else {}
    decayed = {"weight_decay": decay, **options} if decay else {}
    return rising(row_normalization=True, beta2=0.95, rest_lr=rest, **decayed)


PRESET = _decayed(0.12, 0.1)
"""The preset before its step was limited."""
CHOSEN = _decayed(0.12, 0.1, step_limit=0.125)
"""What became of it all: the preset until it was chosen over the families of the benchmark."""


def limited(limit: float, **options: Any) -> str:
    """The preset with a limiter of the step."""
    return PRESET.replace("Variant(", f"Limited(limit={limit!r}, ").replace(
        ")", "".join(f", {key}={value!r}" for key, value in options.items()) + ")"
    )


_VALLEY = {"AdamW": "torch.optim:AdamW", "the preset": PRESET}
_LIMITED = {
    f"limit {limit:g}" + (", falling" if falling else ""): limited(limit, **({"falling": True} if falling else {}))
    for falling in (False, True)
    for limit in (0.05, 0.1, 0.15, 0.2, 0.3)
}
_BY_START = {
    f"limit {limit:g}, falling, {size}": limited(limit, falling=True, growth=growth)
    for growth, size in ((0.0, "start"), (0.5, "mean"))
    for limit in (0.03, 0.05, 0.075, 0.1, 0.15)
}

_FORMS = {
    "limit 0.02, falling": limited(0.02, falling=True),
    "limit 0.03, falling": limited(0.03, falling=True),
    "limit 0.04, falling, start": limited(0.04, falling=True, growth=0.0),
    "limit 0.03, falling, start, matrices only": limited(0.03, falling=True, growth=0.0, rest_limit=1e9),
    "limit 0.05, falling, start, rest 0.02": limited(0.05, falling=True, growth=0.0, rest_limit=0.02),
    **{
        f"limit {limit:g}, falling, start, rest {rest:g}": limited(limit, falling=True, growth=0.0, rest_limit=rest)
        for limit, rest in ((0.075, 0.02), (0.1, 0.02), (0.1, 0.03), (0.15, 0.02))
    },
    "limit 0.04, falling, start, one factor": limited(0.04, falling=True, growth=0.0, common=True),
    "limit 0.1, falling, shape, rest 0.02": limited(0.1, falling=True, growth=0.0, rest_limit=0.02, by_shape=True),
    "limit 0.03, falling, start, one factor": limited(0.03, falling=True, growth=0.0, common=True),
    "limit 0.05, falling, one factor": limited(0.05, falling=True, common=True),
}
_LIMITER = "limit 0.1, falling, start, rest 0.02"
_SHAPE = "limit 0.1, falling, shape, rest 0.02"
_BUILT = "step_limit 0.125"
_CONTROLS = {"no limit, rest × 0.05": _decayed(0.05, 0.1)}
_HELD = {
    _LIMITER: _FORMS[_LIMITER],
    "limit 0.075, falling, start, rest 0.02": _FORMS["limit 0.075, falling, start, rest 0.02"],
    "limit 0.05, falling, start": _BY_START["limit 0.05, falling, start"],
    "limit 0.03, falling, start": _BY_START["limit 0.03, falling, start"],
    "limit 0.05, falling": _LIMITED["limit 0.05, falling"],
}
MIDDLE: Mapping[str, float] = {
    **dict.fromkeys((*_VALLEY, *_LIMITED, *_BY_START, *_FORMS, *_CONTROLS, _BUILT), 0.03),
    "AdamW": 0.003,
}
"""The middle of the valleys' learning rates: the preset's default, and for AdamW the centre of its search."""


def _rates(labels: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """Ten doublings, most of them above the middle."""
    powers = {label: range(-4, 6) if label == "AdamW" else range(-3, 7) for label in labels}
    return {label: tuple(MIDDLE[label] * 2.0**n for n in powers[label]) for label in labels}


def _muon(decay: float) -> str:
    return variant(beta=0.95, gamma=0.95, rest="heavy-ball(0.9)", rest_lr=1.0, weight_decay=decay)


_PEERS = {
    "AdamW": "torch.optim:AdamW",
    "SGD, Nesterov": "torch.optim:SGD(momentum=0.9, nesterov=True)",
    "Muon + AdamW": variant(beta=0.95, gamma=0.95, rest="heavy-ball(0.9)", rest_lr=1.0),
    "first prototype": variant(),
}

QUESTIONS: Mapping[str, Question] = {
    "peers": Question(_PEERS, "first prototype", keep=("AdamW", "Muon + AdamW")),
    "gamma": Question(
        {
            f"β = {beta}, γ = {gamma:g}": variant(beta=beta, gamma=gamma)
            for beta, gammas in {
                0.8: (0.0, 0.8, 2.0, 4.0),
                0.9: (0.0, 0.9, 2.0, 4.0, 9.5),
                0.95: (0.0, 0.95, 2.0, 4.0, 19.5),
            }.items()
            for gamma in gammas
        },
        "β = 0.9, γ = 2",
    ),
    "rows": Question(
        {
            ("even rows" if rows else "plain") + f", β = {beta}, γ = {gamma:g}": variant(
                beta=beta, gamma=gamma, **({"row_normalization": True, "beta2": 0.95} if rows else {})
            )
            for rows in (False, True)
            for beta, gamma in ((0.9, 0.9), (0.9, 2.0), (0.95, 2.0))
        },
        "plain, β = 0.9, γ = 2",
    ),
    # From here on with even rows, which "rows" spoke for.
    "iterations": Question(
        {
            "Newton–Schulz, 5 products": variant(),
            "Newton–Schulz, 4": variant(steps=4),
            "Newton–Schulz, 3": variant(steps=3),
            "Newton–Schulz, 2": variant(steps=2),
            "polar express, 5": variant(iteration="polar-express"),
            "polar express, 3": variant(iteration="polar-express", steps=3),
            "polar express, 2": variant(iteration="polar-express", steps=2),
        },
        "Newton–Schulz, 5 products",
    ),
    "rest": Question(
        {
            "AdamW's scheme, rate × 1": even(rest="heavy-ball(0.9)", rest_lr=1.0),
            "AdamW's scheme, rate × 0.5": even(rest="heavy-ball(0.9)"),
            "Nesterov, rate × 2": even(rest_lr=2.0),
            "Nesterov, rate × 1": even(rest_lr=1.0),
            "Nesterov, rate × 0.5": even(),
            "Nesterov, rate × 0.25": even(rest_lr=0.25),
            "Nesterov, rate × 0.12": even(rest_lr=0.12),
            "Nesterov, rate × 0.5, β₂ = 0.99": even(rest_beta2=0.99),
            "Nesterov, rate × 0.5, β₂ = 0.95": even(rest_beta2=0.95),
            "Nesterov, rate × 0.25, β₂ = 0.95": even(rest_beta2=0.95, rest_lr=0.25),
            "look-ahead γ = 2, rate × 0.5": even(rest="look-ahead(0.9, 2)"),
            "all matrices in the spectral metric": even(head=True),
        },
        "Nesterov, rate × 0.5",
    ),
    "schedule": Question(
        {
            "constant": even(),
            "γ: 2 → 0.9": even(gamma_end=0.9),
            "γ: 2 → 4": even(gamma_end=4.0),
            "γ: 0.9 → 2": even(gamma=0.9, gamma_end=2.0),
            "β: 0.9 → 0.8": even(beta_end=0.8),
            "β: 0.9 → 0.95": even(beta_end=0.95),
            "β: 0.8 → 0.95": even(beta=0.8, beta_end=0.95),
        },
        "constant",
    ),
    # The optimizer's own option, in float32 as small matrices now are; without even rows, as the preset.
    "rising": Question(
        {
            "β = 0.9": variant(dtype="float32"),
            "β: 0.8 → 0.95": rising(),
            "β: 0.85 → 0.95": rising(beta=0.85),
            "β: 0.8 → 0.9": rising(momentum_end=0.9),
            "β: 0.8 → 0.97": rising(momentum_end=0.97),
            "β: 0.7 → 0.95": rising(beta=0.7),
            "β: 0.8 → 0.95, the rest 0.8 → 0.95": rising(rest="nesterov(0.8)", rest_momentum_end=0.95),
            "β: 0.8 → 0.95, even rows": EVEN_RISING,
            "β: 0.8 → 0.95, polar express, 3 products": rising(iteration="polar-express", steps=3),
        },
        "β = 0.9",
        keep=("β: 0.8 → 0.95", "β: 0.8 → 0.95, polar express, 3 products"),
    ),
    # Without a schedule β stays where it starts.
    "constant-rate": Question(
        {f"β = {beta}": variant(beta=beta) for beta in (0.8, 0.85, 0.9)},
        "β = 0.9",
        keep=("β = 0.8", "β = 0.85"),
        tasks=("charlm-constant-rate", "cifar10-constant-rate"),
    ),
    # Networks without normalisation layers overfit at the rates that the others like.
    "decay": Question(
        {
            "no decay, rest × 0.5": EVEN_RISING,
            "no decay, rest × 0.25": _decayed(0.25, 0.0),
            "no decay, rest × 0.12": _decayed(0.12, 0.0),
            **{
                f"matrices {decay:g}, rest × {rest:g}": _decayed(rest, decay)
                for decay in (0.1, 0.2, 0.3)
                for rest in (0.25, 0.12)
            },
            "all 0.1, rest × 0.12": _decayed(0.12, 0.1, rest_weight_decay=0.1),
            "all 0.3, rest × 0.12": _decayed(0.12, 0.3, rest_weight_decay=0.3),
        },
        "no decay, rest × 0.5",
        keep=("matrices 0.1, rest × 0.12", "matrices 0.2, rest × 0.12", "matrices 0.3, rest × 0.12"),
        tasks=WIDER,
    ),
    # And where training is eight times as long? One seed, at a few rates.
    "long": Question(
        {
            "AdamW": "torch.optim:AdamW(weight_decay=0.01)",
            "no decay, rest × 0.5": EVEN_RISING,
            **{f"matrices {decay:g}, rest × 0.12": _decayed(0.12, decay) for decay in (0.1, 0.2, 0.3)},
        },
        "no decay, rest × 0.5",
        tasks=("charlm-long", "cifar10-long"),
        seeds=1,
    ),
    # What the same does to the others, so that nobody takes for the scheme's what is the decay's.
    "decay-peers": Question(
        {
            "AdamW, 0.01": "torch.optim:AdamW",
            **{f"AdamW, {decay:g}": f"torch.optim:AdamW(weight_decay={decay:g})" for decay in (0.1, 0.3, 1, 3)},
            "Muon + AdamW, 0.1": _muon(0.1),
            "Muon + AdamW, 0.3": _muon(0.3),
        },
        "AdamW, 0.01",
        keep=("AdamW, 0.3", "AdamW, 1", "Muon + AdamW, 0.1"),
        tasks=("digits", "friedman", "classes"),
    ),
    # How wide is the valley of the learning rate?
    "limiter": Question(
        {**_VALLEY, **_LIMITED},
        "the preset",
        keep=("AdamW",),
        tasks=("digits", "friedman", "classes"),
        rates=_rates((*_VALLEY, *_LIMITED)),
    ),
    "limiter-start": Question(
        {**_VALLEY, "limit 0.05, falling": _LIMITED["limit 0.05, falling"], **_BY_START},
        "the preset",
        keep=("AdamW", "limit 0.05, falling"),
        tasks=("digits", "friedman", "classes"),
        rates=_rates((*_VALLEY, "limit 0.05, falling", *_BY_START)),
    ),
    "limiter-forms": Question(
        {**_VALLEY, **_HELD, **_FORMS},
        "the preset",
        keep=("AdamW", *_HELD),
        tasks=("digits", "friedman", "classes"),
        rates=_rates((*_VALLEY, *_HELD, *_FORMS)),
    ),
    # The one that held, on more seeds; and whether a smaller rate of the rest does the same.
    "limiter-seeds": Question(
        {**_VALLEY, _LIMITER: _FORMS[_LIMITER], **_CONTROLS},
        "the preset",
        keep=("AdamW", _LIMITER, *_CONTROLS),
        tasks=("digits", "friedman", "classes"),
        seeds=6,
        rates=_rates((*_VALLEY, _LIMITER, *_CONTROLS)),
    ),
    # Where a run takes longer: what held there.
    "limiter-large": Question(
        {**_VALLEY, **_HELD},
        "the preset",
        keep=(_LIMITER,),
        seeds=2,
        rates=_rates((*_VALLEY, *_HELD)),
    ),
    # By the size that a tensor of its shape has at the start, which needs no memory: what is left of the above.
    "limiter-shape": Question(
        {**_VALLEY, _LIMITER: _FORMS[_LIMITER], _SHAPE: _FORMS[_SHAPE], _BUILT: CHOSEN},
        "the preset",
        keep=("AdamW", _LIMITER, _SHAPE, _BUILT),
        tasks=WIDER,
        seeds=3,
        rates=_rates((*_VALLEY, _LIMITER, _SHAPE, _BUILT)),
    ),
    # The limit is a share of the size at the start, which falls with the root of the width.
    "limiter-wider": Question(
        {"the preset": PRESET, _LIMITER: _FORMS[_LIMITER]},
        "the preset",
        tasks=("charlm-wider",),
        seeds=1,
        rates=dict.fromkeys(("the preset", _LIMITER), (0.015, 0.03, 0.12, 0.48)),
    ),
    "average": Question(
        {
            "last iterate": even(),
            "ema 0.8": even(averaging="ema(decay=0.8)"),
            "ema 0.9": even(averaging="ema(decay=0.9)"),
            "ema 0.95": even(averaging="ema(decay=0.95)"),
            "ema 0.98": even(averaging="ema(decay=0.98)"),
        },
        "last iterate",
        keep=("ema 0.8", "ema 0.9"),
        tasks=("charlm", "cifar10-recalibrated"),
        seeds=5,
    ),
    "metric": Question(
        {
            "spectral, even rows": even(),
            "spectral, polar express": even(iteration="polar-express"),
            "spectral, even rows, β₂ = 0.9": variant(row_normalization=True, beta2=0.9),
            "spectral, even rows, β₂ = 0.99": variant(row_normalization=True, beta2=0.99),
            "kronecker": variant(preconditioner="kronecker", beta2=0.95),
            "kronecker, β = 0.95, γ = 0": variant(preconditioner="kronecker", beta2=0.95, beta=0.95, gamma=0.0),
            "adam": variant(preconditioner="adam", beta2=0.95),
        },
        "spectral, even rows",
    ),
    "check": Question(
        {**_PEERS, "former preset: no decay, rest × 0.5": EVEN_RISING, "the preset": PRESET},
        "AdamW",
        keep=("first prototype", "Muon + AdamW", "former preset: no decay, rest × 0.5", "the preset"),
        tasks=KEPT_OUT,
    ),
}
