"""What a sweep shows last: a table of its scores, averaged over seeds, beside those without a language module."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xlt.record import Record
from xlt.report.systems import System


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
    """A line for each setting of a sweep, the seeds averaged; the intervals are bootstraps over test examples.

    The gain is the paired difference to the runs with `method=none` and the same seeds on the same examples (see `paired_gain`).
    Seconds are those of training the language module and one task module.
    """
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.without("seed"), []).append(job)
    systems = {key: System([job.record for job in runs]) for key, runs in groups.items()}
    baselines = {key: systems[key] for key, runs in groups.items() if runs[0].record["method"] is None}
    settings = dict.fromkeys(name for job in jobs for name in job.settings)
    names = [name for name in settings if name != "seed" and len({job.settings.get(name) for job in jobs}) > 1]
    metrics = {system.metric for system in systems.values()}
    score = metrics.pop() if len(metrics) == 1 else "score"
    less = "" if all(system.task.more_is_better for system in systems.values()) else " (less is better)"
    columns = [name.rpartition("@")[2] for name in names]  # method@task_method is how Hydra calls task_method
    rows = [[*columns, "seeds", f"{score}{less}", "95 % interval", "gain over none", "trainable parameters", "seconds"]]
    for key, runs in groups.items():
        system, baseline = systems[key], _baseline(runs[0], baselines)
        shown = [runs[0].settings.get(name, "") for name in names]
        deviation = f" ± {system.deviation:.3f}" if system.deviation is not None else ""
        mean = f"{'' if score != 'score' else f'{system.metric} '}{system.mean:.3f}{deviation}"
        low, high = system.interval
        gain = _gain(system, baseline) if baseline and baseline is not system else ""
        rows.append([*shown, str(len(runs)), mean, f"[{low:.3f}, {high:.3f}]", gain, *_costs(runs)])
    return aligned(rows)


def _baseline(job: Job, baselines: Mapping[tuple, System]) -> System | None:
    """The runs without a language module whose other settings are the job's; they may lack some that only a module uses."""
    own = set(job.without("seed", "method"))
    fitting = [key for key in baselines if {setting for setting in key if setting[0] != "method"} <= own]
    return baselines[max(fitting, key=len)] if fitting else None


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines with columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _gain(system: System, baseline: System) -> str:
    gain = system.gain_over(baseline, test=False)
    if gain is None:
        return "no seed in common"
    low, high = gain.interval
    return f"{gain.mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _costs(runs: Sequence[Job]) -> tuple[str, str]:
    modules = [run.record["training"] for run in runs]
    parameters = " + ".join(f"{module['trainable_parameters']:,}" for module in modules[0].values())
    seconds = statistics.fmean(sum(module["seconds"] for module in run.values()) for run in modules)
    return parameters, f"{seconds:.0f}"
