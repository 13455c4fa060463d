"""Make the page of results, outputs/report/index.html: every run, with filters, plots and all that is known of it, and the
tables of papers that runs belong to.

python scripts/report.py                                              the runs below outputs/
python scripts/report.py paths.outputs=/data/outputs                  elsewhere; paths.store and paths.languages as for run.py
python scripts/report.py --table 'gurgurov2025/table15 lang=mt,yo'    only this table, with settings of its sweep
"""

from __future__ import annotations

import argparse
from pathlib import Path

from xlt.cli import compose, explain
from xlt.experiment import READY_MADE
from xlt.languages import load_languages
from xlt.report.page import write_page
from xlt.store import Store


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="paths.outputs=FOLDER and other paths")
    parser.add_argument(
        "--table", action="append", help="a table and settings of its sweep, in quotes; all that have runs by default"
    )
    arguments = parser.parse_args()
    try:
        paths = compose(arguments.settings).paths
        outputs = Path(paths.outputs).expanduser()
        store = Store(Path(paths.store or outputs / "store").expanduser(), ready_made=READY_MADE)
        file, shown, refused = write_page(outputs, store, load_languages(paths.languages), arguments.table)
    except Exception as error:
        if (message := explain(error, arguments.settings)) is None:
            raise
        parser.exit(2, f"error: {message}\n")
    left_out = f", {refused} left out: the page says why" if refused else ""
    print(f"{file}: {shown} {'run' if shown == 1 else 'runs'}{left_out}")


if __name__ == "__main__":
    main()
