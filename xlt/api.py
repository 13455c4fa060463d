"""The same from Python: `xlt.run` returns the record, `xlt.load` makes what was evaluated ready to predict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from xlt import cli
from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.experiment import Experiment, choose_device, open_store
from xlt.record import Record
from xlt.runner import Session, run_experiment, runtime_of
from xlt.steps.evaluation import EvaluationStep
from xlt.store import Artifact
from xlt.tasks.base import Example


def run(*overrides: str, **settings: Any) -> Record | list[Record]:
    """Run one experiment, as `python run.py` does.

    Args:
        overrides: as on the command line: `"method=seq_bn_inv"`, `"train.task.epochs=5"`.
        settings: the same as keywords; nested ones as mappings: `method="none", train={"task": {"epochs": 5}}` changes
            fields of the choices.

    Returns:
        The record; `record.path` is its file. With a list of target languages (`lang=["mt", "yo"]`), a record for each.

    Raises:
        UserError: anything that the command line would refuse with exit status 2.
    """
    written = [*overrides, *_as_overrides(settings)]
    experiment, folder = _experiment(written)
    records = run_experiment(experiment, open_store(experiment.settings), folder, written)
    return records[0] if len(records) == 1 else records


def load(record: Record | Mapping[str, Any] | str | Path, device: str = "auto") -> Predictor:
    """What a record evaluated, ready to predict.

    Args:
        record: what `run` returned, the content of a `result.json`, or its path.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: the store lacks an artifact, or what it is made from is no longer what it was.
    """
    if isinstance(record, (str, Path)):
        record = Record.read(Path(record))
    try:
        config = OmegaConf.create({**record["config"], "device": device, "reuse": "only_cached", "plan": False})
        config.paths.store = record["store"]
        expected = record["fingerprint"]
    except (KeyError, TypeError) as error:
        raise UserError(f"This is not a record of xlt: it has no {error}.") from error
    experiment = Experiment.from_config(config)
    keys = [language.key for language in experiment.targets]
    step = experiment.evaluations[keys.index(record["lang"])]
    if step.fingerprint != expected:
        from xlt.store import differences

        changed = ", ".join(differences(record["payload"], step.payload)[:3])
        raise UserError(f"What this record was made from has changed since ({changed}): run the experiment again.")
    runtime = runtime_of(experiment, choose_device(experiment.settings), [])
    session = Session(open_store(experiment.settings), "only_cached", runtime)
    artifacts = {role: session.realise(inner) for role, inner in step.inputs().items()}
    return Predictor(step, artifacts, runtime.device, step.preparation(session.realise, runtime.device))


class Predictor:
    """What was evaluated, answering anything; what was scored on translations translates first."""

    def __init__(
        self,
        step: EvaluationStep,
        artifacts: Mapping[str, Artifact],
        device: torch.device,
        prepare: Callable[[Sequence[Example]], list[Example]],
    ) -> None:
        self._step, self._artifacts, self._device, self._prepare = step, artifacts, device, prepare
        self._answer = step.open(artifacts, device)

    def predict(self, inputs: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A prediction for each input, in order: `label`, and what the task adds (`probabilities` by label).

        Args:
            inputs: texts, or mappings with the fields of the task's examples.

        Raises:
            UserError: an input lacks a field.
        """
        examples = [{"text": item} if isinstance(item, str) else dict(item) for item in inputs]
        task = self._step.task
        for number, example in enumerate(examples):
            missing = [name for name in task.inputs if name not in example]
            if missing:
                raise UserError(
                    f"Input {number} has no {' and no '.join(missing)}: task={task.name} reads mappings with "
                    f"{', '.join(task.inputs)}."
                )
        return self._answer(self._prepare(examples))

    def generate(self, prompts: Iterable[str], **options: Any) -> list[str]:
        """How a decoder with the language module, and without the task module, goes on after each prompt.

        Args:
            prompts: beginnings of texts; all in one batch. What an encoder-decoder reads is the whole text.
            options: of transformers' `generate` (`max_new_tokens`, `do_sample`, …).

        Raises:
            UserError: the backbone is an encoder.
        """
        backbone = self._language_model
        rows = [backbone.tokenizer(prompt)["input_ids"] for prompt in prompts]
        end = backbone.tokenizer.eos_token_id
        if backbone.anatomy.objective == "causal":  # what a tokenizer puts at the end of a text would end it here
            rows = [row[:-1] if len(row) > 1 and row[-1] in (end, backbone.tokenizer.sep_token_id) else row for row in rows]
        if not rows:
            return []
        # A decoder goes on behind the last token; an encoder counts its positions from the first.
        side = "left" if backbone.anatomy.objective == "causal" else "right"
        batch = backbone.tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt").to(self._device)
        with torch.no_grad():
            written = backbone.model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                pad_token_id=backbone.tokenizer.pad_token_id, **options,
            )  # fmt: skip
        begins = batch["input_ids"].shape[1] if backbone.anatomy.objective == "causal" else 0
        return backbone.tokenizer.batch_decode(written[:, begins:], skip_special_tokens=True)

    @cached_property
    def _language_model(self) -> Backbone:
        backbone, _ = self._step.open_below(self._artifacts, language_head=True)
        if backbone.anatomy.objective == "masked":
            raise UserError(
                f"{self._step.backbone.label} is an encoder: it fills gaps and does not write. generate() needs a decoder, for "
                "example model=miniature_llama."
            )
        backbone.model.to(self._device).eval()
        return backbone


def _experiment(overrides: Sequence[str]) -> tuple[Experiment, Path]:
    try:
        config = cli.compose(overrides, with_hydra=True)
        folder = Path(config.paths.outputs) / "runs" / cli.folder_name(config.hydra.job.override_dirname)
    except UserError:
        raise
    except Exception as error:
        message = cli.explain(error, overrides)
        if message is None:
            raise
        raise UserError(message) from error
    del config._content["hydra"]
    return Experiment.from_config(config), folder


def _as_overrides(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    result = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            result += _as_overrides(value, f"{prefix}{key}.")
        else:
            result.append(f"{prefix}{key}={_spelled(value)}")
    return result


def _spelled(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_spelled(element) for element in value)}]"
    if isinstance(value, (str, Path)):
        escaped = str(value).replace("'", "\\'")
        return f"'{escaped}'" if any(not (c.isalnum() or c in "._-/+") for c in escaped) else escaped
    return str(value)
