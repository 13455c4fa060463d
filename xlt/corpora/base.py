"""A source of unlabelled text: it yields documents of a language; the text step cleans, splits and keeps them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xlt.config import setting
from xlt.languages import Language, LanguageTable

if TYPE_CHECKING:
    from xlt.experiment import Experiment
    from xlt.hub import Hub
    from xlt.steps.base import Step
    from xlt.store import Artifact


DAMAGED = "the rest of a damaged file"
"""Why what follows is left out where a file cannot be read any further."""


@dataclass(frozen=True)
class LeftOut:
    """What a source yields in the place of a document that it leaves out, so that the text's card can count it.

    Attributes:
        reason: a few words, the same for all that are left out for it.
    """

    reason: str


@dataclass(frozen=True)
class TextSource(ABC):
    """Whatever text can be had from: a corpus, or several mixed.

    Attributes:
        name: label of the source in records and folder names.
    """

    name: str = setting("corpus", is_name=True, identity=False)

    @abstractmethod
    def draw(self, experiment: Experiment, language: Language, seed: int) -> Step:
        """This source's part of the graph: the step that makes the language's text, split by `seed`."""


@dataclass(frozen=True)
class Corpus(TextSource):
    """Fields that every corpus has.

    Attributes:
        max_bytes: training text beyond this many UTF-8 bytes is left out (Gurgurov et al. 2025: 1 GB); None takes everything.
        cap: what the caps count: `bytes` of the documents; or `csv_lines`, as the code of Gurgurov et al. 2025: of the lines of a
            CSV file of all documents, as many as would fit if all were equally long. A document with line breaks has several, and
            one that is cut is lost.
        validation_fraction: share of the documents kept for validation (Gurgurov et al. 2025: a tenth).
        validation_max_bytes: cap of the validation text in bytes (ibid.: 200 MB).
        deduplicate: keep only the first of equal documents.
        near_duplicates: keep only the first of documents that are at least this similar (see `NearDuplicates`); None keeps all.
        guard: labelled data whose validation and test sentences are kept out of the text: `task`, that of the run itself, or
            choices as on the command line, `task=sib200`. A language module is then learnt for each such list, not one for all.
    """

    max_bytes: int | None = setting(1 << 30, at_least=1000)
    cap: str = setting("bytes", one_of=("bytes", "csv_lines"), neutral=True)
    validation_fraction: float = setting(0.1, above=0, at_most=0.5)
    validation_max_bytes: int = setting(200_000_000, at_least=100)
    deduplicate: bool = setting(True)
    near_duplicates: float | None = setting(None, above=0, at_most=1, neutral=True)
    guard: list[str] = setting([], identity=False)  # the examples themselves are inputs of the step

    def draw(self, experiment: Experiment, language: Language, seed: int) -> Step:
        return experiment.text_step(self, language, seed)

    def inputs(self, hub: Hub) -> dict[str, Step]:
        """The steps whose artifacts `documents` reads, by the names under which it gets them."""
        return {}

    @abstractmethod
    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        """What identifies the data behind `documents`.

        Raises:
            UserError: the source does not have the language, or cannot be reached.
        """

    @abstractmethod
    def documents(self, language: Language, languages: LanguageTable, hub: Hub, **inputs: Artifact) -> Iterator[str | LeftOut]:
        """The documents, in a fixed order, streamed."""
