"""CTranslate2 with our weights finds what our own engine finds, ranked alike: score / length, done after N ends."""

from __future__ import annotations

import lzma
import re
from dataclasses import dataclass
from importlib import resources
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import regard
from regard.decoding.backends import build_backend
from regard.decoding.engine import Input, Search, decode, decode_inputs
from regard.decoding.ranking import LengthPenalty
from regard.decoding.scoring import forced_scores
from regard.decoding.waiting import inputs_of
from regard.errors import RegardError
from regard.models.rnn import RNN
from regard.models.transformer import Transformer
from regard.nn.multihead import MultiHeadAttention
from regard.nn.norm import LayerNorm, RMSNorm
from regard.nn.positions import Learned, RelativeBias
from regard.text.settings import TextSettings

pytest.importorskip("ctranslate2")

V, SENTENCES = 60, 300
SHAPE: dict[str, Any] = {
    "width": 16,
    "heads": 2,
    "feedforward": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "output_bias": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "post": {},
    "pre": {"order": "pre"},
    "pre without a final norm": {"order": "pre", "final_norm": False},
    "learned positions": {"positions": Learned(80)},
    "gated": {"gated": True, "activation": "silu"},
    "gelu, tables apart": {"activation": "gelu", "share": "none"},
    "inputs share a table": {"share": "inputs", "final_dropout": 0.1},
    "no biases": {"bias": False, "scale_embedding": False},
}


def of(model: Any, settings: TextSettings | None = None) -> Any:
    """What a backend reads of a loaded model."""
    settings = settings or TextSettings()
    return SimpleNamespace(
        model=model,
        settings=settings,
        text=SimpleNamespace(settings=settings, target_tokenizer=SimpleNamespace(size=1 << 30)),
    )


def loaded(**changes: Any) -> Any:
    """A thin model whose weights are drawn wide, norms and biases too."""
    torch.manual_seed(5)
    model = Transformer(**{**SHAPE, **changes}).build(V).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return of(model)


@pytest.mark.parametrize("name", MODELS)
def test_random_models_give_the_same_probabilities(name: str) -> None:
    one = loaded(**MODELS[name])
    generator = torch.Generator().manual_seed(1)

    def sentences() -> list[list[int]]:
        lengths = torch.randint(1, 12, (20,), generator=generator).tolist()
        return [torch.randint(4, V, (n,), generator=generator).tolist() for n in lengths]

    sources, targets = sentences(), sentences()
    backend: Any = build_backend("ctranslate2", one)
    pieces = [[str(token) for token in ids] for ids in targets]
    theirs = backend.translator.score_batch([[*map(str, ids), str(one.settings.ends[0])] for ids in sources], pieces)
    ours = forced_scores(one.model, sources, targets, one.settings)
    for mine, other in zip(ours, theirs, strict=True):
        # Both in fp32; without a norm at the end the logits reach hundreds.
        assert mine.token_scores == pytest.approx(other.log_probs, abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("beam", [1, 5])
def test_the_packaged_model(beam: int) -> None:
    corpus = resources.files("regard") / "packaged" / "tatoeba-zh-en" / "dev.zh.xz"
    lines = lzma.decompress(corpus.read_bytes()).decode().split("\n")[:SENTENCES]
    options: dict[str, Any] = {"beam": beam, "length_penalty": "power:1.0", "stopping": "first"}
    ours, theirs = (
        regard.load("zh-en", backend=name).translate(lines, **options) for name in ("regard", "ctranslate2")
    )
    for mine, other in zip(ours, theirs, strict=True):
        # The same hypothesis, or one that is as good: a tie.
        assert mine.text == other.text or mine.normalized == pytest.approx(other.normalized, abs=1e-4)
        assert mine.normalized == pytest.approx(other.normalized, abs=1e-4)


@pytest.mark.parametrize("ending", [2.0, 4.0, -30.0], ids=["seldom", "often", "never"])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_the_n_best_are_its_own_at_every_limit(ending: float, alpha: float) -> None:
    """At the longest output hypotheses are taken as they are, if they have ended or not."""
    one = loaded()
    bias = one.model.output_table()[1]
    bias.data[one.settings.ends[0]] += ending
    backend = build_backend("ctranslate2", one)
    generator = torch.Generator().manual_seed(1)
    sources = torch.randint(4, V, (24, 4), generator=generator).tolist()  # one length: one limit in both libraries
    ended = unended = 0
    for beam in range(1, 6):
        for limit in range(1, 9):
            search = Search(
                beam=beam, n_best=beam, length_penalty=LengthPenalty("power", alpha), max_extra=limit - 4,
                stopping="first",
            )  # fmt: skip
            ours = decode(one.model, sources, one.settings, search)
            for mine, theirs in zip(ours, backend(inputs_of(sources), search, 4096), strict=True):
                assert [h.ids for h in mine.hypotheses] == [h.ids for h in theirs.hypotheses]
                assert [h.at_limit for h in mine.hypotheses] == [h.at_limit for h in theirs.hypotheses]
                expected = [h.normalized for h in theirs.hypotheses]
                assert [h.normalized for h in mine.hypotheses] == pytest.approx(expected, abs=1e-4, rel=1e-5)
                ended += sum(not h.at_limit for h in mine.hypotheses)
                unended += sum(h.at_limit for h in mine.hypotheses)
    assert unended >= 20 and (ended >= 20 or ending < 0)


def test_without_a_length_penalty_its_best_is_ours() -> None:
    """With power:0 it ends a sentence earlier, when the best candidate ends, and its second need not be ours."""
    one = loaded()
    one.model.output_table()[1].data[one.settings.ends[0]] += 5.0
    backend = build_backend("ctranslate2", one)
    generator = torch.Generator().manual_seed(1)
    sources = torch.randint(4, V, (200, 4), generator=generator).tolist()
    differ = 0
    for limit in (4, 8, 12):
        search = Search(
            beam=5, n_best=3, length_penalty=LengthPenalty("power", 0.0), max_extra=limit - 4, stopping="first"
        )
        ours = decode(one.model, sources, one.settings, search)
        for mine, theirs in zip(ours, backend(inputs_of(sources), search, 4096), strict=True):
            assert mine.hypotheses[0].ids == theirs.hypotheses[0].ids
            differ += [h.ids for h in mine.hypotheses] != [h.ids for h in theirs.hypotheses]
    assert differ, "CTranslate2 ends all sentences when Hugging Face does: `first` need not choose between them"


@pytest.mark.parametrize("beam", [1, 4])
def test_prompts_languages_and_limits(beam: int) -> None:
    languages = {"fr": (20,), "de": (21, 22)}
    for settings in (
        TextSettings(languages=languages, source_before=(23,)),
        TextSettings(languages=languages, language_in="target"),
    ):
        one = of(loaded().model, settings)
        given = [[5, 6, 7], [8] * 9, [9, 10], [11, 12, 13, 14, 15, 16]]
        inputs = [
            Input(3 * i, source, prompt, language, most)
            for i, (source, prompt, language, most) in enumerate(
                zip(given, ([5], [], [6, 7, 8], [9]), ("fr", "de", "de", ""), (None, 3, 5, 5), strict=True)
            )
        ]
        search = Search(beam=beam, length_penalty=LengthPenalty.parse("power:1.0"), stopping="first", max_tokens=12)
        backend: Any = build_backend("ctranslate2", one)
        theirs, ours = backend(inputs, search, 4096), list(decode_inputs(one.model, inputs, settings, search))
        assert [result.index for result in theirs] == [result.index for result in ours] == [0, 3, 6, 9]
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.hypotheses[0].ids == other.hypotheses[0].ids
            # Both in fp32; the logits reach hundreds.
            assert mine.hypotheses[0].normalized == pytest.approx(other.hypotheses[0].normalized, abs=1e-4, rel=1e-5)
    with pytest.raises(RegardError, match="CTranslate2 tells no steps"):
        backend(inputs, search, 4096, print)


def test_int8_is_another_precision_of_the_same_model() -> None:
    lines = ["我爱机器学习。", "今天天气很好。", "你叫什么名字？"]
    found = regard.load("zh-en", backend="ctranslate2:int8").translate(lines, beam=1)
    assert all(one.text for one in found)


def test_pytorch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        regard.load("zh-en", backend="ctranslate2").translate("我爱机器学习。", length_penalty="power:1.0")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_models_and_searches_that_ctranslate2_lacks_are_refused() -> None:
    def refused(message: str) -> Any:
        return pytest.raises(RegardError, match=re.escape(message))

    with refused("give power:0.6 as length penalty"):
        regard.load("zh-en", backend="ctranslate2").translate("你好", beam=5)
    with refused("ctranslate2:int7: expected one of float32, int8"):
        regard.load("zh-en", backend="ctranslate2:int7")
    with refused("backend 'fast': expected regard, ctranslate2"):
        regard.load("zh-en", backend="fast")
    with refused("positions would have to be sinusoidal or learned"):
        build_backend("ctranslate2", loaded(positions=RelativeBias()))
    with refused("norm would have to be a layer norm with eps 1e-5"):
        build_backend("ctranslate2", loaded(norm=RMSNorm()))
    with refused("a post-norm stack may have no final norm"):
        build_backend("ctranslate2", loaded(final_norm=True))
    for changes, would in [
        ({"key_value_heads": 1}, "key_value_heads would have to be 0"),
        ({"head_width": 16}, "head_width would have to be 0"),
        ({"bias": "qkv"}, "bias would have to be True or False"),
        ({"scale": 1.0}, "scale would have to be None"),
        ({"query_key_norm": RMSNorm()}, "query_key_norm would have to be None"),
        ({"window": 4}, "window would have to be 0"),
        ({"embedding_norm": LayerNorm()}, "embedding_norm would have to be None"),
        ({"output_scale": 0.5}, "output_scale would have to be 1.0"),
        ({"positions": Learned(80, offset=2)}, "offset would have to be 0"),
    ]:
        with refused(would):
            build_backend("ctranslate2", loaded(**changes))
    build_backend("ctranslate2", loaded(key_value_heads=2, head_width=8))  # what they would be if not given
    with refused("architecture transformer only"):
        build_backend("ctranslate2", of(RNN(width=16).build(V)))


@dataclass(frozen=True, kw_only=True)
class Another(Transformer):
    """An architecture that takes the Transformer's options, and whose attention may be anything."""


class AnotherAttention(MultiHeadAttention):
    """Something else under the same names."""


def test_what_only_looks_like_a_transformer_is_refused() -> None:
    with pytest.raises(RegardError, match="architecture transformer only"):
        build_backend("ctranslate2", of(Another(**SHAPE).build(V)))
    changed = loaded()
    layer = changed.model.decoder.layers[0]
    layer.self_attention = AnotherAttention(layer.spec.attention, 16)
    with pytest.raises(RegardError, match="self_attention would have to be MultiHeadAttention"):
        build_backend("ctranslate2", changed)
