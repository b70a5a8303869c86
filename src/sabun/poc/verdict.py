"""From comparisons to a decision: the protocol's rules, and every sentence that a verdict may use.

A verdict lists one :class:`~sabun.poc.results.Reason` a group, in the order K1 (learning curve), K2 (reproducibility),
K3 (cost). A reason is a code with numbers; :data:`REASONS` is the complete table of codes with the placeholders that a
report's sentence may use, so a language that lacks one is found by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["REASONS"]

_INTERVAL = ("effect", "low", "high", "limit", "level", "p", "n")
"""effect, low, high: as in Comparison (K1: relative difference, 0 is equal; K2, K3: ratio, 1 is equal); limit: the threshold
on the same scale; level: of the interval, after Holm and sequential looks; p: two-sided against the limit, after Holm; n: pairs."""
_POWER = ("power", "detectable")
"""power: chance that a study of this size finds an effect of size ``detectable`` (K1: relative difference > 0; K2, K3: ratio > 1)."""
_FEW = ("n", "needed")
"""n pairs are there, the exact test needs ``needed`` before any result could be significant."""
_DIVERGED = ("candidate", "baseline", "n")
"""How many of the n paired seeds diverged, in either arm."""

REASONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # K1, final validation loss. pass: better; fail: worse, or diverges more; the rest is unclear.
        "k1_better": _INTERVAL,
        "k1_worse": _INTERVAL,
        "k1_unclear": (*_INTERVAL, *_POWER),  # not decided, and no number of seeds within reach would
        "k1_unclear_seeds": (*_INTERVAL, *_POWER, "seeds"),  # not decided; about `seeds` seeds in all would decide
        "k1_continue": (*_INTERVAL, "planned"),  # sequential design: not decided yet, `planned` seeds at most
        "k1_incomplete": _FEW,  # n of the `needed` planned pairs are there; judging now would break the promise
        "k1_too_few_seeds": _FEW,
        "k1_diverged": _DIVERGED,  # the candidate diverged where the baseline did not: no mean loss to compare
        "k1_diverged_more": (*_DIVERGED, "p"),  # fail: significantly more diverged runs than the baseline
        "k1_identical": ("n",),  # every pair has equal losses: the same arm twice, or a constant metric
        "k1_no_variation": ("n", "effect"),  # the difference is the same for every seed: the seeds change nothing
        "k1_not_positive": ("n",),  # the baseline's losses are not positive: a relative difference means nothing
        "k1_no_data": (),  # no pair of finished runs
        # K2, standard deviation of the final loss over seeds, and diverged runs. pass: not significantly worse.
        "k2_not_worse": (*_INTERVAL, *_POWER),  # says little with few seeds: only a ratio of `detectable` would show
        "k2_worse": _INTERVAL,
        "k2_suspect": _INTERVAL,  # unclear: significantly worse before Holm's correction, not after it
        "k2_too_few_seeds": _FEW,
        "k2_diverged": _DIVERGED,  # unclear: more diverged runs than the baseline, by chance perhaps
        "k2_diverged_more": (*_DIVERGED, "p"),  # fail: significantly more
        "k2_no_variation": ("n",),  # an arm's final loss is the same for every seed: no spread to compare
        "k2_no_data": (),
        # K3, training seconds an epoch. pass: within the limit, or the target reached sooner; fail: beyond the limit.
        "k3_within": _INTERVAL,
        "k3_time_to_target": (*_INTERVAL, "ratio"),  # interval is of time-to-target; `ratio` is seconds an epoch
        "k3_beyond": _INTERVAL,
        "k3_unclear": (*_INTERVAL, *_POWER),
        "k3_unclear_seeds": (*_INTERVAL, *_POWER, "seeds"),
        "k3_too_few_seeds": _FEW,
        "k3_no_variation": ("n", "effect"),
        "k3_no_data": (),  # no timings, or none of a run that had the machine to itself
    }
)
