"""The study that a command line describes: from its options to a :class:`~sabun.poc.spec.Study`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sabun import command_line
from sabun.errors import StudyError
from sabun.poc import study as studies
from sabun.poc.allocation import default_looks
from sabun.poc.spec import SCRIPT_PREFIX, Arm, Study
from sabun.poc.tasks.script_command import EPOCHS, SOURCE_SUFFIXES
from sabun.script import arms
from sabun.text_safety import legal_name

__all__ = ["default_directory", "study_from_options"]


def study_from_options(
    source: str | None = None,
    *,
    task: str | None = None,
    script: str | None = None,
    baseline: str | None = None,
    candidates: Sequence[str] = (),
    budget: Mapping[str, int | str | bool | None] | None = None,
    margin: float | None = None,
    time_limit: float | None = None,
    threads: int | None = None,
    isolated: bool | None = None,
    name: str | None = None,
    note: str | None = None,
) -> Study:
    """Return the study that the options describe.

    ``source`` is a study file or a task of the user's own (``mytask.py:Task``). Without a task and arms, the study is
    the demonstration (:func:`sabun.poc.study.demonstration`). Entries of ``budget`` that are None, and a ``margin``,
    ``name`` or ``note`` of None, keep the study's own value. The name of a script's study is that of its file. Raises
    StudyError for options that contradict each other or the study.
    """
    given: dict[str, object] = {key: value for key, value in (budget or {}).items() if value is not None}
    if script is not None:
        if task is not None:
            raise StudyError("--task and --script are both given.", fix="Give one of the two.")
        task = f"{SCRIPT_PREFIX}{script}"
    if source is not None and task is not None:
        raise StudyError(f"{source!r} and {_option(task)} are both given.", fix="Give one of the two.")
    from_file = source is not None and ":" not in Path(source).name
    if source is not None and from_file:
        if baseline is not None or candidates:
            raise StudyError(
                "a study file names its own arms; --baseline and --candidate cannot be added to it.",
                fix="Edit the file, or give the task and the arms as options.",
            )
        study = Study.load(source)
    elif source is None and task is None and baseline is None and not candidates:
        study = studies.demonstration()
    else:
        what = source or task or "digits"
        if baseline is None:  # a script is compared with the optimizer that it makes
            baseline = arms.SCRIPT if what.startswith(SCRIPT_PREFIX) else studies.BASELINE
        first, *others = _named([baseline, *(candidates or studies.CANDIDATES)])
        study = studies.default_study(task=what, baseline=first, candidates=others)
    is_script = study.is_script
    own = {"time_limit": time_limit, "threads": threads, "isolated": isolated}
    own = {key: value for key, value in own.items() if value is not None}
    for key in own if not is_script else ():
        name = {"isolated": "--no-isolation"}.get(key, f"--{key.replace('_', '-')}")
        raise StudyError(f"{name} applies to scripts only.", fix="Leave it out.")
    if "epochs" in given and is_script and EPOCHS not in study.task:
        raise StudyError(
            "--epochs would have no effect: the script's command sets its own number of epochs.",
            fix=f"Put {EPOCHS} into the command, as in --script 'python train.py --epochs {EPOCHS}', or leave out "
            "--epochs.",
        )
    fields = study.model_dump(mode="json")
    if is_script and not from_file:
        fields["name"] = _script_name(study.task)
    fields |= {key: value for key, value in (("name", name), ("note", note)) if value is not None}
    options = {**fields["task_options"], **own}
    thresholds = fields["thresholds"] | ({} if margin is None else {"margin": margin})
    seeds = given.get("seeds")
    if isinstance(seeds, int) and not from_file:
        given["looks"] = default_looks(seeds, len(study.candidates))
    return Study.build(
        {**fields, "task_options": options, "budget": {**fields["budget"], **given}, "thresholds": thresholds}
    )


def default_directory(study: Study) -> Path:
    """Return the directory of a study for which none is given: ``runs/`` and its name, without unusual characters."""
    return Path("runs") / legal_name(Path(study.name).name, fallback="study")


def _script_name(task: str) -> str:
    """Return the name of the first file in a command, without its suffix; else the command."""
    command = task.removeprefix(SCRIPT_PREFIX)
    with contextlib.suppress(ValueError):  # an unclosed quotation mark is refused where the command is parsed
        for part in command_line.split(command):
            if Path(part).suffix in SOURCE_SUFFIXES:
                return Path(part).stem
    return command


def _named(notations: Sequence[str]) -> list[Arm]:
    """Arms named by their notation, without the module of a class (SGD for torch.optim:SGD) where that is unique."""
    short = [re.sub(r"^\s*[\w.]+:(?=\w)", "", notation).strip() for notation in notations]
    names = short if len(set(short)) == len(short) else [None] * len(short)
    return [Arm.named(notation, name) for notation, name in zip(notations, names, strict=True)]


def _option(task: str) -> str:
    return f"--script {task.removeprefix(SCRIPT_PREFIX)!r}" if task.startswith(SCRIPT_PREFIX) else f"--task {task!r}"
