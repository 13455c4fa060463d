"""The data of `task=mini_…`: labelled examples in the invented languages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from xlt.config import setting
from xlt.errors import UserError, suggest
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable
from xlt.miniature.views import VIEWS, rows
from xlt.miniature.world import World
from xlt.random import Draw
from xlt.tasks.data import LabelledData


@dataclass(frozen=True)
class MiniatureData(LabelledData):
    """A view of the miniature world.

    Attributes:
        view: which one; see `xlt.miniature.views`.
        sizes: how many examples each split has.
        mislabelled: share of the training examples whose label is that of another training example.
        world: the miniature world.
    """

    view: str = setting("topic", one_of=tuple(VIEWS))
    sizes: dict[str, int] = field(default_factory=lambda: {"train": 100, "validation": 100, "test": 2000})
    mislabelled: float = setting(0.0, at_least=0, at_most=1)
    world: World = field(default_factory=World)

    def verify(self, where: str) -> None:
        """Called by the configuration check."""
        for split in self.named_splits():
            if split not in self.sizes:
                raise UserError(f"{where}.splits: there is no split {split}. {suggest(split, self.sizes, 'splits')}")
        if self.view == "sentiment" and not self.world.elaboration * self.world.evaluation:
            raise UserError(
                "world.elaboration=0 or world.evaluation=0: nobody praises or blames, so there is no sentiment to tell."
            )
        if self.mislabelled and "label" not in self.columns:
            raise UserError(f"{where}.mislabelled={self.mislabelled}: the view {self.view} has no single label to get wrong.")
        for split, size in self.sizes.items():
            if size < 1:
                raise UserError(f"{where}.sizes.{split}={size} is out of range: it has to be at least 1.")

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        return self.world.revision(language, f"the view {self.view} of the miniature world")

    def available(self, language: Language, languages: LanguageTable, hub: Hub) -> list[str]:
        return list(self.sizes)

    def read(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> Iterable[dict[str, Any]]:
        chosen = list(islice(rows(self.world, language.key, self.view, split), self.sizes[split]))
        if self.mislabelled and split in self.named_splits("train"):
            column, draw = self.columns["label"], Draw(self.world.seed, "mislabelled", self.view)
            labels = [row[column] for row in chosen]
            chosen = [{**row, column: draw.pick(labels)} if draw.chance(self.mislabelled) else row for row in chosen]
        return chosen

    def describe(self, language: Language, languages: LanguageTable, split: str) -> str:
        return f"the view {self.view} of the miniature world, {language.key}, {split}"
