"""Papers' tables as sweeps, and beside what runs scored."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from made_records import RecordMaker
from pyarrow import parquet
from pyarrow.csv import read_csv

from xlt.analysis.published import tables as printed
from xlt.cli import compose, exit_status, normalised
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.paper import Job, PaperTable, written
from xlt.record import RECORD
from xlt.report.cells import Missing, Number
from xlt.report.export import export
from xlt.report.paper import compare, compared, names, overview, published_scores, read
from xlt.report.records import MACHINE_SETTINGS, Stores
from xlt.report.table import Table
from xlt.store import MANIFEST, hash_file
from xlt.training.settings import LoopSettings

TABLE15 = "gurgurov2025/table15"
SMALL = {
    "published": TABLE15,
    "choices": {"model": "mbert", "task": "sib200", "train": "paper", "train.task.epochs": 20},
    "lang": ["mt", "yo"],
    "seed": [1, 2],
    "columns": {
        "none": {"choices": {"method": "none"}},
        "conceptnet/lora": {"choices": {"method": "lora", "data": "conceptnet", "train.language.loop.steps": 25}},
        "glotcc/lora": {"choices": {"method": "lora", "data": "glotcc"}},
    },
}


def small() -> PaperTable:
    return PaperTable.from_config(SMALL)


# ---- the sweep


def test_jobs_are_the_cells():
    jobs = small().jobs
    assert len(jobs) == 3 * 2 * 2
    assert jobs[0].overrides() == [
        "model=mbert", "task=sib200", "train=paper", "method=none", "lang=mt", "seed=1", "train.task.epochs=20",
    ]  # fmt: skip
    assert not any("data" in job.choices for job in jobs if job.column == "none")


def test_own_values_narrow_the_table_down():
    table = small().given({"lang": ["yo"], "method": ["lora"], "data": ["glotcc"]})
    assert {(job.column, job.choices["lang"]) for job in table.jobs} == {("glotcc/lora", "yo")}
    assert [part.column for part in small().given({"data": ["glotcc"]}).parts] == [
        "none",
        "glotcc/lora",
    ]  # which none has no use for


def test_other_values_take_the_place_and_what_was_set_within_goes():
    table = small().given({"lang": ["qaa", "qab"], "seed": ["0"], "model": ["miniature"], "train": ["demo"], "threads": ["1"]})
    assert len(table.jobs) == 3 * 2
    assert all(job.choices["train"] == "demo" and job.choices["threads"] == "1" for job in table.jobs)
    assert not any("steps" in text or "epochs" in text for job in table.jobs for text in job.overrides())


def test_a_setting_takes_the_place_of_the_tables():
    table = small().given({"train.task.epochs": ["3"]})
    assert all(job.overrides().count("train.task.epochs=3") == 1 for job in table.jobs)
    assert not any("train.task.epochs=20" in job.overrides() for job in table.jobs)


def test_where_cells_differ_another_value_is_refused():
    with pytest.raises(
        UserError, match=r"differ in data \(conceptnet, glotcc\).*'\+paper.instead.data=\{conceptnet: miniature\}'"
    ):
        small().given({"data": ["miniature"]})
    with pytest.raises(UserError, match="differ in method"):
        small().given({"method": ["lora", "par_bn"]})


def test_something_can_stand_for_something_else():
    table = small().with_instead("data", {"glotcc": "miniature", "conceptnet": {"data.path": "my.csv"}})
    assert [part.title for part in table.parts] == ["none", "conceptnet/lora", "miniature/lora"]
    by_column = {job.column: job.choices for job in table.jobs}
    assert by_column["glotcc/lora"]["data"] == "miniature"
    assert by_column["conceptnet/lora"]["data.path"] == "my.csv"
    assert "data" not in by_column["none"]


def test_blocks_have_their_own():
    table = PaperTable.from_config({
        **SMALL,
        "blocks": {
            "one": {"choices": {"task": "ud_pos"}, "lang": ["mt"], "columns": {"conceptnet/lora": None}},
            "two": {"published": {"metric": "F1"}, "seed": [5], "columns": {"glotcc/lora": {"method.rank": 4}}},
        },
    })  # fmt: skip
    assert {(job.block, job.column) for job in table.jobs} == {
        ("one", "none"), ("one", "glotcc/lora"), ("two", "none"), ("two", "conceptnet/lora"), ("two", "glotcc/lora"),
    }  # fmt: skip
    assert all(job.choices["task"] == ("ud_pos" if job.block == "one" else "sib200") for job in table.jobs)
    assert {job.choices["seed"] for job in table.jobs if job.block == "two"} == {5}
    assert next(job for job in table.jobs if job.column == "glotcc/lora" and job.block == "two").choices["method.rank"] == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [("a b", '"a b"'), (["en", "de"], "[en,de]"), (None, "null"), (True, "true"), (0.5, "0.5"), ({"a": [1]}, "{a:[1]}"),
     (["data=x method=y"], '["data=x method=y"]')],
)  # fmt: skip
def test_values_as_on_the_command_line(value: object, text: str):
    assert written(value) == text


def test_an_unknown_key_is_refused():
    with pytest.raises(UserError, match="Did you mean columns"):
        PaperTable.from_config({**SMALL, "colums": {}})


# ---- what is shipped


def test_the_whole_of_table_15():
    table = read(TABLE15)
    assert len(table.jobs) == 30 * 8 * 3
    steps = {job.column: job.choices.get("train.language.loop.steps") for job in table.jobs}
    assert steps["none"] is None and steps["conceptnet/lora"] == 25000 and steps["glotcc/full"] == 100000
    assert len({tuple(job.overrides()) for job in table.jobs}) == len(table.jobs)


def test_a_sweep_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status = exit_status([
        "-m", f"+paper={TABLE15}", "lang=qaa", "seed=0", "model=miniature", "task=mini_topic", "train=demo", "plan=true",
        "+paper.instead.data={glotcc: miniature, conceptnet: mini_conceptnet}", "method=none,lora", f"paths.outputs={tmp_path}",
    ])  # fmt: skip
    shown = capsys.readouterr().out
    assert status == 0, shown
    assert "3 runs:" in shown and "2 language modules, 3 task modules" in shown


def test_a_rehearsal_puts_the_miniature_world_in_the_place_of_all():
    table = read(TABLE15, ["+rehearsal=miniature", "seed=0"])
    assert len(table.jobs) == 4 * 8
    assert {job.choices["task"] for job in table.jobs} == {"mini_topic"}
    assert {job.choices.get("data") for job in table.jobs} == {None, "miniature", "mini_conceptnet"}
    assert not any(key.startswith(("train.", "rehearsal")) for job in table.jobs for key in job.choices)
    sources = {tuple(job.choices["source"]) for job in read("unibridge2024/table1", ["+rehearsal=miniature"]).jobs}
    assert sources == {("qaa", "qab", "qac", "qbb", "qbc")}


def test_a_mistake_in_a_sweep_is_told(capsys: pytest.CaptureFixture[str]):
    assert exit_status(["-m", f"+paper={TABLE15}", "data=miniature"]) == 2
    assert "differ in data" in capsys.readouterr().err
    assert exit_status(["-m", "+paper=gurgurov2025/tabel15"]) == 2
    assert "gurgurov2025/table15" in capsys.readouterr().err


# ---- the table


@pytest.fixture
def maker(tmp_path: Path) -> RecordMaker:
    return RecordMaker(tmp_path / "store")


def table15(languages: str = "mt,yo", methods: str = "none,lora") -> tuple[PaperTable, list[str]]:
    settings = [f"lang={languages}", f"method={methods}", "data=glotcc", "seed=1,2"]
    return read(TABLE15, settings), settings


def shown(settings: list[str], maker: RecordMaker, **options: bool) -> Table:
    return compared(TABLE15, settings, [maker.store], **options)[0]


def cell(table: Table, row: str, column: str):
    place = [f"{head.group} {head.name}".strip() for head in table.columns].index(column)
    return next(line.cells[place] for line in table.rows if line.cells[0].text() == row)


def test_published_ours_and_difference(maker: RecordMaker):
    table, settings = table15()
    for job in table.jobs:
        adapted = job.column != "none"
        maker.write(job, (0.9 if adapted else 0.4) + 0.1 * (job.choices["seed"] == 2))
    found = shown(settings, maker)
    assert cell(found, "mt", "glotcc lora published") == Number(78.09, 2, bold=True)  # the better one of those printed
    ours = cell(found, "mt", "glotcc lora ours")
    assert ours.value == pytest.approx(95.0) and ours.deviation == pytest.approx(7.0711, abs=1e-4)
    assert ours.bold and ours.mark == "†" and not ours.notes
    assert cell(found, "mt", "none ours").value == pytest.approx(45.0)
    assert cell(found, "mt", "glotcc lora difference").value == pytest.approx(95 - 78.09)
    assert "corrected for 2 comparisons" in " ".join(found.remarks)
    total = cell(found, "total", "glotcc lora ours")
    assert total.value == pytest.approx(95.0) and total.notes == ()
    assert cell(found, "total", "glotcc lora published").value == pytest.approx((78.09 + 55.93) / 2)
    assert cell(found, "total", "glotcc lora published").notes == ("over the languages shown, 2",)


def test_missing_runs_are_shown_and_not_averaged_over(maker: RecordMaker):
    table, settings = table15("mt,yo,ug")
    for job in table.jobs:
        if (job.choices["lang"], job.column) == ("yo", "glotcc/lora") or (job.choices["lang"], job.choices["seed"]) == ("ug", 2):
            continue
        maker.write(job, 0.5)
    found = shown(settings, maker, test=False)
    assert isinstance(cell(found, "yo", "glotcc lora ours"), Missing)
    assert cell(found, "ug", "none ours").notes == ("1 of 2 seeds",)
    for column in ("none", "glotcc lora"):  # over the languages that both columns have
        assert cell(found, "total", f"{column} ours").notes == ("over 2 of 3 languages: without yo",)
        assert cell(found, "total", f"{column} published").notes == ("over 2 of 3 languages: without yo",)
    assert cell(found, "total", "none published").value == pytest.approx((69.86 + 23.40) / 2)
    assert "Ours: 8 of 12 runs" in " ".join(found.remarks)


def test_other_settings_are_other_runs(maker: RecordMaker):
    table, settings = table15("mt", "none")
    for job in table.jobs:
        maker.write(job, 0.5, train__task__epochs=99)
    found = shown(settings, maker, test=False)
    assert [head.name for head in found.columns] == ["lang", "published"]
    assert "2 runs have other settings: train.task.epochs 99 → 20." in found.remarks


def test_what_is_not_in_force_does_not_matter(maker: RecordMaker):
    """A baseline that was first made by a sweep over another source of text, and on another machine."""
    table, settings = table15("mt", "none")
    for job in table.jobs:
        maker.write(job, 0.5, data__name="conceptnet", train__language__loop__steps=7, train__task__micro_batch_size=4)
    assert cell(shown(settings, maker, test=False), "mt", "none ours").value == pytest.approx(50.0)


def test_settings_of_machines_are_those_that_no_fingerprint_holds():
    loop = {field.name for field in dataclasses.fields(LoopSettings) if not field.metadata.get("identity", True)}
    assert loop == MACHINE_SETTINGS


def test_records_that_lie_are_kept_out_and_named(maker: RecordMaker):
    table, settings = table15("mt,yo", "none")
    folders = [maker.write(job, 0.5) for job in table.jobs]
    text = (folders[0] / RECORD).read_text()
    (folders[0] / RECORD).write_text(re.sub(r'"macro_f1": [\d.]+', '"macro_f1": 0.99', text))  # edited by hand
    lied = json.loads((folders[1] / RECORD).read_text())
    lied["payload"]["fields"]["seed"] = 7
    (folders[1] / RECORD).write_text(json.dumps(lied))  # edited with its checksum, but not its fingerprint
    manifest = json.loads((folders[1] / MANIFEST).read_text())
    manifest["files"][RECORD]["sha256"] = hash_file(folders[1] / RECORD)
    (folders[1] / MANIFEST).write_text(json.dumps(manifest))
    found = shown(settings, maker, test=False)
    remarks = " ".join(found.remarks)
    assert f"Kept out: {folders[0].name}: result.json was changed after it was stored." in remarks
    assert f"Kept out: {folders[1].name}: its fingerprint is not that of what it says it is." in remarks
    assert isinstance(cell(found, "yo", "none ours"), Missing)  # the table has Yoruba before Maltese
    assert cell(found, "mt", "none ours").value == pytest.approx(50.0)


def test_a_record_from_another_revision_is_kept_out(maker: RecordMaker):
    table, settings = table15("mt", "none,lora")
    folders = [maker.write(job, 0.5, revision="old" if number == 0 else "new") for number, job in enumerate(table.jobs)]
    found = shown(settings, maker, test=False)
    assert cell(found, "mt", "none ours").notes == ("1 of 2 seeds",)
    assert f"Kept out: {folders[0].name}: Davlan/sib200 mt was read in revision old, by the others in new." in found.remarks


def test_a_record_that_cannot_be_read_is_named(maker: RecordMaker):
    table, settings = table15("mt", "none")
    folders = [maker.write(job, 0.5) for job in table.jobs]
    (folders[0] / RECORD).write_text("{")
    assert any(folders[0].name in remark for remark in shown(settings, maker, test=False).remarks)


def test_a_chance_gain_is_not_marked(maker: RecordMaker):
    table, settings = table15("mt", "none,lora")
    for job in table.jobs:
        maker.write(job, 0.5)
    found = shown(settings, maker)
    assert cell(found, "mt", "glotcc lora ours").mark == ""
    assert (maker.store / ".gains.json").is_file()
    assert shown(settings, maker) == found  # from what was kept


def test_the_list_says_all(maker: RecordMaker):
    table, settings = table15("mt", "none,lora")
    for job in table.jobs:
        maker.write(job, 0.9 if job.column != "none" else 0.4)
    found = shown(settings, maker, as_list=True)
    line = next(row for row in found.rows if row.cells[0].text() == "glotcc/lora")
    texts = [one.text() for one in line.cells]
    assert texts[:5] == ["glotcc/lora", "mt", "78.09", "90.00 ± 0.00", "2"]
    assert texts[7] == "+50.00" and line.cells[7].mark == "†" and line.cells[9].value < 0.001


def test_invented_languages_have_a_mean(maker: RecordMaker):
    settings = ["lang=qaa,qab", "seed=0", "method=none", "model=miniature", "task=mini_topic", "train=demo"]
    for number, job in enumerate(read(TABLE15, settings).jobs):
        maker.write(job, 0.5 + 0.1 * number)
    found = shown(settings, maker, test=False)
    assert [row.cells[0].text() for row in found.rows] == ["qaa", "qab", "mean"]
    assert [head.name for head in found.columns] == ["lang", "ours"]  # of which no paper has printed anything
    assert not any("Published" in remark for remark in found.remarks)
    assert cell(found, "mean", "none ours").value == pytest.approx(55.0)


def test_no_store(tmp_path: Path):
    with pytest.raises(UserError, match="holds no evaluations"):
        compared(TABLE15, ["lang=mt", "method=none"], [tmp_path])
    table = compared(TABLE15, ["lang=mt", "method=none", f"paths.outputs={tmp_path}"])[0]  # nothing was run yet
    assert [head.name for head in table.columns] == ["lang", "published"] and "Ours: 0 of 3 runs" in " ".join(table.remarks)


def test_correlations_printed_recomputed_and_ours(maker: RecordMaker):
    for number, job in enumerate(read(TABLE15, ["seed=1", "method=none"]).jobs):
        maker.write(job, 0.3 + 0.02 * number)
    table = compared("gurgurov2025/table17", ["seed=1"], [maker.store])[0]
    texts = [[one.text() for one in row.cells] for row in table.rows]
    before = texts[0]
    assert before[:3] == ["mBERT", "TC", "pre-adapt"] and before[4:6] == ["0.35", "0.41"]
    assert float(before[6].replace("−", "-")) < 0  # the languages stand from much text to little
    assert texts[1][6] == "–"  # nothing was run with Seq_bn_inv
    assert table.rows[0].cells[4].notes == ("comes out of none of the printed numbers",)
    assert "MB of ConceptNet, as if they were GB" in table.rows[2].cells[4].notes[0]


def test_table_12_says_what_its_rows_are(maker: RecordMaker):
    (maker.store / "evaluation").mkdir(parents=True)
    table = compared("gurgurov2025/table12", [], [maker.store])[0]
    row = table.rows[0]
    assert [one.text() for one in row.cells[:6]] == [
        "mBERT", "MLM", "pre-adapt", "pseudo-perplexity before adaptation and GB of pretraining text", "−0.37", "−0.51",
    ]  # fmt: skip
    assert row.cells[4].notes == ("is the correlation of pseudo-perplexity after Seq_bn (Glot) and GB of pretraining text",)


def test_all_tables_are_listed():
    assert "gurgurov2025/table15" in overview()


def test_records_are_read_only_where_they_can_be_of_use(maker: RecordMaker):
    """Of 300 records, those of other languages and tasks are not opened: a table of few cells stays quick."""
    table, settings = table15("mt", "none")
    for number in range(3):
        job = table.jobs[0]
        maker.write(Job(job.block, f"other{number}", {**job.choices, "lang": "yo"}), 0.5)
    for job in table.jobs:
        maker.write(job, 0.5)
    for folder in (maker.store / "evaluation").iterdir():
        if "-yo-" in folder.name:
            (folder / RECORD).write_text("{")  # would be named if it were read
    found = compare(table, settings, [maker.store])
    assert not found.refused and len(found.cells) == 1


SHIPPED = [line.split()[0] for line in overview().splitlines() if "(waits for" not in line and "correlations of" not in line]


def test_every_printed_table_is_run_or_waits_for_something():
    assert set(names()) == set(printed.names())
    assert len(SHIPPED) == 20
    for name, message in (("ansell2024/table3.2", "waits for generated adapters"), ("gurgurov2025/table17", "run .paper=")):
        assert name not in SHIPPED
        with pytest.raises(UserError, match=message):
            read(name).check_runnable()


@pytest.mark.parametrize("name", SHIPPED)
def test_columns_are_printed_rows(name: str):
    """Every column and block names exactly one printed row, which has its languages and was not named by another one."""
    published, table = printed.table(name), read(name)
    rows = [published.row(**part.published) for part in table.parts]
    assert len({id(row) for row in rows}) == len(rows)
    for part, row in zip(table.parts, rows, strict=True):
        assert row.languages
        missing = set(part.languages) - set(published.languages)
        assert missing == ({"su"} if name == "gurgurov2025/table16" else set()), (part, missing)
    own = {(job.block, job.column, *job.overrides()) for job in table.jobs}
    assert len(own) == len(table.jobs)


@pytest.mark.long
@pytest.mark.parametrize("name", SHIPPED)
def test_every_column_can_be_planned(name: str):
    """The graph of one run of each column can be drawn: no choice or setting is misspelt, and they go together."""
    firsts = {(job.block, job.column): job for job in reversed(read(name).jobs)}.values()
    for job in firsts:
        Experiment.from_config(compose(normalised(job.overrides())), online=False).evaluations  # noqa: B018


# ---- beside a run's score


def test_the_published_score_stands_beside_a_runs(maker: RecordMaker):
    job = next(job for job in read(TABLE15, ["lang=mt", "seed=1"]).jobs if job.column == "glotcc/lora")
    record = json.loads((maker.write(job, 0.5) / RECORD).read_text())
    assert [str(score) for score in published_scores(record)] == ["macro_f1 0.781 (gurgurov2025/table15)"]
    other = json.loads((maker.write(job, 0.5, train__task__epochs=3) / RECORD).read_text())
    assert [str(score) for score in published_scores(other)] == [
        "macro_f1 0.781 (gurgurov2025/table15, other settings there: train.task.epochs 3 → 20)"
    ]


def test_no_published_score_for_a_setting_that_no_paper_has(maker: RecordMaker):
    job = read(TABLE15, ["lang=mt", "seed=1"]).jobs[0]
    record = json.loads((maker.write(job, 0.5) / RECORD).read_text())
    assert len(published_scores(record)) == 1
    assert published_scores({**record, "lang": "en"}) == []
    assert published_scores({**record, "model": "miniature"}) == []
    assert published_scores({**record, "task": "mini_topic"}) == []


# ---- for other tools


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_records_as_one_table(maker: RecordMaker, tmp_path: Path, ending: str):
    table, _ = table15("mt", "none,lora")
    folders = [maker.write(job, 0.5) for job in table.jobs]
    (folders[0] / RECORD).write_text((folders[0] / RECORD).read_text().replace('"test_size": 60', '"test_size": 61'))
    file = tmp_path / f"records.{ending}"
    assert export(Stores([maker.store]), file) == 4
    rows = (read_csv(file) if ending == "csv" else parquet.read_table(file)).to_pylist()
    by_path = {row["path"]: row for row in rows}
    one = by_path[str(folders[-1] / RECORD)]
    assert (one["model"], one["method"], one["lang"], one["seed"], one["macro_f1"]) == ("mbert", "lora", "mt", 2, 0.5)
    assert "changed after it was stored" in by_path[str(folders[0] / RECORD)]["problem"]
    assert not one["problem"]


def test_an_export_of_nothing_is_refused(maker: RecordMaker, tmp_path: Path):
    (maker.store / "evaluation").mkdir(parents=True)
    with pytest.raises(UserError, match="nothing to write"):
        export(Stores([maker.store]), tmp_path / "records.csv")
    with pytest.raises(UserError, match="neither"):
        export(Stores([maker.store]), tmp_path / "records.xlsx")
