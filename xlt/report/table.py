"""A table: columns under groups, rows of typed cells, footnotes. It is shown as Markdown, LaTeX (booktabs), HTML or CSV.

    Table("Scores", (Column("lang"), Column("F1", "mBERT")), (Row((Text("mt"), Number(79.8, 2, deviation=0.4))),))

In text every number is rounded as its cell says. CSV holds all digits, and standard deviations and the ends of intervals in
columns of their own.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

from xlt.errors import UserError, suggest
from xlt.report.cells import MINUS, NOTHING, PLUS_MINUS, Cell, Number, Text

_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LATEX = str.maketrans({
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": "$<$", ">": "$>$", MINUS: "$-$", PLUS_MINUS: r"$\pm$",
    NOTHING: "--", "[": "{[}", "→": r"$\rightarrow$", "†": r"\textsuperscript{\textdagger}",
})  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column; neighbours in the same group stand under one heading."""

    name: str
    group: str = ""


@dataclass(frozen=True)
class Row:
    """A line of cells, one for each column.

    Attributes:
        ruled: a rule is drawn above it.
    """

    cells: tuple[Cell, ...]
    ruled: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        remarks: lines below it, about the whole of it.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = field(init=False)
    """The notes of all cells, each once, in the order in which they are met."""

    def __post_init__(self) -> None:
        if any(len(row.cells) != len(self.columns) for row in self.rows):
            raise ValueError("a row of a table needs a cell for each column")
        notes = dict.fromkeys(note for row in self.rows for cell in row.cells for note in cell.notes)
        object.__setattr__(self, "footnotes", tuple(notes))

    def render(self, form: str) -> str:
        """The table as `markdown`, `latex`, `csv` or `html`.

        Raises:
            UserError: another form.
        """
        if form not in FORMS:
            raise UserError(f"A table cannot be shown as {form}. {suggest(form, FORMS, 'forms')}")
        return FORMS[form](self)

    def markdown(self) -> str:
        """A pipe table, its columns aligned for reading as plain text; headings name group and column."""

        def shown(cell: Cell) -> str:
            strong = "**" if cell.bold else ""
            return _escaped(f"{strong}{cell.text()}{strong}{cell.mark}{self._raised(cell)}")

        heads = [_escaped(f"{column.group} {column.name}".strip()) for column in self.columns]
        lines = [heads, *([shown(cell) for cell in row.cells] for row in self.rows)]
        widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(heads))]
        left = self._left()
        rule = [f"{'-' * (width - 1)}{'-' if first else ':'}" for width, first in zip(widths, left, strict=True)]
        body = [
            "| " + " | ".join(_padded(*cell) for cell in zip(line, widths, left, strict=True)) + " |"
            for line in (heads, rule, *lines[1:])
        ]
        below = [*self.remarks, *(f"{_raised(number)} {note}" for number, note in enumerate(self.footnotes, 1))]
        return "\n".join([f"**{self.title}**", "", *body, *(line for text in below for line in ("", text))]) + "\n"

    def latex(self) -> str:
        """A `table` with booktabs' rules."""

        def shown(cell: Cell) -> str:
            text = cell.text().translate(_LATEX)
            numbers = ",".join(str(self.footnotes.index(note) + 1) for note in cell.notes)
            raised = f"\\textsuperscript{{{numbers}}}" if numbers else ""
            strong = rf"\textbf{{{text}}}" if cell.bold else text
            return f"{strong}{cell.mark.translate(_LATEX)}{raised}"

        spec = "".join("l" if first else "r" for first in self._left())
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{self.title.translate(_LATEX)}}}", rf"\begin{{tabular}}{{{spec}}}"]
        lines.append(r"\toprule")
        if any(column.group for column in self.columns):
            heads, rules, start = [], [], 1
            for group, width in self._groups():
                heads.append(rf"\multicolumn{{{width}}}{{c}}{{{group.translate(_LATEX)}}}")
                rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if group else []
                start += width
            lines += [" & ".join(heads) + r" \\", "".join(rules)]
        lines += [" & ".join(column.name.translate(_LATEX) for column in self.columns) + r" \\", r"\midrule"]
        for row in self.rows:
            lines += [r"\midrule"] if row.ruled else []
            lines.append(" & ".join(map(shown, row.cells)) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        below = [*self.remarks, *(f"{number}: {note}" for number, note in enumerate(self.footnotes, 1))]
        lines += [rf"\par\footnotesize {text.translate(_LATEX)}" for text in below]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def html(self) -> str:
        """A `<table>` with a caption; cells of numbers have the whole value as `data-value`, those of runs `data-runs`."""

        def shown(cell: Cell) -> str:
            text = html.escape(cell.text())
            notes = "".join(f"<sup>{self.footnotes.index(note) + 1}</sup>" for note in cell.notes)
            inner = f"{f'<b>{text}</b>' if cell.bold else text}{html.escape(cell.mark)}{notes}"
            value = f' data-value="{cell.value}"' if isinstance(cell, Number) else ""
            runs = f' data-runs="{html.escape(" ".join(cell.runs))}"' if cell.runs else ""
            kind = type(cell).__name__.lower()
            return f'<td class="{kind}"{value}{runs}>{inner}</td>'

        lines = ["<table>", f"<caption>{html.escape(self.title)}</caption>", "<thead>"]
        if any(column.group for column in self.columns):
            heads = (f'<th colspan="{width}">{html.escape(group)}</th>' for group, width in self._groups())
            lines.append(f"<tr>{''.join(heads)}</tr>")
        lines.append(f"<tr>{''.join(f'<th>{html.escape(column.name)}</th>' for column in self.columns)}</tr>")
        lines += ["</thead>", "<tbody>"]
        for row in self.rows:
            ruled = ' class="ruled"' if row.ruled else ""
            lines.append(f"<tr{ruled}>{''.join(map(shown, row.cells))}</tr>")
        below = "".join(f"<p>{html.escape(remark)}</p>" for remark in self.remarks)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.footnotes)
        below += f"<ol>{notes}</ol>" if notes else ""
        lines += [
            "</tbody>",
            f'<tfoot><tr><td colspan="{len(self.columns)}">{below}</td></tr></tfoot>' if below else "",
            "</table>",
        ]
        return "\n".join(line for line in lines if line) + "\n"

    def csv(self) -> str:
        """Full numbers; missing ones are empty. Footnotes are in the last column."""
        parts = [
            list(dict.fromkeys(part for row in self.rows for part in row.cells[place].values())) or [""]
            for place in range(len(self.columns))
        ]
        heads = [
            " ".join(word for word in (column.group, column.name, part) if word)
            for column, own in zip(self.columns, parts, strict=True)
            for part in own
        ]
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow([*heads, *(["notes"] if self.footnotes else [])])
        for row in self.rows:
            values = [cell.values().get(part) for cell, own in zip(row.cells, parts, strict=True) for part in own]
            notes = "; ".join(dict.fromkeys(note for cell in row.cells for note in cell.notes))
            writer.writerow([*values, *([notes] if self.footnotes else [])])
        return target.getvalue()

    def _groups(self) -> list[tuple[str, int]]:
        """Each group of neighbouring columns, with how many there are."""
        return [(group, len(list(members))) for group, members in groupby(self.columns, key=lambda column: column.group)]

    def _left(self) -> list[bool]:
        """Which columns hold words, and so begin at the left."""
        return [
            bool(self.rows) and all(isinstance(row.cells[place], Text) for row in self.rows) for place in range(len(self.columns))
        ]

    def _raised(self, cell: Cell) -> str:
        return "⁻".join(_raised(self.footnotes.index(note) + 1) for note in cell.notes)


FORMS: dict[str, Callable[[Table], str]] = {
    "markdown": Table.markdown, "latex": Table.latex, "csv": Table.csv, "html": Table.html,
}  # fmt: skip


def _padded(text: str, width: int, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


def _raised(number: int) -> str:
    return str(number).translate(_RAISED)
