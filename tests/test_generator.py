"""Continuations of prompts: text in pieces, stop strings, seeds, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from regard import directory
from regard.cli.main import main
from regard.decoding.scoring import forced_scores
from regard.errors import RegardError
from regard.models.decoder import DecoderOnly
from regard.models.encoder import Encoder
from regard.models.heads import MaskedWords
from regard.models.transformer import Transformer
from regard.nn.positions import Learned
from regard.pipelines.generator import Generator
from regard.pipelines.growing import GrowingText, text_after
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

torch.set_num_threads(1)
TEXTS = ["the cat sat on the mat, and the dog sat on the cat.", "Été à Zürich: 我爱机器学习 🙂!", "no no no"] * 3


def ours(kind: str) -> Tokenizer:
    return Tokenizer.train(TEXTS, kind, vocabulary=330)


def byte_level() -> Tokenizer:
    """GPT-2's kind: every token is bytes."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    return Tokenizer(inner)


def word_piece() -> Tokenizer:
    """BERT's kind: ``##`` continues a word."""
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=False)
    inner.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"]))
    return Tokenizer(inner)


KINDS = {"bpe": lambda: ours("bpe"), "unigram": lambda: ours("unigram"), "bytes": byte_level, "words": word_piece}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS[:3])
def test_pieces_of_text_are_whole_characters_and_make_the_text(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(text)
    for first in range(len(ids)):
        prompt, rest = ids[:first], ids[first:]
        growing = GrowingText(tokenizer, prompt)
        pieces = [*map(growing.add, rest), growing.end()]
        whole, before = tokenizer.decode(ids), tokenizer.decode(prompt)
        if before.endswith("\ufffd"):  # a prompt is text: it does not end within a character
            continue
        assert whole.startswith(before) and "".join(pieces) == whole[len(before) :]
        assert "\ufffd" not in "".join(pieces)
    assert not any(piece.encode("utf-8", "replace").endswith(b"?") and "?" not in text for piece in pieces)


def test_bytes_that_are_no_character_are_said_at_the_end() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("我")
    growing = GrowingText(tokenizer)
    assert growing.add(ids[0]) == "" and growing.end() == "\ufffd"
    assert text_after(tokenizer, [], [ids[0], *tokenizer.encode("a")]) == "\ufffda"


def test_a_stop_string_and_its_beginning_are_held_back() -> None:
    tokenizer = byte_level()

    def pieces(text: str, stop: tuple[str, ...]) -> tuple[list[str], bool]:
        growing = GrowingText(tokenizer, (), stop)
        found = []
        for token in [one for letter in text for one in tokenizer.encode(letter)]:
            found.append(growing.add(token))
            if growing.stopped:
                break
        return [*found, growing.end()], growing.stopped

    assert pieces("ab\nUser", ("\nUser:",)) == (["a", "b", "", "", "", "", "", "\nUser"], False)
    assert pieces("ab\nUser: c", ("\nUser:",)) == (["a", "b", "", "", "", "", "", "", ""], True)
    assert pieces("ab\nUs c", ("\nUser:", "zz"))[0] == ["a", "b", "", "", "", "\nUs ", "c", ""]
    assert "".join(pieces("aabaabaac", ("aabaac",))[0]) == "aab"
    assert text_after(tokenizer, [], tokenizer.encode("one two three"), ("wo", "two")) == "one "


def language_model(folder: Path, tokenizer: Tokenizer | None = None, **changes: Any) -> Path:
    tokenizer = tokenizer or ours("bpe")
    torch.manual_seed(1)
    settings = TextSettings(**{"suppressed": (0, 2), **changes.pop("settings", {})})
    options = DecoderOnly(width=16, heads=2, feedforward=32, layers=1, **changes)
    model = options.build(tokenizer.size).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return directory.save(folder, model, options, settings, tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model(tmp_path_factory.mktemp("lm") / "model")


@pytest.fixture(scope="module")
def generator(folder: Path) -> Generator:
    return Generator(directory.load(folder))


def test_samples_have_ids_text_and_the_models_score(generator: Generator) -> None:
    prompts = ["the cat", "", "no"]
    found = generator.generate(prompts, max_tokens=12, temperature=0.7, n=3, seed=5)
    assert [len(one.alternatives) for one in found] == [2, 2, 2]
    for prompt, first in zip(prompts, found, strict=True):
        ids = generator.tokenizer.encode(prompt)
        for one in (first, *first.alternatives):
            ended = one.finish == "end"
            forced = forced_scores(generator.model, None, [one.ids], generator.settings, prompts=[ids], ended=ended)
            assert one.score == pytest.approx(forced[0].score, abs=1e-4)
            assert one.finish in ("end", "limit") and (ended or len(one.ids) == 12)
            assert one.text == text_after(generator.tokenizer, ids, one.ids)
            assert one.tokens == generator.tokenizer.tokens(one.ids)
    again = generator.generate(prompts, max_tokens=12, temperature=0.7, n=3, seed=5)
    other = generator.generate(prompts, max_tokens=12, temperature=0.7, n=3, seed=6)
    assert [one.ids for one in again] == [one.ids for one in found] != [one.ids for one in other]


def test_a_prompt_is_continued_alike_whatever_stands_beside_it(generator: Generator) -> None:
    prompts = [f"the {word}" for word in ("cat", "dog", "mat", "cat", "no", "Zürich")]
    together = generator.generate(prompts, max_tokens=10, seed=3)
    for number, prompt in enumerate(prompts):
        assert generator.generate(prompt, max_tokens=10, seed=3, numbers=[number])[0].ids == together[number].ids
    assert together[0].ids != together[3].ids  # the same prompt twice: two numbers, two draws
    some = generator.generate(prompts[1::2], max_tokens=10, seed=3, numbers=[1, 3, 5])
    assert [one.ids for one in some] == [one.ids for one in together[1::2]]
    with pytest.raises(RegardError, match="2 prompts and 1 numbers: expected one for each"):
        generator.generate(["a", "b"], numbers=[1, 1])


def test_a_stream_gives_the_text_of_generate(generator: Generator) -> None:
    for seed in range(6):
        options: dict[str, Any] = {"max_tokens": 20, "seed": seed, "top_k": 40}
        pieces = list(generator.stream("the cat", **options))
        whole = generator.generate("the cat", **options)[0]
        assert "".join(pieces) == whole.text
        stop = (whole.text[3:5],) if len(whole.text) > 5 else ("x",)
        cut = generator.generate("the cat", stop=stop, n=1, **options)[0]
        assert "".join(generator.stream("the cat", stop=stop, **options)) == cut.text
        if cut.finish == "stop":
            assert cut.text == whole.text[: whole.text.find(stop[0])] and cut.ids == whole.ids[: len(cut.ids)]
            forced = forced_scores(
                generator.model, None, [cut.ids], generator.settings,
                prompts=[generator.tokenizer.encode("the cat")], ended=False,
            )  # fmt: skip
            assert cut.score == pytest.approx(forced[0].score, abs=1e-4) and len(cut.ids) <= len(whole.ids)


def test_stop_strings_of_many_samples(generator: Generator) -> None:
    plain = generator.generate(["the cat", "no"] * 4, max_tokens=15, n=3, seed=1)
    stopped = generator.generate(["the cat", "no"] * 4, max_tokens=15, n=3, seed=1, stop=["a", "t"])
    counts = {"stop": 0, "limit": 0, "end": 0}
    for first, other in zip(plain, stopped, strict=True):
        for one, cut in zip((first, *first.alternatives), (other, *other.alternatives), strict=True):
            places = [at for letter in "at" if (at := one.text.find(letter)) >= 0]
            assert cut.text == one.text[: min(places, default=None)] and cut.ids == one.ids[: len(cut.ids)]
            assert (cut.finish == "stop") is bool(places)
            counts[cut.finish] += 1
    assert counts["stop"] > 5 and counts["stop"] < 24


def test_ids_that_the_tokenizer_lacks_are_not_produced_and_keep_their_share(tmp_path: Path) -> None:
    tokenizer = ours("bpe")
    rows = tokenizer.size + 500  # most of the probability is theirs
    torch.manual_seed(1)
    options = DecoderOnly(width=16, heads=2, feedforward=32, layers=1)
    settings = TextSettings(ends=(3, rows - 1))
    folder = directory.save(tmp_path / "m", options.build(rows), options, settings, tokenizer, vocabulary=(rows, None))
    generator = Generator(directory.load(folder))
    strategies: list[dict[str, Any]] = [{"n": 4}, {"temperature": 0}, {"top_k": 600}, {"beam": 3}, {"stop": ["zz"]}]
    for options_of in strategies:
        [found] = generator.generate(["the cat"], max_tokens=9, **options_of)
        for one in (found, *found.alternatives):
            assert max(one.ids, default=0) < tokenizer.size
            if one.finish == "limit":
                [scored] = forced_scores(
                    generator.model, None, [one.ids], settings, prompts=[tokenizer.encode("the cat")], ended=False
                )
                assert one.score == pytest.approx(scored.score, abs=1e-4)
    assert "".join(generator.stream("the cat", max_tokens=9))


def test_temperature_0_and_a_beam(generator: Generator) -> None:
    greedy = generator.generate("the cat", max_tokens=8, temperature=0)[0]
    assert generator.generate("the cat", max_tokens=8, temperature=0, seed=9)[0].ids == greedy.ids
    beam = generator.generate("the cat", max_tokens=8, beam=4, n=2)[0]
    assert len(beam.alternatives) == 1 and beam.ids != beam.alternatives[0].ids
    assert generator.generate("the cat", max_tokens=8, beam=1)[0].ids == greedy.ids
    with pytest.raises(RegardError, match="a beam searches and draws nothing"):
        generator.generate("the cat", beam=3, temperature=0.5)
    with pytest.raises(RegardError, match="a stream is one sample"):
        generator.stream("the cat", beam=3)


def test_prompts_that_cannot_be_continued(tmp_path: Path, generator: Generator) -> None:
    short = Generator(directory.load(language_model(tmp_path / "short", positions=Learned(16))))
    with pytest.raises(RegardError, match=r"prompt 2: \d+ tokens, and the model has learnt 16 positions"):
        short.generate(["no", "the cat sat on the mat, " * 4])
    assert short.generate("no", max_tokens=100)[0].finish == "limit"
    bare = Generator(directory.load(language_model(tmp_path / "bare", settings={"start": (), "ends": ()})))
    with pytest.raises(RegardError, match="prompt 1 is empty, and this model has no start token: give --prompt TEXT"):
        bare.generate("")
    assert bare.generate("no", max_tokens=9)[0].finish == "limit" and len(bare.generate("no", max_tokens=9)[0].ids) == 9
    with pytest.raises(RegardError, match="prompt 2 is None: expected a text"):
        generator.generate(["no", None])  # type: ignore[list-item]
    with pytest.raises(RegardError, match="a stop string is empty"):
        generator.generate("no", stop=("",))


def test_a_translator_is_no_generator(tmp_path: Path) -> None:
    tokenizer = ours("bpe")
    options = Transformer(width=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1)
    directory.save(tmp_path / "one", options.build(tokenizer.size), options, TextSettings(), tokenizer)
    with pytest.raises(RegardError, match="this model has a source: it translates"):
        Generator(directory.load(tmp_path / "one"))


def test_a_model_that_reads_whole_texts_is_no_generator(tmp_path: Path) -> None:
    tokenizer = ours("bpe")
    options = Encoder(width=16, heads=2, feedforward=32, layers=1, head=MaskedWords())
    settings = TextSettings(mask=1)
    directory.save(tmp_path / "one", options.build(tokenizer.size), options, settings, tokenizer, task="masked")
    with pytest.raises(RegardError, match=r"one: this model reads whole texts, .*: its task is masked"):
        Generator(directory.load(tmp_path / "one"))


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "regard", "generate", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, encoding="utf-8", timeout=120)


def test_the_command(folder: Path, generator: Generator, tmp_path: Path) -> None:
    model, options = str(folder), ("--max-tokens", "9", "--seed", "4", "--top-p", "0.9")
    expected = generator.generate("the cat", max_tokens=9, seed=4, top_p=0.9)[0]
    done = run(model, "--prompt", "the cat", *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected.text + "\n", "")
    done = run(model, "-", *options, "--json", given="the cat\nno\n")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2 and lines[0]["text"] == expected.text and lines[0]["ids"] == expected.ids
    done = run(model, "--prompt", "a", str(tmp_path / "x"))
    assert done.returncode == 2 and "expected one of them" in done.stderr


def test_empty_lines_stay_empty(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = language_model(tmp_path / "bare", settings={"start": ()})  # which cannot begin without a prompt
    (tmp_path / "prompts").write_text("the cat\n\nno\n \n", "utf-8")
    for model in (folder, bare):

        def lines(*options: str, model: Path = model) -> list[str]:
            assert main(["generate", str(model), str(tmp_path / "prompts"), "--max-tokens", "5", *options]) == 0
            return capsys.readouterr().out.split("\n")

        plain = lines()
        assert len(plain) == 5 and plain[0] and not plain[1] and plain[2] and not plain[3]
        assert [row.split(" |||")[0] for row in lines("-n", "2")] == ["0", "0", "1", "2", "2", "3", ""]
        described = [json.loads(line) for line in lines("--json")[:-1]]
        assert described[1] == {"text": "", "ids": [], "tokens": [], "score": 0.0, "finish": None, "alternatives": []}
        expected = Generator(directory.load(model)).generate(["the cat", "x", "no"], max_tokens=5)
        assert [described[0]["ids"], described[2]["ids"]] == [expected[0].ids, expected[2].ids]
