"""Where labelled examples come from: splits, columns, classes and spellings; hub data sets, files, and the shipped choices."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, sentence, write_labelled_data

import xlt
from xlt.cli import compose
from xlt.config import build
from xlt.errors import UserError
from xlt.hub import Hub
from xlt.languages import Language, LanguageTable, load_languages
from xlt.random import generator
from xlt.tasks.base import LearntTask, Task
from xlt.tasks.data import FileData, HubData, LabelledData

LANGUAGES = load_languages()
MALTESE, YORUBA = LANGUAGES.find("mt"), LANGUAGES.find("yo")
ROWS = [{"number": number, "label": number % 2, "tags": [0, 1, number], "named": "b"} for number in range(10)]


@dataclass(frozen=True)
class ListedData(LabelledData):
    """The same rows in every split that it has."""

    known: list[str] | None = field(default_factory=lambda: ["learn", "dev", "try"])

    def revision(self, language: Language, languages: LanguageTable, hub: Hub) -> dict[str, Any]:
        return {}

    def available(self, language: Language, languages: LanguageTable, hub: Hub) -> list[str] | None:
        return self.known

    def read(self, language: Language, languages: LanguageTable, hub: Hub, split: str) -> list[dict[str, Any]]:
        assert split == "learn"
        return ROWS

    def describe(self, language: Language, languages: LanguageTable, split: str) -> str:
        return split


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """A hub whose mirror is the folder `mirror`."""
    (tmp_path / "mirror").mkdir(exist_ok=True)
    return Hub(tmp_path / "mirror", tmp_path / "memory")


def rows(data: LabelledData, split: str, hub: Hub | None = None, language: Language = MALTESE) -> list[dict[str, Any]]:
    return list(data.rows(language, LANGUAGES, hub, split))


def choice(name: str, *overrides: str) -> Task:
    """The task of a file in conf/task."""
    return build(compose([f"task={name}", "lang=mt", *overrides]).task, "task", Task)


# ---- splits


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"train": "learn", "validation": "dev", "test": "try"}, {"train": "learn", "validation": "dev", "test": "try"}),
        ({"train": "train", "validation": "dev", "test": None}, {"validation": "dev"}),
        ({"train": ["train", "learn", "dev"], "test": ["test"]}, {"train": "learn"}),
        ({"train": "dev[10:]", "test": ["test[:5]", "dev[:5]"]}, {"train": "dev[10:]", "test": "dev[:5]"}),
        ({"test": "try", "train": "learn"}, {"train": "learn", "test": "try"}),
    ],
    ids=["own names", "one that is not there", "the first that is there", "slices", "in our order"],
)
def test_splits_that_there_are(splits: dict[str, Any], expected: dict[str, str]) -> None:
    present = ListedData(splits=splits).present(MALTESE, LANGUAGES, None)
    assert list(present.items()) == list(expected.items())
    assert ListedData(splits=splits, known=None).present(MALTESE, LANGUAGES, None) is None


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("learn", range(10)), ("learn[:3]", range(3)), ("learn[7:]", range(7, 10)), ("learn[2:4]", range(2, 4)),
        ("learn[:]", range(10)), ("learn[8:99]", range(8, 10)), ("learn[20:]", ()), ("learn[4:2]", ()),
    ],
)  # fmt: skip
def test_slices(split: str, numbers: Any) -> None:
    assert [row["number"] for row in rows(ListedData(), split)] == list(numbers)


@pytest.mark.parametrize("split", ["learn[3]", "learn[-3:]", "learn[1:2:3]", "learn[a:]", "learn[:10%]", "learn[:", "[:3]"])
def test_slices_that_are_none(split: str) -> None:
    with pytest.raises(UserError, match=r"task\.data\.splits: .* is neither a split nor a slice"):
        rows(ListedData(), split)


# ---- classes and spelling


def test_numbers_get_the_names_of_their_classes() -> None:
    """In lists too; what is a name already, or a number without a name, stays as it is."""
    classes = {"label": ["no", "yes"], "tags": ["O", "B"], "named": ["a", "b"], "missing": ["c", "d"]}
    read = rows(ListedData(classes=classes), "learn")
    assert [row["label"] for row in read] == ["no", "yes"] * 5
    assert [row["tags"] for row in read[:3]] == [["O", "B", "O"], ["O", "B", "B"], ["O", "B", 2]]
    assert {row["named"] for row in read} == {"b"}
    assert read[3].keys() == ROWS[3].keys()
    assert rows(ListedData(classes={"number": ["zero"]}), "learn[:2]")[1]["number"] == 1
    assert ROWS[0]["label"] == 0, "the source's own rows are left alone"


def test_spelling() -> None:
    data = ListedData(spelling={"0": "negative", "pos": "positive"})
    assert [data.spelled(label) for label in (0, "0", "pos", "positive", 7)] == ["negative"] * 2 + ["positive"] * 2 + ["7"]


# ---- hub data sets


def write_parts(folder: Path, **configs: dict[str, int]) -> Path:
    """A data set in the layout of a hub clone, with numbers for labels; of each configuration the splits and their sizes."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, size in splits.items():
            path = folder / config / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps({"text": f"{config} {i}", "label": i % 2}) + "\n" for i in range(size)))
            lines += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
    lines.append("dataset_info:")
    for config in configs:
        lines += [
            f"- config_name: {config}", "  features:", "  - name: text", "    dtype: string", "  - name: label", "    dtype:",
            "      class_label:", "        names:", *(f"          '{n}': {label}" for n, label in enumerate(LABELS)),
        ]  # fmt: skip
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


@pytest.fixture
def parts(hub: Hub) -> HubData:
    """A data set with a configuration for Maltese and two for Yoruba."""
    folder = hub.mirror / "org" / "parts"
    write_parts(folder, mlt={"train": 3, "test": 2}, one={"test": 2}, two={"train": 4, "test": 3})
    return HubData(id="org/parts", configs={"mt": "mlt", "yo": "one+two"})


def test_a_configuration_for_each_language(parts: HubData, hub: Hub) -> None:
    assert parts.present(MALTESE, LANGUAGES, hub) == {"train": "train", "test": "test"}
    assert [row["text"] for row in rows(parts, "train", hub)] == ["mlt 0", "mlt 1", "mlt 2"]
    assert parts.describe(MALTESE, LANGUAGES, "train[:2]") == "org/parts, mlt, train[:2]"
    assert parts.revision(MALTESE, LANGUAGES, hub).keys() == {"id", "config", "content"}
    with pytest.raises(UserError, match=r"org/parts has no Welsh \(cy\); it has: mt, yo\..*source_task="):
        parts.revision(LANGUAGES.find("cy"), LANGUAGES, hub)


def test_configurations_that_are_read_one_after_the_other(parts: HubData, hub: Hub) -> None:
    """A split that one of them lacks is that of the others."""
    assert parts.present(YORUBA, LANGUAGES, hub) == {"train": "train", "test": "test"}
    assert [row["text"] for row in rows(parts, "test", hub, YORUBA)] == ["one 0", "one 1", "two 0", "two 1", "two 2"]
    assert [row["text"] for row in rows(parts, "test[1:3]", hub, YORUBA)] == ["one 1", "two 0"]
    assert [row["text"] for row in rows(parts, "train", hub, YORUBA)] == [f"two {number}" for number in range(4)]
    revision = parts.revision(YORUBA, LANGUAGES, hub)
    assert [revision[part]["config"] for part in ("part0", "part1")] == ["one", "two"]


def test_a_column_of_the_language_table_names_configurations(hub: Hub) -> None:
    write_labelled_data(hub.mirror / "tiny" / "topics")
    data = HubData(id="tiny/topics", language_column="flores")
    assert len(rows(data, "test", hub)) == 40
    with pytest.raises(UserError, match=r"tiny/topics does not have Otomi"):
        data.revision(LANGUAGES.find("oto"), LANGUAGES, hub)
    with pytest.raises(UserError, match=r"no configuration cym_Latn.*mlt_Latn"):
        data.revision(LANGUAGES.find("cy"), LANGUAGES, hub)
    elsewhere = replace(data, configs={"cy": "yor_Latn"})
    assert rows(elsewhere, "test", hub, LANGUAGES.find("cy")) == rows(data, "test", hub, YORUBA), "configs= goes before"


def test_languages_by_our_own_keys(hub: Hub) -> None:
    write_parts(hub.mirror / "org" / "keys", mt={"test": 2})
    assert len(rows(HubData(id="org/keys", language_column="key"), "test", hub)) == 2


def test_a_data_set_for_each_language(hub: Hub) -> None:
    """Its name is in the id, and it has no configurations: its splits are those that file names tell."""
    folder = hub.mirror / "org" / "maltese_sa"
    folder.mkdir(parents=True)
    for name, labels in (("train", "01"), ("dev", "10"), ("test", "11")):
        (folder / f"{name}.csv").write_text("text,label\n" + "".join(f"ba bu,{label}\n" for label in labels))
    task = choice("sentiment", "task.data.id=org/@lang_sa")
    assert task.data.describe(MALTESE, LANGUAGES, "test") == "org/maltese_sa, test"
    assert task.data.revision(MALTESE, LANGUAGES, hub).keys() == {"id", "config", "content"}
    examples = task.examples(MALTESE, LANGUAGES, hub)
    assert {split: [example["label"] for example in chosen] for split, chosen in examples.items()} == {
        "train": ["negative", "positive"], "validation": ["positive", "negative"], "test": ["positive"] * 2,
    }  # fmt: skip


def test_classes_are_held_against_those_that_the_data_set_declares(parts: HubData, hub: Hub) -> None:
    named = replace(parts, classes={"label": list(LABELS)})
    assert [row["label"] for row in rows(named, "train", hub)] == [LABELS[0], LABELS[1], LABELS[0]]
    turned = replace(parts, classes={"label": list(reversed(LABELS))})
    with pytest.raises(UserError, match=r"declares the classes kiki, bouba in the column label.*says bouba, kiki"):
        rows(turned, "train", hub)
    undeclared = replace(parts, classes={"text": ["a", "b"]})
    assert rows(undeclared, "train[:1]", hub)[0]["text"] == "mlt 0", "where it declares nothing, there is nothing to compare"


def test_what_the_network_alone_knows(tmp_path: Path) -> None:
    offline = Hub(None, tmp_path, online=False)
    data = HubData(id="org/somewhere", configs={"mt": "mlt"})
    assert data.available(MALTESE, LANGUAGES, offline) is None
    assert data.revision(MALTESE, LANGUAGES, offline) == {"id": "org/somewhere", "config": "mlt", "revision": None}


# ---- files

TABLE = [{"text": 'ba "be", bi', "label": "kiki"}, {"text": "bo\tbu", "label": "bouba"}, {"text": "ħobż", "label": "kiki"}]


def files(path: Path | str, **changes: Any) -> FileData:
    return FileData(**{"path": str(path), "columns": {"text": "text", "label": "label"}} | changes)


def write_table(path: Path, delimiter: str, encoding: str = "utf-8") -> Path:
    quoted = [[f'"{value.replace(chr(34), chr(34) * 2)}"' for value in row.values()] for row in TABLE]
    path.write_text("\n".join(delimiter.join(row) for row in [["text", "label"], *quoted]) + "\n", encoding=encoding)
    return path


def test_formats(tmp_path: Path) -> None:
    """CSV and TSV with a header, JSON lines; with or without a byte order mark."""
    write_table(tmp_path / "train.csv", ",")
    write_table(tmp_path / "train.tsv", "\t")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TABLE))
    for name in ("train.csv", "train.tsv", "train.jsonl"):
        assert rows(files(tmp_path / name), "train") == TABLE
    write_table(tmp_path / "train.csv", ",", "utf-8-sig")
    assert rows(files(tmp_path / "train.csv"), "train[1:]") == TABLE[1:]


def test_files_by_language_and_split(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "mt").mkdir()
    for split in ("train", "dev"):
        write_table(tmp_path / "mt" / f"{split}.csv", ",")
    data = files(
        f"{tmp_path}/@lang/@split.csv", splits={"train": "train", "validation": ["validation", "dev"], "test": "dev[2:]"}
    )
    assert data.present(MALTESE, LANGUAGES, hub) == {"train": "train", "validation": "dev", "test": "dev[2:]"}
    assert rows(data, "dev[2:]", hub) == TABLE[2:]
    assert data.describe(MALTESE, LANGUAGES, "dev[2:]") == f"{tmp_path}/mt/dev.csv"
    with pytest.raises(UserError, match=r"there is none of the files .*/yo/train\.csv, .*/yo/validation\.csv, .*/yo/dev\.csv"):
        data.revision(YORUBA, LANGUAGES, hub)


def test_files_are_known_by_their_content(tmp_path: Path, hub: Hub) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_table(tmp_path / folder / "test.csv", ",")
    first, second = (files(tmp_path / folder / "@split.csv") for folder in "ab")
    assert first.revision(MALTESE, LANGUAGES, hub) == second.revision(MALTESE, LANGUAGES, hub)
    assert first.revision(MALTESE, LANGUAGES, hub).keys() == {"test"}
    (tmp_path / "b" / "test.csv").write_text("text,label\nba,kiki\nbe,bouba\n")
    assert first.revision(MALTESE, LANGUAGES, hub) != second.revision(MALTESE, LANGUAGES, hub)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("train.txt", b"ba\n", r"xlt does not read \.txt.*\.csv"),
        ("train", b"ba\n", r"files without an extension"),
        ("train.jsonl", b'{"text": "ba"}\n{broken\n', r"train\.jsonl, line 2: not JSON"),
        ("train.jsonl", b'{"text": "ba"}\n["ba"]\n', r"train\.jsonl, line 2: not a JSON object"),
        ("train.csv", "text,label\nħobż,kiki\n".encode("utf-16"), r"train\.csv is not UTF-8"),
        ("train.jsonl", b'{"text": "\xff"}\n', r"train\.jsonl is not UTF-8"),
        ("train.tsv", b'text\tlabel\n"ba" be\tkiki\n', r"not a table with one row a line.*quotation mark"),
        ("train.tsv", b'text\tlabel\n"ba be\tkiki\nbo\tbouba\n', r"not a table with one row a line.*quotation mark"),
    ],
    ids=["text", "no format", "half a line", "a list", "UTF-16", "Latin-1", "quote in the middle", "quote without end"],
)
def test_files_that_are_no_tables(name: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    """A quotation mark that is not closed would otherwise swallow the rows behind it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        rows(files(tmp_path / name), "train")


def test_one_file_holds_one_split_or_slices_of_one(tmp_path: Path, hub: Hub) -> None:
    path = write_table(tmp_path / "all.csv", ",")
    with pytest.raises(UserError, match=r"task\.data\.path=.*all\.csv names one file for the splits train, validation, test"):
        files(path).verify("task.data")
    data = files(path, splits={"train": "all[:2]", "validation": None, "test": "all[2:]"})
    data.verify("task.data")
    assert [rows(data, name, hub) for name in data.present(MALTESE, LANGUAGES, hub).values()] == [TABLE[:2], TABLE[2:]]


def test_a_task_on_files_of_one_s_own(overrides: list[str], tmp_path: Path) -> None:
    """From the command line to the record, with labels that the files spell otherwise and without a validation split."""
    (tmp_path / "mt").mkdir()
    draw = generator("files")
    for split, size in (("train", 40), ("test", 12)):
        lines = [f"{sentence(draw, first='ba' if number % 2 else 'ki')}\t{number % 2}" for number in range(size)]
        (tmp_path / "mt" / f"{split}.tsv").write_text("\n".join(["review\tstars", *lines]) + "\n")
    others = [text for text in overrides if not text.startswith("task.")]
    record = xlt.run(
        *others, "method=none", "task=labelled_files", "task.name=reviews", f"task.data.path={tmp_path}/@lang/@split.tsv",
        "task.labels=[kiki,bouba]", "task.data.columns.text=review", "task.data.columns.label=stars",
        "+task.data.spelling.0=kiki", "+task.data.spelling.1=bouba",
    )  # fmt: skip
    assert (record["task"], record["test_size"]) == ("reviews", 12)
    predictions = [json.loads(line) for line in record.predictions_path.read_text().splitlines()]
    assert [(row["id"], row["gold"]) for row in predictions] == [(str(n), LABELS[n % 2]) for n in range(12)]


# ---- the shipped choices

CLASSIFICATION = ("sib200", "sentiment", "nusax", "smsa")
ENTAILMENT = ("xnli", "multinli", "americasnli")
KEYS = {
    "sentiment": "am az bg bn bo ckb cy da el he id ig jv ka lv mk mr mt ne ro si sk sl su sw te th ug ur uz yo",
    "smsa": "id",
    "xnli": "ar bg de el en es fr hi ru sw th tr ur vi zh",
    "multinli": "en",
}


def languages_of(data: HubData) -> Iterator[str]:
    """The keys of the languages that a data set has according to its settings and the table."""
    for key, language in LANGUAGES.languages.items():
        if key in data.configs or (data.language_column and data.language_column in language.codes):
            yield key


@pytest.mark.parametrize("name", [*CLASSIFICATION, *ENTAILMENT])
def test_choices_name_languages_that_there_are(name: str) -> None:
    data = choice(name).data
    assert set(data.configs) <= set(LANGUAGES.languages)
    columns = {"sib200": "flores", "nusax": "nusax", "americasnli": "americasnli"}
    expected = KEYS[name].split() if name in KEYS else [
        key for key, language in LANGUAGES.languages.items() if columns[name] in language.codes
    ]  # fmt: skip
    assert sorted(languages_of(data)) == sorted(expected)
    if name in ("nusax", "americasnli"):
        assert len(expected) == {"nusax": 12, "americasnli": 10}[name]


def test_sentiment_has_a_data_set_for_each_language() -> None:
    """Called as the language is in the table; Kurdish is Sorani there, and Indonesian is not Malay."""
    data = choice("sentiment").data
    names = {key: LANGUAGES.languages[key].name.lower() for key in data.configs}
    assert data.configs == names | {"ckb": "kurdish"}
    assert len(set(data.configs.values())) == 31
    assert "ms" not in data.configs
    assert data.describe(LANGUAGES.find("id"), LANGUAGES, "test") == "DGurgurov/indonesian_sa, test"
    malay = choice("sentiment", "+task.data.configs.ms=indonesian").data
    assert malay.describe(LANGUAGES.find("ms"), LANGUAGES, "test") == "DGurgurov/indonesian_sa, test"


@pytest.mark.parametrize(
    ("name", "sources"), [("nusax", ["smsa"]), ("americasnli", ["xnli", "multinli"]), ("xnli", ["multinli"])]
)
def test_labels_are_learnt_elsewhere(name: str, sources: list[str]) -> None:
    task = choice(name)
    assert isinstance(task, LearntTask)
    for source in sources:
        task.check_source(choice(source))
    with pytest.raises(UserError, match="source_task=sib200"):
        task.check_source(choice("sib200"))


def test_the_same_labels_in_another_order_are_told_apart(hub: Hub) -> None:
    """SmSA counts from positive, NusaX from negative: names, not numbers, are what a head learns."""
    for name, config in (("indonlp/indonlu", "smsa"), ("indonlp/NusaX-senti", "ind")):
        folder = hub.mirror / name / config
        folder.mkdir(parents=True)
        content = "".join(json.dumps({"id": n, "text": "ba", "label": n}) + "\n" for n in range(3))
        (folder / "test.jsonl").write_text(content)
        header = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: test\n    path: {config}/test.jsonl\n---\n"
        (folder.parent / "README.md").write_text(header)
    indonesian = LANGUAGES.find("id")
    smsa, nusax = (choice(name).examples(indonesian, LANGUAGES, hub)["test"] for name in ("smsa", "nusax"))
    assert [example["label"] for example in smsa] == ["positive", "neutral", "negative"]
    assert [example["label"] for example in nusax] == ["negative", "neutral", "positive"]


def test_entailment_in_an_invented_language(overrides: list[str], hub: Hub) -> None:
    arguments = ["lang=qaa", "model=miniature", "data=miniature", "method=none", "train=quick", "train.task.epochs=1"]
    arguments += [text for text in overrides if text.startswith(("paths.", "device"))]
    sizes = ["task.data.sizes.train=30", "task.data.sizes.validation=15", "task.data.sizes.test=60"]
    record = xlt.run(*arguments, "task=mini_entailment", *sizes)
    assert record["test_size"] == 60
    task = choice("mini_entailment")
    languages = LANGUAGES.with_rows(task.data.world.table_rows())
    examples = task.examples(languages.find("qaa"), languages, hub)
    assert {split: len(chosen) for split, chosen in examples.items()} == task.data.sizes
    for chosen in examples.values():
        assert Counter(example["label"] for example in chosen) == dict.fromkeys(task.labels, len(chosen) / 3)
        assert all(example["premise"] and example["hypothesis"] for example in chosen)
    first = [json.loads(line)["gold"] for line in record.predictions_path.read_text().splitlines()]
    assert first == [example["label"] for example in examples["test"][:60]]
