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

# What the log must tell, in order, and the reason of the first event. A single corrupted batch of text does a language
# model too little harm to make it diverge, guard or no guard, so it is no anomaly; a corrupted shard does, and is found
# by the losses that follow it.
SKIPPED = ["guard.skipped"] * 3
STORIES = {
    "nan-gradient": (["guard.skipped"], "gradient-not-finite"),
    "loss-times-1000": (["guard.skipped"], "loss-spike"),
    "corrupted-batch": (["guard.skipped"], "loss-spike"),
    "corrupted-shard": ([*SKIPPED, "guard.rolled-back", "guard.skipped"], "loss-spike"),
    "lr-times-100": ([*SKIPPED, "guard.rolled-back", "guard.rolled-back", "guard.fell-back"], "loss-spike"),
}
OTHERWISE = {
    ("charlm", "corrupted-batch"): ([], None),
    ("charlm", "corrupted-shard"): (["guard.rolled-back"], "loss-jump"),
    ("charlm", "lr-times-100"): (
        [*SKIPPED, "guard.rolled-back", *SKIPPED, "guard.rolled-back", *SKIPPED, "guard.fell-back"],
        "loss-spike",
    ),
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
    records = AuditLog(path).read()
    events, reason = OTHERWISE.get((name, fault), STORIES[fault])
    assert [record.event for record in records] == ["guard.started", *events]
    assert {record.data["job_id"] for record in records} == {"job-7"}
    if events:
        first = records[1].data
        assert first["reason"] == reason
        # A jump is certain after 16 losses, and the comparison takes 16 to 18 batches.
        assert workloads.AT <= first["step"] <= workloads.AT + (38 if reason == "loss-jump" else 5)
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


# A training that keeps its good states on disk, killed for real before its n-th write (a sync, a rename, a removal),
# for every n that there is, and then run again. One process imports torch once and forks each attempt.
JOB = """
import importlib.util, json, os, sys
import torch
torch.set_num_threads(1)
here, folder, name = sys.argv[1:]
spec = importlib.util.spec_from_file_location("rollout_workloads", here + "/workloads.py")
workloads = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = workloads
spec.loader.exec_module(workloads)
from sabun.rollout.guard.guard import Guard
import torch._dynamo  # which torch.optim would import lazily, in every fork again
work, steps = {"digits-cnn": workloads.digits_cnn, "charlm": workloads.charlm}[name](), 24

def count_writes(kill):
    calls = 0
    def wrap(name):
        real = getattr(os, name)
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == kill:
                os._exit(9)
            return real(*args, **kwargs)
        setattr(os, name, call)
    for name in ("fsync", "replace", "unlink"):
        wrap(name)

def train(place, kill):
    count_writes(kill)
    torch.manual_seed(0)
    model = work.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=work.lr, momentum=0.9)
    guard = Guard(model, optimizer, folder=place, audit=place + ".jsonl", every=6, disk_share=1.0)
    for step in range(guard.resume(), steps):
        optimizer.param_groups[0]["lr"] = work.lr * (1 - step / steps)
        optimizer.zero_grad()
        loss = work.task.loss(model, work.batch(step))
        loss.backward()
        guard.step(loss)
    with open(place + ".txt", "w") as file:
        file.write(repr(workloads.evaluate(work, model)))

def attempt(place, kill):
    child = os.fork()
    if child == 0:
        train(place, kill)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

codes = [[attempt(folder + "/whole", 0)]]
while len(codes) == 1 or codes[-1][0] == 9:
    place = f"{folder}/killed-{len(codes)}"
    codes.append([attempt(place, len(codes)), attempt(place, 0)])
print(json.dumps(codes))
"""


@pytest.mark.parametrize("name", WORK)
def test_a_training_killed_between_any_two_writes_resumes_and_ends_the_same(name: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", JOB, str(HERE), str(tmp_path), name]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *killed, last = json.loads(done.stdout)
    assert (first, last) == ([0], [0, 0])  # the last attempt had fewer writes than the kill asked for
    assert killed == [[9, 0]] * len(killed)
    # Four states of two writes each and the removal of two, and an event of the log of at least four.
    assert len(killed) >= 14
    for number in range(1, len(killed) + 1):
        place = tmp_path / f"killed-{number}"
        assert place.with_suffix(".txt").read_text() == (tmp_path / "whole.txt").read_text()  # to the bit
        # Bounded: two good states, and no half-written one.
        assert sorted(path.suffix for path in place.iterdir()) == ["", ".pt", ".pt"]  # with the lock
        log = tmp_path / f"{place.name}.jsonl"
        assert audit.verify(log).ok
        told = [record.event for record in AuditLog(log).read() if record.event != "audit.recovered"]
        # Killed before the first state was whole or its event was written, it starts again; else it resumes.
        assert set(told) <= {"guard.started", "guard.resumed"}
        assert told[-1] == ("guard.resumed" if number > 2 else "guard.started")
