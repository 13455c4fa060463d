"""Where the numbers of a run go while it trains."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt.config import setting
from xlt.errors import UserError


@dataclass(frozen=True)
class Tracker(ABC):
    """One choice of `tracker=`; nothing of it enters fingerprints."""

    @abstractmethod
    def check(self) -> None:
        """Refuse before any work what could only fail later."""

    @abstractmethod
    def start(self, name: str, config: dict[str, Any], folder: Path) -> None:
        """Begin a series of numbers: one a module that is trained."""

    @abstractmethod
    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add the numbers of one step."""

    @abstractmethod
    def finish(self) -> None:
        """End the series that `start` began."""


@dataclass(frozen=True)
class NoTracker(Tracker):
    """`tracker=none`: the progress bar and the record say it all."""

    def check(self) -> None:
        """Nothing can fail."""

    def start(self, name: str, config: dict[str, Any], folder: Path) -> None:
        """Nothing to begin."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Nothing to add."""

    def finish(self) -> None:
        """Nothing to end."""


@dataclass(frozen=True)
class WandbTracker(Tracker):
    """`tracker=wandb`.

    Attributes:
        project: W&B project.
        mode: `online`, or `offline`: written to the disk, to be sent later by `wandb sync`.
        entity: W&B user or team; None takes the account's default.
    """

    project: str = setting("xlt", is_name=True)
    mode: str = setting("online", one_of=("online", "offline"))
    entity: str | None = setting(None)

    def check(self) -> None:
        import wandb

        if self.mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            raise UserError(
                "tracker=wandb has no W&B account to write to: run `wandb login`, set WANDB_API_KEY, or use "
                "tracker.mode=offline and send the runs later with `wandb sync`."
            )

    def start(self, name: str, config: dict[str, Any], folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        wandb.init(
            project=self.project, entity=self.entity, mode=self.mode, name=name, config=config, dir=str(folder),
            reinit="finish_previous", settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def log(self, metrics: dict[str, float], step: int) -> None:
        import wandb

        wandb.log(metrics, step=step)

    def finish(self) -> None:
        import wandb

        wandb.finish()
