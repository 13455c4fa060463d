"""The card of a module: a README beside its files that says what it is, how it was made and how to load it, in the form that
the hub reads (a YAML header, then Markdown)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlt.backbones.checkpoints import CONFIG, NAME
from xlt.methods.fusion import SETUP

if TYPE_CHECKING:
    from xlt.steps.language_module import LanguageModuleStep
    from xlt.steps.task_module import TaskModuleStep

CARD = "README.md"
HERE = "FOLDER"  # stands in a card for where the module lies
_LOADING = {
    "adapters": """import adapters
model = adapters.AutoAdapterModel.from_pretrained("{base}")
model.load_adapter("{here}", use_safetensors=True)
model.set_active_adapters("{name}")""",
    "adapters, several": """import adapters
model = adapters.AutoAdapterModel.from_pretrained("{base}")
model.load_adapter_setup("{here}", use_safetensors=True, set_active=True)""",
    "peft": """import peft, transformers
model = transformers.{model_class}.from_pretrained("{base}")
model = peft.PeftModel.from_pretrained(model, "{here}")""",
    "transformers": """import transformers
model = transformers.AutoModel.from_pretrained("{here}")""",
}


def write_language_module_card(folder: Path, step: LanguageModuleStep, summary: Mapping[str, Any]) -> None:
    """The card of a language module that has just been trained."""
    text = ", ".join(f"{tokens.text.name} ({tokens.text.language.name})" for tokens in step.tokens)
    loop = step.training.loop
    how = {
        "Text": text,
        "Objective": f"{step.training.layout}, {step.training.length} tokens, {step.training.masking} masking "
        f"of {step.training.mask_probability:g}",
        "Steps": f"{summary['steps']:,} of {loop.batch_size}, learning rate {loop.learning_rate:g}, {loop.schedule}",
        "Validation loss": f"{summary['best']['loss']:.4f} nats a token, at step {summary['best_step']:,}",
        "Seed": str(step.seed),
    } if step.tokens else {"Made of": f"{len(step.members)} modules; to be trained with a task"}  # fmt: skip
    title = f"{step.method.name} language module for {step.language.name} ({step.language.key})"
    _write(folder, step, title, [step.language.key], "language-module", how, summary)


def write_task_module_card(folder: Path, step: TaskModuleStep, summary: Mapping[str, Any]) -> None:
    """The card of a task module that has just been trained."""
    loop, below = step.training, step.language_module
    sources = [labels.examples for labels in step.sources if labels.trains]
    languages = dict.fromkeys(examples.wording for examples in sources)
    how = {
        "Task": f"{step.task.name} in {', '.join(languages)}",
        "On top of": f"the language module {below.label}" if below else "the backbone alone",
        "Steps": f"{summary['steps']:,} of {loop.batch_size}, learning rate {loop.learning_rate:g}, {loop.schedule}",
        f"Validation {step.task.metric}": f"{summary['best'][step.task.metric]:.4f}, at step {summary['best_step']:,}",
        "Seed": str(step.seed),
        "Head": "head.safetensors",
    }
    _write(
        folder,
        step,
        f"{step.method.name} task module for {step.task.name}",
        list(dict.fromkeys(examples.language.key for examples in sources)),
        "task-module",
        how,
        summary,
    )


def with_scores(card: str, name: str, records: Iterable[Mapping[str, Any]]) -> str:
    """A card with the scores of records (`result.json`) that rest on the module, in its header and as a table.

    Args:
        name: of the module on the hub.
    """
    from huggingface_hub import EvalResult, ModelCard

    records = sorted(records, key=lambda record: (record["task"], record["lang"], record["seed"]))
    if not records:
        return card
    parsed = ModelCard(card)
    parsed.data.model_name = name
    parsed.data.eval_results = [
        EvalResult(record.get("task_type", "other"), record["task"], f"{record['task']} {record['lang']}", metric, value,
                   dataset_split="test", metric_args={"seed": record["seed"], "task_method": record["task_method"]})
        for record in records
        for metric, value in record["metrics"].items()
    ]  # fmt: skip
    lines = [
        "",
        "## Scores",
        "",
        "| task | language | task module | seed | metric | score | 95 % interval | test examples |",
        "|---" * 8 + "|",
    ]
    for record in records:
        metric = record["metric"]
        low, high = record["intervals"][metric]
        lines.append(
            f"| {record['task']} | {record['lang']} | {record['task_method']} | {record['seed']} | {metric} | "
            f"{record['metrics'][metric]:.3f} | {low:.3f} – {high:.3f} | {record['test_size']} |"
        )
    parsed.text = parsed.text.rstrip() + "\n" + "\n".join(lines) + "\n"
    return str(parsed)


def _write(
    folder: Path, step: Any, title: str, languages: list[str], role: str, how: Mapping[str, str], summary: Mapping[str, Any]
) -> None:  # fmt: skip
    from huggingface_hub import ModelCardData

    base = step.backbone.name
    library = step.method.library
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    trained = {"Trained parameters": f"{summary['trainable_parameters']:,}"} if "trainable_parameters" in summary else {}
    table = {"Base model": f"`{base}`", **trained, "Size": f"{size / 1e6:.2f} MB", **how}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of base models that are not on the hub
        header = ModelCardData(
            base_model=base, language=languages, library_name=library or "xlt", tags=["xlt", role, step.method.name]
        ).to_yaml()
    lines = ["---", header, "---", "", f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in table.items()]
    several = (folder / SETUP).is_file()
    if role == "language-module" and not several:
        whole = library == "transformers"  # a model of its own
        choices = f"model=hf model.path={HERE} method=none" if whole else f"{step.backbone.override} language.path={HERE}"
        lines += ["", "## Use it with xlt", "", "```bash", f"python run.py {choices} lang={languages[0]}", "```"]
    if library:
        model_class = json.loads((folder / CONFIG).read_text())["auto_mapping"]["base_model_class"] if library == "peft" else ""
        load = _LOADING[f"{library}, several" if several else library].format(
            base=base, here=HERE, name=NAME, model_class=model_class
        )
        lines += ["", f"## Use it with {library}", "", "```python", load, "```"]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")
