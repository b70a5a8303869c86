"""Run a study from its specification to its records: validate, tune every arm, compare in pairs, repeat.

:func:`run` may be killed at any time and started again on the same directory. Finished runs are kept, the rest is done,
and the records are those of an uninterrupted study, timings aside. Order of work:

1. tuning (:mod:`sabun.poc.tuning`), trial by trial for all arms;
2. evaluation: for each seed all arms, in an order that rotates and reverses (A B B A …), so that a machine that slows
   down affects all arms equally;
3. the first evaluation seed of every arm once more, to test whether its weights are the same to the last bit;
4. if runs shared the machine: short timing runs, one at a time. Each measures up to three times while other processes
   keep the machine busy.

A study with a limit of time ends within it (:mod:`sabun.poc.pace`).

:mod:`sabun.poc.schedule` determines which run is next, :mod:`sabun.poc.executors.executor` where it runs. With
``budget.looks`` steps 2 to 4 cover the seeds of the first look; the study ends if the assessment, with error spending,
has decided, and continues to the next look otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sabun.errors import StudyError
from sabun.poc import events
from sabun.poc.allocation import default_looks
from sabun.poc.evidence.audit_trail import worked_s
from sabun.poc.evidence.specification import refuse_other
from sabun.poc.evidence.study_evidence import StudyEvidence
from sabun.poc.evidence.study_writer import StudyWriter
from sabun.poc.executors.executor import Executor
from sabun.poc.executors.in_process import InProcess, trainer
from sabun.poc.executors.processes import Processes
from sabun.poc.pace import Pace
from sabun.poc.resolved import ResolvedStudy, resolve
from sabun.poc.schedule import RunSchedule, busy_timings, failed_and_dependent
from sabun.poc.spec import DEFAULT_BUDGET, Arm, Budget, Scalar, Study
from sabun.poc.study_runner import StudyRunner
from sabun.poc.tasks.builtin import TASKS
from sabun.poc.trust import remember

__all__ = ["BASELINE", "CANDIDATES", "default_study", "demonstration", "is_demonstration", "run", "validate"]

BASELINE = "torch.optim:SGD(momentum=0.9)"
"""The default baseline, a common choice."""
DEFAULT_SEED = 1
"""The default budget was chosen on studies of seed 0, whose verdicts therefore confirm nothing. Seed 1 was not used."""

CANDIDATES = ("euler", "taylor-4", "adams-bashforth-2", "look-ahead", "nesterov@adam")
"""The default candidates."""


def default_study(
    *,
    task: str = "digits",
    baseline: str | Arm = BASELINE,
    candidates: Sequence[str | Arm] = CANDIDATES,
    name: str | None = None,
    seed: int = DEFAULT_SEED,
    task_options: Mapping[str, Scalar] | None = None,
    **budget: int | float,
) -> Study:
    """Return a study with default thresholds. Arms are given by notation, the budget by keyword (epochs, trials …).

    Raises StudyError for invalid fields.
    """
    arms = [arm if isinstance(arm, Arm) else Arm.named(arm) for arm in (baseline, *candidates)]
    return Study.build(
        {
            "name": name or task,
            "task": task,
            "task_options": dict(task_options or {}),
            "baseline": arms[0].model_dump(),
            "candidates": [arm.model_dump() for arm in arms[1:]],
            "budget": {**Budget().model_dump(), **DEFAULT_BUDGET, **_looks(len(candidates), budget), **budget},
            "seed": seed,
        }
    )


def demonstration() -> Study:
    """Return the study of ``make poc``: AdamW against the other usual optimizer, three schemes and the preset sabun.

    Images of digits with a small convolutional network, at a budget at which training has not ended: there optimizers
    differ most. The noise between seeds is large there, so every trial has four tuning seeds: with two, the effect of
    an arm varied twice as much between tunings (``benchmarks/tuning_seeds.py``). ``benchmarks/demo_stability.py``
    measures how often the verdicts repeat with other root seeds.
    """
    return default_study(
        task="digits-cnn",
        task_options={"batch_size": 64},
        baseline=Arm.named("torch.optim:AdamW", "AdamW"),
        candidates=[
            Arm.named("torch.optim:SGD(momentum=0.9)", "SGD(momentum=0.9)"),
            *map(Arm.named, ("taylor-4", "look-ahead", "nesterov", "sabun")),
        ],
        name="demonstration",
        epochs=4,
        seeds=32,
        tuning_seeds=4,
    )


def is_demonstration(study: Study) -> bool:
    """Whether ``study`` is the demonstration, perhaps with another budget."""
    own = demonstration()
    return study.name == own.name and study.comparisons == own.comparisons


def _looks(candidates: int, budget: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """Return the default interim looks for the number of seeds in ``budget``, where it names none."""
    seeds = budget.get("seeds", DEFAULT_BUDGET["seeds"])
    return {"looks": default_looks(seeds, candidates)} if isinstance(seeds, int) else {}


def validate(study: Study | ResolvedStudy) -> dict[str, str]:
    """Find mistakes before hours are spent: build each arm, take one step, evaluate once. Writes nothing.

    With ``batch_seeds``, returns the reason for each arm whose seeds cannot be batched. Raises the StudyError,
    SchemeError or OptionError of the first mistake.
    """
    resolved = resolve(study)
    budget, is_script = resolved.study.budget, resolved.study.is_script
    trainer(resolved).check()
    if budget.tuning_fraction < 1 and not resolved.tunes_partly:
        raise StudyError(
            f"tuning at a fraction of {budget.tuning_fraction:g} has no effect: the command sets its own length.",
            fix="Put {epochs} or {fraction} (the share of the training data) into the command, or leave out "
            "tuning_fraction.",
        )
    if not budget.batch_seeds:
        return {}
    if is_script:
        raise StudyError("the seeds of a script cannot be batched.", fix="Leave out batch_seeds.")
    from sabun.poc.training import batched  # imports torch.fx, which takes a second

    return batched.check(resolved)


def run(
    study: Study | ResolvedStudy,
    out: str | Path,
    *,
    jobs: int = 1,
    on_event: events.Listener | None = None,
    allow_mixed: bool = False,
    retry_failed: bool = False,
    time_again: bool = False,
    executor: Executor | None = None,
    planned_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> StudyEvidence:
    """Run ``study`` in the directory ``out``, or the part that is not done yet, and return its evidence.

    ``retry_failed``: repeat runs that failed in an earlier session, with the runs that depend on them. ``time_again``:
    repeat the timings that were taken on a busy machine. ``planned_s`` are the seconds of a limit of time that planning
    took, ``clock`` returns the time in seconds.

    Raises StudyError and other SabunErrors for a mistake in the study, or if ``out`` holds another study (nothing is
    written then), StoreError if ``out`` is being written or cannot be written, and MixedEvidenceError if its records
    come from another machine or version (unless ``allow_mixed``).
    """
    out = Path(out)
    listener = on_event or (lambda event: None)
    if jobs < 1:
        raise StudyError(f"jobs must be at least 1 (given: {jobs}).", fix="Give the number of processes.")
    begin = clock()
    chosen = executor if executor is not None else InProcess() if jobs == 1 else Processes(jobs)
    logs = (out / "logs").resolve()
    try:
        resolved = resolve(study)
        text = resolved.study
        refuse_other(out, text)
        if text.task in TASKS:  # a user's task may download or write something, and not expect two processes at once
            chosen.announce(text, logs)
        not_batched = validate(resolved)
        here, *others = chosen.begin(resolved, logs)
        with StudyWriter.start(out, text, here, spaces=resolved.spaces, allow_mixed=allow_mixed) as store:
            remember(text, store.trail.events[0])
            for environment in others:
                store.admit(environment)
            notify = _audited(store, listener)
            if retry_failed and (again := failed_and_dependent(store.records)):
                store.withdraw(again)
                failed = sum(again.values())
                notify(events.RunsWithdrawn(failed, len(again) - failed))
            if time_again and (timed := busy_timings(store.records)):
                store.withdraw(timed)
                notify(events.TimingsWithdrawn(len(timed)))
            if planned_s:
                store.trail.planned(text.budget.limit, planned_s)
            spent_s = worked_s(store.trail.events) if text.budget.limit else 0.0
            pace = Pace(resolved, spent_s=spent_s, slots=chosen.slots, earlier=len(store.records.earlier), clock=clock)
            pace.learn(store.records.results.values())
            schedule = RunSchedule(resolved, store.records, notify, not_batched, pace, time_again)
            stored = tuple(store.records.runs())
            notify(events.StudyStarted(text, out, schedule.total, len(store.records.results), stored))
            for arm, reason in not_batched.items():
                notify(events.SeedsNotBatched(arm, reason))
            StudyRunner(resolved, store, schedule, chosen, notify, pace, clock).run()
            done = len(store.records.results)
            total = done if schedule.over else schedule.total
            store.write_live({"state": "finished", "done": done, "total": total, "runs": []})
        evidence = store.evidence()
    finally:
        chosen.close()
    listener(events.StudyFinished(text, out, clock() - begin, evidence.verification.audit_head))
    return evidence


def _audited(store: StudyWriter, listener: events.Listener) -> events.Listener:
    """Return a listener that writes to the audit log what a study does before it calls ``listener``."""

    def notify(event: events.Event) -> None:
        if isinstance(event, events.RunStarted):
            store.trail.started(event.run)
        elif isinstance(event, events.RunRetried):
            store.trail.retried(event.run, event.reason)
        elif isinstance(event, events.LookTaken):
            store.trail.looked(event.seeds, decided=event.decided)
        elif isinstance(event, events.PlanReduced):
            store.trail.reduced(event.trials, event.seeds, event.spent_s)
        listener(event)

    return notify
