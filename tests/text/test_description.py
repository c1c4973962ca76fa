"""tokenizer.json from strangers: what would hang, fill the memory or panic is one line; what is published loads."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from regard.errors import RegardError
from regard.text import patterns
from regard.text.description import checked, limit
from regard.text.patterns import DEEPSEEK_V3, GPT_2, LLAMA_3, QWEN_2
from regard.text.specials import BYTES, SPECIALS
from regard.text.tokenizer import Tokenizer, library_errors
from regard.text.words import word_patterns

LINES = ["the cat sat on the mat .", "zwei junge weiße Männer", "我爱机器学习。"] * 3
TRAINED = {kind: Tokenizer.train(LINES, kind, 320) for kind in ("bpe", "unigram")}


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


def byte_level(*patterns: str) -> tokenizers.Tokenizer:
    """As GPT-2 and all after it: BPE over bytes that are written as letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    steps = [*map(split, patterns), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not patterns)]
    inner.pre_tokenizer = pre_tokenizers.Sequence(steps)
    inner.decoder, inner.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    inner.add_special_tokens(["<|endoftext|>", "<|pad|>"])
    return inner


def llama_2() -> tokenizers.Tokenizer:
    names = [*SPECIALS, *BYTES, "▁", "a", "b", "▁a"]
    model = models.BPE(
        {name: index for index, name in enumerate(names)}, [("▁", "a")], byte_fallback=True, fuse_unk=True
    )
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    inner.add_special_tokens(list(SPECIALS))
    return inner


def bert() -> tokenizers.Tokenizer:
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b", "b")
    inner = tokenizers.Tokenizer(models.WordPiece({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inner.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    inner.enable_truncation(8)
    inner.enable_padding()
    return inner


def albert() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -2.0)], 0, False))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(),
         normalizers.Lowercase(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )  # fmt: skip
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return inner


PUBLISHED: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "GPT-2": byte_level,
    "GPT-2's pattern": lambda: byte_level(GPT_2),
    "LLaMA 2": llama_2,
    "LLaMA 3": lambda: byte_level(LLAMA_3),
    "Qwen 2": lambda: byte_level(QWEN_2),
    "DeepSeek V3": lambda: byte_level(*DEEPSEEK_V3),
    "DeepSeek V3, line breaks written out": lambda: byte_level(DEEPSEEK_V3[2].replace(r"\r\n", "\r\n")),
    "BERT": bert,
    "ALBERT": albert,
    "words": lambda: tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, "<unk>")),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tokenizers_of_published_families_load_and_give_the_librarys_ids(name: str, tmp_path: Path) -> None:
    inner = PUBLISHED[name]()
    (tmp_path / "tokenizer.json").write_text(inner.to_str(), "utf-8")
    read = Tokenizer.read(tmp_path / "tokenizer.json", rows=300)
    inner.no_padding()
    inner.no_truncation()
    for text in ("a b ab  3456", "我爱 ``machine'' learning!\r\n x"):
        expected = inner.encode(text, add_special_tokens=False).ids
        assert read.encode(text) == expected
        assert read.decode(expected) == inner.decode([i for i in expected if i not in read.special_ids])


def test_the_published_patterns_are_written_as_they_were_published() -> None:
    """The builtin pattern of the library's ByteLevel is GPT-2's: the same cuts, whatever the text."""
    text = "It's 12345 o'clock — 我爱 x\n\n  y  "
    builtin = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    ours = split(GPT_2).pre_tokenize_str(text)
    assert [where for _, where in builtin] == [where for _, where in ours]
    assert LLAMA_3.replace("{1,3}", "") == QWEN_2 and all(len(pattern) < 200 for pattern in (LLAMA_3, *DEEPSEEK_V3))


@pytest.mark.parametrize("kind", TRAINED)
def test_what_was_trained_here_passes_as_it_is(kind: str) -> None:
    written = TRAINED[kind]._json
    assert json.loads(checked(written.encode())) == json.loads(written)


def path(description: Any, *keys: Any) -> Any:
    for key in keys:
        description = description[key]
    return description


def replacing(times: int, content: str = "aa") -> dict[str, Any]:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": content}
    return {"type": "Sequence", "normalizers": [step] * times}


def nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


def pattern(text: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False}


def vocabulary(**ids: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["model"]["vocab"].update(ids)


def put(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found.update({place: value})


def model(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["model"].update(values)


def added(**values: Any) -> Callable[[dict[str, Any]], None]:
    return put("added_tokens", [{"id": 320, "content": "<x>", "special": True} | values])


FLIPPED = word_patterns()[0].replace("\\x00-\\x40", "\\x40-\\x00")
BYTE_LEVELS = {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 6}
HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "an id of 2**31": (vocabulary(x=1 << 31), "the id of 'x' is 2147483648, but there are"),
    "an id below 0": (vocabulary(x=-1), "the id of 'x' is -1"),
    "an id that is true": (vocabulary(x=True), "the id of 'x' is True"),
    "an id of 1e3": (vocabulary(x=1e3), r"the id of 'x' is 1000\.0"),
    "an id twice": (vocabulary(x=7), "two entries of the vocabulary have one id"),
    "an added token of 2**31": (added(id=1 << 31), "the id of the added token '<x>' is 2147483648: expected"),
    "an added token elsewhere": (added(content="<s>", id=9), "the id of the added token '<s>' is 9: expected 2"),
    "an added token of nothing": (added(content=""), "added token '': expected a text of 1 to 512"),
    "a pattern that backtracks": (put("pre_tokenizer", pattern("(x+x+)+y")), "only those of published tokenizers"),
    "nearly a published pattern": (put("pre_tokenizer", pattern(GPT_2 + "|(a|a)*b")), "only those of published"),
    "a range that runs backwards": (put("pre_tokenizer", pattern(FLIPPED)), "only those of published"),
    "a pattern in a decoder": (
        put("decoder", {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}),
        "decoder: Replace cannot have pattern",
    ),
    "30 times a → aa": (put("normalizer", replacing(30)), "30 steps, expected at most 16"),
    "3 times a → aa": (put("normalizer", replacing(3)), "make a text 8 times longer"),
    "once a → 16 times a": (put("normalizer", replacing(1, "a" * 16)), "make a text 16 times longer"),
    "bytes of bytes of bytes": (put("normalizer", BYTE_LEVELS), "4096 times longer"),
    "a replacement of nothing": (
        put("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "a"}),
        "normalizer: Replace cannot have pattern",
    ),
    "a start that is not the last step": (
        lambda found: found["normalizer"]["normalizers"].append({"type": "NFC"}),
        "normalizer: what is put before a text must be put there last",
    ),
    "a start that bytes are made of": (
        put("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}),
        "normalizer: what is put before a text must be put there last",
    ),
    "a replacement by nobody knows what": (
        put("normalizer", {"type": "Replace", "pattern": {"String": "a"}}),
        "normalizer: Replace needs 'pattern' and 'content'",
    ),
    "nothing put before": (
        put("normalizer", {"type": "Prepend", "prepend": ""}),
        "normalizer: Prepend cannot have prepend = ''",
    ),
    "a strip that panics": (
        put("decoder", {"type": "Strip", "content": " ", "start": 0, "stop": 9}),
        "decoder: Strip cannot have stop = 9",
    ),
    "sequences in sequences": (put("normalizer", nested(9)), "normalizer: expected of a Sequence a list"),
    "a charsmap": (
        put("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "normalizer: Precompiled cannot have precompiled_charsmap",
    ),
    "a kind of nobody": (put("pre_tokenizer", {"type": "os:system"}), "'os:system' is not one that regard runs"),
    "a key of nobody": (put("normaliser", None), "it has no key 'normaliser' — did you mean 'normalizer'"),
    "dropout": (model(dropout=0.5), "gives another answer each time"),
    "a merge of nothing": (model(merges=[["x", "y"]]), "merge 0 is .*: 'x' is not in the vocabulary"),
    "a merge of three": (model(merges=["a b c"]), "merge 0 is 'a b c': expected two pieces"),
    "a prefix in BPE": (model(continuing_subword_prefix="###"), "continuing_subword_prefix is set"),
    "no unk": (model(unk_token="nope"), "unk_token is 'nope', which is not in the vocabulary"),
    "a long piece": (vocabulary(**{"x" * 600: 320}), "a piece of 600 characters"),
    "an empty piece": (vocabulary(**{"": 320}), "a piece of 0 characters"),
    "no entries": (model(vocab={}, merges=[]), "the vocabulary is empty"),
    "half a character": (vocabulary(**{"\ud800": 320}), "not valid JSON|surrogates not allowed"),
    "another model": (model(type="Maxent"), "'type' of the model is 'Maxent': expected one of BPE"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_hang_fill_the_memory_or_panic_is_one_line_at_once(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, message = HOSTILE[name]
    description = copy.deepcopy(TRAINED["bpe"].description)
    size = TRAINED["bpe"].size
    change(description)
    text = json.dumps(description).replace("320", str(size))
    file = tmp_path / "tokenizer.json"
    file.write_text(text, "utf-8")
    started = time.monotonic()
    with pytest.raises(RegardError, match=message) as caught:
        Tokenizer.read(file)
    assert time.monotonic() - started < 1 and re.match(r"[^\n]*tokenizer\.json: [^\n]*\Z", str(caught.value))
    assert capfd.readouterr() == ("", "")


def test_a_map_of_characters_is_one_of_those_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not patterns.charsmap("AAAA") and not patterns.charsmap("no base64") and not patterns.charsmap(None)
    monkeypatch.setattr(patterns, "CHARSMAPS", {hashlib.sha256(b"\0\0\0").hexdigest()})
    assert patterns.charsmap("AAAA")


def test_a_unigram_whose_scores_or_pieces_are_no_such_thing(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    for vocab, message in (
        ([["a", 1e300]], "the score of 'a' is"),
        ([["a", -1.0], ["a", -2.0]], "stands twice"),
        ([["a", None]], "the score of 'a' is None"),
        ([["a" * 129, -1.0]], "a piece of 129 characters: expected 1 to 128"),
        ([["a"]], "entry 0 of the vocabulary is not a piece with a score"),
        ([[f"{index:0128}", -1.0] for index in range(1000)], "expected pieces of 32 on average"),
    ):
        description = copy.deepcopy(TRAINED["unigram"].description)
        description["model"] |= {"vocab": vocab, "unk_id": 0}
        file.write_text(json.dumps(description), "utf-8")
        with pytest.raises(RegardError, match=message):
            Tokenizer.read(file)
    description["model"] |= {"vocab": [["a", -1.0]], "unk_id": 1 << 31}
    file.write_text(json.dumps(description), "utf-8")
    with pytest.raises(RegardError, match="unk_id is 2147483648, but the vocabulary has 1 entries"):
        Tokenizer.read(file)


def test_what_is_no_json_of_a_tokenizer(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    for data in (
        b"",
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"model": 1}',
        b"1" * 5000,
    ):
        file.write_bytes(data)
        with pytest.raises(RegardError, match=r"tokenizer\.json: (not valid JSON|expected the JSON)"):
            Tokenizer.read(file)


def test_a_tokenizer_is_no_larger_than_its_model_has_rows_for(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b" " * (limit(300) + 1))
    with pytest.raises(RegardError, match="expected at most 1,202,176 of such a file"):
        Tokenizer.read(file, rows=300)


def test_a_fault_of_the_library_while_it_encodes_is_one_line() -> None:
    """No unknown token, and a text that needs it: the library raises an Exception that is not ours."""
    inner = tokenizers.Tokenizer(models.Unigram([("a", -1.0)], None, False))
    with pytest.raises(RegardError, match="the tokenizers library cannot use this tokenizer"):
        Tokenizer(inner).encode("b")


def test_too_little_memory_is_no_fault_of_a_tokenizer() -> None:
    with pytest.raises(MemoryError), library_errors():
        raise MemoryError
