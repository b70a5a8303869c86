"""The worker side of :mod:`sabun.poc.executors.processes`.

    python -m sabun.poc.executors.worker CONTROL     the fork server: loads the study once; every worker is its fork
    python -m sabun.poc.executors.worker             a single worker, where forking is not safe or not possible

Loading torch, the task and its data takes seconds; a fork takes milliseconds, and shares the memory that workers only
read. The fork server is a process with a single thread, so a fork copies no lock that another thread holds. Where that
is not so (the task has started threads or CUDA, or the system is not Linux), a fresh interpreter is started instead.

A worker reads the study and then units of runs, as lines of JSON, and writes epochs and results to its output. What the
user's code prints goes to its log. Worker and fork server end when their input ends, so neither outlives a killed
parent.
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

from sabun.poc.executors.wire import decode_unit, run_unit
from sabun.poc.spec import Study
from sabun.poc.torch_loading import first_optimizer, own_process, uncollected

if TYPE_CHECKING:
    from sabun.poc.executors.in_process import InProcess  # imports torch


def main() -> None:
    own_process()
    if len(sys.argv) > 1:
        _serve_forks(socket.socket(fileno=int(sys.argv[1])))
        return
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines = iter(sys.stdin.buffer.readline, b"")
    serve(*_load(json.loads(next(lines))), lines, reports)


def _load(setup: dict[str, Any]) -> tuple[InProcess, str]:
    """Return an executor with the study loaded, and the study's hash."""
    from sabun.poc.executors.in_process import InProcess
    from sabun.poc.resolved import resolve

    executor = InProcess(shared=True)
    study = Study.build(setup["study"])
    executor.load(resolve(study), Path(setup["logs"]))
    return executor, study.hash


def serve(executor: InProcess, study_hash: str, lines: Iterator[bytes], reports: IO[bytes]) -> None:
    """Run units until the input ends."""
    for line in lines:
        for report in run_unit(executor, study_hash, decode_unit(json.loads(line))):
            reports.write(report.encode() + b"\n")
            reports.flush()


def _serve_forks(control: socket.socket) -> None:
    """Answer ``fork`` (sent with a worker's input, output and log) by its process id, ``wait PID`` by its exit code."""
    with uncollected():
        import sabun.poc.executors.in_process  # noqa: F401  (most of the loading time, before the study is known)
    first_optimizer()
    executor, study_hash = _load(json.loads(sys.stdin.buffer.readline()))
    executor.prepare()
    gc.freeze()  # otherwise the collector of every worker would write to, and so copy, the shared pages
    while True:
        message, handles, _, _ = socket.recv_fds(control, 64, 3)
        if not message:
            os._exit(0)
        request = message.decode().split()
        if request[0] == "fork":
            answer = os.fork()
            if answer == 0:
                control.close()
                _run_worker(executor, study_hash, *handles)
            for handle in handles:
                os.close(handle)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(int(request[1]), 0)[1])
        control.sendall(f"{answer}\n".encode())


def _run_worker(executor: InProcess, study_hash: str, source: int, target: int, log: int) -> None:
    """Serve as a worker in the forked process. Never returns."""
    code = 1
    try:
        if not _fork_is_safe():
            for place, handle in enumerate((source, target, log)):
                os.dup2(handle, place)
            os.execv(sys.executable, [sys.executable, "-m", "sabun.poc.executors.worker"])
        for place, handle in enumerate((source, log, log)):
            os.dup2(handle, place)
        lines = iter(os.fdopen(source, "rb").readline, b"")
        next(lines)  # the study, which is already loaded
        serve(executor, study_hash, lines, os.fdopen(target, "wb"))
        code = 0
    except BaseException:  # noqa: BLE001  (a forked process must not continue in the code of its parent)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_SAFE_THREADS = {"jemalloc_bg_thd"}
"""jemalloc (in pyarrow, which scikit-learn loads through pandas) acquires its locks before a fork and releases them in
both processes."""


def _fork_is_safe() -> bool:
    """Whether this fork can continue: the fork server has neither other threads (their locks) nor a CUDA context."""
    import torch

    tasks = Path(f"/proc/{os.getppid()}/task")
    names = [(task / "comm").read_text(encoding="utf-8").strip() for task in tasks.glob("*")]
    others = len([name for name in names if name not in _SAFE_THREADS]) - 1
    return others == 0 and not bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
