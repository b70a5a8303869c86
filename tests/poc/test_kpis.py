"""Each KPI on curves whose answer is known in closed form."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sabun.poc.judgement.kpis import KPIS, lr_tolerance_decades
from sabun.poc.records import Epoch, RunResult

from .evidence import START, curve, run


def test_every_group_has_one_kpi_that_decides() -> None:
    assert [kpi.group for kpi in KPIS.values() if kpi.decides] == ["K1", "K2", "K3"]
    assert [kpi.id for kpi in KPIS.values() if kpi.decides] == ["final_loss", "spread", "epoch_s"]
    assert all(kpi.id == key for key, kpi in KPIS.items())


def test_area_is_the_mean_height() -> None:
    assert KPIS["loss_area"].of(run("a", 0, 0.3)) == pytest.approx((START + 0.3) / 2)
    # Unequal steps: 4 for one epoch, then from 4 to 1 over two.
    uneven = run("a", 0, [4.0, 4.0, 1.0])
    uneven = dataclasses.replace(uneven, epochs=(*uneven.epochs[:2], dataclasses.replace(uneven.epochs[2], epoch=3)))
    assert KPIS["loss_area"].of(uneven) == pytest.approx((4 + 2 * 2.5) / 3)


def test_loss_at_equal_time_reads_the_slower_arm_where_the_baseline_ends() -> None:
    base, slow = run("a", 0, 0.3, epoch_s=0.5), run("b", 0, 0.3, epoch_s=0.8)
    # At 5 s of 8 s the straight line has fallen by 5/8.
    assert KPIS["loss_at_equal_time"].of(slow, base) == pytest.approx(START + (0.3 - START) * 5 / 8)
    fast = run("c", 0, 0.2, epoch_s=0.4)
    assert KPIS["loss_at_equal_time"].of(fast, base) == pytest.approx(0.2), "no credit for time that was not used"
    assert KPIS["loss_at_equal_time"].of(base, base) == pytest.approx(0.3)


def test_time_to_target_is_where_the_line_crosses() -> None:
    base, better = run("a", 0, 0.3, epoch_s=0.5), run("b", 0, 0.1, epoch_s=0.6)
    share = (START - 0.3) / (START - 0.1)
    assert KPIS["time_to_target_s"].of(better, base) == pytest.approx(6 * share)
    assert KPIS["time_to_target_s"].of(base, base) == pytest.approx(5)
    assert KPIS["time_to_target_s"].of(run("c", 0, 0.4), base) == math.inf
    lost = run("a", 0, [START, math.nan], status="diverged")
    assert KPIS["time_to_target_s"].of(better, lost) is None, "a baseline that diverged sets no target"
    # The first crossing counts, also when the loss rises again afterwards.
    dips = run("d", 0, [2.0, 0.2, 0.5], epoch_s=1.0)
    assert KPIS["time_to_target_s"].of(dips, base) == pytest.approx((2 - 0.3) / (2 - 0.2))


def test_seconds_per_epoch_leave_out_the_start() -> None:
    one = run("a", 0, 0.3, epoch_s=0.5)
    assert KPIS["epoch_s"].of(one) == 0.5
    assert KPIS["optimizer_step_s"].of(one) == pytest.approx(0.1)
    assert KPIS["epoch_s"].of(run("a", 0, 0.3, epoch_s=0.0)) is None


def test_final_loss_of_runs_that_did_not_finish() -> None:
    assert KPIS["final_loss"].of(run("a", 0, 0.3)) == pytest.approx(0.3)
    assert KPIS["final_loss"].of(run("a", 0, [2.0, math.nan], status="diverged")) == math.inf
    assert KPIS["final_loss"].of(run("a", 0, 0.3, status="failed")) is None
    assert KPIS["test_loss"].of(run("a", 0, 0.3, status="diverged", test_loss=0.2)) == math.inf
    assert KPIS["test_metric"].of(run("a", 0, 0.3, status="diverged", test_metric=0.9)) is None
    assert KPIS["test_metric"].of(run("a", 0, 0.3, test_metric=0.9)) == 0.9
    assert KPIS["peak_memory_bytes"].of(run("a", 0, 0.3, memory=None)) is None


odd = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, -1.0, 1e308]))
epochs = st.builds(
    Epoch, epoch=st.integers(0, 5), train_loss=st.none(), val_loss=odd, val_metric=st.none(),
    train_s=st.sampled_from([0.0, 0.5, 1e-9]), eval_s=st.just(0.0), optimizer_s=st.sampled_from([0.0, 0.1]),
    gradient_evaluations=st.just(0),
)  # fmt: skip
strange = st.builds(
    RunResult, run=st.just("r"), arm=st.just("a"), seed=st.just(0), phase=st.just("evaluate"),
    hyperparameters=st.just({}), status=st.sampled_from(["finished", "diverged", "failed"]),
    epochs=st.lists(epochs, max_size=4, unique_by=lambda e: e.epoch).map(
        lambda found: tuple(sorted(found, key=lambda e: e.epoch))
    ),
    test_loss=st.none() | odd, test_metric=st.none() | odd,
)  # fmt: skip


@given(strange, strange)
def test_no_record_is_too_strange_for_a_kpi(one: RunResult, other: RunResult) -> None:
    for kpi in KPIS.values():
        found = kpi.of(one, other)
        assert found is None or (isinstance(found, float) and (kpi.id == "loss_at_equal_time" or not math.isnan(found)))


def bowl(decades: float, points: int = 61, curvature: float = 0.4) -> list[tuple[dict[str, float], float]]:
    xs = [-3 + decades * i / (points - 1) for i in range(points)]
    return [({"lr": 10**x}, 0.1 * (1 + curvature * (x + 1.5) ** 2)) for x in xs]


def test_lr_tolerance_is_the_width_of_the_bowl() -> None:
    # 0.4 x² ≤ 0.1 for |x| ≤ 1/2: one decade.
    assert lr_tolerance_decades(bowl(3.0)) == pytest.approx(1.0, abs=0.01)
    assert lr_tolerance_decades(list(reversed(bowl(3.0)))) == pytest.approx(1.0, abs=0.01)
    # Seen only up to 0.2 decades right of the best: no extrapolation.
    assert lr_tolerance_decades([t for t in bowl(3.0) if t[0]["lr"] <= 10**-1.3]) == pytest.approx(0.7, abs=0.01)


def test_lr_tolerance_needs_something_to_measure() -> None:
    assert lr_tolerance_decades(bowl(3.0)[:2]) is None
    assert lr_tolerance_decades([]) is None
    assert lr_tolerance_decades([({"lr": 10.0**-i}, math.inf) for i in range(5)]) is None
    assert lr_tolerance_decades([({"lr": 10.0**-i}, -1.0) for i in range(5)]) is None
    assert lr_tolerance_decades([({"a": 0.1, "b": 10.0**-i}, 1.0) for i in range(5)]) is None
    assert lr_tolerance_decades([({"step": 10.0**-i}, 1.0) for i in range(5)]) == pytest.approx(4.0)
    diverging = [({"lr": 0.01}, 1.05), ({"lr": 0.1}, 1.0), ({"lr": 1.0}, math.inf)]
    assert lr_tolerance_decades(diverging) == pytest.approx(1.0), "towards a divergence nothing is interpolated"


def test_curve_helper_is_the_straight_line() -> None:
    assert curve(0.3)[0] == START
    assert curve(0.3)[-1] == pytest.approx(0.3)
