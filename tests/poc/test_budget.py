"""Within a budget: the allocation, the rule that keeps to it, and studies that end within it. Clocks are made up."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from sabun.audit import AuditEvent
from sabun.cli import app
from sabun.errors import StudyError
from sabun.poc import evidence as stored
from sabun.poc.allocation import (
    PLANNED_SHARE,
    Design,
    Durations,
    allocate,
    chance,
    default_looks,
    least,
)  # fmt: skip
from sabun.poc.evidence.audit_trail import worked_s
from sabun.poc.executors.executor import Unit
from sabun.poc.executors.in_process import InProcess
from sabun.poc.judgement.assess import assess
from sabun.poc.judgement.calibrate import calibrate
from sabun.poc.judgement.simulation import Scenario
from sabun.poc.judgement.statistics import needed_pairs
from sabun.poc.limit import Limit
from sabun.poc.pace import GRACE, Pace
from sabun.poc.records import Epoch, RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Arm, LogUniform, Run, Study, Thresholds
from sabun.poc.study import default_study, run
from sabun.poc.tuning import Tuner
from sabun.report import html, markdown
from sabun.report.publish import judge

from .helpers import SGD, task, tiny_study

ADAMW = "torch.optim:AdamW"


@pytest.mark.parametrize(
    ("text", "runs", "seconds", "written"),
    [
        ("14runs", 14, None, "14runs"), ("1 run", 1, None, "1runs"), ("90s", None, 90, "90s"),
        ("10min", None, 600, "10min"), ("8h", None, 28800, "8h"), ("1.5d", None, 129600, "1.5d"),
        ("8H", None, 28800, "8h"),
    ],
)  # fmt: skip
def test_a_limit_is_runs_or_a_time(text: str, runs: int | None, seconds: float | None, written: str) -> None:
    assert Limit.parse(text) == Limit(written, runs, seconds)


@pytest.mark.parametrize("text", ["", "14", "runs", "0runs", "2.5runs", "-3h", "0h", "8 hours", "1e9h", "8h2", "infs"])
def test_other_notations_are_refused(text: str) -> None:
    with pytest.raises(StudyError, match="is not a budget") as caught:
        Limit.parse(text)
    assert "14runs" in str(caught.value.fix)


def cases() -> list[tuple[int, Durations | None, float]]:
    """Arms, durations (None: the limit is in runs), seconds spent before."""
    rng = random.Random(1)
    drawn = [
        (rng.randint(2, 7), Durations(rng.uniform(0, 20), rng.uniform(1, 500), rng.choice([1, 1, 2, 4]),
                                      rng.choice([0.0, 3.0]), rng.random() < 0.5), rng.uniform(0, 100))
        for _ in range(25)
    ]  # fmt: skip
    return [*drawn, *((arms, None, 0.0) for arms in range(2, 8))]


@pytest.mark.parametrize(("arms", "durations", "spent"), cases())
def test_more_budget_never_gives_less_and_none_is_exceeded(
    arms: int, durations: Durations | None, spent: float
) -> None:
    rng = random.Random(arms)
    smallest = Design(0, 1, 1.0, needed_pairs(0.05 / (arms - 1)))
    start = smallest.runs(arms) if durations is None else spent + durations.total_s(smallest)
    before: Design | None = None
    for factor in sorted(rng.uniform(0.5, 9.0) for _ in range(25)):
        limit = Limit.parse(f"{int(start * factor)}runs" if durations is None else f"{start * factor:.3f}s")
        if factor < 0.97:
            with pytest.raises(StudyError, match="decides nothing"):
                allocate(limit, arms=arms, durations=durations, spent_s=spent)
            continue
        if factor < 1.001 / PLANNED_SHARE:  # between the least plan and its reserve
            continue
        design = allocate(limit, arms=arms, durations=durations, spent_s=spent)
        if durations is None:
            assert design.runs(arms) <= (limit.runs or 0)
        else:
            assert spent + durations.total_s(design) <= (limit.seconds or 0)
        assert design.seeds >= needed_pairs(0.05 / (arms - 1))
        assert design.trials == 0 or design.trials >= 3
        if before is not None:
            for shift in (0.3, 0.8, 1.5):
                assert chance(shift, 1.0, design, 0.95, arms) >= chance(shift, 1.0, before, 0.95, arms) - 0.02
            assert chance(1.0, 1.0, design, 0.95, arms) >= chance(1.0, 1.0, before, 0.95, arms)
            assert (design.trials, design.tuning_seeds, design.seeds) >= (before.trials, before.tuning_seeds, 0)
            assert design.seeds >= before.seeds
            assert design.fraction >= before.fraction
        before = design
    assert before is not None


def test_the_least_budget_is_named_and_is_enough() -> None:
    assert least(2) == 14
    with pytest.raises(StudyError, match=r"13runs decides nothing for 2 arms: .* needs 6 pairs") as caught:
        allocate(Limit.parse("13runs"), arms=2)
    assert "--budget 14runs" in str(caught.value.fix)
    with pytest.raises(StudyError, match="needs 8 pairs") as caught:
        allocate(Limit.parse("30runs"), arms=6)
    assert "--budget 54runs" in str(caught.value.fix)
    assert "2 can be decided within 30runs" in str(caught.value.fix)
    assert allocate(Limit.parse("24runs"), arms=3).runs(3) == 24
    durations = Durations(6.0, 40.0)
    with pytest.raises(StudyError) as caught:
        allocate(Limit.parse("2min"), arms=2, durations=durations, spent_s=10.0)
    named = str(caught.value.fix).split("--budget ")[1].split(".")[0].split(",")[0]
    assert allocate(Limit.parse(named), arms=2, durations=durations, spent_s=10.0).seeds == 6
    with pytest.raises(StudyError, match="4 seeds decide nothing"):
        allocate(Limit.parse("100runs"), arms=2, fixed={"seeds": 4})
    assert allocate(Limit.parse("100runs"), arms=2, fixed={"trials": 0}).trials == 0


@pytest.mark.parametrize("limit", ["14runs", "40runs", "80runs"])
def test_the_promised_power_is_what_calibrate_finds(limit: str) -> None:
    """K1 alone, on simulated records with the assumed spread; within three standard errors of 1,500 studies."""
    design = allocate(Limit.parse(limit), arms=2)
    scenario, margin = Scenario("normal"), Thresholds().margin
    for effect in (0.03, 0.06, 0.083):
        promised = chance(effect, scenario.deviation(effect, margin), design, 0.95, 2, margin)
        found = calibrate(1500, seeds=design.seeds, looks=design.looks, effect=effect, scenario=scenario)
        error = math.sqrt(max(promised * (1 - promised), 0.01) / 1500)
        assert found.first_better / 1500 == pytest.approx(promised, abs=3 * error)


@pytest.mark.parametrize("candidates", [1, 5])
def test_the_default_look_costs_two_points_of_power_at_most(candidates: int) -> None:
    arms, with_look = candidates + 1, 0
    for seeds in range(6, 41):
        looks = default_looks(seeds, candidates)
        for shift in (0.5, 0.7, 1.0):
            once, looked = (chance(shift, 1.0, Design(0, 1, 1.0, seeds, at), 0.95, arms) for at in ((), looks))
            assert looked >= once - 0.03
        with_look += bool(looks)
    assert with_look > 10
    assert default_looks(16) == ()  # below 18 seeds every look costs more
    assert tiny_study(ADAMW, seeds=20).budget.looks == default_looks(20) == (10,)
    assert tiny_study(ADAMW, seeds=20, looks=()).budget.looks == ()


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(InProcess):
    """Makes up results. A run takes as long as ``seconds`` says, on the clock of the test."""

    def __init__(self, clock: Clock, seconds: Callable[[Run], float]) -> None:
        super().__init__()
        self.clock = clock
        self.seconds = seconds

    def submit(self, unit: Unit) -> None:
        (self.run,) = unit

    def next(self) -> tuple[Run, Epoch | RunResult]:
        run, seconds = self.run, self.seconds(self.run)
        self.clock.now += seconds
        luck = (-1) ** run.seed * (0.03 + 0.004 * (run.seed // 2))  # symmetric
        own = random.Random(run.id).gauss(0, 0.005)
        loss = (0.8 if run.arm == ADAMW else 1.0) * (1 + luck + own)
        epochs = [Epoch(e, None, loss, None, 1.0 + 0.02 * own, 0.0, 0.0, e) for e in (1, 2)]
        return run, run.result("finished", epochs, weights_sha256="0")


def limited(limit: str, **budget: object) -> Study:
    fields = {"epochs": 1, "trials": 4, "tuning_seeds": 1, "seeds": 10, "looks": (), **budget}
    return default_study(
        task=task(), baseline=SGD, candidates=[ADAMW], seed=0, limit=limit, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def counts(evidence: stored.StudyEvidence) -> dict[tuple[str, str], int]:
    return dict(Counter((run.arm, run.phase) for run in evidence.runs))


@pytest.mark.parametrize(
    ("slower", "trials", "seeds"),
    [(1.0, 4, 10), (1.3, 3, 7), (1.6, 2, 6), (3.0, 1, 4)],
    ids=["as planned", "slower", "just enough", "too slow to decide"],
)
def test_a_slow_study_drops_trials_and_pairs_of_all_arms_and_ends_in_time(
    slower: float, trials: int, seeds: int, tmp_path: Path
) -> None:
    """30 runs of 2 s are planned within 62 s; one arm is slower than the other."""
    clock = Clock()

    def seconds(run: Run) -> float:
        return slower * (2.5 if run.arm == ADAMW else 1.5)

    study = limited("62s")
    evidence = run(study, tmp_path / "study", executor=Timed(clock, seconds), clock=clock)
    assert clock.now <= 62.0 * GRACE < 62.0 * 1.1
    if slower < 3:
        assert clock.now >= 0.85 * 60
    assert (evidence.effective.budget.trials, evidence.effective.budget.seeds) == (trials, seeds)
    found = counts(evidence)
    for phase, number in (("tune", trials), ("evaluate", seeds)):
        assert [found[SGD, phase], found[ADAMW, phase]] == [number, number]
    for arm in (SGD, ADAMW):
        assert len(evidence.tuning[arm].trials) == trials
    assert evidence.study == study
    assert stored.verify(tmp_path / "study").ok
    assert stored.read(tmp_path / "study").effective == evidence.effective
    reduced = [event for event in evidence.events if event.event == "plan.reduced"]
    assert bool(reduced) == (slower > 1)
    judged = assess(evidence.effective, evidence.runs, evidence.tuning)
    codes = " ".join(reason.code for reason in judged.verdicts[0].reasons if reason.kpi == "K1")
    assert ("too_few" in codes) == (seeds < 6)
    assert "incomplete" not in codes
    if seeds >= 6:  # the whole error is spent on the pairs that there are
        (row,) = (row for row in judged.comparisons if row.kpi == "final_loss")
        assert row.level == pytest.approx(0.95)
    if slower < 3:  # then no repetition was left out
        again = run(study, tmp_path / "study", executor=Timed(clock, seconds), clock=clock)
        assert again.runs == evidence.runs


class Failing(Timed):
    """One run of the candidate fails."""

    def next(self) -> tuple[Run, Epoch | RunResult]:
        run, item = super().next()
        if (run.arm, run.seed, run.phase) == (ADAMW, 3, "evaluate"):
            return run, run.result("failed", [], failure="it crashed")
        return run, item


class AllFail(Timed):
    """Every run fails."""

    def next(self) -> tuple[Run, Epoch | RunResult]:
        run, _ = super().next()
        return run, run.result("failed", [], failure="it crashed")


def looked(clock: Clock, tmp_path: Path, kind: type[Timed]) -> stored.StudyEvidence:
    study = limited("14h", trials=3, seeds=20, looks=default_looks(20))
    return run(study, tmp_path / "study", executor=kind(clock, lambda run: 2.0), clock=clock)


def test_stopped_early_the_report_says_after_how_many_pairs_and_what_was_saved(tmp_path: Path) -> None:
    evidence = looked(Clock(), tmp_path, Timed)
    assert counts(evidence)[ADAMW, "evaluate"] == 10
    report = judge(evidence, describe=lambda study, tuning: {})
    assert report.decision == "go"
    (early,) = (note for note in report.course if note.key == "course.early")
    assert report.sentence(early, "en") == (
        "Stopped early at an interim look, after 10 of 20 pairs, because every candidate was decided. "
        "That saved 20 runs, about 40.0 s."
    )
    assert "20組中10組の中間判定で早期に終了" in report.sentence(early, "ja")
    (own,) = (note for note in report.course if note.key.startswith("course.own"))
    assert "lr 0.03" in report.sentence(own, "en")
    for shown in (markdown.render(report, "en"), html.render(report, "en")):
        assert "after 10 of 20 pairs" in shown
        assert "as it is given" in shown


def test_a_failed_run_of_the_candidate_is_never_a_go_at_a_look(tmp_path: Path) -> None:
    evidence = looked(Clock(), tmp_path, Failing)
    assert counts(evidence)[ADAMW, "evaluate"] == 20  # the look decides nothing, and the study goes on
    report = judge(evidence, describe=lambda study, tuning: {})
    assert report.decision == "undecided"
    assert [event.data["decided"] for event in evidence.events if event.event == "look.taken"] == [False]
    assert not any(note.key == "course.early" for note in report.course)


def test_where_no_trial_ended_none_was_the_best(tmp_path: Path) -> None:
    report = judge(looked(Clock(), tmp_path, AllFail), describe=lambda study, tuning: {})
    assert report.decision == "undecided"
    assert not any(note.key.startswith("course.own") for note in report.course)


def test_a_limit_of_runs_holds(tmp_path: Path) -> None:
    design = allocate(Limit.parse("14runs"), arms=2)
    evidence = run(limited("14runs", **design.budget), tmp_path / "study")
    assert len(evidence.runs) == 14
    with pytest.raises(StudyError, match="16 runs are planned, and the limit is 14"):
        limited("14runs", trials=1, seeds=6)
    with pytest.raises(StudyError, match="limit must be written as '14runs'"):
        limited("14 runs", trials=0, seeds=6)


def test_runs_that_never_end_are_abandoned_with_their_pair(tmp_path: Path) -> None:
    clock = Clock()

    class Slow(Timed):
        """The run of one arm and seed logs an epoch each hour, and does not end."""

        def next(self) -> tuple[Run, Epoch | RunResult]:
            if (self.run.arm, self.run.seed, self.run.phase) == (ADAMW, 7, "evaluate"):
                clock.now += 3600
                return self.run, Epoch(1, None, 1.0, None, 3600.0, 0.0, 0.0, 1)
            return super().next()

    evidence = run(limited("100s"), tmp_path / "study", executor=Slow(clock, lambda run: 2.0), clock=clock)
    assert evidence.effective.budget.seeds == 7
    assert (ADAMW, 7) not in {(run.arm, run.seed) for run in evidence.runs if run.phase == "evaluate"}
    assert stored.verify(tmp_path / "study").ok
    assert assess(evidence.effective, evidence.runs, evidence.tuning).comparisons[0].n == 7


def timed_run(arm: str, seed: int, phase: str, seconds: float, train: float) -> tuple[RunResult, float]:
    epochs = (Epoch(1, None, 1.0, None, train, 0.0, 0.0, 1),)
    return RunResult(f"{arm}{seed}", arm, seed, phase, {}, "finished", epochs), seconds  # type: ignore[arg-type]


def test_the_rule_does_not_know_which_arm_took_the_time() -> None:
    """The decisions of a study in which the runs of any pair are exchanged are the same: the test stays exact."""
    rng, answers = random.Random(2), Counter[bool]()
    resolved = resolve(limited("100s"))
    for _ in range(200):
        times = [[rng.uniform(1, 9), rng.uniform(1, 9)] for _ in range(rng.randint(1, 8))]
        exchanged = [list(reversed(pair)) if rng.random() < 0.5 else pair for pair in times]
        spent = rng.uniform(0, 100)
        decisions = []
        for drawn in (times, exchanged):
            clock = Clock()
            pace = Pace(resolved, clock=clock)
            for phase in ("tune", "evaluate"):
                for seed, pair in enumerate(drawn):
                    for arm, seconds in zip((SGD, ADAMW), pair, strict=True):
                        pace.observe(*timed_run(arm, seed, phase, seconds, seconds / 2))
            clock.now = spent
            decisions.append([pace.may_pair(n) for n in range(9)] + [pace.may_try(t) for t in range(5)])
        assert decisions[0] == decisions[1]
        answers.update(decisions[0])
    assert min(answers.values()) > 100


def test_a_tuning_run_at_a_fraction_predicts_a_whole_one() -> None:
    """Start-up does not scale: 2 s and 4 s of training at a quarter make 18 s, a pair 36 s."""
    resolved = resolve(limited("1000s", epochs=8, tuning_fraction=0.25))
    clock = Clock()
    pace = Pace(resolved, clock=clock)
    for arm in (SGD, ADAMW):
        pace.observe(*timed_run(arm, 0, "tune", 6.0, 4.0))
    for spent, fits in ((963.0, True), (965.0, False)):
        clock.now = spent
        assert pace.may_pair(7, repeats_left=False) == fits


def test_the_working_time_is_that_of_the_sessions() -> None:
    def event(name: str, at: str, **data: object) -> AuditEvent:
        return AuditEvent(0, f"2026-01-31T{at}Z", name, "", data, "", "")  # type: ignore[arg-type]

    events = [
        event("study.frozen", "09:00:00"),
        event("plan.made", "09:00:00", seconds=30.0, limit="8h"),
        event("study.opened", "09:00:00"), event("run.started", "09:00:10"), event("run.ended", "09:01:00"),
        event("study.interrupted", "09:01:10"), event("verdict", "11:00:00"),
        event("study.opened", "12:00:00"), event("run.started", "12:00:40"),  # killed
        event("study.opened", "15:00:00"), event("study.ended", "15:00:05"), event("tampering.found", "23:00:00"),
    ]  # fmt: skip
    assert worked_s(events) == 30 + 70 + 40 + 5
    assert worked_s(events[:2]) == 30


def test_a_reduction_that_no_study_made_is_found(tmp_path: Path) -> None:
    from sabun.audit import AuditLog

    run(limited("62s", trials=0, seeds=6), tmp_path / "study")
    AuditLog(tmp_path / "study" / "audit.jsonl").append("plan.reduced", {"trials": 0, "seeds": 3, "spent_s": 1.0})
    assert "reduces a study that was not running" in stored.verify(tmp_path / "study").problem
    assert json.loads((tmp_path / "study" / "study.json").read_text())["study"]["budget"]["limit"] == "62s"


def test_the_baselines_own_setting_is_among_the_trials() -> None:
    """As it is given, whatever the centre of the space; for a script the multiplier 1."""
    space = {"lr": LogUniform(center=1e-3, decades=2), "weight_decay": LogUniform(center=1e-2, decades=2)}
    own = Arm(name="own", optimizer="torch.optim:AdamW(lr=0.02)", options={"weight_decay": 0.3}, space=space)
    assert resolve(default_study(task=task(), baseline=own, candidates=[SGD])).baseline.first == {
        "lr": 0.02, "weight_decay": 0.3,
    }  # fmt: skip
    script = Arm(name="today", optimizer="script", space={"lr_multiplier": LogUniform(center=4.0, decades=3)})
    study = default_study(task="script:python train.py", baseline=script, candidates=[own])
    resolved = resolve(study)
    assert resolved.baseline.first == {"lr_multiplier": 1.0}
    assert resolved.arms["own"].first == {"lr": pytest.approx(1e-3), "weight_decay": pytest.approx(1e-2)}
    (first,) = Tuner(study.model_copy(update={"budget": study.budget.model_copy(update={"tuning_seeds": 1})}),
                     resolved.baseline).trial({})  # fmt: skip
    assert first.hyperparameters == {"lr_multiplier": 1.0}


def test_a_failed_tuning_run_makes_its_trial_the_worst_and_does_not_stop_the_study() -> None:
    """Also where only one of the tuning seeds fails, with the better losses on the others."""
    study = tiny_study(trials=6, tuning_seeds=2)
    tuner = Tuner(study, resolve(study).arms[SGD])
    results: dict[str, RunResult] = {}
    for number in itertools.count():
        runs = tuner.pending(results)
        if not runs:
            break
        for one in runs:
            loss = 1.0 + math.log10(float(one.hyperparameters["lr"])) ** 2
            failed = number in (1, 3) and one.seed == 1
            status, value = ("failed", 0.0) if failed else ("finished", 0.01 if number in (1, 3) else loss)
            results[one.id] = one.result(status, [Epoch(3, None, value, None, 0.0, 0.0, 0.0, 1)])  # type: ignore[arg-type]
    assert len(tuner.seen) == 6
    assert [loss for _, loss in tuner.seen].count(math.inf) == 2
    assert tuner.seen[1][1] == tuner.seen[3][1] == math.inf
    assert tuner.best() == min(tuner.seen, key=lambda trial: trial[1])[0]
    assert tuner.best() not in (tuner.seen[1][0], tuner.seen[3][0])


def test_all_arms_try_the_same_trial_before_the_next(tmp_path: Path) -> None:
    evidence = run(tiny_study(trials=3, tuning_seeds=1, seeds=1, epochs=1), tmp_path)
    order = [evidence.records.trials[run.run] for run in evidence.runs if run.phase == "tune"]
    assert order == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_tuning_does_a_part_of_the_training(tmp_path: Path) -> None:
    evidence = run(tiny_study(trials=2, tuning_seeds=1, seeds=1, epochs=6, tuning_fraction=0.3), tmp_path)
    lengths = {(run.phase, run.epochs[-1].epoch) for run in evidence.runs}
    assert lengths == {("tune", 2), ("evaluate", 6), ("repeat", 6)}
    assert Scenario("normal").deviation() == pytest.approx(0.0447, abs=1e-4)


def test_a_budget_that_decides_nothing_is_a_users_error_and_a_plan_needs_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arms = ["--baseline", SGD, "--candidate", ADAMW, "--epochs", "1", "--quiet"]
    assert app.run(["poc", "plan", task(), *arms, "--budget", "13runs"]) == 2
    assert "--budget 14runs" in capsys.readouterr().err
    assert app.run(["poc", "plan", task(), *arms, "--budget", "20runs"]) == 0
    shown = capsys.readouterr().out
    assert "2 arms, 20 runs" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []
