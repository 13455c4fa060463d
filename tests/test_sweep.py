"""The table that ends a sweep: what its lines, gains and costs are worked out from, and when it is printed."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from xlt import cli
from xlt.record import Record
from xlt.report.sweep import Job, table

LABELS = ["a", "b"]
TASK = {
    "_target_": "xlt.tasks.sequence_classification.SequenceClassification", "name": "letters", "labels": LABELS,
    "metric": "accuracy", "data": {"id": "tiny/letters", "columns": {"text": "text", "label": "label"}},
}  # fmt: skip
GOLD = LABELS * 50
HEADINGS = ("seeds", "accuracy", "95 % interval", "gain over none", "trainable parameters", "seconds")


def right(*numbers: int) -> list[str]:
    """Predictions that are right for so many examples from the first, and wrong for the next ones, in turn."""
    known = [hit for length, hit in zip(numbers, [True, False] * len(numbers), strict=False) for _ in range(length)]
    assert len(known) == len(GOLD)
    return [gold if hit else LABELS[1 - LABELS.index(gold)] for gold, hit in zip(GOLD, known, strict=True)]


class Runs:
    """Makes records as runs leave them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(
        self, predicted: Sequence[str], method: str | None = "seq_bn", seed: int = 0, seconds: Sequence[float] = (10.0, 5.0),
        lang: str = "mt",
    ) -> Record:  # fmt: skip
        folder = self.folder / str(len(list(self.folder.iterdir())))
        folder.mkdir()
        lines = [
            {"id": str(number), "gold": gold, "predicted": answer}
            for number, (gold, answer) in enumerate(zip(GOLD, predicted, strict=True))
        ]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        roles = ("language_module", "task_module") if method else ("task_module",)
        costs = zip(roles, (1_234_567, 890)[-len(roles) :], seconds[-len(roles) :], strict=True)
        content = {
            "method": method, "seed": seed, "lang": lang, "metric": "accuracy", "config": {"task": TASK},
            "payload": {"inputs": {}},
            "metrics": {"accuracy": sum(map(str.__eq__, GOLD, predicted)) / len(GOLD), "macro_f1": 0.123},
            "training": {role: {"trainable_parameters": count, "seconds": time} for role, count, time in costs},
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(content))
        return Record(content, folder / "result.json", folder / "predictions.jsonl")

    def job(self, predicted: Sequence[str], method: str = "seq_bn", seed: int = 0, **settings: Any) -> Job:
        own = {name: settings.pop(name) for name in ("seconds",) if name in settings}
        record = self.record(predicted, None if method == "none" else method, seed, **own)
        return Job({**settings, "method": method, "seed": str(seed)}, record)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    folder = tmp_path / "records"
    folder.mkdir()
    return Runs(folder)


def cells(text: str) -> list[dict[str, str]]:
    """The lines of a table by its headings: each column begins where its heading does."""
    heading, *lines = text.splitlines()
    starts = [match.start() for match in re.finditer(r"(?<!\S)\S+(?: \S+)*", heading)]
    ends = [*starts[1:], None]
    assert all(line[start - 1] == " " for line in lines for start in starts[1:] if len(line) >= start)
    return [
        {heading[start:end].strip(): line[start:end].strip() for start, end in zip(starts, ends, strict=True)} for line in lines
    ]


def gain(cell: str) -> tuple[float, float, float]:
    """`+0.100 [+0.050, +0.150]`, with signs."""
    match = re.fullmatch(r"([+-]\d\.\d{3}) \[([+-]\d\.\d{3}), ([+-]\d\.\d{3})\]", cell)
    assert match, cell
    return tuple(float(number) for number in match.groups())


# ---- the table


def test_a_line_for_each_setting_and_the_mean_over_its_seeds(runs: Runs) -> None:
    """0.6, 0.7 and 0.8 are 0.7 ± 0.1; 0.5 and 0.9 are 0.7 ± 0.283, by n − 1."""
    jobs = [runs.job(right(hits, 100 - hits), "seq_bn", seed) for seed, hits in enumerate((60, 70, 80))]
    jobs += [runs.job(right(hits, 100 - hits), "full", seed) for seed, hits in enumerate((50, 90))]
    jobs += [runs.job(right(25, 75), "none")]
    lines = cells(table(jobs))
    assert [line["method"] for line in lines] == ["seq_bn", "full", "none"]
    assert [line["seeds"] for line in lines] == ["3", "2", "1"]
    assert [line["accuracy"] for line in lines] == ["0.700 ± 0.100", "0.700 ± 0.283", "0.250"]


def test_only_settings_that_vary_are_columns(runs: Runs) -> None:
    answers = right(60, 40)
    jobs = [
        runs.job(answers, method, seed, lang=language, task="letters", **{"train.task.epochs": "5"})
        for language in ("mt", "yo")
        for method in ("none", "seq_bn")
        for seed in (0, 1)
    ]
    lines = cells(table(jobs))
    assert tuple(lines[0]) == ("lang", "method", *HEADINGS)
    assert [(line["lang"], line["method"]) for line in lines] == [
        ("mt", "none"), ("mt", "seq_bn"), ("yo", "none"), ("yo", "seq_bn"),
    ]  # fmt: skip


def test_a_sweep_over_seeds_alone_has_one_line(runs: Runs) -> None:
    (line,) = cells(table([runs.job(right(60 + seed, 40 - seed), seed=seed) for seed in range(3)]))
    assert tuple(line) == HEADINGS
    assert (line["seeds"], line["accuracy"], line["gain over none"]) == ("3", "0.610 ± 0.010", "")


def test_the_interval_is_that_of_the_mean_over_seeds(runs: Runs) -> None:
    """Of runs that agree as wide as of one, of runs that err on other examples narrower."""
    alone, agreeing, other = (
        cells(table([runs.job(answers, seed=seed) for seed, answers in enumerate(of_seeds)]))[0]["95 % interval"]
        for of_seeds in ([right(60, 40)], [right(60, 40)] * 2, [right(60, 40), right(20, 40, 40)])
    )
    assert alone == agreeing
    widths = []
    for interval in (alone, other):
        low, high = (float(number) for number in re.fullmatch(r"\[(\d\.\d{3}), (\d\.\d{3})\]", interval).groups())
        assert low < 0.6 < high
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * 1.96 * (0.6 * 0.4 / 100) ** 0.5, rel=0.15)
    assert widths[1] < 0.8 * widths[0]


@pytest.mark.parametrize(("before", "after"), [(60, 75), (75, 60), (60, 60)])
def test_the_gain_has_the_sign_of_the_difference(before: int, after: int, runs: Runs) -> None:
    jobs = [runs.job(right(before, 100 - before), "none"), runs.job(right(after, 100 - after), "seq_bn")]
    baseline, line = cells(table(jobs))
    middle, low, high = gain(line["gain over none"])
    assert middle == pytest.approx((after - before) / 100)
    assert low <= middle <= high
    assert (low > 0, high < 0) == (after > before, after < before)
    assert baseline["gain over none"] == ""


def test_the_gain_pairs_examples(runs: Runs) -> None:
    """The same two scores, once with errors on the same examples but for ten, once on others: not the same interval."""
    widths = []
    for answers in (right(0, 30, 70), right(60, 30, 10)):
        line = cells(table([runs.job(right(0, 40, 60), "none"), runs.job(answers, "seq_bn")]))[1]
        middle, low, high = gain(line["gain over none"])
        assert middle == pytest.approx(0.1)
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * 1.96 * (0.1 * 0.9 / 100) ** 0.5, rel=0.25)
    assert widths[1] > 2 * widths[0]


def test_the_gain_pairs_seeds(runs: Runs) -> None:
    """Seeds that only one side has do not count, in whatever order the runs come."""
    jobs = [
        runs.job(right(50, 50), "none", seed=0), runs.job(right(60, 40), "none", seed=1), runs.job(right(99, 1), "none", seed=2),
        runs.job(right(80, 20), "seq_bn", seed=1), runs.job(right(1, 99), "seq_bn", seed=3), runs.job(right(54, 46), "seq_bn"),
    ]  # fmt: skip
    for order in (jobs, jobs[::-1]):
        lines = {line["method"]: line for line in cells(table(order))}
        assert gain(lines["seq_bn"]["gain over none"])[0] == pytest.approx((0.80 - 0.60 + 0.54 - 0.50) / 2)
        assert lines["none"]["gain over none"] == ""


def test_no_seed_in_common(runs: Runs) -> None:
    jobs = [runs.job(right(50, 50), "none", seed=0), runs.job(right(60, 40), "seq_bn", seed=1)]
    assert [line["gain over none"] for line in cells(table(jobs))] == ["", "no seed in common"]


def test_without_a_baseline_there_is_no_gain(runs: Runs) -> None:
    jobs = [runs.job(right(50, 50), "full"), runs.job(right(60, 40), "seq_bn")]
    assert [line["gain over none"] for line in cells(table(jobs))] == ["", ""]


def test_each_setting_has_its_own_baseline(runs: Runs) -> None:
    """Of the same language, that is, and only where there is one."""
    jobs = [
        runs.job(right(50, 50), "none", lang="mt"), runs.job(right(60, 40), "seq_bn", lang="mt"),
        runs.job(right(80, 20), "none", lang="yo"), runs.job(right(60, 40), "seq_bn", lang="yo"),
        runs.job(right(60, 40), "seq_bn", lang="th"),
    ]  # fmt: skip
    gains = {(line["lang"], line["method"]): line["gain over none"] for line in cells(table(jobs))}
    assert gain(gains["mt", "seq_bn"])[0] == pytest.approx(0.1)
    assert gain(gains["yo", "seq_bn"])[0] == pytest.approx(-0.2)
    assert gains["mt", "none"] == gains["yo", "none"] == gains["th", "seq_bn"] == ""


def test_a_baseline_has_no_use_for_some_settings(runs: Runs) -> None:
    """As in a paper's table: methods differ in their source of text, and the baseline has none."""
    jobs = [
        runs.job(right(50, 50), "none", lang="mt"),
        runs.job(right(60, 40), "seq_bn", lang="mt", data="one"),
        runs.job(right(70, 30), "seq_bn", lang="mt", data="other"),
    ]
    lines = cells(table(jobs))
    assert [(line["method"], line["data"]) for line in lines] == [("none", ""), ("seq_bn", "one"), ("seq_bn", "other")]
    assert [gain(line["gain over none"])[0] for line in lines[1:]] == pytest.approx([0.1, 0.2])


def test_costs(runs: Runs) -> None:
    """Parameters of both modules, and the mean over seeds of the seconds of both together."""
    jobs = [
        runs.job(right(50, 50), "none", 0, seconds=(4.4,)), runs.job(right(50, 50), "none", 1, seconds=(5.4,)),
        runs.job(right(60, 40), "seq_bn", 0, seconds=(100.0, 5.0)), runs.job(right(60, 40), "seq_bn", 1, seconds=(100.0, 8.0)),
    ]  # fmt: skip
    baseline, line = cells(table(jobs))
    assert (line["trainable parameters"], baseline["trainable parameters"]) == ("1,234,567 + 890", "890")
    assert (line["seconds"], baseline["seconds"]) == (f"{106.5:.0f}", f"{4.9:.0f}")


# ---- when it is shown


def test_failed_runs_are_counted(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    done = [
        (["lang=mt", "method=seq_bn", f"seed={seed}"], [runs.record(right(60 + seed, 40 - seed), seed=seed)]) for seed in (0, 1)
    ]
    cli.show_sweep([*done, (["lang=mt", "method=seq_bn", "seed=2"], None)])
    captured = capsys.readouterr()
    (line,) = cells(captured.out.strip())
    assert (line["seeds"], line["accuracy"]) == ("2", "0.605 ± 0.007")
    assert captured.err.strip() == "1 of 3 runs failed"


def test_one_run_is_no_table(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    cli.show_sweep([(["seed=0"], [runs.record(right(60, 40))])])
    assert capsys.readouterr() == ("", "")
    cli.show_sweep([(["seed=0"], None), (["seed=1"], None)])
    assert capsys.readouterr() == ("", "2 of 2 runs failed\n")


def test_a_run_with_several_target_languages(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """It has a line for each of them, beside those of the same language without a language module."""
    hits = {None: {"mt": 50, "yo": 80}, "seq_bn": {"mt": 60, "yo": 70}}
    jobs = [
        (["lang=[mt,yo]", f"method={method or 'none'}", "seed=0"],
         [runs.record(right(count, 100 - count), method, lang=language) for language, count in scores.items()])
        for method, scores in hits.items()
    ]  # fmt: skip
    cli.show_sweep(jobs)
    lines = {(line["lang"], line["method"]): line for line in cells(capsys.readouterr().out.strip())}
    assert {key: line["accuracy"] for key, line in lines.items()} == {
        ("mt", "none"): "0.500", ("yo", "none"): "0.800", ("mt", "seq_bn"): "0.600", ("yo", "seq_bn"): "0.700",
    }  # fmt: skip
    assert gain(lines["mt", "seq_bn"]["gain over none"])[0] == pytest.approx(0.1)
    assert gain(lines["yo", "seq_bn"]["gain over none"])[0] == pytest.approx(-0.1)


def test_overrides_of_every_form(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """As Hydra writes them: what removes a setting has an empty value, and a value may hold the sign."""
    jobs = [
        (["~tracker.mode=", "+model.shape.x=1", "data.path=a=b.txt", "method@task_method=full", f"seed={seed}"],
         [runs.record(right(60, 40), seed=seed)])
        for seed in (0, 1)
    ]  # fmt: skip
    cli.show_sweep(jobs)
    (line,) = cells(capsys.readouterr().out.strip())
    assert line["accuracy"] == "0.600 ± 0.000"


def shown_table(shown: str) -> list[dict[str, str]]:
    """The table at the end of what a sweep prints."""
    return cells(shown.rstrip().rpartition("\n\n")[2])


def test_a_sweep_ends_with_its_table(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The scores are those of the records; made again it is the same."""
    arguments = ["-m", *overrides, "method=none,seq_bn", "seed=0,1"]
    assert cli.exit_status(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.rindex("record    ") < shown.index("gain over none"), "after the runs"
    baseline, line = shown_table(shown)
    assert (baseline["method"], line["method"]) == ("none", "seq_bn")
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "outputs" / "sweeps").rglob("result.json"))]
    assert len(records) == 4
    scores = {
        name: [record["metrics"]["macro_f1"] for record in records if record["method"] == name] for name in (None, "seq_bn")
    }
    for of_method, row in ((scores[None], baseline), (scores["seq_bn"], line)):
        assert row["macro_f1"] == f"{statistics.fmean(of_method):.3f} ± {statistics.stdev(of_method):.3f}"
        assert row["seeds"] == "2"
    difference = statistics.fmean(scores["seq_bn"]) - statistics.fmean(scores[None])
    assert gain(line["gain over none"])[0] == pytest.approx(difference, abs=0.0006)
    assert baseline["gain over none"] == ""
    parameters = next(record["training"] for record in records if record["method"] == "seq_bn")
    assert line["trainable parameters"] == " + ".join(
        f"{parameters[role]['trainable_parameters']:,}" for role in ("language_module", "task_module")
    )
    assert cli.exit_status(arguments) == 0
    assert shown_table(capsys.readouterr().out) == [baseline, line]


def test_a_plan_has_no_table(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.exit_status(["-m", *overrides, "method=none,seq_bn", "seed=0,1", "plan=true"]) == 0
    captured = capsys.readouterr()
    assert "gain over none" not in captured.out
    assert "failed" not in captured.err


def test_one_run_is_no_sweep(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.exit_status([*overrides, "method=none"]) == 0
    assert "gain over none" not in capsys.readouterr().out


def test_a_run_that_fails_does_not_take_the_others_along(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With a learning rate at which the loss is soon no number, which only training can find out."""
    rates = "train.task.learning_rate=1e-3,1e38"
    assert cli.exit_status(["-m", *overrides, "method=none", "seed=0,1", rates]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 2
    assert "Lower the learning rate" in captured.err
    assert captured.err.rstrip().endswith("2 of 4 runs failed")
    assert "Traceback" not in captured.err
    (line,) = shown_table(captured.out)
    assert line["seeds"] == "2"
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3}", line["macro_f1"])


# ---- where it is started


@pytest.mark.parametrize("arguments", [["--help"], ["-m", "plan=true", "lang=mt", "method=none,seq_bn", "seed=0,1"]])
def test_started_from_another_folder(arguments: list[str], tmp_path: Path) -> None:
    """As the console script does: our launcher has to be known there, whatever way the package is installed."""
    done = subprocess.run(
        [sys.executable, "-c", f"from xlt.cli import main; main({arguments!r})"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "seq_bn" in done.stdout
