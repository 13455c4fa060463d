"""Label a file of texts, one a line, with what a run has trained; JSON lines with label and probabilities come out.

python scripts/predict.py outputs/runs/RUN/result.json texts.txt > labelled.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import xlt
from xlt.errors import UserError


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="a run's result.json")
    parser.add_argument("texts", type=Path, help="a text file, one text a line; - reads standard input")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    try:
        predictor = xlt.load(arguments.record)
        content = sys.stdin.read() if str(arguments.texts) == "-" else arguments.texts.read_text(encoding="utf-8")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    texts = [line for line in content.splitlines() if line.strip()]
    for text, prediction in zip(texts, predictor.predict(texts, arguments.batch_size), strict=True):
        print(json.dumps({"text": text, **prediction}, ensure_ascii=False))


if __name__ == "__main__":
    main()
