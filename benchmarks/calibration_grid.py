"""False go over a grid of distributions, numbers of seeds and looks, with Clopper–Pearson intervals.

    python benchmarks/calibration_grid.py [--studies 10000] [--half develop|check|both] [--markdown FILE]
    python benchmarks/calibration_grid.py --alternatives | --tries 5

Two statements about a candidate that is no better are measured, with the rule of the verdict and with the rule without
its condition on asymmetry:

``claim``   no better on average and not for the typical seed: mean(d) ≥ 0 and median(d) ≥ 0, with d = candidate −
            baseline on one seed, and equality in one of them. This is what a go claims to exclude.
``mean``    equal mean losses, though the typical seed may be better.

Every cell is one family of losses, correlation ρ of the arms on a seed, ratio r of their spreads, and number of seeds:
baseline z₀, candidate r·z₁, with z_a = √ρ·shared + √(1 − ρ)·own_a. The ``develop`` half of the grid was used to choose
the rule (``--alternatives`` compares conditions on it), the ``check`` half was not: other families at other numbers of
seeds. K3 always passes. ``--markdown`` writes the tables between the markers of FILE. Ten thousand studies in each cell
take about two minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sabun.poc.judgement.calibrate import clopper_pearson
from sabun.poc.judgement.statistics import (
    _subsets,
    asymmetry,
    cut,
    error_of_study,
    sequential_plan,
    tail_bound,
    too_asymmetric,
)

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]

ALPHA = 0.05
CORRELATIONS = (0.0, 0.5, 0.8, 0.95)
SPREADS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
FAILURES = (0.01, 0.05, 0.10)
DEPTH = 10.0
"""Rare failures are worse by this many standard deviations."""


def lognormal(sigma: float) -> Draw:
    mean, sd = math.exp(sigma**2 / 2), math.sqrt(math.expm1(sigma**2)) * math.exp(sigma**2 / 2)
    return lambda rng, shape: (np.exp(sigma * rng.standard_normal(shape)) - mean) / sd


def gamma(k: float) -> Draw:
    return lambda rng, shape: (rng.gamma(k, size=shape) - k) / math.sqrt(k)


def weibull(k: float) -> Draw:
    mean = math.gamma(1 + 1 / k)
    sd = math.sqrt(math.gamma(1 + 2 / k) - mean**2)
    return lambda rng, shape: (rng.weibull(k, shape) - mean) / sd


def student(nu: float) -> Draw:
    return lambda rng, shape: rng.standard_t(nu, shape) / math.sqrt(nu / (nu - 2))


def basins(share: float) -> Draw:
    sd = math.sqrt(9 * share * (1 - share) + 0.25)
    return lambda rng, shape: (3 * (rng.random(shape) < share) + 0.5 * rng.standard_normal(shape) - 3 * share) / sd


def reflected(draw: Draw) -> Draw:
    return lambda rng, shape: -draw(rng, shape)


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return (rng.random(shape) - 0.5) * math.sqrt(12)


def laplace(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.laplace(size=shape) / math.sqrt(2)


@dataclass(frozen=True)
class Half:
    """Families by kind, and numbers of seeds."""

    seeds: tuple[int, ...]
    symmetric: dict[str, Draw]
    skewed: dict[str, Draw]
    basins: dict[str, Draw]


HALVES = {
    "develop": Half(
        (6, 10, 16, 32),
        {"normal": lambda rng, shape: rng.standard_normal(shape), "t₃": student(3), "uniform": uniform},
        {"lognormal 0.8": lognormal(0.8), "lognormal 1": lognormal(1.0), "gamma 1": gamma(1.0),
         "reflected lognormal 0.8": reflected(lognormal(0.8)), "reflected gamma 1": reflected(gamma(1.0))},
        {"two basins 15%": basins(0.15), "reflected two basins 15%": reflected(basins(0.15))},
    ),
    "check": Half(
        (8, 12, 24),
        {"t₅": student(5), "Laplace": laplace},
        {"lognormal 0.6": lognormal(0.6), "Weibull 0.7": weibull(0.7), "gamma 0.5": gamma(0.5),
         "reflected Weibull 0.8": reflected(weibull(0.8)), "reflected lognormal 0.9": reflected(lognormal(0.9))},
        {"two basins 25%": basins(0.25), "reflected two basins 20%": reflected(basins(0.20))},
    ),
}  # fmt: skip


def at_most(d: Floats, limit: int) -> NDArray[np.bool_]:
    """Study by study, whether fewer than ``limit`` of the sums of d over non-empty subsets of pairs are at least 0."""
    found = np.zeros(len(d), dtype=bool)
    if limit < 1:
        return found
    subsets = _subsets(d.shape[1]).astype(np.float32).T
    # The whole set is a subset, or every pair is as often in one: a positive sum is never significant.
    below = np.flatnonzero(d.mean(axis=1) < 0)
    block = max(1, 8_000_000 // subsets.shape[1])
    for start in range(0, len(below), block):
        part = below[start : start + block]
        found[part] = np.count_nonzero(d[part].astype(np.float32) @ subsets >= 0, axis=1) < limit
    return found


@dataclass(frozen=True)
class Rule:
    """Whether each study has a go: without and with the condition on asymmetry."""

    before: NDArray[np.bool_]
    after: NDArray[np.bool_]


def go(b: Floats, c: Floats, alpha: float = ALPHA) -> Rule:
    """The verdict on studies of one candidate by K1 and K2, as :func:`sabun.poc.judgement.calibrate.judge_arrays`."""
    n = b.shape[1]
    better = np.flatnonzero(at_most(c - b, cut(n, alpha)))
    u, w = (np.abs(x[better] - np.median(x[better], axis=1, keepdims=True)) for x in (b, c))
    # Suspect or worse: significant at the full error, whatever the look may spend.
    kept = better[~at_most(u - w, cut(n, ALPHA))]
    before = np.zeros(len(b), dtype=bool)
    before[kept] = True
    after = np.zeros(len(b), dtype=bool)
    after[kept] = ~too_asymmetric(b[kept], c[kept])
    return Rule(before, after)


def draw(
    rng: np.random.Generator, family: Draw, studies: int, n: int, rho: float, ratio: float
) -> tuple[Floats, Floats]:
    """Losses of both arms with equal means, in standard deviations of the baseline."""
    shared = math.sqrt(rho) * family(rng, (studies, n))
    b, c = (shared + math.sqrt(1 - rho) * family(rng, (studies, n)) for _ in range(2))
    return b, ratio * c


def failing(rng: np.random.Generator, c: Floats, share: float) -> Floats:
    """A share of the candidate's runs is much worse, with an unchanged mean."""
    return c + DEPTH * ((rng.random(c.shape) < share) - share)


def contrived(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> Floats:
    """Differences with mean 0 and a positive median: half are practically 0, a ``share`` worse, the others better."""
    u, tie = rng.random(shape), 0.01
    worse = (0.49 - share - 0.51 * tie) / share
    return np.where(u < 0.51, tie, np.where(u < 1 - share, -1.0, worse))


def to_claim(rng: np.random.Generator, family: Draw, rho: float, ratio: float, share: float = 0.0) -> float:
    """The shift of the candidate after which it is no better on average and not for the typical seed."""
    b, c = draw(rng, family, 20_000, 10, rho, ratio)
    return max(0.0, -float(np.median((failing(rng, c, share) if share else c) - b)))


@dataclass
class Cell:
    """One cell of the grid and its counts of goes: by the claim's null and by equal means, before and after."""

    kind: str
    family: str
    rho: float
    ratio: float
    n: int
    studies: int
    looks: tuple[int, ...] = ()
    share: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def upper(self, key: str) -> float:
        return clopper_pearson(self.counts[key], self.studies)[1]

    def rate(self, key: str) -> float:
        return self.counts[key] / self.studies

    def said(self, key: str) -> str:
        low, high = clopper_pearson(self.counts[key], self.studies)
        return f"{self.rate(key):.1%} ({100 * low:.1f}–{high:.1%})"


def measure(cell: Cell, family: Draw, number: int) -> Cell:
    """Draw and judge the studies of a cell; a look at which a study says go counts."""
    rng = np.random.default_rng([18, cell.n, number])
    b, c = draw(rng, family, cell.studies, cell.n, cell.rho, cell.ratio)
    if cell.share:
        c = failing(rng, c, cell.share)
    shift = to_claim(rng, family, cell.rho, cell.ratio, cell.share)
    plan = sequential_plan(cell.n, cell.looks)
    for null, moved in (("mean", 0.0), ("claim", shift)):
        if null == "claim" and shift < 0.01:
            cell.counts["claim"], cell.counts["claim before"] = cell.counts["mean"], cell.counts["mean before"]
            continue
        rules = [go(b[:, : look.seeds], c[:, : look.seeds] + moved, look.alpha) for look in plan]
        cell.counts[null] = int(np.count_nonzero(np.any([rule.after for rule in rules], axis=0)))
        cell.counts[f"{null} before"] = int(np.count_nonzero(np.any([rule.before for rule in rules], axis=0)))
    return cell


def cells(half: Half, studies: int, seeds: Iterable[int] = ()) -> Iterator[tuple[Cell, Draw]]:
    """The cells of one half of the grid."""
    for n in seeds or half.seeds:
        for kind, families in (("symmetric", half.symmetric), ("skewed", half.skewed), ("basins", half.basins)):
            for name, family in families.items():
                for rho in CORRELATIONS:
                    for ratio in SPREADS:
                        yield Cell(kind, name, rho, ratio, n, studies), family
        for name, family in (*half.symmetric.items(), *half.skewed.items()):
            looks = (n // 2, 3 * n // 4) if n >= 12 else ()
            if looks:
                for ratio in (0.25, 1.0, 3.0):
                    yield Cell("looks", name, 0.5, ratio, n, studies, looks), family
        first = next(iter(half.symmetric.items()))
        for share in FAILURES:
            for rho in (0.0, 0.8):
                yield Cell("rare", f"{first[0]}, {share:.0%} of runs fail", rho, 1.0, n, studies, (), share), first[1]


@dataclass
class Power:
    """Goes for a true effect, before and after, in one symmetric case."""

    family: str
    rho: float
    ratio: float
    n: int
    before: float
    after: float


def powers(half: Half, studies: int, seeds: Iterable[int] = ()) -> Iterator[Power]:
    """Power for the effect that the sign-flip test finds about half the time, where lost power shows most."""
    for n in seeds or half.seeds:
        for name, family in half.symmetric.items():
            for rho in CORRELATIONS:
                for ratio in (0.5, 1.0, 2.0):
                    rng = np.random.default_rng([19, n, round(100 * rho), round(100 * ratio)])
                    b, c = draw(rng, family, studies, n, rho, ratio)
                    sd = math.sqrt(1 + ratio**2 - 2 * rho * ratio)
                    shift = 1.23 * sd if n == 6 else (stats.t.isf(ALPHA / 2, n - 1) + 0.1) * sd / math.sqrt(n)
                    rule = go(b, c - shift)
                    yield Power(name, rho, ratio, n, float(rule.before.mean()), float(rule.after.mean()))


def conditions(b: Floats, c: Floats) -> dict[str, Floats]:
    """Values of possible second conditions of a go; a high value withholds it.

    ``johnson`` and ``hall`` are t statistics corrected for skewness (Johnson 1978, JASA 73:536; Hall 1992, JRSS B
    54:221), ``skewness`` is that of the differences.
    """
    d = c - b
    n = d.shape[1]
    ratio, g = d.mean(axis=1) / d.std(axis=1, ddof=1), stats.skew(d, axis=1)
    common = ratio + g * ratio**2 / 3 + g / (6 * n)
    return {
        "asymmetry": asymmetry(b, c),
        "skewness": g,
        "johnson": math.sqrt(n) * common,
        "hall": math.sqrt(n) * (common + g**2 * ratio**3 / 27),
    }


def alternatives(half: Half, studies: int) -> Iterator[str]:
    """For each condition, with the limit at which no symmetric case loses more than 3 points: the worst rates."""
    for n in half.seeds:
        symmetric, null = [], []
        families = [(name, family, (0.5, 1.0, 2.0)) for name, family in half.symmetric.items()]
        families += [(name, family, (0.25, 0.5, 2.0, 3.0)) for name, family in {**half.skewed, **half.basins}.items()]
        for name, family, ratios in families:
            for rho in (0.0, 0.5, 0.95):
                for ratio in ratios:
                    rng = np.random.default_rng([20, n, round(100 * rho), round(100 * ratio)])
                    b, c = draw(rng, family, studies, n, rho, ratio)
                    if name in half.symmetric:
                        sd = math.sqrt(1 + ratio**2 - 2 * rho * ratio)
                        c = c - (1.23 * sd if n == 6 else (stats.t.isf(ALPHA / 2, n - 1) + 0.1) * sd / math.sqrt(n))
                    kept = go(b, c).before
                    (symmetric if name in half.symmetric else null).append(conditions(b[kept], c[kept]))
        for name in symmetric[0]:
            # The least limit that keeps the goes lost in each symmetric case within 3% of the studies.
            few = int(0.03 * studies)
            limit = max(np.sort(values[name])[-few - 1] for values in symmetric if len(values[name]) > few)
            rates = [np.count_nonzero(values[name] <= limit) / studies for values in null]
            before = [len(values[name]) / studies for values in null]
            yield (f"{n:3d} seeds {name:10s} limit {limit:6.3f}: worst {max(rates):.1%} (without {max(before):.1%}), "
                   f"mean {np.mean(rates):.1%} (without {np.mean(before):.1%})")  # fmt: skip


def repeated(tries: int, studies: int, n: int = 10) -> str:
    """A/A studies repeated with other seeds until one says go: the rate without and with a shared error."""
    rng = np.random.default_rng([21, tries, n])
    alone, shared = np.zeros(studies, dtype=bool), np.zeros(studies, dtype=bool)
    for earlier in range(tries):
        b, c = rng.standard_normal((2, studies, n))
        alone |= go(b, c).after
        shared |= go(b, c, error_of_study(ALPHA, earlier)).after
    said = [Cell("", "", 0, 1, n, studies, counts={"": int(found.sum())}).said("") for found in (alone, shared)]
    return f"{tries} tries of {n} seeds: {said[0]} say go, with a shared error {said[1]}"


def worst(found: Sequence[Cell], key: str) -> Cell:
    return max(found, key=lambda cell: cell.counts[key])


def _where(cell: Cell) -> str:
    return f"{cell.family}, ρ = {cell.rho:g}, r = {cell.ratio:g}"


def tables(found: Sequence[Cell], power: Sequence[Power]) -> str:
    """The tables of docs/statistics.md."""
    grid = [cell for cell in found if cell.kind in ("symmetric", "skewed", "basins")]
    seeds = sorted({cell.n for cell in found})
    lines = [
        f"{len(found)} cells of {found[0].studies} studies each; in parentheses the 95% Clopper–Pearson interval.",
        "",
        "**What a go claims** (no better on average, and not for the typical seed): the worst cell.",
        "",
        "| seeds | all families, ρ and r | with looks | 1, 5 or 10% of runs fail |",
        "|---|---|---|---|",
    ]
    for n in seeds:
        groups = [
            [cell for cell in grid if cell.n == n],
            [cell for cell in found if cell.n == n and cell.kind == "looks"],
            [cell for cell in found if cell.n == n and cell.kind == "rare"],
        ]
        lines.append(f"| {n} | " + " | ".join(worst(g, "claim").said("claim") if g else "–" for g in groups) + " |")
    lines += [
        "",
        "**Equal averages**: the worst cell, without and with the condition on asymmetry.",
        "",
        "| seeds | symmetric losses | skewed, before | skewed, now | in which case | cells above 5%, before | now |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in seeds:
        even = [cell for cell in grid if cell.n == n and cell.kind == "symmetric"]
        rest = [cell for cell in grid if cell.n == n and cell.kind != "symmetric"]
        now = worst(rest, "mean")
        above = [sum(cell.upper(key) > ALPHA for cell in rest) for key in ("mean before", "mean")]
        lines.append(
            f"| {n} | {worst(even, 'mean').said('mean')} | {worst(rest, 'mean before').said('mean before')} | "
            f"{now.said('mean')} | {_where(now)} | {above[0]} of {len(rest)} | {above[1]} |"
        )
    lines += [
        "",
        f"**Rare failures with equal averages** (a run that fails is {DEPTH:g} standard deviations worse): the rate of "
        "goes, and the bound that the report states beside a go.",
        "",
        "| seeds | 1% of runs | 5% | 10% | stated bound without a failure among n |",
        "|---|---|---|---|---|",
    ]
    for n in seeds:
        rates = [
            max((cell for cell in found if cell.n == n and cell.share == share), key=lambda c: c.counts["mean"])
            for share in FAILURES
        ]
        lines.append(f"| {n} | " + " | ".join(cell.said("mean") for cell in rates) + f" | {tail_bound(0, n):.0%} |")
    lines += [
        "",
        "**Power lost in symmetric cases**, in points, for the effect that the test finds about half the time.",
        "",
        "| seeds | power, equal spreads | lost, equal spreads, at most | lost, spreads ×½ or ×2, at most |",
        "|---|---|---|---|",
    ]
    for n in seeds:
        own = [row for row in power if row.n == n]
        equal = [row for row in own if row.ratio == 1]
        other = [row for row in own if row.ratio != 1]
        lines.append(
            f"| {n} | {min(row.after for row in equal):.0%} to {max(row.after for row in equal):.0%} | "
            f"{100 * max(row.before - row.after for row in equal):.1f} | "
            f"{100 * max(row.before - row.after for row in other):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--half", choices=[*HALVES, "both"], default="both")
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--alternatives", action="store_true", help="compare second conditions of a go instead")
    parser.add_argument("--tries", type=int, help="repeat A/A studies this often until one says go instead")
    given = parser.parse_args()
    if given.tries:
        print(repeated(given.tries, given.studies))
        return
    if given.alternatives:
        for line in alternatives(HALVES["develop"], given.studies):
            print(line, flush=True)
        return
    said = []
    for name in HALVES if given.half == "both" else [given.half]:
        found = []
        for number, (cell, family) in enumerate(cells(HALVES[name], given.studies, given.seeds)):
            found.append(measure(cell, family, number))
            print(f"{name} {cell.n:3d} seeds {cell.kind:9s} {_where(cell):50s} {cell.rate('claim'):.3f} "
                  f"{cell.rate('mean before'):.3f} {cell.rate('mean'):.3f}", file=sys.stderr)  # fmt: skip
        power = list(powers(HALVES[name], given.studies, given.seeds))
        title = "The half on which the rule was chosen" if name == "develop" else "The half that was not used"
        said += [f"### {title}", "", tables(found, power), ""]
    text = "\n".join(said)
    print(text)
    if given.markdown:
        page = given.markdown.read_text(encoding="utf-8")
        marked = re.compile(r"(<!-- grid -->\n).*(<!-- end of grid -->)", re.DOTALL)
        given.markdown.write_text(marked.sub(lambda m: f"{m[1]}\n{text}\n{m[2]}", page), encoding="utf-8")


if __name__ == "__main__":
    import piped

    piped.run(main)
