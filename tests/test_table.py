"""Tables: cells of every kind, in every form."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import pytest

from xlt.errors import UserError
from xlt.report.cells import Interval, Missing, Number, Text, best
from xlt.report.table import Column, Row, Table

TABLE = Table(
    "F1 of A & B",
    (Column("lang"), Column("printed", "mBERT"), Column("ours", "mBERT"), Column("interval", "mBERT")),
    (
        Row((Text("mt"), Number(79.8, 2), Number(80.126, 2, deviation=0.4, bold=True, mark="†", notes=("two seeds",)),
             Interval(-0.5, 81.25, 1))),
        Row((Text("yo_1"), Missing(), Number(-1.5, 1, signed=True, notes=("guessed", "two seeds")), Missing())),
        Row((Text("mean"), Number(0.001, 3, below=True), Missing(), Missing()), ruled=True),
    ),
    ("† differs",),
)  # fmt: skip


MARKDOWN = """\
**F1 of A & B**

| lang | mBERT printed |         mBERT ours | mBERT interval |
| ---- | ------------: | -----------------: | -------------: |
| mt   |         79.80 | **80.13 ± 0.40**†¹ |   [−0.5, 81.2] |
| yo_1 |             – |            −1.5²⁻¹ |              – |
| mean |        <0.001 |                  – |              – |

† differs

¹ two seeds

² guessed
"""


def test_markdown():
    assert TABLE.render("markdown") == MARKDOWN


def test_latex():
    lines = TABLE.render("latex").splitlines()
    assert lines[:8] == [
        r"\begin{table}",
        r"\centering",
        r"\caption{F1 of A \& B}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"\multicolumn{1}{c}{} & \multicolumn{3}{c}{mBERT} \\",
        r"\cmidrule(lr){2-4}",
        r"lang & printed & ours & interval \\",
    ]
    mt = r"mt & 79.80 & \textbf{80.13 $\pm$ 0.40}\textsuperscript{\textdagger}\textsuperscript{1} & {[}$-$0.5, 81.2] \\"
    assert lines[9] == mt
    assert lines[10] == r"yo\_1 & -- & $-$1.5\textsuperscript{2,1} & -- \\"
    assert lines[11:14] == [r"\midrule", r"mean & $<$0.001 & -- & -- \\", r"\bottomrule"]
    assert lines[-2:] == [r"\par\footnotesize 2: guessed", r"\end{table}"]
    assert TABLE.render("latex").count("{") == TABLE.render("latex").count("}")


def test_csv_holds_full_numbers():
    rows = list(csv.DictReader(io.StringIO(TABLE.render("csv"))))
    assert rows[0] == {
        "lang": "mt", "mBERT printed": "79.8", "mBERT ours": "80.126", "mBERT ours sd": "0.4", "mBERT interval low": "-0.5",
        "mBERT interval high": "81.25", "notes": "two seeds",
    }  # fmt: skip
    assert rows[1]["mBERT printed"] == "" and rows[1]["mBERT ours"] == "-1.5"
    assert rows[2]["mBERT printed"] == "<0.001"


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "td" and "data-value" in dict(attrs):
            self.cells.append(("", dict(attrs)["data-value"]))

    def handle_data(self, data: str) -> None:
        if "td" in self.open and self.cells and not self.cells[-1][0]:
            self.cells[-1] = (data, self.cells[-1][1])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_well_formed_and_holds_full_numbers():
    reader = _Reader()
    reader.feed(TABLE.render("html"))
    assert reader.open == []
    assert reader.cells == [("79.80", "79.8"), ("80.13 ± 0.40", "80.126"), ("−1.5", "-1.5"), ("<0.001", "0.001")]
    assert "F1 of A &amp; B" in TABLE.render("html")


def test_the_best_is_the_best_as_shown():
    cells = [Number(79.8), Missing(), Number(79.801), Number(70.0)]
    assert best(cells) == [True, False, True, False]
    assert best(cells, less_is_better=True) == [False, False, False, True]
    assert best([Number(1.0), Missing()]) == [False, False]


def test_numbers_as_text():
    assert Number(-0.001, 2, signed=True).text() == "0.00"
    assert Number(0.25, 1, signed=True).text() == "+0.2"
    assert Number(443921.04, 2).text() == "443921.04"


def test_another_form_is_refused():
    with pytest.raises(UserError, match="Did you mean markdown"):
        TABLE.render("markdwon")


def test_rows_need_a_cell_for_each_column():
    with pytest.raises(ValueError, match="a cell for each column"):
        Table("", (Column("a"),), (Row(()),))
