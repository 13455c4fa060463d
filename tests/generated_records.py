"""Stores of generated runs, as large as wanted, whose artifacts are sound: for the page of results.

python tests/generated_records.py FOLDER 10000
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from xlt.cli import compose
from xlt.store import MANIFEST, fingerprint

LABELS = ("politics", "sports", "travel")
EXAMPLES = 200
_MACHINE = {
    "created": "2026-01-02T03:04:05+00:00", "device": "a processor", "device_type": "cpu", "threads": 1, "python": "3.11.7",
    "packages": {"xlt": "0.1.0", "torch": "2.11.0"}, "git": {"commit": "0123456789abcdef0123", "dirty": False},
}  # fmt: skip
_COSTS = {"seconds": 61.5, "peak_memory_bytes": 10**9, "energy_joules": None}
_FIGURES = {"trainable_parameters": 101_447, "steps": 1000, "seconds_per_step": 0.06, "best_step": 900, "tokens": 512_000}


class Generated:
    """Writes runs of SIB-200, each with the modules that it needs, into `<outputs>/store` and `<outputs>/sweeps`.

    Args:
        points: of each learning curve.
    """

    def __init__(self, outputs: Path, points: int = 50) -> None:
        self.outputs, self.points = outputs, points
        self.method_fields: dict[str, Any] = {}  # of the methods of further runs, beside their names
        self._draw = random.Random(0)

    def run(self, lang: str = "mt", method: str = "none", model: str = "mbert", seed: int = 0, skill: float = 0.5,
            changes: Mapping[str, Any] = MappingProxyType({})) -> Path:  # fmt: skip
        """One run; returns the folder of its evaluation.

        Args:
            skill: the share of right answers.
            changes: fields of the record in the place of its own.
        """
        examples = _step("examples", {"task": "sib200", "lang": lang})
        backbone = _step("backbone", {"model": model})
        task_inputs, module = {"examples": examples, "backbone": backbone}, None
        if method != "none":
            text = _step("text", {"data": "glotcc", "lang": lang})
            tokens = _step("tokens", {"length": 512}, tokenizer=backbone, text=text)
            module = _step("language_module", {"method": method, **self.method_fields}, backbone=backbone, tokens=tokens)
            task_inputs["language_module"] = module
            size = 10_000 * (1 + sum(map(ord, lang + method)) % 997)
            self._write("text", f"glotcc-{lang}", text, {}, summary=_card(size))
            self._write_module("language_module", f"{model}-{method}-glotcc-{lang}", module, {"loss": 2.5, "perplexity": 12.2})
        below = f"{model}-{method}-glotcc-{lang}" if module else f"{model}-none"
        task_module = _step("task_module", {"task_method": "seq_bn", "seed": seed}, **task_inputs)
        self._write_module("task_module", f"{below}-seq_bn-sib200-{lang}-seed{seed}", task_module, {"macro_f1": 0.6})
        inputs = {"test_examples": examples, "backbone": backbone, "task_module": task_module}
        evaluation = _step("evaluation", {"lang": lang}, **inputs, **({"language_module": module} if module else {}))
        label = f"{below}-seq_bn-sib200-{lang}-seed{seed}"
        names = {"examples": f"sib200-{lang}", "backbone": model, "text": f"glotcc-{lang}", "tokens": f"{model}-glotcc-{lang}",
                 "language_module": below, "task_module": label, "evaluation": label}  # fmt: skip
        right = [self._draw.random() < skill for _ in range(EXAMPLES)]
        rows = [
            {"id": str(n), "gold": LABELS[n % 3], "predicted": LABELS[n % 3 if good else (n + 1) % 3]}
            for n, good in enumerate(right)
        ]
        overrides = [f"model={model}", f"lang={lang}", f"method={method}", f"seed={seed}"]
        record = {
            "model": model, "method": method if module else None, "task_method": "seq_bn", "data": "glotcc" if module else None,
            "task": "sib200", "transfer": "in_language", "source": None, "source_task": None, "shots": None, "seed": seed,
            "language_seed": 0, "store": str(self.outputs / "store"), "lang": lang,
            "config": {**_config(method, model), "lang": lang, "seed": seed},
            "overrides": overrides, "metric": "macro_f1", "metrics": {"macro_f1": sum(right) / EXAMPLES, "accuracy": 0.5},
            "intervals": {"macro_f1": [0.3, 0.7], "accuracy": [0.4, 0.6]}, "test_size": EXAMPLES,
            "fingerprint": fingerprint(evaluation),
            "fingerprints": {f"{kind}/{names[kind]}": digest for kind, digest in _ancestors(evaluation).items()},
            "revisions": {f"backbone/{model}": {"id": model, "revision": "abc"}}, "payload": evaluation, **_MACHINE,
            "training": {role: self._training() for role in [*(["language_module"] if module else []), "task_module"]},
            **changes,
        }  # fmt: skip
        files = {
            "predictions.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "result.json": json.dumps(record, indent=1),
        }
        folder = self._write("evaluation", label, evaluation, files, {"metric": "macro_f1", "metrics": record["metrics"]})
        copy = self.outputs / "sweeps" / f"lang={lang},method={method},model={model},seed={seed}" / "result.json"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(files["result.json"])
        return folder

    def _training(self) -> dict[str, Any]:
        return {**_FIGURES, **_COSTS, "seconds": self._draw.random() * 100, "best": {"macro_f1": 0.6}, "device": "a processor"}

    def _write_module(self, kind: str, label: str, payload: Mapping[str, Any], best: Mapping[str, float]) -> None:
        steps = [20 * (place + 1) for place in range(self.points)]
        result = {
            **_FIGURES, "best": best, "evaluations": [{"step": step, **best} for step in steps],
            "curve": [[step, 1 / step + self._draw.random()] for step in steps],
        }  # fmt: skip
        self._write(kind, label, payload, {"training.json": json.dumps(result)}, summary={**_FIGURES, "best": best})

    def _write(
        self,
        kind: str,
        label: str,
        payload: Mapping[str, Any],
        contents: Mapping[str, str],
        summary: Mapping[str, Any] | None = None,
    ) -> Path:
        digest = fingerprint(payload)
        folder = self.outputs / "store" / kind / f"{label}-{digest[:16]}"
        if not folder.exists():
            folder.mkdir(parents=True)
            for name, content in contents.items():
                (folder / name).write_text(content, encoding="utf-8")
            sums = {
                name: {"bytes": len(text.encode()), "sha256": sha256(text.encode()).hexdigest()}
                for name, text in contents.items()
            }
            manifest = {"kind": kind, "label": label, "fingerprint": digest, "payload": payload, "files": sums,
                        "summary": summary or {}, "provenance": {**_MACHINE, **_COSTS}}  # fmt: skip
            (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        return folder


@cache
def _config(method: str, model: str) -> dict[str, Any]:
    return OmegaConf.to_container(compose([f"model={model}", f"method={method}", "lang=mt"]), resolve=True)


def _step(kind: str, fields: Mapping[str, Any], **inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "version": 1, "fields": dict(fields), "inputs": inputs}


def _ancestors(payload: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprint of a step of each kind."""
    found = {payload["kind"]: fingerprint(payload)}
    for inner in payload["inputs"].values():
        found |= _ancestors(inner)
    return found


def _card(size: int) -> dict[str, Any]:
    return {
        "documents_read": 1000, "empty": 3, "guard": {"guarded": 0}, "train": {"documents": 900, "bytes": size},
        "validation": {"documents": 97, "bytes": size // 10}, "scripts": {"LATIN": 0.999, "CYRILLIC": 0.001},
        "samples": ["Il-kelb jiġri fil-ġnien. " * 8] * 10,
    }  # fmt: skip


def generate(outputs: Path, count: int, languages: Sequence[str]) -> None:
    """Runs of several models, methods, languages and three seeds, until there are so many."""
    generated = Generated(outputs)
    methods = (
        "none",
        "seq_bn",
        "seq_bn_inv",
        "lora",
        "ia3",
        "double_seq_bn",
        "par_bn",
        "prefix_tuning",
        "full",
        "bitfit",
        "lt_sft",
    )
    places = [(lang, model, method, seed) for lang in languages for model in ("mbert", "xlmr", "miniature") for method in methods
              for seed in range(3)]  # fmt: skip
    for lang, model, method, seed in places[:count]:
        generated.run(lang, method, model, seed, 0.4 + 0.02 * methods.index(method))


if __name__ == "__main__":
    from xlt.languages import load_languages

    generate(Path(sys.argv[1]), int(sys.argv[2]), sorted(load_languages().languages)[:110])
