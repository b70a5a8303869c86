"""Candidates for the preset: the preset with one ingredient left out, or replaced by the plain alternative.

They are searched like every other arm, on development families only. A run of a candidate is decided by its options
and by the files of our arms, so this file is in no digest: a further candidate leaves the records of the others valid.
"""

from __future__ import annotations

from comparison.ours import variant

__all__ = ["CANDIDATE_ARMS"]

CANDIDATE_ARMS = (
    variant("Nesterov's momentum", scheme="nesterov({beta})"),
    variant("no look-ahead", scheme="heavy-ball({beta})"),
    variant("adam for hidden matrices", preconditioner="adam"),
    variant("the rest without second moments", rest={"preconditioner": "none", "lr_factor": 4.0}),
    variant("the rest at the same rate", rest={"lr_factor": 1.0}),
    variant("the rest without look-ahead", rest={"scheme": "heavy-ball(0.9)"}),
    variant("one decay for all", rest={"weight_decay": 0.01}),
    variant("coupled decay", {"decay": (0.0, 0.3, 0.03, 0.003)}, decoupled=False),
    variant("no decay", {"decay": (0.0,)}),
)
"""Without look-ahead: γ = 0, plain momentum. The rate of the rest without second moments is 4 times that of the hidden
matrices because the centre of SGD's rates is 4 times ours. A coupled decay has another scale, and no centre: the
search begins without one."""
