"""Records as runs leave them, without running anything: for tests of what reads them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from xlt.analysis.classification import accuracy, confusion_counts, macro_f1
from xlt.cli import compose, normalised
from xlt.paper import Job
from xlt.record import PREDICTIONS, RECORD
from xlt.store import MANIFEST, fingerprint, hash_file


class RecordMaker:
    """Writes evaluations into a store.

    Args:
        store: the folder.
        labels: of the task; the first ones of those that it has.
    """

    def __init__(self, store: Path, labels: Sequence[str] = ("travel", "politics", "sports")) -> None:
        self.store = store
        self.labels = labels
        self._configs: dict[tuple[str, ...], dict[str, Any]] = {}

    def write(
        self, job: Job, share: float, examples: int = 60, revision: str = "aaaa", metrics: dict[str, float] | None = None,
        **changes: Any,
    ) -> Path:  # fmt: skip
        """The record of a job of a table's sweep that answered a share of the examples right.

        Args:
            revision: of the test examples.
            metrics: instead of those that follow from the answers.
            changes: of the configuration, by key with dots for __.

        Returns:
            the artifact's folder.
        """
        config = copy.deepcopy(self._config(job))
        language, seed = str(job.choices["lang"]), int(job.choices["seed"])
        config |= {"lang": language, "seed": seed}
        for key, value in changes.items():
            *sections, last = key.split("__")
            inner = config
            for section in sections:
                inner = inner[section]
            inner[last] = value
        rows = self._rows(share, examples, f"{language}-{seed}-{job.column}")
        adapted = config["method"]["name"] != "none"
        learnt = "task_method" in config and config["task"]["name"] != "pppl"
        payload = {
            "kind": "evaluation", "version": 1, "inputs": {},
            "fields": {"lang": language, "seed": seed, "column": job.column, "block": job.block, "changes": str(changes)},
        }  # fmt: skip
        digest = fingerprint(payload)
        method = config["method"]["name"]
        below = f"{method}-{config['data']['name']}-{language}" if adapted else "none"
        model = config["model"]["name"]
        label = f"{model}-{below}-seq_bn-{config['task']['name']}-{language}-seed{seed}"
        folder = self.store / "evaluation" / f"{label}-{digest[:16]}"
        folder.mkdir(parents=True)
        found = metrics or self._scores(rows)
        main = config["task"]["metric"]
        record = {
            "model": model, "method": method if adapted else None, "task_method": "seq_bn" if learnt else None,
            "data": config["data"]["name"] if adapted else None, "task": config["task"]["name"],
            "transfer": "in_language" if learnt else None, "source": None, "source_task": None, "shots": None, "seed": seed,
            "language_seed": 0 if adapted else None, "store": str(self.store), "config": config, "lang": language,
            "metric": main, "metrics": found, "intervals": {name: [value, value] for name, value in found.items()},
            "test_size": examples, "fingerprint": digest, "fingerprints": {f"evaluation/{label}": digest}, "payload": payload,
            "revisions": {f"examples/{language}": {"id": "Davlan/sib200", "config": language, "content": revision}},
            "training": {},
        }  # fmt: skip
        (folder / RECORD).write_text(json.dumps(record, indent=1))
        (folder / PREDICTIONS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)} for name in (RECORD, PREDICTIONS)
        }
        manifest = {"kind": "evaluation", "label": label, "fingerprint": digest, "payload": payload, "files": files,
                    "provenance": {}, "summary": {"metric": main, "metrics": found}}  # fmt: skip
        (folder / MANIFEST).write_text(json.dumps(manifest))
        return folder

    def _config(self, job: Job) -> dict[str, Any]:
        shared = Job(job.block, job.column, {**job.choices, "lang": "mt", "seed": 0})
        key = tuple(shared.overrides())
        if key not in self._configs:
            self._configs[key] = OmegaConf.to_container(compose(normalised(list(key))), resolve=True)
        return self._configs[key]

    def _rows(self, share: float, examples: int, draw: str) -> list[dict[str, Any]]:
        # Rows come in groups of one for each label, right or wrong together, so that F1 is the share, too.
        random, groups = np.random.default_rng(list(draw.encode())), examples // len(self.labels)
        right = np.zeros(groups, dtype=bool)
        right[random.permutation(groups)[: round(share * groups)]] = True
        right = right.repeat(len(self.labels))
        rows = []
        for number, good in enumerate(right):
            gold = self.labels[number % len(self.labels)]
            wrong = self.labels[(number + 1) % len(self.labels)]
            predicted = gold if good else wrong
            rows.append({"id": str(number), "gold": gold, "predicted": predicted})
        return rows

    def _scores(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        sides = [[row[side] for row in rows] for side in ("gold", "predicted")]
        matrix = confusion_counts(*sides, self.labels).sum(axis=0).reshape(1, len(self.labels), len(self.labels))
        return {"macro_f1": float(macro_f1(matrix)[0]), "accuracy": float(accuracy(matrix)[0])}
