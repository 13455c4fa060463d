"""Hydra's sweeps, and those of a paper's table: `+paper=gurgurov2025/table15`."""

from __future__ import annotations

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="xlt",
    node={"_target_": "hydra_plugins.xlt_sweeper.XltSweeper", "max_batch_size": None, "params": None},
    provider="xlt",
)


class XltSweeper(BasicSweeper):
    """Every combination of what is swept on the command line; with `+paper=`, the cells of that table instead."""

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """The jobs of the sweep, in batches.

        Raises:
            UserError: a table that cannot be run, or not so.
        """
        if "paper" not in self.config:
            return super().split_arguments(overrides, max_batch_size)
        from xlt.cli import normalised
        from xlt.paper import PaperTable, typed

        table = PaperTable.from_config(self.config.paper)
        table.check_runnable()
        jobs = {tuple(job.overrides()): None for job in table.given(typed(overrides)).jobs}  # cells can share a run
        return list(self.split_overrides_to_chunks([normalised(list(job)) for job in jobs], max_batch_size))
