"""The translator as a filter: line N for line N, whatever comes in, with a model of random weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import regard
from regard import pipelines
from regard.config import DecodingConfig
from regard.decoding.alignments import links, pharaoh
from regard.decoding.waiting import Input
from regard.directory import Loaded, save
from regard.errors import RegardError
from regard.models.registry import options_from
from regard.pipelines import TooMuch, Translator
from regard.surrogates import without_halves
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

torch.set_num_threads(1)
LINES = ["Two dogs play in the snow.", "A man rides a bicycle.", "我爱机器学习。", "今天天气很好，我们去公园。"] * 5
NASTY = [
    "",
    "   \t　",
    "Two dogs play.",
    "😀 emoji 👩‍👩‍👧‍👦 !",
    "\0 NUL \0",
    "line\u2028separator\u2029here\x85and\x0bthere\x0c",
    "ⵣⴰⵎⴰⵣⵉⵖ ܐܪܡܝܐ 𐎠𐎡𐎢 ⁂",
    "carriage\rreturn",
    "\ufeffbyte order mark",
    "lone \ud800 surrogate",
    "e\u0301" * 30,
    "</s> <pad> <s> <unk> <0x0A>",
    "a" * 3000,
    "哈" * 500,
    "A man. " * 200,
]


def made(target="de", max_length=30, architecture=None, seed=0):
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train(LINES, vocabulary=400)
    small = {"width": 16, "heads": 2, "feedforward": 32, "encoder_layers": 2, "decoder_layers": 3}
    options = options_from(architecture or {"architecture": "transformer", **small})
    model = options.build(tokenizer.size).eval()
    settings = TextSettings(source="en", target=target, max_length=max_length, suppressed=(0, 1, 2))
    return Loaded(model, options, settings, tokenizer, tokenizer, "", Path("toy"))


@pytest.fixture(scope="module")
def translator():
    return Translator(made(), DecodingConfig(beam=2, max_extra=4))


def test_line_n_for_line_n(translator):
    warnings = []
    lines = [line + "\n" for line in NASTY[:-1]] + [NASTY[-1]]  # no last newline
    out = list(translator.stream(lines, warn=lambda line, what: warnings.append((line, what)), no_repeat=False))
    assert len(out) == len(NASTY)
    for source, translation in zip(NASTY, out, strict=True):
        assert len(translation.text.splitlines()) <= 1 and "\n" not in translation.text
        translation.text.encode()
        if not source.strip():
            assert translation.text == "" and translation.tokens == [] and translation.score == 0.0
        else:
            assert translation.source_tokens
    long = {line for line, what in warnings if "parts" in what}
    sizes = [len(translator.tokenizer.encode(without_halves(line).strip())) for line in NASTY]
    assert long == {line for line, size in enumerate(sizes) if size > 30} and len(long) >= 4


def test_a_stream_is_the_same_in_any_chunks(translator):
    whole = [t.text for t in translator.translate(LINES)]
    for ahead in (1, 3, 100):
        assert [t.text for t in translator.stream(iter(LINES), ahead=ahead)] == whole


def test_a_stream_reads_ahead_no_more_than_it_says(translator):
    read = []

    def lines():
        for line in LINES:
            read.append(line)
            yield line

    stream = translator.stream(lines(), ahead=4)
    next(stream)
    assert len(read) == 4


def test_bytes_that_are_not_utf8_are_said_and_translated(translator):
    said = []
    out = list(translator.stream([b"A man.\r\n", b"caf\xe9\n", "é �\n".encode()], warn=lambda *what: said.append(what)))
    assert len(out) == 3
    assert [line for line, what in said if "UTF-8" in what] == [1]


def test_long_text_is_split_and_nothing_is_lost(translator):
    text = "A man rides a bicycle. Two dogs play in the snow. " * 10
    said = []
    translation = translator.translate([text], no_repeat=False, warn=lambda *what: said.append(what))[0]
    assert said and said[0][0] == 0 and "translated in" in said[0][1]
    pieces = translator.tokenizer.decode(translator.tokenizer.encode(text))
    assert pieces == text
    joined = "".join(translation.source_tokens).replace("▁", "").replace(" ", "")
    assert joined == text.replace(" ", "")
    # The parts are what they would be alone.
    parts = translator.parts([text])[0]
    assert all(len(part.ids) <= 30 for part in parts)
    alone = translator._decode([Input(0, tuple(part.ids)) for part in parts], translator.search(), 4096)
    assert translation.score == pytest.approx(sum(n_best[0].score for n_best in alone), abs=1e-3)


def test_a_megabyte_in_one_line(translator):
    short = Translator(made(max_length=100))
    line = "a man rides a bicycle " * 46_000
    assert len(line) > 1_000_000
    out = list(short.stream([line], beam=1, max_extra=-99, no_repeat=False))
    assert len(out) == 1 and out[0].text.count("\n") == 0


def test_parts_are_joined_as_the_target_language_writes():
    text = "Two dogs play in the snow. A man rides a bicycle. " * 8
    for target, between in (("de", " "), ("zh-CN", "")):
        translator = Translator(made(target), DecodingConfig(beam=1, max_extra=4))
        parts = translator.parts([text])[0]
        assert len(parts) > 1 and {part.after for part in parts[:-1]} == {between} and parts[-1].after == ""


@pytest.mark.parametrize("text", ["Two dogs play.\n" * 9, "Two dogs play. A man rides a bicycle. " * 9, "a" * 9_000])
def test_more_sentences_than_the_caller_wants_are_refused(translator, text):
    count = sum(bool(part.ids) for part in translator.parts([text])[0])
    assert translator.parts([text], most=count) == translator.parts([text])
    with pytest.raises(TooMuch, match=f"{count:,} sentences; at most {count - 1:,} are translated at once"):
        translator.parts([text], most=count - 1)
    with pytest.raises(TooMuch, match="at most 1"):
        translator.parts([text], most=1)


def test_parts_that_are_given_are_not_split_again(translator):
    texts = ["Two dogs play.\nA man rides.", "", "Two dogs play in the snow. A man rides a bicycle. " * 8]
    parts = translator.parts(texts)
    translator.parts, split = None, translator.parts
    try:
        found = translator.translate(texts, parts=parts)
    finally:
        translator.parts = split
    assert [each.text for each in found] == [each.text for each in translator.translate(texts)]


def test_lines_within_a_text_stay_lines(translator):
    one, two = (t.text for t in translator.translate(["Two dogs play.", "A man rides."]))
    assert translator.translate(["Two dogs play.\n\nA man rides."])[0].text == f"{one}\n\n{two}"
    assert translator.translate("Two dogs play.")[0].text == one


def test_n_best_and_alignments(translator):
    texts = ["Two dogs play in the snow.", "", "A man. " * 30]
    found = translator.translate(texts, beam=3, n_best=3, alignments=True, length_penalty="power:1.0", no_repeat=False)
    for translation in found:
        assert translation.alignment.shape == (len(translation.tokens), len(translation.source_tokens))
        assert translation.alignment.dtype == np.float32 and (translation.alignment.sum(1) <= 1 + 1e-5).all()
    first = found[0]
    assert len(first.alternatives) == 2
    scores = [first.normalized, *(other.normalized for other in first.alternatives)]
    assert scores == sorted(scores, reverse=True)
    assert first.alignment.sum() > 0
    assert found[1].alternatives == [] and found[1].alignment.size == 0


@pytest.fixture(scope="module")
def packaged():
    return regard.load("zh-en")


@pytest.mark.parametrize(("beam", "n"), [(5, 5), (20, 20), (3, 2)])
def test_no_alternative_is_lost_to_the_same_text_again(packaged, beam, n):
    texts = ["我不想走。", "时间到了。", "门锁上了。", "你有什么要说的吗？", "好", "1", "", "🙂"]
    found = packaged.translate(texts, beam=beam, n_best=n)
    alone = packaged.translate(texts, beam=beam)
    for text, one, winner in zip(texts, found, alone, strict=True):
        assert (one.text, one.score, one.tokens) == (winner.text, winner.score, winner.tokens)
        choices = [one.text, *(other.text for other in one.alternatives)]
        assert len({" ".join(choice.split()) for choice in choices}) == len(choices) == (n if text else 1)
        scores = [other.normalized for other in one.alternatives]
        assert scores == sorted(scores, reverse=True)


def test_alternatives_of_a_long_text_differ(packaged):
    text = "我爱机器学习。你叫什么名字？" * 12 + "\n好"
    one = packaged.translate([text], n_best=5)[0]
    assert one.text == packaged.translate([text])[0].text
    choices = [one.text, *(other.text for other in one.alternatives)]
    assert len(set(choices)) == 5 and all(choice.count("\n") == 1 for choice in choices)
    assert all(other.normalized > 1.2 * one.normalized for other in one.alternatives), "one part differs, not all"


def test_fewer_translations_than_asked_for_are_said_once(translator):
    said = []
    texts = ["A man.", "", "Two dogs play in the snow. " * 8]
    found = translator.translate(
        texts, beam=4, n_best=4, max_extra=-99, no_repeat=False, warn=lambda *what: said.append(what)
    )
    assert [len(one.alternatives) for one in found] == [0, 0, 0]
    lines = [line for line, what in said if what == "has 1 different translations, not 4: a beam of 64 finds no more"]
    assert lines == [0, 2]


def test_scores_of_text_are_those_of_its_tokens(translator):
    texts = ["Two dogs play in the snow.", "A man rides a bicycle."]
    scored = translator.score(texts, ["Ein Mann.", ""])
    assert [len(one.token_scores) - len(one.tokens) for one in scored] == [1, 1]
    assert scored[0].score == pytest.approx(math.fsum(scored[0].token_scores))
    with pytest.raises(RegardError, match="2 sources and 1 targets"):
        translator.score(texts, ["one"])


def test_repetitions_are_decoded_again_and_named():
    loaded = made(max_length=60)
    bias = torch.zeros(len(loaded.model.output_table()[0]))  # it always wants the tokens of one phrase, over and over
    bias[loaded.tokenizer.encode("dogs")] += 50.0
    bias[3] += 45.0
    loaded.model.output_bias = torch.nn.Parameter(bias)
    translator = Translator(loaded, DecodingConfig(beam=2, max_extra=20))
    said = []
    texts = ["", "A man rides a bicycle.", "dogs dogs dogs dogs dogs dogs"]
    again = translator.translate(texts, warn=lambda *what: said.append(what))
    wild = translator.translate(texts, no_repeat=False)
    assert "dogsdogsdogsdogs" in wild[1].text.replace(" ", "")
    assert "dogsdogsdogsdogs" not in again[1].text.replace(" ", "")
    assert 1 in [line for line, _ in said] and "decoded again" in said[0][1]


def test_no_alarm_for_numbers_and_sources_that_repeat(translator):
    from regard.decoding.running_batch import Hypothesis
    from regard.pipelines.repeats import fault_of

    digits = translator.tokenizer.encode("1000000000")
    assert fault_of(Input(0, [5]), Hypothesis(digits, -1.0, -1.0), translator.tokenizer) == ""
    words = translator.tokenizer.encode("dogs dogs dogs dogs dogs")
    assert "repeats 'dogs'" in fault_of(Input(0, [5]), Hypothesis(words, -1.0, -1.0), translator.tokenizer)
    assert fault_of(Input(0, words), Hypothesis(words, -1.0, -1.0), translator.tokenizer) == ""
    endless = Hypothesis([7], -1.0, -1.0, at_limit=True)
    assert "does not end" in fault_of(Input(0, [5]), endless, translator.tokenizer)
    assert fault_of(Input(0, [5]), endless, translator.tokenizer, bounded=True) == ""


def test_wrong_options_are_errors(translator):
    for wrong in ({"beam": 0}, {"n_best": 9}, {"length_penalty": "much"}, {"stopping": "soon"}):
        with pytest.raises(RegardError):
            translator.translate(["A man."], **wrong)


def test_the_length_penalty_that_the_model_remembers():
    loaded = made()
    power = replace(loaded, settings=replace(loaded.settings, length_penalty="power:0.9"))
    assert str(Translator(loaded).search().length_penalty) == "gnmt:0.6"
    assert str(Translator(power).search().length_penalty) == "power:0.9"
    assert str(Translator(power).search(length_penalty="gnmt:1").length_penalty) == "gnmt:1"
    wrong = replace(loaded, settings=replace(loaded.settings, length_penalty="long"))
    with pytest.raises(RegardError, match=r"^toy/text\.json: .*'long': expected gnmt:0\.6, power:1\.0"):
        Translator(wrong)


def test_a_model_without_source_is_not_a_translator():
    loaded = made(architecture={"architecture": "decoder", "width": 16, "heads": 2, "feedforward": 32, "layers": 1})
    with pytest.raises(
        RegardError, match=r"no source, which a model that translates has: its architecture is decoder$"
    ):
        Translator(loaded)


def test_load_from_a_directory(tmp_path):
    loaded = made()
    save(tmp_path / "model", loaded.model, loaded.options, loaded.settings, loaded.tokenizer, card="# Toy\n")
    translator = regard.load(str(tmp_path / "model"))
    assert isinstance(translator, pipelines.Translator) and translator.card == "# Toy\n"
    expected = Translator(loaded).translate(["A man."], beam=1)[0]
    assert translator.translate(["A man."], beam=1)[0].text == expected.text


def test_pharaoh():
    weights = np.array([[0.1, 0.8], [0.05, 0.01], [0.7, 0.2]], dtype=np.float32)
    assert pharaoh(weights) == "1-0 0-1 0-2"
    assert pharaoh(weights, threshold=0.1) == "1-0 0-2"
    assert links(np.zeros((0, 3), dtype=np.float32)) == [] and pharaoh(np.zeros((0, 0), dtype=np.float32)) == ""


def test_learned_positions_end_outputs_and_refuse_scores():
    shape = {"width": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 1}
    learned = {"architecture": "transformer", **shape, "positions": {"kind": "learned", "length": 32}}
    translator = Translator(made(architecture=learned), DecodingConfig(beam=2, max_extra=50))
    assert len(list(translator.stream(NASTY))) == len(NASTY)
    with pytest.raises(RegardError, match=r"target 2: .* subwords are too long to be scored: .* 32 positions"):
        translator.score(["A man.", "Two dogs."], ["A man.", "a" * 100])


def test_a_text_is_split_where_positions_end_before_text_json_says():
    shape = {"width": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 1}
    learned = {"architecture": "transformer", **shape, "positions": {"kind": "learned", "length": 16}}
    loaded = made(architecture=learned)
    translator = Translator(replace(loaded, settings=replace(loaded.settings, max_length=1000)))
    said = []
    assert len(translator.translate(["dogs " * 100], warn=lambda line, text: said.append(text))) == 1
    assert said[0].startswith("is longer than the 15 subwords")
