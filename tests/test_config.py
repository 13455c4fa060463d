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
GROUPS = sorted(path.name for path in CONF.iterdir() if any(path.glob("*.yaml")) and path.name not in ("hydra", "rehearsal"))
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
MANDATORY = {
    ("model", "hf"): ["model.path=tiny/bert"],
    ("model", "scratch"): ["model.languages=[en,mt]"],
    ("data", "text"): ["data.path=text"],
    ("parallel", "files"): ["parallel.path=corpus.tsv"],
    ("parallel", "hub"): ["parallel.id=xlt/parallel"],
    ("translator", "seq2seq"): ["translator.path=tiny/m2m100"],
    ("task", "labelled_files"): ["task.data.path=@split.csv", "task.labels=[good,bad]"],
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


# ---- parts


@dataclass(frozen=True)
class Sieve:
    """What a field declares."""

    mesh: int = setting(1, at_least=1, at_most=9)
    note: str = setting("", identity=False)

    def verify(self, where: str) -> None:
        if self.mesh == 7:
            raise UserError(f"{where} cannot have seven holes.")


@dataclass(frozen=True)
class Twin(Sieve):
    """Another class with the same fields."""


@dataclass(frozen=True)
class Fine(Sieve):
    """Another class with a field more."""

    grain: float = setting(0.5, above=0)


@dataclass(frozen=True)
class Source:
    """A part with a part and a value that has to be given."""

    place: str = setting("???")
    sieve: Sieve = field(default_factory=Sieve)


@dataclass(frozen=True)
class Mill:
    """A component with parts of every kind."""

    speed: int = setting(2)
    sieve: Sieve = field(default_factory=lambda: Sieve(mesh=5, note="as delivered"))
    spare: Sieve | None = setting(None)
    source: Source = field(default_factory=lambda: Source(place="river"))
    bins: dict[str, Sieve] = field(default_factory=dict)


@dataclass(frozen=True)
class Workshop:
    """A component whose parts have to be given, or are of another class than their fields declare."""

    source: Source = field(default_factory=Source)
    fine: Sieve = field(default_factory=lambda: Fine(mesh=3, grain=0.1))
    bins: dict[str, Sieve] = field(default_factory=lambda: {"left": Sieve(mesh=4), "right": Fine(mesh=6, grain=0.2)})


@dataclass(frozen=True)
class Unsound:
    """A component whose part cannot stay as the class declares it."""

    sieve: Sieve = field(default_factory=lambda: Sieve(mesh=7))


def own(part: type) -> str:
    return f"{__name__}.{part.__name__}"


def mill(**values: Any) -> Mill:
    return build({"_target_": own(Mill), **values}, "mill", Mill)


def workshop(**values: Any) -> Workshop:
    return build({"_target_": own(Workshop), "source": {"place": "well"}, **values}, "workshop", Workshop)


def test_parts_get_the_declared_class_or_their_own() -> None:
    built = mill(
        sieve={"_target_": own(Fine), "mesh": "3", "grain": 1},
        spare={"mesh": 2},
        source={"place": "well", "sieve": {"_target_": own(Twin), "mesh": 4}},
        bins={"left": {"mesh": 8}, "right": {}},
    )
    assert built == Mill(
        sieve=Fine(mesh=3, grain=1.0),
        spare=Sieve(mesh=2),
        source=Source(place="well", sieve=Twin(mesh=4)),
        bins={"left": Sieve(mesh=8), "right": Sieve()},
    )
    assert isinstance(built.sieve.grain, float)


def test_a_part_may_name_the_declared_class_itself() -> None:
    assert mill(sieve={"_target_": own(Sieve), "note": "washed"}).sieve == Sieve(mesh=5, note="washed")


def test_a_part_may_name_the_declared_class_where_its_default_is_of_another() -> None:
    assert workshop(fine={"_target_": own(Sieve), "note": "washed"}).fine == Sieve(note="washed")


def test_parts_in_a_dict_may_name_their_own_class() -> None:
    assert mill(bins={"left": {"_target_": own(Fine), "grain": 1}}).bins == {"left": Fine(grain=1.0)}


def test_what_a_part_leaves_out_is_as_declared() -> None:
    """As in the instance that the field declares, which need not be as its class has it."""
    assert mill() == Mill()
    assert mill(sieve={"note": "washed"}).sieve == Sieve(mesh=5, note="washed")
    assert mill(source={"sieve": {"mesh": 2}}).source == Source(place="river", sieve=Sieve(mesh=2))
    assert mill(sieve={"_target_": own(Fine), "grain": 1}).sieve == Fine(grain=1.0), "another class has its own defaults"
    assert workshop().fine == Fine(mesh=3, grain=0.1)
    assert workshop(fine={"mesh": 2}).fine == Fine(mesh=2, grain=0.1)
    assert workshop(fine={"_target_": own(Fine), "grain": 1}).fine == Fine(mesh=3, grain=1.0)
    assert workshop(fine={"_target_": own(Twin)}).fine == Twin()


def test_what_a_part_in_a_dict_leaves_out_is_as_declared() -> None:
    assert workshop().bins == Workshop().bins
    assert workshop(bins={"left": {"note": "washed"}}).bins["left"] == Sieve(mesh=4, note="washed")


def test_a_part_in_a_dict_keeps_the_class_of_its_default() -> None:
    assert workshop(bins={"right": {"mesh": 2}}).bins["right"] == Fine(mesh=2, grain=0.2)


def test_components_are_built_once_and_different_ones_share_nothing() -> None:
    assert mill() is mill()
    assert mill(speed=3).sieve is not mill(speed=4).sieve
    assert mill(speed=3).bins is not mill(speed=4).bins


def test_an_optional_part_may_be_none() -> None:
    assert mill(spare=None).spare is None
    with pytest.raises(UserError, match=r"mill\.sieve: .*not Optional"):
        mill(sieve=None)


def test_whole_parts_may_come_from_elsewhere_in_the_configuration() -> None:
    config = OmegaConf.create(
        {
            "holes": 3,
            "sieve": {"_target_": own(Fine), "mesh": "${holes}"},
            "mill": {
                "_target_": own(Mill),
                "sieve": "${sieve}",
                "source": {"sieve": "${sieve}"},
                "bins": {"left": "${sieve.mesh}"},
            },
        }
    )
    config.mill.bins = {"left": "${.right}", "right": {"mesh": "${holes}"}}
    built = build(config.mill, "mill", Mill)
    assert built.sieve == built.source.sieve == Fine(mesh=3)
    assert built.bins == {"left": Sieve(mesh=3), "right": Sieve(mesh=3)}
    assert OmegaConf.to_container(config.mill)["sieve"] == "${sieve}", "the configuration stays as it was written"


def test_the_parts_of_a_choice_may_come_from_another_group() -> None:
    config = compose(["lang=mt", "data=miniature", "task=mini_topic", "world.seed=3", "world.languages.qaa.own_laws=1"])
    world, data, task = (build(config[group], group, object) for group in ("world", "data", "task"))
    assert data.world == task.data.world == world
    assert (world.seed, world.languages["qaa"].own_laws) == (3, 1)
    assert task.labels == world.topics


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"sieve": {"_target_": own(Source)}}, rf"mill\.sieve\._target_=.*Source.*derived from {re.escape(own(Sieve))}"),
        ({"sieve": {"_target_": "pathlib.Path"}}, r"mill\.sieve\._target_=pathlib\.Path does not fit"),
        ({"sieve": {"_target_": own(Sieve) + "x"}}, r"mill\.sieve\._target_=.*holds no class Sievex"),
        ({"source": {"sieve": {"_target_": own(Mill)}}}, r"mill\.source\.sieve\._target_=.*Mill does not fit"),
        ({"spare": {"_target_": own(Source)}}, r"mill\.spare\._target_=.*Source does not fit"),
        ({"sieve": {"grain": 1}}, r"mill\.sieve\.grain is not a setting\. .*The settings here are: mesh, note\."),
        ({"sieve": {"_target_": own(Fine), "grian": 1}}, r"mill\.sieve\.grian is not a setting\. Did you mean grain"),
        (
            {"bins": {"left": {"mesch": 1}}},
            r"mill\.bins\.left\.mesch is not a setting\. Did you mean mesh\? The settings here are: mesh, note\.",
        ),
        (
            {"source": {"sieve": {"place": "well"}}},
            r"mill\.source\.sieve\.place is not a setting\. .*The settings here are: mesh, note\.",
        ),
        ({"sieve": {"mesh": "many"}}, r"mill\.sieve\.mesh: .*many"),
        ({"bins": {"left": {"mesh": "many"}}}, r"mill\.bins\.left\.mesh: .*many"),
        ({"sieve": {"mesh": 10}}, r"mill\.sieve\.mesh=10 is out of range: it has to be at most 9"),
        ({"spare": {"mesh": 0}}, r"mill\.spare\.mesh=0 is out of range: it has to be at least 1"),
        ({"sieve": {"_target_": own(Fine), "grain": 0}}, r"mill\.sieve\.grain=0\.0 is out of range: it has to be above 0"),
        ({"source": {"sieve": {"mesh": 10}}}, r"mill\.source\.sieve\.mesh=10 is out of range"),
        ({"bins": {"left": {}, "right": {"mesh": 10}}}, r"mill\.bins\.right\.mesh=10 is out of range"),
        ({"sieve": {"mesh": 7}}, r"^mill\.sieve cannot have seven holes"),
        ({"spare": {"_target_": own(Twin), "mesh": 7}}, r"^mill\.spare cannot have seven holes"),
        ({"source": {"sieve": {"mesh": 7}}}, r"^mill\.source\.sieve cannot have seven holes"),
        ({"bins": {"left": {"mesh": 7}}}, r"^mill\.bins\.left cannot have seven holes"),
        ({"sieve": {"mesh": "???"}, "source": {"place": None}}, r"mill\.source\.place: "),
        ({"sieve": "${elsewhere}"}, r"mill\.sieve: .*elsewhere"),
        ({"bins": {"left": {"mesh": "${elsewhere}"}}}, r"mill\.bins\.left\.mesh: .*elsewhere"),
        ({"bins": None}, r"mill\.bins: .*not Optional"),
        ({"sieve": 3}, r"mill\.sieve\b"),
        ({"sieve": ["mesh"]}, r"mill\.sieve\b"),
        ({"bins": [{"mesh": 1}]}, r"mill\.bins\b"),
        ({"bins": {"left": 3}}, r"mill\.bins\.left\b"),
        ({"bins": {"left": None}}, r"mill\.bins\.left\b"),
    ],
)
def test_mistakes_in_parts(values: dict[str, Any], complaint: str) -> None:
    """Told with the whole path."""
    with pytest.raises(UserError, match=complaint):
        mill(**values)


@pytest.mark.parametrize("values", [{"source": {}}, {"source": {"place": "???"}}, {"source": {"sieve": {"mesh": 2}}}, {}])
def test_a_part_without_its_mandatory_value(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"workshop\.source\.place has no value"):
        build({"_target_": own(Workshop), **values}, "workshop", Workshop)


@pytest.mark.parametrize("values", [{"sieve": {}}, {}])
def test_what_the_class_declares_is_verified_too(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^unsound\.sieve cannot have seven holes"):
        build({"_target_": own(Unsound), **values}, "unsound", Unsound)


@pytest.mark.parametrize("override", ["world.languages.qaa=3", "world.languages.qaa=null", "train.task=3"])
def test_a_value_where_a_part_belongs(override: str) -> None:
    config = compose(["lang=mt", override])
    group, _, rest = override.partition("=")[0].partition(".")
    with pytest.raises(UserError, match=re.escape(f"{group}.{rest}")):
        build(config[group], group, object)


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


def test_the_class_of_a_part_is_part_of_the_identity_where_it_is_not_the_declared_one() -> None:
    """Two classes with the same fields do other things with them; what nobody chose is not said."""
    plain, twin = mill(sieve={"mesh": 3}), mill(sieve={"_target_": own(Twin), "mesh": 3})
    assert identity(plain)["sieve"] == {"mesh": 3}
    assert identity(twin)["sieve"] == {"_target_": own(Twin), "mesh": 3}
    assert identity(plain) == identity(mill(sieve={"_target_": own(Sieve), "mesh": 3, "note": "washed"}))
    assert identity(twin) == identity(mill(sieve={"_target_": own(Twin), "mesh": 3, "note": "washed"})) != identity(plain)
    assert identity(workshop())["fine"] == {"mesh": 3, "grain": 0.1}, "here the declared default is a Fine"
    assert identity(Workshop(fine=Sieve(mesh=3)))["fine"] == {"_target_": own(Sieve), "mesh": 3}


def test_identities_of_parts_inside_parts() -> None:
    nested = identity(mill(source={"sieve": {"_target_": own(Twin)}}, spare={"mesh": 2}))
    assert nested["source"] == {"place": "river", "sieve": {"_target_": own(Twin), "mesh": 1}}
    assert nested["spare"] == {"_target_": own(Sieve), "mesh": 2}
    assert identity(mill()) == {
        "_target_": own(Mill), "speed": 2, "sieve": {"mesh": 5}, "spare": None,
        "source": {"place": "river", "sieve": {"mesh": 1}}, "bins": {},
    }  # fmt: skip


def test_identities_of_parts_in_a_dict() -> None:
    assert identity(mill(bins={"left": {"mesh": 2, "note": "washed"}}))["bins"] == {"left": {"mesh": 2}}


def test_identities_of_parts_in_a_dict_differ_by_class() -> None:
    assert identity(Mill(bins={"left": Sieve()})) != identity(Mill(bins={"left": Twin()}))


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
    """The fields, also of parts, that a node does not list."""
    missing = []
    for setting_field in dataclasses.fields(component):
        path, value = f"{prefix}{setting_field.name}", getattr(component, setting_field.name)
        if setting_field.name not in node:
            missing.append(path)
            continue
        if dataclasses.is_dataclass(value):
            missing += missing_settings(value, node[setting_field.name], f"{path}.")
        elif isinstance(value, dict):
            for name, part in value.items():
                if dataclasses.is_dataclass(part):
                    missing += missing_settings(part, node[setting_field.name][name], f"{path}.{name}.")
    return missing


def test_the_choices_of_the_miniature_world_are_among_them() -> None:
    expected = {("world", "miniature"), ("data", "miniature"), ("train", "miniature"), ("model", "miniature")}
    assert expected <= set(CHOICES)
    assert {choice for group, choice in CHOICES if group == "task"} >= {"mini_topic", "mini_sentiment"}


@pytest.mark.parametrize(
    ("group", "choice", "path"),
    [
        ("world", "miniature", "languages.qad.concord"),
        ("data", "miniature", "world"),
        ("task", "mini_topic", "data.sizes"),
        ("task", "mini_sentiment", "data.mislabelled"),
        ("model", "miniature", "data.deduplicate"),
        ("model", "miniature", "sharpness"),
        ("model", "miniature", "train.loop.workers"),
        ("train", "miniature", "language.loop.workers"),
    ],
)
def test_a_setting_that_a_choice_does_not_show_is_noticed(group: str, choice: str, path: str) -> None:
    """Wherever it stands: in a part with a class of its own, or in one of several by name."""
    config = compose(["lang=mt", f"{group}={choice}"])
    OmegaConf.set_struct(config, False)
    node = config[group]
    component = build(node, group, object)
    section, _, key = path.rpartition(".")
    del (OmegaConf.select(node, section) if section else node)[key]
    assert missing_settings(component, node) == [path]


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
