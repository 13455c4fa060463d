"""Hydra's sweeps, planned as a whole: every job is checked before the first begins, each shared step is made once, and a
table of the scores ends them."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

ConfigStore.instance().store(
    group="hydra/launcher", name="xlt", node={"_target_": "hydra_plugins.xlt_launcher.XltLauncher"}, provider="xlt"
)


class XltLauncher(BasicLauncher):
    """Composes all jobs of a sweep, prints their common plan, runs them one after the other in this process, and prints
    what came out."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra composes each job when it checks the batch and again when it runs it: here it is composed once."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        loader = hydra_context.config_loader
        compose, composed = loader.load_sweep_config, {}

        def compose_once(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
            key = tuple(sweep_overrides)
            if key not in composed:
                composed[key] = compose(master_config, list(sweep_overrides))
            return composed[key]

        loader.load_sweep_config = compose_once

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Raises UserError for a job that cannot work before any job runs."""
        from xlt.cli import plan_sweep, show_sweep

        configs = []
        for overrides in job_overrides:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            configs.append(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
        if plan_sweep(configs):
            return [JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED) for overrides in job_overrides]
        returns = super().launch(job_overrides, initial_job_idx)
        show_sweep([(list(job.overrides or []), job.return_value) for job in returns])
        return returns
