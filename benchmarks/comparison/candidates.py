"""Candidates for the preset: the preset with one ingredient left out, or replaced by the plain alternative.

They are searched like every other arm, on development families only. A run of a candidate is decided by its options
and by the files of our arms, so this file is in no digest: a further candidate leaves the records of the others valid.
"""

from __future__ import annotations

from comparison.ours import variant

__all__ = ["CANDIDATE_ARMS", "CONFIRMED"]

_ROWS = "spectral(row_normalization=True, beta2=0.95)"

CANDIDATE_ARMS = (
    variant("Nesterov's momentum", scheme="nesterov({beta})"),
    variant("no look-ahead", scheme="heavy-ball({beta})"),
    variant("adam for hidden matrices", preconditioner="adam"),
    variant("the rest without second moments", rest={"preconditioner": "none", "lr_factor": 4.0}),
    variant("the rest at the same rate", rest={"lr_factor": 1.0}),
    variant("the rest without look-ahead", rest={"scheme": "heavy-ball(0.9)"}),
    variant("one decay for all", rest={"weight_decay": 0.01}),
    variant("coupled decay", {"decay": (0.03,)}, decoupled=False),
    variant("no decay", {"decay": (0.0,)}),
    variant("the decays of the preset", {"decay": (1.0,)}),
    variant("β = 0.9", {"beta": (0.9,)}),
    variant("Nesterov's momentum, β = 0.9", {"beta": (0.9,)}, scheme="nesterov({beta})"),
    variant("no look-ahead, β = 0.9", {"beta": (0.9,)}, scheme="heavy-ball({beta})"),
    variant("row normalization", preconditioner=_ROWS),
    variant("Nesterov's momentum, row normalization", scheme="nesterov({beta})", preconditioner=_ROWS),
    variant("β rising to 0.95", momentum_end=0.95, rest={"momentum_end": None}),
    variant(
        "β rising to 0.95, row normalization", preconditioner=_ROWS, momentum_end=0.95, rest={"momentum_end": None}
    ),
    variant("two memories", scheme="memories(0.7, 0.8, 2, 0.3, 0.96)"),
    variant("a shorter second moment for the rest", rest={"preconditioner": "adam(beta2=0.99)"}),
)
"""Without look-ahead: γ = 0, plain momentum. The rate of the rest without second moments is 4 times that of the hidden
matrices because the centre of SGD's rates is 4 times ours. A coupled decay has another scale: with the step of adam it
is worth least where gradients are large. The last rows add or change something in the place of leaving it out."""

CONFIRMED = ("row normalization",)
"""Those that are trained once more on the check families, named here before they were."""
