"""Transfer settings: what is drawn from which languages, whose module is active when, and what runs leave behind."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model, shaken

import xlt
from xlt import cli
from xlt.backbones.backbone import Backbone
from xlt.backbones.composition import Stack
from xlt.errors import UserError
from xlt.experiment import Experiment, open_store
from xlt.random import generator
from xlt.runner import Session, runtime_of
from xlt.steps.composition import Branch, Composition
from xlt.steps.evaluation import EvaluationStep
from xlt.steps.examples import read_examples
from xlt.steps.task_module import Shots, TaskModuleStep
from xlt.training.batches import Batches, SeveralSources, shares_of

CPU = torch.device("cpu")


def draw(overrides: list[str], *more: str) -> Experiment:
    return Experiment.from_config(cli.compose([*overrides, *more]))


def evaluation(overrides: list[str], *more: str) -> EvaluationStep:
    (step,) = draw(overrides, *more).evaluations
    return step


def task_module(overrides: list[str], *more: str) -> TaskModuleStep:
    (step,) = evaluation(overrides, *more).task_modules
    return step


def artifacts(experiment: Experiment, step: Any) -> dict[str, Any]:
    session = Session(open_store(experiment.settings), "auto", runtime_of(experiment, CPU, []))
    return {role: session.realise(inner) for role, inner in step.inputs().items()}


# ---- whose batches come how often


@pytest.mark.parametrize(
    ("sampling", "temperature", "shares"),
    [("proportional", 1.0, [8, 2, 1]), ("uniform", 1.0, [4, 4, 4]), ("tempered", 2.0, [6, 3, 1]), ("tempered", 1.0, [8, 2, 1])],
)
def test_shares_of_an_epoch(sampling: str, temperature: float, shares: list[int]) -> None:
    """64, 16 and 3 examples in batches of 8: square roots 8, 4 and 1.7 share the 11 batches as 6.4, 3.2 and 1.4."""
    assert shares_of([64, 16, 3], 8, sampling, temperature) == shares


def batches_of(shares: list[int], sizes: list[int], batch_size: int = 4) -> SeveralSources:
    def make(source: int):
        return lambda indices, draw: {"source": torch.full((len(indices),), source), "input_ids": torch.tensor(indices)}

    sources = [Batches(size, batch_size, 100 + number, make(number)) for number, size in enumerate(sizes)]
    return SeveralSources(sources, shares, seed=0)


def test_an_epoch_of_several_sources_holds_every_example() -> None:
    """Two epochs, the second source met twice as often: every batch is of one source, every example comes as often as said."""
    batches = batches_of([3, 4], [12, 8])
    assert batches.size == 7 * 4, "an epoch, in examples"
    drawn = [batches[step] for step in range(14)]
    met = Counter((int(batch["source"][0]), int(index)) for batch in drawn for index in batch["input_ids"])
    assert all(len(set(batch["source"].tolist())) == 1 for batch in drawn)
    assert met == {**{(0, index): 2 for index in range(12)}, **{(1, index): 4 for index in range(8)}}
    orders = [[int(batches[step]["source"][0]) for step in range(start, start + 7)] for start in (0, 7)]
    assert orders[0] != orders[1], "each epoch has an order of its own"


def test_a_batch_depends_on_its_step_alone() -> None:
    """A resumed run goes on with the batches that it would have had."""
    forwards, backwards = batches_of([3, 2], [12, 7]), batches_of([3, 2], [12, 7])
    expected = [forwards[step]["input_ids"].tolist() for step in range(20)]
    assert [backwards[step]["input_ids"].tolist() for step in reversed(range(20))] == expected[::-1]


def test_shots() -> None:
    examples = [{"id": str(number)} for number in range(50)]
    first = Shots(5, "first").of(examples)
    assert first == examples[:5]
    drawn = Shots(5, "drawn", seed=1).of(examples)
    assert drawn == Shots(5, "drawn", seed=1).of(examples)
    assert drawn not in (first, Shots(5, "drawn", seed=2).of(examples))
    assert drawn == sorted(drawn, key=lambda example: int(example["id"])), "in their order in the split"
    assert set(map(str, Shots(3, "drawn", seed=1).of(examples))) < set(map(str, drawn)), "fewer are some of more"
    assert Shots(100, "drawn").of(examples) == examples


# ---- what is drawn


def test_zero_shot_learns_from_the_source_and_swaps_the_language_module(overrides: list[str]) -> None:
    step = evaluation(overrides, "transfer=zero_shot", "source=yo")
    (learnt,) = step.task_modules
    assert [labels.examples.language.key for labels in learnt.sources] == ["yo"]
    assert (learnt.language_module.language.key, step.language_module.language.key) == ("yo", "mt")
    assert step.examples.language.key == "mt"


def test_the_task_module_does_not_depend_on_the_target(overrides: list[str]) -> None:
    steps = [task_module(overrides, "transfer=zero_shot", "source=yo", f"lang={target}") for target in ("mt", "yo")]
    assert steps[0].fingerprint == steps[1].fingerprint
    assert steps[0].fingerprint == task_module(overrides, "lang=yo").fingerprint, "and in-language training is the same training"


def test_no_shots_are_zero_shots(overrides: list[str]) -> None:
    few = evaluation(overrides, "transfer=few_shot", "source=yo", "shots=0")
    assert few.fingerprint == evaluation(overrides, "transfer=zero_shot", "source=yo").fingerprint
    assert few.fingerprint != evaluation(overrides, "transfer=few_shot", "source=yo", "shots=4").fingerprint


def test_one_source_is_zero_shot_whatever_the_setting(overrides: list[str]) -> None:
    expected = evaluation(overrides, "transfer=zero_shot", "source=yo").fingerprint
    for setting in ("multi_source", "ensemble"):
        assert evaluation(overrides, f"transfer={setting}", "source=[yo]").fingerprint == expected


def test_few_shots(overrides: list[str]) -> None:
    learnt = task_module(overrides, "transfer=few_shot", "source=yo", "shots=4", "transfer.choice=first")
    source, target = learnt.sources
    assert (source.examples.language.key, source.shots, source.repeat, source.validates) == ("yo", None, 1, True)
    assert (target.examples.language.key, target.shots, target.repeat) == ("mt", Shots(4, "first", 0), 10)
    assert not target.validates, "checkpoints are chosen without labels of the target"
    assert target.language_module.language.key == "mt"


def test_shots_come_from_validation_where_there_is_no_training_data(overrides: list[str]) -> None:
    splits = ["task.data.splits={train: null, validation: validation, test: test}", "task@source_task=sib200",
              "source_task.name=topics", "source_task.data.id=tiny/topics", "source_task.labels=[kiki,bouba]"]  # fmt: skip
    few = ["transfer=few_shot", "source=yo", "shots=4"]
    assert task_module(overrides, *few).sources[1].split == "train"
    assert task_module([*overrides, *splits], *few).sources[1].split == "validation"


def test_shots_of_one_target_or_of_all(overrides: list[str]) -> None:
    few = [*overrides, "lang=[mt,yo]", "transfer=few_shot", "source=yo", "shots=4"]
    one = [step.task_modules[0] for step in draw(few).evaluations]
    every = [step.task_modules[0] for step in draw(few, "transfer.targets=all").evaluations]
    assert [[labels.examples.language.key for labels in step.sources] for step in one] == [["yo", "mt"], ["yo", "yo"]]
    assert every[0].fingerprint == every[1].fingerprint
    assert [labels.examples.language.key for labels in every[0].sources] == ["yo", "mt", "yo"]


def test_a_cap_on_each_language(overrides: list[str]) -> None:
    learnt = task_module(overrides, "transfer=multi_source", "source=[mt,yo]", "transfer.cap=10", "seed=3")
    assert [labels.shots for labels in learnt.sources] == [Shots(10, "drawn", 3)] * 2


def test_validation_on_the_target(overrides: list[str]) -> None:
    learnt = task_module(overrides, "transfer=zero_shot", "source=yo", "transfer.validation=target")
    source, target = learnt.sources
    assert (source.trains, source.validates, source.examples.language.key) == (True, False, "yo")
    assert (target.trains, target.validates, target.examples.language.key) == (False, True, "mt")


# ---- what happens while it trains


def tuned(overrides: list[str]) -> list[str]:
    """Language modules that differ visibly from one another after their few steps."""
    return [*overrides, "train.language.loop.learning_rate=0.1"]


def test_each_batch_has_its_language_module(overrides: list[str]) -> None:
    """The loss of a batch of a language is that of a backbone that has that language's module alone."""
    experiment = draw(overrides, "transfer=multi_source", "source=[mt,yo]", "method=seq_bn_inv")
    (step,) = experiment.evaluations
    (learnt,) = step.task_modules
    made = artifacts(experiment, learnt)
    backbone, modules = learnt._open(made)
    head = learnt.task.head(backbone, generator(0))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator("head"))
    both = Composition(backbone, learnt.task, [Branch(head)], 32, CPU, [Stack(module) for module in modules])
    both.model.eval()
    examples = read_examples(made["examples"], "train")[:8]
    losses = []
    for number, labels in enumerate(learnt.sources):
        batch = both.maker(both.encode(examples), number)(range(8), generator(0))
        shaken(modules[number], seed=number)
        losses.append(both.loss(batch, CPU).item())
        alone = learnt.backbone.open(made["backbone"])
        shaken(labels.language_module.attach(alone, made[f"language_module{number or ''}"]), seed=number)
        single = Composition(alone, learnt.task, [Branch(head)], 32, CPU)
        single.model.eval()
        plain = single.maker(single.encode(examples))(range(8), generator(0))
        assert losses[-1] == pytest.approx(single.loss(plain, CPU).item(), rel=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-3, "the modules differ, or this shows nothing"


def test_multi_source_and_few_shot_runs(overrides: list[str]) -> None:
    for more in (["transfer=multi_source", "source=[mt,yo]"], ["transfer=few_shot", "source=yo", "shots=4"]):
        record = xlt.run(*overrides, *more, "method=seq_bn")
        assert record["transfer"] == more[0].removeprefix("transfer=")
        assert record["training"]["task_module"]["steps"] == (2 * 12 if "multi" in more[0] else 2 * (6 + 10))
        assert record["test_size"] == 40


def test_an_ensemble_adds_up_logits(overrides: list[str]) -> None:
    """Its scores are the weighted sum of those of its members, each evaluated alone."""
    settings = [*tuned(overrides), "method=seq_bn", "train.task.learning_rate=1e-2"]
    experiment = draw(settings, "transfer=ensemble", "source=[mt,yo]", "transfer.weights=[3,1]")
    (step,) = experiment.evaluations
    assert step.weights == (0.75, 0.25)
    composition = step.open_composition(artifacts(experiment, step), CPU)
    composition.model.eval()
    examples = read_examples(artifacts(experiment, step)["test_examples"], "test")[:6]
    rows = composition.encode(examples)
    with torch.no_grad():
        found = composition._scores(rows)["labels"]
    expected = []
    for source in ("mt", "yo"):
        alone = draw(settings, "transfer=zero_shot", f"source={source}")
        (member,) = alone.evaluations
        single = member.open_composition(artifacts(alone, member), CPU)
        single.model.eval()
        with torch.no_grad():
            expected.append(single._scores(rows)["labels"])
    assert torch.allclose(found, 0.75 * expected[0] + 0.25 * expected[1], atol=1e-5)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


# ---- several targets


def test_several_targets_in_one_run(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One task module, a record for each target; each is what a run of its own would find."""
    shot = [*overrides, "transfer=zero_shot", "source=yo", "method=seq_bn"]
    assert cli.exit_status([*shot, "lang=[mt,yo]"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("making task_module") == 1
    paths = {path.parent.name: path for path in (tmp_path / "outputs" / "runs").rglob("result.json")}
    records = {key: json.loads(path.read_text()) for key, path in paths.items()}
    assert set(records) == {"mt", "yo"} == {record["lang"] for record in records.values()}
    scores = [records[key]["metrics"]["macro_f1"] for key in ("mt", "yo")]
    lines = captured.out.strip().splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("score")] == [
        "score     topics mt seq_bn", "score     topics yo seq_bn"
    ]  # fmt: skip
    assert lines[-1] == f"mean      macro_f1 {sum(scores) / 2:.3f} over 2 languages"
    record = xlt.run(*shot, "lang=yo", "reuse=only_cached")
    assert record["fingerprint"] == records["yo"]["fingerprint"]
    assert (record["source"], record["source_task"], record["shots"]) == (["yo"], "topics", None)
    assert [found["lang"] for found in xlt.run(*shot, "lang=[mt,yo]", "reuse=only_cached")] == ["mt", "yo"]


def test_a_sweep_has_a_line_for_each_target(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.exit_status(["-m", *overrides, "lang=[mt,yo]", "transfer=zero_shot", "source=yo", "method=none,seq_bn"]) == 0
    table = capsys.readouterr().out.strip().split("\n\n")[-1].splitlines()
    assert set(table[0].split()[:2]) == {"lang", "method"}
    assert len(table) == 1 + 4
    assert sum(line.count("[") == 2 for line in table[1:]) == 2, "both targets have a gain over none"


def test_loading_a_record_of_several_targets(overrides: list[str], tmp_path: Path) -> None:
    records = xlt.run(*overrides, "lang=[mt,yo]", "method=none")
    for record in records:
        rows = [json.loads(line) for line in record.predictions_path.read_text().splitlines()]
        made = open_store(Experiment.from_config(cli.compose(overrides)).settings).list("examples")
        (examples,) = [found for found in made if found.manifest["label"] == f"topics-{record['lang']}"]
        answers = xlt.load(record).predict(read_examples(examples, "test"))
        assert [answer["label"] for answer in answers] == [row["predicted"] for row in rows]


# ---- what cannot be


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["transfer=zero_shot"], "say in which, for example source=en"),
        (["transfer=zero_shot", "source=[mt,yo]"], "transfer=multi_source"),
        (["transfer=few_shot", "source=yo"], "shots=100"),
        (["transfer=few_shot", "source=yo", "shots=-1"], "shots=-1 is out of range"),
        (["transfer=few_shot", "source=yo", "shots=3", "transfer.validation=target"], "no labels of the target to spare"),
        (["transfer=zero_shot", "source=yo", "task@source_task=sib200"], "source_task=sib200 has the labels science/technology"),
        (["transfer=zero_shot", "source=[yo,yor]"], "source names yo twice"),
        (["lang={mt: yo}"], "neither a language nor a list"),
        (["transfer=ensemble", "source=[mt,yo]", "transfer.weights=[1]"], "needs 2 weights"),
        (["transfer=zero_shot", "source=de"], "no configuration deu_Latn"),
        (
            ["transfer=in_language", "task.data.splits={train: null, validation: null, test: test}"],
            "needs labels of Maltese .mt. in the split train and validation.*it has: test",
        ),
    ],
)
def test_refused_before_any_work(more: list[str], complaint: str, overrides: list[str]) -> None:
    with pytest.raises(UserError, match=complaint):
        _ = draw(overrides, *more).evaluations


def test_segments_matter_to_bert_alone(tmp_path: Path) -> None:
    """Models without segment embeddings are not given any."""
    ids = torch.tensor([[2, 5, 3, 6, 3]])
    kinds = torch.tensor([[0, 0, 0, 1, 1]])
    changed = {}
    for kind in ("bert", "xlm_roberta", "llama"):
        backbone = Backbone.open(save_tiny_model(tmp_path / kind, kind))
        with torch.no_grad():
            states = [backbone.hidden_states(ids, torch.ones_like(ids), token_type_ids=given) for given in (None, kinds)]
        changed[kind] = not torch.equal(*states)
    assert changed == {"bert": True, "xlm_roberta": False, "llama": False}
