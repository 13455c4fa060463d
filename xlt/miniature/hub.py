"""The miniature world as a mirror: a folder of clones of hub repositories, in the field's formats (`paths.mirror`).

| repository | what it holds |
| --- | --- |
| miniature/<view> | a data set with a configuration a language, in JSON lines with declared features |
| miniature/text | unlabelled text, in GlotCC's columns |
| miniature/parallel | translations, a configuration a pair of languages |
| miniature/graph | `assertions.csv.gz`, the concept graph of every language as ConceptNet writes its own |
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import yaml

from xlt.miniature.views import ENTAILMENT_LABELS, ENTITY_TAGS, VIEWS, rows
from xlt.miniature.world import World

_LABEL = {"class_label": {"names": dict(enumerate(ENTAILMENT_LABELS))}}
_TAG = {"class_label": {"names": dict(enumerate(ENTITY_TAGS))}}
_TEXTS, _TEXT = {"list": "string"}, "string"
_FEATURES: dict[str, dict[str, Any]] = {
    "topic": {"text": _TEXT, "category": _TEXT},
    "sentiment": {"text": _TEXT, "label": _TEXT},
    "entities": {"tokens": _TEXTS, "ner_tags": {"list": _TAG}},
    "treebank": {
        "text": _TEXT, "tokens": _TEXTS, "lemmas": _TEXTS, "upos": _TEXTS, "feats": _TEXTS,
        "head": {"list": "int16"}, "deprel": _TEXTS,
    },
    "entailment": {"premise": _TEXT, "hypothesis": _TEXT, "label": _LABEL},
    "questions": {
        "title": _TEXT, "context": _TEXT, "question": _TEXT,
        "answers": {"struct": [{"name": "text", "list": "string"}, {"name": "answer_start", "list": "int32"}]},
    },
    "sentences": {"sentence": _TEXT, "topic": _TEXT},
}  # fmt: skip
_SPLITS = ("train", "validation", "test")
ORGANISATION = "miniature"


def write_mirror(
    world: World, folder: Path, languages: Iterable[str], sizes: Mapping[str, int], documents: int = 200, pairs: int = 200
) -> None:
    """Write the whole world, or some languages of it.

    Args:
        folder: of the mirror; a repository that is there is written over.
        sizes: examples of each split of a view.
        documents: of unlabelled text a language.
        pairs: translations a pair of languages.
    """
    languages = list(languages)
    root = folder / ORGANISATION
    for view in VIEWS:
        files = {
            (code, split): islice(rows(world, code, view, split), sizes[split]) for code in languages for split in _SPLITS
        }  # fmt: skip
        _write_repository(root / view, files, _FEATURES[view])
    texts = {(code, "train"): ({"content": text} for text in islice(world.documents(code), documents)) for code in languages}
    _write_repository(root / "text", texts)
    translations = {
        (f"{one}-{other}", "train"): islice(parallel(world, one, other, "train"), pairs)
        for one, other in combinations(languages, 2)
    }
    if translations:
        _write_repository(root / "parallel", translations)
    (root / "graph").mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(root / "graph" / "assertions.csv.gz", "wb", mtime=0) as file:
        for code in languages:
            file.writelines(f"{line}\n".encode() for line in assertions(world, code))


def parallel(world: World, one: str, other: str, split: str) -> Iterator[dict[str, Any]]:
    """Sentences of one language with their translations into another, without end."""
    sides = (rows(world, code, "sentences", split) for code in (one, other))
    for source, target in zip(*sides, strict=False):
        yield {"id": source["id"], "translation": {one: source["sentence"], other: target["sentence"]}}


def assertions(world: World, code: str) -> Iterator[str]:
    """The concept graph in a language's words, a line an edge in the format of ConceptNet 5.7: five fields with tabs."""
    words = world.lexicon(code).words
    parts = {"noun": "n", "verb": "v", "adjective": "a"}
    for relation, start, end in world.inventory.triples():
        nodes = [f"/c/{code}/{words[concept]}/{parts[concept.part]}" for concept in (start, end)]
        uri = f"/a/[/r/{relation}/,{nodes[0]}/,{nodes[1]}/]"
        detail = {"dataset": "/d/miniature", "license": "cc0", "sources": [], "weight": 1.0}
        yield "\t".join([uri, f"/r/{relation}", *nodes, json.dumps(detail)])


def _write_repository(
    folder: Path,
    files: Mapping[tuple[str, str], Iterable[dict[str, Any]]],
    features: Mapping[str, Any] | None = None,
) -> None:
    """A data set: JSON lines a configuration and split, and a README that declares them.

    Args:
        files: the rows of each configuration and split.
        features: the columns beside `id` with their types, as a README declares them; None leaves them to the reader.
    """
    configs: dict[str, list[dict[str, str]]] = {}
    for (config, split), content in files.items():
        path = folder / "data" / config / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(_numbered(row), ensure_ascii=False) + "\n" for row in content)
        configs.setdefault(config, []).append({"split": split, "path": f"data/{config}/{split}.jsonl"})
    header: dict[str, Any] = {"configs": [{"config_name": config, "data_files": data} for config, data in configs.items()]}
    if features is not None:
        declared = [
            {"name": name, **(kind if isinstance(kind, dict) and "class_label" not in kind else {"dtype": kind})}
            for name, kind in {"id": _TEXT, **features}.items()
        ]
        header["dataset_info"] = [{"config_name": config, "features": declared} for config in configs]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n", encoding="utf-8")


def _numbered(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its class labels as numbers, as the hub keeps them."""
    if "ner_tags" in row:
        return {**row, "ner_tags": [ENTITY_TAGS.index(tag) for tag in row["ner_tags"]]}
    if "premise" in row:
        return {**row, "label": ENTAILMENT_LABELS.index(row["label"])}
    return row
