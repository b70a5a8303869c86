"""A notebook as a script: its code cells in order, in a fresh kernel that ends with the run.

    python -m sabun.script.notebook train.ipynb epochs=5 seed=3

``NAME=VALUE`` sets a parameter: an assignment after the cell with the tag ``parameters``, as papermill does it. VALUE
is a Python literal, otherwise a text. The kernel is one of the interpreter that runs this module, in the directory of
the notebook, without the startup files and the history of IPython. What cells print goes to the standard output of this
process. When a cell fails, the last line that is printed names it, and the exit status is 1.

A study starts this file by its path (:data:`RUNNER`), so that only the kernel loads torch. Therefore it imports nothing
of sabun. It needs the extra ``notebook``: nbclient, nbformat and ipykernel.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

__all__ = ["INSTALL", "RUNNER", "SUFFIX", "code_cells", "main", "missing", "with_parameters"]

SUFFIX = ".ipynb"
"""The suffix of a notebook."""
RUNNER = Path(__file__)
"""The file that ``python`` runs with a notebook and its parameters."""
INSTALL = "pip install 'sabun[notebook]'"
"""The command that installs what is needed."""

PARAMETERS = "parameters"
"""The tag of the cell with the defaults of the parameters."""
MODULES = ("nbclient", "nbformat", "ipykernel")

END = "import sys\nif 'sabun.script.client' in sys.modules:\n    sys.modules['sabun.script.client'].end()"
"""The last cell: the final record is written here, because a kernel that is slow to end is killed."""
SHUTDOWN_S = 60.0
"""Seconds for the exit handlers of the kernel."""
LONGEST_SOCKET = 80
"""Characters of a path at which it is still the name of a socket, on every system that has such names."""
LONGEST_REASON = 160

PYTHON = ("-Xfrozen_modules=off",)  # otherwise debugpy, where it is installed, warns in every run
OPTIONS = (
    "--IPKernelApp.outstream_class=None",  # prints go to the process's own output, also those of a kernel that crashes
    "--InteractiveShell.xmode=Plain",
    "--HistoryManager.enabled=False",
)

_SAID = {
    "SystemExit": "called sys.exit ({})",
    "StdinNotImplementedError": "asked for input, which a run does not have",
}
"""What a cell did, where the name of its error does not say it."""
_EXITED = "called exit(), which ends the kernel: leave it out, or raise an error to say that the run failed"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MAGIC = re.compile(r"^\s*[%!?]")


def missing() -> list[str]:
    """Return the modules that are needed to run a notebook and not installed."""
    return [name for name in MODULES if importlib.util.find_spec(name) is None]


def code_cells(path: Path) -> list[tuple[str, frozenset[str]]]:
    """Return source and tags of the code cells of a notebook. Raises ValueError if it is not a notebook of Python."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not a notebook: it is not valid JSON") from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if content.get("nbformat") != 4 if isinstance(content, dict) else True:
        raise ValueError(f"{path} is not a notebook of format 4: open it in Jupyter and save it")
    try:
        language = _language(content.get("metadata") or {})
        found = [_source_and_tags(cell) for cell in cells or () if cell["cell_type"] == "code"]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is not a valid notebook") from None
    if language != "python":
        raise ValueError(f"{path} is a notebook of {language}, not of Python")
    return found


def _language(metadata: Mapping[str, Any]) -> str:
    info, kernel = metadata.get("language_info") or {}, metadata.get("kernelspec") or {}
    return str(info.get("name") or kernel.get("language") or "python").lower()


def _source_and_tags(cell: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    return "".join(cell["source"]), frozenset(map(str, (cell.get("metadata") or {}).get("tags") or ()))


def plain(source: str) -> str:
    """Return the source of a cell without lines for IPython (``%magic``, ``!command``); empty for ``%%magic``."""
    if source.lstrip().startswith("%%"):
        return ""
    return "\n".join("" if _MAGIC.match(line) else line for line in source.splitlines())


def with_parameters(cells: Sequence[tuple[str, frozenset[str]]], given: Sequence[str]) -> list[str]:
    """Return the sources of the cells, in which the parameters ``NAME=VALUE`` are set. Raises ValueError.

    A name that the cell with the tag ``parameters`` does not assign is an error, and would have no effect.
    """
    values = dict(map(_parameter, given))
    sources = [source for source, _ in cells]
    if not values:
        return sources
    tagged = [number for number, (_, tags) in enumerate(cells) if PARAMETERS in tags]
    if not tagged:
        raise ValueError(
            f"{given[0]} cannot be set: no cell has the tag {PARAMETERS!r}. "
            f"Tag the cell that assigns {next(iter(values))}"
        )
    known = sorted(_assigned(sources[tagged[0]]))
    for name in values:
        if name not in known:
            raise ValueError(
                f"the cell with the tag {PARAMETERS!r} does not assign {name}; "
                f"it assigns {', '.join(known) or 'nothing'}"
            )
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    sources[tagged[0]] = "\n".join([sources[tagged[0]], "", "# Parameters of this run", *lines])
    return sources


def _parameter(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{text!r} is not NAME=VALUE, which is what a notebook takes in the place of arguments")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return name, value


def _assigned(source: str) -> Iterator[str]:
    try:
        body = ast.parse(plain(source)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name)) if target else ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a notebook. Returns the exit status: 0, 1 when a cell failed, 2 when there is nothing to run."""
    parser = argparse.ArgumentParser(
        prog="python -m sabun.script.notebook", description="Run a notebook in a fresh kernel.", allow_abbrev=False
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    given = parser.parse_args(arguments)
    if absent := missing():
        return _say(f"a notebook needs {', '.join(absent)} in {sys.executable}: {INSTALL}", 2)
    try:
        sources = with_parameters(code_cells(given.notebook), given.parameters)
    except ValueError as error:
        return _say(f"{error}.", 2)
    with tempfile.TemporaryDirectory(prefix="sabun-kernel-", ignore_cleanup_errors=True) as directory:
        return _run(given.notebook, sources, Path(directory))


def _run(path: Path, sources: Sequence[str], directory: Path) -> int:
    """Run the cells in a kernel whose files are in ``directory``."""
    import nbformat
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            options = [*OPTIONS, f"--ipython-dir={directory}"]
            command = [sys.executable, *PYTHON, "-m", "ipykernel_launcher", "-f", "{connection_file}", *options]
            return KernelSpec(argv=command, display_name="Python", language="python")

    class ExitError(Exception):
        """A cell asked the kernel to end."""

    class CellClient(NotebookClient):
        number = 0
        status: int | None = None

        async def async_execute_cell(self, cell: Any, cell_index: int, *arguments: Any, **options: Any) -> Any:
            self.number = cell_index + 1
            try:
                done = await super().async_execute_cell(cell, cell_index, *arguments, **options)
            except DeadKernelError:
                self.status = await manager.provisioner.poll() if manager.provisioner else None
                raise
            except CellExecutionError:
                self.shutdown_kernel = "graceful"
                raise
            if cell_index == len(sources):
                self.shutdown_kernel = "graceful"
            return done

        def process_message(self, message: Any, cell: Any, cell_index: int) -> Any:
            """Print what a cell shows, and keep none of it: a run may be long."""
            kind, content = message["msg_type"], message["content"]
            if kind in ("execute_result", "display_data"):
                _write(sys.stdout, content["data"].get("text/plain", ""))
            elif kind == "error":
                _write(sys.stdout, _ESCAPES.sub("", "\n".join(content["traceback"])))
            elif kind == "stream":
                _write(sys.stdout, content["text"], end="")
            elif kind == "status":
                return super().process_message(message, cell, cell_index)
            return None

    connection = directory / "kernel.json"
    sockets = os.name == "posix" and len(str(connection)) < LONGEST_SOCKET  # without them two kernels may want one port
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=ThisPython(),
        connection_file=str(connection),
        transport="ipc" if sockets else "tcp",
        shutdown_wait_time=SHUTDOWN_S,
    )

    def ended(*, execute_reply: Mapping[str, Any], **_: Any) -> None:
        if any(asked.get("source") == "ask_exit" for asked in execute_reply["content"].get("payload") or ()):
            raise ExitError

    v4: Any = nbformat.v4
    cells = [v4.new_code_cell(source) for source in (*sources, END)]
    # A signal ends the kernel at once: its study has stopped the run, or has ended.
    client = CellClient(v4.new_notebook(cells=cells), km=manager, shutdown_kernel="immediate", timeout=None)
    client.on_cell_executed = ended
    try:
        client.execute(cwd=str(path.absolute().parent), cleanup_kc=True)
    except CellExecutionError as error:
        why = " ".join(f"{error.ename}: {error.evalue}".split())[:LONGEST_REASON]
        said = _SAID[error.ename].format(why) if error.ename in _SAID else f"failed: {why}"
        return _say(f"{path.name}: code cell {client.number} {said}", 1)
    except ExitError:
        return _say(f"{path.name}: code cell {client.number} {_EXITED}", 1)
    except DeadKernelError:
        status = client.status or 0
        how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        return _say(f"{path.name}: the kernel {how} in code cell {client.number}", 1)
    except (AssertionError, AttributeError, asyncio.CancelledError) as error:
        if client.km is not None and not isinstance(error, asyncio.CancelledError):
            raise
        # A signal has ended the kernel, and nbclient, which ends it once more, finds none. The sender knows why.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        return 1
    except RuntimeError as error:  # the kernel did not start
        return _say(f"{path.name}: the kernel did not start: {error}", 1)
    return 0


def _write(out: TextIO, text: str, end: str = "\n") -> None:
    out.write(text + end)
    out.flush()


def _say(text: str, status: int) -> int:
    _write(sys.stderr, text)
    return status


if __name__ == "__main__":
    sys.exit(main())
