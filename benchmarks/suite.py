"""The benchmark: one command, resumable, from nothing to the page in the docs.

    python benchmarks/suite.py                      # all tasks, at most 100 minutes on 2 quiet cores
    python benchmarks/suite.py --quick              # one task a family, at most 12 minutes
    python benchmarks/suite.py --profile gpu        # larger models, on one GPU
    python benchmarks/suite.py --plan               # what would run, and how long it would take here
    python benchmarks/suite.py --part development   # only the families on which something may be chosen
    python benchmarks/suite.py --candidates         # the preset with one ingredient changed, on development families
    python benchmarks/suite.py --confirm            # those of them that were named for it, on check families
    python benchmarks/suite.py --repeat 1           # four arms searched again, with another seed and other trials
    python benchmarks/suite.py --decays             # the centre of each arm's weight decay, on development families
    python benchmarks/suite.py --render             # only the page, from the stored records

Runs go to ``runs/benchmark/PROFILE/TASK/ARM.jsonl``, one line each, as they end: a killed benchmark goes on there.
Compact records go to ``benchmarks/results/PROFILE.json``, the page to ``docs/benchmark.md`` (of another profile than
the full one: ``docs/benchmark-PROFILE.md``), its pictures to ``docs/images/``. Candidates' records go to
``benchmarks/results/candidates.json``, those of a repeated search to ``repeat-N.json``; neither holds a check family.
``--candidates --arm sabun --arm NAME`` adds a candidate to the stored ones if the preset's runs are still the same.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

import sealed  # noqa: E402
from comparison import search as searching  # noqa: E402
from comparison.clock import clock  # noqa: E402
from comparison.contestants import ARMS, BASELINE, CANDIDATES, CONFIRMED, OURS, TUNED, UNTUNED  # noqa: E402
from comparison.families import CHECK, DEVELOPMENT, TASKS, development_only, part_of  # noqa: E402
from comparison.page import against, candidates_by_task, candidates_table, charts, lines_of, page  # noqa: E402
from comparison.records import Book, MissingRunError, Sizing  # noqa: E402
from comparison.scores import ArmResult, Curve, Results, TaskResult, with_arms  # noqa: E402
from comparison.spaces import CENTRES, FIRST, decay_at, start_of  # noqa: E402
from comparison.training import POINTS  # noqa: E402
from sabun.errors import SabunError  # noqa: E402

WORK = Path("runs/benchmark")
RESULTS = Path("benchmarks/results")
SCHEMA = 2


@dataclass(frozen=True)
class Profile:
    """How much of everything; ``minutes``: what it may take on two quiet cores (or one GPU).

    ``trials``: 0 compares candidates at their best rates alone, each rate trained with every seed.
    ``candidates``: those that are compared with the preset. ``names``: only these tasks, of one part; ``repeat``: which
    search, 0 the one whose records the page shows. With either, no tolerance is measured.
    """

    name: str
    minutes: int
    sizing: Sizing
    trials: int
    seeds: int
    per_family: int | None = None
    names: tuple[str, ...] = ()
    repeat: int = 0
    candidates: tuple[str, ...] = ()

    @property
    def tolerance(self) -> tuple[str, ...]:
        """Arms whose valley is followed on both sides until it ends."""
        return () if self.names else (BASELINE, OURS)

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms of the profile."""
        return REPEATED if self.repeat else (OURS, *self.candidates) if self.candidates else (*TUNED, *UNTUNED)

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """Seeds of the evaluation runs; those of candidates are others, because rates are chosen on them, too."""
        return tuple(range(1, self.seeds + 1) if self.trials else range(101, 101 + self.seeds))

    @property
    def file(self) -> str:
        """The name of its records in the results."""
        return f"repeat-{self.repeat}.json" if self.repeat else f"{self.name}.json"

    @property
    def tasks(self) -> list[str]:
        """The tasks of the profile: all, or those that it names, or the first ones of each family."""
        taken: dict[str, int] = {}
        chosen = []
        for name, task in TASKS.items():
            taken[task.family] = taken.get(task.family, 0) + 1
            if name in (self.names or TASKS) and taken[task.family] <= (self.per_family or math.inf):
                chosen.append(name)
        return chosen


QUICKER = (
    "concrete", "wine-quality", "housing", "word-bag", "skip-gram", "digits-cnn-norm", "shakespeare-lstm",
    "shakespeare-fused", "cifar-diffusion", "citeseer-gcn", "digits-autoencoder",
)  # fmt: skip
"""The quicker tasks of every development family, on which repeated searches run."""


def _of_part(part: str) -> tuple[str, ...]:
    return tuple(name for name in TASKS if part_of(name) == part)


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("quick", 12, Sizing(0.4), trials=4, seeds=2, per_family=1),
        Profile("full", 100, Sizing(1.0), trials=8, seeds=4),
        Profile("gpu", 300, Sizing(4.0, 4, "cuda"), trials=8, seeds=4),
        Profile("candidates", 60, Sizing(1.0), trials=0, seeds=3, names=_of_part(DEVELOPMENT), candidates=CANDIDATES),
        Profile("confirmation", 20, Sizing(1.0), trials=0, seeds=6, names=_of_part(CHECK), candidates=CONFIRMED),
    )
}
REPEATED = (OURS, "Muon + AdamW", "NorMuon + AdamW", "SOAP")
"""Arms whose search is repeated, which tells how much of a figure the search decides."""


def book_of(profile: Profile, task: str, arm: str, *, only_stored: bool = False) -> Book:
    """The runs of an arm on a task."""
    name = arm.replace(", ", "-").replace(" + ", "-").replace(" ", "-")
    return Book(WORK / profile.name / task / f"{name}.jsonl", profile.sizing, only_stored=only_stored)


# ---------------------------------------------------------------- jobs, each in a process of its own


@dataclass(frozen=True)
class Job:
    """One piece of work that can be stored and resumed: the rates, or search and seeds, of an arm on a task."""

    kind: str
    task: str
    arm: str
    start: float = 0.0
    seconds: float = 0.0
    decay: float | None = None


def _quiet_start() -> None:
    torch.set_num_threads(1)


def carry_out(profile: Profile, job: Job) -> Job:
    """Do a job; whatever is stored is not done again."""
    perform(book_of(profile, job.task, job.arm), profile, job)
    return job


def perform(book: Book, profile: Profile, job: Job) -> Any:
    """The result of a job, from stored runs or new ones."""
    if job.kind == "rates":
        name = "decay" if ARMS[job.arm].ours else "weight_decay"
        changed = {} if job.decay is None else {name: job.decay}
        return searching.rates(book, job.task, job.arm, job.start, changed)
    if job.kind == "defaults":
        arm = ARMS[job.arm]
        runs = [book.run(job.task, job.arm, arm.rate, {}, arm.fixed or "linear", seed) for seed in profile.seed_numbers]
        return None, runs, None
    if profile.trials:
        found = searching.search(book, job.task, job.arm, job.start, profile.trials, profile.repeat)
    else:
        found = searching.search_rate(book, job.task, job.arm, job.start, profile.seed_numbers)
    runs = [book.run(job.task, job.arm, found.lr, found.chosen, found.schedule, seed) for seed in profile.seed_numbers]
    followed = job.arm in profile.tolerance
    return found, runs, searching.tolerance(book, job.task, job.arm, job.start) if followed else None


def _all(profile: Profile, jobs: list[Job], workers: int, progress: Progress) -> None:
    """All jobs, the long ones first."""
    ordered = sorted(jobs, key=lambda job: -job.seconds)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_quiet_start) as pool:
        waiting = [pool.submit(carry_out, profile, job) for job in ordered]
        try:
            for done in as_completed(waiting):
                progress.finished(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Progress:
    """Prints what is done, and how long the rest will take at the pace so far."""

    def __init__(self, planned: float, workers: int) -> None:
        self.planned, self.workers = planned, workers
        self.done = 0.0
        self.began = self.shown = time.monotonic()

    def finished(self, job: Job) -> None:
        self.done += job.seconds
        now = time.monotonic()
        if now - self.shown > 20:
            self.shown = now
            left = (self.planned - self.done) * (now - self.began) / max(self.done, 1e-9)
            print(f"  {self.done / self.planned:4.0%}  {job.kind} {job.task}, {job.arm}: {left / 60:.0f} min left",
                  flush=True)  # fmt: skip


# ---------------------------------------------------------------- plan

Start = Callable[[str, str], float]
"""Task, arm → where the lattice of rates begins."""


def seconds_per_run(profile: Profile, tasks: Iterable[str], arms: Iterable[str]) -> dict[str, dict[str, float]]:
    """Task → arm → seconds of one run, from a few steps timed here; measured once for a profile and kept."""
    path = WORK / profile.name / "plan.json"
    known: dict[str, dict[str, float]] = {}
    with contextlib.suppress(FileNotFoundError, SabunError):  # what is damaged is measured again
        known = sealed.read(path)
    for task in tasks:
        missing = [arm for arm in arms if arm not in known.setdefault(task, {})]
        if missing:
            steps = profile.sizing.steps(TASKS[task].steps)
            settings = {arm: (ARMS[arm].rate * 0.01, ARMS[arm].defaults()) for arm in missing}
            timed = clock(task, settings, rounds=3, sizing=profile.sizing)
            for arm, step in timed.items():
                known[task][arm] = step * (steps + POINTS)  # a score costs about one step
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(sealed.dumps(known, indent=0) + "\n", encoding="utf-8")
    return known


def jobs_of(profile: Profile, tasks: list[str], arms: list[str], seconds: Mapping[str, Mapping[str, float]],
            start: Start) -> list[Job]:  # fmt: skip
    """All jobs after the centres are known."""
    found = []
    for task in tasks:
        for arm in arms:
            one = seconds[task][arm]
            if ARMS[arm].fixed:
                found.append(Job("defaults", task, arm, 0.0, one * profile.seeds))
                continue
            lattice = 1.0 if part_of(task) == DEVELOPMENT else 4.0  # most of it is stored from the centres
            runs = lattice + profile.trials + 2.5 + profile.seeds + (4 if arm in profile.tolerance else 0)
            runs = runs if profile.trials else 3.5 * profile.seeds
            found.append(Job("search", task, arm, start(task, arm), one * runs))
    return found


def rate_jobs(tasks: list[str], arms: list[str], seconds: Mapping[str, Mapping[str, float]]) -> list[Job]:
    """The lattices on development families, from which the centres come."""
    return [
        Job("rates", task, arm, start_of(arm, ARMS[arm].rate), 4 * seconds[task][arm])
        for task in tasks
        if part_of(task) == DEVELOPMENT
        for arm in arms
        if not ARMS[arm].fixed
    ]


def centres(profile: Profile, tasks: Iterable[str], arms: Iterable[str]) -> dict[str, float]:
    """Arm → start of its lattice: the mean of its best rates over development families, on the lattice of its
    documented rate, so that the runs of those families are used again."""
    found = {}
    for arm in arms:
        if ARMS[arm].fixed:
            continue
        best = {}
        for task in development_only(tasks):
            book = book_of(profile, task, arm, only_stored=True)
            try:
                rate = perform(book, profile, Job("rates", task, arm, start_of(arm, ARMS[arm].rate)))
            except MissingRunError:
                continue
            best[task] = rate[0]
        if best:
            found[arm] = _on_lattice(searching.centre(best), start_of(arm, ARMS[arm].rate))
    return found


def _on_lattice(rate: float, start: float) -> float:
    return start * 2.0 ** round(math.log2(rate / start))


def centre_decay(profile: Profile, arm: str, start: float, workers: int) -> dict[str, Any]:
    """The weight decay with the lowest loss over the development families, and the mean of the best rates there.

    The loss of a decay is that of the best rate, on a logarithmic scale, averaged over tasks and then over families.
    From where the search begins in factors of √10, until the best has a worse neighbour on either side.
    """
    tasks = [task for task in profile.tasks if part_of(task) == DEVELOPMENT]
    seconds = seconds_per_run(profile, tasks, [arm])
    losses: dict[int, float] = {}
    rates: dict[int, float] = {}

    def value(n: int) -> float:
        jobs = [Job("rates", task, arm, start, 4 * seconds[task][arm], decay_at(arm, n)) for task in tasks]
        _all(profile, jobs, workers, Progress(sum(job.seconds for job in jobs), workers))
        of_family: dict[str, list[float]] = {}
        best = {}
        for job in jobs:
            best[job.task], _, runs = perform(book_of(profile, job.task, arm, only_stored=True), profile, job)
            of_family.setdefault(TASKS[job.task].family, []).append(math.log(min(run.best for run in runs)))
        losses[n], rates[n] = fmean(map(fmean, of_family.values())), searching.centre(best)
        return losses[n]

    lowest, _ = searching.bracket(value, furthest=5)
    return {
        "decay": decay_at(arm, lowest),
        "rate": _on_lattice(rates[lowest], start),
        "losses": {f"{decay_at(arm, n):g}": float(f"{losses[n]:.4g}") for n in sorted(losses)},
    }


# ---------------------------------------------------------------- records


def collect(profile: Profile, tasks: Iterable[str], arms: Iterable[str], start: Start,
            seconds: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:  # fmt: skip
    """The compact records of what is stored; an arm whose runs are incomplete on a task is left out there."""
    found: dict[str, Any] = {}
    for task in tasks:
        rows = {}
        for arm in arms:
            kind = "defaults" if ARMS[arm].fixed else "search"
            book = book_of(profile, task, arm, only_stored=True)
            try:
                result, runs, wide = perform(book, profile, Job(kind, task, arm, start(task, arm)))
            except MissingRunError:
                continue
            tried = [] if result is None else [*result.rates, *result.trials]
            rows[arm] = {
                "lr": ARMS[arm].rate if result is None else result.lr,
                "chosen": {} if result is None else dict(result.chosen),
                "schedule": ARMS[arm].fixed or (result.schedule if result else "linear"),
                "at_edge": bool(result and result.at_edge),
                "trials": [[run.lr, _short(run.best), run.effective] for run in tried],
                "runs": [[run.seed, list(run.steps), [_short(s) for s in run.scores], run.finished] for run in runs],
                "step_s": seconds.get(task, {}).get(arm),
                "tolerance": wide,
            }
        if rows:
            found[task] = {"family": TASKS[task].family, "part": part_of(task), "judged": TASKS[task].judged,
                           "arms": rows}  # fmt: skip
    return found


def _short(value: float) -> float | str:
    return float(f"{value:.6g}") if math.isfinite(value) else repr(value)


def load(path: Path) -> Results:
    """Read a file of records; without one, no tasks. Raises StoreError for a file that was changed, ValueError for
    another format."""
    if not path.exists():
        return Results(path.stem, {})
    raw = sealed.read(path)
    if raw.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not of schema {SCHEMA}; write it again with benchmarks/suite.py")
    tasks = {
        name: TaskResult(
            task["family"],
            task["part"],
            {
                arm: ArmResult(
                    tuple(Curve(seed, tuple(steps), tuple(map(float, scores)), finished)
                          for seed, steps, scores, finished in row["runs"]),
                    row["lr"], row["chosen"], row["schedule"], row["at_edge"],
                    tuple((lr, float(best), moved) for lr, best, moved in row["trials"]),
                    row["step_s"], row["tolerance"],
                )
                for arm, row in task["arms"].items()
            },
            task["judged"],
        )
        for name, task in raw["tasks"].items()
    }  # fmt: skip
    return Results(raw["profile"], tasks, {key: value for key, value in raw.items() if key != "tasks"})


def write(profile: Profile, path: Path, tasks: Mapping[str, Any], starts: Mapping[str, float], *, quiet: bool) -> None:
    """The file of records, one line a task."""
    about = {
        "schema": SCHEMA, "profile": profile.name, "quiet": quiet, "trials": profile.trials, "seeds": profile.seeds,
        "torch": torch.__version__, "centres": starts, **({"search": "again"} if profile.repeat else {}),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "device": profile.sizing.device},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    text = sealed.dumps({**about, "tasks": dict(tasks)}, ensure_ascii=False)
    path.write_text(text.replace('{"family"', '\n{"family"') + "\n", encoding="utf-8")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def added(path: Path, tasks: Mapping[str, Any]) -> dict[str, Any]:
    """New records with the arms that the file has beside theirs.

    Raises ValueError if the preset's runs are not those of the file: the others would be compared with another preset.
    """
    stored = sealed.read(path)["tasks"] if path.exists() else {}
    made = {}
    for name, task in {**stored, **tasks}.items():
        old, new = (records.get(name, {"arms": {}})["arms"] for records in (stored, tasks))
        if old and old[OURS]["runs"] != new.get(OURS, {}).get("runs"):
            raise ValueError(f"{name}: the runs of {OURS} are not those of {path}; run all candidates again.")
        made[name] = {**task, "arms": {**old, **new}}
    return made


def candidates(name: str = "candidates") -> Results:
    """The stored records of the candidates and of the preset beside them, with the baseline that sets the targets."""
    return with_arms(load(RESULTS / f"{name}.json"), load(RESULTS / "full.json"), {BASELINE: BASELINE})


def repeats() -> list[Results]:
    """The stored records of the repeated searches."""
    return [load(path) for path in sorted(RESULTS.glob("repeat-*.json"))]


def candidates_tables() -> dict[str, list[str]]:
    """Their tables, by the name that the page has for each."""
    developed, confirmed = candidates(), candidates("confirmation")
    return {
        "candidates": candidates_table(developed),
        "by task": candidates_by_task(developed),
        "confirmation": candidates_table(confirmed),
        "confirmation by task": candidates_by_task(confirmed),
    }


def fill_candidates() -> None:
    """The tables of the candidates in docs/research/families.md, from their stored records."""
    path = Path("docs/research/families.md")
    text = path.read_text(encoding="utf-8")
    for name, made in candidates_tables().items():
        head, mark, rest = text.partition(f"<!-- table: {name} -->\n\n")
        text = head + mark + "\n".join(made) + rest[rest.index("\n\n") + 1 :]
    path.write_text(text, encoding="utf-8")


def render(name: str) -> None:
    """Page and pictures from the stored records of a profile."""
    from pictures import save

    fill_candidates()
    if PROFILES[name].candidates:
        return
    results = load(RESULTS / f"{name}.json")
    for label, chart in charts(results).items():
        save(chart, Path("docs/images") / f"benchmark-{name}-{label}.svg")
    to = Path("docs") / ("benchmark.md" if name == "full" else f"benchmark-{name}.md")
    to.write_text(page(results, repeats() if name == "full" else ()), encoding="utf-8")
    for claim, line in lines_of(results).items():
        print(f"  {claim}: {line or 'not measured'}")
    print(to)


# ---------------------------------------------------------------- the command


def run(profile: Profile, tasks: list[str], arms: list[str], *, workers: int, plan_only: bool, quiet: bool,
        path: Path, adds: bool = False) -> None:  # fmt: skip
    """Everything that is not stored yet, then the records; ``adds`` them to those of the file."""
    seconds = seconds_per_run(profile, tasks, arms)
    lattices = [] if profile.names else rate_jobs(profile.tasks, arms, _filled(profile, seconds, arms))

    def guess(task: str, arm: str) -> float:
        return ARMS[arm].rate

    planned = sum(job.seconds for job in [*lattices, *jobs_of(profile, tasks, arms, seconds, guess)])
    print(
        f"profile {profile.name}: {len(tasks)} tasks, {len(arms)} arms, {profile.trials} trials, {profile.seeds} seeds"
    )
    for task in tasks:
        minutes = sum(job.seconds for job in jobs_of(profile, [task], arms, seconds, guess)) / 60 / workers
        print(f"  {task:20} {part_of(task):12} {profile.sizing.steps(TASKS[task].steps):5} steps {minutes:6.1f} min")
    print(f"  in all {planned / 60 / workers:.0f} min with {workers} jobs as this machine is now; meant for at most "
          f"{profile.minutes} min")  # fmt: skip
    if plan_only:
        return
    progress = Progress(planned, workers)
    _all(profile, lattices, workers, progress)
    if profile.names:  # around the centres of the full profile
        known = load(RESULTS / "full.json")
        starts = {arm: known.about["centres"][OURS if arm in CANDIDATES else arm] for arm in arms}
    else:
        starts = centres(profile, [task for task in profile.tasks if part_of(task) == DEVELOPMENT], arms)

    def start(task: str, arm: str) -> float:
        if not profile.trials:  # candidates: around the preset's own rate on the task, on the lattice of its centre
            return _on_lattice(known.tasks[task].arms[OURS].lr or ARMS[OURS].rate, starts[arm])
        return starts.get(arm, ARMS[arm].rate)

    _all(profile, jobs_of(profile, tasks, arms, seconds, start), workers, progress)
    timed = {}
    for task in tasks:
        chosen = {}
        for arm, row in collect(profile, [task], arms, start, {}).get(task, {"arms": {}})["arms"].items():
            chosen[arm] = (row["lr"] * 0.01, row["chosen"])  # a small rate: what is timed does not depend on it
        timed[task] = clock(task, chosen, sizing=profile.sizing) if chosen else {}
    found = collect(profile, tasks, arms, start, timed)
    write(profile, path, added(path, found) if adds else found, starts, quiet=quiet)
    print(path)


def _filled(
    profile: Profile, seconds: Mapping[str, Mapping[str, float]], arms: list[str]
) -> dict[str, dict[str, float]]:
    """The seconds of development tasks that are not asked for, measured too: the centres need their lattices."""
    wanted = [task for task in profile.tasks if part_of(task) == DEVELOPMENT]
    return {**seconds_per_run(profile, wanted, arms), **{task: dict(row) for task, row in seconds.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=[*PROFILES], default="full")
    parser.add_argument("--quick", dest="profile", action="store_const", const="quick", help="short for a profile")
    parser.add_argument("--candidates", dest="profile", action="store_const", const="candidates",
                        help="the preset with one ingredient changed, on development families")  # fmt: skip
    parser.add_argument("--confirm", dest="profile", action="store_const", const="confirmation",
                        help="those of them that were named for it, on check families")  # fmt: skip
    parser.add_argument("--repeat", type=int, default=0, metavar="N", help="search four arms again, the N-th time")
    parser.add_argument("--part", choices=[DEVELOPMENT, CHECK], help="only the families of one part")
    parser.add_argument("--task", action="append", default=[], choices=[*TASKS], help="only this task (repeatable)")
    parser.add_argument("--arm", action="append", default=[], choices=[*ARMS], help="only this arm (repeatable)")
    parser.add_argument("--jobs", type=int, help="processes at a time (default: 2 on a CPU, 1 on a GPU)")
    parser.add_argument("--shared", action="store_true", help="say in the page that the machine was not quiet")
    parser.add_argument("--plan", action="store_true", help="only print what would run, and for how long")
    parser.add_argument("--render", action="store_true", help="only write the page from benchmarks/results/")
    parser.add_argument("--decays", action="store_true", help="search the centre of each arm's weight decay, and stop")
    given = parser.parse_args()
    profile = PROFILES[given.profile]
    os.chdir(ROOT)
    torch.set_num_threads(1)
    if given.render:
        render(profile.name)
        return 0
    workers = given.jobs or (1 if profile.sizing.device != "cpu" else min(2, os.cpu_count() or 1))
    if given.decays:
        if profile.name != "full":
            parser.error("the centres of the weight decays are those of the full profile: leave --profile out.")
        stored = load(RESULTS / "full.json").about.get("centres", {})
        found = {}
        for arm in FIRST:
            found[arm] = centre_decay(profile, arm, stored.get(arm, ARMS[arm].rate), workers)
            print(f"  {arm}: {found[arm]}", flush=True)
        CENTRES.write_text(sealed.dumps({"arms": found}, indent=1) + "\n", encoding="utf-8")
        print(CENTRES)
        return 0
    if given.repeat:
        if profile.name != "full" or given.repeat < 0:
            parser.error("--repeat N, from 1, searches again in the full profile: leave --profile out.")
        profile = replace(profile, names=QUICKER, repeat=given.repeat)
    tasks = [name for name in given.task or profile.tasks if given.part in (None, part_of(name))]
    arms = given.arm or [*profile.arms]
    if set(arms) - {OURS} - set(profile.candidates) and profile.candidates:
        parser.error(f"--arm: this profile compares {', '.join(profile.arms)}.")
    if set(arms) & set(CANDIDATES) and profile.candidates != CONFIRMED:
        try:
            development_only(tasks)
        except PermissionError as error:
            parser.error(f"{error} Add --part development.")
    adds = bool(profile.candidates and OURS in given.arm)
    whole = not (given.part or given.task or (given.arm and not adds))
    path = RESULTS / profile.file if whole else WORK / profile.name / "partial.json"
    run(profile, tasks, arms, workers=workers, plan_only=given.plan, quiet=not given.shared, path=path,
        adds=adds and whole)  # fmt: skip
    if given.plan:
        return 0
    if whole:
        render(profile.name)
        return 0
    results = (
        load(path) if BASELINE in arms else with_arms(load(path), load(RESULTS / "full.json"), {BASELINE: BASELINE})
    )
    for claim, line in lines_of(results).items():
        print(f"  {claim}: {line or 'not measured'}")
    for arm in (arm for arm in arms if arm in CANDIDATES):
        for peer, line in against(results, arm).items():
            print(f"  {arm} / {peer}: {line}")
    return 0


if __name__ == "__main__":
    import piped

    piped.run(main)
