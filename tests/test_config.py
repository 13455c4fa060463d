"""Configuration: mistakes are found and explained, identities are stable, and every choice builds."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from xlt.cli import compose, main
from xlt.config import build, check_name, identity, setting
from xlt.errors import UserError
from xlt.methods.base import Method
from xlt.methods.bottleneck import Bottleneck
from xlt.training.settings import LanguageTraining, LoopSettings, Training

CONF = Path(__file__).parents[1] / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if any(path.glob("*.yaml")) and path.name != "hydra")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
MANDATORY = {
    ("model", "hf"): ["model.path=tiny/bert"],
    ("model", "scratch"): ["model.languages=[en,mt]"],
    ("data", "text"): ["data.path=text"],
}
METHOD = {"_target_": "xlt.methods.bottleneck.Bottleneck", "name": "seq_bn"}


# ---- building


def test_build() -> None:
    """Values get the types of their fields; what is not given has its default."""
    method = build({**METHOD, "reduction_factor": 8, "leave_out": [1, 2]}, "method", Method)
    assert method == Bottleneck(name="seq_bn", reduction_factor=8.0, leave_out=[1, 2])
    assert isinstance(method.reduction_factor, float)


def test_build_nested() -> None:
    training = build(
        {"_target_": "xlt.training.settings.Training", "language": {"loop": {"steps": 5}}, "task": {"epochs": 2}},
        "train",
        Training,
    )
    assert training.language.loop.steps == 5
    assert training.task.epochs == 2


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"reduction_facto": 8}, r"method\.reduction_facto is not a setting\. Did you mean reduction_factor"),
        ({"reduction_factor": "many"}, r"method\.reduction_factor: .*many.*"),
        ({"leave_out": 3}, r"method\.leave_out: "),
        ({"leave_out": ["last"]}, r"method\.leave_out.*: .*last"),
        ({"invertible": "perhaps"}, r"method\.invertible: .*perhaps"),
        ({"reduction_factor": 0}, r"method\.reduction_factor=0\.0 is out of range: it has to be above 0"),
        ({"reduction_factor": float("nan")}, r"method\.reduction_factor is not a number"),
        ({"invertible_reduction_factor": 0}, r"invertible_reduction_factor=0 is out of range: it has to be at least 1"),
        ({"activation": "rely"}, r"method\.activation=rely is no choice\. Did you mean relu"),
        ({"name": "../up"}, r"method\.name='\.\./up' cannot be a name"),
        ({"_target_": "xlt.methods.bottlenek.Bottleneck"}, r"method\._target_=.*there is no module xlt\.methods\.bottlenek"),
        ({"_target_": "xlt.methods.bottleneck.Bottlenek"}, r"holds no class Bottlenek"),
        ({"_target_": "Bottleneck"}, r"method\._target_=Bottleneck"),
        ({"_target_": "xlt.training.settings.LoopSettings"}, r"has to be a dataclass derived from xlt\.methods\.base\.Method"),
        ({"_target_": "pathlib.Path"}, r"has to be a dataclass derived from"),
        ({"_target_": None}, r"method names no class"),
    ],
)
def test_mistakes(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        build({**METHOD, **changes}, "method", Method)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"task": {"epochs": 2, "learning_rat": 1}}, r"train\.task\.learning_rat is not a setting\. Did you mean learning_rate"),
        ({"task": {"epochs": 2, "warmup": 1.5}}, r"train\.task\.warmup=1\.5 is out of range: it has to be at most 1"),
        ({"task": {"epochs": 2, "steps": 5}}, r"train\.task needs either steps or epochs"),
        (
            {"language": {"loop": {"steps": 5, "batch": 3}}},
            r"train\.language\.loop\.batch is not a setting\. Did you mean batch_size",
        ),
        ({"language": {"loop": {"steps": "many"}}}, r"train\.language\.loop\.steps: .*many"),
    ],
)
def test_mistakes_in_nested_settings(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        build({"_target_": "xlt.training.settings.Training", **changes}, "train", Training)


def test_a_value_may_come_from_elsewhere_in_the_configuration() -> None:
    config = OmegaConf.create({"width": 4, "method": {**METHOD, "reduction_factor": "${width}"}})
    assert build(config.method, "method", Method).reduction_factor == 4.0


def test_a_module_whose_own_import_fails_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defect of a plugin must not be reported as a plugin that is not installed."""
    (tmp_path / "broken_plugin.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        build({"_target_": "broken_plugin.Method"}, "method", Method)


@pytest.mark.parametrize("name", ["a", "sib-200", "mlt_Latn", "v1.2", "0", "x" * 64])
def test_names(name: str) -> None:
    assert check_name(name, "name") == name


@pytest.mark.parametrize("name", ["", ".", "..", "a..b", ".a", "-a", "a/b", "a\\b", "a b", "a\n", "é", "x" * 65])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UserError, match="cannot be a name"):
        check_name(name, "name")


# ---- identity


@dataclass(frozen=True)
class Part:
    """A component inside another one."""

    depth: int = setting(1)
    label: str = setting("a", identity=False)


@dataclass(frozen=True)
class Component:
    """A component with every kind of field."""

    name: str = setting("component", identity=False)
    size: int = setting(3)
    added_later: float = setting(0.5, neutral=True)
    part_added_later: Part = field(default_factory=Part, metadata={"neutral": True})
    part: Part = field(default_factory=Part)
    sizes: list[int] = field(default_factory=list)
    table: dict[str, Any] = field(default_factory=dict)


def test_identity() -> None:
    assert identity(Component(sizes=[1, 2], table={"b": [None, True], "a": {"c": 1.5}})) == {
        "_target_": f"{__name__}.Component", "size": 3, "part": {"depth": 1}, "sizes": [1, 2],
        "table": {"b": [None, True], "a": {"c": 1.5}},
    }  # fmt: skip


def test_labels_are_not_part_of_the_identity() -> None:
    assert identity(Component(name="other", part=Part(label="b"))) == identity(Component())


@pytest.mark.parametrize(
    "changed",
    [
        Component(size=4), Component(part=Part(depth=2)), Component(sizes=[1]), Component(table={"a": 1}),
        Component(added_later=0.6), Component(part_added_later=Part(depth=2)),
    ],
)  # fmt: skip
def test_everything_else_is(changed: Component) -> None:
    assert identity(changed) != identity(Component())


def test_fields_that_were_added_later_keep_old_identities_valid() -> None:
    assert not {"added_later", "part_added_later"} & identity(Component()).keys()
    assert identity(Component(added_later=0.6))["added_later"] == 0.6


@pytest.mark.parametrize("value", [Path("a"), {1, 2}, object(), b"a", [Path("a")], {"a": {1}}, 1j])
def test_values_without_a_stable_form_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no stable form"):
        identity(Component(table={"value": value}))


def test_machine_settings_are_not_part_of_a_loop_s_identity() -> None:
    """What only says how fast, or with how much memory, the same result comes about."""
    loop = LoopSettings(steps=10)
    machine = dataclasses.replace(loop, micro_batch_size=1, checkpoint_seconds=1.0, workers=3)
    assert identity(LanguageTraining(loop=machine)) == identity(LanguageTraining(loop=loop))
    assert identity(LanguageTraining(loop=dataclasses.replace(loop, batch_size=3))) != identity(LanguageTraining(loop=loop))


# ---- the choices


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["=".join(choice) for choice in CHOICES])
def test_every_choice_builds_and_shows_every_setting(group: str, choice: str) -> None:
    """A field that the YAML file did not list could not be set on the command line."""
    config = compose(["lang=mt", f"{group}={choice}", *MANDATORY.get((group, choice), [])])
    component = build(config[group], group, object)
    assert dataclasses.is_dataclass(component)
    assert missing_settings(component, config[group]) == []
    assert (CONF / group / f"{choice}.yaml").read_text().startswith("# "), "the first line says what the choice is"


def missing_settings(component: Any, node: DictConfig, prefix: str = "") -> list[str]:
    missing = []
    for setting_field in dataclasses.fields(component):
        path, value = f"{prefix}{setting_field.name}", getattr(component, setting_field.name)
        if setting_field.name not in node:
            missing.append(path)
        elif dataclasses.is_dataclass(value):
            missing += missing_settings(value, node[setting_field.name], f"{path}.")
    return missing


@pytest.mark.parametrize(("group", "choice"), sorted(MANDATORY), ids=["=".join(choice) for choice in sorted(MANDATORY)])
def test_what_has_to_be_said_is_asked_for(group: str, choice: str) -> None:
    config = compose(["lang=mt", f"{group}={choice}"])
    key = MANDATORY[group, choice][0].partition("=")[0]
    with pytest.raises(UserError, match=re.escape(key)):
        build(config[group], group, object)


@pytest.mark.parametrize("choice", [path.stem for path in (CONF / "method").glob("*.yaml")])
def test_every_method_is_a_task_method_too(choice: str) -> None:
    config = compose(["lang=mt", f"method@task_method={choice}"])
    assert build(config.task_method, "task_method", Method) == build(compose([f"method={choice}"]).method, "method", Method)


def test_help_lists_the_choices_and_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    text = capsys.readouterr().out
    for group in GROUPS:
        line = re.search(rf"^\s*{group}: (.*)$", text, re.MULTILINE)
        assert line, group
        assert set(line.group(1).split(", ")) >= {choice for of_group, choice in CHOICES if of_group == group}
    for key in ("lang: ???", "seed: 0", "reuse: auto", "reduction_factor: 16"):
        assert key in text
