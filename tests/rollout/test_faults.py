"""Fault injection on two real trainings: guarded, they end well and the log tells the story; unguarded, they fail."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from sabun import audit
from sabun.audit import AuditLog

HERE = Path(__file__).parent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rollout_workloads", HERE / "workloads.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


workloads = _load()
WORK = {"digits-cnn": workloads.digits_cnn, "charlm": workloads.charlm}

# What the log must tell, in order. A single corrupted batch of text does a language model too little harm to make it
# diverge, guard or no guard; a corrupted shard does.
STORIES = {
    "nan-gradient": ["guard.skipped"],
    "loss-times-1000": ["guard.skipped"],
    "corrupted-batch": ["guard.skipped"],
    "corrupted-shard": ["guard.skipped", "guard.rolled-back", *["guard.skipped"] * (workloads.SHARD - 2)],
    "lr-times-100": ["guard.skipped", "guard.rolled-back", "guard.rolled-back", "guard.fell-back"],
}
HARMLESS = {("charlm", "corrupted-batch")}


@cache
def undisturbed(name: str) -> float:
    return float(workloads.train(WORK[name](), guarded=False)[0])


@pytest.mark.parametrize("name", WORK)
def test_without_a_fault_the_guard_changes_nothing(name: str, tmp_path: Path) -> None:
    loss, guard = workloads.train(WORK[name](), audit=tmp_path / "audit.jsonl")
    assert loss == undisturbed(name)  # to the bit
    assert [event for event, _ in guard.events] == ["guard.started"]


@pytest.mark.parametrize("fault", workloads.FAULTS)
@pytest.mark.parametrize("name", WORK)
def test_a_fault_costs_at_most_five_per_cent_and_the_log_tells_the_story(name: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    loss, guard = workloads.train(WORK[name](), fault=fault, audit=path, job_id="job-7")
    assert loss <= 1.05 * undisturbed(name)
    assert audit.verify(path).ok
    records = AuditLog(path).records()
    assert [record.event for record in records] == ["guard.started", *STORIES[fault]]
    assert {record.data["job_id"] for record in records} == {"job-7"}
    first = records[1].data
    assert first["reason"] == ("gradient-not-finite" if fault == "nan-gradient" else "loss-spike")
    assert workloads.AT <= first["step"] <= workloads.AT + 5
    assert guard.fallen_back == (fault == "lr-times-100")
    if guard.fallen_back:
        assert (records[-1].data["from"], records[-1].data["to"]) == ("SGD", "AdamW")


@pytest.mark.parametrize("fault", workloads.FAULTS)
@pytest.mark.parametrize("name", WORK)
def test_without_the_guard_the_same_fault_ruins_the_training(name: str, fault: str) -> None:
    loss, _ = workloads.train(WORK[name](), fault=fault, guarded=False)
    # Not finite, at chance level, or for the corrupted text back where a model knows letter frequencies alone.
    ruined = not loss < 1.15 * undisturbed(name)
    assert ruined == ((name, fault) not in HARMLESS)


# A training that keeps its good states on disk, killed for real at a step or in the middle of writing a state. One
# process imports torch once and forks each attempt.
JOB = """
import importlib.util, json, os, sys
import torch
torch.set_num_threads(1)
here, folder, kills = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
spec = importlib.util.spec_from_file_location("rollout_workloads", here + "/workloads.py")
workloads = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = workloads
spec.loader.exec_module(workloads)
from sabun.rollout.guard import Guard
import torch._dynamo  # which torch.optim would import lazily, in every fork again
work, steps = workloads.digits_cnn(), 120

def wrap(name, at):
    real, calls = getattr(os, name), 0
    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at:
            os._exit(9)
        return real(*args, **kwargs)
    setattr(os, name, call)

def train(folder, kill):
    torch.manual_seed(0)
    model = work.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=work.lr, momentum=0.9)
    guard = Guard(model, optimizer, folder=folder, audit=folder + ".jsonl", every=10, disk_share=1.0)
    for name in ("fsync", "replace", "unlink"):
        wrap(name, kill.get(name))
    for step in range(guard.resume(), steps):
        if step == kill.get("step"):
            os._exit(9)
        optimizer.param_groups[0]["lr"] = work.lr * (1 - step / steps)
        optimizer.zero_grad()
        loss = work.task.loss(model, work.batch(step))
        loss.backward()
        guard.step(loss)
    with open(folder + ".txt", "w") as file:
        file.write(repr(workloads.evaluate(work, model)))

codes = []
for name, kill in [("/whole", {}), *(("/killed", kill) for kill in kills), ("/killed", {})]:
    child = os.fork()
    if child == 0:
        train(folder + name, kill)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def test_a_killed_training_resumes_from_its_last_good_state_and_ends_the_same(tmp_path: Path) -> None:
    # At a step; before a state is synced; before it gets its name; before the surplus one goes; before the first event.
    kills: list[dict[str, int]] = [{"step": 37}, {"fsync": 5}, {"replace": 3}, {"unlink": 1}, {"fsync": 1}]
    arguments = [sys.executable, "-c", JOB, str(HERE), str(tmp_path), json.dumps(kills)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, 9, 9, 9, 9, 9, 0]
    assert (tmp_path / "killed.txt").read_text() == (tmp_path / "whole.txt").read_text()  # to the bit
    # Bounded: two good states, whatever the number of steps, and no half-written one.
    assert [len([*(tmp_path / name).glob("*.pt")]) for name in ("whole", "killed")] == [2, 2]
    log = tmp_path / "killed.jsonl"
    assert audit.verify(log).ok
    assert [record.event for record in AuditLog(log).records()].count("guard.resumed") >= 4
