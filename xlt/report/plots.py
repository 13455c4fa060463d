"""Pictures of figures, by matplotlib (`pip install 'xlt[plots]'`)."""

from __future__ import annotations

from pathlib import Path

from xlt.analysis.published.figures import Figure
from xlt.errors import UserError


def draw(figure: Figure, file: Path) -> None:
    """Draw a figure's points, each series in a colour of its own, into a file of any kind that matplotlib writes.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise UserError("Drawing needs matplotlib, which is not installed: pip install 'xlt[plots]'.") from error
    canvas = Canvas(figsize=(8, 5), layout="constrained")
    axes = canvas.subplots()
    for series in dict.fromkeys(point.series for point in figure.points):
        points = [point for point in figure.points if point.series == series]
        axes.scatter([point.x for point in points], [point.y for point in points], label=series, s=18)
        for point in points:
            axes.annotate(point.label, (point.x, point.y), fontsize=7, xytext=(2, 2), textcoords="offset points")
    axes.set(title=figure.title, xlabel=figure.x, ylabel=figure.y)
    axes.set_xscale("log" if figure.log_x else "linear")
    axes.set_yscale("log" if figure.log_y else "linear")
    axes.legend()
    canvas.savefig(file)
