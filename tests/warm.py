"""A Python that has its imports behind it: scripts run in forks of a process that imported torch (and more) once.

``Warm(modules)`` starts the server; ``Warm.command`` stands where ``python`` stands in a command. Importing torch takes
seconds, so tests that start a user's script many times start it like this. What is under test is not imported before:
each fork imports sabun for itself, as a fresh Python would.
"""

from __future__ import annotations

import os
import sys


def serve(path: str, modules: list[str]) -> None:
    import contextlib
    import ctypes
    import gc
    import importlib
    import signal
    import socket

    with contextlib.suppress(AttributeError, OSError, TypeError):  # Linux has it: tests that are killed leave no server
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all pages
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    print("ready", flush=True)  # noqa: T201
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            attend(connection)
        connection.close()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def attend(connection: object) -> None:
    """Fork once more, for the script; tell the client how that ended."""
    import contextlib
    import json
    import socket

    message, files, _, _ = socket.recv_fds(connection, 1 << 20, 2)  # type: ignore[arg-type]
    script = os.fork()
    if script == 0:
        carry_out(json.loads(message), files)
    code = os.waitstatus_to_exitcode(os.waitpid(script, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # the client may have been killed meanwhile
        connection.sendall(str(code).encode())  # type: ignore[attr-defined]
    os._exit(0)


def carry_out(order: dict[str, object], files: list[int]) -> None:
    import atexit
    import runpy
    import traceback

    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]
    os.chdir(str(order["directory"]))
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    # New streams: those of the server remember that its files could seek.
    sys.stdout = open(1, "w", buffering=1, encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = list(order["arguments"])  # type: ignore[call-overload]
    added = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    module = sys.argv[1] if sys.argv[0] == "-m" else None
    if module is not None:
        del sys.argv[0]
    place = os.path.dirname(os.path.abspath(sys.argv[0]))  # noqa: PTH100, PTH120  (no import here)
    sys.path[:0] = [place if module is None else os.getcwd(), *added]  # noqa: PTH109
    sys.modules.pop("sabun", None)  # where it was imported before: the script's own import begins the run
    code = 0
    try:
        if module is not None:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001  (as Python itself ends)
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ask(path: str, arguments: list[str]) -> None:
    """In the place of ``python``: hand over, wait, and end as the script ended."""
    import json
    import signal
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        order = {"environment": dict(os.environ), "directory": os.getcwd(), "arguments": arguments}  # noqa: PTH109
        socket.send_fds(server, [json.dumps(order).encode()], [1, 2])
        code = int(server.recv(16) or b"1")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


class Warm:
    """The server, as a context."""

    def __init__(self, *modules: str) -> None:
        import tempfile

        self.modules = ("numpy", "torch", "torch._dynamo", *modules)
        self.directory = tempfile.TemporaryDirectory(prefix="warm-")
        self.socket = f"{self.directory.name}/socket"

    def __enter__(self) -> Warm:
        import subprocess

        self.server = subprocess.Popen(
            [sys.executable, __file__, "serve", self.socket, *self.modules],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.server.stdout is not None
        if self.server.stdout.readline() != b"ready\n":
            raise RuntimeError(f"cannot import {self.modules}")
        return self

    def __exit__(self, *_: object) -> None:
        import signal

        os.killpg(self.server.pid, signal.SIGKILL)  # with whatever still runs
        self.server.wait()
        self.directory.cleanup()

    @property
    def command(self) -> str:
        """What stands for ``python`` in a script's command."""
        return f"{sys.executable} -I -S {__file__} ask {self.socket}"


if __name__ == "__main__":
    {"serve": lambda: serve(sys.argv[2], sys.argv[3:]), "ask": lambda: ask(sys.argv[2], sys.argv[3:])}[sys.argv[1]]()
