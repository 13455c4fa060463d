"""Mixed text: the texts of one language from several sources as one, in shares of one's choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from xlt.errors import UserError
from xlt.languages import Language
from xlt.random import Draw
from xlt.steps.base import Step, Workbench
from xlt.steps.cleaning import digest
from xlt.steps.text import DocumentWriter, portrait, read_documents, write_card


@dataclass(frozen=True)
class MixedTextStep(Step):
    """Draws training documents from the texts of several sources; validation is all of theirs together. A training document that
    is a validation document of another source is left out.

    Files: as those of a `TextStep`.

    Attributes:
        texts: of the parts, by name.
        shares: of the training bytes, by part; None for shares proportional to size^(1/temperature).
        max_bytes: of training text; None for as much as the parts hold together.
    """

    kind: ClassVar[str] = "text"

    name: str
    texts: Mapping[str, Step]
    language: Language
    shares: Mapping[str, float] | None
    temperature: float
    max_bytes: int | None
    seed: int

    @property
    def label(self) -> str:
        return f"{self.name}-{self.language.key}"

    def fields(self) -> dict[str, Any]:
        data = {"shares": self.shares and dict(self.shares), "temperature": self.temperature, "max_bytes": self.max_bytes}
        return {"data": data, "lang": self.language.key, "language": {"seed": self.seed}}

    def inputs(self) -> dict[str, Step]:
        return {f"part_{name}": text for name, text in self.texts.items()}

    def build(self, bench: Workbench) -> None:
        folders = {name: bench.inputs[f"part_{name}"].folder for name in self.texts}
        sizes = {name: bench.inputs[f"part_{name}"].summary["train"]["bytes"] for name in self.texts}
        times = repetitions(sizes, self.shares, self.temperature, self.max_bytes)
        card: dict[str, Any] = {"left_out": {"in validation text": 0}, "parts": {}}
        held_out: set[bytes] = set()
        validation = DocumentWriter(bench.folder / "validation.parquet", None)
        for folder in folders.values():
            for document in read_documents(folder, "validation"):
                held_out.add(digest(document))
                validation.add(document)
        train = DocumentWriter(bench.folder / "train.parquet", None)
        for name, folder in folders.items():
            before = train.card()
            draw = Draw(self.seed, "mixed text", name)
            whole, rest = divmod(times[name], 1)
            for number in range(int(whole) + 1):
                for document in read_documents(folder, "train"):
                    if number == whole and not draw.chance(rest):
                        continue
                    if digest(document) in held_out:
                        card["left_out"]["in validation text"] += 1
                        continue
                    train.add(document)
            drawn = {key: count - before[key] for key, count in train.card().items()}
            card["parts"][name] = {"times": times[name], "of_bytes": sizes[name], **drawn}
        train.close()
        validation.close()
        if not train.documents:
            raise UserError(
                f"The mixed text of {self.language.name} has no documents left ({card}): give it more bytes (data.max_bytes)."
            )
        looks = portrait(bench.folder).card()
        write_card(bench, {**card, "train": train.card(), "validation": validation.card(), **looks})


def repetitions(
    sizes: Mapping[str, int], shares: Mapping[str, float] | None, temperature: float, max_bytes: int | None
) -> dict[str, float]:
    """How often each document of a part is taken on average.

    Args:
        sizes: of the parts in bytes.
        shares: wanted of the parts; if None, they are proportional to size^(1/temperature).
        max_bytes: of the whole; None for the sum of the sizes.
    """
    weights = shares or {name: size ** (1 / temperature) for name, size in sizes.items()}
    total, available = sum(weights.values()), sum(sizes.values())
    wanted = available if max_bytes is None else min(max_bytes, available)
    return {name: wanted * weights[name] / total / size for name, size in sizes.items()}
