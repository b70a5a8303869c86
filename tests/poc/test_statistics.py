"""The statistics against scipy, against brute force, and against what symmetry demands."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from sabun.poc.judgement import statistics as s

RNG = np.random.default_rng(20)


def pairs(n: int, rng: np.random.Generator = RNG) -> tuple[np.ndarray, np.ndarray]:
    shared = rng.normal(0, 0.05, n)
    return np.exp(shared + rng.normal(0, 0.05, n)), np.exp(shared + rng.normal(-0.03, 0.08, n))


values = st.floats(0.5, 2.0)
samples = st.integers(3, 9).flatmap(
    lambda n: st.tuples(
        st.lists(values, min_size=n, max_size=n, unique=True), st.lists(values, min_size=n, max_size=n, unique=True)
    )
)


# ----------------------------------------------------------------------------------------------------- the exact test


@pytest.mark.parametrize("n", [3, 5, 6, 8, 10])
@pytest.mark.parametrize("theta", [0.0, -0.05, 0.2])
def test_the_p_value_is_that_of_scipys_exact_permutation_test(n: int, theta: float) -> None:
    b, c = pairs(n)
    ours = s.p_value(s.Paired.of(b, c, "relative").typical(), 1 + theta)
    oracle = stats.permutation_test(
        (c, (1 + theta) * b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert ours == pytest.approx(oracle.pvalue, rel=1e-12)


@pytest.mark.parametrize("n", [3, 6, 9])
def test_the_p_value_of_a_ratio_is_that_of_scipys_test_on_logarithms(n: int) -> None:
    b, c = pairs(n)
    ours = s.p_value(s.Paired.of(b, c, "ratio").typical(), math.log(1.1))
    oracle = stats.permutation_test(
        (np.log(c), np.log(1.1 * b)), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert ours == pytest.approx(oracle.pvalue, rel=1e-12)


def test_the_p_value_of_a_spread_is_that_of_scipys_test_on_distances_from_the_median() -> None:
    b, c = pairs(8)
    u, w = np.abs(b - np.median(b)), np.abs(c - np.median(c))
    oracle = stats.permutation_test((w, u), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert s.p_value(s.Paired.of(b, c, "spread").typical(), 1.0) == pytest.approx(oracle.pvalue, rel=1e-12)


def test_typical_values_by_hand() -> None:
    # Hartigan's smallest example: x = 0, 1, 5 has the subset means 0, 1/2, 1, 2, 5/2, 3, 5.
    x = np.array([0.0, 1.0, 5.0])
    assert s.typical_values(np.ones(3), x).tolist() == pytest.approx([0, 0.5, 1, 2, 2.5, 3, 5])


@given(samples, st.sampled_from([0.5, 0.3, 0.1, 0.05]), st.floats(0.5, 2.0))
def test_interval_and_p_value_never_disagree(
    sample: tuple[list[float], list[float]], alpha: float, theta: float
) -> None:
    b, c = map(np.array, sample)
    for scale in ("relative", "ratio", "spread"):
        paired = s.Paired.of(b, c, scale)
        typical = paired.typical()
        assume(np.min(np.abs(typical[np.isfinite(typical)] - theta), initial=1.0) > 1e-9)
        low, high = s.interval(typical, paired.n, alpha)
        rejected = bool(s.p_value(typical, theta) <= alpha * (1 + 1e-12))
        assert rejected == bool(theta < low or theta > high)


@given(samples, st.randoms())
def test_the_order_of_seeds_does_not_matter(sample: tuple[list[float], list[float]], random: object) -> None:
    b, c = map(np.array, sample)
    order = np.array(random.sample(range(len(b)), len(b)))  # type: ignore[attr-defined]
    for scale in ("relative", "ratio", "spread"):
        one, two = s.Paired.of(b, c, scale).typical(), s.Paired.of(b[order], c[order], scale).typical()
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)


@given(samples, st.floats(1e-3, 1e3))
def test_the_unit_of_the_loss_does_not_matter(sample: tuple[list[float], list[float]], unit: float) -> None:
    b, c = map(np.array, sample)
    for scale in ("relative", "ratio", "spread"):
        one, two = s.Paired.of(b, c, scale).typical(), s.Paired.of(unit * b, unit * c, scale).typical()
        resolved = ~(np.abs(one) > 1e6)  # beyond, a spread is left that is rounding only
        np.testing.assert_allclose(one[resolved], two[resolved], rtol=1e-7, atol=1e-9)


@given(samples, st.sampled_from([0.5, 0.3]))
def test_swapping_the_arms_turns_the_effect_round(sample: tuple[list[float], list[float]], alpha: float) -> None:
    b, c = map(np.array, sample)
    for scale, one in (("relative", 1.0), ("ratio", 0.0)):
        forth, back = s.Paired.of(b, c, scale), s.Paired.of(c, b, scale)
        low, high = (float(forth.to_effect(x)) + one for x in s.interval(forth.typical(), forth.n, alpha))
        wol, hgih = (float(back.to_effect(x)) + one for x in s.interval(back.typical(), back.n, alpha))
        assert low == pytest.approx(1 / hgih)
        assert high == pytest.approx(1 / wol)
        null = forth.from_effect(0.0 if one else 1.0)
        assert s.p_value(forth.typical(), null) == pytest.approx(s.p_value(back.typical(), null))


@given(samples, st.integers(0, 8), st.floats(0.01, 0.4))
def test_a_lower_loss_never_looks_worse(sample: tuple[list[float], list[float]], seed: int, drop: float) -> None:
    b, c = map(np.array, sample)
    lower = c.copy()
    lower[seed % len(c)] -= drop
    for scale in ("relative", "ratio"):
        old, new = s.Paired.of(b, c, scale), s.Paired.of(b, lower, scale)
        for one, two in zip(s.interval(old.typical(), old.n, 0.5), s.interval(new.typical(), new.n, 0.5), strict=True):
            assert two <= one + 1e-12


@pytest.mark.parametrize("n", [13, 16, 20, 40])
def test_beyond_twelve_pairs_the_sign_patterns_are_a_group(n: int) -> None:
    codes = {int("".join(str(int(x)) for x in row), 2) for row in s._subsets(n)} | {0}
    assert len(codes) == s.group_size(n) == 4096
    some = RNG.choice(sorted(codes), 60)
    assert all(int(a) ^ int(b) in codes for a in some for b in some)
    columns = {tuple(column) for column in s._subsets(n).T}
    assert len(columns) == n, "two seeds are always flipped together"


@pytest.mark.parametrize("n", [16, 20])
def test_beyond_twelve_pairs_the_p_value_is_near_the_one_of_all_patterns(n: int) -> None:
    rng = np.random.default_rng(n)
    b, c = pairs(n, rng)
    ours = float(s.p_value(s.Paired.of(b, c, "relative").typical(), 1.0))
    oracle = stats.permutation_test(
        (c, b), lambda x, y, axis: np.mean(x - y, axis=axis), vectorized=True, permutation_type="samples",
        n_resamples=20_000, rng=rng,
    )  # fmt: skip
    assert ours == pytest.approx(oracle.pvalue, abs=4 * math.sqrt(0.25 / 4096))


def test_how_many_pairs_a_decision_needs() -> None:
    # One-sided p at best 2⁻ⁿ: 1/32 > 0.025 for five pairs, 1/64 < 0.025 for six.
    assert [s.needed_pairs(alpha) for alpha in (0.05, 0.05 / 5, 0.1, 0.5)] == [6, 8, 5, 2]
    assert s.attained(5, 0.05) == 0
    assert s.attained(6, 0.05) == 2 / 64
    assert s.attained(10, 0.05) == 50 / 1024
    low, high = s.interval(s.Paired.of(*pairs(5), "relative").typical(), 5, 0.05)
    assert (low, high) == (-math.inf, math.inf)
    assert float(s.p_value(s.typical_values(np.ones(6), -np.arange(1.0, 7)), 0.0)) == 2 / 64


def test_a_pair_that_tells_nothing_counts_against_the_decision() -> None:
    b, c = np.array([1, 2, 3, 4, 5, 6.0]), np.array([3, 7, 8, 11, 16, 17.0])
    with_empty = s.typical_values(np.append(b, 0), np.append(c, 0))
    without = s.typical_values(b, c)
    assert np.isnan(with_empty[-1])
    assert np.count_nonzero(np.isnan(with_empty)) == 1
    # Sixty-four patterns, each twice: the same evidence.
    for theta in (1.0, 2.5, 2.7, 3.2, 4.0):
        assert s.p_value(with_empty, theta) == pytest.approx(s.p_value(without, theta))
    np.testing.assert_allclose(s.interval(with_empty, 7, 0.05), s.interval(without, 6, 0.05))


# ------------------------------------------------------------------------------------------------- Holm, error spending


def test_holm_by_hand() -> None:
    assert s.holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert s.holm_levels(np.array([0.01, 0.04, 0.03, 0.005]), 0.05).tolist() == pytest.approx(
        [0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4]
    )


@given(st.lists(st.floats(0.0005, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_level_of_an_interval_decides_as_holm_does(p: list[float], alpha: float) -> None:
    array = np.array(p)
    adjusted, levels = s.holm(array), s.holm_levels(array, alpha)
    assume(np.min(np.abs(adjusted - alpha)) > 1e-9)
    assert ((array <= levels) == (adjusted <= alpha)).all()
    assert (adjusted >= array).all()
    # Textbook form: reject while p(j) ≤ alpha/(k − j + 1).
    order, k = np.argsort(array), len(p)
    rejected, going = set(), True
    for j, i in enumerate(order):
        going = going and array[i] <= alpha / (k - j)
        if going:
            rejected.add(int(i))
    assert rejected == set(np.flatnonzero(adjusted <= alpha).tolist())


@given(
    st.integers(2, 40), st.lists(st.integers(1, 39), max_size=5), st.sampled_from([0.9, 0.95, 0.99]),
    st.sampled_from(["obrien-fleming", "pocock"]),
)  # fmt: skip
def test_looks_never_spend_more_than_the_level_allows(
    seeds: int, looks: list[int], level: float, spending: str
) -> None:
    plan = s.sequential_plan(seeds, looks, level, spending=spending)  # type: ignore[arg-type]
    assert [look.seeds for look in plan] == sorted({look for look in looks if look < seeds} | {seeds})
    assert sum(s.attained(look.seeds, look.alpha) for look in plan) <= (1 - level) * (1 + 1e-9)
    assert all(look.alpha >= 0 for look in plan)


def test_the_spending_function_is_lan_and_demets() -> None:
    # From the textbooks: two-sided 0.05, O'Brien–Fleming type, 0.00557 at half the information.
    first, last = s.sequential_plan(40, (20,), 0.95)
    assert first.alpha == pytest.approx(0.00557, abs=1e-5)
    assert last.alpha == pytest.approx(0.05 - s.attained(20, first.alpha))
    pocock = s.sequential_plan(40, (20,), 0.95, spending="pocock")
    assert pocock[0].alpha == pytest.approx(0.05 * math.log(1 + (math.e - 1) / 2))
    assert s.sequential_plan(10, (), 0.95) == (s.Look(10, pytest.approx(0.05)),)


# -------------------------------------------------------------------------------------------------------------- power


def test_power_is_the_noncentral_t_at_the_attained_error() -> None:
    shift, sd, n = 0.03, 0.04, 10
    critical = stats.t.isf(s.attained(n, 0.05) / 2, n - 1)
    assert s.power(shift, sd, n, 0.05) == pytest.approx(stats.nct.sf(critical, n - 1, shift * math.sqrt(n) / sd))
    assert s.power(shift, sd, 5, 0.05) == 0
    assert s.power(0.0, sd, n, 0.05) == pytest.approx(s.attained(n, 0.05) / 2, rel=1e-6)
    # Six pairs: all must lie on one side.
    assert s.power(shift, sd, 6, 0.05) == pytest.approx(stats.norm.cdf(shift / sd) ** 6)


@pytest.mark.parametrize("n", [6, 10, 16])
def test_power_is_what_the_test_delivers_on_normal_data(n: int) -> None:
    sd = 0.05
    shift = s.detectable(sd, n, 0.05)
    assert shift is not None
    d = np.random.default_rng(n).normal(-shift, sd, (4000, n))
    _, high = s.interval(s.typical_values(np.ones_like(d), d), n, 0.05)
    # Four standard errors of 4,000 studies are 0.025.
    assert np.mean(high < 0) == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize("n", [10, 20])
def test_the_ratio_of_spreads_that_a_study_is_said_to_show_is_shown(n: int) -> None:
    rng = np.random.default_rng(n)
    b, c = 100 + rng.normal(size=(500, n)), 100 + rng.normal(size=(500, n))
    found = s.detectable_spread(float(np.median(s.Paired.of(b, c, "spread").deviation())), n, 0.05)
    assert found is not None
    assert found[1] == pytest.approx(0.8)
    b, c = 100 + rng.normal(size=(2000, n)), 100 + found[0] * rng.normal(size=(2000, n))
    low, _ = s.interval(s.Paired.of(b, c, "spread").typical(), n, 0.05)
    # Below a dozen seeds the promise is too modest, never too bold.
    assert 0.76 <= np.mean(low > 1) <= (0.99 if n < 12 else 0.87)


def test_six_seeds_cannot_promise_any_ratio_of_spreads() -> None:
    found = s.detectable_spread(1.0, 6, 0.05)
    assert found is not None
    assert found[0] == 10.0
    assert found[1] < 0.8
    assert s.detectable_spread(1.0, 5, 0.05) is None


def test_seeds_to_decide_is_the_smallest_number() -> None:
    n = s.seeds_to_decide(0.02, 0.05, 0.05, above=10)
    assert n is not None
    assert s.power(0.02, 0.05, n, 0.05) >= 0.8 > s.power(0.02, 0.05, n - 1, 0.05)
    # The normal approximation ((1.96 + 0.84) sd/shift)² = 49, and a little more for the t.
    assert 49 <= n <= 54
    assert s.seeds_to_decide(0.0, 0.05, 0.05, above=10) is None
    assert s.seeds_to_decide(1e-4, 0.05, 0.05, above=10) is None
    assert s.seeds_to_decide(0.5, 0.05, 0.05, above=3) == 6  # sure, once six pairs are there


# ------------------------------------------------------------------------------------------- asymmetry, rare failures


@given(st.lists(values, min_size=3, max_size=9, unique=True))
def test_l_skewness_is_the_ratio_of_mean_order_statistics(sample: list[float]) -> None:
    # Hosking's definition: λ₂ = ½E(X₂:₂ − X₁:₂), λ₃ = ⅓E(X₃:₃ − 2X₂:₃ + X₁:₃), over all subsets of the sample.
    triples = [sorted(triple) for triple in itertools.combinations(sample, 3)]
    second = np.mean([abs(x - y) for x, y in itertools.combinations(sample, 2)]) / 2
    third = np.mean([c - 2 * b + a for a, b, c in triples]) / 3
    assume(second > 1e-6)
    assert float(s._l_skewness(np.array(sample))) == pytest.approx(third / second, abs=1e-7)


def test_asymmetry_is_positive_where_the_wider_arm_has_its_long_tail_on_the_harmful_side() -> None:
    tail = np.expm1(np.linspace(-1, 1.5, 12))  # a long tail of high values
    narrow, wide = 10 + 0.3 * tail, 10 + tail
    assert float(s.asymmetry(narrow, wide)) > 0.15  # the candidate may be much worse
    assert float(s.asymmetry(-wide, -narrow)) > 0.15  # the baseline may be much better
    assert float(s.asymmetry(wide, narrow)) < -0.15  # a candidate without the baseline's bad runs
    assert float(s.asymmetry(wide, wide + 1)) == pytest.approx(0, abs=1e-12)
    level = np.linspace(-1, 1, 12)
    assert float(s.asymmetry(level, 3 * level)) == pytest.approx(0, abs=1e-12)
    for constant in (np.zeros(12), np.ones(12)):
        assert float(s.asymmetry(constant, constant)) == 0
    both = s.asymmetry(np.stack([narrow, wide]), np.stack([wide, narrow]))
    assert both.tolist() == pytest.approx([float(s.asymmetry(narrow, wide)), float(s.asymmetry(wide, narrow))])


@given(samples, st.floats(1e-3, 1e3), st.floats(-5, 5))
def test_asymmetry_depends_on_neither_unit_nor_origin(
    sample: tuple[list[float], list[float]], unit: float, origin: float
) -> None:
    b, c = map(np.array, sample)
    assume(min(np.ptp(b), np.ptp(c)) > 1e-3)
    moved = s.asymmetry(unit * b + origin, unit * c + origin)
    assert float(moved) == pytest.approx(float(s.asymmetry(b, c)), abs=1e-6)


def test_a_difference_that_no_missing_tail_explains_is_not_withheld() -> None:
    tail = np.expm1(np.arange(16) / 6)
    b, c = 10 + 0.1 * tail, 9.4 + 0.2 * tail
    assert float(s.asymmetry(b, c)) > s.allowed_asymmetry(16)
    assert bool(s.too_asymmetric(b, c))
    assert not bool(s.too_asymmetric(b, c - 1))  # the mean difference is four standard deviations of the pairs
    assert not bool(s.too_asymmetric(c, b + 3))
    assert s.too_asymmetric(np.stack([b, b]), np.stack([c, c - 1])).tolist() == [True, False]
    assert [round(s.allowed_asymmetry(n), 3) for n in (6, 16, 34, 100)] == [0.347, 0.212, 0.146, 0.25]
    assert [s.mean_error(n) for n in (31, 32, 200)] == [s.MEAN_ERROR[24], 0.0, 0.0]


def test_the_tail_bound_is_clopper_and_pearsons_upper_limit() -> None:
    for far, n in ((0, 6), (0, 8), (0, 16), (1, 16), (3, 32)):
        oracle = stats.binomtest(far, n, alternative="less").proportion_ci(0.95, method="exact").high
        assert s.tail_bound(far, n) == pytest.approx(oracle)
    assert s.tail_bound(0, 16) == pytest.approx(1 - 0.05 ** (1 / 16))
    assert [round(100 * s.tail_bound(0, n)) for n in (8, 16, 32, 59)] == [31, 17, 9, 5]
    assert s.tail_bound(6, 6) == 1.0
    assert s.far_out(np.array([1.0, 1.1, 1.2, 1.3, 1.4, 9.0])) == 1
    assert s.far_out(np.linspace(0, 1, 9)) == 0


# ---------------------------------------------------------------------------------------- diverged runs, censored times


@given(st.integers(0, 12), st.integers(0, 12))
def test_discordant_pairs_are_a_binomial_test(candidate: int, baseline: int) -> None:
    assume(candidate + baseline > 0)
    oracle = stats.binomtest(candidate, candidate + baseline, 0.5, alternative="greater").pvalue
    assert s.discordant_p(candidate, baseline) == pytest.approx(oracle)


@pytest.mark.parametrize("n", [4, 7, 12, 20])
def test_signed_ranks_are_wilcoxons(n: int) -> None:
    d = np.random.default_rng(n).normal(0.3, 1, n)
    sample = s.SignedRank.of(d, d)
    assert sample.p_value() == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
    low, high = sample.interval(0.2)
    # The interval inverts the test: scipy's p-value crosses alpha at its ends.
    for end, inward in ((low, 1e-6), (high, -1e-6)):
        assert stats.wilcoxon(d - end - inward, method="exact").pvalue > 0.2
        assert stats.wilcoxon(d - end + inward, method="exact").pvalue <= 0.2


def test_a_censored_time_errs_on_the_safe_side() -> None:
    d = np.log(np.array([0.5, 0.6, 0.55, 0.7, 0.65, 0.52, 0.58, 0.61, 0.57]))
    known = s.SignedRank.of(d, d)
    upper = d.copy()
    upper[0] = math.inf
    lower = d.copy()
    lower[0] = math.log(2.0)
    censored = s.SignedRank.of(lower, upper)
    assert known.interval(0.05)[1] < 0
    assert censored.interval(0.05)[1] > known.interval(0.05)[1]
    assert censored.interval(0.05)[0] >= known.interval(0.05)[0]
    assert censored.centre > known.centre
    # A lost seed has the highest rank: nine pairs cannot outweigh it, twelve can.
    longer = [np.append(x, d[:3] - 0.01) for x in (lower, upper)]
    assert not censored.interval(0.05)[1] < 0
    assert s.SignedRank.of(*longer).interval(0.05)[1] < 0
    all_lost = s.SignedRank.of(np.full(9, 0.1), np.full(9, math.inf))
    assert all_lost.interval(0.05) == (0.1, math.inf)
    assert all_lost.p_value() == pytest.approx(2 * 2**-9)
    assert s.SignedRank.of(d[:5], d[:5]).interval(0.05) == (-math.inf, math.inf)
