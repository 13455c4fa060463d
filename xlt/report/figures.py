"""Figures as files; their ending says in which format (png, svg or pdf)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xlt.errors import UserError, suggest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xlt.report.interference import Grid

_ENDINGS = (".png", ".svg", ".pdf")


def heat_maps(grids: Sequence[Grid], path: Path) -> None:
    """Grids side by side: rows are sizes of the language module, columns of the task module, and colours scores."""
    figure = _figure(path, width=max(4.0, 3.6 * len(grids)), height=3.2)
    for grid, axes in zip(grids, figure.subplots(1, len(grids), squeeze=False)[0], strict=True):
        means = [
            [grid.cells[pair].mean if (pair := (row, column)) in grid.cells else float("nan") for column in grid.task_sizes]
            for row in grid.language_sizes
        ]
        axes.imshow(means, cmap="Blues", alpha=0.6, aspect="auto", origin="lower")
        axes.set_xticks(range(len(grid.task_sizes)), grid.task_sizes, rotation=30, ha="right")
        axes.set_yticks(range(len(grid.language_sizes)), grid.language_sizes)
        axes.set(title=f"{grid.lang}: {grid.metric}", xlabel="task module", ylabel="language module")
        for row, scores in enumerate(means):
            for column, score in enumerate(scores):
                axes.text(column, row, f"{score:.3f}", ha="center", va="center")
    figure.savefig(path)


def bars(shares: Mapping[str, Mapping[str, float]], label: str, path: Path) -> None:
    """Horizontal bars in groups.

    Args:
        shares: a value for each part, of each thing that is compared. Parts come from the top down, in their order.
        label: of the values.
    """
    parts = list(dict.fromkeys(part for values in shares.values() for part in values))
    figure = _figure(path, width=7.0, height=1.5 + 0.25 * len(parts) + 0.2 * len(shares))
    axes = figure.subplots()
    thickness = 0.8 / len(shares)
    for number, (name, values) in enumerate(shares.items()):
        places = [place + (number - (len(shares) - 1) / 2) * thickness for place in range(len(parts))]
        axes.barh(places, [values.get(part, 0.0) for part in parts], thickness, label=name)
    axes.set_yticks(range(len(parts)), parts)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    figure.legend(loc="outside lower center", fontsize="small")
    figure.savefig(path)


def _figure(path: Path, width: float, height: float) -> Figure:
    """An empty figure, width and height in inches, for a file of a known format.

    Raises:
        UserError: the format is unknown, or matplotlib is not installed.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise UserError(f"{path} has no format for figures. {suggest(path.suffix, _ENDINGS, 'endings')}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("Figures need the package matplotlib, which is not installed: pip install 'xlt[plots]'.") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    return Figure((width, height), layout="constrained")
