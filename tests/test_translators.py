"""Translators: the ids of the libraries' own tokenizers, translations that depend on nothing else, new languages, refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sentencepiece
import torch
from conftest import save_tiny_model
from sacrebleu.metrics import BLEU, CHRF
from torch.nn.functional import log_softmax
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    NllbTokenizer,
)

from xlt.cli import compose
from xlt.errors import UserError
from xlt.experiment import Experiment
from xlt.languages import Language, load_languages
from xlt.random import generator
from xlt.steps.translator import SequenceToSequenceStep
from xlt.translation import scores
from xlt.translation.base import TranslatorStep
from xlt.translation.decoding import Decoding, TransformersDecoder, batches_by_length
from xlt.translation.model import TranslationModel, TranslationTokenizer, has_token
from xlt.translation.training import Translating, add_language, examples_of

CPU = torch.device("cpu")
LANGUAGES = load_languages()
ES, QU, EN, RO = map(LANGUAGES.find, ("es", "qu", "en", "ro"))
TEXTS = [
    "la casa",
    "la casa roja es de mi madre y de mi padre",
    "sol",
    "",
    "el sol",
    "la casa",
    "de mi madre y de nadie más",
    " ",
]
WORDS = sorted({word for text in TEXTS for word in text.split()})


# ---- tiny tokenizers of the real classes


def nllb_tokenizer() -> NllbTokenizer:
    """Byte-pair encoding over letters, with a few merges, as in tokenizer.json."""
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "▁", *letters, "▁l", "▁la", "as", "▁d", "▁de", "ma"]
    merges = [("▁", "l"), ("▁l", "a"), ("a", "s"), ("▁", "d"), ("▁d", "e"), ("m", "a")]
    return NllbTokenizer(vocab={piece: number for number, piece in enumerate(vocabulary)}, merges=merges)


def sentence_pieces(folder: Path, padding: bool) -> Path:
    """A SentencePiece model of the words."""
    (folder / "text").write_text("\n".join(WORDS * 20))
    options = {"vocab_size": 40, "hard_vocab_limit": False, "model_type": "bpe", "minloglevel": 2}
    numbers = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3} if padding else {}
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "text"), model_prefix=str(folder / "pieces"), **options, **numbers
    )
    return folder / "pieces.model"


def m2m100_tokenizer(folder: Path) -> M2M100Tokenizer:
    model = sentence_pieces(folder, padding=False)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    own = [pieces.id_to_piece(number) for number in range(3, pieces.get_piece_size())]
    vocabulary = {piece: number for number, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *own])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return M2M100Tokenizer(str(folder / "vocab.json"), str(model))


def mbart50_tokenizer(folder: Path) -> MBart50Tokenizer:
    letters = sorted({letter for word in WORDS for letter in word})
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    return MBart50Tokenizer(vocab=[*pieces, ("▁la", -2.5), ("▁casa", -2.5)], src_lang="en_XX")


def tokenizer_of(kind: str, folder: Path) -> tuple[Any, dict[str, str], str]:
    """A tokenizer, its tokens for Spanish and Quechua (mBART-50: Romanian for it), and its code for Spanish."""
    if kind == "nllb":
        return nllb_tokenizer(), {"es": "spa_Latn", "qu": "quy_Latn"}, "spa_Latn"
    if kind == "m2m100":
        return m2m100_tokenizer(folder), {"es": "__es__", "qu": "__ro__"}, "es"
    return mbart50_tokenizer(folder), {"es": "es_XX", "qu": "ro_RO"}, "es_XX"


KINDS = ["nllb", "m2m100", "mbart50"]


def tiny_model(tokenizer: Any, kind: str = "nllb", spare: int = 0, seed: int = 0) -> Any:
    """A random model for a tokenizer, with as many rows of embeddings to spare. It prefers words to special tokens."""
    languages = 100 if kind == "m2m100" else 0  # this tokenizer does not count them
    shape = {
        "vocab_size": len(tokenizer) + languages + spare, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
        "max_position_embeddings": 64, "dropout": 0.0, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None, "init_std": 1.0, "scale_embedding": False,
    }  # fmt: skip
    torch.manual_seed(seed)
    if kind == "mbart50":
        net = MBartForConditionalGeneration(MBartConfig(**shape)).eval()
    else:
        net = M2M100ForConditionalGeneration(M2M100Config(**shape, encoder_layerdrop=0.0, decoder_layerdrop=0.0)).eval()
    words = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("la casa roja es de mi madre y el sol"))
    with torch.no_grad():
        rows = net.get_input_embeddings().weight
        rows.mul_(0.05)
        rows[words] *= 6
    return net


def saved(folder: Path, kind: str = "nllb", spare: int = 0) -> tuple[Path, dict[str, str]]:
    """A model folder as the hub has them, and the tokens of its languages."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, tokens, _ = tokenizer_of(kind, folder)
    tiny_model(tokenizer, kind, spare).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, tokens


# ---- ids


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_models_own_tokenizer(tmp_path: Path, kind: str) -> None:
    tokenizer, tokens, code = tokenizer_of(kind, tmp_path)
    tokenizer.src_lang = code
    texts = [text for text in TEXTS if text.strip()]
    expected = tokenizer(texts)["input_ids"]
    assert TranslationTokenizer(tokenizer, tokens).ids(texts, ES, 100) == expected
    assert len(set(map(len, expected))) > 2
    cut = TranslationTokenizer(tokenizer, tokens).ids(texts, ES, 6)
    assert cut == tokenizer(texts, truncation=True, max_length=6)["input_ids"]
    assert max(map(len, cut)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_those_of_the_models_own_tokenizer(tmp_path: Path, kind: str) -> None:
    tokenizer, tokens, code = tokenizer_of(kind, tmp_path)
    tokenizer.src_lang, tokenizer.tgt_lang = "en_XX" if kind == "mbart50" else ("en" if kind == "m2m100" else "eng_Latn"), code
    expected = tokenizer(text_target=["la casa", "sol"])["input_ids"]
    assert TranslationTokenizer(tokenizer, tokens).ids(["la casa", "sol"], ES, 100) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_ids_do_not_depend_on_the_language_that_was_used_last(tmp_path: Path, kind: str) -> None:
    tokenizer, tokens, code = tokenizer_of(kind, tmp_path)
    opened = TranslationTokenizer(tokenizer, tokens)
    before = opened.ids(["la casa"], QU, 100)
    tokenizer.src_lang = code
    assert opened.ids(["la casa"], QU, 100) == before != opened.ids(["la casa"], ES, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_comes_back_from_its_ids(tmp_path: Path, kind: str) -> None:
    tokenizer, tokens, _ = tokenizer_of(kind, tmp_path)
    opened = TranslationTokenizer(tokenizer, tokens)
    (ids,) = opened.ids(["la casa de mi madre"], QU, 100)
    assert opened.text([tokenizer.eos_token_id, *ids, tokenizer.pad_token_id]) == "la casa de mi madre"


# ---- decoding


def decoder(kind: str, folder: Path, **settings: Any) -> TransformersDecoder:
    model_folder, tokens = saved(folder, kind)
    return TransformersDecoder(TranslationModel.open(model_folder, tokens), Decoding(max_length=24, **settings), CPU)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_translations_do_not_depend_on_their_neighbours(tmp_path: Path, kind: str, beams: int) -> None:
    opened = decoder(kind, tmp_path, beams=beams)
    together = opened.translate(TEXTS, ES, QU)
    alone = [opened.translate([text], ES, QU)[0] for text in TEXTS]
    few = decoder(kind, tmp_path, beams=beams, batch_tokens=20).translate(TEXTS, ES, QU)
    assert together == alone == few
    assert together[0] == together[5], "the same text"
    assert together[3] == together[7] == "", "nothing becomes nothing"
    assert len(set(together)) >= 4, "the model says different things"


def test_greedy_search_takes_the_likeliest_token_each_time(tmp_path: Path) -> None:
    """A loop by hand: the decoder begins with the end and the language, and each token is the likeliest one."""
    opened = decoder("nllb", tmp_path)
    tokenizer, net = opened.tokenizer, opened._model.model
    (row,) = tokenizer.ids(["la casa roja"], ES, 24)
    written = [tokenizer.end, tokenizer.language(QU)]
    with torch.no_grad():
        while len(written) < 25 and (written[-1] != tokenizer.end or len(written) == 2):
            logits = net(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([written])).logits
            written.append(int(logits[0, -1].argmax()))
    assert opened.generate([row], QU)[0][: len(written)] == written
    assert opened.translate(["la casa roja"], ES, QU) == [tokenizer.text(written)]


def test_the_model_settings_of_a_checkpoint_do_not_change_the_search(tmp_path: Path) -> None:
    """M2M100's own generation settings ask for five beams."""
    expected = decoder("nllb", tmp_path / "one").translate(TEXTS, ES, QU)
    folder, tokens = saved(tmp_path / "other")
    model = TranslationModel.open(folder, tokens)
    model.model.generation_config.update(num_beams=5, max_length=4, early_stopping=True, length_penalty=0.1)
    assert TransformersDecoder(model, Decoding(max_length=24), CPU).translate(TEXTS, ES, QU) == expected


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(tmp_path: Path, precision: str) -> None:
    folder, tokens = saved(tmp_path)
    model = TranslationModel.open(folder, tokens, precision)
    assert {parameter.dtype for parameter in model.model.parameters()} <= {torch.bfloat16, torch.float16}
    assert len(TransformersDecoder(model, Decoding(max_length=8, precision=precision), CPU).translate(TEXTS, ES, QU)) == len(
        TEXTS
    )


def test_batches_hold_what_fits() -> None:
    lengths = [3, 9, 1, 8, 40, 2]
    batches = list(batches_by_length(lengths, 20))
    assert sorted(number for batch in batches for number in batch) == list(range(6))
    assert [[lengths[number] for number in batch] for batch in batches] == [[40], [9, 8], [3, 2, 1]]


def test_what_is_cut_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = decoder("nllb", tmp_path)
    opened.translate(["sol"], ES, QU)
    assert not caplog.text
    opened.translate(["sol", "la casa " * 20], ES, QU)
    assert "1 of 2 texts reach 24 tokens" in caplog.text


# ---- what is minimised


def objective(tmp_path: Path, label_smoothing: float = 0.0) -> tuple[Translating, Any, list[Any]]:
    folder, tokens = saved(tmp_path)
    model = TranslationModel.open(folder, tokens)
    pairs = [("la casa", "el sol"), ("sol", "de mi madre y de mi padre"), ("la casa roja es de mi madre", "sol")]
    return Translating(model, label_smoothing), model, examples_of(model.tokenizer, pairs, ES, QU, 40)


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    """Which makes the decoder's input from the labels itself."""
    translating, model, examples = objective(tmp_path)
    batch = translating.make(examples, [0, 1, 2], generator(0))
    expected = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    loss = translating.loss(batch, CPU) / translating.count(batch)
    torch.testing.assert_close(loss, expected)
    assert translating.count(batch) == sum(len(target) for _, target in examples)
    assert translating.evaluate(examples, 20, CPU)["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_label_smoothing(tmp_path: Path) -> None:
    """Szegedy et al. 2016: (1 - e) of the target's surprise and e of the mean surprise of all tokens; none in evaluation."""
    smoothed, model, examples = objective(tmp_path, 0.1)
    batch = smoothed.make(examples, [0, 1], generator(0))
    kept = batch["labels"] != -100
    read = {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
    surprise = -log_softmax(model.model(**read).logits[kept], dim=-1)
    of_target = surprise.gather(1, batch["labels"][kept][:, None])[:, 0]
    torch.testing.assert_close(smoothed.loss(batch, CPU), (0.9 * of_target + 0.1 * surprise.mean(dim=1)).sum())
    plain = Translating(model, 0.0)
    assert smoothed.evaluate(examples, 64, CPU) == plain.evaluate(examples, 64, CPU)


def test_the_loss_does_not_depend_on_padding(tmp_path: Path) -> None:
    translating, _, examples = objective(tmp_path)
    alone = sum(float(translating.loss(translating.make(examples, [number], generator(0)), CPU)) for number in range(3))
    assert float(translating.loss(translating.make(examples, [0, 1, 2], generator(0)), CPU)) == pytest.approx(alone, rel=1e-5)


# ---- new languages


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_language_has_one_row_more_and_changes_no_other(tmp_path: Path, kind: str) -> None:
    folder, tokens = saved(tmp_path / "before", kind)
    model = TranslationModel.open(folder, tokens)
    net, tokenizer = model.model, model.tokenizer.tokenizer
    before = copy.deepcopy(net.state_dict())
    example = {"input_ids": torch.tensor(model.tokenizer.ids(["la casa"], ES, 20))}
    example["decoder_input_ids"] = example["input_ids"]
    expected = net(**example).logits
    token = "qub_Latn"
    assert not has_token(tokenizer, token)
    number = add_language(net, tokenizer, token, None, generator(0))
    rows = net.get_input_embeddings().weight
    assert number == len(rows) - 1 == len(before["model.shared.weight"]), "one row behind all others"
    assert tokenizer.convert_tokens_to_ids(token) == number
    assert torch.equal(rows[:-1], before["model.shared.weight"])
    assert net.get_output_embeddings().weight is rows, "input and output are still one"
    assert net.config.vocab_size == len(rows)
    torch.testing.assert_close(net(**example).logits[..., :-1], expected)
    changed = [name for name, value in net.state_dict().items() if value.shape != before[name].shape]
    assert all("shared" in name or "embed_tokens" in name or "lm_head" in name or "final_logits_bias" in name for name in changed)
    net.save_pretrained(tmp_path / "after")
    tokenizer.save_pretrained(tmp_path / "after")
    again = TranslationModel.open(tmp_path / "after", {**tokens, "qub": token})
    assert again.tokenizer.tokenizer.convert_tokens_to_ids(token) == number
    assert torch.equal(again.model.get_input_embeddings().weight, rows)
    language = Language("qub", "qub", "Quechua (Huallaga)")
    assert again.tokenizer.ids(["la casa"], language, 20)[0][0] == number
    assert again.tokenizer.text([number, *again.tokenizer.ids(["la casa"], ES, 20)[0]]) == "la casa"


def test_a_row_to_spare_is_used(tmp_path: Path) -> None:
    """NLLB-200 and M2M100 have a few rows more than tokens."""
    folder, tokens = saved(tmp_path, spare=2)
    model = TranslationModel.open(folder, tokens)
    size = len(model.model.get_input_embeddings().weight)
    assert add_language(model.model, model.tokenizer.tokenizer, "qub_Latn", None, generator(0)) == size - 2
    assert len(model.model.get_input_embeddings().weight) == size
    assert add_language(model.model, model.tokenizer.tokenizer, "qvc_Latn", None, generator(0)) == size - 1
    assert add_language(model.model, model.tokenizer.tokenizer, "qva_Latn", None, generator(0)) == size
    assert len(model.model.get_input_embeddings().weight) == size + 1


def test_how_a_new_row_begins(tmp_path: Path) -> None:
    """Drawn with the scale of the others, or like a related language's."""
    folder, tokens = saved(tmp_path)
    model = TranslationModel.open(folder, tokens)
    net, tokenizer = model.model, model.tokenizer.tokenizer
    scale = float(net.get_input_embeddings().weight.std())
    rows = []
    for number in range(40):
        net_, tokenizer_ = copy.deepcopy(net), copy.deepcopy(tokenizer)
        new = add_language(net_, tokenizer_, "qub_Latn", None, generator(number))
        rows.append(net_.get_input_embeddings().weight[new].detach())
    assert float(torch.stack(rows).std()) == pytest.approx(scale, rel=0.1)
    copied = add_language(net, tokenizer, "qub_Latn", "quy_Latn", generator(0))
    weight = net.get_input_embeddings().weight
    assert torch.equal(weight[copied], weight[tokenizer.convert_tokens_to_ids("quy_Latn")])


# ---- choices and refusals


def experiment(tmp_path: Path, *overrides: str) -> Experiment:
    world = ["lang=qaa", "data=miniature", "task=mini_topic", f"paths.outputs={tmp_path}/outputs"]
    return Experiment.from_config(compose([*world, *overrides]), online=False)


def drawn(tmp_path: Path, source: str, target: str, *overrides: str) -> TranslatorStep:
    chosen = experiment(tmp_path, *overrides)
    return chosen.translator.draw(chosen, chosen.languages.find(source), chosen.languages.find(target))


def test_any_folder_is_a_translator(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "tiny")
    step = drawn(tmp_path, "es", "qu", "translator=seq2seq", f"translator.path={folder}")
    assert isinstance(step, SequenceToSequenceStep)
    assert step.tokens == {"es": "spa_Latn", "qu": "quy_Latn"}
    assert step.flops_per_token == sum(part.numel() for part in TranslationModel.open(folder, {}).model.parameters())
    artifact = step.locate({"model": step.model.locate({})})
    opened = TransformersDecoder(TranslationModel.open(folder, step.tokens), step.decoding, CPU)
    assert step.open(artifact, CPU).translate(TEXTS[:3], ES, QU) == opened.translate(TEXTS[:3], ES, QU)


def test_what_changes_a_translation_changes_the_fingerprint(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "tiny")
    base = ["translator=seq2seq", f"translator.path={folder}"]

    def fingerprint(source: str = "es", target: str = "qu", *more: str) -> str:
        return drawn(tmp_path, source, target, *base, *more).fingerprint

    same = [
        fingerprint(),
        fingerprint("es", "qu", "translator.name=mine"),
        fingerprint("es", "qu", "translator.decoding.batch_tokens=9"),
    ]
    others = [
        fingerprint("qu", "en"), fingerprint("es", "qu", "translator.decoding.beams=4"),
        fingerprint("es", "qu", "translator.decoding.precision=bf16"),
        fingerprint("es", "qu", "+translator.spelling.qu=ayr_Latn"),
    ]  # fmt: skip
    assert len(set(same)) == 1
    assert len({*same, *others}) == 5


@pytest.mark.parametrize(
    ("overrides", "source", "target", "complaint"),
    [
        ([], "es", "tar", r"does not know .* \(lang=tar\).*translator/adaptation=fine_tuning"),
        (["+translator.spelling.qu=quz_Latn"], "es", "qu", r"no token quz_Latn.*\+translator\.spelling\.qu"),
        (["translator.language_column=key"], "es", "qu", r"no token es\."),
        (["translator.language_token=__lang__"], "es", "qu", r"language_token='__lang__' has to hold @lang"),
        ([], "es", "es", "there is nothing to translate"),
        (["translator.decoding.beams=0"], "es", "qu", r"translator\.decoding\.beams=0 is out of range"),
        (["translator.decoding.engine=onnx"], "es", "qu", r"engine=onnx is no choice"),
        (
            ["translator/adaptation=fine_tuning", "translator.adaptation.copy_from=tar"],
            "es",
            "qu",
            r"does not know .* \(lang=tar\)",
        ),
    ],
)
def test_refusals(tmp_path: Path, overrides: list[str], source: str, target: str, complaint: str) -> None:
    folder, _ = saved(tmp_path / "tiny")
    with pytest.raises(UserError, match=complaint):
        drawn(tmp_path, source, target, "translator=seq2seq", f"translator.path={folder}", *overrides)


def test_a_language_is_refused_with_its_neighbours(tmp_path: Path) -> None:
    """Of the same genus first, then those that are spelled alike, then all."""
    folder, _ = saved(tmp_path / "tiny")
    chosen = ["translator=seq2seq", f"translator.path={folder}"]
    with pytest.raises(UserError, match=r"The languages that it knows are: ace, am, "):
        drawn(tmp_path, "es", "tar", *chosen)
    with pytest.raises(UserError, match=r"no token bar_Latn\. Its relatives there are .*\(English\)"):
        drawn(tmp_path, "es", "de", *chosen, "+translator.spelling.de=bar_Latn")


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("config.json", "holds no config.json"),
        ("model.safetensors", "holds no weights"),
        ("tokenizer.json", "holds no tokenizer"),
        ("", "neither a folder here nor a model id"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_before_training(tmp_path: Path, missing: str, complaint: str) -> None:
    folder, _ = saved(tmp_path / "tiny")
    if missing:
        (folder / missing).unlink()
    path = folder if missing else tmp_path / "nowhere"
    with pytest.raises(UserError, match=complaint):
        drawn(tmp_path, "es", "qu", "translator=seq2seq", f"translator.path={path}", "translator/adaptation=fine_tuning")


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "bert", "bert")
    with pytest.raises(UserError, match="cannot be read as an encoder-decoder"):
        TranslationModel.open(folder, {})


def test_no_code_is_executed_and_no_pickle_is_trusted(tmp_path: Path) -> None:
    """A checkpoint of another age is read as tensors alone; one that holds more is not read."""
    folder, tokens = saved(tmp_path)
    state = TranslationModel.open(folder, tokens).model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert TranslationModel.open(folder, tokens).model.num_parameters() > 0
    torch.save({**state, "extra": SimpleNamespace()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"[Ww]eights.only|cannot be read"):
        TranslationModel.open(folder, tokens)


@pytest.mark.parametrize("choice", ["nllb_600m", "nllb_1_3b", "nllb_3_3b", "m2m100", "mbart50"])
def test_the_named_models_spell_languages_as_they_do(tmp_path: Path, choice: str) -> None:
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M100
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART50
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB

    codes = {"m2m100": [f"__{code}__" for code in M2M100["m2m100"]], "mbart50": MBART50}.get(choice, NLLB)
    translator = experiment(tmp_path, f"translator={choice}").translator
    for code in ("en", "es", "id", "sw", "ta", "ro"):
        assert translator.token(LANGUAGES.find(code)) in codes, code
    spelled = [translator.token(language) for language in LANGUAGES.languages.values() if translator.code(language)]
    assert len(spelled) == len(set(spelled))
    assert len(set(spelled) & set(codes)) >= 30


# ---- scores


HYPOTHESES = ["the cat sat on the mat .", "hello", "", "a completely different sentence", "the same thing"]
REFERENCES = ["the cat sat on a mat .", "hello there", "something", "the weather is nice today", "the same thing"]


def test_scores_are_those_of_sacrebleu() -> None:
    found = scores.score(HYPOTHESES, REFERENCES)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(HYPOTHESES, [REFERENCES]).score, abs=1e-9)
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(HYPOTHESES, [REFERENCES]).score, abs=1e-9)


def test_scores_of_a_resampled_test_set() -> None:
    """Counts add up: the score of a drawn test set is that of its sentences."""
    chosen = [0, 0, 4, 1, 3]
    sums = scores.counts(HYPOTHESES, REFERENCES)[chosen].sum(axis=0)[None]
    drawn_hypotheses, drawn_references = ([side[number] for number in chosen] for side in (HYPOTHESES, REFERENCES))
    expected = scores.score(drawn_hypotheses, drawn_references)
    assert {name: float(values[0]) for name, values in scores.metrics(sums).items()} == pytest.approx(expected, abs=1e-9)
