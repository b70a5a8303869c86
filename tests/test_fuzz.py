"""Every reader of files, given damaged ones: found, or nothing changed; and never another error than the project's."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import sabun
from sabun import _files
from sabun.bench import shapes
from sabun.cli import app
from sabun.errors import (
    OptionError,
    RolloutError,
    SabunError,
    SchemeError,
    StateError,
    StoreError,
    StudyError,
    TrainingError,
)
from sabun.integrations.logged import tensorboard_rows
from sabun.optim import owners, scheme_codec
from sabun.poc import codec, trust
from sabun.poc.evidence.live_status import read_live
from sabun.poc.logged_runs import judge_logs, read_file
from sabun.poc.spec import Study
from sabun.poc.study import run
from sabun.poc.tasks import data
from sabun.poc.tasks.script_command import ScriptCommand
from sabun.poc.training.script import _Follower
from sabun.poc.training.script_records import MalformedLineError, read_record
from sabun.report import report_json
from sabun.report.publish import report_of_logs
from sabun.rollout import Guard
from sabun.rollout.choice import Choice, choose
from sabun.rollout.rollout_plan import RolloutPlan
from sabun.rollout.state import Rollout
from sabun.script.sealed import seal
from sabun.script.session import read_instructions

from .damage import EXAMPLES, attempt, damaged, strange
from .poc.helpers import tiny_study

# --------------------------------------------------------------------------------------------------------- roll-outs

FILES = ("rollout.toml", "rollout.audit.jsonl", "rollout.audit.jsonl.head", "rollout.state.json")
JOBS = [f"job-{number}" for number in range(4)]


def begun(folder: Path, name: str) -> dict[str, bytes]:
    gate = {"study": "s", "verdict": "undecided", "study_hash": "a" * 64}
    stages = [
        {"name": "poc", "share": 0.0},
        {"name": "half", "share": 0.5, "gate": {"study": "s"}},
        {"name": "all", "share": 1.0, "gate": gate},
    ]
    sides = {
        "champion": {"optimizer": "torch.optim:SGD", "options": {"lr": 0.1}},
        "challenger": {"optimizer": "nesterov", "options": {"lr": 0.3}, "arm": "new"},
    }
    plan = RolloutPlan.from_json({"name": name, **sides, "stages": stages})
    rollout = Rollout(folder)
    rollout.start(plan)
    rollout.promote(override="a reason")
    return {file: (folder / file).read_bytes() for file in FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_roll_out(name: str, tmp_path: Path) -> None:
    """A damaged log gives every job the champion; a damaged plan or copy of the state changes no job."""
    whole, other = begun(tmp_path / "r", "one"), begun(tmp_path / "other", "two")
    rollout = Rollout(tmp_path / "r")
    before = rollout.state()
    roles = [choose(job, path=tmp_path / "r").role for job in JOBS]
    assert len(set(roles)) == 2
    found = 0

    def check(content: bytes) -> None:
        nonlocal found
        (tmp_path / "r" / name).write_bytes(content)
        try:
            _, problem = rollout.state_or_problem()
            _, notes = rollout.verify()
            if problem:
                assert "audit" in name
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert {choose(job, path=tmp_path / "r").role for job in JOBS} == {"champion"}
            else:
                assert rollout.state() == before
                assert [choose(job, path=tmp_path / "r").role for job in JOBS] == roles
                if name == "rollout.toml":
                    try:
                        assert (rollout.plan() == before.plan) == (not notes)
                    except RolloutError:
                        assert notes
                elif name == "rollout.state.json":
                    assert notes or json.loads(content) == before.to_json()
            found += bool(problem or notes)
        finally:
            (tmp_path / "r" / name).write_bytes(whole[name])

    damaged(whole[name], other[name], check)
    assert found > EXAMPLES // 3


def test_a_stored_choice(tmp_path: Path) -> None:
    begun(tmp_path, "one")
    stored = choose("job", path=tmp_path).state_dict()
    for seed in range(EXAMPLES):
        changed = strange(stored, random.Random(seed))
        try:
            kept = choose("job", path=tmp_path, stored=changed)
        except (StateError, RolloutError):
            continue
        assert kept == Choice.from_state_dict(kept.state_dict())
        assert kept.role in ("champion", "challenger")


@pytest.mark.parametrize("content", [b"", b"no", b"\xff\x00", b"0" * 10_000])
def test_a_kill_file_counts_whatever_it_contains(content: bytes, tmp_path: Path) -> None:
    begun(tmp_path, "one")
    (tmp_path / "KILL").write_bytes(content)
    assert {choose(job, path=tmp_path).reason for job in JOBS} == {"kill-file"}


# ----------------------------------------------------------------------------------------------------------- studies

STUDY = """
name = "one"
task = "digits"
seed = 3
schedule = "cosine"

[baseline]
name = "SGD"
optimizer = "torch.optim:SGD"
options = { momentum = 0.9 }

[[candidates]]
name = "new"
optimizer = "nesterov@adam"
space = { lr = { center = 0.1, decades = 1.5 } }

[budget]
trials = 2
seeds = 6
looks = [4]
epochs = 3

[thresholds]
max_time_ratio = 1.5
"""


def test_a_study_file(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    assert Study.load(path).name == "one"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            study = Study.load(path)
        except StudyError:
            return
        assert Study.build(study.model_dump(mode="json")).hash == study.hash

    damaged(STUDY.encode(), STUDY.replace("one", "two").replace("3", "4").encode(), check)


def test_the_live_status_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no evidence, and may say anything; it never keeps ``status`` from its answer."""
    run(tiny_study(trials=0, seeds=1, epochs=1), tmp_path / "s")
    one = {"run": "a", "arm": "b", "seed": 1, "phase": "evaluate", "epoch": 1, "epochs": 3, "val_loss": "0.5"}
    live = {"state": "running", "done": 1, "total": 4, "runs": [one]}
    text = json.dumps(live, indent=1).encode()
    file = tmp_path / "s" / "live.json"
    descriptor = (tmp_path / "s" / "lock").open()
    _files.lock(descriptor.fileno())

    file.write_bytes(text.replace(b'"evaluate"', b'"x"'))
    assert read_live(tmp_path / "s") == {}, "a phase that no study has"
    rejected = 0

    def check(content: bytes) -> None:
        nonlocal rejected
        file.write_bytes(content)
        if not read_live(tmp_path / "s"):  # as if there were none: what status says then is the same each time
            rejected += 1
            if rejected > 1:
                return
        assert app.run(["poc", "status", str(tmp_path / "s")]) == 0
        assert "running" in capsys.readouterr().out

    for seed in range(EXAMPLES):
        check(json.dumps(strange(live, random.Random(seed))).encode())
    damaged(text, b"[]\n{}\n1\n", check)
    check(b"[" * 100_000)
    descriptor.close()


LINES = {
    "log": {"kind": "log", "epoch": 2, "train_loss": 0.25, "val_loss": 0.5, "val_metric": None, "test_loss": "NaN",
            "test_metric": 0.5, "train_s": 1.25, "eval_s": 0.5, "optimizer_s": 0.0, "gradient_evaluations": 7,
            "lr": 0.1},
    "swap": {"kind": "swap", "optimizer": "AdamW"},
    "fault": {"kind": "fault", "reason": "no data"},
    "end": {"kind": "end", "enough": True, "peak_memory_bytes": 10, "optimizer_state_bytes": 3,
            "weights_sha256": "ab12", "continued": ["a"], "outside": ["b"],
            "rates": [{"group": 0, "name": None, "parameters": 3, "steps": 2, "asked": 0.1, "first": 0.1,
                       "last": 0.1, "largest": "Infinity"}]},
}  # fmt: skip


@pytest.mark.parametrize("kind", LINES)
def test_a_line_of_a_script(kind: str) -> None:
    """It makes the run fail, or is a record that can be stored and read."""

    def check(content: bytes) -> None:
        try:
            record = read_record(content, 1)
        except MalformedLineError:
            return
        text = json.dumps(codec.to_json(record), allow_nan=False)
        assert record["kind"] in LINES
        if record["kind"] == "end":
            codec.decode_rates(json.loads(text)["rates"] or ())

    line = json.dumps(LINES[kind])
    damaged(line.encode() + b"\n", b"\n".join(json.dumps(other).encode() for other in LINES.values()), check)
    for seed in range(EXAMPLES):
        check(json.dumps(strange(LINES[kind], random.Random(seed))).encode())


def test_the_records_of_a_script(tmp_path: Path) -> None:
    """What sabun wrote is read as it was written up to the end of the file, or the run fails."""
    log = {**LINES["log"], "test_loss": None}
    kinds = [LINES["swap"], *({**log, "epoch": epoch, "val_loss": 1 / (1 + epoch)} for epoch in range(4)), LINES["end"]]

    def written(records: list[dict[str, Any]]) -> bytes:
        return b"".join(seal({**record, "line": line}) + b"\n" for line, record in enumerate(records, start=1))

    def followed(content: bytes) -> _Follower:
        path.write_bytes(content)
        follow = _Follower(path)
        list(follow.read())
        return follow

    path = tmp_path / "records.jsonl"
    end = {**LINES["end"], "rates": []}
    whole = written([*kinds[:-1], end])
    expected = followed(whole)
    assert (expected.malformed, len(expected.epochs), expected.enough) == ("", 4, True)
    failed = 0

    def check(content: bytes) -> None:
        nonlocal failed
        found = followed(content)
        failed += bool(found.malformed)
        assert found.epochs == expected.epochs[: len(found.epochs)]
        if not found.malformed and found.end:
            assert (found.epochs, found.end, found.swapped) == (expected.epochs, expected.end, True)

    damaged(whole, whole, check)
    assert failed > EXAMPLES // 3
    assert followed(whole.replace(b"0.25", b"0.15")).malformed.startswith("it wrote a line that is damaged")
    assert followed(whole.split(b"\n", 1)[1]).malformed == "line 1 of its records is missing"


# ------------------------------------------------------------------------------------------------------- checkpoints


def _loaded(make: Callable[[list[torch.Tensor]], torch.optim.Optimizer]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    held = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))]
    return make(held), held  # type: ignore[arg-type]


def _step(optimizer: Any, parameters: Any) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in parameters)
        loss.backward()
        return loss

    if isinstance(optimizer, sabun.RungeKutta):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


MADE: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "nesterov": lambda p: sabun.Optimizer(p, lr=0.01, scheme="nesterov"),
    "adamw": lambda p: sabun.optim.create("adamw", p, lr=0.01),
    "kronecker": lambda p: sabun.Optimizer(p, lr=0.01, preconditioner="kronecker", averaging="ema(0.9)"),
    "runge-kutta": lambda p: sabun.RungeKutta(p, lr=0.01),
}


def _fresh(name: str) -> tuple[Any, str]:
    """An optimizer after one step, and its state as text."""
    optimizer, parameters = _loaded(MADE[name])
    _step(optimizer, parameters)
    return optimizer, str(optimizer.state_dict())


@pytest.fixture
def no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for no modules that own the parameters, which takes longer than all the rest."""
    monkeypatch.setattr(owners, "_alive", list)


@pytest.mark.usefixtures("no_modules")
@pytest.mark.parametrize("name", MADE)
def test_a_checkpoint_of_an_optimizer(name: str) -> None:
    """It is refused and nothing has changed, or it is loaded, and what the optimizer then saves can be loaded too."""
    source, parameters = _loaded(MADE[name])
    for _ in range(2):
        _step(source, parameters)
    whole = source.state_dict()
    refused = 0
    optimizer, before = _fresh(name)
    for seed in range(EXAMPLES):
        try:
            optimizer.load_state_dict(strange(whole, random.Random(seed)))
        except SabunError:
            refused += 1
            assert str(optimizer.state_dict()) == before, seed
            continue
        again, _ = _loaded(MADE[name])
        again.load_state_dict(optimizer.state_dict())
        optimizer, before = _fresh(name)
    assert refused > EXAMPLES // 4


@pytest.mark.parametrize("name", ["nesterov", "look-ahead(0.9, 2)"])
def test_a_scheme_as_text(name: str) -> None:
    scheme = sabun.schemes.get(name)
    text = json.dumps({"name": "mine", "alpha": [str(c) for c in scheme.alpha], "beta": [str(c) for c in scheme.beta],
                       "start_up": scheme.start_up})  # fmt: skip

    def check(content: bytes) -> None:
        try:
            found = scheme_codec.decode(content.decode(errors="replace"))
        except SchemeError:
            return
        assert scheme_codec.decode(scheme_codec.encode(found)) == found

    damaged(text.encode(), b'{"name": "b", "A": [["0"]], "b": ["1"], "b_embedded": null}\nnesterov', check)
    for seed in range(EXAMPLES):
        check(json.dumps(strange(json.loads(text), random.Random(seed))).encode())


# --------------------------------------------------------------------------------------------------------- benchmark


def test_a_file_of_shapes(tmp_path: Path) -> None:
    path = tmp_path / "shapes.json"
    text = json.dumps({"weight": [768, 768], "bias": [768], "kernel": [8, 3, 3, 3]}, indent=1).encode()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = shapes.load(str(path))
        except OptionError:
            return
        assert all(size >= 1 for shape in found for size in shape)

    damaged(text, b"[[1, 2], [3]]\n", check)
    check(b"[" * 100_000)


# ------------------------------------------------------------------------------------------------------ logs to judge


def log_rows() -> list[dict[str, Any]]:
    return [
        {"optimizer": name, "run": f"{name}-{seed}", "seed": seed, "epoch": epoch, "status": "finished",
         "val_loss": round(factor / (1 + epoch) + 0.01 * (seed % 5), 6), "seconds": 0.5, "host": "a",
         "load.cpu_s": 0.4, "load.preempted": 3}
        for name, factor in (("today", 1.0), ("new", 0.8)) for seed in range(7) for epoch in range(3)
    ]  # fmt: skip


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    lines = [",".join(map(str, row.values())) for row in rows]
    return "\n".join([",".join(rows[0]), *lines, ""]).encode()


def as_runs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As Weights & Biases exports them."""
    runs: dict[str, dict[str, Any]] = {}
    for row in rows:
        config = {"optimizer": row["optimizer"], "seed": row["seed"]}
        run = {"name": row["run"], "state": "finished", "config": config, "summary": {"val_loss": 0.1}, "history": []}
        held = runs.setdefault(row["run"], run)
        held["history"].append({"_step": row["epoch"], "val_loss": row["val_loss"], "seconds": row["seconds"]})
    return list(runs.values())


def judged(path: Path) -> object:
    """What a reader sees of the judgement of a log."""
    found = judge_logs(read_file(path), path.name, baseline="today")
    return report_json.to_dict(report_of_logs(found))


@pytest.mark.parametrize("form", ["csv", "rows.json", "runs.json"])
def test_a_log_to_judge(form: str, tmp_path: Path) -> None:
    """Nothing attests a log; but a damaged one is an error with its reason, or is judged as it stands."""
    rows = log_rows()
    content: dict[str, Any] = {"rows.json": rows, "runs.json": as_runs(rows)}
    whole = as_csv(rows) if form == "csv" else json.dumps(content[form], indent=0).encode()
    path = tmp_path / f"log.{form}"
    path.write_bytes(whole)
    expected, answers = judged(path), {"error": 0, "other": 0, "equal": 0}

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found, error = attempt(lambda: judged(path), StudyError)
        if error is not None:
            assert error.fix
            answers["error"] += 1
            return
        json.dumps(found, allow_nan=False)
        answers["equal" if found == expected else "other"] += 1

    damaged(whole, as_csv(rows).replace(b"today", b"b").replace(b"0.8", b"nan"), check)
    if form != "csv":
        for seed in range(EXAMPLES):
            check(json.dumps(strange(content[form], random.Random(seed))).encode())
    check(b"[" * 100_000)
    check(b"optimizer,epoch,val_loss\n" + b"x" * 200_000)
    check(b'[{"optimizer": "a", "epoch": 1e400, "val_loss": 1, "seconds": -1}, {"optimizer": "today", "epoch": 1}]')
    assert min(answers.values()) > 0, answers


def test_an_event_file_of_tensorboard(tmp_path: Path) -> None:
    """A record with a wrong checksum is an error; a torn last one leaves the epochs before it."""
    for name in ("one", "two"):
        with SummaryWriter(str(tmp_path / name)) as writer:
            for epoch in range(4):
                writer.add_scalar("val_loss", 1 / (1 + epoch), epoch)
    whole_rows = tensorboard_rows(tmp_path)
    own = [row for row in whole_rows if row["run"] == "one"]
    others = [row for row in whole_rows if row["run"] == "two"]
    assert [row["epoch"] for row in own] == [0, 1, 2, 3]
    (file,) = (tmp_path / "one").iterdir()
    (other,) = (tmp_path / "two").iterdir()
    refused = 0

    def check(content: bytes) -> None:
        nonlocal refused
        file.write_bytes(content)
        found, error = attempt(lambda: tensorboard_rows(tmp_path), StudyError)
        if found is None or error is not None:
            assert error is not None
            assert str(file) in error.cause
            refused += 1
            return
        assert [row for row in found if row["run"] == "two"] == others
        kept = [row for row in found if row["run"] == "one"]
        assert kept == own[: len(kept)]
        # What a kill leaves: fewer bytes, or whole records and a part of the next one.
        assert content.startswith(whole) or len(content) < len(whole)

    whole = file.read_bytes()
    damaged(whole, other.read_bytes(), check)
    assert refused > EXAMPLES // 3


# ------------------------------------------------------------------------------------------- small files and messages


def test_the_instructions_of_a_run(tmp_path: Path) -> None:
    """A script trains with what the study wrote, or fails."""
    task = {"arm": {"name": "a", "optimizer": "nesterov", "options": {}, "space": {}, "schedule": None},
            "hyperparameters": {"lr": 0.123}, "seed": 77, "stop_after": None, "run_dir": "/tmp/x"}  # fmt: skip
    path, whole = tmp_path / "run.json", seal(task)
    path.write_bytes(whole)
    assert read_instructions(path) == task

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found, error = attempt(lambda: read_instructions(path), TrainingError)
        assert found == task if error is None else str(path) in error.cause

    damaged(whole, seal({**task, "seed": 78}) + b"\n{}\n", check)
    for content in (b"", b"{}", b"\xff", b"[" * 100_000):
        check(content)
    path.unlink()
    with pytest.raises(TrainingError, match="unset it"):
        read_instructions(path)


def test_the_studies_that_this_user_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged list makes sabun ask once more; it never makes another study known."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    known = [hashlib.sha256(bytes([n])).hexdigest() for n in range(4)]
    foreign = hashlib.sha256(b"foreign").hexdigest()
    file = tmp_path / "sabun" / "studies"
    file.parent.mkdir()

    def check(content: bytes) -> None:
        file.write_bytes(content)
        assert foreign not in trust._known()

    damaged("".join(f"{mark}\n" for mark in known).encode(), b"\xff\xfe\n\n", check)


def test_who_holds_a_lock_is_a_courtesy(tmp_path: Path) -> None:
    """Whatever the file of a lock says, the refusal is the same."""
    study = tiny_study(trials=0, seeds=1, epochs=1)
    run(study, tmp_path / "s")
    with (tmp_path / "s" / "lock").open("r+b") as lock:
        _files.lock(lock.fileno())
        for content in (b"", b"x", b"\xff\x00", b"9" * 10_000, b"-1", "٣".encode()):
            lock.seek(0)
            lock.truncate()
            lock.write(content)
            lock.flush()
            with pytest.raises(StoreError, match=r"in use|another process"):
                run(study, tmp_path / "s")


def test_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its published checksum, or is refused by name before anything reads it."""
    whole = bytes(range(256)) * 4 + b"\nline\n"
    source = data.Source("part.npz", "https://example.org/part.npz", "sha256", hashlib.sha256(whole).hexdigest())
    monkeypatch.setenv("SABUN_DATA", str(tmp_path))
    path = tmp_path / source.name

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found, error = attempt(lambda: data.fetch(source).read_bytes(), StudyError)
        assert (error is None) == (content == whole)
        assert found == whole if error is None else str(path) in error.cause

    damaged(whole, b"other\n", check)


def test_the_source_files_of_a_script(tmp_path: Path) -> None:
    """Any file can be hashed, whether or not Python can read it."""
    path = tmp_path / "train.py"
    text = b"import helper\nfrom . import other\n\nfor epoch in range(3):\n    print(epoch)\n"
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "train.py").write_bytes(text)
    command = ScriptCommand.parse(f"script:cd {tmp_path} && {sys.executable} train.py --seed {{seed}}", {})

    def check(content: bytes) -> None:
        path.write_bytes(content)
        assert "train.py" in command.sources()
        assert len(command.provenance()) == 64

    damaged(text, b"\x00\n(\n", check)
    for content in (b"(" * 5_000, b"x = " + b"-" * 5_000 + b"1", b"\xff\xfe"):
        check(content)


# --------------------------------------------------------------------------------------------- damaged bytes of states


@pytest.mark.parametrize("name", MADE)
def test_what_is_no_dictionary_is_no_checkpoint(name: str) -> None:
    optimizer, before = _fresh(name)
    for found in ("a", None, 1, [], torch.ones(2)):
        with pytest.raises(StateError, match="not a checkpoint of an optimizer"):
            optimizer.load_state_dict(found)
    assert str(optimizer.state_dict()) == before


def test_a_count_beyond_every_integer_type_is_no_state() -> None:
    source, parameters = _loaded(MADE["kronecker"])
    _step(source, parameters)
    changed = source.state_dict()
    next(held for held in changed["state"].values() if "step" in held)["step"] = 10**30
    optimizer, before = _fresh("kronecker")
    with pytest.raises(StateError, match="neither a tensor nor a number"):
        optimizer.load_state_dict(changed)
    assert str(optimizer.state_dict()) == before


def test_a_loaded_state_needs_no_gradient() -> None:
    """A flag in a file of a checkpoint made every later copy of the optimizer fail."""
    source, parameters = _loaded(MADE["nesterov"])
    _step(source, parameters)
    changed = source.state_dict()
    tensors = [value for held in changed["state"].values() for value in held.values() if torch.is_tensor(value)]
    for tensor in tensors:
        tensor.requires_grad_(True)
    optimizer, _ = _loaded(MADE["nesterov"])
    optimizer.load_state_dict(changed)
    assert tensors
    assert not any(
        torch.is_tensor(value) and value.requires_grad for held in optimizer.state.values() for value in held.values()
    )


@pytest.mark.usefixtures("no_modules")
@pytest.mark.parametrize("name", MADE)
def test_the_bytes_of_a_checkpoint(name: str) -> None:
    """torch.load or load_state_dict refuses them and nothing has changed, or what is loaded can train and be saved."""

    def saved(seed: int) -> bytes:
        torch.manual_seed(seed)
        source, parameters = _loaded(MADE[name])
        for _ in range(1 + seed):
            _step(source, parameters)
        stream = io.BytesIO()
        torch.save(source.state_dict(), stream)
        return stream.getvalue()

    optimizer, before = _fresh(name)
    answers = {"torch": 0, "refused": 0, "loaded": 0}

    def check(content: bytes) -> None:
        nonlocal optimizer, before
        try:
            changed = torch.load(io.BytesIO(content), weights_only=True)
        except Exception:  # noqa: BLE001  (what torch says of a file is its own)
            answers["torch"] += 1
            return
        try:
            optimizer.load_state_dict(changed)
        except SabunError:
            answers["refused"] += 1
            assert str(optimizer.state_dict()) == before
            return
        answers["loaded"] += 1
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        with contextlib.suppress(SabunError):
            _step(optimizer, [p for group in optimizer.param_groups for p in group["params"]])
        optimizer, before = _fresh(name)

    damaged(saved(0), saved(1), check)
    assert min(answers["torch"], answers["loaded"]) > 0, answers


def test_the_state_of_a_guard_in_a_checkpoint() -> None:
    """It is refused and nothing has changed, or the guard goes on from it."""

    def made() -> tuple[Guard, torch.nn.Module]:
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
        return Guard(model, torch.optim.SGD(model.parameters(), lr=0.01)), model

    def train(guard: Guard, model: torch.nn.Module, steps: int) -> None:
        for _ in range(steps):
            guard.optimizer.zero_grad()
            loss = model(torch.ones(4, 2)).square().mean()
            loss.backward()
            guard.step(loss)

    source, model = made()
    train(source, model, 40)
    whole, refused = source.state_dict(), 0
    for seed in range(EXAMPLES):
        changed = strange(whole, random.Random(seed))
        guard, own = made()
        before = copy.deepcopy(guard.state_dict())
        try:
            guard.load_state_dict(changed)
        except StateError:
            refused += 1
            assert guard.state_dict() == before
            continue
        assert guard.state_dict() == changed
        with contextlib.suppress(TrainingError):
            train(guard, own, 3)
    assert refused > EXAMPLES // 2
