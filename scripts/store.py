"""See and clean the store, and take its records along.

python scripts/store.py list [--store outputs/store]
python scripts/store.py prune [--kinds tokens text] [--yes]
python scripts/store.py export --to records.parquet           every record as a row; or records.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from xlt.errors import UserError
from xlt.report.export import export
from xlt.report.records import Stores
from xlt.store import Store


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("list", "prune", "export"))
    parser.add_argument("--store", type=Path, default=Path("outputs/store"))
    parser.add_argument(
        "--kinds", nargs="+", default=[], help="prune all artifacts of these kinds, also those that records were made from"
    )
    parser.add_argument("--to", type=Path, default=Path("records.parquet"), help="file of export, .parquet or .csv")
    parser.add_argument("--yes", action="store_true", help="prune; without it, only say what would go")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    if arguments.action == "export":
        try:
            print(f"{export(Stores([arguments.store]), arguments.to)} records in {arguments.to}")
        except UserError as error:
            parser.exit(2, f"error: {error}\n")
    elif arguments.action == "list":
        show(store)
    else:
        prune(store, arguments.kinds, arguments.yes)


def show(store: Store) -> None:
    """Print every artifact with its size, and the sum by kind."""
    sums: dict[str, int] = {}
    for artifact in store.list():
        kind = artifact.manifest["kind"]
        sums[kind] = sums.get(kind, 0) + artifact.size
        created = artifact.manifest["provenance"].get("created", "")
        print(f"{readable(artifact.size):>9}  {created:25}  {kind}/{artifact.folder.name}")
    for kind, size in sorted(sums.items()):
        print(f"{readable(size):>9}  all of {kind}")
    print(f"{readable(sum(sums.values())):>9}  in all")


def prune(store: Store, kinds: list[str], really: bool) -> None:
    """Remove damaged artifacts, remains of killed builds, what no evaluation was made from, and all of some kinds."""
    artifacts = list(store.list())
    needed: set[str] = set()
    for artifact in artifacts:
        if artifact.manifest["kind"] == "evaluation":
            needed |= fingerprints(artifact.manifest["payload"])
    keep = {a.fingerprint for a in artifacts if a.fingerprint in needed and a.manifest["kind"] not in kinds}
    if not really:
        doomed = [artifact for artifact in artifacts if artifact.fingerprint not in keep]
        for artifact in doomed:
            print(f"{readable(artifact.size):>9}  {artifact.folder}")
        size = readable(sum(artifact.size for artifact in doomed))
        print(f"{size:>9}  would go, and the remains of killed builds; --yes removes them")
        return
    removed = store.prune(keep)
    for folder, size in removed:
        print(f"{readable(size):>9}  {folder} removed")
    print(f"{readable(sum(size for _, size in removed)):>9}  freed")


def fingerprints(payload: dict) -> set[str]:
    """The fingerprints of a payload and of everything that it was made from."""
    from xlt.store import fingerprint

    return {fingerprint(payload)}.union(*(fingerprints(inner) for inner in payload["inputs"].values()))


def readable(size: int) -> str:
    """`1536` → `1.5 KB`."""
    amount, unit = float(size), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


if __name__ == "__main__":
    main()
