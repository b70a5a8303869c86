"""Every reader of files, given damaged ones: found, or nothing changed; and never another error than the project's."""

from __future__ import annotations

import copy
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sabun
from sabun import _files
from sabun.bench import shapes
from sabun.cli import app
from sabun.errors import OptionError, RolloutError, SabunError, SchemeError, StateError, StudyError
from sabun.optim import scheme_codec
from sabun.poc import codec
from sabun.poc.evidence.live_status import read_live
from sabun.poc.spec import Study
from sabun.poc.study import run
from sabun.poc.training.script_records import MalformedLineError, read_record
from sabun.rollout.choice import Choice, choose
from sabun.rollout.rollout_plan import RolloutPlan
from sabun.rollout.state import Rollout

from .damage import EXAMPLES, damaged, strange
from .poc.helpers import tiny_study

# --------------------------------------------------------------------------------------------------------- roll-outs

FILES = ("rollout.toml", "rollout.audit.jsonl", "rollout.audit.jsonl.head", "rollout.state.json")
JOBS = [f"job-{number}" for number in range(8)]


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


@pytest.mark.parametrize("name", MADE)
def test_a_checkpoint_of_an_optimizer(name: str) -> None:
    """It is refused and nothing has changed, or it is loaded, and what the optimizer then saves can be loaded too."""
    source, parameters = _loaded(MADE[name])
    for _ in range(2):
        _step(source, parameters)
    whole = source.state_dict()
    refused = 0
    for seed in range(EXAMPLES):
        changed = strange(whole, random.Random(seed))
        optimizer, parameters = _loaded(MADE[name])
        _step(optimizer, parameters)
        before = copy.deepcopy(optimizer.state_dict())
        try:
            optimizer.load_state_dict(changed)
        except SabunError:
            refused += 1
            assert str(optimizer.state_dict()) == str(before), seed
            continue
        again, _ = _loaded(MADE[name])
        again.load_state_dict(optimizer.state_dict())
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
