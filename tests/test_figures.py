"""Figures from printed numbers: their points are those numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlt.analysis.correlations import correlate
from xlt.analysis.published.figures import data_and_gain, data_and_perplexity, size_and_score


def test_sizes_and_scores():
    points = {point.label: point for point in size_and_score("TC").points}
    assert (points["XLM-R"].x, points["XLM-R"].y, points["XLM-R"].series) == (0.279, 80.79, "adapted")
    assert (points["LLaMA-3"].x, points["LLaMA-3"].y) == (8, 65.8)
    assert "GPT-4-0613" not in points  # whose size nobody knows
    assert max(points.values(), key=lambda point: point.y).label == "XLM-R"


def test_text_and_perplexity():
    figure = data_and_perplexity("mBERT")
    assert len(figure.points) == 60
    before, after = (
        {point.label: point for point in figure.points if point.series.startswith(when)} for when in ("before", "after")
    )
    assert after["mt"].x == pytest.approx(0.18217) and before["mt"].x == 0.001  # not seen in pretraining
    seen = [language for language in before if before[language].x > 0.001]
    found = correlate({k: before[k].x for k in seen}, {k: before[k].y for k in seen})
    assert len(seen) == 24 and found.spearman == pytest.approx(-0.7662, abs=1e-4)  # as recomputed for table 12


def test_gains():
    figure = data_and_gain("TC", "mBERT")
    gain = next(point for point in figure.points if (point.label, point.series) == ("mt", "Glot"))
    assert gain.y == pytest.approx(79.80 - 69.86)
    assert len(figure.points) == 60


def test_drawing(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="drawing needs xlt[plots]")
    from xlt.report.plots import draw

    draw(data_and_perplexity("XLM-R"), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
