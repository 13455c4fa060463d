"""Look at sparse modules (method=lt_sft, fish_mask, rand_sft, bitfit), and hand them to composable-sft.

python scripts/sparse_modules.py changes FOLDER ... [--figure mass.svg]
    where modules change their backbone, and how far they change the same weights

python scripts/sparse_modules.py grid 'outputs/sweeps/*lt_sft*' [--figure grid.png]
    what a task scores for each density of its language's module and of its own, from the records of a sweep:
    python run.py -m method=lt_sft task_method=lt_sft method.density=0.01,0.1 task_method.density=0.01,0.1 ...
    with method.reduction_factor=null task_method.reduction_factor=null

python scripts/sparse_modules.py export FOLDER --model mbert --to FOLDER [--head classifier]
    the folder that composable-sft reads, pytorch_diff.bin

A module's folder is one of the store (language_module or task_module), or one of composable-sft. Runs take either as
language.path=FOLDER.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from xlt.analysis.sparsity import Part, overlap, parts
from xlt.backbones.backbone import Backbone
from xlt.errors import UserError
from xlt.methods.sparse import SparseFineTuning
from xlt.methods.sparse_files import COMPOSABLE_SFT, Stored, is_sparse, read
from xlt.record import Record
from xlt.report.figures import bars, heat_maps
from xlt.report.interference import grids
from xlt.report.sweep import aligned
from xlt.steps.composition import HEAD


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="changes | grid | export")
    command = commands.add_parser("changes", help="where modules change their backbone")
    command.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    command.add_argument("--figure", type=Path, help="a file for the share of each part in the mass (png, svg, pdf)")
    command.set_defaults(do=lambda given: changes(given.folders, given.figure))
    command = commands.add_parser("grid", help="scores by densities")
    command.add_argument("runs", nargs="+", help="folders of runs, or quoted patterns")
    command.add_argument("--figure", type=Path, help="a file for the grid as a heat map (png, svg, pdf)")
    command.set_defaults(do=lambda given: grid(given.runs, given.figure))
    command = commands.add_parser("export", help="write composable-sft's folder")
    command.add_argument("folder", type=Path)
    command.add_argument("--model", type=Path, required=True, help="folder of the model that the module was trained on")
    command.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    command.add_argument("--head", help="of a task module: what transformers calls the head (classifier, qa_outputs)")
    command.set_defaults(do=lambda given: export(given.folder, given.model, given.to, given.head))
    arguments = parser.parse_args()
    try:
        print(arguments.do(arguments))
    except UserError as error:
        sys.exit(f"error: {error}")


def changes(folders: Sequence[Path], figure: Path | None = None) -> str:
    """The tables: one for each module, and one of what each two have in common.

    Raises:
        UserError: a folder holds no sparse module.
    """
    modules = {folder.name: _read(folder) for folder in folders}
    found = {name: parts(stored) for name, stored in modules.items()}
    shares = {name: _shares(of_module) for name, of_module in found.items()}
    tables = []
    for name, of_module in found.items():
        rows = [[name, "weights", "changed", "density", "mass", "share of it"]]
        for part, one in of_module.items():
            density, share = f"{one.changed / one.weights:.3%}", f"{shares[name][part]:.1%}"
            rows.append([part, f"{one.weights:,}", f"{one.changed:,}", density, f"{one.mass:.4g}", share])
        tables.append(aligned(rows))
    rows = [["both change", "", "weights", "by chance", "in the same direction"]]
    for one, other in itertools.combinations(modules, 2):
        both = overlap(modules[one], modules[other])
        rows.append([one, other, f"{both.shared:,}", f"{both.by_chance:,.0f}", f"{both.agreeing:.1%}" if both.shared else ""])
    if figure is not None:
        bars(shares, "share of the mass of the changes, Σ|φ|", figure)
        tables.append(f"figure: {figure}")
    return "\n\n".join([*tables, aligned(rows)] if len(rows) > 1 else tables)


def grid(runs: Sequence[str], figure: Path | None = None) -> str:
    """Markdown tables, one for each target language.

    Raises:
        UserError: the runs make no grid.
    """
    paths = [Path(path) for pattern in runs for path in sorted(glob.glob(pattern, recursive=True)) or [pattern]]
    found = grids([Record.read(path) for path in paths])
    tables = [one.markdown() for one in found]
    if figure is not None:
        heat_maps(found, figure)
        tables.append(f"figure: {figure}")
    return "\n\n".join(tables)


def export(folder: Path, model: Path, to: Path, head: str | None = None) -> str:
    """Write composable-sft's folder; what was written where.

    Raises:
        UserError: the folder holds no sparse module, does not fit the model, or its head is not one linear map.
    """
    stored = _read(folder)
    beside_encoder = len({name.partition(".")[0] for name in stored}) > 1  # parts of the language head
    module = SparseFineTuning(count=1).load(Backbone.open(model, language_head=beside_encoder), folder)
    dense = {} if head is None else {f"{head}.{name}": tensor for name, tensor in _linear_map(folder).items()}
    to.mkdir(parents=True, exist_ok=True)
    module.save_for_composable_sft(to, dense)
    return f"{to / COMPOSABLE_SFT}: {sum(one.values.numel() for one in stored.values()):,} values, {len(dense)} tensors of a head"


def _read(folder: Path) -> dict[str, Stored]:
    if not is_sparse(folder):
        raise UserError(f"{folder} holds no sparse module: neither sparse.json nor {COMPOSABLE_SFT}.")
    return read(folder)[0]


def _shares(found: Mapping[str, Part]) -> dict[str, float]:
    mass = sum(part.mass for part in found.values())
    return {name: part.mass / mass if mass else 0.0 for name, part in found.items()}


def _linear_map(folder: Path) -> dict[str, torch.Tensor]:
    """The weight and the bias of a task's head."""
    path = folder / HEAD
    tensors = load_file(path) if path.is_file() else {}
    names = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}
    if len(names) != len(tensors) or not {"weight"} <= names.keys() <= {"weight", "bias"}:
        raise UserError(
            f"--head: {path} is not one linear map, as heads of transformers for tags and for answers are "
            f"({', '.join(tensors) or 'it is not there'}). Leave --head away: the differences are then all that is written."
        )
    return names


if __name__ == "__main__":
    main()
