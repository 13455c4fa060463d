"""Where hub ids are served from: a mirror of local clones, the cache, or the network; and in which revision.

A mirror (`paths.mirror` or XLT_MIRROR: `<mirror>/<org>/<name>`) and a local folder are identified by the hash of their
content, the hub by a commit: the one pinned in the configuration, else the one in the cache, else the one that this
store resolved first (`revisions.json`), else the newest. Nothing here loads remote code.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from xlt.errors import UserError, suggest
from xlt.store import hash_file, write_durably

_HUB_ID = re.compile(r"[A-Za-z0-9][\w-]*(\.[\w-]+)*/[A-Za-z0-9][\w-]*(\.[\w-]+)*")
_EXPORT = "refs/convert/parquet"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "tekken.json")
_TOKENIZER_PATTERNS = (
    "config.json", "tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_MODEL_FILES = (
    *_WEIGHTS, *_TOKENIZER_PATTERNS, "model.safetensors.index.json", "pytorch_model.bin.index.json", "generation_config.json",
)  # fmt: skip
_MODULE_FILES = (
    "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin", "adapter_model.safetensors", "adapter_model.bin",
    "head_config.json", "model_head.safetensors", "pytorch_model_head.bin", "backbone.json",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What a name stands for: a local folder, or a hub repository in one revision.

    Attributes:
        name: as the user wrote it.
        folder: where it lies; None for the hub itself.
        revision: the hub's commit; None for local folders, and for commits that only the network knows.
        export: whether it is the hub's parquet export, which holds configurations as folders.
    """

    name: str
    folder: Path | None
    revision: str | None
    export: bool = False

    @property
    def label(self) -> str:
        """The last part of the name, for records and folder names."""
        last = self.folder.resolve().name if self.folder else self.name.rpartition("/")[2]
        return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("._-")[:64] or "module"


class Hub:
    """Access to models and data sets by id.

    Args:
        mirror: folder of local clones, or None.
        memory: folder in which resolved commits and file hashes are remembered.
        online: whether the network may be asked (planning does not).
    """

    def __init__(self, mirror: Path | None, memory: Path, online: bool = True) -> None:
        if mirror is not None and not mirror.is_dir():
            raise UserError(
                f"paths.mirror={mirror}: there is no such folder. A mirror holds local clones as <mirror>/<org>/<name>; make "
                "one with `hf download <id> --local-dir <mirror>/<id>` (data sets: --repo-type dataset)."
            )
        self.mirror = mirror
        self.online = online
        self._revisions = _Memory(memory / "revisions.json")
        self._hashes = _Memory(memory / "hashes.json")

    def without_network(self) -> Hub:
        """The same, asking for nothing that is not on this machine."""
        offline = copy.copy(self)
        offline.online = False
        return offline

    def source(self, name: str, kind: str, revision: str | None = None, export: bool = False) -> Source:
        """What `name` stands for.

        Args:
            kind: `model` or `dataset`.
            revision: a branch, tag or commit of the hub; ignored for local folders.
            export: take the hub's parquet export of a data set, which is a branch of its own.

        Raises:
            UserError: neither an existing folder nor a hub id; or the network is needed and not there.
        """
        is_id = _HUB_ID.fullmatch(name) is not None
        if is_id and self.mirror is not None and (self.mirror / name).is_dir():
            return Source(name, self.mirror / name, None)
        if Path(name).expanduser().is_dir():
            return Source(name, Path(name).expanduser(), None)
        if not is_id:
            raise UserError(f"{name!r} is neither a folder here nor a {kind} id of the hub, which reads «organisation/name».")
        revision = _EXPORT if export and revision is None else revision
        return Source(name, None, self._commit(name, kind, revision), export)

    def content(self, files: Iterable[Path], root: Path) -> str:
        """SHA-256 over the names, relative to `root`, and the contents of files."""
        digest = hashlib.sha256()
        for file in sorted(files):
            status = file.stat()
            key = f"{file.absolute()} {status.st_size} {status.st_mtime_ns}"
            value = self._hashes.get(key) or self._hashes.put(key, hash_file(file))
            digest.update(f"{file.relative_to(root).as_posix()} {value}\n".encode())
        return digest.hexdigest()

    # ---- models

    def model_identity(self, source: Source) -> dict[str, str | None]:
        """What of a model enters fingerprints: the content of its files, or hub id and commit."""
        if source.folder is None:
            return {"id": source.name, "revision": source.revision}
        return {"content": self.content(model_files(source.folder), source.folder)}

    def model_config(self, source: Source) -> dict[str, Any] | None:
        """The model's config.json; None where it lies on the hub, is not cached and the network may not be asked."""
        if source.folder is not None:
            path = source.folder / "config.json"
            if not path.is_file():
                raise UserError(
                    f"The model {source.name} holds no config.json: it is not a model folder as `save_pretrained` writes it."
                )
        else:
            found = self._fetch(source, "model", ["config.json"])
            if found is None:
                return None
            path = found / "config.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}); fetch the model again.") from error

    def check_tokenizer(self, source: Source) -> None:
        """Refuse a folder without tokenizer: transformers would make one up that knows no word."""
        if source.folder is not None and not any(file for pattern in _TOKENIZER_FILES for file in source.folder.glob(pattern)):
            raise UserError(
                f"The model {source.name} holds no tokenizer ({', '.join(_TOKENIZER_FILES)}): save it there with "
                "`tokenizer.save_pretrained`, or fetch the model again."
            )

    def weight_names(self, source: Source) -> set[str] | None:
        """The names of a model's tensors, read from headers alone; None for a model that is not on this machine and for
        weights that are not safetensors.

        Raises:
            UserError: a folder without weights.
        """
        if source.folder is None:
            return None
        if not any(file for pattern in _WEIGHTS for file in source.folder.glob(pattern)):
            raise UserError(
                f"The model {source.name} holds no weights (model.safetensors or pytorch_model.bin). If the folder is a "
                "clone, its large files may be missing: `git lfs pull`, or `hf download` the model again."
            )
        names: set[str] = set()
        for file in source.folder.glob("*.safetensors"):
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                try:
                    names |= json.loads(opened.read(min(length, 100 << 20))).keys() - {"__metadata__"}
                except ValueError as error:
                    raise UserError(f"{file} is not a safetensors file, or a damaged one: fetch it again.") from error
        return names or None

    def model_folder(self, source: Source) -> Path:
        """The folder with the model's files, downloaded if need be."""
        return source.folder or self._fetch(source, "model", list(_MODEL_FILES))

    def tokenizer_folder(self, source: Source) -> Path | None:
        """A folder with the tokenizer's files, downloaded if need be; None where the network may not be asked for them."""
        return source.folder or self._fetch(source, "model", list(_TOKENIZER_PATTERNS))

    # ---- modules

    def module_identity(self, source: Source) -> dict[str, str | None]:
        """What of a ready-made module enters fingerprints: the content of its files, or hub id and commit."""
        if source.folder is None:
            return {"id": source.name, "revision": source.revision}
        files = [file for pattern in _MODULE_FILES for file in source.folder.glob(pattern) if file.is_file()]
        return {"content": self.content(files, source.folder)}

    def module_folder(self, source: Source) -> Path:
        """The folder with a module's files, downloaded if need be.

        Raises:
            UserError: it lies on the hub, is not cached, and the network may not be asked.
        """
        folder = source.folder or self._fetch(source, "model", list(_MODULE_FILES))
        if folder is None:
            raise UserError(f"The module {source.name} is on the hub and not in the cache: run this once with network.")
        return folder

    # ---- data sets

    def dataset_identity(self, source: Source, config: str | None) -> dict[str, str | None]:
        """What of one configuration of a data set enters fingerprints."""
        if source.folder is None:
            return {"id": source.name, "config": config, "revision": source.revision}
        paths = [Path(path) for split in self._builder(source, config).config.data_files.values() for path in split]
        return {"id": source.name, "config": config, "content": self.content(paths, source.folder)}

    def check_dataset_config(self, source: Source, config: str) -> None:
        """Refuse a configuration that a local clone does not have (the hub's are known only when asked)."""
        if source.folder is not None:
            self._builder(source, config)

    def splits(self, source: Source, config: str | None) -> list[str] | None:
        """The names of a configuration's splits; None where only the network knows and may not be asked."""
        if source.folder is None and not self.online:
            return None
        builder = self._builder(source, config)
        return list(builder.config.data_files or builder.info.splits or ())

    def class_names(self, source: Source, config: str | None, column: str, split: str) -> list[str] | None:
        """What the data set itself says that the numbers in a column, or in its lists, stand for; None where it says nothing."""
        builder = self._builder(source, config)
        # Where the repository's README does not list the columns (a parquet export has none), the files do.
        features = builder.info.features or builder.as_streaming_dataset(split=split)._resolve_features().features or {}
        feature = features.get(column)
        return getattr(getattr(feature, "feature", feature), "names", None)

    def rows(self, source: Source, config: str | None, split: str) -> Iterator[dict[str, Any]]:
        """The rows of one split, streamed."""
        import datasets

        builder = self._builder(source, config)
        declared = builder.config.data_files
        if declared is not None and split not in declared:
            raise UserError(f"{source.name} ({config}) has no split {split}. {suggest(split, declared, 'splits')}")
        try:
            yield from builder.as_streaming_dataset(split=split)
        except (OSError, datasets.exceptions.DatasetsError) as error:
            raise _hub_error(error, source.name, "dataset", self.mirror) or error from error

    def _builder(self, source: Source, config: str | None) -> Any:
        if source.folder is None:
            self._commit(source.name, "dataset", source.revision)  # fails at once where the network is missing
        return _dataset_builder(source, config, self.mirror)

    # ---- inside

    def _commit(self, name: str, kind: str, revision: str | None) -> str | None:
        if revision and _COMMIT.fullmatch(revision):
            return revision
        import huggingface_hub

        for marker in ("config.json", "adapter_config.json") if kind == "model" else ("README.md",):
            cached = huggingface_hub.try_to_load_from_cache(name, marker, repo_type=kind, revision=revision)
            if isinstance(cached, str):
                return Path(cached).parent.name
        key = f"{kind} {name} {revision or 'main'}"
        remembered = self._revisions.get(key)
        if remembered or not self.online:
            return remembered
        try:
            return self._revisions.put(key, huggingface_hub.HfApi().repo_info(name, repo_type=kind, revision=revision).sha)
        except Exception as error:
            raise _hub_error(error, name, kind, self.mirror) or error from error

    def _fetch(self, source: Source, kind: str, patterns: list[str]) -> Path | None:
        import huggingface_hub

        try:
            folder = huggingface_hub.snapshot_download(
                source.name, repo_type=kind, revision=source.revision, allow_patterns=patterns, local_files_only=not self.online
            )
        except huggingface_hub.errors.LocalEntryNotFoundError as error:
            if not self.online:
                return None
            raise _hub_error(error, source.name, kind, self.mirror) or error from error
        except Exception as error:
            raise _hub_error(error, source.name, kind, self.mirror) or error from error
        return Path(folder) if any(Path(folder).glob(patterns[0])) or len(patterns) > 1 else None


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that determine what the model computes."""
    return sorted({file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()})


@cache
def _dataset_builder(source: Source, config: str | None, mirror: Path | None) -> Any:
    import datasets

    location = str(source.folder) if source.folder else source.name
    chosen = {"data_dir": config} if source.export else {"name": config}
    try:
        return datasets.load_dataset_builder(location, **chosen, revision=source.revision)
    except ValueError as error:
        available = re.search(r"Available: \[(.*)\]", str(error), re.DOTALL)
        if available is None:
            raise
        names = re.findall(r"'([^']+)'", available[1])
        where = f"its clone in {source.folder}" if source.folder else "the hub"
        hint = suggest(str(config), names, "configurations")
        raise UserError(f"{source.name} has no configuration {config} in {where}. {hint}") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise UserError(
            f"{source.name} is distributed with a loading script, which is never run here. Use its parquet export "
            "(revision refs/convert/parquet) or another copy of the data."
        ) from error
    except Exception as error:
        raise _hub_error(error, source.name, "dataset", mirror) or error from error


def _hub_error(error: Exception, name: str, kind: str, mirror: Path | None) -> UserError | None:
    """The paragraph for a failure of the hub; None for what is not such a failure."""
    from huggingface_hub import errors

    kind_option = "" if kind == "model" else " --repo-type dataset"
    page = f"https://huggingface.co/{'' if kind == 'model' else 'datasets/'}{name}"
    if isinstance(error, errors.GatedRepoError) or "is a gated dataset" in str(error):
        return UserError(
            f"{name} is gated: its owner wants its terms accepted. Open {page}, accept them while logged in, make a token at "
            "https://huggingface.co/settings/tokens, and give it to `hf auth login` (or set HF_TOKEN); then run this again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{name} has no such revision; {page}/commits/main lists them.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"The hub has no {kind} {name}, or it is private. Check the spelling at {page}; for a private one, `hf auth login`."
        )
    network_errors = ("ConnectError", "ConnectionError", "LocalEntryNotFoundError", "OfflineModeIsEnabled", "TimeoutException")
    if any(base.__name__ in network_errors for base in type(error).__mro__):
        looked = f"The mirror {mirror} does not have it, and the" if mirror else "The"
        return UserError(
            f"{name} is needed from the hub. {looked} hub cannot be reached from here. On a machine with network run "
            f"`hf download {name}{kind_option} --local-dir MIRROR/{name}`, copy the folder MIRROR here, and set "
            "paths.mirror=MIRROR (or the variable XLT_MIRROR). Without network xlt works with local folders "
            "(model=hf model.path=FOLDER, data=text data.path=FOLDER), with the mirror, and with what is already in the "
            "cache or the store."
        )
    return None


class _Memory:
    """A small dictionary of strings in a JSON file, shared by processes; losing an entry costs only time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, str] = self._read()

    def get(self, key: str) -> str | None:
        return self._entries.get(key)

    def put(self, key: str, value: str) -> str:
        self._entries = {**self._read(), **self._entries, key: value}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, json.dumps(self._entries, indent=1).encode())
        return value

    def _read(self) -> dict[str, str]:
        try:
            return json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
