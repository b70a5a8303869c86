"""Scripts as people write them: what is compared is what was asked, and what is wrong is found before a study.

``corpus.toml`` is the table of the scripts. By default a part of them is broken in a part of the ways; with
``SABUN_CORPUS=all`` every script in every way, which takes about an hour.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sabun.poc.records import RunResult

from ..warm import Warm
from .corpus_tools import (
    CORPUS,
    MODULES,
    Entry,
    checked,
    codes,
    curve,
    is_harmless,
    table,
    trained,
    unswapped,
)  # fmt: skip
from .mutants import MUTATIONS, mutants

TABLE = table()
ALL = os.environ.get("SABUN_CORPUS") == "all"


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    """A Python that has imported the frameworks."""
    with Warm(*MODULES) as warm:
        yield warm.command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the corpus, as the working directory."""
    place = tmp_path / "work" / "project"
    shutil.copytree(CORPUS, place, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(place)
    return place


def _some(number: int, *keys: str) -> bool:
    """Whether an item is among about ``number`` percent, chosen by its name."""
    return ALL or int(hashlib.sha256("|".join(keys).encode()).hexdigest(), 16) % 100 < number


OWN: dict[str, RunResult] = {}


def as_it_is(entry: Entry, python: str, logs: Path) -> RunResult:
    """The run of a script with its own optimizer; once, since it is reproducible."""
    if entry.name not in OWN:
        OWN[entry.name] = trained(entry, python, logs)
    return OWN[entry.name]


def test_the_corpus_is_large_and_complete() -> None:
    assert len({entry.file for entry in TABLE}) >= 30
    scripts = {str(path.relative_to(CORPUS)) for path in CORPUS.rglob("*.py")}
    assert scripts == {entry.file for entry in TABLE} | {"data.py", "pkg/__init__.py", "pkg/model.py"}


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_rates_and_curves_are_those_without_sabun_and_of_the_same_optimizer(
    entry: Entry, python: str, project: Path, tmp_path: Path
) -> None:
    """The oracle is the script without ``swap``: its curve, and the rates that a hook on every step reads.

    The A/A run puts the script's own optimizer in its place, by ``swap``.
    """
    oracle = unswapped(entry, python, shutil.copytree(project, tmp_path / "oracle"))
    assert [[group["first"], group["last"]] for group in oracle["groups"]] == [pytest.approx(r) for r in entry.rates]
    own = as_it_is(entry, python, tmp_path / "logs")
    assert own.status == "finished", own.failure
    if oracle["losses"]:  # frameworks log in their own way
        assert [epoch.val_loss for epoch in own.epochs] == oracle["losses"]
    same = trained(entry, python, tmp_path / "logs", entry.same, lr=entry.lr)
    assert curve(same) == curve(own), same.failure
    assert same.weights_sha256 == own.weights_sha256
    for result in (own, same):
        stepped = [(group.steps, group.first, group.last, group.largest) for group in result.rates]
        expected = [(group["steps"], group["first"], group["last"], group["largest"]) for group in oracle["groups"]]
        assert stepped == [pytest.approx(values, rel=1e-12, abs=1e-15) for values in expected]


@pytest.mark.parametrize("entry", [entry for entry in TABLE if entry.rule], ids=lambda entry: entry.name)
def test_the_scripts_rule_under_sabuns_name_gives_the_same_run(
    entry: Entry, python: str, project: Path, tmp_path: Path
) -> None:
    own = as_it_is(entry, python, tmp_path / "logs")
    rule = trained(entry, python, tmp_path / "logs", entry.rule, lr=entry.rule_lr)
    if entry.rounding:
        losses = [[epoch.val_loss for epoch in result.epochs] for result in (own, rule)]
        assert losses[1] == pytest.approx(losses[0], rel=entry.rounding)
    else:
        assert curve(rule) == curve(own)
        assert rule.weights_sha256 == own.weights_sha256


@pytest.mark.parametrize(
    "entry",
    [entry for entry in TABLE if entry.findings or entry.name.startswith("hf_") or _some(20, entry.name)],
    ids=lambda entry: entry.name,
)
def test_check_finds_what_the_table_says_and_writes_nothing(entry: Entry, python: str, project: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.is_file()}
    result = checked(entry, python)
    assert [finding.code for finding in result.findings] == entry.findings, result.findings
    assert [note.code for note in result.notes] == entry.notes, result.notes
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.is_file()} == before
    assert result.seen is not None
    assert result.seen.whole
    assert result.seconds is not None
    groups = result.rates["script"]
    assert [[group.first, group.last] for group in groups] == [pytest.approx(rates, rel=1e-9) for rates in entry.rates]


BREAKS = [
    (entry, name)
    for entry in TABLE
    if not entry.is_mode
    for name, _ in mutants((CORPUS / entry.file).read_text(), Path("outside"))
    if _some(1, entry.name, name)
]


def test_every_mutation_applies_to_some_script() -> None:
    assert {name for entry in TABLE for name, _ in mutants((CORPUS / entry.file).read_text(), Path())} == {*MUTATIONS}


PARTS = 20 if ALL else 1


@pytest.mark.parametrize("part", range(PARTS))
def test_check_finds_broken_scripts(part: int, python: str, project: Path, tmp_path: Path) -> None:
    """At least 95% of those whose runs differ from those of the script as it is."""
    (project / "leftover.pt").write_bytes(b"")
    outcomes: dict[str, list[tuple[str, str]]] = {"found": [], "harmless": [], "missed": []}
    for entry, name in BREAKS[part::PARTS]:
        place = tmp_path / "broken" / "project"
        shutil.copytree(project, place)
        broken = dict(mutants((CORPUS / entry.file).read_text(), tmp_path))[name]
        (place / entry.file).write_text(broken)
        os.chdir(place)
        if codes(checked(entry, python)) - {*entry.findings, *entry.notes}:
            outcome = "found"
        else:
            outcome = "harmless" if is_harmless(entry, python, project, place, tmp_path / "logs") else "missed"
        outcomes[outcome].append((entry.name, name))
        print(outcome, entry.name, name, flush=True)  # noqa: T201
        shutil.rmtree(place.parent)
    missed, harmful = outcomes["missed"], len(outcomes["missed"]) + len(outcomes["found"])
    print(f"{harmful} harmful, missed: {missed}")  # noqa: T201
    assert harmful >= 10
    assert len(missed) <= 0.05 * harmful, missed


def test_gradients_that_a_closure_does_not_clear_are_found(python: str, project: Path) -> None:
    entry = next(entry for entry in TABLE if entry.file == "closure.py")
    source = project / entry.file
    source.write_text(source.read_text().replace("optimizer.zero_grad()", "pass"))
    assert [finding.code for finding in checked(entry, python).findings] == ["not-cleared"]
