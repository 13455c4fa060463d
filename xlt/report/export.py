"""All records of a store as one flat table, for other tools."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from xlt.errors import UserError
from xlt.record import Record
from xlt.report.records import Stores, check

_STORY = (
    "model", "method", "task_method", "data", "task", "lang", "transfer", "source_task", "shots", "seed", "language_seed",
    "metric", "test_size", "created", "device", "fingerprint",
)  # fmt: skip


def export(stores: Stores, file: Path) -> int:
    """Write a row for each record: what it is of, every score with its interval, what training cost, and, in `problem`, why it
    should not be believed, if so.

    Args:
        file: its ending says what is written, `.parquet` or `.csv`.

    Returns:
        how many records there are.

    Raises:
        UserError: another ending, or no record.
    """
    if file.suffix not in (".parquet", ".csv"):
        raise UserError(f"{file} ends in neither .parquet nor .csv, so it is not clear what to write.")
    rows = [_row(record) for record in stores.records()]
    if not rows:
        raise UserError(f"{', '.join(map(str, stores.folders))} holds no records, so there is nothing to write.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: _column(row.get(name) for row in rows) for name in names})
    if file.suffix == ".parquet":
        parquet.write_table(table, file)
    else:
        csv.write_csv(table, file)
    return len(rows)


def _row(record: Record) -> dict[str, Any]:
    row = {name: record.get(name) for name in _STORY}
    row["source"] = ",".join(record.get("source") or []) or None
    for name, score in record.get("metrics", {}).items():
        low, high = record["intervals"][name]
        row |= {name: score, f"{name}_low": low, f"{name}_high": high}
    for role, module in record.get("training", {}).items():
        row |= {f"{role}_{figure}": module.get(figure) for figure in ("trainable_parameters", "steps", "seconds", "tokens")}
    return {**row, "problem": check(record), "path": str(record.path)}


def _column(values: Iterable[Any]) -> pa.Array:
    """A column of numbers, whole where all are, or of words."""
    found = list(values)
    if any(isinstance(value, str) for value in found):
        return pa.array([None if value is None else str(value) for value in found], pa.string())
    if any(isinstance(value, float) for value in found):
        return pa.array([None if value is None else float(value) for value in found], pa.float64())
    return pa.array(found, pa.int64())
