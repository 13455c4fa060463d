"""From a configuration to a score: plan, make what is missing, write the record down, say where it is."""

from __future__ import annotations

import json
import logging
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from xlt.errors import UserError
from xlt.experiment import Experiment, choose_device, open_store, store_folder
from xlt.plan import Plan, find
from xlt.provenance import Meter, surroundings
from xlt.record import PREDICTIONS, RECORD, Record, score_line
from xlt.steps.audit import flops_per_second
from xlt.steps.base import Runtime, Step, Workbench
from xlt.store import Artifact, Store, write_durably

log = logging.getLogger("xlt")


@dataclass
class Session:
    """Makes the artifacts of an experiment's steps, each at most once.

    Attributes:
        reuse: `auto`, `force` or `only_cached`.
        runtime: the machine side.
    """

    store: Store
    reuse: str
    runtime: Runtime
    _made: dict[str, Artifact] = field(default_factory=dict)

    def realise(self, step: Step) -> Artifact:
        """The step's artifact: from the store, or built now with everything under it that is missing.

        Raises:
            UserError: it is missing and `reuse=only_cached`.
        """
        if step.fingerprint not in self._made:
            self._made[step.fingerprint] = self._locate(step) if step.external else self._look_up_or_build(step)
        return self._made[step.fingerprint]

    def _locate(self, step: Step) -> Artifact:
        return step.locate({role: self.realise(inner) for role, inner in step.inputs().items()})

    def _look_up_or_build(self, step: Step) -> Artifact:
        what = f"{step.kind} {step.label}"
        if self.reuse != "force" and find(step, self.store):
            artifact = self._get(step, what)
            if artifact is not None:
                return artifact
        if self.reuse == "only_cached":
            raise UserError(
                f"reuse=only_cached, but the store has no {what} ({self.store.explain_miss(step.kind, step.payload)}). "
                "Run the same with reuse=auto to make it."
            )
        inputs: dict[str, Artifact] = {}
        for role, inner in step.inputs().items():
            inputs[role] = self.realise(inner)
            step.check_input(role, inputs[role])
        with self.store.lock(step.fingerprint, what):
            artifact = None if self.reuse == "force" else self.store.get(step.kind, step.label, step.fingerprint)
            if artifact is not None:
                log.info("reusing %s, which another process made", what)
                return artifact
            reason = "reuse=force" if self.reuse == "force" else self.store.explain_miss(step.kind, step.payload)
            log.info("making %s (%s)", what, reason)
            with self.store.build(step.kind, step.label, step.payload) as (work, notes):
                meter = Meter(self.runtime.device)
                step.build(Workbench(inputs, work.folder, work.checkpoint, self.runtime, notes["summary"]))
                notes["provenance"].update(surroundings(self.runtime.device), **meter.read())
            return self.store.get(step.kind, step.label, step.fingerprint)

    def _get(self, step: Step, what: str) -> Artifact | None:
        with self.store.lock(step.fingerprint, what):
            artifact = self.store.get(step.kind, step.label, step.fingerprint)
        if artifact is not None:
            log.info("reusing %s", what)
        return artifact


def run_or_plan(experiment: Experiment, folder: Path, overrides: list[str]) -> list[Record] | None:
    """Do what a configuration asks for: print the plan, or run it.

    Args:
        folder: where `result.json` goes.
        overrides: what the user typed, to say how to repeat it.

    Returns:
        A record for each target language; None after printing a plan.
    """
    settings = experiment.settings
    store = open_store(settings, log.warning)
    if settings.plan:
        print(Plan([experiment], store).show(flops_per_second(choose_device(settings))))
        return None
    return run_experiment(experiment, store, folder, overrides)


def run_experiment(experiment: Experiment, store: Store, folder: Path, overrides: list[str]) -> list[Record]:
    """Make everything that an experiment needs, and copy its record into `folder`; with several target languages, each one's into
    a folder of its own there."""
    settings = experiment.settings
    experiment.tracker.check()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    goals = experiment.evaluations
    store.check_writable()
    _check_folder(folder)
    device = choose_device(settings)
    runtime = runtime_of(experiment, device, overrides)
    session = Session(store, settings.reuse, runtime)
    if settings.reuse == "force" or any(find(goal, store) is None for goal in goals):
        log.info(Plan([experiment], store).totals(runtime.flops_per_second))
    records = []
    for goal in goals:
        artifact = session.realise(goal)
        content = json.loads((artifact.folder / RECORD).read_text(encoding="utf-8"))
        path = (folder / goal.language.key if len(goals) > 1 else folder) / RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, (artifact.folder / RECORD).read_bytes())
        records.append(Record(content, path, artifact.folder / PREDICTIONS))
    write_durably(folder / "config.yaml", OmegaConf.to_yaml(experiment.config, resolve=True).encode())
    return records


def runtime_of(experiment: Experiment, device: torch.device, overrides: list[str]) -> Runtime:
    """The machine side of an experiment."""
    _quieten_libraries()
    return Runtime(
        device, flops_per_second(device), experiment.hub, experiment.languages, experiment.tracker, command(overrides),
        tracker_folder=Path(experiment.settings.paths.outputs) / "tracker",
        record={**_story(experiment), "overrides": list(overrides)},
    )  # fmt: skip


def closing_lines(records: Sequence[Record], experiment: Experiment, store: Store, overrides: list[str]) -> str:
    """What the screen shows last: of each target language the score with its interval, what papers print for the same setting,
    the baseline, and where the record is; of several the mean."""
    from xlt.report.paper import published_scores

    adapted = records[0]["method"] is not None
    baselines = experiment.without_language_module().evaluations if adapted else ()
    lines, missing = [], False
    for number, record in enumerate(records):
        lines.append(f"score     {score_line(record)}")
        lines += [f"published {published}" for published in published_scores(record)]
        baseline = find(baselines[number], store) if adapted else None
        if baseline is not None:
            content = json.loads((baseline.folder / RECORD).read_text(encoding="utf-8"))
            lines.append(f"baseline  {score_line(content)}")
        missing |= adapted and baseline is None
        lines.append(f"record    {record.path}")
    if missing:
        others = [text for text in overrides if not text.startswith(("method=", "method.", "language.path=", "reuse="))]
        lines.insert(-1, f"baseline  not in the store yet: {command(['method=none', *others])}")
    if len(records) > 1:
        metric = records[0]["metric"]
        mean = statistics.fmean(record["metrics"][metric] for record in records)
        lines.append(f"mean      {metric} {mean:.3f} over {len(records)} languages")
    return "\n".join(lines)


def command(overrides: list[str]) -> str:
    """What to type to run the same again."""
    program = "python run.py" if Path(sys.argv[0]).name == "run.py" else "xlt"
    return shlex.join([*program.split(), *overrides])


def _story(experiment: Experiment) -> dict[str, Any]:
    """The fields of the record that the configuration determines; axes that are not used are None."""
    evaluation = experiment.evaluations[0]
    module, transfer = evaluation.language_module, experiment.transfer
    translates = any(step.kind == "translator" for goal in experiment.evaluations for step in goal.ancestors().values())
    uses_sources = bool(experiment.sources) and (bool(evaluation.task_modules) or experiment.task.uses_sources)
    trained = module if module and not module.external else None
    settings = experiment.settings
    return {
        "model": experiment.model.label if evaluation.backbone else None,
        "method": module.method.name if module else None,
        "task_method": experiment.task_method.name if evaluation.task_modules else None,
        "data": experiment.data.name if trained else None,
        "task": experiment.task.name,
        "transfer": transfer.name if evaluation.task_modules else None,
        "source": [language.key for language in experiment.sources] if uses_sources else None,
        "source_task": experiment.source_task.name if evaluation.task_modules and experiment.sources else None,
        "translator": experiment.translator.label if translates else None,
        "shots": settings.shots if evaluation.task_modules and transfer.uses_shots else None,
        "seed": settings.seed,
        "language_seed": settings.language.seed if trained else None,
        "store": str(store_folder(settings)),
        "config": OmegaConf.to_container(experiment.config, resolve=True),
    }


def _quieten_libraries() -> None:
    """What other libraries say while they load is no news: missing weights and the like are errors of ours."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _check_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".probe"
    probe.write_bytes(b"")
    probe.unlink()
