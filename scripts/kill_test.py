"""Kill a run again and again, and show that in the end nothing tells it from a run that was left alone.

    python scripts/kill_test.py --kills 100
    python scripts/kill_test.py --kills 20 --seed 1 --folder /tmp/kills method=none lang=mt data=text data.path=mt.txt

One experiment runs undisturbed; then the same command runs into another folder, is killed (SIGKILL) at seeded moments and
started again, until all kills have happened and it may finish. Every artifact of the two has to be equal bit for bit, times
and paths aside. Without overrides the experiment is a tiny one on generated data, a backbone from scratch included. A killed
run starts anew in about five seconds, so that 100 kills take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from xlt.store import MANIFEST, Store, differences, fingerprint, hash_file
from xlt.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
# Bits are equal per number of threads; a checkpoint after each step makes as many places to resume from as there can be.
ALWAYS = ["device=cpu", "threads=1", "train.language.loop.checkpoint_seconds=0", "train.task.checkpoint_seconds=0"]
_MEASURED = {
    "provenance", "seconds", "seconds_per_step", "peak_memory_bytes", "energy_joules", "created", "git", "outputs", "store",
    "overrides",
}  # fmt: skip
_WITH_MEASUREMENTS = ("training.json", "result.json")


@dataclass(frozen=True)
class Aim:
    """What a kill waits for.

    Attributes:
        event: `moment`, `checkpoint` (one is being written) or `commit` (an artifact is about to be renamed into place).
        count: the how manieth of these events.
        delay: seconds after it; for a moment, after the start of the process.
    """

    event: str
    count: int
    delay: float


@dataclass
class Outcome:
    """What a series of kills showed.

    Attributes:
        phases: what the store told of each kill.
        resumed: how many processes went on from a checkpoint.
        differences: everything in which the disturbed run differs from the undisturbed one; empty is the claim.
    """

    phases: list[str] = field(default_factory=list)
    resumed: int = 0
    differences: list[str] = field(default_factory=list)

    def table(self) -> str:
        """How many kills hit what."""
        counts = Counter(phase.partition(";")[0] for phase in self.phases)
        rows = [f"{count:6}  {phase}" for phase, count in sorted(counts.items(), key=lambda row: -row[1])]
        last = f"{len(self.phases):6}  in all; {self.resumed} processes went on from a checkpoint"
        return "\n".join([" kills  hit", *rows, last])


def torment(
    kills: int, seed: int, folder: Path, overrides: list[str] | None = None, say: Callable[[str], None] = print
) -> Outcome:
    """Run an experiment undisturbed into `folder/undisturbed`, and killed `kills` times into `folder/killed`; compare."""
    command = [sys.executable, "run.py", *ALWAYS, *(overrides or write_world(folder / "world"))]
    calm, restless = folder / "undisturbed", folder / "killed"
    (folder / "logs").mkdir(parents=True)
    startup, total = _run_undisturbed(command, calm, folder / "logs" / "undisturbed.log")
    artifacts = list(Store(calm / "store").list())
    names = {artifact.fingerprint: artifact.manifest["kind"] for artifact in artifacts}
    say(f"undisturbed: {len(artifacts)} artifacts in {total:.1f} s, the first of them begun after {startup:.1f} s")
    draw, outcome, store = random.Random(seed), Outcome(), restless / "store"
    while len(outcome.phases) <= kills:
        last = len(outcome.phases) == kills
        log = folder / "logs" / f"{len(list((folder / 'logs').glob('*.log'))):03}.log"
        began = time.time()
        killed = _run(command, restless, log, None if last else _draw_aim(draw, startup, total))
        outcome.resumed += "going on from step" in log.read_text()
        if last:
            break
        if killed:
            outcome.phases.append(_phase(store, names, began))
            say(f"kill {len(outcome.phases):3}: {outcome.phases[-1]}")
            outcome.differences += [f"after kill {len(outcome.phases)}: {line}" for line in half_made(store)]
        else:
            _forget_one(store, draw)
    outcome.differences += half_made(store) + compare(calm, restless)
    return outcome


def compare(expected: Path, found: Path) -> list[str]:
    """In what the artifacts and records of two output folders differ, measurements and paths aside."""
    files = [{path.relative_to(base) for path in _finished_files(base)} for base in (expected, found)]
    lines = [f"{path} is missing" for path in sorted(files[0] - files[1])]
    lines += [f"{path} is too many" for path in sorted(files[1] - files[0])]
    for path in sorted(files[0] & files[1]):
        one, other = expected / path, found / path
        if path.name in (MANIFEST, *_WITH_MEASUREMENTS):
            contents = [_without_measurements(json.loads(file.read_text(encoding="utf-8"))) for file in (one, other)]
            lines += [f"{path}: {line}" for line in differences(*contents)]
        elif hash_file(one) != hash_file(other):
            lines.append(f"{path}: other bytes")
    return lines


def half_made(root: Path) -> list[str]:
    """What in a store would deceive a reader: folders that are no whole artifacts, and what was set aside as damaged."""
    lines: list[str] = []
    store = Store(root, say=lines.append)
    whole = {artifact.folder for artifact in store.list()}
    for artifact in list(store.list()):
        store.get(artifact.manifest["kind"], artifact.manifest["label"], artifact.fingerprint)
    lines += [f"{folder} is no artifact" for folder in sorted(root.glob("[!.]*/*")) if folder not in whole]
    return lines + [f"{folder} was set aside" for folder in sorted(root.glob(".damaged/*"))]


def write_world(folder: Path) -> list[str]:
    """Generated text and labelled examples, and the overrides of a tiny experiment on them."""
    draw = random.Random(0)
    words = [f"{onset}{vowel}" for onset in "bdfgklmnprst" for vowel in "aeiou"]

    def sentence(length: int) -> str:
        return " ".join(draw.choices(words, k=length))

    (folder / "text").mkdir(parents=True)
    for language in ("en", "mt"):
        (folder / "text" / f"{language}.txt").write_text("".join(f"{sentence(8)}\n" for _ in range(300)))
    data = folder / "mirror" / "tiny" / "topics"
    card = ["---", "configs:", "- config_name: mlt_Latn", "  data_files:"]
    for split, size in (("train", 64), ("validation", 24), ("test", 40)):
        path = data / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"index_id": i, "category": ("kiki", "bouba")[i % 2], "text": f"{('ki', 'ba')[i % 2]} {sentence(6)}"}
            for i in range(size)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        card += [f"  - split: {split}", f"    path: {split}.jsonl"]
    (data / "README.md").write_text("\n".join([*card, "---", ""]))
    return [
        "model=scratch", "model.languages=[en]", "model.vocabulary_size=200", "model.shape.hidden_size=16",
        "model.shape.num_hidden_layers=2", "model.shape.num_attention_heads=2", "model.shape.intermediate_size=32",
        "model.shape.max_position_embeddings=64", "model.train.length=32", "model.train.loop.steps=40",
        "model.train.loop.batch_size=8", "model.train.loop.evaluate_every=10", "model.train.loop.checkpoint_seconds=0",
        "data=text", f"data.path={folder}/text/@lang.txt", "lang=mt", "train=quick", "train.language.length=32",
        "train.language.loop.steps=40", "train.language.loop.batch_size=8", "train.language.loop.evaluate_every=10",
        "train.task.epochs=5", "train.task.batch_size=8", "task.name=topics", "task.data.id=tiny/topics",
        "task.labels=[kiki,bouba]", f"paths.mirror={folder}/mirror",
    ]  # fmt: skip


def _run_undisturbed(command: list[str], outputs: Path, log: Path) -> tuple[float, float]:
    """Seconds until the first step began, and until the end."""
    started, first = time.monotonic(), 0.0
    with log.open("w") as file:
        process = subprocess.Popen([*command, f"paths.outputs={outputs}"], cwd=ROOT, stdout=file, stderr=file)
        while process.poll() is None:
            if not first and (outputs / "store" / ".work").exists():
                first = time.monotonic() - started
            time.sleep(0.01)
    _check_success(process, log)
    return first, time.monotonic() - started


def _run(command: list[str], outputs: Path, log: Path, aim: Aim | None) -> bool:
    """Run the command, and kill it when its aim comes into sight; False if it came to its end before."""
    with log.open("w") as file:
        # a session of its own, so that whatever the process has started dies with it
        process = subprocess.Popen(
            [*command, f"paths.outputs={outputs}"], cwd=ROOT, stdout=file, stderr=file, start_new_session=True
        )
        try:
            if aim is None:
                process.wait()
            elif _in_sight(process, outputs / "store", aim):
                time.sleep(aim.delay)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if process.returncode == -signal.SIGKILL:
        return True
    _check_success(process, log)
    return False


def _in_sight(process: subprocess.Popen, store: Path, aim: Aim) -> bool:
    """Wait until the aim's event has come; False if the process ends before."""
    if aim.event == "moment":
        return True
    seen, count = _unfinished(store, aim.event), 0
    while process.poll() is None:
        now = _unfinished(store, aim.event)
        count += len(now - seen)
        seen = now
        if count >= aim.count:
            return True
        time.sleep(0.0002)  # writing a file durably takes some milliseconds
    return False


def _unfinished(store: Path, event: str) -> set[str]:
    """The files that stand in the store for a short time only."""
    pattern = {"checkpoint": "*/checkpoint/.state.pt.*", "commit": f"*/files/*{MANIFEST}*"}[event]
    return {str(path) for path in (store / ".work").glob(pattern)}


def _draw_aim(draw: random.Random, startup: float, total: float) -> Aim:
    """A third of the kills each at any moment, in a checkpoint, in a commit.

    No moment lies more than a quarter of the work after the start: a kill is to interrupt, not to end a series of its own.
    """
    event = draw.choice(["moment", "checkpoint", "commit"])
    if event == "moment":
        return Aim(event, 1, draw.uniform(0.7 * startup, startup + (total - startup) / 4))
    delay = draw.choice([0.0, draw.uniform(0, 0.005)])
    return Aim(event, draw.randint(1, 12 if event == "checkpoint" else 3), delay)


def _forget_one(root: Path, draw: random.Random) -> None:
    """Remove a random artifact and everything that was made from it, so that there is something to do again."""
    artifacts = list(Store(root).list())
    chosen = draw.choice(artifacts).fingerprint
    for artifact in artifacts:
        if chosen in _ancestors(artifact.manifest["payload"]):
            shutil.rmtree(artifact.folder)


def _ancestors(payload: Mapping[str, Any]) -> set[str]:
    """The fingerprints of a payload and of all payloads inside it."""
    return {fingerprint(payload)}.union(*(_ancestors(inner) for inner in payload["inputs"].values()))


def _phase(root: Path, names: Mapping[str, str], since: float) -> str:
    """What the process that was started at `since` was doing when it died, as far as the store tells."""
    finished = list(Store(root).list())
    state = f"{len(finished)} of {len(names)} artifacts finished"
    for base in (root / ".work").glob("*"):
        files, checkpoint = base / "files", base / "checkpoint"
        kind = next(name for digest, name in names.items() if digest.startswith(base.name))
        if max(path.stat().st_mtime for path in (base, files, checkpoint) if path.exists()) < since:
            continue  # the remains of an earlier kill
        saved = load_checkpoint(checkpoint)
        state += f", a checkpoint of step {saved['progress']['step']}" if saved else ""
        if any(files.glob(f"*{MANIFEST}*")):
            return f"{kind}, in its commit; {state}"
        if not files.exists():
            return f"{kind}, after its rename; {state}"
        if any(checkpoint.glob(".state.pt.*")):
            return f"{kind}, in a checkpoint; {state}"
        return f"{kind}, {'between checkpoints' if saved else 'without a checkpoint'}; {state}"
    begun = any(artifact.folder.stat().st_mtime >= since for artifact in finished)
    return f"{'between two steps' if begun else 'before the first step'}; {state}"


def _finished_files(outputs: Path) -> list[Path]:
    artifacts = [path for path in outputs.glob("store/[!.]*/*/**/*") if path.is_file()]
    return [*artifacts, *outputs.glob("runs/**/result.json")]


def _without_measurements(content: Any) -> Any:
    """Plain data without what no two runs have in common, the checksums of files that hold such things included."""
    if isinstance(content, Mapping):
        left_out = {*_MEASURED, *_WITH_MEASUREMENTS}
        return {key: _without_measurements(value) for key, value in content.items() if key not in left_out}
    return content


def _check_success(process: subprocess.Popen, log: Path) -> None:
    if process.returncode != 0:
        end = "\n".join(log.read_text().splitlines()[-15:])
        raise RuntimeError(f"the run ended with status {process.returncode}; the end of {log}:\n{end}")


def main() -> int:
    """Exit status 0 if the killed run equals the undisturbed one, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many (100)")
    parser.add_argument("--seed", type=int, default=0, help="of their moments (0)")
    parser.add_argument("--folder", type=Path, help="a new folder for outputs and logs (a temporary one, removed after success)")
    parser.add_argument("overrides", nargs="*", help="the experiment (a tiny one)")
    arguments = parser.parse_args()
    if arguments.folder is not None and arguments.folder.exists():
        parser.error(f"{arguments.folder} exists: name a new folder")
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="kill_test_"))).absolute()
    outcome = torment(arguments.kills, arguments.seed, folder, arguments.overrides, say=partial(print, flush=True))
    print(outcome.table())
    if outcome.differences:
        print("\n".join([f"{len(outcome.differences)} differences; everything is kept in {folder}:", *outcome.differences[:50]]))
        return 1
    print("no difference: every artifact is equal bit for bit, times and paths aside")
    if arguments.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
