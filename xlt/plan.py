"""The plan: the union of the graphs of one or many experiments, and what of it the store already has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from xlt.experiment import Experiment
from xlt.steps.audit import readable_time, training_seconds
from xlt.steps.base import Estimate, Step
from xlt.store import Artifact, Store

_KINDS = (
    "assertions", "text", "parallel_text", "tokenizer", "tokens", "backbone", "translation_model", "converted_model",
    "translator", "examples", "translated_examples", "language_module", "task_module", "evaluation",
)  # fmt: skip
_TRAINED = ("backbone", "translation_model", "language_module", "task_module")


@dataclass(frozen=True)
class PlannedStep:
    """A step of the plan.

    Attributes:
        runs: how many of the experiments need it.
        state: `hit`, `miss`, `ready` (made elsewhere) or `unresolved` (its data's revision is only known online).
        reason: why it has to be made.
        estimate: what making it costs.
    """

    step: Step
    runs: int
    state: str
    reason: str
    estimate: Estimate


class Plan:
    """Each step of some experiments once, inputs before what is made of them; those that are missing and that nothing
    missing is made of are left out."""

    def __init__(self, experiments: Sequence[Experiment], store: Store) -> None:
        self.experiments = experiments
        shared: dict[str, list] = {}
        for experiment in experiments:
            steps = {key: step for evaluation in experiment.evaluations for key, step in evaluation.ancestors().items()}
            for fingerprint, step in steps.items():
                shared.setdefault(fingerprint, [step, 0])[1] += 1
        found = {key: self._look_up(step, runs, store) for key, (step, runs) in shared.items()}
        needed: set[str] = set()
        for key, planned in reversed(found.items()):  # what is made of a step comes behind it
            if planned.step.kind == "evaluation" or key in needed:
                needed.add(key)
                if planned.state != "hit":
                    needed |= {step.fingerprint for step in planned.step.inputs().values()}
        self.steps = [planned for key, planned in found.items() if key in needed or planned.state in ("hit", "ready")]

    def _look_up(self, step: Step, runs: int, store: Store) -> PlannedStep:
        if step.external:
            return PlannedStep(step, runs, "ready" if step.resolved else "unresolved", "", Estimate())
        artifact = find(step, store) if step.resolved else None
        if artifact is not None:
            trainable = artifact.summary.get("trainable_parameters")
            return PlannedStep(step, runs, "hit", "", Estimate(trainable=trainable))
        if not step.resolved:
            return PlannedStep(step, runs, "unresolved", "", step.estimate())
        return PlannedStep(step, runs, "miss", store.explain_miss(step.kind, step.payload), step.estimate())

    def show(self, flops_per_second: float) -> str:
        """The plan as a table, with its totals."""
        rows = [("step", "what", "runs", "state", "tokens", "FLOPs", "time", "trainable")]
        reasons = [""]
        ordered = sorted(self.steps, key=lambda planned: _KINDS.index(planned.step.kind) if planned.step.kind in _KINDS else 99)
        for planned in ordered:
            cost = planned.estimate
            seconds = training_seconds(cost.flops, flops_per_second)
            rows.append((
                planned.step.kind, planned.step.label, str(planned.runs), planned.state,
                f"{cost.tokens:.2g}" if cost.tokens else "", f"{cost.flops:.1e}" if cost.flops else "",
                readable_time(seconds) if cost.flops else "", f"{cost.trainable:,}" if cost.trainable is not None else "",
            ))  # fmt: skip
            reasons.append(planned.reason)
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + (f"  {reason}" if reason else "")
            for row, reason in zip(rows, reasons, strict=True)
        ]
        if any(planned.state == "unresolved" for planned in self.steps):
            lines.append("\nunresolved: the newest revision of some hub repository is looked up when it runs")
        return "\n".join([*(line.rstrip() for line in lines), "", self.totals(flops_per_second)])

    def totals(self, flops_per_second: float) -> str:
        """One line: how many steps of each kind, how many there are, and what the rest costs on this machine."""
        missing = [planned for planned in self.steps if planned.state in ("miss", "unresolved")]
        trained = [planned for planned in self.steps if planned.step.kind in _TRAINED]
        counts = {kind: sum(planned.step.kind == kind for planned in trained) for kind in _KINDS}
        modules = ", ".join(_counted(count, kind.replace("_", " ")) for kind, count in counts.items() if count)
        flops = sum(planned.estimate.flops for planned in missing)
        present = sum(planned.state in ("hit", "ready") for planned in self.steps)
        time = f"about {readable_time(training_seconds(flops, flops_per_second))} here" if flops else "time unknown"
        work = f"{flops:.1e} FLOPs, {time}" if missing else "nothing to do"
        return (
            f"{_counted(len(self.experiments), 'run')}: {len(self.steps)} steps ({modules}); {present} of them are there, "
            f"{len(missing)} to do: {work}"
        )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def find(step: Step, store: Store) -> Artifact | None:
    """The step's artifact, if the store has it (checksums are compared when it is opened)."""
    return store.peek(step.kind, step.label, step.fingerprint)


def experiments_of(configs: Iterable[DictConfig]) -> list[Experiment]:
    """Check many configurations: first all of each that needs no data, then their graphs.

    Raises:
        UserError: the first that cannot work.
    """
    experiments = [Experiment.from_config(config) for config in configs]
    for experiment in experiments:
        _ = experiment.evaluations
    return experiments
