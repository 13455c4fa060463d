"""Task module: what is learnt from labelled examples, on top of the frozen, active language module."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Stack
from xlt.config import identity
from xlt.methods.base import Method, Module
from xlt.random import Draw, derive_seed, generator
from xlt.steps.audit import count_trainable, estimate_training, flops_per_token
from xlt.steps.backbone import BackboneStep
from xlt.steps.base import Estimate, Step, Workbench
from xlt.steps.card import write_task_module_card
from xlt.steps.composition import Branch, Composition, save_task_module
from xlt.steps.examples import ExamplesStep, read_examples, require_split
from xlt.steps.language_module import WITH_TASK, LanguageModuleStep, ReadyMadeModuleStep
from xlt.steps.training import run_loop
from xlt.store import Artifact
from xlt.tasks.base import Example, LearntTask
from xlt.training.batches import Batches, SeveralSources, shares_of
from xlt.training.settings import LoopSettings


@dataclass(frozen=True)
class Shots:
    """Some of a split's examples.

    Attributes:
        count: how many, at most.
        choice: `first` of the split, or `drawn`.
        seed: what they are drawn with.
    """

    count: int
    choice: str = "drawn"
    seed: int = 0

    def of(self, examples: list[Example]) -> list[Example]:
        """The chosen ones, in their order in the split."""
        if self.choice == "first":
            return examples[: self.count]
        drawn = Draw(self.seed, "shots").shuffled(range(len(examples)))
        return [examples[index] for index in sorted(drawn[: self.count])]

    def fields(self) -> dict[str, Any]:
        """What identifies them."""
        return {"count": self.count, "choice": self.choice, **({"seed": self.seed} if self.choice == "drawn" else {})}


@dataclass(frozen=True)
class Labels:
    """Labelled examples of one language that a task module learns from.

    Attributes:
        examples: the step that makes them.
        language_module: what is active for them; None for the backbone alone.
        split: which of them.
        shots: which of the split; None for all.
        repeat: how often each is met in an epoch.
        trains: whether they are trained on.
        validates: whether the validation split is looked at to choose the best checkpoint.
    """

    examples: ExamplesStep
    language_module: LanguageModuleStep | ReadyMadeModuleStep | None
    split: str = "train"
    shots: Shots | None = None
    repeat: int = 1
    trains: bool = True
    validates: bool = True

    def fields(self) -> dict[str, Any]:
        """What of them is not in the fingerprints of the steps; nothing for plain training examples."""
        fields: dict[str, Any] = {"split": self.split, "repeat": self.repeat, "trains": self.trains, "validates": self.validates}
        plain = Labels(self.examples, self.language_module)
        fields = {name: value for name, value in fields.items() if value != getattr(plain, name)}
        return {**fields, **({"shots": self.shots.fields()} if self.shots else {})}

    @property
    def label(self) -> str:
        """For folder names."""
        shots = f"-{self.shots.count}shots" if self.shots else ""
        return f"{self.examples.label}{shots}" if self.trains else ""


@dataclass(frozen=True)
class TaskModuleStep(Step):
    """Trains a task module and its head; the best epoch by the task's metric on validation data is kept.

    Each batch is in one language, with that language's module active. With several validation sets, each counts alike.

    Files: the module in its method's format, `head.safetensors`, `training.json`; in a folder of its own a language module that
    is trained along with it.

    Attributes:
        sources: what it learns from.
        sampling, temperature: how often each of them comes; see `shares_of`.
    """

    kind: ClassVar[str] = "task_module"

    method: Method
    task: LearntTask
    backbone: BackboneStep
    sources: tuple[Labels, ...]
    training: LoopSettings
    seed: int
    sampling: str = "proportional"
    temperature: float = 1.0

    @property
    def label(self) -> str:
        below = self.language_module.label if self.language_module else f"{self.backbone.label}-none"
        learnt = "+".join(labels.label for labels in self.sources if labels.label)
        learnt = learnt if len(learnt) <= 80 else f"{self.sources[0].label}+{len(self.sources) - 1}"
        return f"{below}-{self.method.name}-{learnt}-seed{self.seed}"

    @property
    def language_module(self) -> LanguageModuleStep | ReadyMadeModuleStep | None:
        """The first source's."""
        return self.sources[0].language_module

    def fields(self) -> dict[str, Any]:
        sources = [labels.fields() for labels in self.sources]
        several = {"sampling": self.sampling, "temperature": self.temperature} if len(self.sources) > 1 else {}
        return {
            "task_method": identity(self.method), "task": identity(self.task), "train": {"task": identity(self.training)},
            "seed": self.seed, **({"sources": sources} if any(sources) else {}), **several,
        }  # fmt: skip

    def inputs(self) -> dict[str, Step]:
        # Examples first: a wrong label is then found before hours go into a language module.
        examples = {f"examples{number or ''}": labels.examples for number, labels in enumerate(self.sources)}
        modules = {
            f"language_module{number or ''}": labels.language_module
            for number, labels in enumerate(self.sources)
            if labels.language_module is not None
        }
        return {**examples, "backbone": self.backbone, **modules}

    def check_input(self, role: str, artifact: Artifact) -> None:
        if role.startswith("examples"):
            labels = self.sources[int(role.removeprefix("examples") or 0)]
            for split in [labels.split] * labels.trains + ["validation"] * labels.validates:
                require_split(artifact, split)

    def build(self, bench: Workbench) -> None:
        data = [self._read(bench, number) for number in range(len(self.sources))]
        backbone, below = self._open(bench.inputs)
        module = self.method.create(backbone, generator(self.seed, "task module"))
        head = self.task.head(backbone, generator(self.seed, "head"))
        switches = len({id(language_module) for language_module in below}) > 1
        composition = Composition(
            backbone,
            self.task,
            [Branch(head)],
            self.backbone.clip(self.task.max_length),
            bench.runtime.device,
            [Stack(*(part for part in (language_module, module) if part)) for language_module in below] if switches else (),
        )
        parameters = {f"head.{name}": p for name, p in head.named_parameters()}
        with_task = below[0] if below[0] is not None and self.language_module.method.trained_with_task else None
        if with_task is not None:
            parameters |= {f"language_module.{name}": p.requires_grad_(True) for name, p in with_task.parameters().items()}
        seed = derive_seed(self.seed, "task module")
        batches, tokens_per_row = self._batches(composition, [train for train, _ in data], seed)
        validation = [(examples, number, composition.encode(examples)) for number, (_, examples) in enumerate(data) if examples]

        def evaluate() -> dict[str, float]:
            scores = [composition.score(*part) for part in validation]
            return {name: statistics.fmean(score[name] for score in scores) for name in scores[0]}

        run_loop(
            bench,
            self.label,
            model=composition.model,
            modules=backbone.modules,
            module=module,
            parameters=parameters,
            objective=composition,
            batches=batches,
            evaluate=evaluate,
            metric=(self.task.metric, True),
            phases=self.method.phases(self.training),
            seed=seed,
            tokens_per_example=tokens_per_row,
            flops_per_token=partial(flops_per_token, backbone, tokens_per_row, False),
        )
        save_task_module(bench.folder, module, head)
        if with_task is not None:
            (bench.folder / WITH_TASK).mkdir()
            with_task.save(bench.folder / WITH_TASK)
        write_task_module_card(bench.folder, self, bench.summary)

    def estimate(self) -> Estimate:
        def count(backbone: Backbone) -> int:
            head = self.task.head(backbone, generator(0))
            return count_trainable(self.method, backbone, language_head=False) + sum(p.numel() for p in head.parameters())

        length = self.backbone.clip(self.task.max_length) / 4  # labelled texts are mostly far shorter than the cap
        return estimate_training(self.backbone, count, self.method.phases(self.training), None, length, language_head=False)

    def _read(self, bench: Workbench, number: int) -> tuple[list[Example], list[Example]]:
        """A source's examples for training and for validation; none for what it is not asked for."""
        labels = self.sources[number]
        artifact = bench.inputs[f"examples{number or ''}"]
        train = read_examples(artifact, labels.split) if labels.trains else []
        return labels.shots.of(train) if labels.shots else train, (
            read_examples(artifact, "validation") if labels.validates else []
        )

    def _open(self, artifacts: Mapping[str, Artifact]) -> tuple[Backbone, list[Module | None]]:
        """The backbone with the sources' language modules attached, each once; and which one each source has."""
        backbone = self.backbone.open(artifacts["backbone"])
        attached: dict[str, Module] = {}
        result: list[Module | None] = []
        for number, labels in enumerate(self.sources):
            step = labels.language_module
            if step is not None and step.fingerprint not in attached:
                attached[step.fingerprint] = step.attach(backbone, artifacts[f"language_module{number or ''}"])
            result.append(attached[step.fingerprint] if step is not None else None)
        return backbone, result

    def _batches(self, composition: Composition, data: list[list[Example]], seed: int) -> tuple[Batches | SeveralSources, float]:
        """The training batches, and how many tokens a row has on average."""
        trained = [number for number, examples in enumerate(data) if examples]
        rows = {number: composition.encode(data[number]) for number in trained}
        lengths = [len(row["input_ids"]) for number in trained for row in rows[number][:256]]
        size = self.training.batch_size

        def batches(number: int, *names: int) -> Batches:
            own = derive_seed(seed, *names) if names else seed
            return Batches(len(rows[number]), size, own, composition.maker(rows[number], number))

        if len(trained) == 1:
            return batches(trained[0]), statistics.fmean(lengths)
        sizes = [len(rows[number]) for number in trained]
        repeats = [self.sources[number].repeat for number in trained]
        if self.sampling == "proportional":
            shares = [share * repeat for share, repeat in zip(shares_of(sizes, size, "proportional"), repeats, strict=True)]
        else:
            met = [count * repeat for count, repeat in zip(sizes, repeats, strict=True)]
            shares = shares_of(met, size, self.sampling, self.temperature)
        return SeveralSources([batches(number, number) for number in trained], shares, seed), statistics.fmean(lengths)
