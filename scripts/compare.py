"""Compare systems on their stored predictions: mean, standard deviation and 95 % interval of each, and of all but the first the
gain over the first, paired by test example and seed, with the probability of such a gain by chance.

python scripts/compare.py BASELINE SYSTEM ...

A system is a folder of a run, a result.json, or a quoted pattern over its seeds: 'outputs/sweeps/*method=none*'.
"""

from __future__ import annotations

import argparse
import glob
import sys
from pathlib import Path

from xlt.errors import UserError
from xlt.record import Record
from xlt.report.sweep import aligned
from xlt.report.systems import System


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", help="folders, result.json files or patterns; the first is the baseline")
    arguments = parser.parse_args()
    try:
        print(table([(pattern, system_of(pattern)) for pattern in arguments.systems]))
    except UserError as error:
        sys.exit(f"error: {error}")


def system_of(pattern: str) -> System:
    """The runs that a pattern names.

    Raises:
        UserError: there are none, or they differ in more than their seed.
    """
    records = [Record.read(Path(path)) for path in sorted(glob.glob(pattern)) or [pattern]]
    for name in ("task", "lang", "method", "task_method", "model", "transfer", "source", "translator", "shots"):
        values = {str(record.get(name)) for record in records}
        if len(values) > 1:
            raise UserError(
                f"{pattern} names runs that differ in {name} ({', '.join(sorted(values))}), and not in the seed alone."
            )
    return System(records)


def table(systems: list[tuple[str, System]]) -> str:
    """A line for each system."""
    baseline = systems[0][1]
    rows = [["system", "seeds", baseline.metric, "95 % interval", "gain", "95 % interval", "p"]]
    for name, system in systems:
        mean = f"{system.mean:.4f}" + (f" ± {system.deviation:.4f}" if system.deviation is not None else "")
        row = [name, str(len(system.records)), mean, _interval(system.interval)]
        gain = system.gain_over(baseline) if system is not baseline else None
        if gain is not None:
            row += [f"{gain.mean:+.4f}", _interval(gain.interval), f"{gain.probability:.4f}"]
        elif system is not baseline:
            row += ["no seed in common", "", ""]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    return aligned(rows)


def _interval(ends: tuple[float, float]) -> str:
    return f"[{ends[0]:.4f}, {ends[1]:.4f}]"


if __name__ == "__main__":
    main()
