"""Label what a file holds with what a run has trained; JSON lines with the label, and what the task adds, come out.

python scripts/predict.py outputs/runs/RUN/result.json texts.txt > labelled.jsonl
python scripts/predict.py outputs/runs/RUN/result.json examples.jsonl > labelled.jsonl

A text file has a text a line. Other tasks than text classification read JSON lines with the fields of their examples: premise and
hypothesis, tokens, context and question. After transfer=translate_test they are translated first, as the test set was.
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
    parser.add_argument(
        "inputs", type=Path, help="a text file, one text a line, or a .jsonl file; - reads texts from standard input"
    )
    arguments = parser.parse_args()
    try:
        predictor = xlt.load(arguments.record)
        content = sys.stdin.read() if str(arguments.inputs) == "-" else arguments.inputs.read_text(encoding="utf-8")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    lines = [line for line in content.splitlines() if line.strip()]
    examples = [json.loads(line) if arguments.inputs.suffix == ".jsonl" else {"text": line} for line in lines]
    for example, prediction in zip(examples, predictor.predict(examples), strict=True):
        print(json.dumps({**example, **prediction}, ensure_ascii=False))


if __name__ == "__main__":
    main()
