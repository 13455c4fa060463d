"""What a sweep shows last: a table of its scores, averaged over seeds, beside those without a language module."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from xlt.analysis.bootstrap import paired_gain
from xlt.config import build
from xlt.runner import Record
from xlt.tasks.base import Task


@dataclass(frozen=True)
class Job:
    """One run of a sweep: the settings by which it differs from the others, and its record."""

    settings: Mapping[str, str]
    record: Record

    def without(self, *names: str) -> tuple[tuple[str, str], ...]:
        """The settings but for some."""
        return tuple((name, value) for name, value in self.settings.items() if name not in names)


def jobs_of(overrides: Sequence[str], records: Sequence[Record]) -> list[Job]:
    """The scores of one run of a sweep: with several target languages, one for each."""
    settings = dict(text.split("=", 1) for text in overrides)
    several = len(records) > 1
    return [Job({**settings, "lang": record["lang"]} if several else settings, record) for record in records]


def table(jobs: Sequence[Job]) -> str:
    """A line for each setting of a sweep, the seeds averaged.

    The gain is the paired difference to the runs with `method=none` and the same seeds on the same examples; its interval
    is a bootstrap over examples (see `paired_gain`). Seconds are those of training the language module and one task module.
    """
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.without("seed"), []).append(job)
    baselines = {runs[0].without("seed", "method"): runs for runs in groups.values() if runs[0].record["method"] is None}
    names = [name for name in jobs[0].settings if name != "seed" and len({job.settings.get(name) for job in jobs}) > 1]
    metrics = {job.record["metric"] for job in jobs}
    score = metrics.pop() if len(metrics) == 1 else "score"
    columns = [name.rpartition("@")[2] for name in names]  # method@task_method is how Hydra calls task_method
    rows = [[*columns, "seeds", score, "gain over none", "trainable parameters", "seconds"]]
    for runs in groups.values():
        baseline = baselines.get(runs[0].without("seed", "method"))
        shown = [runs[0].settings[name] for name in names]
        gain = _gain(baseline, runs) if baseline and baseline is not runs else ""
        mean = _mean(runs) if score != "score" else f"{runs[0].record['metric']} {_mean(runs)}"
        rows.append([*shown, str(len(runs)), mean, gain, *_costs(runs)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _mean(runs: Sequence[Job]) -> str:
    scores = [run.record["metrics"][run.record["metric"]] for run in runs]
    deviation = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.3f}{deviation}"


def _gain(baseline: Sequence[Job], runs: Sequence[Job]) -> str:
    pairs = {job.record["seed"]: [job] for job in baseline}
    for job in runs:
        pairs.setdefault(job.record["seed"], []).append(job)
    complete = [pair for pair in pairs.values() if len(pair) == 2]
    if not complete:
        return "no seed in common"
    record = runs[0].record
    task = build(OmegaConf.create(record["config"]["task"]), "task", Task)
    before, after = ([task.counts(*_predictions(pair[side].record)) for pair in complete] for side in (0, 1))
    gain, (low, high) = paired_gain(task.metrics, before, after, record["metric"])
    return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"


def _predictions(record: Record) -> tuple[list[Any], list[Any]]:
    """The gold and predicted labels of all test examples."""
    with record.predictions_path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["gold"] for row in rows], [row["predicted"] for row in rows]


def _costs(runs: Sequence[Job]) -> tuple[str, str]:
    modules = [run.record["training"] for run in runs]
    parameters = " + ".join(f"{module['trainable_parameters']:,}" for module in modules[0].values())
    seconds = statistics.fmean(sum(module["seconds"] for module in run.values()) for run in modules)
    return parameters, f"{seconds:.0f}"
