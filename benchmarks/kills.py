"""Studies that are killed at random times and resumed: do they end with the records of an undisturbed one?

    python benchmarks/kills.py [--kills 250] [--jobs 1 2]

SIGKILL reaches the process of the study alone, whose workers are then orphans while the next process resumes the study,
or all its processes at once. After each kill the evidence must verify and hold every run that it held before. A study
that has come to its end is compared with the undisturbed one, clocks and memory aside, and another one is begun.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from sabun.poc import evidence as stored
from sabun.poc.spec import Study
from sabun.poc.study import default_study, run

TASK = '''
import torch
from torch import nn


class Task:
    """Least squares with three unknowns."""

    batch_size = 4

    def data(self):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(96, 3, generator=generator)
        y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(96, 1, generator=generator)
        return {"train": (x[:64], y[:64]), "validation": (x[64:80], y[64:80]), "test": (x[80:], y[80:])}

    def model(self):
        return nn.Linear(3, 1)

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]), batch[1])
'''


def records(path: Path) -> list[dict[str, Any]]:
    """Every run but those that only measure time, without what clock and memory say."""
    found = []
    for result in stored.read(path).records.results.values():
        if result.phase == "time":
            continue
        fields = dataclasses.asdict(result)
        for key in ("started", "ended", "peak_memory_bytes"):
            del fields[key]
        for epoch in fields["epochs"]:
            for key in ("train_s", "eval_s", "optimizer_s", "load"):
                del epoch[key]
        found.append(fields)
    return sorted(found, key=lambda fields: str(fields["run"]))


def start(study: Study, path: Path, jobs: int) -> int:
    """Run the study in a process group of its own and return its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            run(study, path, jobs=jobs)
            code = 0
        except BaseException as error:  # noqa: BLE001  (a fork must not continue in the code of its parent)
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    return child


def disturb(study: Study, undisturbed: list[dict[str, Any]], folder: Path, kills: int, jobs: int, limit: float) -> str:
    """Kill ``kills`` times, within ``limit`` seconds of each start. Returns what was found; raises SystemExit if that
    is a difference.
    """
    rng = random.Random(jobs)
    done = equal = held = at_work = 0
    path, orphans = folder / "0", 0
    while done < kills or path.exists():
        child = start(study, path, jobs)
        if orphans:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(orphans, signal.SIGKILL)
        orphans = 0
        deadline = time.monotonic() + (rng.uniform(0.0, limit) if done < kills else 600.0)
        status = None
        while status is None and time.monotonic() < deadline:
            ended, code = os.waitpid(child, os.WNOHANG)
            status = code if ended else None
            time.sleep(0.001)
        if status is None:
            if rng.random() < 0.5:
                os.kill(child, signal.SIGKILL)
                orphans = child
            else:
                with contextlib.suppress(ProcessLookupError):  # before it had a group
                    os.killpg(child, signal.SIGKILL)
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            done += 1
        if status not in (0, signal.SIGKILL):
            raise SystemExit(f"jobs {jobs}: resuming failed with status {status} after {done} kills")
        found = stored.verify(path) if stored.exists(path) else None
        if found is None:
            continue
        if not found.ok:
            raise SystemExit(f"jobs {jobs}: after {done} kills the evidence is not valid: {found.problem}")
        count = len(stored.read(path).records.results)
        if count < held:
            raise SystemExit(f"jobs {jobs}: {held - count} finished runs were lost")
        at_work += status != 0 and count > held
        held = count
        if status == 0:
            if records(path) != undisturbed:
                raise SystemExit(f"jobs {jobs}: a study that was killed and resumed has other records")
            shutil.rmtree(path)
            equal += 1
            path, held = folder / str(done), 0
    found = f"jobs {jobs}: {done} kills, {at_work} of them after new runs, {equal} studies"
    return f"{found}, all equal to the undisturbed one"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=250, help="for each number of jobs")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.py").write_text(TASK)
        study = default_study(
            task=f"{folder / 'task.py'}:Task", candidates=["torch.optim:SGD", "torch.optim:AdamW"],
            epochs=3, trials=8, tuning_seeds=2, seeds=6, pruning="median",
        )  # fmt: skip
        run(study, folder / "undisturbed")
        undisturbed = records(folder / "undisturbed")
        for jobs in arguments.jobs:
            begin = time.monotonic()
            run(study, folder / f"undisturbed-{jobs}", jobs=jobs)
            limit = 1.5 * (time.monotonic() - begin)
            if records(folder / f"undisturbed-{jobs}") != undisturbed:
                raise SystemExit(f"jobs {jobs}: other records than with one job, without any kill")
            print(disturb(study, undisturbed, folder, arguments.kills, jobs, limit), flush=True)


if __name__ == "__main__":
    import piped

    piped.run(main)
