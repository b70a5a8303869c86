"""Takes POSIX away from a Python on Linux, before anything else is imported, as far as Python can.

A process with this folder first on PYTHONPATH, and every Python that it starts, has no ``fcntl``, ``resource``,
``pwd``, ``os.fork``, ``os.killpg``, ``os.pread``, ``/proc``, ``prctl`` …; what Windows has in their place is imitated:
``msvcrt.locking`` (whose locks keep others from the content), junctions, the refusal to open a directory, to make a
symbolic link and to replace an open file, and ``subprocess.Popen`` without ``preexec_fn`` and ``pass_fds``.
``sys.platform`` stays "linux": the standard library and torch decide by it what to load.

PUT_BACK has "module: statement": the statement is executed in the module once it is loaded. The tests put one call back
that way and see the session fail.
"""

import asyncio  # noqa: F401  # imports fcntl on Linux
import ctypes
import errno
import fcntl
import getpass  # noqa: F401  # imports pwd or msvcrt where it finds them
import importlib.abc
import importlib.machinery
import os
import shutil
import signal
import subprocess
import sys
import tempfile  # noqa: F401
import types

import psutil  # noqa: F401  # imports resource on Linux

MODULES = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp")
OS = (
    "fork", "forkpty", "killpg", "getpgid", "setpgid", "getpgrp", "setpgrp", "getsid", "setsid", "getuid", "geteuid",
    "getgid", "getegid", "getresuid", "sched_getaffinity", "sched_setaffinity", "sched_yield", "nice", "getloadavg",
    "uname", "wait", "wait3", "wait4", "waitid", "register_at_fork", "pread", "pwrite", "preadv", "pwritev", "mkfifo",
    "fchmod", "fchown", "chown", "fchdir", "statvfs", "fstatvfs", "sendfile", "posix_fadvise", "posix_fallocate",
    "sysconf", "confstr", "setpriority", "getpriority", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "O_NONBLOCK",
)  # fmt: skip
SIGNALS = ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM")
ITSELF = ("subprocess", "shutil", "psutil", "multiprocessing", "numpy", "platform", "torch", "ctypes")
"""Packages that have another way on Windows: they may use what they use on Linux."""
PLUMBING = ("sitecustomize", "os", "pathlib", "posixpath", "genericpath", "io", "codecs", "contextlib", "functools")


def _asked_by(*packages: str) -> bool:
    """Whether the nearest caller that is not of the standard library's own plumbing is one of ``packages``."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "").partition(".")[0]
        if name in packages:
            return True
        if name not in PLUMBING:
            return False
        frame = frame.f_back
    return False


def remove() -> None:
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, OS), (sys.modules["posix"], OS), (signal, SIGNALS)):
        kept = {name: getattr(module, name) for name in names if hasattr(module, name)}
        for name in kept:
            delattr(module, name)

        def missing(name: str, module: types.ModuleType = module, kept: dict[str, object] = kept) -> object:
            if name in kept and _asked_by(*ITSELF):
                return kept[name]
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = missing

    def refuse_proc(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.scandir", "os.listdir", "os.chdir") and arguments:
            path = arguments[0]
            path = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
            if path.startswith("/proc") and not _asked_by(*ITSELF):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    sys.addaudithook(refuse_proc)
    symbol = ctypes.CDLL.__getattr__

    def exported(library: ctypes.CDLL, name: str) -> object:
        if name in ("prctl", "fork", "setsid", "kill", "flock"):
            raise AttributeError(f"function {name!r} not found")
        return symbol(library, name)

    ctypes.CDLL.__getattr__ = exported  # type: ignore[method-assign, assignment]


def imitate() -> None:
    ordinary_open, ordinary_replace, ordinary_symlink = os.open, os.replace, os.symlink
    start = subprocess.Popen.__init__

    def opened(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if not isinstance(path, int) and os.path.isdir(path):  # type: ignore[arg-type]
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return ordinary_open(path, flags, mode)  # type: ignore[arg-type]

    def replace(source: object, target: object, **_: object) -> None:
        for number in os.listdir("/dev/fd"):
            try:
                held = os.stat(int(number))
                if os.path.samestat(held, os.stat(target)):  # type: ignore[arg-type]
                    error = PermissionError(errno.EACCES, "Access is denied", target)
                    error.winerror = 5
                    raise error
            except FileNotFoundError:
                break
            except OSError as error:
                if hasattr(error, "winerror"):
                    raise
        ordinary_replace(source, target)  # type: ignore[arg-type]

    def symlink(source: object, target: object, target_is_directory: bool = False, **_: object) -> None:
        error = OSError(errno.EINVAL, "A required privilege is not held by the client", target)
        error.winerror = 1314
        raise error

    def popen(self: object, *arguments: object, **options: object) -> None:
        if options.get("preexec_fn") is not None:
            raise ValueError("preexec_fn is not supported on Windows platforms")
        if options.get("pass_fds"):
            raise ValueError("pass_fds not supported on Windows.")
        start(self, *arguments, **{**options, "start_new_session": False})  # type: ignore[arg-type]

    def locking(handle: int, mode: int, length: int) -> None:
        if os.lseek(handle, 0, os.SEEK_CUR) < os.fstat(handle).st_size:
            raise AssertionError("a lock of the content keeps others from reading it")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    os.open, os.replace, os.rename, os.symlink = opened, replace, replace, symlink  # type: ignore[assignment]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    subprocess.Popen.__init__ = popen  # type: ignore[method-assign, assignment]
    console = types.ModuleType("msvcrt")
    console.LK_NBLCK, console.locking = 2, locking  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = console
    links = types.ModuleType("_winapi")
    links.CreateJunction = lambda source, target: ordinary_symlink(source, target, True)  # type: ignore[attr-defined]
    sys.modules["_winapi"] = links


class PutBack(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Executes a statement in a module once it is loaded."""

    def __init__(self, module: str, statement: str) -> None:
        self.module, self.statement = module, statement

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.module:
            return None
        self.found = importlib.machinery.PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        return importlib.machinery.ModuleSpec(name, self, origin=self.found.origin)

    def create_module(self, spec: object) -> types.ModuleType:
        from importlib.util import module_from_spec

        return module_from_spec(self.found)

    def exec_module(self, module: types.ModuleType) -> None:
        self.found.loader.exec_module(module)
        exec(self.statement, vars(module))


remove()
imitate()
if "PUT_BACK" in os.environ:
    name, _, statement = os.environ["PUT_BACK"].partition(": ")
    sys.meta_path.insert(0, PutBack(name, statement))
