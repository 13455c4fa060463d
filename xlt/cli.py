"""The command line: Hydra composes the configuration, xlt checks it, runs it, and explains what went wrong."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlt.errors import UserError, explain_system_error, suggest

if TYPE_CHECKING:
    from xlt.record import Record

CONFIG_MODULE = "xlt.conf"
_DEFECT, _USER_MISTAKE, _INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 after success, 2 after a user's mistake, 130 after Ctrl-C, 1 after a defect."""
    sys.exit(exit_status(list(sys.argv[1:] if arguments is None else arguments)))


def exit_status(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    prepare_hydra()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back to us instead of ending the process in Hydra's words
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    arguments = normalised(arguments)
    failures: list[Exception] = []

    def job(config: DictConfig) -> list[Record] | None:
        try:
            return _run_and_show(config)
        except Exception as error:  # kept from Hydra, which would report it in its own way and end the sweep
            failures.append(error)
            _show_failure(error, arguments)
            return None

    saved = sys.argv
    sys.argv = [saved[0], *arguments]
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name="config")(job)()
    except KeyboardInterrupt as stop:
        print(f"\n{stop or 'Stopped. Finished steps are kept; the same command goes on from there.'}", file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        failures.append(error)
        _show_failure(error, arguments)
    finally:
        sys.argv = saved
        GlobalHydra.instance().clear()
    if any(explain(error, arguments) is None for error in failures):
        return _DEFECT
    return _USER_MISTAKE if failures else 0


def _show_failure(error: Exception, arguments: Sequence[str]) -> None:
    message = explain(error, arguments)
    if message is None or "debug=true" in arguments:
        traceback.print_exception(error)
    if message is not None:
        print(f"error: {message}", file=sys.stderr)


def _run_and_show(config: DictConfig) -> list[Record] | None:
    from xlt.experiment import Experiment, open_store
    from xlt.runner import closing_lines, run_or_plan

    folder = Path(HydraConfig.get().runtime.output_dir)
    overrides = list(HydraConfig.get().overrides.task)
    try:
        experiment = Experiment.from_config(config)
        records = run_or_plan(experiment, folder, overrides)
    finally:
        _remove_if_empty(folder)
    if records is not None:
        print(closing_lines(records, experiment.offline(), open_store(experiment.settings), overrides))
    return records


def plan_sweep(configs: list[DictConfig]) -> bool:
    """Check all jobs of a sweep and show what they share; True if that is all that was asked for (`plan=true`)."""
    from xlt.experiment import choose_device, open_store
    from xlt.plan import Plan, experiments_of
    from xlt.steps.audit import flops_per_second

    experiments = experiments_of(configs)
    settings = experiments[0].settings
    plan = Plan(experiments, open_store(settings))
    speed = flops_per_second(choose_device(settings))
    print(plan.show(speed) if settings.plan else plan.totals(speed))
    return settings.plan


def show_sweep(jobs: list[tuple[list[str], list[Record] | None]]) -> None:
    """Print the scores of a sweep, each with the overrides that it was run with; failed jobs have no records."""
    from xlt.report.sweep import jobs_of, table

    done = [job for overrides, records in jobs for job in jobs_of(overrides, records or [])]
    if len(done) > 1:
        print(f"\n{table(done)}")
    failed = sum(records is None for _, records in jobs)
    if failed:
        print(f"{failed} of {len(jobs)} runs failed", file=sys.stderr)


def explain(error: BaseException, arguments: Sequence[str]) -> str | None:
    """One paragraph for a mistake that the user can mend; None for a defect of xlt."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, OverrideParseException) or _is_unreadable_choice(error):
        written = getattr(error, "override", " ".join(arguments))
        return (
            f"{written!r} cannot be read: settings are written key=value, without spaces around the sign; a value with "
            "commas, brackets or spaces stands in quotes, for example 'data.path=[a.txt,b.txt]'."
        )
    if isinstance(error, MissingConfigException):
        return _explain_choice(error)
    if isinstance(error, OSError):
        return explain_system_error(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _explain_key(error, arguments)
    return None


def _is_unreadable_choice(error: BaseException) -> bool:
    """Hydra raises a plain ValueError for a choice that is no word, such as `=3` or `model=7`."""
    return isinstance(error, ValueError) and "Config group override" in str(error)


def _explain_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    options = error.options or []
    if group.startswith("paper/"):  # tables lie in a folder for each work
        from xlt.report.paper import names

        group, choice, options = "paper", f"{group.removeprefix('paper/')}/{choice}", names()
    return f"{group}={choice} is no choice. {suggest(choice, options, f'choices of {group}')}"


def _explain_key(error: Exception, arguments: Sequence[str]) -> str:
    text = str(error)
    unknown = re.search(r"Could not (?:override|append to|delete from) '([^']+)'", text)
    if unknown is None:
        return " ".join(text.split())
    key = unknown[1]
    section = key.rpartition(".")[0]
    keys = _known_keys([argument for argument in arguments if not argument.lstrip("+~").startswith(key)])
    beside = [name for name in keys if name.rpartition(".")[0] == section]
    if not beside:  # the section itself is misspelt
        beside = [name for name in keys if "." not in name]
    return f"{key} is not a setting. {suggest(key, beside, f'settings of {section}' if section else 'settings')}"


def _known_keys(arguments: Sequence[str]) -> list[str]:
    """All keys of the configuration that the other arguments compose; of the default one if they do not."""
    choices = [argument for argument in arguments if "=" in argument and "," not in argument and not argument.startswith("-")]
    for overrides in (choices, []):
        try:
            return _leaves(compose(overrides))
        except Exception:
            continue
    return []


def compose(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """The configuration that some overrides make of the package's."""
    prepare_hydra()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return hydra.compose("config", overrides=normalised(overrides), return_hydra_config=with_hydra)


def normalised(arguments: Sequence[str]) -> list[str]:
    """Arguments as Hydra wants them: `-m` first, and by their full names the choices that are those of another group: those of
    `task_method` are methods, those of `source_task` and `task.of` (the task that another one wraps) are tasks."""
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    others = [argument for argument in arguments if argument not in flags]
    aliases = {"task_method": "method", "source_task": "task", "task.of": "task"}
    return flags + [
        f"{aliases[key]}@{argument}" if (key := argument.partition("=")[0]) in aliases else argument for argument in others
    ]


def prepare_hydra() -> None:
    """Make known `${xlt_folder:…}`, which turns overrides into a folder's name, and our launcher and sweeper, which Hydra by
    itself finds in ordinary installations alone, not in editable ones."""
    plugins = Plugins.instance()  # its search runs Hydra's own plugins anew, and ours have to derive from these
    from hydra_plugins.xlt_launcher import XltLauncher
    from hydra_plugins.xlt_sweeper import XltSweeper

    OmegaConf.register_new_resolver("xlt_folder", folder_name, replace=True)
    plugins.register(XltLauncher)
    plugins.register(XltSweeper)


def folder_name(overrides: str) -> str:
    """A name for the run's folder: the overrides, without characters that folders do not like; long ones end in a hash."""
    plain = re.sub(r"[^A-Za-z0-9=,._+-]+", "-", str(overrides)).strip(".-") or "defaults"
    if plain == overrides and len(plain) <= 150:
        return plain
    return f"{plain[:120]}-{hashlib.sha256(str(overrides).encode()).hexdigest()[:8]}"


def _leaves(config: DictConfig, prefix: str = "") -> list[str]:
    names = []
    for key in config:
        names.append(f"{prefix}{key}")
        node = None if OmegaConf.is_missing(config, key) else config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            names += _leaves(node, f"{prefix}{key}.")
    return names


def _remove_if_empty(folder: Path) -> None:
    for path in (folder, *list(folder.parents)[:2]):
        try:
            path.rmdir()
        except OSError:
            return
