"""The ``sabun`` command: start-up cost, help, missing packages, errors and exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
import typer

import sabun
from sabun.cli import app, main
from sabun.errors import MissingExtraError, OptionError, SabunError, StoreError, StudyError


def sub(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from sabun.cli import main; main()", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["--version"], ["poc", "--help"], ["--help"], ["poc", "run", "--help"]])
def test_help_does_not_import_heavy_packages(arguments: list[str]) -> None:
    code = (
        "import sys, sabun.cli\n"
        f"try: sabun.cli.main({arguments!r})\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = [m for m in ('torch', 'numpy', 'scipy', 'optuna', 'jinja2', 'altair') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_version() -> None:
    done = sub("--version")
    assert (done.returncode, done.stdout) == (0, f"sabun {sabun.__version__}\n")


def test_help_teaches_by_example() -> None:
    done = sub("poc", "run", "--help", COLUMNS="120")
    for wanted in ("--candidate", "Repeatable", "mytask.py:Task", "study.toml", "--gate"):
        assert wanted in done.stdout
    assert "\x1b" not in done.stdout


def every_command(command: click.Command, name: str = "sabun") -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for below, one in getattr(command, "commands", {}).items():
        yield from every_command(one, f"{name} {below}")


COMMANDS = dict(every_command(typer.main.get_command(app.build())))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_a_summary_examples_and_exit_codes(name: str) -> None:
    command = COMMANDS[name]
    summary = (command.help or "").partition("\n\n")[0]
    assert summary.endswith("."), summary
    text = getattr(command, "epilog", "") or ""
    group = hasattr(command, "commands")
    assert ("**First steps**" if group else "**Examples**") in text
    assert group or "**Exit codes**" in text
    for option in command.params:
        assert getattr(option, "help", "") or option.name == "help", option.name


SHOWN = re.compile(r"`([^`]*\bsabun (?:schemes|explain|bench|poc|rollout)[^`]*)`")
EXAMPLES = sorted({example for command in COMMANDS.values() for example in SHOWN.findall(command.epilog or "")})


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_in_a_help_text_is_a_command_with_known_options(example: str) -> None:
    words = shlex.split(re.split(r" [|>] ", example)[0])
    words = words[words.index("sabun") + 1 :]
    name = next(n for n in (f"sabun {' '.join(words[:2])}", f"sabun {words[0]}") if n in COMMANDS)
    known = {opt for option in COMMANDS[name].params for opt in option.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom sabun.cli import main; main(['poc', 'run'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f'error: the command line needs {missing}, which is not installed.\nfix: pip install "sabun[poc]"\n'
    )


def test_a_package_missing_later_is_named_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(app, "build", lambda: lambda **_: fail("optuna.samplers"))
    assert app.run([]) == 2
    output = capsys.readouterr().err
    assert "needs optuna," in output
    assert 'pip install "sabun[poc]"' in output
    monkeypatch.setattr(app, "build", lambda: lambda **_: fail("sabun.misspelt"))
    with pytest.raises(ModuleNotFoundError):
        app.run([])


@pytest.mark.parametrize(
    ("error", "code"),
    [(StudyError, 2), (OptionError, 2), (MissingExtraError, 2), (StoreError, 1)],
)
def test_an_error_is_two_lines_and_a_code(
    error: type[SabunError], code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise error("the cause\x1b[31m.", fix="the fix.")

    monkeypatch.setattr(app, "build", lambda: fail)
    assert app.run([]) == code
    assert capsys.readouterr().err == "error: the cause\ufffd[31m.\nfix: the fix.\n"


@pytest.mark.parametrize(
    ("command", "resumes"), [(["poc", "run"], True), (["poc", "resume", "d"], True), (["poc", "check"], False)]
)
def test_an_interruption_has_no_traceback(
    command: list[str], resumes: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "build", lambda: fail)
    assert app.run(command) == 130
    output = capsys.readouterr().err
    assert output.startswith("interrupted.")
    assert ("the same command resumes the study" in output) == resumes


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "build", lambda: fail)
    with pytest.raises(ZeroDivisionError):
        app.run([])


def test_an_unknown_option_is_a_usage_error_that_names_the_nearest() -> None:
    done = sub("poc", "run", "--seedz", "3")
    assert done.returncode == 2
    assert "--seeds" in done.stderr
    assert "Traceback" not in done.stderr


def test_main_returns_the_code_by_systemexit() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["poc", "report", "/nonexistent/study"])
    assert stop.value.code == 2


def test_shell_completion_is_offered() -> None:
    done = sub(_SABUN_COMPLETE="complete_bash", COMP_WORDS="sabun poc re", COMP_CWORD="2")
    assert "report" in done.stdout
    assert json.dumps(done.stderr) == '""'
