"""Script mode on users' own scripts: nothing happens outside of a study, and all that can go wrong inside."""

from __future__ import annotations

import difflib
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tomllib
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sabun
from sabun.cli.progress import place
from sabun.errors import StoreError, StudyError
from sabun.poc import evidence as stored
from sabun.poc.codec import to_json
from sabun.poc.evidence.live_status import being_written
from sabun.poc.judgement.assess import assess
from sabun.poc.records import Epoch, RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Phase, Run, Study
from sabun.poc.study import default_study, run
from sabun.poc.training.script import ScriptTrainer, _last_lines
from sabun.poc.training.script_records import MalformedLineError, quoted, read_record
from sabun.script import client

from .helpers import untimed

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
PLAIN = SCRIPTS / "plain.py"
LOOP = ROOT / "examples" / "scripts" / "plain_loop.py"
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NAMES = st.sampled_from(
    ["kind", "epoch", "val_loss", "train_s", "eval_s", "optimizer_s", "gradient_evaluations", "lr", "x"]
)
JSON = st.dictionaries(NAMES, VALUES | st.sampled_from(["log", "swap", "fault", "end", "NaN"]))
ADAMW = "torch.optim:AdamW(weight_decay=0.1)"


def script_study(command: str, limit: float = 120.0, **budget: int) -> Study:
    return default_study(
        task=f"script:{command}",
        task_options={"time_limit": limit},
        baseline="script",
        candidates=[ADAMW],
        **{"epochs": 3, "trials": 0, "seeds": 1, **budget},
    )


def one(
    study: Study, arm: str, logs: Path, *, seed: int = 0, phase: Phase = "evaluate", **values: float
) -> tuple[RunResult, str]:
    task = Run(arm=arm, seed=seed, phase=phase, hyperparameters=values)
    *epochs, last = ScriptTrainer(resolve(study), logs).run(task)
    assert isinstance(last, RunResult)
    assert tuple(epochs) == last.epochs
    return last, (logs / f"{task.id}.txt").read_text()


def added_lines(script: Path) -> list[str]:
    """What a diff shows between the script without the lines that name sabun and the script as it is."""
    lines = script.read_text(encoding="utf-8").split('"""\n', 2)[-1].splitlines()
    without = [line for line in lines if "sabun" not in line]
    compile("\n".join(without), script.name, "exec")
    changed = [line for line in difflib.ndiff(without, lines) if line[:2] in ("+ ", "- ")]
    assert all(line.startswith("+ ") for line in changed)
    return [line[2:].strip() for line in changed]


def test_the_diff_of_a_plain_loop_is_two_lines_and_the_import() -> None:
    assert added_lines(LOOP) == [
        "import sabun",
        "optimizer = sabun.swap(optimizer)",
        "sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss, accuracy=accuracy)",
    ]


def test_outside_of_a_study_both_lines_do_nothing(python: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    assert sabun.swap(optimizer) is optimizer
    assert sabun.log(epoch=1, val_loss=0.5) is None
    alone = {key: value for key, value in os.environ.items() if key != client.VARIABLE}
    done = subprocess.run([*python.split(), str(PLAIN)], env=alone, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("groups [(0.02, 0.01), (0.01, 0.0)]")


def test_a_script_is_trained_with_the_arms_optimizer_and_sees_its_own_rates(python: str, tmp_path: Path) -> None:
    study = script_study(f"{python} {PLAIN}")
    own, printed = one(study, "script", tmp_path, lr_multiplier=0.5)
    assert own.status == "finished", own.failure
    assert printed.startswith("groups [(0.02, 0.01), (0.01, 0.0)]")  # of the script, whatever the arm's rate
    assert [group.asked for group in own.rates] == pytest.approx([0.01, 0.005])
    other, printed = one(study, ADAMW, tmp_path, lr=0.004)
    assert other.status == "finished", other.failure
    assert printed.startswith("groups [(0.02, 0.1), (0.01, 0.0)]")
    assert [group.asked for group in other.rates] == pytest.approx([0.004, 0.002])
    for result, lr in ((own, 0.01), (other, 0.004)):
        assert [e.epoch for e in result.epochs] == [1, 2, 3]
        assert [e.gradient_evaluations for e in result.epochs] == [8, 16, 24]
        assert [e.lr for e in result.epochs] == pytest.approx([(1 - e / 3) * lr for e in (1, 2, 3)])
        assert all(0 < e.optimizer_s < e.train_s for e in result.epochs)
        assert all(e.val_metric == pytest.approx(-(e.val_loss**0.5)) for e in result.epochs)
        assert result.weights_sha256
        assert result.peak_memory_bytes is not None
    assert own.optimizer_state_bytes == 4 * 4
    assert own.weights_sha256 != other.weights_sha256


def test_importing_sabun_seeds_the_script_alike_for_every_arm(python: str, tmp_path: Path) -> None:
    study = script_study(f"{python} {PLAIN} --epochs {{epochs}}", epochs=2)
    still = {"script": {"lr_multiplier": 1e-30}, ADAMW: {"lr": 1e-30}}
    first = {arm: one(study, arm, tmp_path, **values)[0] for arm, values in still.items()}
    curves = [[(e.train_loss, e.val_loss) for e in result.epochs] for result in first.values()]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 2  # {epochs} is the study's number
    other, _ = one(study, "script", tmp_path, seed=1, lr_multiplier=1e-30)
    assert other.epochs[0].val_loss != first["script"].epochs[0].val_loss


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('loading'); raise SystemExit('no data')", "ended with exit status 1.*printed last: loading | no data"),
        ("import os; os.abort()", "killed by signal 6"),
        ("pass", r"never called sabun.swap: put 'optimizer = sabun.swap\(optimizer\)'"),
        ("print('waiting', flush=True); import time; time.sleep(600)", "exceeded its time limit of 2 s.*last: waiting"),
        ("print('\\r'.join('x' * 5000 for _ in range(9)))", "swap.*last: (x{200}( \\| )?){5}$"),
    ],
    ids=["crash", "signal", "no swap", "hang", "long lines"],
)
def test_what_can_go_wrong_is_named_with_the_last_lines(code: str, words: str, tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-c", code])
    result, _ = one(script_study(command, limit=2.0 if "sleep" in code else 120.0), "script", tmp_path)
    assert result.status == "failed"
    assert re.search(words, result.failure), result.failure


@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [("no-log", "failed", "never called sabun.log"), ("disorder", "failed", "got epoch 1 after epoch 1"),
     ("nan", "diverged", ""), ("overfit", "finished", ""), ("overfit-from-start", "diverged", "")],
)  # fmt: skip
def test_what_can_go_wrong_with_log_is_named(mode: str, status: str, words: str, python: str, tmp_path: Path) -> None:
    result, _ = one(script_study(f"{python} {PLAIN} --mode {mode}"), "script", tmp_path)
    assert result.status == status
    assert words in result.failure
    assert len(result.epochs) == {"no-log": 0, "disorder": 1, "overfit-from-start": 4}.get(mode, 3)
    assert all(isinstance(epoch, Epoch) for epoch in result.epochs)


def test_with_the_disk_full_the_study_stops_and_no_run_is_blamed(tmp_path: Path) -> None:
    """A script that fails because it cannot write has not failed: when there is room again, its run is done again."""
    command = shlex.join([sys.executable, "-c", "print('x' * 100_000, flush=True)"])
    study = script_study(command)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # no file may grow beyond it: errno 27, as good as 28
    try:
        with pytest.raises(StoreError, match=r"cannot write .*Free some space .* finished runs are kept"):
            run(study, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    held = stored.read(tmp_path)
    assert held.records.results == {}
    assert held.verification.ok
    assert not being_written(tmp_path)
    failures = {result.failure.partition(":")[0] for result in run(study, tmp_path).runs}
    assert failures == {"it never called sabun.swap"}  # the script's own fault, now that it could write


@pytest.mark.parametrize(
    ("command", "phase", "epochs"),
    [
        ("python train.py", "evaluate", None),
        ("python train.py {epochs}", "evaluate", 5),
        ("python train.py", "time", 3),
    ],
)
def test_no_number_of_epochs_is_invented_for_a_script(command: str, phase: Phase, epochs: int | None) -> None:
    study = script_study(command, epochs=5)
    found = resolve(study).epochs_of(Run(arm="script", seed=0, phase=phase))
    assert found == epochs
    assert place(2, found, "en") == ("epoch 2" if epochs is None else f"epoch 2 of {epochs}")


def test_a_whole_study_of_a_script_and_its_logs(python: str, tmp_path: Path) -> None:
    study = script_study(f"{python} {LOOP}")
    evidence = run(study, tmp_path)
    assert {r.status for r in evidence.runs} == {"finished"}, evidence.runs
    assert len(list((tmp_path / "logs").iterdir())) == len(evidence.runs) == 4
    for arm in study.arms:
        first, again = (
            next(r for r in evidence.runs if r.arm == arm.name and r.seed == 0 and r.phase == phase)
            for phase in ("evaluate", "repeat")
        )
        assert untimed([first])[0]["epochs"] == untimed([again])[0]["epochs"]
        assert first.weights_sha256 == again.weights_sha256
        assert first.epochs[-1].val_metric is not None
        assert first.epochs[-1].val_metric > 0.9
    assert run(study, tmp_path).runs == tuple(stored.read(tmp_path).runs)


def test_runs_that_need_no_whole_curve_are_stopped(python: str, tmp_path: Path) -> None:
    """A timing run of a script that would go on for ever: three epochs, whatever their numbers, and what they weigh."""
    study = script_study(f"{python} {SCRIPTS / 'endless.py'}")
    result, _ = one(study, ADAMW, tmp_path, phase="time")
    assert result.status == "finished", result.failure
    assert [epoch.epoch for epoch in result.epochs] == [10, 20, 30]
    assert result.weights_sha256
    *_, short = ScriptTrainer(resolve(study), tmp_path, patience=0.0).run(Run(arm="script", seed=0, phase="tune"))
    assert isinstance(short, RunResult)
    assert short.status == "finished"


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_under_torchrun_one_rank_speaks_all_train_the_arm_and_all_end(tmp_path: Path) -> None:
    """Two ranks (gloo) of an endless script: stopped after three epochs, nothing of it is left."""
    command = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2 {SCRIPTS / 'endless.py'}"
    result, printed = one(script_study(command), ADAMW, tmp_path, phase="time", lr=0.01)
    assert result.status == "finished", printed
    assert [epoch.epoch for epoch in result.epochs] == [10, 20, 30]  # of one rank: each epoch once, in order
    said = re.findall(r"rank (\d) pid (\d+) (\w+) (\S+)", printed)
    assert {(rank, name) for rank, _, name, _ in said} == {("0", "AdamW"), ("1", "AdamW")}
    sums = [[value for rank, _, _, value in said if rank == which][:3] for which in "01"]
    assert sums[0] == sums[1]  # the ranks agree on the weights
    for pid in {pid for _, pid, _, _ in said}:
        assert not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


def test_a_training_environment_needs_the_core_only(tmp_path: Path) -> None:
    """The script's own interpreter has none of the packages that the extras bring."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = {re.split(r"[>=\[]", package)[0].replace("-", "_") for part in extras.values() for package in part}
    names = (names - {"scikit_learn"}) | {"sklearn", "pydantic_core", "pandas", "requests"}
    assert {"pydantic", "optuna", "scipy", "typer", "rich", "jinja2"} <= names
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({sorted(names)}))\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT / 'src'}")
        result, _ = one(script_study(f"{sys.executable} {PLAIN}"), ADAMW, tmp_path / "logs", lr=0.01)
    assert result.status == "finished", result.failure


def test_mistakes_in_the_command_are_found_first(tmp_path: Path) -> None:
    for task, options, words in (
        ("script:no-such-command train.py", {}, "no command 'no-such-command'"),
        ("script:", {}, "no command ''"),
        (f"script:{sys.executable} x.py", {"time_limt": 3}, "Did you mean 'time_limit'"),
        (f"script:{sys.executable} x.py", {"time_limit": -3}, "positive number of seconds"),
        (f"script:{sys.executable} 'x.py", {}, "cannot parse the command"),
    ):
        with pytest.raises(StudyError, match=words):
            run(
                default_study(task=task, task_options=options, baseline="script", candidates=["torch.optim:SGD"]),
                tmp_path / "x",
            )
    with pytest.raises(StudyError, match="the optimizer 'script' is the one"):
        run(default_study(task="digits", baseline="script", candidates=["torch.optim:SGD"]), tmp_path / "x")
    assert not (tmp_path / "x").exists()


REST = b'"train_s":1,"eval_s":1,"optimizer_s":1,"gradient_evaluations":1}'
BAD_LINES = {
    "no JSON": b'{"kind":"log","epo',
    "no text": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "nested deeply": b"[" * 50_000,
    "an unknown kind": b'{"kind":"loss","epoch":1}',
    "a loss that is a text": b'{"kind":"log","epoch":1,"val_loss":"low",' + REST,
    "no loss": b'{"kind":"log","epoch":1,' + REST,
    "an epoch that is no number": b'{"kind":"log","epoch":null,"val_loss":1.0,' + REST,
    "a number that is too long": b'{"kind":"end","peak_memory_bytes":1' + b"0" * 400 + b"}",
    "too long": b"x" * 5_000_000,
}


@pytest.mark.parametrize("what", [name for name in BAD_LINES if name != "too long"])
def test_a_malformed_line_is_an_error_that_quotes_it(what: str) -> None:
    with pytest.raises(MalformedLineError) as raised:
        read_record(BAD_LINES[what], -1)
    assert quoted(BAD_LINES[what]) in str(raised.value)


@pytest.mark.parametrize("what", ["no JSON", "a loss that is a text", "too long"])
def test_a_line_that_is_no_record_fails_that_run_and_no_other(tmp_path: Path, python: str, what: str) -> None:
    """The line is quoted, and the study can be resumed, verified and judged."""
    script = tmp_path / "bad.py"
    (tmp_path / "line").write_bytes(BAD_LINES[what] + b"\n")
    script.write_text(
        "import os, pathlib, torch, sabun\n"
        "p = torch.ones(1, requires_grad=True)\n"
        "opt = sabun.swap(torch.optim.SGD([p], lr=0.1))\n"
        "sabun.log(epoch=0, val_loss=1.0)\n"
        "p.sum().backward()\n"
        "opt.step()\n"
        "if type(opt).__name__ == 'AdamW':\n"
        "    with open(pathlib.Path(os.environ['SABUN_RUN']).with_name('records.jsonl'), 'ab') as file:\n"
        f"        file.write(pathlib.Path({str(tmp_path / 'line')!r}).read_bytes())\n"
        "sabun.log(epoch=1, val_loss=0.5)\n"
    )
    study = script_study(f"{python} {script}", seeds=1)
    done = run(study, tmp_path / "s")
    by_arm = {result.arm: result for result in done.runs if result.phase == "evaluate"}
    failed = by_arm[ADAMW]
    assert by_arm["script"].status == "finished"
    assert failed.status == "failed"
    assert failed.failure.startswith("it wrote a line ")
    assert quoted(BAD_LINES[what]) in failed.failure
    assert len(failed.failure) < 600
    assert len(failed.epochs) == 1
    again = run(study, tmp_path / "s")
    assert again.verification.ok
    assert untimed(stored.read(tmp_path / "s").runs) == untimed(done.runs)
    assert assess(study, again.runs, again.tuning).verdicts[0].reasons[0].code == "k1_failed"


@given(st.binary(max_size=200) | st.builds(lambda tree: json.dumps(tree).encode(), JSON))
def test_a_line_is_a_record_that_can_be_stored_or_an_error(line: bytes) -> None:
    problem = ""
    try:
        record = read_record(line, -1)
    except MalformedLineError as error:
        problem = str(error)
    if problem:
        assert problem.isprintable()
    else:
        json.dumps(to_json(record), allow_nan=False)
        assert record["kind"] in ("swap", "log", "fault", "end")


def test_what_a_script_printed_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe last line\n")
    tracemalloc.start()
    text = _last_lines(tmp_path / "out.txt")
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()
    assert text.endswith("the last line")
