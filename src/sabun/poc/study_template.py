"""A commented study file to start from."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sabun.errors import StudyError
from sabun.poc.spec import DEFAULT_BUDGET, SCRIPT_PREFIX, Budget, Scalar, Study, Thresholds
from sabun.poc.tasks.builtin import TASKS
from sabun.poc.tasks.script_command import EPOCHS

__all__ = ["SCRIPT_LINES", "write_template"]

TEMPLATE = """\
# A study: everything that determines the outcome, fixed before the first run. Run it with: sabun poc run {file}
name = {name}
note = {note}                                   # the reason for this study; appears in the report

# What is trained: a built-in task ({tasks}), a task of your own ("mytask.py:Task"), or your
# own script ("script:python train.py"), which calls sabun.swap(optimizer) and sabun.log(...).
task = {task}
{options}
# The optimizer you use today: a preset ("adamw"), a scheme with an optional preconditioner ("nesterov@adam"), any class
# ("torch.optim:AdamW"), or "script", the one that your script makes. `options` are fixed. `space` is searched, log-
# uniformly; by default it is the learning rate (for "script": lr_multiplier, a factor on all its learning rates).
[baseline]
{baseline}

{candidates}

# The budget is the same for every arm: trials × tuning_seeds + seeds + 1 runs.
[budget]
epochs = {epochs}         {epochs_note}
trials = {trials}         # tuning trials; 0 uses the defaults
tuning_seeds = {tuning_seeds}    # seeds per trial
seeds = {seeds}          # paired runs that decide; fewer than 6 (8 with five candidates) cannot decide anything
{looks}   # interim looks: decide early after this many seeds; the error rate is split among the looks
{limit}

# What a "go" requires.
[thresholds]
margin = {margin}             # K1: the smallest improvement worth adopting. The validation loss is lower by more than
                          # this fraction, over the whole interval; 0.01 is 1%
max_time_ratio = 1.10     # K3: an epoch takes at most this multiple of the baseline's time
max_spread_ratio = 1.0    # K2: the spread over seeds is not significantly larger than this multiple
level = 0.95              # confidence level of every interval
"""

CANDIDATES = {"nesterov@adam": "nesterov@adam", "look-ahead": "look-ahead(0.9, 2)"}
"""Name → optimizer of the candidates where none is given."""

TASK_OPTIONS = "# task_options = { batch_size = 64 }        # arguments of the task\n"
SCRIPT_OPTIONS = """\
# In the command, {seed} stands for the run's seed (a script without {seed} is seeded by sabun), {epochs} for the number
# below. Options: time_limit (seconds after which a run is stopped and counts as failed), threads (of every run), and
# isolated (whether each run works in its own copy of the project).
"""
SCRIPT_EXAMPLE = "# task_options = { time_limit = 3600, threads = 1, isolated = true }\n"
TASK_BASELINE = """\
name = "SGD(momentum=0.9)"
optimizer = "torch.optim:SGD"
options = { momentum = 0.9 }
# space = { lr = { center = 0.03, decades = 3 } }"""
SCRIPT_BASELINE = """\
name = "today"
optimizer = "script"
# space = { lr_multiplier = { center = 1.0, decades = 3 } }"""
SCRIPT_LINES = """\
Add these lines to the script: the first two where the optimizer has been made (before its scheduler), the last one
where an epoch has been evaluated. Only val_loss is required.

    import sabun
    optimizer = sabun.swap(optimizer)

    sabun.log(epoch=epoch, val_loss=val_loss, accuracy=accuracy)
"""
"""The lines that a training script needs, with an explanation."""


def write_template(
    file: Path,
    *,
    task: str | None = None,
    script: str | None = None,
    candidates: Sequence[str] = (),
    margin: float | None = None,
    name: str | None = None,
    note: str | None = None,
    options: Mapping[str, Scalar] | None = None,
    plan: Callable[[Study], Study] | None = None,
) -> Study:
    """Write a study file for ``task`` (default: digits) or for ``script``, the user's command; return the study.

    ``candidates`` are optimizers in the notation of arms, ``margin`` is the smallest improvement worth adopting, by
    default that of :class:`~sabun.poc.spec.Thresholds`. ``name`` and ``note`` are those of the study; its name is by
    default that of the file. ``options`` are task options of the script. ``plan`` returns a study with its budget
    within a limit.

    Raises StudyError where ``file`` exists or cannot be written, both are given, or options without a script.
    """
    if task is not None and script is not None:
        raise StudyError("--task and --script are both given.", fix="Give one of the two.")
    for key in options or () if script is None else ():
        name = {"isolated": "--no-isolation"}.get(key, f"--{key.replace('_', '-')}")
        raise StudyError(f"{name} applies to scripts only.", fix="Leave it out.")
    if plan is not None and file.exists():
        raise _exists(file)
    what = f"{SCRIPT_PREFIX}{script}" if script is not None else task or "digits"

    def content(budget: Budget) -> str:
        return _content(file, what, candidates, margin, (name or file.stem, note or ""), options or {}, budget)

    text = content(Budget.model_validate(DEFAULT_BUDGET))
    if plan is not None:
        text = content(plan(Study.build(tomllib.loads(text))).budget)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise _exists(file) from None
    except OSError as error:
        raise StudyError(f"cannot write {file}: {error.strerror}.", fix="Choose a path that can be written.") from None
    return Study.load(file)


def _exists(file: Path) -> StudyError:
    return StudyError(f"{file} exists already.", fix="Choose another name, or delete the file first.")


def _content(
    file: Path,
    what: str,
    candidates: Sequence[str],
    margin: float | None,
    named: tuple[str, str],
    options: Mapping[str, Scalar],
    budget: Budget,
) -> str:
    is_script = what.startswith(SCRIPT_PREFIX)
    fixed_epochs = is_script and EPOCHS not in what
    given = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    script_options = SCRIPT_OPTIONS + (f"task_options = {{ {given} }}\n" if given else SCRIPT_EXAMPLE)
    arms = {notation: notation for notation in candidates} or CANDIDATES
    limits = [f'limit = "{budget.limit}"   # what the whole study may take; it was planned for this'] * bool(
        budget.limit
    )
    if budget.tuning_fraction < 1:
        limits.append(f"tuning_fraction = {budget.tuning_fraction:g}   # share of the training that a tuning run does")
    return TEMPLATE.format(
        file=file,
        name=json.dumps(named[0], ensure_ascii=False),
        note=json.dumps(named[1], ensure_ascii=False),
        task=json.dumps(what, ensure_ascii=False),
        tasks=", ".join(f'"{name}"' for name in TASKS),
        options=script_options if is_script else TASK_OPTIONS,
        baseline=SCRIPT_BASELINE if is_script else TASK_BASELINE,
        candidates="\n\n".join(
            f"[[candidates]]\nname = {json.dumps(arm)}\noptimizer = {json.dumps(optimizer)}"
            for arm, optimizer in arms.items()
        ),
        epochs=budget.epochs,
        epochs_note="# not used: the command has no {epochs}" if fixed_epochs else "# of every run",
        trials=budget.trials,
        tuning_seeds=budget.tuning_seeds,
        seeds=budget.seeds,
        looks=f"looks = {list(budget.looks)}" if budget.looks else "# looks = [8, 12]",
        limit="\n".join(limits) or '# limit = "8h"        # what the whole study may take (sabun poc plan)',
        margin=Thresholds().margin if margin is None else margin,
    )
