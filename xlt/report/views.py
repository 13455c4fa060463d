"""A comparison as tables: one like the paper's, languages by columns, or a list with all that is known of each cell."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from xlt.analysis.published.averages import averages
from xlt.analysis.published.tables import Printed
from xlt.report.cells import Cell, Interval, Missing, Number, Text, best
from xlt.report.comparison import Average, Comparison, Ours, Place
from xlt.report.gains import SIGNIFICANT, Tested
from xlt.report.table import Column, Row, Table

_MARK = "†"


def grid(comparison: Comparison, block: str, tested: Mapping[Place, Tested]) -> Table:
    """Languages by columns, as the paper prints it: printed, ours, and the difference."""
    columns = comparison.columns(block)
    ours = [column for column in columns if any(place[:2] == (block, column) for place in comparison.cells)]
    printed = [column for column in columns if _is_printed(comparison, block, column)]
    heads = [Column("lang")]
    for column in columns:
        group = comparison.parts(block)[column].title.replace("/", " ")
        heads += [Column(_PRINTED, group)] if column in printed else []
        heads += [Column("ours", group)] if column in ours else []
        heads += [Column("difference", group)] if column in printed and column in ours else []
    rows = []
    for language in comparison.languages(block):
        cells = {column: _pair(comparison, (block, column, language), tested) for column in columns}
        rows.append(_grid_row(comparison, language, columns, printed, ours, cells))
    for number, name in enumerate(comparison.average_names(block)):
        cells = {column: _average_pair(comparison, block, column, name) for column in columns}
        rows.append(replace(_grid_row(comparison, name, columns, printed, ours, cells), ruled=number == 0))
    return Table(_title(comparison, block), tuple(heads), tuple(rows), _remarks(comparison, block, tested))


def listing(comparison: Comparison, tested: Mapping[Place, Tested]) -> Table:
    """A row for each cell: printed, ours, difference, seeds, interval, gain over the baseline and its probability."""
    heads = [Column("part")] if len(comparison.blocks) > 1 else []
    heads += [Column("column"), Column("lang"), Column(_PRINTED), Column("ours"), Column("seeds"), Column("95 % interval")]
    heads += [Column("difference"), Column("gain"), Column("95 % interval of the gain"), Column("p (Holm)")]
    rows = []
    for block in comparison.blocks:
        for column, part in comparison.parts(block).items():
            for language in part.languages:
                place = (block, column, language)
                printed, ours = _pair(comparison, place, {})
                cell = comparison.cells.get(place)
                words = [Text(block)] if len(comparison.blocks) > 1 else []
                words += [Text(part.title), Text(language), printed, ours]
                words += [Number(len(cell.records), 0), _interval(cell)] if cell else [Number(0, 0), Missing()]
                words += [_difference(printed, ours), *_gain(tested.get(place), comparison.table.scale)]
                rows.append(Row(tuple(words), ruled=bool(rows) and language == part.languages[0]))
    remarks = tuple(dict.fromkeys(line for block in comparison.blocks for line in _remarks(comparison, block, tested)))
    return Table(comparison.table.name, tuple(heads), tuple(rows), remarks)


_PRINTED = "published"


def _pair(comparison: Comparison, place: Place, tested: Mapping[Place, Tested]) -> tuple[Cell, Cell]:
    """Printed and ours of a cell."""
    cell = comparison.cells.get(place)
    return number(comparison.printed(*place)), _ours(comparison, place, cell, tested.get(place)) if cell else Missing()


def _ours(comparison: Comparison, place: Place, cell: Ours, tested: Tested | None) -> Number:
    seeds, wanted = len(cell.records), comparison.seeds(place[0])
    notes = (f"{seeds} of {wanted} seeds",) if seeds < wanted else ()
    mark = _MARK if tested and tested.probability < SIGNIFICANT else ""
    runs = tuple(record["fingerprint"] for record in cell.records.values())
    return Number(cell.mean, 2, cell.deviation, mark=mark, notes=notes, runs=runs)


def _average_pair(comparison: Comparison, block: str, column: str, name: str) -> tuple[Cell, Cell]:
    average = comparison.average(block, column, name)
    some = average.languages != average.wanted
    over = _over(average)
    deviation = statistics.stdev(average.scores) if len(average.scores) > 1 else None
    ours: Cell = Missing()
    if average.scores:
        ours = Number(statistics.fmean(average.scores), 2, deviation, notes=(over,) if some else ())
    if average.as_printed is not None and not (some and average.scores):
        return replace(number(average.as_printed), notes=_disagreement(comparison, block, column, name)), ours
    if average.printed is None:
        return Missing(), ours
    note = over if some else f"over the languages shown, {len(average.languages)}"
    return replace(number(average.printed), notes=(note,)), ours


def _over(average: Average) -> str:
    """What an average is over that lacks some languages."""
    lacking = [language for language in average.wanted if language not in average.languages]
    which = f"without {', '.join(lacking)}" if len(lacking) < len(average.languages) else ", ".join(average.languages)
    return f"over {len(average.languages)} of {len(average.wanted)} languages: {which}"


def _disagreement(comparison: Comparison, block: str, column: str, name: str) -> tuple[str, ...]:
    """The footnote of a printed average that its numbers do not come to."""
    row = comparison.printed_row(block, column)
    found = [one for one in averages(comparison.published) if one.row is row and one.column == name and not one.agrees]
    return tuple(one.footnote() for one in found)


def _is_printed(comparison: Comparison, block: str, column: str) -> bool:
    """Whether the paper has numbers of a column: of one of the languages shown, or an average alone."""
    row = comparison.printed_row(block, column)
    return row is not None and (not row.languages or not row.languages.keys().isdisjoint(comparison.languages(block)))


def _grid_row(
    comparison: Comparison,
    name: str,
    columns: Sequence[str],
    printed: Sequence[str],
    ours: Sequence[str],
    cells: Mapping[str, tuple[Cell, Cell]],
) -> Row:
    """A row of the grid, the best of the printed and the best of ours in bold."""
    less = comparison.table.less_is_better
    bold = [dict(zip(columns, best([cells[column][side] for column in columns], less), strict=True)) for side in (0, 1)]
    line: list[Cell] = [Text(name)]
    for column in columns:
        sides = [replace(cells[column][side], bold=bold[side][column]) for side in (0, 1)]
        line += [sides[0]] if column in printed else []
        line += [sides[1]] if column in ours else []
        line += [_difference(*sides)] if column in printed and column in ours else []
    return Row(tuple(line))


def _difference(printed: Cell, ours: Cell) -> Cell:
    if isinstance(printed, Number) and isinstance(ours, Number):
        return Number(ours.value - printed.value, max(printed.digits, ours.digits), signed=True)
    return Missing()


def number(printed: Printed | None) -> Cell:
    """A printed number; missing if there is none."""
    return Missing() if printed is None else Number(printed.value, printed.digits, below=printed.below)


def _interval(cell: Ours) -> Cell:
    from xlt.report.systems import System  # it needs torch, for which plain tables have no time

    low, high = System(list(cell.records.values()), cell.metric).interval
    return Interval(cell.scale * low, cell.scale * high)


def _gain(tested: Tested | None, scale: float) -> tuple[Cell, Cell, Cell]:
    if tested is None:
        return Missing(), Missing(), Missing()
    low, high = tested.interval
    mark = _MARK if tested.probability < SIGNIFICANT else ""
    return (
        Number(scale * tested.mean, 2, signed=True, mark=mark),
        Interval(scale * low, scale * high, signed=True),
        Number(tested.probability, 4),
    )


def _title(comparison: Comparison, block: str) -> str:
    return f"{comparison.table.name}{f', {block}' if block else ''}"


def _remarks(comparison: Comparison, block: str, tested: Mapping[Place, Tested]) -> tuple[str, ...]:
    """What holds for the whole table."""
    lines, seeds = [], comparison.seeds(block)
    if comparison.published and any(_is_printed(comparison, block, column) for column in comparison.columns(block)):
        lines.append(f"Published: {comparison.published.source}.")
    found = sum(len(cell.records) for place, cell in comparison.cells.items() if place[0] == block)
    wanted = sum(job.block == block for job in comparison.table.jobs)
    spread = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    lines.append(f"Ours: {found} of {wanted} runs{spread}.")
    if tested:
        lines.append(
            f"{_MARK} differs from {comparison.table.baseline} (p < {SIGNIFICANT}): approximate randomisation over test "
            f"examples, corrected for {len(tested)} comparison{'' if len(tested) == 1 else 's'} (Holm)."
        )
    waiting = [part for part in comparison.parts(block).values() if part.waits_for]
    lines += [f"{part.title} waits for {part.waits_for}." for part in waiting]
    lines += [f"Kept out: {one.path.parent.name}: {one.why}." for one in comparison.refused]
    if not found and comparison.others:
        lines += [f"{count} runs have other settings: {what}." for what, count in sorted(comparison.others.items())[:5]]
    return tuple(lines)
