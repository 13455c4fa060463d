"""What a step is: a node of the plan's graph, whose result is an artifact.

A step is a frozen dataclass of components and input steps. Its payload (its kind and version, its own resolved fields,
its inputs) is the whole truth of its result; the hash of the payload is its fingerprint. Raise `version` in a change
that changes results.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from xlt import store
from xlt.hub import Hub
from xlt.languages import LanguageTable
from xlt.store import Artifact
from xlt.training.tracking import Tracker

log = logging.getLogger("xlt")


@dataclass(frozen=True)
class Estimate:
    """What a step will cost.

    Attributes:
        tokens: that go through the model, padding aside.
        flops: floating-point operations.
        trainable: parameters that change.
    """

    tokens: float = 0.0
    flops: float = 0.0
    trainable: int | None = None


@dataclass(frozen=True)
class Runtime:
    """The machine side of a run: nothing here changes results.

    Attributes:
        device: where models run.
        flops_per_second: what the device achieves, for estimates.
        command: what the user typed, to say how to resume.
        tracker_folder: where the tracker may keep files.
        record: fields of the record that only the whole run knows (its configuration, for one).
    """

    device: torch.device
    flops_per_second: float
    hub: Hub
    languages: LanguageTable
    tracker: Tracker
    command: str
    tracker_folder: Path
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workbench:
    """What a step's `build` gets: its inputs' artifacts, where to write, the runtime, and a summary to fill."""

    inputs: Mapping[str, Artifact]
    folder: Path
    checkpoint: Path
    runtime: Runtime
    summary: dict[str, Any]


@dataclass(frozen=True)
class Step(ABC):
    """A node of the graph."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    external: ClassVar[bool] = False  # made elsewhere, or a view of its inputs: located, not built, and not kept in the store

    @property
    @abstractmethod
    def label(self) -> str:
        """A readable name, part of the artifact's folder name."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The step's own part of its payload, as plain data."""

    @property
    def origin(self) -> Any:
        """What identifies the content that the step takes from outside, in its revision; None if it takes none."""
        return self.fields().get("revision_of_data")

    def inputs(self) -> dict[str, Step]:
        """The steps whose artifacts this one reads, by role."""
        return {}

    def check_input(self, role: str, artifact: Artifact) -> None:  # noqa: B027 - most steps have nothing to check
        """Refuse an input that is of no use; called as soon as it is there, before hours go into the next one.

        Raises:
            UserError: what is wrong with it.
        """

    @abstractmethod
    def build(self, bench: Workbench) -> None:
        """Make the artifact's files in `bench.folder`."""

    def locate(self, inputs: Mapping[str, Artifact]) -> Artifact:
        """Where the files of an external step are."""
        raise AssertionError(f"{self.kind} {self.label} is built, not located")

    def located(self, folder: Path, like: Artifact | None = None) -> Artifact:
        """A folder as this step's artifact.

        Args:
            like: an artifact whose story (summary, provenance) is this one's.
        """
        story = {name: like.manifest[name] if like else {} for name in ("summary", "provenance")}
        manifest = {"kind": self.kind, "label": self.label, "fingerprint": self.fingerprint, "payload": self.payload, "files": {}}
        return Artifact(folder, {**manifest, **story})

    def estimate(self) -> Estimate:
        """What `build` costs, its inputs aside."""
        return Estimate()

    @cached_property
    def payload(self) -> dict[str, Any]:
        """What is hashed; kept in the artifact's manifest."""
        return {
            "kind": self.kind,
            "version": self.version,
            "fields": self.fields(),
            "inputs": {role: step.payload for role, step in self.inputs().items()},
        }

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the payload."""
        return store.fingerprint(self.payload)

    @cached_property
    def resolved(self) -> bool:
        """Whether all revisions under this step are known; if not, its fingerprint is provisional."""
        own = all(value is not None for key, value in _leaves(self.fields()) if key == "revision")
        return own and all(step.resolved for step in self.inputs().values())

    def ancestors(self) -> dict[str, Step]:
        """This step and all those under it by fingerprint, inputs first."""
        found: dict[str, Step] = {}
        for step in self.inputs().values():
            found |= step.ancestors()
        return {**found, self.fingerprint: self}


def _leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [leaf for name, inner in value.items() for leaf in _leaves(inner, name)]
    return [(key, value)]
