"""The page of results: one HTML file that holds everything it shows, and asks no network for anything.

`assets/` holds its parts: page.html with places for the rest, the style sheet, the scripts, and uPlot, which draws.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import xlt
from xlt.languages import LanguageTable
from xlt.record import Record
from xlt.report.page_data import RESAMPLED, PageData, copies_of
from xlt.report.paper import with_runs
from xlt.report.records import Refused, Stores, check
from xlt.report.table import Table
from xlt.store import Store, write_durably

_ASSETS = files(xlt) / "report" / "assets"
_STYLES = ("uplot/uPlot.min.css", "page.css")
_SCRIPTS = ("uplot/uPlot.iife.min.js", "page.js", "plots.js", "panel.js")
_REFUSED = 500  # records that are named; of more, the number is shown
_NEEDED = ("config", "created", "fingerprints", "metrics", "intervals", "payload", "revisions", "training", "test_size")


def write_page(
    outputs: Path, store: Store, languages: LanguageTable, tables: Sequence[str] | None = None
) -> tuple[Path, int, int]:
    """Write `<outputs>/report/index.html`.

    Args:
        store: whose evaluations are shown.
        tables: these tables of papers, with settings; all that have runs if None (see `xlt.report.paper.with_runs`).

    Returns:
        The file, how many records it shows, and how many were kept out.

    Raises:
        UserError: an unknown table or setting.
    """
    records, refused = sound_records(store)
    folders, unlike = copies_of(outputs, records, refused)
    refused += unlike
    beside = with_runs(store.root, records, tables, test=len(records) <= RESAMPLED)
    data = PageData(records, [store], folders, languages).collect()
    named = [[str(entry.path), entry.why] for entry in refused[:_REFUSED]]
    data |= {"outputs": str(outputs), "refused": named, "refused_count": len(refused)}
    file = outputs / "report" / "index.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, assemble(data, beside).encode(errors="replace"))  # names of files may be no UTF-8
    return file, len(records), len(refused)


def sound_records(store: Store) -> tuple[list[Record], list[Refused]]:
    """The records of a store, and those that are not what they say."""
    sound, refused = [], []
    if (store.root / "evaluation").is_dir():
        for record in Stores([store.root]).records():
            why = check(record) or next((f"it lacks {name}" for name in _NEEDED if name not in record), None)
            if why is None:
                sound.append(record)
            else:
                refused.append(Refused(record.path, why))
    return sound, refused


def assemble(data: Mapping[str, Any], tables: Sequence[Table] = ()) -> str:
    """The page.

    Args:
        data: from `PageData.collect`, with `outputs`, `refused` and `refused_count`. None of it is trusted: names are anybody's.
    """
    scripts = [_asset(name) for name in _SCRIPTS]
    styles = [_asset(name) for name in _STYLES]
    allowed = " ".join(_hash(text) for text in scripts)
    parts = {
        # Nothing is loaded, and no script runs but these.
        "policy": f"default-src 'none'; script-src {allowed}; style-src {' '.join(map(_hash, styles))}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "version": html.escape(xlt.__version__),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "tables": "\n".join(map(_shown, sorted(tables, key=_without_runs))),
        "styles": "\n".join(f"<style>{text}</style>" for text in styles),
        "scripts": "\n".join(f"<script>{text}</script>" for text in scripts),
        "data": embedded(data),
    }
    page = _asset("page.html")
    before, *places = page.split("<!--=")
    return before + "".join(parts[name] + rest for name, _, rest in (place.partition("-->") for place in places))


def _without_runs(table: Table) -> bool:
    return not any(cell.runs for row in table.rows for cell in row.cells)


def _shown(table: Table) -> str:
    """A table that scrolls by itself; one without runs is folded."""
    name = html.escape(table.title)
    content = f'<div class="scrolls" tabindex="0" role="region" aria-label="{name}">{table.html()}</div>'
    return f"<details><summary>{name}: published numbers alone</summary>{content}</details>" if _without_runs(table) else content


def embedded(data: Any) -> str:
    """JSON that cannot end the `<script>` it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
