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
    metric: uas                       what is printed, where it is not the task's main score
    waits_for: …                      instead of all that, or of a column's choices: what xlt lacks for it
    correlations_of: [table10, …]     instead of all that: the tables whose scores it correlates
    without_text: [luo, …]            languages that are not run with a language module: their text is not in the source

What is given on the command line takes the place of the table's own: other languages, seeds, a model, a task. A choice in which
the columns differ can only be narrowed down (`method=none,lora`), unless `paper.instead` says what stands for what
(`'+paper.instead.data={glotcc: miniature}'`; for all at once, `+rehearsal=miniature`).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from xlt.errors import UserError, suggest

_PLAIN = re.compile(r"[A-Za-z0-9_./@+-]+")
RECIPES = ("paper", "rehearsal")
"""What is chosen for a sweep as a whole, and not for its runs."""

_SWEPT = ("lang", "seed")
_KEYS = {
    "published", "choices", "lang", "seed", "columns", "blocks", "baseline", "scale", "less_is_better", "metric", "waits_for",
    "without_text", "correlations_of", "instead",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A run of a table's sweep.

    Attributes:
        block, column: where its score stands; the column's group and name with a slash between them.
        choices: overrides by their keys; `lang` and `seed` are among them.
    """

    block: str
    column: str
    choices: Mapping[str, Any] = field(hash=False)

    def overrides(self) -> list[str]:
        """What the run is on a command line: choices of groups first, then settings within them."""
        ordered = sorted(self.choices.items(), key=lambda item: "." in item[0])
        return [f"{key}={written(value)}" for key, value in ordered]


@dataclass(frozen=True)
class Part:
    """A column in a block of a table.

    Attributes:
        title: the column's name, with what stands for something else in its place.
        published: labels of the printed row.
        languages: that are shown.
        metric: what is printed; None is the task's main score.
        waits_for: what xlt lacks for it; then it has no jobs.
    """

    block: str
    column: str
    title: str
    published: Mapping[str, str] = field(hash=False)
    languages: tuple[str, ...]
    metric: str | None = None
    waits_for: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """A checked table.

    Attributes:
        name: `gurgurov2025/table15`.
        jobs: all its runs.
        parts: its columns, in each of its blocks.
        baseline: the column that gains are counted from; None for a table without one.
        scale: what a score is multiplied by to be printed: 100 for shares.
        less_is_better: of the scores.
        waits_for: what xlt lacks for it; then it has no jobs.
        correlations_of: the tables whose scores it correlates; then it has no jobs of its own.
    """

    name: str
    jobs: tuple[Job, ...]
    parts: tuple[Part, ...] = ()
    baseline: str | None = None
    scale: float = 100.0
    less_is_better: bool = False
    waits_for: str | None = None
    correlations_of: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, node: DictConfig | Mapping[str, Any]) -> PaperTable:
        """Read a file of conf/paper.

        Raises:
            UserError: an unknown key, or one that is missing.
        """
        content = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
        unknown = [key for key in content if key not in _KEYS]
        if unknown:
            raise UserError(f"paper.{unknown[0]} is not a setting. {suggest(unknown[0], _KEYS, 'settings of a table')}")
        if content.get("waits_for"):
            return cls(content["published"], (), waits_for=content["waits_for"])
        if content.get("correlations_of"):
            work = content["published"].partition("/")[0]
            return cls(content["published"], (), correlations_of=tuple(f"{work}/{one}" for one in content["correlations_of"]))
        if not content.get("published") or not content.get("columns"):
            raise UserError("A table in conf/paper needs `published`, the name of its printed numbers, and `columns`.")
        jobs: list[Job] = []
        parts: list[Part] = []
        for name, block in (content.get("blocks") or {"": {}}).items():
            for part, runs in _block(name, content, block):
                parts.append(part)
                jobs += runs
        table = cls(
            content["published"], tuple(jobs), tuple(parts), content.get("baseline"), float(content.get("scale", 100.0)),
            bool(content.get("less_is_better", False)),
        )  # fmt: skip
        for axis, standing in (content.get("instead") or {}).items():
            table = table.with_instead(axis, standing)
        return table

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
            if isinstance(value, list):
                return replace(job, choices=_chosen(job.choices, axis, [standing.get(one, one) for one in value]))
            if value not in standing:
                return job
            if isinstance(standing[value], Mapping):
                return replace(job, choices={**job.choices, **standing[value]})
            return replace(job, choices=_chosen(job.choices, axis, standing[value]))

        def renamed(part: Part) -> Part:
            words = [standing.get(word, word) for word in part.title.split("/")]
            return part if any(isinstance(word, Mapping) for word in words) else replace(part, title="/".join(words))

        return replace(self, jobs=tuple(map(other, self.jobs)), parts=tuple(map(renamed, self.parts)))

    def given(self, overrides: Mapping[str, Sequence[Any]], replacing: bool = False) -> PaperTable:
        """The table with what was given on the command line: some of its own values, others in their place, further settings.

        Args:
            overrides: values by key; several make a sweep.
            replacing: values take the place of the table's even where its cells differ.

        Raises:
            UserError: another value for a choice in which the cells differ, or nothing is left.
        """
        jobs, parts = list(self.jobs), self.parts
        for key, values in overrides.items():
            own = list(dict.fromkeys(str(job.choices[key]) for job in jobs if key in job.choices))
            if key == "lang":
                parts = tuple(replace(part, languages=_shown(part, parts, values)) for part in parts)
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
        blocks, places = {job.block for job in jobs}, {(job.block, job.column) for job in jobs}
        left = (part for part in parts if (part.block, part.column) in places or (part.waits_for and part.block in blocks))
        return replace(self, jobs=tuple(jobs), parts=tuple(left))

    def check_runnable(self) -> None:
        """Raises UserError for a table that xlt cannot run yet."""
        if self.waits_for:
            raise UserError(f"{self.name} cannot be run yet: it waits for {self.waits_for}.")
        if self.correlations_of:
            tables = ", ".join(f"+paper={name}" for name in self.correlations_of)
            raise UserError(f"{self.name} has no runs of its own, it correlates the scores of others: run {tables}.")


class Typed(str):
    """A value as it was typed on the command line."""


def typed(overrides: Iterable[Override]) -> dict[str, list[Typed]]:
    """The values given on a command line by key, those for the sweep as a whole aside; several are swept."""
    found: dict[str, list[Typed]] = {}
    for override in overrides:
        key = override.get_key_element().rpartition("@")[2]  # method@task_method is how Hydra calls task_method
        if key.lstrip("+~").partition(".")[0] not in RECIPES:
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


def _block(name: str, table: Mapping[str, Any], block: Mapping[str, Any]) -> Iterator[tuple[Part, list[Job]]]:
    """The columns of a block, each with its runs."""

    def own(key: str, default: Any = None) -> Any:
        return block.get(key, table.get(key, default))

    for column, content in table["columns"].items():
        further = block.get("columns", {}).get(column, {})
        if further is None:
            continue
        published = {**block.get("published", {}), **content.get("published", {})}
        waits_for = content.get("waits_for")
        part = Part(name, column, column, published, tuple(own("lang")), own("metric"), waits_for)
        choices = {**table.get("choices", {}), **block.get("choices", {}), **content.get("choices", {}), **further}
        languages = [one for one in own("lang") if choices.get("method") == "none" or one not in own("without_text", [])]
        jobs = [
            Job(name, column, {**choices, "lang": language, "seed": seed})
            for language, seed in itertools.product(languages, own("seed", [0]))
        ]
        yield part, [] if waits_for else jobs


def _shown(part: Part, parts: Sequence[Part], given: Sequence[Any]) -> tuple[str, ...]:
    """The languages of a part when some are given: those of its own, or all if they are other than the table's."""
    values = [str(value) for value in given]
    own = {language for other in parts for language in other.languages}
    return tuple(language for language in part.languages if language in values) if own >= set(values) else tuple(values)


def _chosen(choices: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Choices with another one; what was set within the one that it takes the place of is gone."""
    plain = key.lstrip("+")
    kept = {
        name: other
        for name, other in choices.items()
        if name.lstrip("+") != plain and not (name.lstrip("+").startswith(f"{plain}.") and plain not in _SWEPT)
    }
    return {**kept, key: value}
