"""Make a module of the store ready for the hub, with its card and scores; upload it if asked.

python scripts/publish.py outputs/store/language_module/mbert-seq_bn_inv-glotcc-mt-0123456789abcdef --to me/mbert-mt-seq_bn_inv
python scripts/publish.py mbert-seq_bn_inv-glotcc-mt --to me/mbert-mt-seq_bn_inv --push

Without --push nothing leaves this machine: the folder is written below outputs/publish and its card is shown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from xlt.errors import UserError, suggest
from xlt.record import RECORD
from xlt.steps.card import CARD, HERE, with_scores
from xlt.store import MANIFEST, Artifact, Store, fingerprint

KINDS = ("language_module", "task_module")


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="folder of the module in the store, or the beginning of its name there")
    parser.add_argument("--to", required=True, metavar="ORGANISATION/NAME", help="hub id of the module")
    parser.add_argument("--store", type=Path, default=Path("outputs/store"))
    parser.add_argument("--folder", type=Path, help="where the files go; outputs/publish/NAME unless given")
    parser.add_argument("--push", action="store_true", help="upload the files to the hub (log in first: hf auth login)")
    parser.add_argument("--private", action="store_true", help="with --push: make the repository a private one")
    arguments = parser.parse_args()
    try:
        artifact = find(arguments.module, arguments.store)
        folder = arguments.folder or Path("outputs/publish") / arguments.to.rpartition("/")[2]
        prepare(artifact, arguments.store, arguments.to, folder)
        print((folder / CARD).read_text(encoding="utf-8"))
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            print(f"{file.stat().st_size:12,} {file}")
        if arguments.push:
            push(folder, arguments.to, arguments.private)
        else:
            print("\nnothing was uploaded; --push does that")
    except UserError as error:
        sys.exit(f"error: {error}")


def find(name: str, store: Path) -> Artifact:
    """The module that a folder or the beginning of a name stands for.

    Raises:
        UserError: there is none, or there are several.
    """
    modules = {artifact.folder: artifact for kind in KINDS for artifact in Store(store).list(kind)}
    folder = Path(name).absolute()
    if folder in modules:
        return modules[folder]
    found = [artifact for path, artifact in modules.items() if path.name.rpartition("-")[0] == name]
    found = found or [artifact for path, artifact in modules.items() if path.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    names = [path.name for path in modules]
    if found:
        raise UserError(f"{name} could be {', '.join(artifact.folder.name for artifact in found[:5])}: write more of the name.")
    raise UserError(f"The store {store} has no module {name}. {suggest(name, names, 'modules there')}")


def prepare(artifact: Artifact, store: Path, hub_id: str, folder: Path) -> None:
    """Copy a module's files, its card completed with the scores that rest on it.

    Raises:
        UserError: the folder exists and holds something else, or the module is of a method without a format for the hub.
    """
    if not (artifact.folder / CARD).is_file():
        raise UserError(f"{artifact.folder} has no card: it was made by an older version. Run its command with reuse=force.")
    others = _files(folder) - (_files(artifact.folder) - {Path(MANIFEST)})
    if others:
        raise UserError(f"{folder} is there and holds other things ({min(others)}): choose another --folder.")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(artifact.folder, folder, ignore=shutil.ignore_patterns(MANIFEST))
    records = [json.loads((found.folder / RECORD).read_text(encoding="utf-8")) for found in Store(store).list("evaluation")]
    # Not those of compositions in which it is a member of something else.
    own = [
        record
        for record in records
        if artifact.fingerprint in (fingerprint(inner) for inner in record["payload"]["inputs"].values())
    ]
    card = (folder / CARD).read_text(encoding="utf-8").replace(HERE, hub_id)
    (folder / CARD).write_text(with_scores(card, hub_id.rpartition("/")[2], own), encoding="utf-8")


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def push(folder: Path, hub_id: str, private: bool) -> None:
    """Upload a folder.

    Raises:
        UserError: the hub refuses, or cannot be reached.
    """
    import huggingface_hub

    try:
        hub = huggingface_hub.HfApi()
        hub.create_repo(hub_id, private=private, exist_ok=True)
        print(hub.upload_folder(repo_id=hub_id, folder_path=folder))
    except Exception as error:
        raise UserError(
            f"{hub_id} could not be uploaded ({' '.join(str(error).split())}). The files are in {folder}; `hf auth login` logs "
            "you in."
        ) from error


if __name__ == "__main__":
    main()
