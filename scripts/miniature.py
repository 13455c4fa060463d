"""Look at the miniature world, write it as a mirror of hub repositories, and make its backbones again.

python scripts/miniature.py show qad [--sentences 5] [world.distance=2 ...]
python scripts/miniature.py mirror FOLDER [--languages qaa qad] [world.seed=1 ...]
python scripts/miniature.py backbones [--models miniature_llama] [--replace]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from itertools import islice
from pathlib import Path

MODELS = ("miniature", "miniature_llama")
# Unless told, torch takes the kernels that suit the processor, and the last bits with them. These run on any x86 with AVX2.
SAME_EVERYWHERE = {"MKL_CBWR": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SIZES = {"train": 100, "validation": 50, "test": 100}


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    show_parser = actions.add_parser("show", help="sentences of a language with their analysis and translation")
    show_parser.add_argument("language")
    show_parser.add_argument("--sentences", type=int, default=5)
    show_parser.add_argument("overrides", nargs="*")
    mirror_parser = actions.add_parser("mirror", help="write the world in the formats of the hub")
    mirror_parser.add_argument("folder", type=Path)
    mirror_parser.add_argument("--languages", nargs="+")
    mirror_parser.add_argument("overrides", nargs="*")
    backbones_parser = actions.add_parser("backbones", help="pretrain the backbones that come with the package, and compare")
    backbones_parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    backbones_parser.add_argument("--replace", action="store_true", help="put the new ones into the package")
    arguments = parser.parse_args()
    if arguments.action == "show":
        show(arguments.language, arguments.sentences, arguments.overrides)
    elif arguments.action == "mirror":
        mirror(arguments.folder, arguments.languages, arguments.overrides)
    else:
        sys.exit(backbones(arguments.models, arguments.replace))


def world_of(overrides: list[str]):
    """The miniature world that the configuration and some overrides describe."""
    from xlt.cli import compose
    from xlt.config import build
    from xlt.miniature.world import World

    return build(compose(overrides).world, "world", World)


def show(code: str, sentences: int, overrides: list[str]) -> None:
    """Print sentences word by word, and what they mean in glosses."""
    from xlt.errors import suggest
    from xlt.random import Draw

    world = world_of(overrides)
    if code not in world.languages:
        sys.exit(f"error: {code} is none of the invented languages. {suggest(code, world.languages, 'languages')}")
    design, grammar = world.languages[code], world.grammar(code)
    glosses = {word: concept.gloss for concept, word in world.lexicon(code).words.items()}
    print(f"{code} {design.name}: family {design.family}, branch {design.branch}, script {design.script}, {design.features()}\n")
    for clause in islice(world.clauses("sentences", "train"), sentences):
        sentence = grammar.say(clause, Draw(world.seed, "shown"))
        sentiment = {1: "praise", 0: "", -1: "blame"}[clause.sentiment]
        print(f"{sentence.text}    [{world.topics[clause.topic]}] {sentiment}")
        for number, token in enumerate(sentence.tokens, start=1):
            gloss = glosses.get(token.lemma, "")
            print(f"  {number:2} {token.form:16} {gloss:24} {token.upos:6} {token.head:3} {token.deprel:8} {token.entity}")


def mirror(folder: Path, languages: list[str] | None, overrides: list[str]) -> None:
    """Write the mirror and say how to use it."""
    from xlt.miniature.hub import write_mirror

    world = world_of(overrides)
    write_mirror(world, folder, languages or world.languages, SIZES)
    print(f"written; use it with paths.mirror={folder} or XLT_MIRROR={folder}")


def backbones(models: list[str], replace: bool) -> int:
    """Pretrain backbones in a store of their own; returns 0 if they are, bit for bit, those of the package."""
    if any(os.environ.get(name) != value for name, value in SAME_EVERYWHERE.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SAME_EVERYWHERE})
    import torch

    from xlt.cli import compose
    from xlt.experiment import READY_MADE, Experiment
    from xlt.runner import Session, runtime_of
    from xlt.store import Store

    torch.set_num_threads(1)
    same = True
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            overrides = [
                f"model={name}",
                "data=miniature",
                "task=mini_topic",
                "lang=qaa",
                "device=cpu",
                f"paths.outputs={folder}",
            ]
            experiment = Experiment.from_config(compose([*overrides, f"paths.outputs={folder}"]))
            store = Store(Path(folder) / "store")
            session = Session(store, "auto", runtime_of(experiment, torch.device("cpu"), overrides))
            step = experiment.backbone()
            for part in (step.tokenizer, step):
                made = session.realise(part)
                place = Store(READY_MADE).folder_of(part.kind, part.label, part.fingerprint)
                changed = [file for file in made.manifest["files"] if not equal(made.folder / file, place / file)]
                same = same and not changed
                print(f"{part.kind} {place.name}: {made.size / 1e6:.2f} MB, {'differs' if changed else 'the same bit for bit'}")
                if replace and changed:
                    for old in place.parent.glob(f"{part.label}-*"):
                        shutil.rmtree(old)
                    shutil.copytree(made.folder, place)
    return 0 if same or replace else 1


def equal(one: Path, other: Path) -> bool:
    """Whether two files hold the same; the record of a training is compared but for its times."""
    if not other.is_file():
        return False
    if one.name == "training.json":
        import json

        first, second = (json.loads(path.read_text()) for path in (one, other))
        return all(first[key] == second[key] for key in first if not key.startswith("seconds"))
    return one.read_bytes() == other.read_bytes()


if __name__ == "__main__":
    main()
