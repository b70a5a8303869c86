"""The benchmark: one command, resumable, from nothing to the page in the docs.

    python benchmarks/suite.py                    # the whole CPU suite, at most 100 minutes on 2 quiet cores
    python benchmarks/suite.py --profile quick    # at most 15 minutes
    python benchmarks/suite.py --profile gpu      # larger models, on one GPU
    python benchmarks/suite.py --plan             # what would run, and how long it would take here
    python benchmarks/suite.py --render           # only the page, from the stored records

Studies go to ``runs/benchmark/PROFILE/`` (resumed where they stopped), compact records to
``benchmarks/results/PROFILE.json``, the page to ``docs/benchmark.md``, its pictures to ``docs/images/``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

import contest  # noqa: E402
import sealed  # noqa: E402
from evidence import export, load  # noqa: E402
from page import charts, claims, page, text_of  # noqa: E402
from sabun.errors import SabunError  # noqa: E402
from sabun.poc import events, study  # noqa: E402
from sabun.poc.seeds import Seeds  # noqa: E402
from sabun.poc.spec import Study  # noqa: E402
from sabun.poc.tasks import loading as tasks  # noqa: E402
from sabun.script import arms  # noqa: E402

WORK = Path("runs/benchmark")
RESULTS = Path("benchmarks/results")


def store(profile: contest.Profile, task: str, name: str) -> Path:
    """Where a study lives. Task names hold commas and spaces; folders need not."""
    return WORK / profile.name / f"{task.replace(', ', '-').replace(' ', '-')}.{name}"


STARTUP = 3.0
"""Seconds until the first of several processes has a run to show: each imports torch and loads the data. From the
events of a study of diabetes and one of digits with two jobs; what a run costs beside its steps was 0.01 s there."""


def seconds_of(plan: Study, jobs: int) -> float:
    """What a study will take, from a few steps of each arm timed here and now, one at a time."""
    task = tasks.load(plan.task, plan.task_options)
    budget = plan.budget
    beside, alone = 0.0, 0.0 if jobs == 1 else STARTUP
    testing: float | None = None
    for arm in plan.arms:
        session = task.session(Seeds(0, 0))
        optimizer = arms.recipe(arm).build(session.model)
        if hasattr(optimizer, "train"):
            optimizer.train()
        laps = []
        for step in range(6):
            began = time.perf_counter()
            optimizer.zero_grad()
            session.loss(step).backward()
            optimizer.step()
            laps.append(time.perf_counter() - began)
        began = time.perf_counter()
        session.evaluate("validation")
        scoring = time.perf_counter() - began
        if testing is None:  # as long for every arm, and the test data may be many
            began = time.perf_counter()
            session.evaluate("test")
            testing = time.perf_counter() - began
        training = statistics.median(laps[2:]) * session.steps_per_epoch
        runs = budget.trials * budget.tuning_seeds + budget.seeds + 1
        beside += runs * ((training + scoring) * budget.epochs + scoring) + budget.seeds * testing
        if jobs > 1:  # what ran beside other runs is clocked again, for an epoch, with nothing beside it
            alone += budget.seeds * training
    return beside / jobs + alone


class Progress:
    """Prints what is done and how long the rest will take, from the plan and from how true it has been so far."""

    def __init__(self, planned: dict[str, float]) -> None:
        self.planned = planned
        self.finished = 0.0
        self.spent = 0.0
        self.shown = 0.0

    def listener(self, name: str) -> events.Listener:
        begun, at_start = time.monotonic(), 0

        def listen(event: events.Event) -> None:
            nonlocal at_start
            now = time.monotonic()
            if isinstance(event, events.StudyStarted):
                at_start = event.done
                print(f"{name}: {event.total} runs, {event.done} of them stored", flush=True)
            elif isinstance(event, events.RunFinished) and (now - self.shown > 20 or event.done == event.total):
                self.shown = now
                share = event.done / event.total
                here = self.planned[name] * (event.done - at_start) / event.total
                pace = (self.spent + now - begun) / max(self.finished + here, 1e-9)
                left = sum(self.planned.values()) - self.finished - self.planned[name] * share
                print(f"  {name}: {share:4.0%}   {left * pace / 60:.0f} min left in all", flush=True)
            elif isinstance(event, events.StudyFinished):
                self.spent += now - begun
                self.finished += self.planned[name]

        return listen


def planned_seconds(profile: contest.Profile, plans: Iterable[Study], jobs: int) -> dict[str, float]:
    """Hash of a study → seconds; measured once for a number of jobs and kept, so that a resumed benchmark starts at
    once."""
    path = WORK / profile.name / "plan.json"
    try:
        known: dict[str, float] = sealed.read(path)
    except (FileNotFoundError, SabunError):  # what is damaged is measured again
        known = {}
    found = {}
    for plan in plans:
        key = f"{plan.hash} with {jobs}"
        if key not in known:
            known[key] = seconds_of(plan, jobs)
        found[plan.hash] = known[key]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(sealed.dumps(known, indent=0) + "\n", encoding="utf-8")
    return found


def carry_out(
    profile: contest.Profile,
    *,
    jobs: int,
    only: Iterable[str],
    parts: Iterable[str],
    allow_mixed: bool,
    plan_only: bool,
) -> None:
    """Run, or resume, all studies of a profile."""
    chosen = [task for task in profile.tasks if not only or task in only]
    every = {
        f"{task}: {part}": (task, part, plan)
        for task in chosen
        for part, plan in contest.studies(profile, task).items()
        if not parts or part in parts
    }
    seconds = planned_seconds(profile, (plan for _, _, plan in every.values()), jobs)
    planned = {name: seconds[plan.hash] for name, (_, _, plan) in every.items()}
    print(f"profile {profile.name}: {len(chosen)} tasks, {profile.trials} trials and {profile.seeds} seeds an arm")
    for task in chosen:
        minutes = sum(planned[name] for name, (of, _, _) in every.items() if of == task) / 60
        print(f"  {task:16} {profile.tasks[task].steps:5} steps   {minutes:6.1f} min")
    total = sum(planned.values()) / 60
    print(f"  in all {total:.0f} min with {jobs} jobs as this machine is now; meant for at most {profile.minutes} min")
    if plan_only:
        return
    progress = Progress(planned)
    for name, (task, part, plan) in every.items():
        study.run(
            plan, store(profile, task, part), jobs=jobs, on_event=progress.listener(name), allow_mixed=allow_mixed
        )  # fmt: skip


def write_records(profile: contest.Profile, *, quiet: bool) -> Path:
    """Compact records of all finished studies."""
    stores = {task: {name: store(profile, task, name) for name in contest.STUDIES} for task in profile.tasks}
    path = RESULTS / f"{profile.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = sealed.dumps(export(profile.name, stores, quiet=quiet), ensure_ascii=False, separators=(",", ":"))
    path.write_text(text.replace('{"seed"', '\n{"seed"') + "\n", encoding="utf-8")
    return path


def render(profile: contest.Profile) -> None:
    """Page and pictures from the stored records of a profile."""
    from pictures import save

    evidence = load(RESULTS / f"{profile.name}.json")
    for name, chart in charts(evidence).items():
        save(chart, Path("docs/images") / f"benchmark-{profile.name}-{name}.svg")
    Path("docs/benchmark.md").write_text(page(evidence), encoding="utf-8")
    for claim, line in text_of(claims(evidence)).items():
        print(f"  {claim}: {line}")
    print("docs/benchmark.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=[*contest.PROFILES], default="full")
    parser.add_argument(
        "--quick", dest="profile", action="store_const", const="quick", help="short for --profile quick"
    )
    parser.add_argument("--task", action="append", default=[], help="only this task (repeatable)")
    parser.add_argument(
        "--study", action="append", default=[], choices=[*contest.STUDIES], help="only this one of each"
    )
    parser.add_argument("--jobs", type=int, help="processes at a time (default: 2 on a CPU, 1 on a GPU)")
    parser.add_argument("--shared", action="store_true", help="say in the page that the machine was not quiet")
    parser.add_argument("--allow-mixed", action="store_true", help="go on with records of another commit's versions")
    parser.add_argument("--plan", action="store_true", help="only print what would run, and for how long")
    parser.add_argument("--render", action="store_true", help="only write the page from benchmarks/results/")
    given = parser.parse_args()
    profile = contest.PROFILES[given.profile]
    unknown = [task for task in given.task if task not in profile.tasks]
    if unknown:
        parser.error(f"no task {unknown[0]!r} in profile {profile.name!r}; it has {', '.join(profile.tasks)}")
    os.chdir(ROOT)
    torch.set_num_threads(1)
    jobs = given.jobs or (1 if profile.name == "gpu" else min(2, os.cpu_count() or 1))
    try:
        if not given.render:
            carry_out(
                profile, jobs=jobs, only=given.task, parts=given.study, allow_mixed=given.allow_mixed,
                plan_only=given.plan,
            )  # fmt: skip
            if given.plan:
                return 0
            print(write_records(profile, quiet=not given.shared))
        render(profile)
    except SabunError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
