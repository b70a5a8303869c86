"""One of two ranks: ``python rank_worker.py WHAT RANK FOLDER``; WHAT is the name of a function."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from sabun import _ranks
from sabun.errors import SabunError
from sabun.rollout import choice_of, jobs, optimizer
from sabun.rollout.guard.guard import Guard
from sabun.rollout.guard.snapshots import DiskSnapshots, MemorySnapshots


def choice(rank: int, folder: str) -> tuple[str, str]:
    """The role, and the error of a job without an ID."""
    if rank == 1:
        os.environ["SABUN_KILL"] = "1"  # a switch that one rank alone sees
    model = nn.Linear(3, 2)
    found = choice_of(optimizer(model.parameters(), job_id="job", path=folder))
    try:
        optimizer(model.parameters(), job_id="", path=folder)
        error = ""
    except SabunError as caught:
        error = str(caught)
    return found.role, error


def guard(rank: int, folder: str) -> dict[str, Any]:
    """What a guard under DDP decides and logs where one rank alone has anomalies, and where it resumes."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01, momentum=0.9)
    champion = lambda params: torch.optim.Adam(params, lr=0.01)  # noqa: E731
    guard = Guard(parallel, optimizer, champion=champion, audit=f"{folder}/audit.jsonl", every=10, max_rollbacks=2)
    torch.manual_seed(100 + rank)
    taken = []
    for step in range(60):
        x = torch.randn(8, 4)
        optimizer.zero_grad()
        loss = (parallel(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        told = loss.detach()
        if step in (*range(30, 34), *range(35, 39)) and rank == 1:  # one rank alone has the anomaly
            told = told * (math.nan if step % 2 else 1e6)
        if step == 45 and rank == 0:
            model.weight.grad[0, 0] = math.nan
        taken.append(guard.step(told))
    # A kill between the two ranks' writes: the newer state is one rank's alone, and neither resumes from it.
    kept = Guard(parallel, optimizer, folder=f"{folder}/states", every=10, disk_share=1.0)
    for _ in range(25):
        kept.step(1.0)
    kept.close()
    torch.distributed.barrier()
    if rank == 1:
        Path(f"{folder}/states/good-20-rank1.pt").unlink()
    torch.distributed.barrier()
    resumed = Guard(parallel, optimizer, folder=f"{folder}/states").resume()
    held = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {"resumed": resumed, "taken": taken, "weights": held, "events": list(guard.events)}


def faults(rank: int, folder: str) -> dict[str, tuple[str, str]]:
    """The types and texts of the errors where one rank alone fails, by what fails; and at last a collective."""
    found: dict[str, tuple[str, str]] = {}
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer_ = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def new(**options: Any) -> Guard:
        return Guard(model, optimizer_, every=10, disk_share=1.0, **options)

    def fails(on: int, what: str, error: Exception) -> Callable[..., Any]:
        """Raises on rank ``on``; on the other one does what the class does."""
        owner, name = {"hold": (MemorySnapshots, "hold"), "restore": (Guard, "_restore")}.get(
            what, (DiskSnapshots, what)
        )
        original = getattr(owner, name)

        def broken(*arguments: Any, **options: Any) -> Any:
            if rank == on:
                raise error
            return original(*arguments, **options)

        return mock.patch.object(owner, name, broken)  # type: ignore[return-value]

    def note(what: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as caught:  # noqa: BLE001
            found[what] = type(caught).__name__, str(caught)

    kept = new(folder=f"{folder}/states")
    for _ in range(15):
        kept.step(1.0)
    kept.close()
    torch.distributed.barrier()
    resuming = new(folder=f"{folder}/states")
    resuming._open(resuming=True)
    weights = [p.detach().clone() for p in model.parameters()]
    with fails(1, "_read", OSError(5, "Input/output error")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        note("reading", resuming.resume)
    assert all(map(torch.equal, weights, model.parameters()))
    resuming.close()
    torch.distributed.barrier()
    resuming = new(folder=f"{folder}/states")
    with fails(0, "restore", RuntimeError("no memory")):
        note("restoring", resuming.resume)
    note("again", lambda: found.update(again=("", str(resuming.resume()))))
    state = kept.state_dict()
    note("loading", lambda: new().load_state_dict({**state, "steps": "x"} if rank else state))
    with fails(1, "_write", OSError(28, "No space left on device")):
        note("writing", lambda: new(folder=f"{folder}/full").step(1.0))
    with fails(1, "hold", RuntimeError("no memory")):
        note("keeping", lambda: new().step(1.0))

    def champion(params: Any) -> torch.optim.Optimizer:
        if rank == 0:
            raise ImportError("no module named champion")
        return torch.optim.SGD(params, lr=0.01)

    falling = new(champion=champion, max_rollbacks=1)
    note("champion", lambda: [falling.step(math.nan if n > 2 else 1.0) for n in range(40)])
    stored = optimizer(model.parameters(), job_id="job", path=folder).state_dict()
    checkpoint = {key: value for key, value in stored.items() if rank == 0 or key != "sabun_rollout"}
    note("choice", lambda: optimizer(model.parameters(), job_id="job", path=folder, checkpoint=checkpoint))
    with mock.patch.object(jobs, "build", None if rank else jobs.build):
        note("building", lambda: optimizer(model.parameters(), job_id="job", path=folder))
    one = torch.ones(())
    torch.distributed.all_reduce(one)
    return {**found, "at last": ("", str(one.item()))}


class Killed(BaseException):
    """Stands for a signal that no process survives."""


def steps(rank: int, folder: str) -> dict[str, Any]:
    """Where the ranks resume after faults between their writes, from what files; and an error, or none."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer_ = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    found: dict[str, Any] = {}

    def new(name: str, keep: int = 1) -> Guard:
        return Guard(model, optimizer_, every=10, keep=keep, disk_share=1.0, folder=f"{folder}/{name}")

    def train(guard: Guard, number: int) -> None:
        for _ in range(number):
            guard.step(1.0)

    def files(name: str) -> list[str]:
        torch.distributed.barrier()
        names = sorted(path.name for path in Path(f"{folder}/{name}").glob("good-*"))
        torch.distributed.barrier()
        return names

    def resumed(name: str, what: str = "") -> None:
        names = files(name)
        guard = new(name)
        try:
            found[what or name] = names, guard.resume(), ""
        except SabunError as error:
            found[what or name] = names, None, str(error)
        guard.close()
        torch.distributed.barrier()

    def first_alone(name: str, number: int) -> None:
        """Both are killed where rank 0 has written a state and rank 1 has not."""
        guard, write, exchange, written = new(name), DiskSnapshots._write, _ranks.gathered, []

        def killed_before(self: DiskSnapshots, snapshot: Any) -> None:
            if rank == 1:
                raise Killed
            write(self, snapshot)
            written.append(snapshot.step)

        def killed_after(value: Any) -> Any:
            if written:
                raise Killed
            return exchange(value)

        train(guard, number)
        with (
            contextlib.suppress(Killed),
            mock.patch.object(DiskSnapshots, "_write", killed_before),
            mock.patch.object(_ranks, "gathered", killed_after),
        ):
            train(guard, 10)
        guard.close()

    first_alone("killed", 15)
    resumed("killed")
    first_alone("killed in the first write", 0)
    resumed("killed in the first write")

    guard, write = new("full"), DiskSnapshots._write
    train(guard, 15)

    def fails(self: DiskSnapshots, snapshot: Any) -> None:
        if rank == 1:
            raise OSError(28, "No space left on device")
        write(self, snapshot)

    with mock.patch.object(DiskSnapshots, "_write", fails), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(guard, 10)
    guard.close()
    resumed("full")

    guard = new("lost", keep=2)
    train(guard, 25)
    guard.close()
    own = Path(f"{folder}/lost/good-20-rank1.pt" if rank else f"{folder}/lost/good-10.pt")
    torch.distributed.barrier()
    own.rename(own.with_suffix(".away"))
    weights = [p.detach().clone() for p in model.parameters()]
    resumed("lost")
    assert all(map(torch.equal, weights, model.parameters()))
    if rank:  # the files of one rank alone
        Path(f"{folder}/lost/good-10-rank1.pt").unlink()
    resumed("lost", "lost on one rank")
    own.with_suffix(".away").rename(own)
    resumed("lost", "brought back")
    for path in () if rank else Path(f"{folder}/lost").glob("good-*"):
        path.unlink()
    resumed("lost", "moved away")
    return found


if __name__ == "__main__":
    what, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )  # fmt: skip
    found = {"choice": choice, "guard": guard, "faults": faults, "steps": steps}[what](rank, folder)
    torch.save(found, f"{folder}/rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # without torch's destructors, which have hung
