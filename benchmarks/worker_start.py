"""What the start of a worker costs, up to the end of a run of one epoch: our two ways, and those of the library.

    python benchmarks/worker_start.py [--workers 5] [--task digits]

Prints seconds of processor time (the machine may be busy) and of the clock: of the first worker with what is loaded
before it, and the median of the others. The server of ``multiprocessing`` loads the modules that it is told, but no
study; each of its workers makes the task and loads its data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from sabun.poc.executors.processes import _ForkServer, _Interpreters, _WorkerProcess
from sabun.poc.executors.wire import run_unit
from sabun.poc.spec import Run, Study
from sabun.poc.study import default_study

Start = Callable[[], None]
"""Starts a further worker and returns after its first run, of one epoch."""


def unit(study: Study) -> tuple[Run, ...]:
    return (Run(arm=study.baseline.name, seed=0, phase="tune", trial=0, hyperparameters={"lr": 0.01}),)


def ours(server: type[_ForkServer] | type[_Interpreters], study: Study, logs: Path) -> Iterator[Start]:
    setup = json.dumps({"study": study.model_dump(mode="json"), "logs": str(logs)}).encode() + b"\n"
    starter, workers, lines = server(), [], queue.SimpleQueue()
    starter.load(setup)

    def start() -> None:
        workers.append(_WorkerProcess(starter, setup, study.hash, lines))
        workers[-1].start(unit(study))
        for _ in range(3):  # two epochs, with the one before training, and the result
            assert lines.get()[1]

    yield start
    for worker in workers:
        worker.stop(kill=True)
    starter.close()


def serve(connection: Connection, study: Study, logs: Path) -> None:
    from sabun.poc.executors.in_process import InProcess
    from sabun.poc.resolved import resolve

    executor = InProcess(shared=True)
    executor.load(resolve(study), logs)
    for line in run_unit(executor, study.hash, unit(study)):
        connection.send_bytes(line.encode())
    connection.recv_bytes()


def library(method: str, study: Study, logs: Path) -> Iterator[Start]:
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["sabun.poc.executors.in_process", "sabun.poc.resolved"])
    workers = []

    def start() -> None:
        own, other = context.Pipe()
        workers.append((context.Process(target=serve, args=(other, study, logs), daemon=True), own))
        workers[-1][0].start()
        for _ in range(3):
            own.recv_bytes()

    yield start
    for worker, _ in workers:
        worker.kill()
        worker.join()


def processor_time() -> float:
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(each.user + each.system for each in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--task", default="digits")
    given = parser.parse_args()
    study = default_study(
        task=given.task, baseline="torch.optim:SGD", candidates=("torch.optim:AdamW",), epochs=1, trials=1
    )
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "forks of our server": ours(_ForkServer, study, Path(folder)),
            "fresh interpreters": ours(_Interpreters, study, Path(folder)),
            "multiprocessing, forkserver with preload": library("forkserver", study, Path(folder)),
            "multiprocessing, spawn": library("spawn", study, Path(folder)),
        }
        print(f"{'':<42}{'first: CPU s':>14}{'clock s':>10}{'others: CPU s':>16}{'clock s':>10}")
        for name, way in ways.items():
            rows = []
            before = processor_time()
            for index in range(given.workers):
                begin = time.perf_counter()
                if not index:
                    start = next(way)
                start()
                now = processor_time()
                rows.append((now - before, time.perf_counter() - begin))
                before = now
            next(way, None)
            others = [statistics.median(column) for column in zip(*rows[1:], strict=True)]
            print(f"{name:<42}{rows[0][0]:>14.2f}{rows[0][1]:>10.2f}{others[0]:>16.2f}{others[1]:>10.2f}", flush=True)


if __name__ == "__main__":
    import piped

    piped.run(main)
