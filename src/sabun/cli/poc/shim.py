from pathlib import Path

from sabun.errors import StoreError, StudyError
from sabun.poc.evidence import audit_trail as trail
from sabun.poc.evidence.store import Store


def open_store(directory: Path) -> Store:
    if not Store.exists(directory):
        raise StudyError(f"there is no study in {directory}.", fix="Check the path, or run a study into it first.")
    return Store.open(directory)


def read(directory: Path) -> Store:
    store = open_store(directory)
    held = trail.check(store)
    if not held.ok:
        trail.report_tampering(directory, held.problem)
        raise StoreError(
            f"the evidence in {directory} does not hold: {held.problem}",
            fix="Restore the files from a copy, or run the study again in another directory.",
        )
    return store


def verify(directory: Path, *, anchor=None):
    try:
        found = open_store(directory).verify(anchor=anchor)
    except StoreError as error:
        trail.report_tampering(directory, error.cause)
        raise
    if not found.ok and (anchor is None or not open_store(directory).verify().ok):  # an anchor may be mistyped
        trail.report_tampering(directory, found.problem)
    return found


def stored_study(directory):
    return open_store(directory).study
