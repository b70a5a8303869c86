"""The records as one flat table with a row per epoch, for spreadsheets and data frames.

The columns of hyperparameters are ``hyperparameter.NAME``, those of a task's own values ``extra.NAME``. Losses that are
not finite are ``inf`` or ``nan``; missing values are empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields

from sabun.poc.records import Epoch, Load, RunResult, evaluated

__all__ = ["Cell", "rows", "to_csv", "to_parquet"]

Cell = str | int | float | bool | None
"""A value of the flat table."""

_RUN = ("run", "arm", "seed", "phase", "status", "started", "ended")
_END = ("test_loss", "test_metric", "peak_memory_bytes", "optimizer_state_bytes", "weights_sha256")
_EPOCH = tuple(f.name for f in fields(Epoch) if f.name not in ("extra", "load"))
_LOAD = tuple(f.name for f in fields(Load))


def rows(runs: Sequence[RunResult]) -> list[dict[str, Cell]]:
    """Return a row for every epoch of every run, or one for a run without epochs, all with the same columns."""
    hyper = sorted({name for run in runs for name in run.hyperparameters})
    extra = sorted({name for run in runs for epoch in run.epochs for name in epoch.extra})
    found: list[dict[str, Cell]] = []
    for run in runs:
        common: dict[str, Cell] = {name: getattr(run, name) for name in (*_RUN, *_END)}
        common |= {f"hyperparameter.{name}": run.hyperparameters.get(name) for name in hyper}
        for epoch in run.epochs or (None,):
            row = dict(common)
            row |= {name: None if epoch is None else getattr(epoch, name) for name in _EPOCH}
            row["val_loss"] = None if epoch is None else evaluated(run.phase, epoch)
            load = None if epoch is None else epoch.load
            row |= {f"load.{name}": None if load is None else getattr(load, name) for name in _LOAD}
            row |= {f"extra.{name}": None if epoch is None else epoch.extra.get(name) for name in extra}
            found.append(row)
    return found


def to_csv(runs: Sequence[RunResult]) -> str:
    """Return the table as CSV with a header. Text that a spreadsheet would evaluate as a formula gets an apostrophe."""
    table = rows(runs)
    out = io.StringIO()
    if table:
        writer = csv.DictWriter(out, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([{key: _harmless(value) for key, value in row.items()} for row in table])
    return out.getvalue()


def _harmless(value: Cell) -> Cell:
    return "'" + value if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def to_parquet(runs: Sequence[RunResult]) -> bytes:
    """Return the table as a Parquet file. Raises MissingExtraError without pyarrow."""
    import importlib
    import io

    from sabun.errors import MissingExtraError

    try:
        pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise MissingExtraError("Parquet needs pyarrow, which is not installed.", fix="pip install pyarrow") from None
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows(runs)), out)
    return out.getvalue()
