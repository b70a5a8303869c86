"""A worker's side of :mod:`sabun.poc.executors.processes`.

    python -m sabun.poc.executors.worker CONTROL     the nursery: gets ready once, then every worker is a fork of it
    python -m sabun.poc.executors.worker             one worker, for where a fork would not be safe

Getting ready (torch, the task, its data) takes seconds, a fork milliseconds; and what workers only read, such as the
data, they share. The nursery is a process of its own with a single thread, so a fork copies no lock that another thread
holds. Where that does not hold (the task has started threads or CUDA, or the system is not Linux) it starts a fresh
interpreter instead.

A worker reads the study, and then units of runs, as lines of JSON; it writes epochs and results to its output; what the
user's code prints goes to its log. It ends when its input ends, as does the nursery, so neither outlives a parent that
was killed.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sabun.poc.codec import encode, encode_epoch
from sabun.poc.records import RunResult
from sabun.poc.spec import Run, Study
from sabun.poc.startup import first_optimizer, own_process, uncollected

if TYPE_CHECKING:
    from sabun.poc.executors.in_process import InProcess


def main() -> None:
    own_process()
    if len(sys.argv) > 1:
        _nurse(socket.socket(fileno=int(sys.argv[1])))
        return
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines = iter(sys.stdin.buffer.readline, b"")
    serve(_ready(json.loads(next(lines))), lines, reports)


def _ready(setup: dict[str, Any]) -> InProcess:
    from sabun.poc.executors.in_process import InProcess

    executor = InProcess(shared=True)
    executor.load(Study.build(setup["study"]), Path(setup["logs"]))
    return executor


def serve(executor: InProcess, lines: Iterator[bytes], reports: IO[bytes]) -> None:
    """Carry out unit after unit, until the input ends."""
    for line in lines:
        unit = tuple(Run.model_validate(fields) for fields in json.loads(line))
        place = {run.id: index for index, run in enumerate(unit)}
        executor.submit(unit)
        left = len(unit)
        while left:
            run, item = executor.next()
            finished = isinstance(item, RunResult)
            message = {"result": encode(item)} if isinstance(item, RunResult) else {"epoch": encode_epoch(item)}
            reports.write(json.dumps({"run": place[run.id], **message}, allow_nan=False).encode() + b"\n")
            reports.flush()
            left -= finished


def _nurse(control: socket.socket) -> None:
    """Answer ``fork`` (with a worker's input, output and log) by its process id, and ``wait PID`` by how it ended."""
    with uncollected():
        from sabun.poc.executors import in_process as inprocess  # noqa: F401  (before the study is known: the longest part of getting ready)
    first_optimizer()
    executor = _ready(json.loads(sys.stdin.buffer.readline()))
    executor.prepare()
    gc.freeze()  # or the collector of every worker would touch, hence copy, the pages that they share
    while True:
        message, handles, _, _ = socket.recv_fds(control, 64, 3)
        if not message:
            os._exit(0)
        request = message.decode().split()
        if request[0] == "fork":
            answer = os.fork()
            if answer == 0:
                control.close()
                _live(executor, *handles)
            for handle in handles:
                os.close(handle)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(int(request[1]), 0)[1])
        control.sendall(f"{answer}\n".encode())


def _live(executor: InProcess, source: int, target: int, log: int) -> None:
    """The life of a worker, in the forked process. Never returns."""
    code = 1
    try:
        if not _may_fork():
            for place, handle in enumerate((source, target, log)):
                os.dup2(handle, place)
            os.execv(sys.executable, [sys.executable, "-m", "sabun.poc.executors.worker"])
        for place, handle in enumerate((source, log, log)):
            os.dup2(handle, place)
        lines = iter(os.fdopen(source, "rb").readline, b"")
        next(lines)  # the study, which is known
        serve(executor, lines, os.fdopen(target, "wb"))
        code = 0
    except BaseException:  # noqa: BLE001  (a forked process must not run what comes after in its parent)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_SAFE_THREADS = {"jemalloc_bg_thd"}
"""jemalloc (in pyarrow, which pandas loads, which scikit-learn loads) takes its locks around a fork and lets them go
in both processes."""


def _may_fork() -> bool:
    """Whether this copy of the nursery can go on: no other thread was there to hold a lock, and no CUDA context."""
    import torch

    nursery = Path(f"/proc/{os.getppid()}/task")
    names = [(task / "comm").read_text(encoding="utf-8").strip() for task in nursery.glob("*")]
    others = len([name for name in names if name not in _SAFE_THREADS]) - 1
    return others == 0 and not bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
