"""The table of languages: keys, aliases, data sets' spellings, and the user's own rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from xlt.config import check_name
from xlt.errors import UserError
from xlt.languages import LanguageTable, load_languages

TABLE = load_languages()


def own_table(folder: Path, *lines: str) -> LanguageTable:
    path = folder / "languages.csv"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return load_languages(str(path))


# ---- keys


def test_a_key_is_iso1_where_unique_else_iso3() -> None:
    times = Counter(language.iso1 for language in TABLE.languages.values())
    for key, language in TABLE.languages.items():
        assert key == language.key == (language.iso1 if language.iso1 and times[language.iso1] == 1 else language.iso3)
    assert {"mt", "en", "yo"} <= TABLE.languages.keys()
    assert {"ckb", "kmr"} <= TABLE.languages.keys() and "ku" not in TABLE.languages  # two share one ISO 639-1 code
    assert any(not language.iso1 for language in TABLE.languages.values())


def test_every_language_is_found_by_its_key_and_iso3() -> None:
    for key, language in TABLE.languages.items():
        assert TABLE.find(key) is language
        assert TABLE.find(language.iso3) is language


def test_every_code_can_be_part_of_a_folder_name() -> None:
    for language in TABLE.languages.values():
        for code in (language.key, language.iso3, *language.codes.values()):
            assert check_name(code, language.name) == code


def test_two_rows_of_one_key_are_refused() -> None:
    rows = [{"iso3": "aaa", "name": "One"}, {"iso3": "aaa", "name": "Two"}]
    with pytest.raises(UserError, match="holds aaa twice: One and Two"):
        LanguageTable(rows)


# ---- finding


@pytest.mark.parametrize("alias", ["mt", "mlt", "mlt_Latn", "mlt-Latn", "MLT", "mlt_latn", "mt_mudt"])
def test_aliases(alias: str) -> None:
    assert TABLE.find(alias).key == "mt"


def test_a_key_comes_before_the_spellings_of_others() -> None:
    """A data set files Indonesian under `ms`, which is Malay's key."""
    assert TABLE.find("id").codes["conceptnet"] == "ms"
    assert TABLE.find("ms").name == "Malay"


@pytest.mark.parametrize("code", ["ku", "KU"])
def test_an_ambiguous_code_is_refused_with_its_candidates(code: str) -> None:
    with pytest.raises(UserError, match=rf"lang={code} is ambiguous.*ckb \(Kurdish .*\) or kmr \(Kurdish .*\)"):
        TABLE.find(code)


@pytest.mark.parametrize(
    ("code", "suggestion"),
    [("maltese", r"mt \(Maltese\)"), ("Maltesse", r"mt \(Maltese\)"), ("Yorubaa", r"yo \(Yoruba\)"), ("mtt", "mt")],
)
def test_suggestions_for_an_unknown_code(code: str, suggestion: str) -> None:
    with pytest.raises(UserError, match=rf"lang={code} is not in the table.*Did you mean [^?]*{suggestion}.*paths\.languages"):
        TABLE.find(code)


# ---- spellings of data sets


def test_spellings() -> None:
    maltese = TABLE.find("mt")
    assert TABLE.code(maltese, "flores", "sib200") == "mlt_Latn"
    assert TABLE.code(maltese, "glotcc", "glotcc") == "mlt-Latn"
    assert TABLE.code(maltese, "key", "own") == "mt"


def test_a_language_that_a_data_set_lacks() -> None:
    """The message names relatives that it has."""
    rows = [
        {"iso3": "mlt", "name": "Maltese", "genus": "Semitic", "tiny": ""},
        {"iso3": "amh", "name": "Amharic", "genus": "Semitic", "tiny": "am"},
        {"iso3": "tir", "name": "Tigrinya", "genus": "Semitic", "tiny": ""},
        {"iso3": "eng", "name": "English", "genus": "Germanic", "tiny": "en"},
    ]
    table = LanguageTable(rows)
    with pytest.raises(
        UserError, match=r"tiny/set does not have Maltese \(lang=mlt\).*relatives there are amh \(Amharic\)\."
    ) as error:
        table.code(table.find("mlt"), "tiny", "tiny/set")
    assert "tir" not in str(error.value)
    assert "languages that it has are: amh, eng" in str(error.value)


def test_a_language_without_a_genus_has_no_relatives() -> None:
    table = LanguageTable([{"iso3": "aaa", "name": "One"}, {"iso3": "bbb", "name": "Two", "tiny": "b"}])
    with pytest.raises(UserError) as error:
        table.code(table.find("aaa"), "tiny", "tiny/set")
    assert "relatives" not in str(error.value)


# ---- what the backbones saw


def test_pretraining() -> None:
    thai, maltese = TABLE.find("th"), TABLE.find("mt")
    assert thai.seen == {"mbert": True, "xlmr": True}
    assert maltese.seen == {"mbert": False, "xlmr": False}
    assert thai.pretraining_gigabytes == {"mbert": 1.29, "xlmr": 85.24}
    assert maltese.pretraining_gigabytes == {}


# ---- the user's own rows


def test_own_rows_extend_the_table(tmp_path: Path) -> None:
    table = own_table(tmp_path, "iso3,name,flores", "qaa,Kikian,kik_Latn")
    assert len(table.languages) == len(TABLE.languages) + 1
    language = table.find("kik_Latn")
    assert (language.key, language.name, language.script, language.seen) == ("qaa", "Kikian", "", {})
    assert table.find("mlt_Latn").key == "mt"


def test_own_rows_replace_those_of_the_same_language(tmp_path: Path) -> None:
    table = own_table(tmp_path, "iso1,iso3,name,flores", "mt,mlt,Malti,mlt_Arab")
    assert len(table.languages) == len(TABLE.languages)
    assert table.find("mt").name == "Malti"
    assert table.find("mlt_Arab").key == "mt"
    with pytest.raises(UserError, match="not in the table"):
        table.find("mlt-Latn")


def test_own_rows_bring_their_own_data_sets(tmp_path: Path) -> None:
    table = own_table(tmp_path, "iso1,iso3,name,my_set", "mt,mlt,Maltese,malti")
    assert table.code(table.find("mt"), "my_set", "mine") == "malti"
    with pytest.raises(UserError, match="mine does not have English"):
        table.code(table.find("en"), "my_set", "mine")


@pytest.mark.parametrize(("line", "column"), [("qaa,", "name"), (",Kikian", "iso3"), ("qaa,  ", "name")])
def test_own_rows_without_iso3_or_name(line: str, column: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"has no {column}\..*iso3 and name are required"):
        own_table(tmp_path, "iso3,name", line)


@pytest.mark.parametrize("code", ["../../etc", "a/b", "-x", "a b", "x" * 65])
def test_own_codes_cannot_lead_out_of_a_folder(code: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Kikian, flores.*cannot be a name"):
        own_table(tmp_path, "iso3,name,flores", f"qaa,Kikian,{code}")


def test_an_own_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        load_languages(str(tmp_path / "missing.csv"))


# ---- further rows

ROWS = [
    {"iso3": "qaa", "name": "Kikian", "script": "Latn", "genus": "Boubic", "tiny": "kik"},
    {"iso3": "qab", "name": "Boubian", "genus": "Boubic"},
]


def test_further_rows_extend_the_table() -> None:
    table = TABLE.with_rows(ROWS)
    assert table.languages.keys() - TABLE.languages.keys() == {"qaa", "qab"}
    language = table.find("kik")
    assert (language.key, language.name, language.script, language.codes) == ("qaa", "Kikian", "Latn", {"tiny": "kik"})
    assert table.code(language, "tiny", "tiny/set") == "kik"
    with pytest.raises(UserError, match=r"tiny/set does not have Boubian.*relatives there are qaa \(Kikian\)"):
        table.code(table.find("qab"), "tiny", "tiny/set")
    for key, other in TABLE.languages.items():
        assert table.languages[key] == other
    assert table.find("mlt_Latn").key == "mt"


def test_further_rows_leave_the_table_itself_alone() -> None:
    before = dict(TABLE.languages)
    rows = [dict(row) for row in ROWS]
    TABLE.with_rows(rows)
    assert TABLE.languages == before
    assert rows == ROWS
    for code in ("qaa", "qab", "kik"):
        with pytest.raises(UserError, match="not in the table"):
            TABLE.find(code)


def test_rows_can_be_added_again_and_again() -> None:
    table = TABLE.with_rows(ROWS[:1]).with_rows(iter(ROWS[1:]))
    assert {"qaa", "qab"} <= table.languages.keys()
    assert TABLE.with_rows([]).languages == TABLE.languages


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"iso3": "ckb"}, r"holds ckb twice: Kurdish .* and Kikian\..*another iso3 code"),
        ({"iso3": "mlt", "iso1": "mt"}, "twice: Maltese and Kikian"),
        ({"iso3": "qab"}, "holds qab twice: Boubian and Kikian"),
    ],
)
def test_a_further_row_with_a_key_that_is_there_is_refused(row: dict[str, str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        TABLE.with_rows(ROWS).with_rows([{**row, "name": "Kikian"}])
    with pytest.raises(UserError, match=complaint):
        TABLE.with_rows([*ROWS, {**row, "name": "Kikian"}])
