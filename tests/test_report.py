"""The page of results: what it says of records, that it is whole and safe by itself, and that a browser can use it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import runpy
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_experiment
from generated_records import EXAMPLES, Generated
from omegaconf import OmegaConf

import xlt
from xlt.cli import compose
from xlt.languages import load_languages
from xlt.report.page import assemble, embedded, sound_records, write_page
from xlt.report.page_data import PageData, copies_of, rounded, thinned
from xlt.report.systems import baselines_of, systems_of
from xlt.store import Store

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "report.py"
HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=1'>\u2028\"&amp;<!--"
HOSTILE_NAMES = {**dict.fromkeys(("task", "lang", "model", "method", "data"), HOSTILE), "overrides": [f"task.name={HOSTILE}"]}
_WITHOUT_END = {"meta", "input", "br", "img", "link"}


class Page(HTMLParser):
    """A page taken apart: its elements, the texts of scripts and styles, and whatever is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _WITHOUT_END:
            self.open.append(tag)
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.texts:
            self.texts[self.open[-1]][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        """What is embedded."""
        scripts = [attributes for tag, attributes in self.elements if tag == "script"]
        return json.loads(self.texts["script"][[attributes.get("id") for attributes in scripts].index("data")])

    def systems(self) -> list[dict[str, Any]]:
        """Its systems with their fields by name, the axes too."""
        data = self.data
        found = []
        for row in data["systems"]:
            system = dict(zip(data["fields"]["system"], row, strict=True))
            axes = zip(data["axes"], system["axes"], strict=True)
            system |= {axis: data["axes"][axis][number] for axis, number in axes}
            system["runs"] = [dict(zip(data["fields"]["run"], run, strict=True)) for run in system["runs"]]
            found.append(system)
        return found


def made(outputs: Path, tables: Sequence[str] | None = ()) -> Page:
    """The page of the runs in a folder."""
    file, _, _ = write_page(outputs, Store(outputs / "store"), load_languages(), tables)
    return Page(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve runs: two languages, three methods, two seeds."""
    outputs = tmp_path_factory.mktemp("generated")
    runs = Generated(outputs)
    for lang, harder in (("mt", 0.0), ("yo", 0.1)):
        for method, skill in (("none", 0.5), ("seq_bn", 0.9), ("lora", 0.6)):
            for seed in (1, 2):
                runs.run(lang, method, seed=seed, skill=skill - harder)
    return outputs


@pytest.fixture(scope="module")
def page(generated: Path) -> Page:
    return made(generated, tables=None)


# ---- what it says


def test_a_system_is_the_mean_of_its_seeds(generated: Path, page: Page) -> None:
    records, _ = sound_records(Store(generated / "store"))
    assert len(records) == 12
    systems = page.systems()
    assert len(systems) == 6
    for system in systems:
        own = {
            record["seed"]: record["metrics"]["macro_f1"]
            for record in records
            if (record["lang"], record["method"] or "none") == (system["lang"], system["method"])
        }
        assert {run["seed"]: run["scores"][0] for run in system["runs"]} == own
        assert [run["test_size"] for run in system["runs"]] == [EXAMPLES] * 2
        low, high = system["interval"]
        assert low < statistics.fmean(own.values()) < high


def test_gains_are_those_of_the_paired_comparison(generated: Path, page: Page) -> None:
    records, _ = sound_records(Store(generated / "store"))
    scores = {(record["lang"], record["method"], record["seed"]): record["metrics"]["macro_f1"] for record in records}
    systems = page.systems()
    for system in systems:
        if system["method"] == "none":
            assert system["gain"] is None
            continue
        baseline, mean, low, high = system["gain"]
        assert (systems[baseline]["lang"], systems[baseline]["method"]) == (system["lang"], "none")
        differences = [scores[system["lang"], system["method"], seed] - scores[system["lang"], None, seed] for seed in (1, 2)]
        # The generated scores are accuracies of balanced answers, the interval is one of F1 from the predictions themselves.
        assert mean == pytest.approx(statistics.fmean(differences), abs=0.02)
        assert low < mean < high
    adapted = next(system for system in systems if system["method"] == "seq_bn")
    assert adapted["gain"][2] > 0.2


def test_a_gain_without_resampling_is_the_same_mean(world: Path, tmp_path: Path) -> None:
    overrides = tiny_experiment(world, tmp_path)
    runs = [xlt.run(*overrides, method, f"seed={seed}") for method in ("method=none", "method=seq_bn") for seed in (0, 1)]
    systems = systems_of(runs)
    assert [[record["seed"] for record in system.records] for system in systems] == [[0, 1], [0, 1]]
    assert baselines_of(systems) == {1: 0}
    quick, whole = systems[1].mean_gain_over(systems[0]), systems[1].gain_over(systems[0], test=False)
    assert quick == pytest.approx(whole.mean)
    (first,), (last,) = systems_of(runs[:1]), systems_of(runs[3:])
    assert last.mean_gain_over(first) is None, "no seed in common"

    shown = made(tmp_path)
    adapted = next(system for system in shown.systems() if system["method"] == "seq_bn")
    text = next(Store(tmp_path / "store").list("text"))
    assert adapted["bytes"] == text.summary["train"]["bytes"] > 0
    data = shown.data
    cards = {row[0]: row[4] for row in data["steps"] if row[4]}
    assert cards["text"]["train"] == text.summary["train"]
    assert len(cards["text"]["samples"]) <= 5
    curves = {row[0]: row[5] for row in data["steps"] if row[5]}
    training = json.loads((next(Store(tmp_path / "store").list("language_module")).folder / "training.json").read_text())
    assert curves["language_module"][0]["scores"][0] == [row["step"] for row in training["evaluations"]]
    assert curves["task_module"][0]["metric"] == "macro_f1"
    figures = dict(
        zip(data["fields"]["training"], data["trainings"][adapted["runs"][0]["trainings"]["task_module"]], strict=True)
    )
    assert figures["steps"] == runs[2]["training"]["task_module"]["steps"] > 0

    # What was typed makes the same configuration again, and so the same run.
    command = [*adapted["overrides"], "seed=1"]
    again = OmegaConf.to_container(compose(command), resolve=True)
    assert again == dict(runs[3]["config"])


def test_runs_that_differ_in_a_setting_are_told_apart(tmp_path: Path) -> None:
    runs = Generated(tmp_path)
    runs.run(method="seq_bn")
    config = OmegaConf.to_container(compose(["model=mbert", "method=seq_bn", "lang=mt"]), resolve=True)
    config["method"]["reduction_factor"] = 8
    runs.method_fields = {"reduction_factor": 8}
    runs.run(method="seq_bn", changes={"config": config})
    assert sorted(system["variant"] for system in made(tmp_path).systems()) == [
        "method.reduction_factor=16", "method.reduction_factor=8",
    ]  # fmt: skip


def test_curves_are_thinned(tmp_path: Path) -> None:
    assert thinned(range(1000), 100)[0] == 0
    assert thinned(range(1000), 100)[-1] == 999
    assert len(set(thinned(range(1000), 100))) == 100
    assert thinned([3, 4], 100) == [3, 4]
    assert rounded(float("inf")) is None
    assert rounded(0.123456789) == 0.12346
    Generated(tmp_path, points=1000).run(method="lora")
    curves = [curve for row in made(tmp_path).data["steps"] for curve in row[5] or ()]
    assert len(curves) == 2
    assert all(len(side) == 100 for curve in curves for name in ("loss", "scores") for side in curve[name])


def test_the_papers_table_opens_its_runs(generated: Path, page: Page) -> None:
    fingerprints = {record["fingerprint"] for record in sound_records(Store(generated / "store"))[0]}
    cells = [attributes["data-runs"].split() for _, attributes in page.elements if "data-runs" in attributes]
    assert cells, "the runs are some of those of Gurgurov et al. 2025, table 15"
    assert {digest for cell in cells for digest in cell} <= fingerprints
    assert all(len(cell) == 2 for cell in cells)


# ---- records that are not what they say


def test_a_record_that_lies_is_left_out_and_named(tmp_path: Path) -> None:
    runs = Generated(tmp_path)
    folders = [runs.run(method=method, seed=seed) for method in ("none", "seq_bn") for seed in (0, 1)]
    edited = folders[0] / "result.json"
    edited.write_text(edited.read_text().replace('"macro_f1": 0.', '"macro_f1": 0.9', 1))
    moved = folders[1].rename(folders[1].with_name(f"{folders[1].name[:-16]}{'0' * 16}"))
    copy = tmp_path / "sweeps" / "lang=mt,method=seq_bn,model=mbert,seed=1" / "result.json"
    copy.write_text(copy.read_text().replace('"test_size": 200', '"test_size": 2000'))
    stray = tmp_path / "runs" / "stray" / "result.json"
    stray.parent.mkdir(parents=True)
    stray.write_text("{")
    page = made(tmp_path)
    named = {path: why for path, why in page.data["refused"]}
    assert page.data["refused_count"] == len(named) == 5
    assert "changed after it was stored" in named[str(edited)]
    assert "another fingerprint" in named[str(moved / "result.json")]
    assert "not what was stored" in named[str(copy)]
    assert "cannot be read" in named[str(stray)]
    (system,) = page.systems()
    assert [run["seed"] for run in system["runs"]] == [0, 1], "the edited copy's original is sound"
    assert [len(run["folders"]) for run in system["runs"]] == [1, 0]


# ---- whole and safe


def test_the_page_is_whole_and_asks_for_nothing(page: Page) -> None:
    assert page.open == []
    for tag, attributes in page.elements:
        assert not {"src", "href"} & attributes.keys() or attributes.get("href", "").startswith("#"), (tag, attributes)
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
    policy = next(attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    data = [attributes.get("id") for tag, attributes in page.elements if tag == "script"].index("data")
    for number, text in enumerate(page.texts["script"]):
        allowed = f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
        assert allowed == (number != data)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_names_cannot_leave_their_place(tmp_path: Path) -> None:
    Generated(tmp_path).run(changes=HOSTILE_NAMES)
    page = made(tmp_path)
    assert page.open == []
    assert [tag for tag, _ in page.elements].count("script") == 1 + len(page.texts["script"]) - 1 == 5
    (system,) = page.systems()
    assert (system["task"], system["lang"], system["method"]) == (HOSTILE,) * 3
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert json.loads(embedded({"x": HOSTILE})) == {"x": HOSTILE}
    assert "<" not in embedded({HOSTILE: HOSTILE})


def test_without_runs_it_says_how_to_make_one(tmp_path: Path) -> None:
    page = made(tmp_path)
    assert page.systems() == []
    assert page.open == []
    text = (tmp_path / "report" / "index.html").read_text()
    command = re.search(r"<code>(python run\.py model=miniature.*?)</code>", text)[1]
    assert compose(command.split()[2:]).lang == "qad"


def test_the_script_as_it_is_typed(generated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", f"paths.outputs={generated}"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out == f"{generated}/report/index.html: 12 runs\n"
    monkeypatch.setattr(sys, "argv", ["report.py", "paths.output=x"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == 2
    assert "paths.outputs" in capsys.readouterr().err


def test_many_runs_fit(tmp_path: Path) -> None:
    """Bytes that each further run takes, where curves are as short as with ten thousand."""
    runs = Generated(tmp_path, points=10)
    sizes = []
    for count in range(2):
        for number in range(40):
            runs.run("mt", "none" if number < 20 else "lora", seed=100 * count + number)
        records, _ = sound_records(Store(tmp_path / "store"))
        folders, _ = copies_of(tmp_path, records, [])
        data = PageData(records, [Store(tmp_path / "store")], folders, load_languages()).collect()
        sizes.append(len(assemble({**data, "outputs": "", "refused": [], "refused_count": 0}).encode()))
    assert (sizes[1] - sizes[0]) / 40 < 790, "8 MB for ten thousand"


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    try:
        from selenium import webdriver
    except ImportError:
        pytest.skip("the package selenium is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    window.set_script_timeout(60)
    yield window
    window.quit()


def opened(browser: Any, outputs: Path, anchor: str = "") -> Any:
    """The page of a folder, just loaded; nothing may be said on the console."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(f"file://{outputs}/report/index.html{anchor}")
    assert browser.get_log("browser") == []
    return browser


def found(browser: Any, css: str) -> Any:
    return browser.find_element("css selector", css)


def column(browser: Any, key: str) -> list[str]:
    """What the table shows in a column."""
    script = """const heads = [...document.querySelectorAll('#overview th')];
      const place = heads.findIndex((head) => head.dataset.key === arguments[0]);
      return [...document.querySelectorAll('#overview tbody tr')].map((row) => row.children[place].textContent);"""
    return browser.execute_script(script, key)


def settled(browser: Any, condition: str) -> None:
    """Wait until JavaScript says true."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda window: window.execute_script(f"return {condition}"))


def test_filters_and_search(browser: Any, page: Page, generated: Path) -> None:
    opened(browser, generated)
    assert found(browser, "#count").text == "6 systems, 12 runs"
    found(browser, ".choice[data-axis=method] summary").click()
    found(browser, ".choice[data-axis=method] input[value=lora]").click()
    assert column(browser, "method") == ["lora", "lora"]
    assert found(browser, "#count").text == "2 of 6 systems, 4 runs"
    found(browser, "#search").send_keys("YORUBA")
    assert column(browser, "lang") == ["yo Yoruba"]
    settled(browser, "[...document.querySelectorAll('#scores .keys button')].map((key) => key.textContent).join() === 'lora'")
    found(browser, "#search").send_keys("x")
    assert "Nothing passes" in found(browser, "#overview tbody").text
    found(browser, "#reset").click()
    settled(browser, "document.querySelectorAll('#overview tbody tr').length === 6")
    assert browser.get_log("browser") == []


def test_sorting(browser: Any, page: Page, generated: Path) -> None:
    opened(browser, generated)
    head = found(browser, "#overview th[data-key=mean]")
    for direction in ("descending", "ascending"):
        head.find_element("tag name", "button").click()
        assert head.get_attribute("aria-sort") == direction
        shown = [float(text.split()[0]) for text in column(browser, "mean")]
        assert shown == sorted(shown, reverse=direction == "descending")
    means = sorted(statistics.fmean(run["scores"][0] for run in system["runs"]) for system in page.systems())
    assert shown == pytest.approx(means, abs=6e-4)


def test_the_panel_by_keys(browser: Any, page: Page, generated: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, generated)
    browser.execute_script("document.querySelector('#overview button.open').focus()")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    settled(browser, "document.getElementById('panel').open")
    text = found(browser, "#panel").text
    for words in ("sib200", "Mean of 2 seeds", "seed 1", "101,447", "python run.py -m model=mbert", "seed=1,2", "torch 2.11.0"):
        assert words in text
    settled(browser, "document.querySelectorAll('#own-curves canvas').length > 0")
    assert browser.current_url.endswith(page.systems()[0]["runs"][0]["fingerprint"])
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    settled(browser, "!document.getElementById('panel').open")
    assert browser.switch_to.active_element.get_attribute("class") == "open", "back to where it was opened"


def test_a_link_to_a_run_and_a_cell_of_a_table(browser: Any, page: Page, generated: Path) -> None:
    system = next(system for system in page.systems() if system["method"] == "seq_bn")
    opened(browser, generated, f"#run-{system['runs'][1]['fingerprint']}")
    settled(browser, "document.getElementById('panel').open")
    assert "seq_bn" in found(browser, "#panel-title").text
    assert "Il-kelb" not in found(browser, "#panel").text, "samples are folded"
    found(browser, "#close").click()
    settled(browser, "!document.getElementById('panel').open")
    browser.execute_script("document.querySelector('#tables button.open').click()")
    settled(browser, "document.getElementById('panel').open")
    assert "mbert" in found(browser, "#panel-title").text


def test_a_plot_by_keys(browser: Any, page: Page, generated: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, generated)
    settled(browser, "document.querySelectorAll('#plots canvas').length >= 3")
    browser.execute_script("document.getElementById('gains').focus()")
    plot = browser.switch_to.active_element
    plot.send_keys(Keys.ARROW_RIGHT)
    tip = found(browser, "#gains .tip")
    assert re.search(r"[+−]0\.\d{3} \[", tip.text)
    assert re.search(r"B of text", tip.text)
    plot.send_keys(Keys.ENTER)
    settled(browser, "document.getElementById('panel').open")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes(browser: Any, page: Page, generated: Path, theme: str) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
    opened(browser, generated)
    background = "return getComputedStyle(document.body).backgroundColor"
    colours = [browser.execute_script(background)]
    for _ in range(2):  # light, then dark, whatever the system has
        found(browser, "#theme").click()
        colours.append(browser.execute_script(background))
    assert colours[1] != colours[2]
    assert colours[0] == colours[1 if theme == "light" else 2]
    found(browser, "#theme").click()  # back to that of the system


def test_on_a_phone(browser: Any, page: Page, generated: Path) -> None:
    screen = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        opened(browser, generated)
        settled(browser, "document.querySelectorAll('#plots canvas').length >= 3")
        assert browser.execute_script("return document.documentElement.scrollWidth") == 360
        browser.execute_script("document.querySelector('#overview button.open').click()")
        settled(browser, "document.querySelectorAll('#own-curves canvas').length > 0")
        assert browser.execute_script("const p = document.getElementById('panel'); return p.scrollWidth <= p.clientWidth")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_names_are_only_shown(browser: Any, tmp_path: Path) -> None:
    runs = Generated(tmp_path)
    for seed in (0, 1):
        runs.run(seed=seed, changes=HOSTILE_NAMES)
    (tmp_path / "runs" / "<img src=x onerror=hurt=1>").mkdir(parents=True)
    (tmp_path / "runs" / "<img src=x onerror=hurt=1>" / "result.json").write_text("{}")
    made(tmp_path)
    opened(browser, tmp_path)
    assert HOSTILE.split("\u2028", maxsplit=1)[0] in found(browser, "#overview tbody").get_attribute("textContent")
    browser.execute_script("document.querySelector('#overview button.open').click()")
    settled(browser, "document.getElementById('panel').open")
    assert browser.execute_script("return [window.hurt, document.images.length]") == [None, 0]
    assert browser.get_log("browser") == []


def test_the_first_page(browser: Any, tmp_path: Path) -> None:
    made(tmp_path)
    opened(browser, tmp_path)
    assert found(browser, "#first-run").is_displayed()
    assert str(tmp_path) in found(browser, "#first-run").text
    assert not found(browser, "#results").is_displayed()
