"""See a language's text before anything is trained on it: what was read and left out, sizes, scripts, samples, and how well the
backbone's tokenizer fits.

python scripts/inspect_data.py lang=mt data=glotcc                   any settings of a run; what is made is kept for it
python scripts/inspect_data.py --sizes lang=mt data=conceptnet       every language, beside Gurgurov et al. 2025, table 5
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xlt
from xlt.cli import compose, explain
from xlt.corpora.conceptnet import ConceptNet
from xlt.errors import UserError
from xlt.experiment import Experiment, choose_device, open_store
from xlt.runner import Session, command
from xlt.steps.assertions import read_assertions, read_counts
from xlt.steps.audit import flops_per_second
from xlt.steps.base import Runtime

PUBLISHED = Path(xlt.__file__).with_name("corpora") / "published_sizes.csv"


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", help="of a run: lang=mt data=glotcc model=xlmr")
    parser.add_argument("--sizes", action="store_true", help="the sentences of every language in data=conceptnet")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        experiment = Experiment.from_config(compose(arguments.settings))
        session = open_session(experiment, arguments.settings)
        show_sizes(experiment, session) if arguments.sizes else show_text(experiment, session)
    except (UserError, OSError) as error:
        parser.exit(2, f"{explain(error, arguments.settings) or error}\n")


def open_session(experiment: Experiment, typed: list[str]) -> Session:
    """What makes the steps of a text. The run's task is left alone: its data set may lack the language."""
    device = choose_device(experiment.settings)
    runtime = Runtime(
        device, flops_per_second(device), experiment.hub, experiment.languages, experiment.tracker, command(typed),
        tracker_folder=Path(experiment.settings.paths.outputs) / "tracker",
    )  # fmt: skip
    return Session(open_store(experiment.settings, logging.getLogger("xlt").warning), experiment.settings.reuse, runtime)


def show_text(experiment: Experiment, session: Session) -> None:
    """Print the card of each target's text, and the fit of the tokenizer."""
    for language in experiment.targets:
        text = session.realise(experiment.text(language))
        tokens = session.realise(experiment.tokens(language))
        print(f"\n{text.manifest['label']}  {text.folder}")
        card = {key: value for key, value in text.summary.items() if key != "samples"}
        for key, value in {**card, "tokens": dict(tokens.summary)}.items():
            print(f"  {key:18}{_shown(value)}")
        print("  samples")
        for sample in text.summary["samples"]:
            print(f"    {' / '.join(sample.splitlines())}")


def show_sizes(experiment: Experiment, session: Session) -> None:
    """Print how many sentences and megabytes a ConceptNet file holds in each of its languages.

    Raises:
        UserError: another source than ConceptNet.
    """
    corpus = experiment.data
    if not isinstance(corpus, ConceptNet):
        raise UserError(f"--sizes reads data=conceptnet, and data={corpus.name} is none.")
    assertions = session.realise(corpus.inputs(experiment.hub)["assertions"])
    print(json.dumps(dict(assertions.summary)))
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        published = {row["code"]: row for row in csv.DictReader(file)}
    print(f"{'language':10}{'assertions':>12}{'sentences':>12}{'MB':>9}{'published':>12}{'MB':>9}")
    for code, relations in read_counts(assertions.folder).items():
        found = corpus.sentences(read_assertions(assertions.folder, code))
        sizes = [len(sentence.encode()) + 1 for sentence in found if isinstance(sentence, str)]
        row = published.get(code, {})
        theirs = f"{row.get('conceptnet_sentences', ''):>12}{row.get('conceptnet_megabytes', ''):>9}"
        print(f"{code:10}{sum(relations.values()):>12}{len(sizes):>12}{sum(sizes) / 1e6:>9.2f}{theirs}".rstrip())


def _shown(value: Any) -> str:
    """A part of a card on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
