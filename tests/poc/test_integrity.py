"""A change of a study's files is found by verification, or changes nothing that is judged or reported."""

from __future__ import annotations

import contextlib
import copy as copies
import dataclasses
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sabun import _files
from sabun.audit import AuditLog
from sabun.cli import app
from sabun.cli.poc import prices
from sabun.errors import OptionError, StoreError
from sabun.poc import study as studies
from sabun.poc.evidence import StudyEvidence, log_verdicts, read, verify
from sabun.poc.evidence.study_writer import StudyWriter
from sabun.poc.executors import runtime_environment
from sabun.poc.judgement.assess import assess
from sabun.poc.records import GroupRates, Load, RunResult
from sabun.poc.spec import Study, hash_of
from sabun.report import report_json
from sabun.report.build import build
from sabun.rollout import gate as gates
from sabun.rollout.rollout_plan import Gate

from ..damage import EXAMPLES, SLOW_EXAMPLES, Record, chained, damaged, sealed, strange
from .helpers import small, tiny_study

HERE = {"machine": {"cpu": "a"}, "torch": "2"}
FILES = ("study.json", "records.jsonl", "audit.jsonl", "audit.jsonl.head")


def records_of(path: Path) -> list[Record]:
    return [json.loads(line) for line in (path / "records.jsonl").read_bytes().splitlines()]


def append(path: Path, *added: Record) -> None:
    (path / "records.jsonl").write_bytes(chained([*records_of(path), *added]))


def evaluated(path: Path) -> list[Record]:
    return [r for r in records_of(path) if r["kind"] == "run" and r["result"]["phase"] == "evaluate"]


# ---------------------------------------------------------------------------------------------- records that were added


def forged(path: Path) -> list[Record]:
    """The candidate's runs again, with losses a tenth of those measured."""
    added = copies.deepcopy([r for r in evaluated(path) if r["result"]["arm"] == "torch.optim:SGD"])
    for record in added:
        for epoch in record["result"]["epochs"][1:]:
            epoch["val_loss"] *= 0.1
    return added


def renamed(path: Path) -> list[Record]:
    added = forged(path)[:1]
    added[0]["result"] |= {"run": "f" * 16, "seed": 3}
    return added


def withdrawal(path: Path) -> list[Record]:
    return [{"kind": "withdrawn", "runs": [forged(path)[0]["result"]["run"]]}]


ADDED: dict[str, Callable[[Path], list[Record]]] = {
    "repeated runs": forged,
    "one repeated run": lambda path: forged(path)[:1],
    "a run of another seed": renamed,
    "a withdrawal": withdrawal,
    "a withdrawal and the runs again": lambda path: [*withdrawal(path), *forged(path)[:1]],
    "an environment": lambda path: [{"kind": "environment", "environment": HERE}],
    "an environment and a run": lambda path: [{"kind": "environment", "environment": HERE}, *renamed(path)],
}


@pytest.mark.parametrize("what", ADDED)
@pytest.mark.parametrize("state", ["ended", "judged", "interrupted"])
def test_records_appended_to_a_study_are_found_with_and_without_an_anchor(copy: Path, what: str, state: str) -> None:
    if state == "judged":
        log_verdicts(read(copy), {"torch.optim:SGD": "undecided"})
    elif state == "interrupted":
        with pytest.raises(KeyboardInterrupt), StudyWriter.start(copy, small(), read(copy).environment):
            raise KeyboardInterrupt
    anchor = verify(copy).audit_head
    count = len(records_of(copy))
    append(copy, *ADDED[what](copy))
    for given_anchor in (None, anchor):
        found = verify(copy, given_anchor)
        assert not found.ok
        assert found.problem.startswith(f"records.jsonl, line {count + 1} "), found.problem
        assert "was added" in found.problem or "already" in found.problem
    with pytest.raises(StoreError, match="could not be verified"):
        read(copy)
    with pytest.raises(StoreError, match="could not be verified"):
        studies.run(small(), copy)
    answer = gates.examine(Gate(study=str(copy)), None, copy.parent)  # type: ignore[arg-type]
    assert not answer.passed
    assert "could not be verified" in answer.problems[0]


def crashed(tmp_path: Path, *, after_verdict: bool = False) -> tuple[Path, list[Record]]:
    """A study killed while two runs were under way, and the records of these two runs and one that had not started."""
    whole = tmp_path / "whole"
    studies.run(small(trials=0), whole)
    path = tmp_path / "s"
    writer = StudyWriter.start(path, small(trials=0), read(whole).environment)
    runs = list(read(whole).records.results.values())
    for result in runs[:2]:
        writer.trail.started(_Started(result))  # type: ignore[arg-type]
        writer.append(result)
    for result in runs[2:4]:
        writer.trail.started(_Started(result))  # type: ignore[arg-type]
    if after_verdict:
        log_verdicts(read(path), {"torch.optim:SGD": "undecided"})
    writer.close()
    lines = [r for r in records_of(whole) if r["kind"] == "run"]
    return path, lines[2:5]


@dataclasses.dataclass
class _Started:
    result: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.result, "run" if name == "id" else name)


def test_the_record_of_a_run_under_way_counts_and_gets_its_event_on_resuming(tmp_path: Path) -> None:
    path, (first, _, _) = crashed(tmp_path)
    append(path, first)
    assert verify(path).ok
    assert len(read(path).records.results) == 3
    studies.run(small(trials=0), path)
    assert verify(path).ok
    late = [event for event in AuditLog(path / "audit.jsonl").read() if event.data.get("late")]
    assert [event.data["run"] for event in late] == [first["result"]["run"]]


@pytest.mark.parametrize("records", [(0, 1), (2,), (0, 0)], ids=["two", "not started", "twice"])
def test_no_other_record_without_an_event_counts(tmp_path: Path, records: tuple[int, ...]) -> None:
    path, lines = crashed(tmp_path)
    append(path, *(lines[index] for index in records))
    assert not verify(path).ok


def test_the_record_of_a_run_under_way_at_a_verdict_does_not_count(tmp_path: Path) -> None:
    path, (first, _, _) = crashed(tmp_path, after_verdict=True)
    assert verify(path).ok
    append(path, first)
    assert "was added" in verify(path).problem


def test_a_run_has_two_records_only_through_a_logged_withdrawal(tmp_path: Path) -> None:
    path, _ = crashed(tmp_path)
    known = read(path).records.results
    with StudyWriter.start(path, small(trials=0), read(path).environment) as writer:
        run = next(iter(known))
        writer.withdraw([run])
        writer.append(known[run])
    assert verify(path).ok
    records = records_of(path)
    at = next(index for index, record in enumerate(records) if record["kind"] == "withdrawn")
    (path / "records.jsonl").write_bytes(chained([*records[:at], *records[at + 1 :]]))
    assert not verify(path).ok


# --------------------------------------------------------------------------------------------------- every single field


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(tree, dict | list) and tree:
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from leaves(tree[key], (*path, key))
    else:
        yield path


def changes(value: Any) -> list[Any]:
    """Other values in the place of ``value``, of its own type and of another."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value * 0.5, None]
    if isinstance(value, str):
        return [value + "x", value[1:] if value else "y"]
    return [1, "x"]


def mutations(tree: Any) -> Iterator[Any]:
    """``tree`` with one field changed or left out, for every field and change."""
    for path in leaves(tree):
        at: Any = tree
        for key in path:
            at = at[key]
        for value in [*changes(at), ...]:
            other = copies.deepcopy(tree)
            place = other
            for key in path[:-1]:
                place = place[key]
            if value is ...:
                del place[path[-1]]
            else:
                place[path[-1]] = value
            yield other


def reported(evidence: StudyEvidence) -> object:
    """Everything that a reader of the report sees."""
    judged = assess(evidence.study, evidence.runs, evidence.tuning)
    return report_json.to_dict(build(evidence, judged))


def seen(evidence: StudyEvidence) -> str:
    """What judgement and report are functions of."""
    fields = [evidence.study, evidence.runs, dict(evidence.tuning), evidence.environment, evidence.mixed]
    return repr([*fields, evidence.verification.head, evidence.records_sha256, evidence.records.exclusive])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judged study with every kind of field: looks, a limit, pruning, an earlier study, rates, a failed run, a run
    withdrawn and repeated, two sessions."""
    folder = tmp_path_factory.mktemp("full")
    budget = {"trials": 1, "seeds": 7, "looks": [6], "limit": "60min", "pruning": "median"}
    study = small(seed=1)
    study = Study.build({**study.model_dump(mode="json"), "budget": {**study.budget.model_dump(mode="json"), **budget}})
    studies.run(small(trials=0, seeds=6), folder / "earlier")
    path, append = folder / "s", StudyWriter.append
    rates = GroupRates(
        group=0, name="all", parameters=11, steps=4, asked=0.1, first=0.1, last=0.05, largest=0.2,
        roles={"hidden": 8, "rest": 3},
    )  # fmt: skip

    def appended(self: StudyWriter, result: RunResult, **more: Any) -> None:
        if (result.phase, result.seed) == ("evaluate", 2):
            result = dataclasses.replace(result, rates=(rates,))
        elif (result.phase, result.seed, result.arm) == ("evaluate", 3, "torch.optim:SGD"):
            result = dataclasses.replace(result, status="failed", failure="it broke. It printed last: a word")
        append(self, result, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudyWriter, "append", appended)
        studies.run(study, path)
        known = read(path)
        with StudyWriter.start(path, study, {**known.environment, "platform": "another"}) as writer:
            again = next(result for result in known.records.results.values() if result.phase == "repeat")
            writer.withdraw([again.run])
            writer.append(again, trial=None, exclusive=True)
    log_verdicts(read(path), {"torch.optim:SGD": "undecided"})
    return path


def test_the_full_study_has_every_kind_of_field(full: Path) -> None:
    frozen = json.loads((full / "study.json").read_bytes())
    assert frozen["spaces"]
    assert frozen["earlier"]
    assert frozen["study"]["budget"]["looks"] == [6]
    assert frozen["study"]["budget"]["limit"] == "60min"
    records = records_of(full)
    assert {record["kind"] for record in records} == {"environment", "run", "withdrawn"}
    assert sum(record["kind"] == "environment" for record in records) == 2
    runs = [record["result"] for record in records if record["kind"] == "run"]
    assert {run["phase"] for run in runs} == {"tune", "evaluate", "repeat"}
    assert {run["status"] for run in runs} == {"finished", "failed"}
    assert any(run.get("rates") for run in runs)
    assert {*runs[0]["epochs"][1]["load"]} == {field.name for field in dataclasses.fields(Load)}
    told = {json.loads(line)["event"] for line in (full / "audit.jsonl").read_bytes().splitlines()}
    assert told >= {"study.frozen", "study.opened", "run.started", "run.ended", "study.ended", "verdict"}


def test_every_field_of_every_file_is_covered(
    full: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each field changed or left out, in the plain file and, for the records, with a new chain."""
    copy = tmp_path / "s"
    shutil.copytree(full, copy)
    whole = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    before = reported(read(copy))
    count = dict.fromkeys((*FILES, "live.json"), 0)
    undetected: Counter[str] = Counter()

    def found_or_nothing_changed(name: str, content: bytes) -> None:
        if content == whole[name]:  # half of 0 is no change
            return
        count[name] += 1
        (copy / name).write_bytes(content)
        if verify(copy).ok:
            undetected[name] += 1
            assert reported(read(copy)) == before, (name, content)
        for kept, raw in whole.items():  # verifying may have logged what it found
            if kept == name or (copy / kept).read_bytes() != raw:
                (copy / kept).write_bytes(raw)

    for name in ("study.json", "audit.jsonl.head", "live.json"):
        for tree in mutations(json.loads(whole[name])):
            found_or_nothing_changed(name, json.dumps(tree).encode())
    for name in ("records.jsonl", "audit.jsonl"):
        lines = [json.loads(line) for line in whole[name].splitlines()]
        kinds = {line.get("kind") or line["event"]: at for at, line in enumerate(lines)}  # the last line of each
        rich = [at for at, line in enumerate(lines) if line.get("result", {}).get("rates")][:1]
        for index in range(len(lines)) if EXAMPLES > 1000 else sorted({0, *kinds.values(), *rich}):
            for tree in mutations(lines[index]):
                changed = [*lines[:index], tree, *lines[index + 1 :]]
                text = [
                    json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for line in changed
                ]
                found_or_nothing_changed(name, b"".join(text))
                if name == "records.jsonl":
                    found_or_nothing_changed(name, chained(changed))
    assert min(count[name] for name in FILES) > 5, count
    assert sum(count.values()) > 1000
    assert {*undetected} <= {"live.json"}, undetected  # which is no evidence
    record_property("changed fields", count)


def test_the_search_space_is_frozen(copy: Path) -> None:
    tree = json.loads((copy / "study.json").read_text())
    tree["spaces"] = {arm: {} for arm in tree["spaces"]}
    (copy / "study.json").write_text(json.dumps(tree, ensure_ascii=False, indent=1) + "\n")
    assert verify(copy).problem == "study.json is not the file that was frozen: it was changed."


# -------------------------------------------------------------------------------------------------------- any change


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("integrity") / "other"
    studies.run(small(seed=7), path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_found_or_changes_nothing(finished: Path, foreign: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(finished, tmp_path / "s")
    path = tmp_path / "s"
    whole = {file: (finished / file).read_bytes() for file in FILES}
    before = seen(read(finished))
    other = (foreign / name).read_bytes()

    rng = random.Random(0)

    def check(content: bytes) -> None:
        if name == "records.jsonl" and rng.random() < 0.5:
            try:
                content = chained([dict(json.loads(line)) for line in content.splitlines()])
            except (ValueError, TypeError):
                return
        (path / name).write_bytes(content)
        try:
            if verify(path).ok:
                assert seen(read(path)) == before
        finally:
            for file, raw in whole.items():
                (path / file).write_bytes(raw)

    damaged(whole[name], other, check)


def consistent(path: Path, rng: random.Random) -> None:
    """Replace a value of any file and write chains, hashes and seals that fit, as one who writes them all could."""
    records, events = records_of(path), [json.loads(line) for line in (path / "audit.jsonl").read_bytes().splitlines()]
    name = rng.choice(("study.json", "records.jsonl", "records.jsonl", "audit.jsonl", "live.json"))
    if name in ("study.json", "live.json"):
        tree = strange(json.loads((path / name).read_bytes()), rng)
        if name == "study.json" and isinstance(tree.get("study"), dict):
            with contextlib.suppress(UnicodeEncodeError):
                tree["hash"] = hash_of(tree["study"])
        (path / name).write_bytes(json.dumps(tree).encode())
    else:
        lines = records if name == "records.jsonl" else events
        at = rng.randrange(len(lines))
        body = {key: value for key, value in lines[at].items() if key not in ("seq", "prev", "hash")}
        lines[at] = strange(body, rng)
    rewrite(path, records, events)


def rewrite(path: Path, records: list[Record], events: list[Record]) -> None:
    """Write records and audit trail with chains, hashes and seals that fit."""
    (path / "records.jsonl").write_bytes(chained(records))
    hashes = [json.loads(line)["hash"] for line in (path / "records.jsonl").read_bytes().splitlines()]
    for event in events:
        data = event.get("data")
        if isinstance(data, dict):
            if data.get("record") in range(1, len(hashes) + 1):
                data["record_hash"] = hashes[data["record"] - 1]
            if "file_hash" in data:
                data["file_hash"] = hashlib.sha256((path / "study.json").read_bytes()).hexdigest()
    (path / "audit.jsonl").write_bytes(chained(events))
    (path / "audit.jsonl.head").write_bytes(sealed((path / "audit.jsonl").read_bytes()))


def test_epochs_that_do_not_increase_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first as the last, the last as the first, and all alike: a mean over the curve divides by their distance."""
    path = tmp_path / "s"
    for numbers in ([0, 0], [1, 0], [0, 0, 2], [0, 2, 1]):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(finished, path)
        records = records_of(path)
        at = next(i for i, record in enumerate(records) if len(record.get("result", {}).get("epochs", ())) > 1)
        epochs = records[at]["result"]["epochs"]
        records[at]["result"]["epochs"] = [{**epochs[-1], "epoch": number} for number in numbers]
        rewrite(path, records, [json.loads(line) for line in (path / "audit.jsonl").read_bytes().splitlines()])
        assert app.run(["poc", "report", str(path), "--quiet"]) == 1
        assert "the numbers of the epochs do not increase" in capsys.readouterr().err


def test_files_that_are_consistent_and_wrong_are_an_error_or_a_report(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but the hashes kept elsewhere can find such a change; but it is never a traceback."""
    path = tmp_path / "s"
    shutil.copytree(finished, path)
    whole = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    commands = ["report", "--quiet"], ["export", "--csv", "-"], ["status"]
    ok = 0
    for seed in range(SLOW_EXAMPLES):
        consistent(path, random.Random(seed))
        for command in commands:
            words = ["poc", command[0], str(path), *command[1:]]
            try:
                code = app.run(words)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {' '.join(words)}") from error
            assert code in (0, 1), (seed, words)
        ok += code == 0
        for name, raw in whole.items():
            (path / name).write_bytes(raw)
    assert 0 < ok < SLOW_EXAMPLES
    capsys.readouterr()


MISSING = object()


@pytest.mark.parametrize("value", [MISSING, 0, -0.1, "0.1", True, None])
def test_a_trial_has_a_positive_number_for_each_hyperparameter_of_its_space(
    finished: Path, tmp_path: Path, value: object
) -> None:
    path = tmp_path / "s"
    shutil.copytree(finished, path)
    records = records_of(path)
    trial = next(record for record in records if record["kind"] == "run" and record["trial"] is not None)
    chosen = trial["result"]["hyperparameters"]
    chosen.pop("lr") if value is MISSING else chosen.update(lr=value)
    rewrite(path, records, [json.loads(line) for line in (path / "audit.jsonl").read_bytes().splitlines()])
    with pytest.raises(StoreError, match=r"records\.jsonl, line \d+ cannot be read"):
        read(path)


def test_a_stored_text_that_is_no_unicode_is_reported_as_its_escape(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lone surrogate, as of a file name that is not UTF-8, among what is stored of the environment."""
    path = tmp_path / "s"
    shutil.copytree(finished, path)
    records = records_of(path)
    records[0]["environment"]["git"]["dirty"] = "\udcff"
    rewrite(path, records, [json.loads(line) for line in (path / "audit.jsonl").read_bytes().splitlines()])
    assert app.run(["poc", "report", str(path), "--quiet"]) == 0
    capsys.readouterr()
    written = {kind: (path / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "json", "md")}
    assert '"git.dirty": "\\udcff"' in written["json"]
    json.loads(written["json"])


# ------------------------------------------------------------------------------------------- a directory that goes away


def gone(path: Path) -> None:
    shutil.rmtree(path)


def moved(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replaced(path: Path) -> None:
    moved(path)
    path.mkdir()


def emptied(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize("when", ["RunStarted", "RunFinished", "EpochDone"])
@pytest.mark.parametrize("vanish", [gone, moved, replaced, emptied])
def test_a_study_whose_directory_goes_away_stops_and_keeps_its_runs(
    tmp_path: Path, vanish: Callable[[Path], None], when: str
) -> None:
    path, seen_events, finished_runs = tmp_path / "s", 0, 0

    def listen(event: object) -> None:
        nonlocal seen_events, finished_runs
        finished_runs += type(event).__name__ == "RunFinished"
        seen_events += type(event).__name__ == when
        if seen_events == 3:
            seen_events += 1
            vanish(path)

    with pytest.raises(StoreError, match="moved, deleted or replaced while the study was running"):
        studies.run(small(trials=0), path, on_event=listen)
    assert not path.exists() or not [file for file in path.iterdir() if file.suffix == ".jsonl"]
    if (tmp_path / "moved").exists():
        kept = read(tmp_path / "moved")
        assert len(kept.runs) == finished_runs
        assert studies.run(small(trials=0), tmp_path / "moved").verification.ok


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_files, "lock", lock)
    with pytest.raises(StoreError, match=r"No locks available.*use a directory on another one"):
        studies.run(small(trials=0), tmp_path / "s")


# ------------------------------------------------------------------------------------------------- a received directory


def test_judging_a_received_study_imports_nothing_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "received_module.py").write_text("import torch\n\n\nclass Mine(torch.optim.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    study = tiny_study("received_module:Mine(lr=0.1)", trials=0, seeds=1, epochs=1)
    studies.run(study, tmp_path / "s")
    (tmp_path / "received_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    sys.modules.pop("received_module")
    for command in ("report", "verify", "status", "compare"):
        assert app.run(["poc", command, *[str(tmp_path / "s")] * (1 + (command == "compare"))]) == 0
    assert "received_module" not in sys.modules
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", ["report.html", "report.html.new", "report.json.new", "audit.jsonl.head.new", "lock"])
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_planted_link_is_not_written_through(copy: Path, tmp_path: Path, name: str, link: Any) -> None:
    foreign_file = tmp_path / "foreign"
    foreign_file.write_text("mine")
    (copy / name).unlink(missing_ok=True)
    link(copy / name, foreign_file)
    assert app.run(["poc", "report", str(copy), "--quiet"]) == 0
    if not (name == "lock" and link is Path.hardlink_to):  # a lock is written only when a study is resumed
        with contextlib.suppress(StoreError):
            studies.run(small(), copy)
    assert foreign_file.read_text() == "mine"


PIPES = ["study.json", "records.jsonl", "audit.jsonl", "audit.jsonl.head", "live.json", "prices.json", "lock"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs os.mkfifo")
@pytest.mark.parametrize("name", PIPES)
def test_a_received_pipe_is_not_waited_for(
    copy: Path, name: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    class Late(BaseException):
        """No error that a command answers with a message."""

    def late(*_: object) -> None:
        raise Late

    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    previous = signal.signal(signal.SIGALRM, late)
    request.addfinalizer(lambda: signal.signal(signal.SIGALRM, previous))
    request.addfinalizer(lambda: signal.alarm(0))
    for command in ("status", "report"):
        signal.alarm(60)
        fine = name in ("live.json", "lock") or (command, name) == ("status", "prices.json")
        assert (app.run(["poc", command, str(copy)]) == 0) == fine
        assert fine or "Traceback" not in capsys.readouterr().err


ODD_PRICES = [
    "[" * 20_000 + "]" * 20_000,
    '{"price_per_hour": 1' + "0" * 400 + ', "jobs_per_month": 1}',
    '{"price_per_hour": 1' + "0" * 5000 + ', "jobs_per_month": 1}',
    '{"price_per_hour": 1, "jobs_per_month": 1, "currency": ["a", "b", "c"]}',
    '{"price_per_hour": 1, "jobs_per_month": true}',
    '{"price_per_hour": "1", "jobs_per_month": 1}',
    '{"price_per_hour": NaN, "jobs_per_month": 1}',
    '{"price_per_hour": 1e300, "jobs_per_month": 1e300}',
    "[]",
    "5",
]


@pytest.mark.parametrize("content", ODD_PRICES, ids=range(len(ODD_PRICES)))
def test_prices_that_are_none_are_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "prices.json").write_text(content)
    with pytest.raises(OptionError, match=r"prices\.json|positive number"):
        prices.stored(tmp_path)


@pytest.mark.parametrize("command", ["fsmonitor", "clean", "process", "submodule", "fetch"])
def test_git_runs_no_command_of_the_repository(command: str, tmp_path: Path) -> None:
    place, hook = tmp_path / "r", tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)

    def git(*arguments: str, where: Path = place, check: bool = True) -> None:
        named = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
        subprocess.run(["git", "-C", str(where), *named, *arguments], check=check, capture_output=True)

    def filtered(where: Path, key: str) -> None:
        (where / ".gitattributes").write_text("* filter=own\n")
        (where / "a").write_text("one\n")
        git("add", "-A", where=where)
        git("commit", "-q", "-m", "x", where=where)
        git("config", f"filter.own.{key}", str(hook), where=where)
        (where / "a").write_text("two\n")

    place.mkdir()
    git("init", "-q")
    if command in ("clean", "process"):
        filtered(place, command)
    elif command == "submodule":
        subprocess.run(["git", "init", "-q", str(tmp_path / "other")], check=True)
        git("commit", "-q", "--allow-empty", "-m", "x", where=tmp_path / "other")
        git("submodule", "add", str(tmp_path / "other"), "inner")
        filtered(place / "inner", "clean")
        git("add", "-A")
        git("commit", "-q", "-m", "x")
        (place / "inner" / "a").write_text("three\n")
        (tmp_path / "ran").unlink(missing_ok=True)
    else:
        (place / "folder").mkdir()
        (place / "folder" / "a").write_text("one\n")
        git("add", "-A")
        git("commit", "-q", "-m", "x")
    if command == "fsmonitor":
        git("config", "core.fsmonitor", str(hook))
    if command == "fetch":  # a tree is missing, and the remote is to supply it
        settings = {"core.repositoryFormatVersion": "1", "extensions.partialClone": "origin"}
        settings |= {"remote.origin.url": "ssh://a/b", "remote.origin.promisor": "true", "core.sshCommand": str(hook)}
        for name, value in settings.items():
            git("config", name, value)
        tree = subprocess.run(
            ["git", "-C", place, "rev-parse", "HEAD:folder"], capture_output=True, text=True, check=True
        )
        (place / ".git" / "objects" / tree.stdout[:2] / tree.stdout[2:].strip()).unlink()
        (place / ".git" / "index").unlink()
    git("status", check=False)
    assert (tmp_path / "ran").exists(), "the hook does nothing here"
    (tmp_path / "ran").unlink()
    found = runtime_environment._repository(place)
    assert not (tmp_path / "ran").exists()
    assert (found is None) == (command == "fetch")
    assert found is None or found["dirty"] == (command in ("clean", "process", "submodule"))
