"""Special ids of published folders: what stands around a text, what starts and ends an output, what is never said."""

from __future__ import annotations

from typing import Any

import pytest

from regard.errors import RegardError
from regard.interop.post_processor import Marks, post_processor, read_marks
from regard.interop.specials import ParsedFiles, generation_config, settings_from

IDS = {"<s>": 0, "</s>": 2, "[CLS]": 10, "[SEP]": 11, "[MASK]": 12, "<pad>": 1, "[UNK]": 3}


def special(name: str, segment: int = 0) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": segment}}


def text(name: str, segment: int = 0) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": segment}}


def template(single: list[dict[str, Any]], pair: list[dict[str, Any]]) -> dict[str, Any]:
    names = {piece["SpecialToken"]["id"] for piece in (*single, *pair) if "SpecialToken" in piece}
    specials = {name: {"id": name, "ids": [IDS[name]], "tokens": [name]} for name in names}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}


BERT = template(
    [special("[CLS]"), text("A"), special("[SEP]")],
    [special("[CLS]"), text("A"), special("[SEP]"), text("B", 1), special("[SEP]", 1)],
)
T5 = template([text("A"), special("</s>")], [text("A"), special("</s>"), text("B"), special("</s>")])
LLAMA = template([special("<s>"), text("A")], [special("<s>"), text("A"), special("<s>", 1), text("B", 1)])


@pytest.mark.parametrize(
    ("processor", "marks"),
    [
        (BERT, Marks((10,), (11,), (11,), segments=True)),
        ({"type": "BertProcessing", "cls": ["[CLS]", 10], "sep": ["[SEP]", 11]}, Marks((10,), (11,), (11,), True)),
        (
            {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2], "trim_offsets": True},
            Marks((0,), (2, 2), (2,)),
        ),
        (T5, Marks((), (2,), (2,))),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, LLAMA]}, Marks((0,), (0,), (), True)),
        ({"type": "ByteLevel", "trim_offsets": True}, None),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}]}, None),
        (None, None),
    ],
)
def test_post_processors(processor: Any, marks: Marks | None) -> None:
    assert read_marks(processor) == marks


@pytest.mark.parametrize(
    "processor",
    [
        {"type": "Other"},
        {"no": "type"},
        "text",
        {"type": "Sequence", "processors": [BERT, T5]},
        {"type": "BertProcessing", "cls": ["[CLS]"], "sep": 3},
        {"type": "BertProcessing", "cls": ["[CLS]", -1], "sep": ["[SEP]", 11]},
        {**BERT, "special_tokens": {}},
        {**BERT, "single": [text("B")]},
        {**BERT, "pair": [text("A")]},
        {**BERT, "single": [text("A"), text("A")]},
        {**BERT, "single": None},
    ],
)
def test_other_post_processors_are_refused(processor: Any) -> None:
    with pytest.raises(RegardError, match=r"tokenizer\.json: post_processor: "):
        read_marks(processor)


@pytest.mark.parametrize(
    "processor",
    [
        {**BERT, "single": [special("[CLS]"), text("A", 1), special("[SEP]")]},
        {**BERT, "single": [special("[CLS]", 1), text("A"), special("[SEP]")]},
        {**BERT, "pair": [special("[CLS]", 1), text("A", 1), special("[SEP]", 1), text("B"), special("[SEP]")]},
        {**BERT, "pair": [special("[CLS]"), text("A"), special("[SEP]"), text("B", 1), special("[SEP]")]},
        {**BERT, "pair": [special("[CLS]"), text("A"), special("[SEP]"), text("B", 2), special("[SEP]", 2)]},
    ],
)
def test_segments_that_are_not_ours_are_refused_where_the_model_reads_them(processor: Any) -> None:
    with pytest.raises(RegardError, match=r"tokenizer\.json: post_processor: type_id"):
        settings_from("classification", 64, described({}, tokenizer={"post_processor": processor, "model": {}}))


def described(config: dict[str, Any], **files: Any) -> ParsedFiles:
    return ParsedFiles(config, number=IDS.get, **files)


def test_an_encoder() -> None:
    found = settings_from(
        "masked", 512,
        described({"pad_token_id": 1}, tokenizer={"post_processor": BERT, "model": {"unk_token": "[UNK]"}},
                  tokenizer_config={"mask_token": "[MASK]", "model_max_length": 128}),
    )  # fmt: skip
    assert (found.source_before, found.pair_between, found.source_after) == ((10,), (11,), (11,)) and found.segments
    assert (found.start, found.ends, found.mask, found.unk, found.pad) == ((), (), 12, 3, 1)
    assert found.max_length == 126 and found.normalize == ()


def test_marks_by_the_tokenizers_configuration() -> None:
    """Where tokenizer.json has no post-processor that says them, or is missing."""
    names = {"cls_token": {"content": "[CLS]"}, "sep_token": "[SEP]"}
    found = settings_from("classification", 64, described({}, specials_map=names))
    assert (found.source_before, found.source_after, found.pair_between) == ((10,), (11,), (11,))
    bos = {"bos_token_id": 0, "eos_token_id": [2, 11]}
    byte_level = {"post_processor": {"type": "ByteLevel"}, "model": {}}
    for files, start in (
        ({}, (0,)),
        ({"tokenizer": byte_level}, ()),
        ({"tokenizer": byte_level, "tokenizer_config": {"add_bos_token": True, "bos_token": "<s>"}}, (0,)),
        ({"tokenizer": {**byte_level, "post_processor": LLAMA}}, (0,)),
    ):
        found = settings_from("language_model", 64, described(bos, **files))
        assert found.start == start and found.ends == (2, 11) and found.source_after == ()


def test_a_translator() -> None:
    config = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 1, "bad_words_ids": [[1]]}
    generation = {"forced_bos_token_id": 7, "suppress_tokens": [8, 9], "begin_suppress_tokens": [2],
                  "length_penalty": 0.5}  # fmt: skip
    found = settings_from("translation", 64, described(config, generation=generation))
    assert (found.start, found.ends, found.source_after) == ((1, 7), (2,), (2,))
    assert (found.suppressed, found.suppressed_first) == ((1, 8, 9), (2,))
    assert found.length_penalty == "power:0.5" and found.max_length == 63
    written = generation_config(found, "translation")
    again = settings_from("translation", 64, described({}, generation=written | {"length_penalty": 0.5}))
    assert again == found


@pytest.mark.parametrize(
    ("task", "config", "message"),
    [
        ("translation", {}, "config.json has no 'decoder_start_token_id'"),
        ("translation", {"decoder_start_token_id": [1, 2]}, r"decoder_start_token_id = \[1, 2\]: expected one id"),
        ("language_model", {"eos_token_id": "x"}, "eos_token_id = 'x': expected an id, or a list of ids"),
        ("language_model", {"eos_token_id": [True]}, "expected an id, or a list of ids"),
        ("language_model", {"pad_token_id": -1}, "pad_token_id = -1: expected an id"),
        ("language_model", {"bad_words_ids": [[1, 2]]}, "sequences cannot be suppressed"),
        ("language_model", {"length_penalty": "x"}, "length_penalty = 'x': expected a number"),
        ("language_model", {"sequence_bias": [[[1], 2.0]]}, "regard does not decode with it"),
    ],
)
def test_faults_are_named(task: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(RegardError, match=message):
        settings_from(task, 64, described(config))


@pytest.mark.parametrize(
    ("task", "generation", "message"),
    [
        ("translation", {"forced_eos_token_id": 2}, ""),
        ("translation", {"forced_eos_token_id": [2]}, ""),
        ("translation", {"forced_eos_token_id": None, "eos_token_id": 2}, ""),
        ("translation", {"forced_eos_token_id": 3}, r"generation_config\.json: forced_eos_token_id = 3: expected null"),
        ("translation", {"forced_eos_token_id": [[2]]}, r"forced_eos_token_id = \[\[2\]\]: expected null"),
        ("language_model", {"forced_eos_token_id": 2}, r"forced_eos_token_id = 2: regard ends .* without it"),
        ("translation", {}, r"config\.json: forced_eos_token_id = 9: expected null or the end tokens, \[2\]"),
    ],
)
def test_an_end_that_is_forced_at_the_limit(task: str, generation: dict[str, Any], message: str) -> None:
    config = {"decoder_start_token_id": 1, "eos_token_id": 2, "bos_token_id": 1, "forced_eos_token_id": 9}
    if not message:
        assert settings_from(task, 64, described(config, generation=generation)).ends == (2,)
        return
    with pytest.raises(RegardError, match=message):
        settings_from(task, 64, described(config, generation=generation))


def test_marks_go_back_into_a_post_processor() -> None:
    names = {number: name for name, number in IDS.items()}
    for task, processor in (("masked", BERT), ("translation", T5)):
        tokenizer = {"post_processor": processor, "model": {}}
        found = settings_from(task, 64, described({"decoder_start_token_id": 1}, tokenizer=tokenizer))
        assert post_processor(found, task, names.__getitem__) == processor
