"""The record of a run: what an evaluation leaves, its copy in the run's folder, and how it is shown on one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlt.errors import UserError
from xlt.store import Store

RECORD = "result.json"
PREDICTIONS = "predictions.jsonl"


class Record(Mapping[str, Any]):
    """What `result.json` holds, with where it lies. `Record.read` finds one that an earlier run has left.

    Attributes:
        path: the copy in the run's folder.
        predictions_path: the per-example predictions, in the store.
    """

    def __init__(self, content: Mapping[str, Any], path: Path, predictions_path: Path) -> None:
        self._content = content
        self.path = path
        self.predictions_path = predictions_path

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a run's folder, or in a file.

        Raises:
            UserError: there is none, or the store no longer has its predictions.
        """
        file = path / RECORD if path.is_dir() else path
        if not file.is_file():
            raise UserError(
                f"There is no record {file}. A run writes {RECORD} into its folder below outputs/runs or outputs/sweeps."
            )
        content = json.loads(file.read_text(encoding="utf-8"))
        try:
            names = [name for name, fingerprint in content["fingerprints"].items() if fingerprint == content["fingerprint"]]
            kind, _, label = names[0].partition("/")
            artifact = Store(Path(content["store"])).peek(kind, label, content["fingerprint"])
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"{file} is not a record of xlt: it lacks {error}.") from error
        if artifact is None:
            raise UserError(f"The store {content['store']} no longer has the predictions behind {file}: run it again.")
        return cls(content, file, artifact.folder / PREDICTIONS)

    def predictions(self) -> list[dict[str, Any]]:
        """id, gold, predicted and more of every test example."""
        with self.predictions_path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self):
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return f"Record({score_line(self)}; {self.path})"


def score_line(record: Mapping[str, Any]) -> str:
    """`sib200 mt seq_bn_inv: macro_f1 0.512 [0.443, 0.581], accuracy …, 204 test examples`; a translator's name stands in the
    place of the method's."""
    main = record["metric"]
    names = [main, *(name for name in record["metrics"] if name != main)]
    scores = []
    for name in names:
        low, high = record["intervals"][name]
        scores.append(f"{name} {record['metrics'][name]:.3f} [{low:.3f}, {high:.3f}]")
    method = record["method"] if record["model"] else record["translator"]
    return f"{record['task']} {record['lang']} {method or 'none'}: {', '.join(scores)}, {record['test_size']} test examples"
