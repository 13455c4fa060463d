"""A paper's result table beside what your runs scored.

python scripts/table.py                                             all tables, and which of them can be run
python scripts/table.py gurgurov2025/table15                        published, ours, difference
python scripts/table.py gurgurov2025/table15 lang=mt,yo --as latex  any settings of the sweep; markdown, latex, csv, html
python scripts/table.py gurgurov2025/table15 --list                 a row a cell: seeds, intervals, gains, probabilities
python scripts/table.py gurgurov2025/table15 --plan                 what would have to run, and what it costs

The runs themselves: python run.py -m +paper=gurgurov2025/table15, with the same settings behind it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xlt.errors import UserError
from xlt.report.paper import compared, overview
from xlt.report.table import FORMS


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", help="gurgurov2025/table15")
    parser.add_argument("settings", nargs="*", help="as for run.py: lang=mt,yo seed=0 model=miniature")
    parser.add_argument("--store", nargs="+", type=Path, help="stores of your runs; that of the settings by default")
    parser.add_argument("--as", dest="form", default="markdown", choices=sorted(FORMS))
    parser.add_argument("--list", action="store_true", help="a row for each cell, with all that is known of it")
    parser.add_argument("--no-tests", action="store_true", help="without tests of significance, which read every prediction")
    parser.add_argument("--plan", action="store_true", help="what would have to run, and what it costs")
    arguments = parser.parse_intermixed_args()
    try:
        if arguments.table is None:
            print(overview())
        elif arguments.plan:
            from xlt.cli import exit_status

            sys.exit(exit_status(["-m", f"+paper={arguments.table}", "plan=true", *arguments.settings]))
        else:
            tables = compared(
                arguments.table, arguments.settings, arguments.store, as_list=arguments.list, test=not arguments.no_tests
            )
            print("\n".join(table.render(arguments.form) for table in tables), end="")
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
