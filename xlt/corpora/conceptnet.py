"""Sentences from the concept graph ConceptNet (Speer, Chin & Havasi 2017): «start predicate end.», an assertion a sentence, as
in Gurgurov et al. 2025 (table 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from xlt.config import setting
from xlt.corpora.base import Corpus, LeftOut
from xlt.errors import UserError, suggest
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable
from xlt.steps.assertions import Assertion, AssertionsStep, read_assertions
from xlt.steps.base import Step
from xlt.store import Artifact

RELEASE = "https://s3.amazonaws.com/conceptnet/downloads/2019/edges/conceptnet-assertions-5.7.0.csv.gz"
"""ConceptNet 5.7: 34 million assertions, half a gigabyte."""

_PREDICATES = Path(__file__).with_name("predicates")
_TERM = 3  # /c/<language>/<term>[/<part of speech>[/…]]


@dataclass(frozen=True)
class AssertionCorpus(Corpus):
    """How assertions become sentences.

    Attributes:
        predicates: what the relations are called in a sentence: a table of the package (`english`), or a YAML file of your own,
            a line a relation. Assertions with other relations are left out.
        relations: of these, only those named here; None takes all.
        minimum_weight: assertions that ConceptNet weighs less are left out (most weigh 1).
        node_text: what of a node `/c/mt/ras_il-għajn/n` stands in the sentence: its `term`, «ras il-għajn», or as in the code of
            Gurgurov et al. its `last_segment`, which is «n» where a part of speech follows.
    """

    predicates: str = setting("english", identity=False)
    relations: list[str] | None = setting(None)
    minimum_weight: float = setting(0.0, at_least=0)
    node_text: str = setting("term", one_of=("term", "last_segment"))

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        table = load_predicates(self.predicates)
        for relation in self.relations or ():
            if relation not in table:
                hint = suggest(relation, table, "relations")
                raise UserError(f"{where}.relations: {where}.predicates={self.predicates} has no {relation}. {hint}")

    @property
    def chosen_predicates(self) -> dict[str, str]:
        """The predicates of the relations that are used."""
        table = load_predicates(self.predicates)
        return {relation: table[relation] for relation in (self.relations or table)}

    def sentences(self, assertions: Iterable[Assertion]) -> Iterator[str | LeftOut]:
        """A sentence for each assertion."""
        predicates = self.chosen_predicates
        segment = _TERM if self.node_text == "term" else -1
        for assertion in assertions:
            start, end = (node.split("/")[segment].replace("_", " ") for node in (assertion.start, assertion.end))
            predicate = predicates.get(assertion.relation)
            if predicate is None:
                yield LeftOut(f"relation {assertion.relation}")
            elif start == end:
                yield LeftOut("start is end")
            elif assertion.weight < self.minimum_weight:
                yield LeftOut("weight")
            else:
                yield f"{start} {predicate} {end}."


@dataclass(frozen=True)
class ConceptNet(AssertionCorpus):
    """A file of assertions in the format of ConceptNet 5.7. It is read once for all languages.

    An assertion is of the language of its start; its end may be of another one.

    Attributes:
        path: the file, or where it lies on the web.
        language_column: column of the language table with ConceptNet's spelling of languages.
    """

    path: str = setting(RELEASE, identity=False)
    language_column: str = setting("conceptnet", is_name=True)

    def inputs(self, hub: Hub) -> dict[str, Step]:
        return {"assertions": AssertionsStep.of(self.path, hub)}

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        return {"language": languages.code(language, self.language_column, "ConceptNet"), "predicates": self.chosen_predicates}

    def documents(
        self, language: Language, languages: LanguageTable, hub: Hub, *, assertions: Artifact
    ) -> Iterator[str | LeftOut]:
        code = languages.code(language, self.language_column, "ConceptNet")
        return self.sentences(read_assertions(assertions.folder, code))


@lru_cache
def load_predicates(name: str) -> dict[str, str]:
    """A table of predicates by relation.

    Args:
        name: of a table of the package, or a YAML file.

    Raises:
        UserError: there is none, or it is no such table.
    """
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else _PREDICATES / f"{name}.yaml"
    if not path.is_file():
        ours = suggest(name, (file.stem for file in _PREDICATES.glob("*.yaml")), "tables of the package")
        raise UserError(
            f"predicates={name}: there is no such table. {ours} One of your own is a YAML file: predicates=FILE.yaml."
        )
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"predicates={name} is not valid YAML ({error}).") from error
    if not isinstance(table, dict) or not table or not all(isinstance(text, str) and text for text in (*table, *table.values())):
        raise UserError(f"predicates={name} has to hold a line «Relation: predicate» for each relation, for example «IsA: is a».")
    return table
