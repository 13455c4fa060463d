"""A result table of a paper as a sweep: which runs its cells are (`conf/paper/<work>/table<number>.yaml`).

    published: gurgurov2025/table15   the printed numbers
    choices: {model: mbert, …}        what all cells have in common, as on the command line
    lang: [he, el, …]
    seed: [1, 2, 3]
    columns:
      glotcc/lora:                    group and name of a column
        published: {data: Glot, method: LoRA}     the labels of its printed row
        choices: {method: lora, data: glotcc}
    blocks: …                         parts that differ in more than their columns: each has `published`, `choices`, `lang`,
                                      `seed` of its own, and `columns`: further choices for some, or null to leave one out
    baseline: none                    the column that gains are counted from
    waits_for: …                      instead of all that: what xlt lacks for the table

What is given on the command line takes the place of the table's own: other languages, seeds, a model, a task. A choice in which
the columns differ can only be narrowed down (`method=none,lora`), unless `paper.instead` says what stands for what
(`'+paper.instead.data={glotcc: miniature}'`).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from xlt.errors import UserError, suggest

_PLAIN = re.compile(r"[A-Za-z0-9_./@+-]+")
_SWEPT = ("lang", "seed")


@dataclass(frozen=True)
class Job:
    """A run of a table's sweep.

    Attributes:
        block, column: where its score stands; the column's group and name with a slash between them.
        published: labels of the printed row.
        choices: overrides by their keys; `lang` and `seed` are among them.
    """

    block: str
    column: str
    published: Mapping[str, str] = field(hash=False)
    choices: Mapping[str, Any] = field(hash=False)

    def overrides(self) -> list[str]:
        """What the run is on a command line: choices of groups first, then settings within them."""
        ordered = sorted(self.choices.items(), key=lambda item: "." in item[0])
        return [f"{key}={written(value)}" for key, value in ordered]


@dataclass(frozen=True)
class PaperTable:
    """A checked table.

    Attributes:
        name: `gurgurov2025/table15`.
        jobs: all its runs.
        baseline: the column that gains are counted from; None for a table without one.
        scale: what a score is multiplied by to be printed: 100 for shares.
        less_is_better: of the scores.
        waits_for: what xlt lacks for it; then it has no jobs.
    """

    name: str
    jobs: tuple[Job, ...]
    baseline: str | None = None
    scale: float = 100.0
    less_is_better: bool = False
    waits_for: str | None = None

    @classmethod
    def from_config(cls, node: DictConfig | Mapping[str, Any]) -> PaperTable:
        """Read a file of conf/paper.

        Raises:
            UserError: an unknown key, or one that is missing.
        """
        content = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
        known = {"published", "choices", "lang", "seed", "columns", "blocks", "baseline", "scale", "less_is_better", "waits_for"}
        unknown = [key for key in content if key not in known | {"instead"}]
        if unknown:
            raise UserError(f"paper.{unknown[0]} is not a setting. {suggest(unknown[0], known, 'settings of a table')}")
        if content.get("waits_for"):
            return cls(content["published"], (), waits_for=content["waits_for"])
        if not content.get("published") or not content.get("columns"):
            raise UserError("A table in conf/paper needs `published`, the name of its printed numbers, and `columns`.")
        jobs = [
            job
            for name, block in (content.get("blocks") or {"": {}}).items()
            for job in _block_jobs(name, content, block, content["columns"])
        ]
        table = cls(
            content["published"], tuple(jobs), content.get("baseline"), float(content.get("scale", 100.0)),
            bool(content.get("less_is_better", False)),
        )  # fmt: skip
        for axis, standing in (content.get("instead") or {}).items():
            table = table.with_instead(axis, standing)
        return table

    @property
    def columns(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(job.column for job in self.jobs))

    def with_instead(self, axis: str, standing: Any) -> PaperTable:
        """The table with another choice in the place of its own.

        Args:
            standing: a value for all cells, a list of them (of `lang` or `seed`), or a mapping from the table's values to others,
                or to further choices that go with them: `{conceptnet: {data.path: my.csv.gz}}`.
        """
        if not isinstance(standing, Mapping):
            return self.given({axis: standing if isinstance(standing, list) else [standing]}, replacing=True)

        def other(job: Job) -> Job:
            value = job.choices.get(axis)
            if value not in standing:
                return job
            if isinstance(standing[value], Mapping):
                return replace(job, choices={**job.choices, **standing[value]})
            group, slash, name = job.column.rpartition("/")
            column = f"{standing.get(group, group)}{slash}{standing.get(name, name)}"
            return replace(job, column=column, choices=_chosen(job.choices, axis, standing[value]))

        return replace(self, jobs=tuple(dict.fromkeys(map(other, self.jobs))))

    def given(self, overrides: Mapping[str, Sequence[Any]], replacing: bool = False) -> PaperTable:
        """The table with what was given on the command line: some of its own values, others in their place, further settings.

        Args:
            overrides: values by key; several make a sweep.
            replacing: values take the place of the table's even where its cells differ.

        Raises:
            UserError: another value for a choice in which the cells differ, or nothing is left.
        """
        jobs = list(self.jobs)
        for key, values in overrides.items():
            own = list(dict.fromkeys(str(job.choices[key]) for job in jobs if key in job.choices))
            if own and all(str(value) in own for value in values):
                wanted = {str(value) for value in values}
                jobs = [job for job in jobs if key not in job.choices or str(job.choices[key]) in wanted]
            elif len(own) > 1 and key not in _SWEPT and not replacing:
                raise UserError(
                    f"The cells of {self.name} differ in {key} ({', '.join(own)}), so {key}={','.join(map(str, values))} cannot "
                    f"stand for all of them. Choose among those, or say what stands for what: "
                    f"'+paper.instead.{key}={{{own[0]}: {values[0]}}}'."
                )
            else:
                jobs = [
                    replace(job, choices=_chosen(job.choices, key, value))
                    for job, value in itertools.product(jobs, values)
                ]  # fmt: skip
            jobs = list({(job.block, job.column, *job.overrides()): job for job in jobs}.values())
        if not jobs and self.jobs:
            raise UserError(f"No cell of {self.name} is left by {', '.join(overrides)}.")
        return replace(self, jobs=tuple(jobs))

    def check_runnable(self) -> None:
        """Raises UserError for a table that xlt cannot run yet."""
        if self.waits_for:
            raise UserError(f"{self.name} cannot be run yet: it waits for {self.waits_for}.")


class Typed(str):
    """A value as it was typed on the command line."""


def typed(overrides: Iterable[Override]) -> dict[str, list[Typed]]:
    """The values given on a command line by key, those of `paper` itself aside; several are swept."""
    found: dict[str, list[Typed]] = {}
    for override in overrides:
        key = override.get_key_element().rpartition("@")[2]  # method@task_method is how Hydra calls task_method
        if key.lstrip("+~").partition(".")[0] != "paper":
            swept = override.is_sweep_override() and override.is_discrete_sweep()
            values = override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
            found[key] = [Typed(value) for value in values]
    return found


def written(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, Typed):
        return str(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{written(inner)}' for key, inner in value.items())}}}"
    return str(value)


def _block_jobs(name: str, table: Mapping[str, Any], block: Mapping[str, Any], columns: Mapping[str, Any]) -> list[Job]:
    languages, seeds = block.get("lang", table.get("lang")), block.get("seed", table.get("seed", [0]))
    jobs = []
    for column, own in columns.items():
        further = block.get("columns", {}).get(column, {})
        if further is None:
            continue
        choices = {**table.get("choices", {}), **block.get("choices", {}), **own.get("choices", {}), **further}
        published = {**block.get("published", {}), **own.get("published", {})}
        for language, seed in itertools.product(languages, seeds):
            jobs.append(Job(name, column, published, {**choices, "lang": language, "seed": seed}))
    return jobs


def _chosen(choices: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Choices with another one; what was set within the one that it takes the place of is gone."""
    plain = key.lstrip("+")
    kept = {
        name: other
        for name, other in choices.items()
        if name.lstrip("+") != plain and not (name.lstrip("+").startswith(f"{plain}.") and plain not in _SWEPT)
    }
    return {**kept, key: value}
