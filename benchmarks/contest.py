"""What the benchmark runs: arms, tasks, and how much of each, as studies of the project's own proof of concept.

A task makes three studies with one root seed, so that all of its arms start from the same weights and see the same
batches: ``peers``, ``ours`` (with AdamW once more, so that its seconds are measured beside ours), and ``defaults``,
which is not tuned. A change of the preset then costs one study, and nobody is tempted to spare the peers.

``defaults`` also has AdamW and SGD with torch's compiled step, for their seconds alone: those are the same methods as
the tuned arms, so their curves would be those of the tuned arms over again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sabun.poc.spec import Study

__all__ = [
    "ADAMWS", "ARMS", "BASELINE", "COMPILED", "CONTESTANTS", "MUONS", "OURS", "PROFILES", "STUDIES", "UNTUNED",
    "Profile", "Sizing", "studies",
]  # fmt: skip

BASELINE = "AdamW"
OURS = "sabun"
UNTUNED = "sabun, untuned"

ARMS: Mapping[str, tuple[str, float]] = {
    "AdamW": ("torch.optim:AdamW", 1e-3),
    "AdamW, λ = 1": ("torch.optim:AdamW(weight_decay=1.0)", 1e-3),
    "SGD, Nesterov": ("torch.optim:SGD(momentum=0.9, nesterov=True)", 3e-2),
    "NAdamW": ("torch.optim:NAdam(decoupled_weight_decay=True, weight_decay=0.01)", 2e-3),
    "Muon + AdamW": ("peers:MuonAdamW", 1e-3),
    "Muon + AdamW, β = 0.9": ("peers:MuonAdamW(momentum=0.9)", 1e-3),
    "Muon + AdamW, β = 0.8": ("peers:MuonAdamW(momentum=0.8)", 1e-3),
    "schedule-free AdamW": ("schedulefree:AdamWScheduleFree", 2.5e-3),
    "SOAP": ("pytorch_optimizer:SOAP", 3e-3),
    "MARS": ("pytorch_optimizer:MARS", 3e-3),
    "Lion": ("pytorch_optimizer:Lion", 1e-4),
    OURS: ("sabun", 0.0),
    UNTUNED: ("sabun", 0.0),
    "AdamW, untuned": ("torch.optim:AdamW", 1e-3),
    "AdamW, compiled step": ("torch.optim:AdamW(fused=True)", 1e-3),
    "SGD, compiled step": ("torch.optim:SGD(momentum=0.9, nesterov=True, fused=True)", 3e-2),
}
"""Name → (notation, documented default of the learning rate: the centre of its search space; 0: the preset's own).

The default is that of the package; torch's 0.001 for SGD is nobody's choice with momentum, so SGD has the project's own
default step h = 0.3 (``sabun.script.arms``), which is lr = 0.03 at momentum 0.9.
"""

MUONS = ("Muon + AdamW", "Muon + AdamW, β = 0.9", "Muon + AdamW, β = 0.8")
"""Muon with its momentum tuned is the best of these by tuning, which makes it the arm with the most trials of all."""

ADAMWS = ("AdamW", "AdamW, λ = 1")
"""AdamW with its weight decay tuned is the better of these by tuning: on small data the decay does much of the work
(docs/research/decay.md), and nobody should take for the scheme's what is the decay's."""

COMPILED: Mapping[str, str] = {
    "AdamW": "AdamW, compiled step", "AdamW, λ = 1": "AdamW, compiled step", "SGD, Nesterov": "SGD, compiled step",
}  # fmt: skip
"""Tuned arm → the arm that is the same method with torch's compiled step, which is there for its seconds a step."""

CONTESTANTS = tuple(name for name in ARMS if name not in COMPILED.values())
"""The arms whose losses are compared."""

_DEFAULTS = ("AdamW, untuned", UNTUNED, *dict.fromkeys(COMPILED.values()))
STUDIES: Mapping[str, tuple[str, ...]] = {
    "peers": tuple(name for name in ARMS if name not in (OURS, *_DEFAULTS)),
    "ours": (BASELINE, OURS),
    "defaults": _DEFAULTS,
}
"""Study → its arms, the baseline first."""


@dataclass(frozen=True)
class Sizing:
    """One task as sized for one profile: ``points`` measurements, ``interval`` steps apart."""

    kind: str
    points: int
    interval: int
    options: Mapping[str, Any] = field(default_factory=dict)
    tuning_seeds: int = 1

    @property
    def steps(self) -> int:
        return self.points * self.interval


@dataclass(frozen=True)
class Profile:
    """How much of everything.

    ``minutes``: what it may take on two quiet cores (or on one GPU). ``decades``: width of each search space; with 3
    several peers ended at the upper edge of theirs on the short runs of the quick profile, so the others have 4.
    """

    name: str
    minutes: int
    trials: int
    seeds: int
    tasks: Mapping[str, Sizing]
    decades: float = 3.0
    seed: int = 7


def _small(points: int, tuning_seeds: int) -> dict[str, Sizing]:
    """The four tasks that take no time: about what their data allow before validation loss turns."""
    return {
        "digits": Sizing("Digits", points, 33, {}, tuning_seeds),
        "digits-cnn": Sizing("DigitsCNN", points, 33, {}, tuning_seeds),
        "breast-cancer": Sizing("BreastCancer", points, 14, {}, tuning_seeds),
        "diabetes": Sizing("Diabetes", points, 8, {}, tuning_seeds),
    }


_CUDA = {"device": "cuda"}
# Much text for the steps that there are (nothing is read twice), and little of it to score.
_SHORT, _THIRD = {"chars": 60_000}, {"chars": 400_000}
PROFILES: Mapping[str, Profile] = {
    "quick": Profile("quick", 15, 8, 5, {
        **_small(5, 1),
        "cifar10": Sizing("Cifar10", 5, 10, {"images": 2_000, "width": 4, "batch_size": 16, "recalibrate": 4}),
        "charlm": Sizing("CharLM", 5, 18, {"layers": 2, "width": 32, "context": 32, "batch_size": 16, **_SHORT}),
        "charlm, wider": Sizing("CharLM", 5, 10, {"layers": 2, "width": 64, "context": 32, "batch_size": 16, **_SHORT}),
    }),
    "full": Profile("full", 100, 10, 6, {
        **_small(10, 2),
        "cifar10": Sizing("Cifar10", 8, 30, {"images": 10_000, "width": 8, "batch_size": 32, "recalibrate": 16}),
        "charlm": Sizing("CharLM", 8, 36, {"layers": 2, "width": 48, "context": 32, "batch_size": 64, **_THIRD}),
        "charlm, wider": Sizing("CharLM", 8, 12, {"layers": 2, "width": 96, "context": 64, "batch_size": 32, **_THIRD}),
    }, decades=4.0),
    "gpu": Profile("gpu", 600, 12, 8, {
        **_small(10, 3),
        "cifar10": Sizing(
            "Cifar10", 16, 200, {"blocks": 2, "width": 64, "batch_size": 128, "recalibrate": 16, **_CUDA}
        ),
        "charlm": Sizing("CharLM", 16, 100, {"layers": 4, "width": 192, "heads": 6, "context": 128, **_CUDA}),
        "charlm, wider": Sizing("CharLM", 16, 150, {"layers": 6, "width": 384, "heads": 6, "context": 256, **_CUDA}),
    }, decades=4.0),
}  # fmt: skip


def studies(profile: Profile, task: str) -> dict[str, Study]:
    """The studies of one task, by name. All have one root seed: the profile's."""
    sizing = profile.tasks[task]
    return {
        name: Study.build(
            {
                "name": f"{profile.name}: {task}: {name}",
                "task": f"benchmarks/paced.py:{sizing.kind}",
                "task_options": {"interval": sizing.interval, **sizing.options},
                "baseline": _arm(members[0]),
                "candidates": [_arm(member) for member in members[1:]],
                "budget": {
                    "epochs": sizing.points,
                    "trials": 0 if name == "defaults" else profile.trials,
                    "tuning_seeds": sizing.tuning_seeds,
                    "seeds": profile.seeds,
                    "decades": profile.decades,
                },
                "seed": profile.seed,
            }
        )
        for name, members in STUDIES.items()
    }


def _arm(name: str) -> dict[str, Any]:
    from sabun.optim import presets

    notation, centre = ARMS[name]
    return {"name": name, "optimizer": notation, "options": {"lr": centre or presets()[notation].lr}}
