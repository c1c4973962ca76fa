"""A prepared model computes what its model computes, leaves it as it is, and knows when it is out of date."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.accel import int8, native
from regard.accel.int8 import Int8Linear
from regard.accel.linear import available
from regard.accel.prepacked import PrepackedLinear
from regard.accel.prepared import Prepared, prepare, quantize
from regard.accel.stack import CompiledStack
from regard.accel.thresholds import PREPACKED_INPUTS
from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.decoding.waiting import inputs_of
from regard.errors import RegardError
from regard.models.base import Share
from regard.models.rnn import RNN
from regard.models.transformer import EncoderDecoder, Transformer
from regard.nn.sequences import Tokens
from regard.text.settings import TextSettings

SETTINGS = TextSettings()
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


@pytest.fixture(params=list(PRECISIONS))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found = PRECISIONS[request.param]
    if found == torch.bfloat16 and not available(found):
        pytest.skip("this processor does not multiply bf16")
    if found == torch.int8 and not int8.available():
        pytest.skip("PyTorch has no integer products here")
    return found


def build(share: Share = "all", **options: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        "width": PREPACKED_INPUTS,
        "heads": 4,
        "feedforward": 512,
        "encoder_layers": 1,
        "decoder_layers": 2,
        **options,
    }
    return Transformer(share=share, **shape).build(60).eval()


def sentences() -> list[list[int]]:
    torch.manual_seed(1)
    return [torch.randint(4, 60, (int(n),)).tolist() for n in torch.randint(1, 12, (30,))]


def hidden_of(model: Any) -> Tensor:
    torch.manual_seed(1)
    source, target = (Tokens(torch.randint(4, 60, (3, n)), torch.full((3,), n)) for n in (7, 5))
    found: Tensor = model(target, model.encode(source)).hidden
    return found


def logits_of(model: Any) -> Tensor:
    found: Tensor = model.logits(hidden_of(model))
    return found.float()


@pytest.mark.parametrize("share", ["all", "none"])
@torch.inference_mode()
def test_the_same_logits_and_the_model_left_as_it_was(dtype: torch.dtype, share: Share) -> None:
    model = build(share, output_bias=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = list(model.parameters())
    expected = logits_of(model)
    prepared = prepare(model, dtype)
    difference = (logits_of(prepared) - expected).abs().max() / expected.abs().max()
    # In bf16 an intermediate number may be rounded to its neighbour, 2⁻⁸ away, in each of three layers.
    assert difference < {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.int8: 0.1}[dtype]
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(logits_of(model), expected)
    assert not prepared.training and prepared.is_current(model)


@torch.inference_mode()
def test_tables_are_shared_and_weights_can_be_read() -> None:
    for share in ("all", "none"):
        model = build(share)  # type: ignore[arg-type]
        prepared = prepare(model)
        assert prepared.output_table()[0] is model.output_table()[0]
        assert prepared.source_embedding.table.weight is model.source_embedding.table.weight
        assert prepared.width == model.width and prepared.longest == model.longest and prepared.has_source
        if native.library() is not None:
            assert type(prepared.decoder) is CompiledStack and type(prepared.output_layer) is PrepackedLinear
            inner = prepared.decoder.stack.layers[1].feedforward.input
            assert torch.equal(inner.weight, model.decoder.layers[1].feedforward.input.weight)


@torch.inference_mode()
def test_int8_is_what_the_layers_make_it() -> None:
    """A copy with its layers replaced by hand and the rest cast, and the compiled stack of that, to the last bit."""
    if not int8.available():
        pytest.skip("PyTorch has no integer products here")
    model = build()
    byhand = copy.deepcopy(model)
    output = Int8Linear(*byhand.output_table(), torch.float32)
    int8.in_int8(byhand.encoder)
    int8.in_int8(byhand.decoder)
    if available(torch.bfloat16):
        byhand.bfloat16()
    quantised = quantize(model)
    assert torch.equal(hidden_of(quantised), hidden_of(byhand))
    assert torch.equal(logits_of(quantised), output(hidden_of(byhand)))
    one, other = prepare(quantised), prepare(model, torch.int8)
    assert torch.equal(logits_of(one), logits_of(other))
    assert one.output_layer is quantised.output_layer, "what is quantised already is shared"
    assert other.is_current(model) and one.is_current(quantised)
    if native.library() is not None:
        assert other.cache_dtype == torch.bfloat16


@pytest.mark.parametrize("beam", [1, 3])
def test_text_is_decoded_as_by_the_model(dtype: torch.dtype, beam: int) -> None:
    model = build()
    plain = quantize(model) if dtype == torch.int8 else copy.deepcopy(model).to(dtype)
    search = Search(beam=beam, max_extra=4)
    expected, found = (list(decode(m, sentences(), SETTINGS, search)) for m in (plain, prepare(plain)))
    # Of a model that has learnt nothing many outputs are nearly as good as the best: scores are compared, and in fp32
    # the outputs too.
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for one, other in zip(expected, found, strict=True):
        assert one.hypotheses[0].normalized == pytest.approx(other.hypotheses[0].normalized, rel=tolerance)
        assert dtype != torch.float32 or one.hypotheses[0].ids == other.hypotheses[0].ids


@torch.inference_mode()
def test_topk_is_that_of_the_logits(dtype: torch.dtype) -> None:
    prepared = prepare(build(), dtype)
    hidden = torch.randn(4, 2, PREPACKED_INPUTS)
    suppressed = torch.tensor([0, 7])
    found = prepared.topk(hidden, 5, torch.tensor([3]), suppressed)
    expected = prepared.logits(hidden).float().log_softmax(-1)
    torch.testing.assert_close(found.ends, expected[..., 3:4], rtol=1e-4, atol=1e-4)
    expected[..., suppressed] = -torch.inf
    values, tokens = expected.topk(5)
    torch.testing.assert_close(found.values, values, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.tokens, tokens)


def test_a_preparation_is_out_of_date_when_weights_have_changed() -> None:
    model = build()
    prepared = prepare(model)
    assert prepared.is_current(model)
    with torch.no_grad():
        model.decoder.layers[0].feedforward.output.weight.mul_(0.5)
    assert not prepared.is_current(model) and prepare(model).is_current(model)
    assert not prepared.is_current(build())


def test_a_prepared_model_is_made_once_and_does_not_learn() -> None:
    prepared = prepare(build())
    assert prepare(prepared) is prepared
    with pytest.raises(RuntimeError, match="inference"):
        prepared.train()


def test_an_engine_makes_an_outdated_preparation_anew() -> None:
    translator = regard.load("zh-en")
    engine: Any = translator.backend
    search, sources = translator.search(beam=1), inputs_of([[5, 6]] * 600)
    first = engine.prepared(sources, search)
    assert isinstance(first, Prepared) and engine.prepared(sources, search) is first
    with torch.no_grad():
        translator.model.output_table()[0].mul_(0.5)
    assert engine.prepared(sources, search) is not first


class Sharpened(EncoderDecoder):
    """A model that makes its logits in another way, and holds a layer of its own."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.mix = nn.Bilinear(self.width, self.width, self.width)

    def logits(self, hidden: Tensor, candidates: Tensor | None = None) -> Tensor:
        mixed = hidden + self.mix(hidden.to(self.mix.weight.dtype), hidden.to(self.mix.weight.dtype))
        return 3 * super().logits(mixed, candidates)


@torch.inference_mode()
def test_unknown_modules_stay_as_they_are(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Sharpened(Transformer(width=64, heads=4, feedforward=96).tree(), 64, 60, 60).eval()
    prepared = prepare(model, dtype)
    assert prepared.output_layer is None
    expected, found = logits_of(model), logits_of(prepared)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.int8: 0.2}[dtype]
    assert (found - expected).abs().max() < tolerance * expected.abs().max()
    topk = prepared.topk(torch.randn(2, 1, 64), 3, torch.tensor([3]))
    assert topk.tokens.shape == (2, 1, 3)


@torch.inference_mode()
def test_a_recurrent_model_is_prepared_too(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = RNN(width=64, encoder_layers=1, decoder_layers=1).build(60).eval()
    expected, found = logits_of(model), logits_of(prepare(model, dtype))
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.int8: 0.1}[dtype]
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_bf16_without_products_in_bf16_is_the_plain_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is packed there, so that nothing may be cast beside it."""
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr("regard.accel.prepacked.available", lambda dtype: False)
    model = build().bfloat16()
    with torch.inference_mode():
        assert torch.equal(logits_of(prepare(model)), logits_of(model))


def test_int8_is_refused_elsewhere_before_a_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("cuda", "cpu"):
        with pytest.raises(RegardError, match=f"int8 is for CPUs .* the device is '{device}': use bf16"):
            regard.load("no-such-model", device=device, dtype=torch.int8)
        monkeypatch.setattr(int8, "available", lambda: False)
