"""What sparse modules cost beside training: memory and time of choosing weights, and of putting a stored module in force.

python scripts/bench_sparse.py [--models mbert xlmr] [--count 7667712]

The models have their real shapes and random weights; nothing is downloaded. Memory is what the process holds at most above what
it held before (Linux).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from xlt.backbones.anatomy import anatomy_of
from xlt.backbones.backbone import Backbone, config_from_shape
from xlt.backbones.composition import Stack
from xlt.cli import compose
from xlt.methods.differences import DifferenceModule
from xlt.methods.full import FullFineTuning
from xlt.methods.sparse import SparseFineTuning
from xlt.report.sweep import aligned

_REPEATS = 7
_STATUS = Path("/proc/self/status")


class Meter:
    """Time and memory of the block under `measured`: `seconds`, and `extra` bytes at most above what was held before."""

    seconds = 0.0
    extra = 0


@contextmanager
def measured() -> Iterator[Meter]:
    """Measure a block."""
    meter = Meter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
    before, started = _held("VmRSS"), time.perf_counter()
    yield meter
    meter.seconds, meter.extra = time.perf_counter() - started, _held("VmHWM") - before


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mbert", "xlmr"], help="choices of model= whose shape is known")
    parser.add_argument("--count", type=int, default=7_667_712, help="weights that are chosen")
    arguments = parser.parse_args()
    rows = [["model", "weights", "what", "seconds", "extra memory", "of the weights"]]
    for name in arguments.models:
        rows += measure(name, compose(["lang=mt", f"model={name}"])["model"]["shape"], arguments.count)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(aligned(rows))


def measure(name: str, shape: Mapping[str, object], count: int) -> list[list[str]]:
    """The lines of one model."""
    torch.manual_seed(0)
    config = config_from_shape(shape)
    anatomy = anatomy_of(config.model_type.replace("-", "_"), None)
    backbone = Backbone(Backbone.new(config, anatomy), None, anatomy)
    size = sum(weight.numel() for weight in backbone.model.parameters())
    rows: list[list[str]] = []

    def note(what: str, seconds: float, extra: int) -> None:
        rows.append([name, f"{size:,}", what, f"{seconds:.2f}", f"{extra / 2**20:,.0f} MiB", f"{extra / (4 * size):.2f} ×"])

    module = SparseFineTuning(name="lt_sft", count=count).create(backbone, torch.Generator(), language_head=True)
    module.begin(0, {})
    with torch.no_grad():
        for values in module.parameters().values():
            values.add_(torch.randn(values.shape), alpha=1e-3)
    with measured() as meter:
        kept = module.end(0)
    note(f"choose {count:,} of the dense phase's changes", meter.seconds, meter.extra)
    module.begin(1, kept)
    with torch.no_grad():
        for values in module.parameters().values():
            values.add_(1e-3)
    with tempfile.TemporaryDirectory() as folder:
        with measured() as meter:
            module.save(Path(folder))
        note("store them", meter.seconds, meter.extra)
        module.detach()
        with measured() as meter:
            stored = SparseFineTuning(count=1).load(backbone, Path(folder))
        note("load and apply them", meter.seconds, meter.extra)
    note("apply them", *_toggle(backbone, stored))
    stored.detach()
    full = FullFineTuning().create(backbone, torch.Generator(), language_head=True)
    full.begin(0, {})
    full.freeze()
    note("apply a difference in all weights", *_toggle(backbone, full))
    return rows


def _toggle(backbone: Backbone, module: DifferenceModule) -> tuple[float, int]:
    """Median of the seconds that it takes to put a module in force, and the most extra memory."""
    seconds, extra = [], 0
    for _ in range(_REPEATS):
        backbone.activate(Stack())
        with measured() as meter:
            backbone.activate(module)
        seconds.append(meter.seconds)
        extra = max(extra, meter.extra)
    return statistics.median(seconds), extra


def _held(what: str) -> int:
    """Bytes: VmRSS, what is held now; VmHWM, at most since the peak was reset."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
