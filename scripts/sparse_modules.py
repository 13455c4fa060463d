"""Show where sparse modules change their backbone, and how far they change the same weights.

python scripts/sparse_modules.py FOLDER ...

A folder is one of the store (language_module or task_module) of method=lt_sft, rand_sft or bitfit, or one of composable-sft. How
much two modules disturb one another for their densities is what a sweep shows:
python run.py -m method=lt_sft task_method=lt_sft method.density=0.01,0.1 task_method.density=0.01,0.1 ...
with method.reduction_factor=null task_method.reduction_factor=null
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from xlt.analysis.sparsity import overlap, parts
from xlt.errors import UserError
from xlt.methods.sparse_files import is_sparse, read
from xlt.report.sweep import aligned


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    try:
        print(report(arguments.folders))
    except UserError as error:
        sys.exit(f"error: {error}")


def report(folders: list[Path]) -> str:
    """The tables: one for each module, and one of what each two have in common.

    Raises:
        UserError: a folder holds no sparse module.
    """
    for folder in folders:
        if not is_sparse(folder):
            raise UserError(f"{folder} holds no sparse module: neither sparse.json nor pytorch_diff.bin.")
    modules = {folder.name: read(folder)[0] for folder in folders}
    tables = []
    for name, stored in modules.items():
        found = parts(stored)
        mass = sum(part.mass for part in found.values())
        rows = [[name, "weights", "changed", "density", "mass", "share of it"]]
        for part, one in found.items():
            density, share = f"{one.changed / one.weights:.3%}", f"{one.mass / mass:.1%}" if mass else ""
            rows.append([part, f"{one.weights:,}", f"{one.changed:,}", density, f"{one.mass:.4g}", share])
        tables.append(aligned(rows))
    rows = [["both change", "", "weights", "by chance", "in the same direction"]]
    for one, other in itertools.combinations(modules, 2):
        both = overlap(modules[one], modules[other])
        rows.append([one, other, f"{both.shared:,}", f"{both.by_chance:,.0f}", f"{both.agreeing:.1%}" if both.shared else ""])
    return "\n\n".join([*tables, aligned(rows)] if len(rows) > 1 else tables)


if __name__ == "__main__":
    main()
